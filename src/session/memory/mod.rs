//! What the kernel said and counted about memory, gathered while the run goes on.
//!
//! The shell reads the counters just before the spawn, with every look at the sandbox, and once more when the agent's
//! wait status is in, before any cgroup is cleaned up (`reference/supervision.md` §3.2). Only what changed since the first
//! reading is evidence, for the counters are cumulative; and the cgroup may be shared with other commands, so a change
//! says nothing about this run until it is known *who* was killed. That is asked of, in this order: the kernel's log, the
//! wait status of orphans, and what the samples saw vanish in that tick.
//!
//! `kills` are the victims, and `naming` finds out who each was; `known` remembers who was there, and how large;
//! `livelock` is memory that runs out while nobody is killed; `userspace` are the killers that are not the kernel;
//! `warnings` tells the host of it as it happens. What follows from all that for the end of the run is `failure::memory`'s.

mod kills;
mod known;
mod livelock;
mod naming;
mod userspace;
mod warnings;

use std::collections::BTreeMap;
use std::time::Duration;

pub(super) use self::kills::{Kill, Proof, Whose};
use self::known::Known;
pub(super) use self::known::Standing;
use self::livelock::Livelock;
pub(super) use self::userspace::UserspaceEnd;
pub(super) use self::warnings::size;
pub use self::warnings::wants_reading;
use crate::resources::{CgroupMemory, UserspaceKill, Victim};

/// Kills that are told apart; further ones are in the counters.
const KILLS: usize = 64;

/// A kill without a name and the death of somebody belong together if they are no further apart: two looks.
pub(super) const TICK: Duration = Duration::from_millis(2500);

/// A kill longer ago than this did not end the agent (`reference/supervision.md` §3.2).
pub(super) const FRESH: Duration = Duration::from_secs(5);

/// One reading of the counters, and what the kernel's log has said since the last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryReading {
    /// The memory cgroups that the agent is, or may have been, charged to: ours first.
    pub cgroups: Vec<CgroupMemory>,
    /// `oom_kill` of /proc/vmstat: the whole sandbox, kills within cgroups too.
    pub sandbox_oom_kills: Option<u64>,
    /// Percent of the last ten seconds in which no task of the sandbox could go on for lack of memory.
    pub sandbox_pressure_full: Option<f64>,
    pub victims: Vec<Victim>,
    pub userspace: Vec<UserspaceKill>,
    /// The most that one process of the run had resident, of those that were reaped by us or waited for by one that was.
    pub reaped_rss_bytes: Option<u64>,
}

/// What a verdict may rest on.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    /// Just before the spawn.
    baseline: MemoryReading,
    latest: MemoryReading,
    /// Whether there was any reading at all.
    is_read: bool,
    agent: Option<u32>,
    exited: Option<Duration>,
    /// The pid that holds each name was alive at the last look.
    present: Vec<u32>,
    looked: Option<Duration>,
    /// What all of them had resident then.
    together: u64,
    known: BTreeMap<u32, Known>,
    kills: Vec<Kill>,
    /// Orphans that a KILL ended which we did not send, until a kill claims them.
    orphans: Vec<(u32, Duration)>,
    /// What killers in userspace wrote, and when we heard of it; the last of many.
    userspace: Vec<(Duration, UserspaceKill)>,
    livelock: Livelock,
}

impl Memory {
    /// The first reading is the baseline.
    pub(super) fn baseline(&mut self, reading: MemoryReading) {
        self.is_read = true;
        self.latest = reading.clone();
        self.baseline = reading;
    }

    pub(super) fn spawned(&mut self, agent: u32) {
        self.agent = Some(agent);
    }

    pub(super) fn exited(&mut self, uptime: Duration) {
        self.exited = Some(uptime);
    }

    /// Takes a reading; says how many kills were known before.
    pub(super) fn read(
        &mut self,
        uptime: Duration,
        reading: MemoryReading,
        tool: Option<&str>,
    ) -> usize {
        let before = self.kills.len();
        self.is_read = true;
        for cgroup in &reading.cgroups {
            // A cgroup that the agent has been put into since counts from then on.
            if !self
                .baseline
                .cgroups
                .iter()
                .any(|known| known.name == cgroup.name)
            {
                self.baseline.cgroups.push(cgroup.clone());
                self.latest.cgroups.push(cgroup.clone());
            }
        }
        for victim in &reading.victims {
            self.named(uptime, victim, &reading, tool);
        }
        let userspace = reading.userspace.iter().cloned();
        self.userspace.extend(userspace.map(|kill| (uptime, kill)));
        let old = self.userspace.len().saturating_sub(KILLS);
        self.userspace.drain(..old);
        self.size_up(reading.reaped_rss_bytes);
        let rose = oom_kills(&reading, &self.latest);
        let log_says = self
            .kills
            .iter()
            .any(|kill| kill.proof == Proof::KernelLog && uptime.saturating_sub(kill.seen) <= TICK);
        if rose > 0 && !log_says && self.kills.len() < KILLS {
            let kill = self.unnamed(uptime, &reading, tool);
            self.kills.push(kill);
        }
        self.judge_livelock(&reading, rose);
        self.latest = reading;
        before
    }

    /// Whether the counters can be read, so that their silence says something.
    pub(super) fn is_counted(&self) -> bool {
        self.is_read
            && (self.latest.sandbox_oom_kills.is_some()
                || self
                    .latest
                    .cgroups
                    .iter()
                    .any(|cgroup| cgroup.oom_kills.is_some()))
    }

    pub(super) fn total(&self) -> u64 {
        oom_kills(&self.latest, &self.baseline)
    }

    /// The limit that applies to the agent, bytes.
    pub(super) fn limit(&self) -> Option<u64> {
        let cgroups = self.latest.cgroups.iter();
        cgroups.rev().find_map(|cgroup| cgroup.limit_bytes)
    }

    /// Bytes in use and the limit, where use is next to it.
    pub(super) fn is_full(&self) -> Option<(u64, u64)> {
        self.latest.cgroups.iter().find_map(|cgroup| {
            let (used, limit) = (cgroup.used_bytes?, cgroup.limit_bytes?);
            (used >= limit / 10 * 9).then_some((used, limit))
        })
    }
}

/// How much a counter of this cgroup rose; a cgroup that was not there before counts from its first reading.
fn rise(
    cgroup: &CgroupMemory,
    before: &MemoryReading,
    counter: impl Fn(&CgroupMemory) -> Option<u64>,
) -> Option<u64> {
    let before = before
        .cgroups
        .iter()
        .find(|other| other.name == cgroup.name)?;
    Some(counter(cgroup)?.saturating_sub(counter(before)?))
}

/// Processes killed between two readings. The sandbox's counter has everybody's, so it is asked only where no cgroup's
/// can be read.
fn oom_kills(now: &MemoryReading, before: &MemoryReading) -> u64 {
    let cgroups = now.cgroups.iter();
    cgroups
        .filter_map(|cgroup| rise(cgroup, before, |cgroup| cgroup.oom_kills))
        .max()
        .or_else(|| {
            let (now, before) = (now.sandbox_oom_kills?, before.sandbox_oom_kills?);
            Some(now.saturating_sub(before))
        })
        .unwrap_or(0)
}
