use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderMap;

use super::super::counts::Ledger;
use super::super::destination::{Compression, Protocol, Signal, TlsFiles};
use super::*;

fn route(signal: Signal) -> Route {
    Route {
        signal,
        endpoint: "http://a/v1/traces".parse().unwrap(),
        headers: HeaderMap::new(),
        protocol: Protocol::HttpProtobuf,
        compression: Compression::None,
        timeout: Duration::from_secs(1),
        tls: TlsFiles::default(),
    }
}

fn body(mebibytes: usize) -> Bytes {
    Bytes::from(vec![7; mebibytes << 20])
}

/// A depot with so many queues, and what they count.
fn depot(run: Option<PathBuf>, queues: usize) -> (Arc<Depot>, Vec<Queue>, Ledger) {
    let mut ledger = Ledger::default();
    let depot = Arc::new(Depot::new(run, || None));
    let queues = (0..queues)
        .map(|_| {
            depot.queue(
                "otlp",
                &route(Signal::Traces),
                &ledger.add("otlp", true).spans,
            )
        })
        .collect();
    depot.open();
    for _ in 0..100 {
        ledger.finished();
    }
    (depot, queues, ledger)
}

fn dropped(ledger: &Ledger) -> Vec<u64> {
    let rows = ledger.report().destinations.into_iter();
    rows.map(|row| row.dropped).collect()
}

fn files(run: &std::path::Path) -> usize {
    std::fs::read_dir(run.join("spool")).unwrap().count() - 1
}

#[tokio::test]
async fn a_full_queue_drops_the_oldest_and_counts_them() {
    let (_, queues, ledger) = depot(None, 1);
    let queue = &queues[0];
    for items in 1..=4 {
        queue.push(body(2), items);
    }
    assert_eq!(
        queue.next().await.map(|parcel| parcel.items),
        Some(1),
        "in flight"
    );
    queue.push(body(3), 5);
    assert_eq!(dropped(&ledger), [2 + 3]);
    queue.push(body(9), 6);
    assert_eq!(dropped(&ledger), [2 + 3 + 4 + 5 + 6]);

    queue.settle();
    queue.push(body(8), 7);
    queue.close();
    assert_eq!(queue.next().await.map(|parcel| parcel.items), Some(7));
    assert!(queue.next().await.is_none());
}

#[tokio::test]
async fn all_queues_share_one_memory_and_the_fullest_pays() {
    let (_, queues, ledger) = depot(None, 3);
    queues[0].push(body(1), 1);
    queues[1].push(body(2), 2);
    queues[1].push(body(3), 3);
    queues[2].push(body(2), 4);
    assert_eq!(dropped(&ledger), [0, 0, 0]);
    queues[2].push(body(1), 5);
    assert_eq!(dropped(&ledger), [0, 2, 0]);
}

#[tokio::test]
async fn what_waits_is_on_disk_and_comes_back_as_it_was() {
    let run = tempfile::tempdir().unwrap();
    let (depot, queues, ledger) = depot(Some(run.path().to_owned()), 1);
    let queue = &queues[0];
    for number in 0..20_u8 {
        queue.push(Bytes::from(vec![number; 1 << 20]), 1);
    }
    assert_eq!(files(run.path()), 20);
    assert!(
        depot.stock().memory() <= ROUTE_CACHE_BYTES,
        "twenty mebibytes wait on disk alone"
    );
    assert_eq!(ledger.report().destinations[0].spooled, 20);
    for number in 0..20_u8 {
        queue.next().await.unwrap();
        assert_eq!(queue.body().unwrap(), vec![number; 1 << 20]);
        queue.settle();
        assert_eq!(files(run.path()), 19 - usize::from(number));
    }
    let report = ledger.report();
    assert_eq!(report.destinations[0].spooled, 0);
    depot.finish();
    assert!(!run.path().join("spool").exists(), "an empty spool goes");
}

/// What is kept of all queues, against what is in them.
#[track_caller]
fn assert_sums(depot: &Depot) {
    for shelf in &depot.stock().shelves {
        let requests = shelf.parked.iter().chain(&shelf.waiting);
        let requests = requests.chain(&shelf.in_flight);
        let (memory, disk): (Vec<_>, Vec<_>) = requests.map(|it| (it.memory(), it.disk())).unzip();
        assert_eq!(shelf.memory, memory.iter().sum::<usize>());
        assert_eq!(shelf.disk, disk.iter().sum::<u64>());
    }
}

#[tokio::test]
async fn what_all_take_is_known_whatever_becomes_of_them() {
    let run = tempfile::tempdir().unwrap();
    for run in [Some(run.path().to_owned()), None] {
        let (depot, queues, _) = depot(run, 2);
        depot.stock().disk_cap = 20 << 20;
        for number in 0..200 {
            let queue = &queues[number % 2];
            match number * 7 % 11 {
                0 if depot.stock().shelves[number % 2].in_flight.is_some() => queue.settle(),
                1 => queue.revive(),
                2 => drop(queue.park()),
                3 | 4 => {
                    let waiting = !depot.stock().shelves[number % 2].waiting.is_empty();
                    let free = depot.stock().shelves[number % 2].in_flight.is_none();
                    if waiting && free {
                        queue.next().await.unwrap();
                    }
                }
                _ => queue.push(Bytes::from(vec![7; number << 12]), 1),
            }
            assert_sums(&depot);
        }
        queues[0].not_sampled();
        queues[1].switch_off("why not");
        assert_sums(&depot);
    }
}

#[tokio::test]
async fn of_a_queue_that_nobody_empties_only_the_first_are_in_memory() {
    let run = tempfile::tempdir().unwrap();
    let (depot, queues, _) = depot(Some(run.path().to_owned()), 1);
    for _ in 0..1_000 {
        queues[0].push(Bytes::from(vec![7; 100]), 1);
    }
    assert_eq!(depot.stock().memory(), 100 * ROUTE_CACHE_REQUESTS);
    assert_sums(&depot);
}

#[tokio::test]
async fn a_full_spool_costs_the_fullest_queue_its_oldest() {
    let run = tempfile::tempdir().unwrap();
    let (depot, queues, ledger) = depot(Some(run.path().to_owned()), 2);
    depot.stock().disk_cap = 10 << 20;
    queues[0].push(body(2), 1);
    for items in 2..=4 {
        queues[1].push(body(2), items);
    }
    queues[0].push(body(2), 5);
    assert_eq!(dropped(&ledger), [0, 2]);
    let report = ledger.report();
    let reason = report.destinations[1].last_error.as_deref();
    assert!(reason.unwrap().contains("spool is full"), "{reason:?}");
    assert_eq!(files(run.path()), 4, "one was removed for the newest");
}

#[tokio::test]
async fn a_request_that_was_altered_on_disk_is_not_sent() {
    let run = tempfile::tempdir().unwrap();
    let (_, queues, _) = depot(Some(run.path().to_owned()), 1);
    queues[0].push(body(2), 1);
    let file = run.path().join("spool/0000000001.otlp");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    queues[0].next().await.unwrap();
    let error = queues[0].body().unwrap_err();
    assert!(error.contains("altered"), "{error}");
}

#[tokio::test]
async fn where_no_spool_can_be_made_memory_is_used_and_it_is_told_once() {
    let run = tempfile::tempdir().unwrap();
    let (_, queues, ledger) = depot(Some(run.path().join("gone")), 1);
    queues[0].push(body(1), 1);
    assert_eq!(queues[0].next().await.unwrap().items, 1);
    assert_eq!(queues[0].body().unwrap(), body(1));
    let report = ledger.report();
    let told = report.destinations[0].last_error.as_deref().unwrap();
    assert!(told.contains("memory alone"), "{told}");
    assert_eq!(report.destinations[0].spooled, 0);
}

#[tokio::test]
async fn what_is_held_waits_and_is_then_sent_or_forgotten() {
    let run = tempfile::tempdir().unwrap();
    let (_, queues, ledger) = depot(Some(run.path().to_owned()), 2);
    for queue in &queues {
        queue.hold();
        queue.push(body(1), 3);
        let waiting = tokio::time::timeout(Duration::from_millis(20), queue.next()).await;
        assert!(waiting.is_err(), "the door is shut");
    }
    queues[0].open();
    assert_eq!(queues[0].next().await.unwrap().items, 3);
    queues[1].not_sampled();
    assert_eq!(queues[1].door(), Door::NotSampled);
    assert_eq!(files(run.path()), 1);
    let report = ledger.report();
    let not_sampled: Vec<_> = report
        .destinations
        .iter()
        .map(|row| row.not_sampled)
        .collect();
    assert_eq!(not_sampled, [0, 3]);
}

#[tokio::test]
async fn what_was_given_up_has_one_more_chance() {
    let run = tempfile::tempdir().unwrap();
    let (_, queues, ledger) = depot(Some(run.path().to_owned()), 1);
    let queue = &queues[0];
    queue.push(body(1), 1);
    assert_eq!(queue.next().await.unwrap().tries, TRIES);
    assert!(queue.park());
    queue.revive();
    assert_eq!(queue.next().await.unwrap().tries, 1);
    assert_eq!(queue.body().unwrap(), body(1));
    assert!(queue.park());
    queue.revive();
    queue.close();
    assert!(queue.next().await.is_none(), "it is the next run's");
    let report = ledger.report();
    assert_eq!(
        (
            report.destinations[0].dropped,
            report.destinations[0].spooled
        ),
        (0, 1)
    );
    assert_eq!(files(run.path()), 1);
}

#[tokio::test]
async fn without_a_spool_what_is_given_up_is_lost() {
    let (_, queues, _) = depot(None, 1);
    queues[0].push(body(1), 1);
    queues[0].next().await.unwrap();
    assert!(!queues[0].park());
}

#[tokio::test]
async fn a_copy_forgets_what_waits_before_it_sends_anything() {
    static COPIED: AtomicBool = AtomicBool::new(false);
    let ask = || {
        let is_copy = COPIED.load(Ordering::Relaxed);
        Some(if is_copy { "copy" } else { "original" }.to_owned())
    };
    let run = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    let depot = Arc::new(Depot::new(Some(run.path().to_owned()), ask));
    let [one, other] = [(); 2].map(|()| {
        let counts = ledger.add("otlp", true).spans;
        depot.queue("otlp", &route(Signal::Traces), &counts)
    });
    depot.open();
    for items in [1, 2, 4] {
        one.push(body(0), items);
    }
    other.push(body(0), 8);
    assert_eq!(one.next().await.map(|parcel| parcel.items), Some(1));
    one.body().unwrap();
    assert_eq!(one.door(), Door::Open);

    COPIED.store(true, Ordering::Relaxed);
    // Before its first try, or the next, it is noticed.
    one.body().unwrap_err();
    assert!(!one.park(), "it is not kept for the next run either");
    assert_eq!(dropped(&ledger), [2 + 4, 8]);
    assert_eq!(files(run.path()), 0);
    assert_eq!(one.door(), Door::Copied);
    assert!(depot.is_copy());

    depot.copied();
    depot.settle();
    assert!(!depot.is_copy());
    assert_eq!(one.door(), Door::Open);
    one.push(body(0), 16);
    assert_eq!(one.next().await.map(|parcel| parcel.items), Some(16));
    one.body().unwrap();
    assert!(one.park());
    let name = run.path().join("spool/0000000005.otlp");
    let text = String::from_utf8(std::fs::read(name).unwrap()).unwrap();
    assert!(text.contains("\"sandbox\":\"copy\""), "{text}");
    assert_eq!(dropped(&ledger), [2 + 4, 8]);
}
