//! Sends what earlier runs have left in their spools.
//!
//! Each request goes to the destination of the same name, signal, protocol and address, with this configuration's
//! headers and the very bytes of then. Each has one try, and the first that fails ends it for this destination. Within a
//! run this is done beside the run's own requests: on connections of its own, only while its queue is idle, and never
//! longer than the run. Whoever sends holds the lock of the spool, so two runs never send the same.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};

use super::counts::Counts;
use super::queue::Queue;
use super::retry::Verdict;
use super::sender::Link;
use super::spool::left::{Access, Found, FoundError, find};
use super::spool::{Address, Header};

/// The most bytes that one run sends for others.
const MOST_BYTES: u64 = 64 << 20;

/// The most bytes of all spools below a root; the oldest requests go first.
const ROOT_CAP_BYTES: u64 = 256 << 20;

/// How many files are read before others have their turn.
const AT_ONCE: usize = 64;

/// Somebody to send to.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) link: Link,
    /// Its own requests come first.
    pub(super) own: Option<Queue>,
    pub(super) counts: Arc<Counts>,
}

/// What was done about the spools of earlier runs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ResendReport {
    /// Those of this configuration for which something was there.
    pub destinations: Vec<Resent>,
    /// What is for nobody in this configuration.
    pub others: Vec<Waiting>,
    /// Files that were torn or altered, and are gone.
    pub damaged: u64,
    /// Requests that are gone because all spools together were too large.
    pub over_cap: u64,
    /// Spools in use by a run that goes on, or by somebody else who resends.
    pub in_use: u64,
}

/// What was done for one destination and signal; counts of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resent {
    pub destination: String,
    /// `traces`, `metrics` or `logs`.
    pub signal: String,
    pub sent: u64,
    /// Never to be taken, and gone.
    pub refused: u64,
    /// Still there.
    pub left: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// What waits in spools for one destination and signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub destination: String,
    /// `traces`, `metrics` or `logs`.
    pub signal: String,
    /// Without query and credentials.
    pub endpoint: String,
    pub requests: u64,
    /// On disk.
    pub bytes: u64,
    /// When the oldest was written.
    pub oldest: SystemTime,
}

/// What is in the spools below a journal's root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    pub waiting: Vec<Waiting>,
    /// Files that are torn or altered, as far as their first lines tell.
    pub damaged: u64,
    /// Spools in use, which were not looked into.
    pub in_use: u64,
}

/// Looks, and changes nothing.
#[must_use]
pub fn inventory(root: &Path) -> Inventory {
    let left = find(root, Access::Look);
    let mut inventory = Inventory {
        in_use: left.in_use,
        ..Inventory::default()
    };
    let mut waiting = Tally::default();
    for found in &left.requests {
        match found.header() {
            Ok(header) => waiting.add(&header.address, found),
            Err(FoundError::Damage(_)) => inventory.damaged += 1,
            Err(FoundError::Read(_)) => {}
        }
    }
    inventory.waiting = waiting.0;
    inventory
}

#[derive(Debug, Default)]
struct Tally(Vec<Waiting>);

impl Tally {
    fn add(&mut self, address: &Address, found: &Found) {
        let same = self.0.iter_mut().find(|waiting| {
            waiting.destination == address.destination
                && waiting.signal == address.signal()
                && waiting.endpoint == address.endpoint
        });
        match same {
            Some(waiting) => {
                waiting.requests += 1;
                waiting.bytes += found.bytes;
                waiting.oldest = waiting.oldest.min(found.written);
            }
            None => self.0.push(Waiting {
                destination: address.destination.clone(),
                signal: address.signal().to_owned(),
                endpoint: address.endpoint.clone(),
                requests: 1,
                bytes: found.bytes,
                oldest: found.written,
            }),
        }
    }
}

/// Sends all that is below `root` for these targets. Once `draining` turns true nothing more is begun.
pub(super) async fn resend(
    root: PathBuf,
    targets: Vec<Target>,
    draining: watch::Receiver<bool>,
) -> ResendReport {
    let mut report = ResendReport::default();
    let mut left = find(&root, Access::Alone);
    report.in_use = left.in_use;
    report.over_cap = trim(&mut left.requests, ROOT_CAP_BYTES);
    if report.over_cap > 0 {
        for target in &targets {
            target.counts.error(&format!(
                "the spools of earlier runs held more than 256 MiB: the {} oldest requests are gone",
                report.over_cap
            ));
        }
    }
    let mut for_target: HashMap<Address, VecDeque<Found>> = targets
        .iter()
        .map(|target| (target.address.clone(), VecDeque::new()))
        .collect();
    let mut others = Tally::default();
    let mut bytes = 0;
    for (number, found) in left.requests.into_iter().enumerate() {
        if number % AT_ONCE == AT_ONCE - 1 {
            yield_now().await;
        }
        match found.header() {
            Ok(Header { address, .. }) => match for_target.get_mut(&address) {
                Some(requests) if bytes + found.bytes <= MOST_BYTES => {
                    bytes += found.bytes;
                    requests.push_back(found);
                }
                Some(_) => {}
                None => others.add(&address, &found),
            },
            Err(FoundError::Damage(damage)) => {
                report.damaged += 1;
                discard(&found, damage, &targets);
            }
            // It is gone, or the disk fails: the next run may know more.
            Err(FoundError::Read(_)) => {}
        }
    }
    report.others = others.0;
    let mut tasks = JoinSet::new();
    for target in targets {
        let Some(requests) = for_target.remove(&target.address) else {
            continue;
        };
        if !requests.is_empty() {
            tasks.spawn(target.send(requests, draining.clone()));
        }
    }
    while let Some(done) = tasks.join_next().await {
        if let Ok((resent, damaged)) = done {
            report.damaged += damaged;
            report.destinations.push(resent);
        }
    }
    report
}

/// Removes the oldest requests until all of them together fit, and says how many.
fn trim(requests: &mut Vec<Found>, cap: u64) -> u64 {
    let mut total: u64 = requests.iter().map(|found| found.bytes).sum();
    let mut gone = 0;
    for found in requests.iter() {
        if total <= cap {
            break;
        }
        total -= found.bytes;
        // What cannot be removed is not sent either, or it would be sent by every run.
        found.remove().ok();
        gone += 1;
    }
    requests.drain(..gone);
    gone as u64
}

fn discard(found: &Found, damage: impl fmt::Display, targets: &[Target]) {
    let kept = found.remove().err();
    let kept = kept.map_or(String::new(), |error| {
        format!(", and it cannot be removed: {error}")
    });
    for target in targets {
        target.counts.error(&format!(
            "a request of an earlier run is not sent: {damage}{kept}"
        ));
    }
}

impl Target {
    async fn send(
        mut self,
        mut requests: VecDeque<Found>,
        mut draining: watch::Receiver<bool>,
    ) -> (Resent, u64) {
        let mut damaged = 0;
        let mut resent = Resent {
            destination: self.address.destination.clone(),
            signal: self.address.signal().to_owned(),
            sent: 0,
            refused: 0,
            left: 0,
            last_error: None,
        };
        while let Some(found) = requests.pop_front() {
            if !self.may_send(&mut draining).await {
                requests.push_front(found);
                break;
            }
            let body = match found.read() {
                Ok((header, body)) if header.address == self.address => body,
                Ok(_) | Err(FoundError::Damage(_)) => {
                    damaged += 1;
                    discard(
                        &found,
                        "it is torn or was altered",
                        std::slice::from_ref(&self),
                    );
                    continue;
                }
                // Somebody removed it.
                Err(FoundError::Read(_)) => continue,
            };
            let error = match self.link.post(body).await {
                Ok(answer) => match answer.verdict {
                    Verdict::Delivered => {
                        let removed = found.remove();
                        resent.sent += 1;
                        self.counts.resent();
                        match removed {
                            Ok(()) => continue,
                            // What comes behind would be sent twice as well.
                            Err(error) => {
                                let error = format!(
                                    "a request of an earlier run cannot be removed, and may be sent again: {error}"
                                );
                                self.counts.error(&error);
                                error
                            }
                        }
                    }
                    Verdict::Refused | Verdict::Unsupported => {
                        found.remove().ok();
                        resent.refused += 1;
                        let error = format!("refused: {}", answer.told);
                        self.counts
                            .error(&format!("a request of an earlier run was {error}"));
                        resent.last_error = Some(error);
                        continue;
                    }
                    Verdict::Retry { .. } => answer.told,
                },
                Err(error) => error.to_string(),
            };
            // Of the run's own requests more is known.
            if self.own.is_none() {
                self.counts.error(&error);
            }
            resent.last_error = Some(error);
            requests.push_front(found);
            break;
        }
        resent.left = requests.len() as u64;
        (resent, damaged)
    }

    /// Waits for this destination's own queue; `false` once the run comes to its end.
    async fn may_send(&self, draining: &mut watch::Receiver<bool>) -> bool {
        if let Some(own) = &self.own {
            tokio::select! {
                () = own.idle() => {}
                _ = draining.wait_for(|draining| *draining) => {}
            }
        }
        !*draining.borrow()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::HeaderMap;

    use super::super::destination::{Compression, Protocol, Route, Signal, TlsFiles};
    use super::super::queue::Depot;
    use super::*;

    fn route() -> Route {
        Route {
            signal: Signal::Traces,
            endpoint: "http://127.0.0.1:1/v1/traces?token=hush".parse().unwrap(),
            headers: HeaderMap::new(),
            protocol: Protocol::HttpProtobuf,
            compression: Compression::None,
            timeout: Duration::from_secs(1),
            tls: TlsFiles::default(),
        }
    }

    /// A run that leaves requests of these sizes.
    fn leave(root: &Path, run: &str, sizes: &[usize]) {
        let run = root.join(run);
        std::fs::create_dir(&run).unwrap();
        let depot = Arc::new(Depot::new(Some(run)));
        let queue = depot.queue("otlp", &route(), &Arc::default());
        depot.open();
        for size in sizes {
            queue.push(Bytes::from(vec![1; *size]), 2);
        }
        depot.finish();
    }

    #[test]
    fn an_inventory_says_what_waits_and_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        leave(root.path(), "one", &[100, 200]);
        leave(root.path(), "two", &[300]);
        leave(root.path(), "empty", &[]);
        std::fs::write(root.path().join("two/spool/0000000009.otlp"), "torn").unwrap();
        for _ in 0..2 {
            let inventory = inventory(root.path());
            let [waiting] = inventory.waiting.as_slice() else {
                panic!("{inventory:?}");
            };
            assert_eq!(waiting.destination, "otlp");
            assert_eq!(waiting.signal, "traces");
            assert_eq!(waiting.endpoint, "http://127.0.0.1:1/v1/traces");
            assert_eq!(waiting.requests, 3);
            assert!(waiting.bytes > 600, "{inventory:?}");
            assert_eq!((inventory.damaged, inventory.in_use), (1, 0));
        }
    }

    #[test]
    fn a_spool_in_use_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let run = root.path().join("run");
        std::fs::create_dir(&run).unwrap();
        let depot = Arc::new(Depot::new(Some(run)));
        let queue = depot.queue("otlp", &route(), &Arc::default());
        depot.open();
        queue.push(Bytes::from_static(b"body"), 1);
        let left = find(root.path(), Access::Alone);
        assert_eq!((left.requests.len(), left.in_use), (0, 1));
        drop((queue, depot));
        let left = find(root.path(), Access::Alone);
        assert_eq!((left.requests.len(), left.in_use), (1, 0));
        assert_eq!(find(root.path(), Access::Alone).in_use, 1, "it is ours now");
    }

    #[test]
    fn too_much_of_all_runs_together_costs_the_oldest() {
        let root = tempfile::tempdir().unwrap();
        leave(root.path(), "one", &[10_000, 10_000]);
        // Runs are told apart in age by the clock of the file system.
        std::thread::sleep(Duration::from_millis(20));
        leave(root.path(), "two", &[10_000, 10_000]);
        let mut left = find(root.path(), Access::Alone);
        assert_eq!(trim(&mut left.requests, 25_000), 2);
        assert_eq!(left.requests.len(), 2);
        drop(left);
        assert!(
            !root.path().join("one/spool").exists(),
            "an empty spool goes"
        );
        assert_eq!(find(root.path(), Access::Alone).requests.len(), 2);
        assert_eq!(trim(&mut Vec::new(), 0), 0);
    }

    #[tokio::test]
    async fn where_nobody_listens_all_of_it_stays() {
        let root = tempfile::tempdir().unwrap();
        leave(root.path(), "one", &[10, 20, 30]);
        let target = Target {
            address: Address::new("otlp", &route()),
            link: Link::new(route(), super::super::transport::Access::default()),
            own: None,
            counts: Arc::default(),
        };
        let (_running, draining) = watch::channel(false);
        let report = resend(root.path().to_owned(), vec![target], draining).await;
        let [resent] = report.destinations.as_slice() else {
            panic!("{report:?}");
        };
        assert_eq!((resent.sent, resent.refused, resent.left), (0, 0, 3));
        assert!(resent.last_error.is_some());
        assert_eq!(inventory(root.path()).waiting[0].requests, 3);
    }
}
