//! The fake envd breaks as it is told to, and not otherwise.

use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::fake_envd::{Cuts, Ending, FakeEnvd};
use crate::raw::{Request, poll, run};

/// What a stream of this command is, without a fault, but for the pid.
const COMMAND: &str = "echo hello";

#[test]
fn a_stream_is_cut_after_any_byte() {
    let fake = FakeEnvd::start();
    let whole = Request::start(COMMAND).whole(&fake).body.len();
    fake.faults(|faults| faults.cuts = Cuts::next((0..whole as u64).rev()));
    for after in (0..whole).rev() {
        let answer = Request::start(COMMAND).send(&fake).unwrap();
        let (bytes, end) = answer.rest();
        // A pid of fewer digits makes a stream of fewer bytes, which the cut may then not meet.
        if end.is_ok() {
            assert!(after + 6 >= whole, "{after} of {whole}");
            continue;
        }
        assert_eq!(bytes.len(), after);
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
    assert!(
        Request::start(COMMAND)
            .send(&fake)
            .unwrap()
            .rest()
            .1
            .is_ok()
    );
    // Here, in the message of the second envelope.
    fake.faults(|faults| faults.cuts = Cuts::Every(60));
    for _ in 0..3 {
        let (bytes, end) = Request::start(COMMAND).send(&fake).unwrap().rest();
        assert_eq!((bytes.len(), end.is_err()), (60, true));
    }
}

#[test]
fn a_cut_can_be_a_reset_and_random() {
    let fake = FakeEnvd::start();
    fake.faults(|faults| {
        faults.cuts = Cuts::Random { seed: 7, limit: 60 };
        faults.ending = Ending::Reset;
    });
    let mut lengths = Vec::new();
    for _ in 0..10 {
        let mut answer = match Request::start("echo; sleep 1000").send(&fake) {
            Ok(answer) => answer,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                continue;
            }
        };
        let error = loop {
            match answer.piece() {
                Ok(Some(piece)) => lengths.push(piece.len()),
                Ok(None) => panic!("nothing was cut"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    // The processes live on, for nobody has told them anything.
    assert!(fake.processes().len() >= 10, "{:?}", fake.processes());
}

#[test]
fn what_is_sent_in_random_pieces_is_the_same() {
    let fake = FakeEnvd::start();
    fake.faults(|faults| faults.pieces = Some(42));
    let output = run(&fake, "seq 20000; echo warning >&2");
    let expected: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert!(output.stdout == expected);
    assert_eq!(output.stderr, "warning\n");
    assert!(output.chunks.iter().any(|size| *size < 100), "small reads");
    assert!(output.chunks.iter().any(|size| *size > 1000), "big reads");
}

#[test]
fn connections_are_refused_ignored_and_delayed() {
    let fake = FakeEnvd::start();
    fake.faults(|faults| faults.refuse_connections = 2);
    for _ in 0..2 {
        let refused = Request::new("GET", "/health").send(&fake);
        assert!(refused.is_err(), "it was to be refused");
    }
    assert_eq!(Request::new("GET", "/health").whole(&fake).status, 204);
    fake.faults(|faults| faults.black_holes = 1);
    let mut ignored = std::net::TcpStream::connect(fake.address()).unwrap();
    ignored.write_all(b"GET /health HTTP/1.1\r\n\r\n").unwrap();
    ignored
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let error = ignored.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    fake.faults(|faults| faults.delay_connections = Duration::from_millis(300));
    let began = Instant::now();
    assert_eq!(Request::new("GET", "/health").whole(&fake).status, 204);
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[test]
fn the_edge_fails_as_often_as_it_is_told_to() {
    let fake = FakeEnvd::start();
    fake.faults(|faults| faults.proxy_errors = 1);
    let whole = Request::start(COMMAND).whole(&fake);
    assert_eq!((whole.status, &whole.json()["code"]), (502, &json!(502)));
    assert!(fake.processes().is_empty());
    assert_eq!(run(&fake, COMMAND).stdout, "hello\n");
}

#[test]
fn a_start_whose_answer_is_lost_has_started() {
    let fake = FakeEnvd::start();
    fake.faults(|faults| faults.lose_starts = 1);
    assert!(Request::start("exec sleep 1000").send(&fake).is_err());
    assert_eq!(fake.seen_at("/process.Process/Start").len(), 1);
    // The login shell may have a helper of its own first.
    poll("the command alone", || {
        (fake.processes().len() == 1).then_some(())
    });
}

#[test]
fn a_stalled_stream_says_no_more_and_holds_the_process_back() {
    let fake = FakeEnvd::start();
    fake.faults(|faults| faults.stall_next_after = Some(100));
    let command = "head -c 64000000 /dev/zero | tr '\\0' x; echo 1 >$HOME/done";
    let mut stalled = Request::start(command).send(&fake).unwrap();
    let pid = stalled.pid();
    let mut other = Request::connect(pid).send(&fake).unwrap();
    other.pid();
    // More than the pipes and the buffers hold does not get past the ghost.
    let waited = Instant::now();
    while waited.elapsed() < Duration::from_secs(1) {
        assert!(!fake.home().join("done").exists());
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(stalled);
    let output = other.output();
    assert!(output.stdout.len() > 60_000_000);
    poll("the end", || {
        fake.home().join("done").exists().then_some(())
    });
}

#[test]
fn every_request_is_on_record() {
    let fake = FakeEnvd::start();
    let mut answer = Request::start(COMMAND)
        .header("keepalive-ping-interval", 50)
        .send(&fake)
        .unwrap();
    answer.pid();
    let seen = fake.seen_at("/process.Process/Start").remove(0);
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.headers["keepalive-ping-interval"], "50");
    assert_eq!(seen.message["process"]["cmd"], "/bin/bash");
}
