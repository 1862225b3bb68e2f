//! Reads what the kernel says of memory, at the moments at which it proves something.
//!
//! Just before the spawn, with each look at the sandbox, when a tool reports that it failed, and when the agent's wait
//! status is in, before what it left behind is ended. The kernel's log is also listened to: a victim can be looked up
//! until its parent has asked for its status, which is ten milliseconds (`reference/supervision.md` §3.1).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Supervisor;
use crate::process::parent_and_command;
use crate::process::reaper::Usage;
use crate::resources::kernel_log::News;
use crate::resources::memory_events::{sandbox_oom_kills, sandbox_pressure_full};
use crate::resources::{CgroupMemory, KernelLog, Kinship, MemoryCounters, Victim};
use crate::session::{Input, MemoryReading};

/// How old a reading may be when nothing has happened since.
const OLD: Duration = Duration::from_millis(900);
/// Tools may fail faster than this; then the last reading must do.
const TOOLS_APART: Duration = Duration::from_millis(10);
/// How often the log may wake the loop between two readings: a kernel that floods it must not keep us busy.
const WAKES: u32 = 1024;
/// How often a way up is tried that breaks off.
const TRIES: usize = 3;
/// Nobody's family tree is deeper than this.
const GENERATIONS: usize = 64;

/// How often others are looked at while nothing happens: each of them costs two files.
const OTHERS_EVERY: Duration = Duration::from_secs(5);

/// Who else is in the cgroups, as far as it was looked.
#[derive(Debug, Default)]
struct Others {
    looked: Option<Instant>,
    /// Of the largest in each, resident.
    largest_bytes: Vec<u64>,
    /// What the counters stood at then.
    kills: Vec<Option<u64>>,
}

/// What is read of the kernel's view of memory.
#[derive(Debug)]
pub(super) struct MemoryWatch {
    counters: MemoryCounters,
    log: Option<AsyncFd<KernelLog>>,
    /// Heard, and not yet handed on.
    news: News,
    agent: Option<u32>,
    /// The most that one of those had resident who were reaped, or whom they had waited for.
    reaped_rss_bytes: Option<u64>,
    /// Whom a look has found to be ours or not.
    family: Family,
    others: Others,
    read_at: Option<Instant>,
    wakes: u32,
}

impl MemoryWatch {
    /// Finds the counters and the log's end. What cannot be read is not there.
    pub(super) fn begin() -> Self {
        Self {
            counters: MemoryCounters::of_this_process(),
            log: KernelLog::from_now().ok().and_then(registered),
            news: News::default(),
            agent: None,
            reaped_rss_bytes: None,
            family: Family::default(),
            others: Others::default(),
            read_at: None,
            wakes: 0,
        }
    }

    /// The first reading; who else is there can wait until the agent runs.
    pub(super) fn baseline(&mut self) -> MemoryReading {
        MemoryReading {
            cgroups: self.counters.read(),
            sandbox_oom_kills: sandbox_oom_kills(),
            ..MemoryReading::default()
        }
    }

    pub(super) fn follow(&mut self, agent: Pid) {
        self.agent = u32::try_from(agent.as_raw()).ok();
    }

    fn read(&mut self) -> MemoryReading {
        self.read_at = Some(Instant::now());
        self.wakes = 0;
        if let Some(agent) = self.agent {
            self.counters.follow(agent);
        }
        let mut cgroups = self.counters.read();
        self.look_at_others(&cgroups);
        for (cgroup, others) in cgroups.iter_mut().zip(&self.others.largest_bytes) {
            cgroup.largest_other_bytes = Some(*others);
        }
        let sandbox_oom_kills = sandbox_oom_kills();
        // Last: the kernel writes of a kill before it counts it.
        self.listen();
        let News { victims, userspace } = std::mem::take(&mut self.news);
        MemoryReading {
            cgroups,
            sandbox_oom_kills,
            sandbox_pressure_full: sandbox_pressure_full(),
            victims,
            userspace,
            reaped_rss_bytes: self.reaped_rss_bytes,
        }
    }

    /// Looks who else is in the cgroups, when somebody has been killed in one of them, and now and then before that.
    fn look_at_others(&mut self, cgroups: &[CgroupMemory]) {
        let kills: Vec<_> = cgroups.iter().map(|cgroup| cgroup.oom_kills).collect();
        let is_due = self
            .others
            .looked
            .is_none_or(|looked| looked.elapsed() >= OTHERS_EVERY);
        if !is_due && kills == self.others.kills {
            return;
        }
        // Who belongs to whom does not change, and to find out costs more than all the rest.
        let family = &self.family;
        self.others = Others {
            looked: Some(Instant::now()),
            largest_bytes: self.counters.largest_others(&|pid| family.is_ours(pid)),
            kills,
        };
        self.family.forget_the_absent();
    }

    /// Somebody of the run was reaped: what the kernel knows of its size, and of those it had waited for.
    pub(super) fn reaped(&mut self, usage: Usage) {
        self.reaped_rss_bytes = self.reaped_rss_bytes.max(Some(usage.max_rss_bytes));
    }

    /// Takes what is new in the log, and looks who the victims are while they are there. Says whether there are any that
    /// are not only announced.
    fn listen(&mut self) -> bool {
        let Some(log) = &mut self.log else {
            return false;
        };
        let killed = |news: &News| {
            let victims = news.victims.iter();
            victims.filter(|victim| victim.resident_bytes > 0).count()
        };
        let before = killed(&self.news);
        log.get_mut().read(&mut self.news);
        let family = Family::default();
        let victims = self.news.victims.iter_mut();
        for victim in victims.filter(|victim| victim.kinship == Kinship::Gone) {
            victim.kinship = kinship(victim, &family);
        }
        killed(&self.news) > before
    }

    /// Waits until there is something new in the log. Dropping the future loses nothing.
    pub(super) async fn log_grew(&mut self) {
        match &self.log {
            Some(log) if self.wakes < WAKES => {
                if let Ok(mut ready) = log.readable().await {
                    ready.clear_ready();
                    self.wakes += 1;
                    return;
                }
                std::future::pending().await
            }
            _ => std::future::pending().await,
        }
    }
}

#[expect(unsafe_code, reason = "the safe way is deprecated for what it allows")]
fn registered(log: KernelLog) -> Option<AsyncFd<KernelLog>> {
    // SAFETY: the descriptor is that of a file which the log owns, never changes, and closes when it is dropped.
    unsafe { AsyncFd::register_with_interest(log, Interest::READABLE) }.ok()
}

/// Compares the name as well, for the pid may be of another namespace.
fn kinship(victim: &Victim, family: &Family) -> Kinship {
    match parent_and_command(victim.pid) {
        Some((_, command)) if command == victim.command => {
            // As in `is_ours`: somebody on the way up may be dying as well.
            match (0..TRIES).find_map(|_| family.leads_to_us(victim.pid)) {
                Some(true) => Kinship::BelowUs,
                Some(false) => Kinship::Elsewhere,
                None => Kinship::Gone,
            }
        }
        _ => Kinship::Gone,
    }
}

/// Who is below us, found by going up from each.
#[derive(Debug, Default)]
struct Family {
    known: RefCell<BTreeMap<u32, bool>>,
    asked: RefCell<BTreeSet<u32>>,
}

impl Family {
    /// Whether a process is one of our descendants, or we.
    fn is_ours(&self, pid: u32) -> bool {
        self.asked.borrow_mut().insert(pid);
        // When somebody on the way up has died meanwhile, its children have another parent now.
        (0..TRIES).any(|_| self.leads_to_us(pid) == Some(true))
    }

    /// A pid that nobody has asked about since the last time may soon be somebody else's.
    fn forget_the_absent(&mut self) {
        let asked = std::mem::take(self.asked.get_mut());
        self.known.get_mut().retain(|pid, _| asked.contains(pid));
    }

    /// `None` where the way up breaks off.
    fn leads_to_us(&self, pid: u32) -> Option<bool> {
        let us = std::process::id();
        let mut path = Vec::new();
        let mut next = pid;
        let mut known = self.known.borrow_mut();
        let (is_ours, is_certain) = loop {
            if next == us {
                break (true, true);
            }
            if let Some(answer) = known.get(&next) {
                break (*answer, true);
            }
            path.push(next);
            match parent_and_command(next) {
                Some((parent @ 2.., _)) if path.len() < GENERATIONS => next = parent,
                // Whoever is the first's child is not ours, unless we are the first.
                Some((parent, _)) => break (parent == us, true),
                None => break (false, false),
            }
        };
        if is_certain {
            known.extend(path.into_iter().map(|pid| (pid, is_ours)));
        }
        is_certain.then_some(is_ours)
    }
}

impl Supervisor {
    pub(super) fn read_memory(&mut self) {
        let reading = self.memory.read();
        self.take(Input::Memory(reading));
    }

    /// Where there are no samples, or few, the beat reads in their place.
    pub(super) fn read_memory_if_old(&mut self) {
        if self.memory.read_at.is_none_or(|at| at.elapsed() >= OLD) {
            self.read_memory();
        }
    }

    pub(super) fn read_memory_for_tool(&mut self) {
        if self
            .memory
            .read_at
            .is_none_or(|at| at.elapsed() >= TOOLS_APART)
        {
            self.read_memory();
        }
    }

    /// Hears of victims while their names can still be looked up, of which nothing is left once they are reaped.
    pub(super) fn hear_of_kills(&mut self) {
        if self.memory.listen() {
            self.read_memory();
        }
    }
}
