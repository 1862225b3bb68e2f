//! Sends what earlier runs have left in their spools.
//!
//! Each request goes to the destination of the same name, signal, protocol and address, with this configuration's
//! headers and the very bytes of then. Each has one try, and the first that fails ends it for this destination. Within a
//! run this is done beside the run's own requests: on connections of its own, only while its queue is idle, and never
//! longer than the run. Whoever sends holds the lock of the spool, so two runs never send the same.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;

use super::counts::Counts;
use super::home::{may_send, sandbox_id};
use super::queue::Queue;
use super::retry::Verdict;
use super::sender::{Draining, Link};
use super::spool::left::{Access, Asked, Found, FoundError, FreeSpool, spools};
use super::spool::{Address, Damage};

/// The most bytes, and the most requests, that one run sends to a destination for earlier ones.
const MOST_BYTES: u64 = 64 << 20;
const MOST_REQUESTS: usize = 4_096;

/// The most spools that are held at a time, each of which takes a file descriptor; every destination has its share.
const MOST_SPOOLS: usize = 256;

/// The most bytes of all spools below a root, as the disk counts them; the oldest requests go first.
const ROOT_CAP_BYTES: u64 = 256 << 20;

/// How many files are read before other tasks have their turn.
const AT_ONCE: usize = 64;

/// How often, and after which waits, a search asks whether it is its turn.
const TURN_TRIES: u32 = 100;
const TURN_RETRY: Duration = Duration::from_millis(20);

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
    /// Files that a newer sandtrace wrote, which are left alone.
    pub newer: u64,
    /// Requests that were made in another sandbox, of which this is a copy: they are that one's to send.
    pub elsewhere: u64,
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
    /// Files that a newer sandtrace wrote.
    pub newer: u64,
    /// Requests that were made in another sandbox.
    pub elsewhere: u64,
    /// Spools in use, which were not looked into.
    pub in_use: u64,
}

/// Looks, and changes nothing.
#[must_use]
pub fn inventory(root: &Path) -> Inventory {
    let mut inventory = Inventory::default();
    let here = sandbox_id();
    let mut waiting = Tally::default();
    for directory in spools(root) {
        let spool = match FreeSpool::ask(&directory, Access::Look) {
            Asked::Free(spool) => spool,
            Asked::InUse => {
                inventory.in_use += 1;
                continue;
            }
            Asked::Gone => continue,
        };
        for found in spool {
            match found.header() {
                Ok(header) if !may_send(header.sandbox.as_deref(), here.as_deref()) => {
                    inventory.elsewhere += 1;
                }
                Ok(header) => waiting.add(&header.address, &found),
                Err(FoundError::Damage(Damage::Newer { .. })) => inventory.newer += 1,
                Err(FoundError::Damage(_)) => inventory.damaged += 1,
                Err(FoundError::Read(_)) => {}
            }
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

/// Sends all that is below `root` for these targets. Once `draining` says so nothing more is begun. `ask` says which
/// sandbox this is.
pub(super) async fn resend(
    root: PathBuf,
    targets: Vec<Target>,
    draining: Draining,
    ask: fn() -> Option<String>,
) -> ResendReport {
    let Search {
        mut report, kept, ..
    } = Search::below(&root, &targets, ROOT_CAP_BYTES, ask()).await;
    let mut tasks = JoinSet::new();
    for (target, kept) in targets.into_iter().zip(kept) {
        if !kept.requests.is_empty() {
            tasks.spawn(target.send(kept.requests, draining.clone(), ask));
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

/// Goes through all spools once, the oldest first, and keeps only those locked that hold something for a target. However
/// much others have left, it is counted and let go, so that nobody waits behind it.
#[derive(Debug)]
struct Search<'a> {
    targets: &'a [Target],
    /// Which sandbox this is.
    here: Option<String>,
    /// One for each target.
    kept: Vec<Kept>,
    /// Bytes of the disk that are to be given back.
    excess: u64,
    others: Tally,
    report: ResendReport,
}

/// What is found for a target.
#[derive(Debug, Default)]
struct Kept {
    requests: VecDeque<Found>,
    bytes: u64,
    spools: usize,
}

impl<'a> Search<'a> {
    async fn below(root: &Path, targets: &'a [Target], cap: u64, here: Option<String>) -> Self {
        // Held until all is sorted.
        let turn = turn(root).await;
        let spools = spools(root);
        let total = match turn {
            Some(_) => total_bytes(&spools).await,
            None => 0,
        };
        let mut search = Self {
            targets,
            here,
            kept: targets.iter().map(|_| Kept::default()).collect(),
            excess: total.saturating_sub(cap),
            others: Tally::default(),
            report: ResendReport::default(),
        };
        for directory in spools {
            match FreeSpool::ask(&directory, Access::Alone) {
                Asked::Free(spool) => search.spool(spool).await,
                Asked::InUse => search.report.in_use += 1,
                Asked::Gone => {}
            }
        }
        if search.report.over_cap > 0 {
            for target in targets {
                target.counts.error(&format!(
                    "the spools of earlier runs held more than 256 MiB: the {} oldest requests are gone",
                    search.report.over_cap
                ));
            }
        }
        search.report.others = std::mem::take(&mut search.others.0);
        search
    }

    async fn spool(&mut self, spool: FreeSpool) {
        let mut is_kept = vec![false; self.targets.len()];
        let most_spools = (MOST_SPOOLS / self.targets.len().max(1)).max(1);
        for (number, found) in spool.enumerate() {
            if number % AT_ONCE == AT_ONCE - 1 {
                yield_now().await;
            }
            let header = match found.header() {
                Ok(header) => header,
                Err(FoundError::Damage(Damage::Newer { .. })) => {
                    self.report.newer += 1;
                    continue;
                }
                Err(FoundError::Damage(damage)) => {
                    self.report.damaged += 1;
                    self.excess = self.excess.saturating_sub(found.disk_bytes());
                    discard(&found, damage, self.targets);
                    continue;
                }
                // It is gone, or the disk fails: the next run may know more.
                Err(FoundError::Read(_)) => continue,
            };
            if self.excess > 0 {
                self.excess = self.excess.saturating_sub(found.disk_bytes());
                self.report.over_cap += 1;
                // What cannot be removed is not sent either, or it would be sent by every run.
                found.remove().ok();
                continue;
            }
            if !may_send(header.sandbox.as_deref(), self.here.as_deref()) {
                self.report.elsewhere += 1;
                continue;
            }
            let is_for = |target: &Target| target.address == header.address;
            let Some(index) = self.targets.iter().position(is_for) else {
                self.others.add(&header.address, &found);
                continue;
            };
            let kept = &mut self.kept[index];
            let has_room = kept.requests.len() < MOST_REQUESTS
                && kept.bytes + found.bytes <= MOST_BYTES
                && (is_kept[index] || kept.spools < most_spools);
            if has_room {
                kept.spools += usize::from(!is_kept[index]);
                is_kept[index] = true;
                kept.bytes += found.bytes;
                kept.requests.push_back(found);
            }
        }
    }
}

/// Waits until nobody else searches below this root: two at once would find each other's spools in use, and each make
/// room for both. Whoever gets no turn searches all the same, but removes nothing for room.
async fn turn(root: &Path) -> Option<Flock<File>> {
    for _ in 0..TURN_TRIES {
        let root = File::open(root).ok()?;
        match Flock::lock(root, FlockArg::LockExclusiveNonblock) {
            Ok(turn) => return Some(turn),
            Err(_) => sleep(TURN_RETRY).await,
        }
    }
    None
}

/// What is in the spools that nobody is using.
async fn total_bytes(spools: &[PathBuf]) -> u64 {
    let mut total = 0;
    for directory in spools {
        if let Asked::Free(spool) = FreeSpool::ask(directory, Access::Look) {
            total += spool.map(|found| found.disk_bytes()).sum::<u64>();
        }
        yield_now().await;
    }
    total
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
        mut draining: Draining,
        ask: fn() -> Option<String>,
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
                Ok((header, _)) if !may_send(header.sandbox.as_deref(), ask().as_deref()) => {
                    // We have been copied meanwhile.
                    requests.push_front(found);
                    break;
                }
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
    async fn may_send(&self, draining: &mut Draining) -> bool {
        if let Some(own) = &self.own {
            tokio::select! {
                () = own.idle() => {}
                _ = draining.wait_for(Option::is_some) => {}
            }
        }
        draining.borrow().is_none()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;
    use tokio::sync::watch;

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

    fn target(destination: &str) -> Target {
        Target {
            address: Address::new(destination, &route()),
            link: Link::new(route(), super::super::transport::Access::default()),
            own: None,
            counts: Arc::default(),
        }
    }

    /// A run that leaves requests of these sizes.
    fn leave(root: &Path, run: &str, sizes: &[usize]) {
        leave_for("otlp", root, run, sizes);
    }

    fn leave_for(destination: &str, root: &Path, run: &str, sizes: &[usize]) {
        let run = root.join(run);
        std::fs::create_dir(&run).unwrap();
        let depot = Arc::new(Depot::new(Some(run), || None));
        let queue = depot.queue(destination, &route(), &Arc::default());
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
        let depot = Arc::new(Depot::new(Some(run), || None));
        let queue = depot.queue("otlp", &route(), &Arc::default());
        depot.open();
        queue.push(Bytes::from_static(b"body"), 1);
        let ask = || FreeSpool::ask(&spools(root.path())[0], Access::Alone);
        assert!(matches!(ask(), Asked::InUse));
        drop((queue, depot));
        let Asked::Free(spool) = ask() else {
            panic!("its run is gone");
        };
        assert!(matches!(ask(), Asked::InUse), "it is ours now");
        let requests: Vec<_> = spool.collect();
        assert_eq!(requests.len(), 1);
        assert!(matches!(ask(), Asked::InUse), "a request holds its spool");
        drop(requests);
        assert!(matches!(ask(), Asked::Free(_)));
    }

    #[tokio::test]
    async fn too_much_of_all_runs_together_costs_the_oldest() {
        let root = tempfile::tempdir().unwrap();
        leave(root.path(), "one", &[10_000, 10_000]);
        // Runs are told apart in age by the clock of the file system.
        std::thread::sleep(Duration::from_millis(20));
        leave(root.path(), "two", &[10_000, 10_000]);
        let targets = [target("otlp")];
        let search = Search::below(root.path(), &targets, 25_000, None).await;
        assert_eq!(search.report.over_cap, 2);
        assert_eq!(search.kept[0].requests.len(), 2);
        drop(search);
        assert!(
            !root.path().join("one/spool").exists(),
            "an empty spool goes"
        );
        let search = Search::below(root.path(), &targets, 25_000, None).await;
        assert_eq!(
            (search.report.over_cap, search.kept[0].requests.len()),
            (0, 2)
        );
    }

    #[tokio::test]
    async fn nobody_waits_behind_what_is_for_others() {
        let root = tempfile::tempdir().unwrap();
        // More than is kept at a time, of requests and of spools.
        leave(root.path(), "000", &[1; MOST_REQUESTS + 10]);
        for run in 1..MOST_SPOOLS + 10 {
            leave(root.path(), &format!("{run:03}"), &[1]);
        }
        std::thread::sleep(Duration::from_millis(20));
        leave_for("other", root.path(), "mine", &[5, 6]);
        let targets = [target("other")];
        let search = Search::below(root.path(), &targets, ROOT_CAP_BYTES, None).await;
        assert_eq!(search.kept[0].requests.len(), 2);
        assert_eq!(search.kept[0].spools, 1);
        let others: u64 = search.report.others.iter().map(|it| it.requests).sum();
        assert_eq!(others as usize, MOST_REQUESTS + 10 + MOST_SPOOLS + 9);
        drop(search);
        // A backend that is down costs another one nothing either.
        let targets = [target("otlp"), target("other")];
        let search = Search::below(root.path(), &targets, ROOT_CAP_BYTES, None).await;
        assert_eq!(search.kept[0].requests.len(), MOST_REQUESTS);
        assert_eq!(search.kept[1].requests.len(), 2);
        drop(search);
        std::fs::remove_dir_all(root.path().join("000")).unwrap();
        let search = Search::below(root.path(), &targets, ROOT_CAP_BYTES, None).await;
        assert_eq!(search.kept[0].spools, MOST_SPOOLS / 2);
        assert_eq!(search.kept[1].requests.len(), 2);
    }

    #[tokio::test]
    async fn what_a_newer_sandtrace_wrote_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        leave(root.path(), "one", &[100]);
        let newer = root.path().join("one/spool/0000000009.otlp");
        std::fs::write(&newer, "{\"spool\":2,\"body\":\"elsewhere\"}\n").unwrap();
        assert_eq!(inventory(root.path()).newer, 1);
        assert_eq!(inventory(root.path()).damaged, 0);
        // Not even for room.
        let targets = [target("otlp")];
        let search = Search::below(root.path(), &targets, 0, None).await;
        assert_eq!((search.report.newer, search.report.over_cap), (1, 1));
        drop(search);
        assert!(newer.exists());
    }

    #[tokio::test]
    async fn where_nobody_listens_all_of_it_stays() {
        let root = tempfile::tempdir().unwrap();
        leave(root.path(), "one", &[10, 20, 30]);
        let (_running, draining) = watch::channel(None);
        let report = resend(
            root.path().to_owned(),
            vec![target("otlp")],
            draining,
            || None,
        )
        .await;
        let [resent] = report.destinations.as_slice() else {
            panic!("{report:?}");
        };
        assert_eq!((resent.sent, resent.refused, resent.left), (0, 0, 3));
        assert!(resent.last_error.is_some());
        assert_eq!(inventory(root.path()).waiting[0].requests, 3);
    }
}
