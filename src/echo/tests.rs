use std::io::Read as _;

use super::*;

/// A pipe whose reader is the test.
fn pipe() -> (File, Echo) {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    (File::from(reader), Echo::start(File::from(writer)).unwrap())
}

#[tokio::test]
async fn what_cannot_be_read_back_is_counted_and_passed_over() {
    let (mut host, echo) = pipe();
    let journal = Arc::new(tempfile::tempfile().unwrap());
    journal.write_all_at(b"{\"n\":1}\n{\"n\":2}", 0).unwrap();
    {
        // By reference, as if the ring were full; the file has less than was promised.
        let mut ring = echo.shared.ring();
        ring.items.push_back(Item::Journal {
            file: Arc::clone(&journal),
            from: 0,
            to: 100,
        });
    }
    echo.push(b"{\"n\":3}\n");
    let read = thread::spawn(move || {
        let mut text = String::new();
        host.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(echo.finish().await, Delivery::Torn);
    assert_eq!(read.join().unwrap(), "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
}

#[tokio::test]
async fn a_host_that_reads_slowly_is_reading() {
    let (mut host, echo) = pipe();
    echo.push(&[b'x'; 100_000]);
    // A page each 1.2 s for 7.2 s, longer than the patience with one that reads nothing, then all.
    let read = thread::spawn(move || {
        let mut page = [0; 4096];
        let mut total = 0;
        for _ in 0..6 {
            thread::sleep(Duration::from_millis(1200));
            total += host.read(&mut page).unwrap();
        }
        while let Ok(length @ 1..) = host.read(&mut page) {
            total += length;
        }
        total
    });
    assert_eq!(echo.finish().await, Delivery::Complete);
    assert_eq!(read.join().unwrap(), 100_000);
}
