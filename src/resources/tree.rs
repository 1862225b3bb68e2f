//! The agent and everything it started: CPU, memory, open files.
//!
//! CPU time of a tree is that of the living, of the children they have waited for, and of those that we reaped: whoever
//! dies hands his time on to whoever waits for him. A look is no snapshot, so time may be on its way from one to the
//! other; and a parent that ignores SIGCHLD loses it for good. `Rising` lets the sum never fall.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::{ProcessUse, TreeSample};
use crate::order::by_number;
use crate::process::{Process, State, Tree};

/// How long other processes are known to be none of ours: pids do not come around sooner.
const STRANGERS_FOR: Duration = Duration::from_secs(5);

/// CPU time of the processes that we reaped: the loop adds to it, the sampler reads it.
#[derive(Debug, Clone, Default)]
pub struct ReapedCpu(Arc<AtomicU64>);

impl ReapedCpu {
    pub fn add(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.fetch_add(micros, Ordering::Relaxed);
    }

    fn total(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// A sum that never falls, and that loses nothing when its summands do.
#[derive(Debug, Clone, Copy, Default)]
struct Rising {
    highest: Duration,
    /// What the summands have lost for good.
    lost: Duration,
    was_lower: bool,
}

impl Rising {
    /// A sum that is lower once may be on its way from one summand to another; twice, it is lost.
    fn see(&mut self, sum: Duration) -> Duration {
        let sum = sum + self.lost;
        if sum < self.highest && self.was_lower {
            self.lost += self.highest - sum;
        }
        self.was_lower = sum < self.highest && !self.was_lower;
        self.highest = self.highest.max(sum);
        self.highest
    }
}

/// Looks at the agent's processes, and remembers what never changes of each.
#[derive(Debug)]
pub struct TreeWatch {
    tree: Tree,
    reaped: ReapedCpu,
    cpu: Rising,
    known: HashMap<(u32, u64), Names>,
    strangers: Strangers,
}

/// The sandbox's other processes, which need not be read each time: most of them are the kernel's own.
///
/// Nobody who is none of ours becomes one of ours. But a look can miss a parent that dies, so it takes two; and a pid is
/// used again, so they are forgotten after a while.
#[derive(Debug, Default)]
struct Strangers {
    known: HashSet<Pid>,
    /// Those of the last look, by pid and start.
    once: HashSet<(Pid, u64)>,
    since: Option<Instant>,
}

impl Strangers {
    fn known(&mut self) -> &HashSet<Pid> {
        let now = Instant::now();
        if self.since.is_none_or(|since| now - since >= STRANGERS_FOR) {
            self.known.clear();
            self.since = Some(now);
        }
        &self.known
    }

    fn seen(&mut self, strangers: &[Process]) {
        let identities = strangers.iter().map(|it| (it.pid, it.start_ticks));
        let now: HashSet<(Pid, u64)> = identities.collect();
        let twice = now.intersection(&self.once).map(|(pid, _)| *pid);
        self.known.extend(twice);
        self.once = now;
    }
}

/// What a process is called. It may yet execute another program; its command name then changes too.
#[derive(Debug, Clone)]
struct Names {
    command: Arc<str>,
    executable: Option<Arc<str>>,
}

impl TreeWatch {
    #[must_use]
    pub fn new(tree: Tree, reaped: ReapedCpu) -> Self {
        Self {
            tree,
            reaped,
            cpu: Rising::default(),
            known: HashMap::new(),
            strangers: Strangers::default(),
        }
    }

    /// Looks at every process.
    ///
    /// # Errors
    ///
    /// Where processes cannot be seen.
    pub fn look(&mut self) -> io::Result<TreeSample> {
        // Before the look, which takes its time on a busy machine: who begins meanwhile was not there long before.
        let ticks = ticks_since_boot();
        // Before it too: who is reaped during it is then missing once, and not counted twice.
        let reaped = self.reaped.total();
        let (family, strangers) = self.tree.family_and_strangers(self.strangers.known())?;
        self.strangers.seen(&strangers);
        let sum = family
            .iter()
            .map(|process| process.cpu + process.children_cpu)
            .sum::<Duration>();
        let mut known = HashMap::with_capacity(family.len());
        let processes: Vec<ProcessUse> = family
            .into_iter()
            .filter(|process| process.state != State::Zombie)
            .filter_map(|process| self.describe(process, &mut known))
            .collect();
        let processes = by_number(processes, |process| process.pid.into());
        self.known = known;
        Ok(TreeSample {
            ticks,
            cpu: self.cpu.see(reaped + sum),
            processes,
        })
    }

    fn describe(
        &self,
        process: Process,
        known: &mut HashMap<(u32, u64), Names>,
    ) -> Option<ProcessUse> {
        let number = |pid: Pid| u32::try_from(pid.as_raw()).ok();
        let pid = number(process.pid)?;
        let key = (pid, process.start_ticks);
        let names = match self.known.get(&key) {
            Some(names) if *names.command == *process.command => names.clone(),
            _ => Names {
                executable: executable(pid),
                command: process.command.into(),
            },
        };
        known.insert(key, names.clone());
        Some(ProcessUse {
            pid,
            start_ticks: process.start_ticks,
            parent: number(process.parent).unwrap_or(0),
            session: number(process.session).unwrap_or(0),
            command: names.command,
            executable: names.executable,
            cpu: process.cpu,
            children_cpu: process.children_cpu,
            rss_bytes: process.rss_bytes,
        })
    }
}

/// The file name of its executable; `None` if it may not be asked.
fn executable(pid: u32) -> Option<Arc<str>> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = path.file_name()?.to_string_lossy();
    // The kernel says so of a file that is no longer there.
    Some(name.strip_suffix(" (deleted)").unwrap_or(&name).into())
}

fn ticks_since_boot() -> u64 {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let per_second = per_second
        .and_then(|ticks| u64::try_from(ticks).ok())
        .unwrap_or(100);
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        let time = Duration::from(time);
        let nanos = u64::from(time.subsec_nanos());
        time.as_secs() * per_second + nanos * per_second / 1_000_000_000
    })
}

/// How many files these processes have open; `None` if none of them can be asked.
#[must_use]
pub fn open_files(tree: &TreeSample) -> Option<u64> {
    let counts = tree.processes.iter();
    counts
        .filter_map(|process| open_files_of(Path::new(&format!("/proc/{}/fd", process.pid))))
        .reduce(|all, one| all + one)
}

/// Since Linux 6.2 the directory's size is their number; before, it is 0 and they must be counted.
fn open_files_of(directory: &Path) -> Option<u64> {
    match fs::metadata(directory).ok()?.len() {
        0 => Some(fs::read_dir(directory).ok()?.count() as u64),
        count => Some(count),
    }
}

/// The proportional share of memory of these processes, bytes: what they share is divided among those that share it.
/// `None` if not all of them could be asked within `bound`, for part of a sum would mislead.
#[must_use]
pub fn proportional_share(tree: &TreeSample, bound: Duration) -> Option<u64> {
    let deadline = Instant::now() + bound;
    let mut total = 0_u64;
    for process in &tree.processes {
        if Instant::now() >= deadline {
            return None;
        }
        match fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)) {
            Ok(text) => total = total.saturating_add(share(&text)?),
            // It ended since; what it had is no longer in use.
            Err(error) if is_gone(&error) => {}
            Err(_) => return None,
        }
    }
    Some(total)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
}

/// The line `Pss:   1234 kB`.
fn share(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    struct Shell(Child);

    impl Shell {
        fn new(script: &str) -> Self {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(Stdio::piped());
            Self(command.spawn().unwrap())
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_sum_that_falls_once_is_on_its_way_and_twice_is_lost() {
        let mut cpu = Rising::default();
        let seen = [100, 60, 110, 50, 50, 70].map(|sum| cpu.see(millis(sum)));
        assert_eq!(seen, [100, 100, 110, 110, 110, 130].map(millis));
    }

    proptest! {
        #[test]
        fn cpu_never_falls(sums in proptest::collection::vec(0_u64..1000, 1..50)) {
            let mut cpu = Rising::default();
            let mut last = Duration::ZERO;
            for sum in sums {
                let seen = cpu.see(millis(sum));
                prop_assert!(seen >= last && seen >= millis(sum));
                last = seen;
            }
        }
    }

    #[test]
    fn a_child_is_seen_with_its_names_its_session_and_its_files() {
        let shell = Shell::new("read line; exit");
        let mut watch = TreeWatch::new(Tree::new(), ReapedCpu::default());
        let began = Instant::now();
        let process = loop {
            let sample = watch.look().unwrap();
            let pid = shell.0.id();
            let found = sample
                .processes
                .into_iter()
                .find(|process| process.pid == pid);
            // Between fork and exec it is still called as we are, and just
            // after it the kernel's count of its pages, which is kept per CPU,
            // may still read as none.
            let executed =
                |process: &ProcessUse| *process.command == *"sh" && process.rss_bytes > 0;
            if let Some(process) = found.filter(executed) {
                assert!(process.start_ticks <= sample.ticks);
                break process;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "it was not seen");
        };
        assert_eq!(process.parent, std::process::id());
        assert!(process.executable.is_some());
        // 0 where whoever leads the session is not to be seen: before a `setsid`, or from another pid namespace.
        let ours = u32::try_from(nix::unistd::getsid(None).unwrap().as_raw()).unwrap();
        assert_eq!(process.session, ours);
        let alone = TreeSample {
            processes: vec![process],
            ..TreeSample::default()
        };
        assert!(open_files(&alone).unwrap() >= 3);
        assert!(proportional_share(&alone, Duration::from_secs(5)).unwrap() > 0);
        assert_eq!(proportional_share(&alone, Duration::ZERO), None);
    }

    #[test]
    fn those_that_we_reaped_count() {
        let reaped = ReapedCpu::default();
        let mut watch = TreeWatch::new(Tree::from_now(), reaped.clone());
        let before = watch.look().unwrap().cpu;
        reaped.add(millis(1500));
        assert!(watch.look().unwrap().cpu >= before + millis(1500));
    }

    #[test]
    fn the_share_is_read_in_bytes() {
        assert_eq!(
            share("Rss:  900 kB\nPss:                 123 kB\nPss_Dirty: 7 kB\n"),
            Some(123 << 10)
        );
        for bad in ["", "Pss: kB\n", "Pss: 12\n", "Rss: 1 kB\n"] {
            assert_eq!(share(bad), None, "{bad:?}");
        }
    }
}
