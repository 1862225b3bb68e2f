//! What the kernel said and counted about memory, gathered while the run goes on.
//!
//! The shell reads the counters just before the spawn, with every look at the sandbox, and once more when the agent's
//! wait status is in, before any cgroup is cleaned up (`reference/supervision.md` §3.2). Only what changed since the first
//! reading is evidence, for the counters are cumulative; and the cgroup may be shared with other commands, so a change
//! says nothing about this run until it is known *who* was killed. That is asked of, in this order: the kernel's log, the
//! wait status of orphans, and what the samples saw vanish in that tick.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Map;

use super::failure::memory::{of_tool, told};
use super::{Action, Effects, Session, int};
use crate::agent::{AgentEvent, Decoded};
use crate::process::exit::Termination;
use crate::process::reaper::Reaped;
use crate::resources::{
    CgroupMemory, Constraint, Kinship, ProcessUse, TreeSample, UserspaceKill, Victim,
};
use crate::time::Now;

/// Processes that are remembered by name, the dead too: a victim is told of after it is gone.
const KNOWN: usize = 1024;
/// Kills that are told apart; further ones are in the counters.
const KILLS: usize = 64;
/// A kill without a name and the death of somebody belong together if they are no further apart: two looks.
pub(super) const TICK: Duration = Duration::from_millis(2500);
/// A kill longer ago than this did not end the agent (`reference/supervision.md` §3.2).
pub(super) const FRESH: Duration = Duration::from_secs(5);
/// By how much the kernel's own accounts of a process's size differ: counts are kept per CPU.
const INEXACT: u64 = 4 << 20;
/// OOM situations without a kill that no healthy run sees; 4010 in ten seconds were measured.
const LIVELOCK_OOMS: u64 = 100;
/// Percent of the last ten seconds in which nobody could go on.
const LIVELOCK_PRESSURE: f64 = 50.0;

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

/// Whom the kernel killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Agent,
    /// Claude Code's own process below the agent.
    Cli,
    /// Anything else that the agent started.
    Descendant,
    /// Nobody saw it below us, but what the run says of itself fits: a tool that reports the kill, or a process of that
    /// size among those that were reaped.
    Probable,
    /// It came and went between two looks, and neither saw anybody else in the cgroup; which does not say that nobody was.
    Unseen,
    /// Somebody of this cgroup, where the run is not alone, or of the sandbox.
    Unclear,
    /// Somebody else's process.
    Foreign,
}

impl Whose {
    /// Whether further evidence may still tell.
    fn is_open(self) -> bool {
        matches!(self, Self::Unseen | Self::Unclear)
    }
}

/// What a kill is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// The log names the process.
    KernelLog,
    /// An orphan of ours ended by a KILL that we did not send.
    WaitStatus,
    /// It was the largest process and then gone.
    Samples,
    /// A counter alone.
    Counter,
}

/// A process by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) pid: u32,
    pub(super) command: Arc<str>,
    /// What it held: the kernel's word, else that of the last sample.
    pub(super) resident_bytes: u64,
}

/// One process that the kernel killed for memory.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kill {
    /// Uptime at which we heard of it.
    pub(super) seen: Duration,
    pub(super) whose: Whose,
    pub(super) proof: Proof,
    pub(super) process: Option<Named>,
    pub(super) constraint: Option<Constraint>,
    /// The tool that was open, in words.
    pub(super) tool: Option<String>,
    /// The agent was told, as the result of a tool, and went on.
    pub(super) told: bool,
}

impl Kill {
    /// Whether it may have been the CLI, if something else says that the CLI is gone.
    pub(super) fn may_be_cli(&self) -> bool {
        match self.whose {
            Whose::Cli | Whose::Descendant | Whose::Probable | Whose::Unseen => true,
            Whose::Unclear => self.is_named_as_cli(),
            Whose::Agent | Whose::Foreign => false,
        }
    }

    /// Whether the log calls the process what Claude Code's own is called.
    pub(super) fn is_named_as_cli(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| is_cli(&process.command, None))
    }

    /// Whether the process was seen to be one of the run's.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.whose, Whose::Agent | Whose::Cli | Whose::Descendant)
    }
}

/// A process as the samples saw it last.
#[derive(Debug, Clone)]
struct Known {
    command: Arc<str>,
    executable: Option<Arc<str>>,
    parent: u32,
    rss_bytes: u64,
    last_seen: Duration,
}

/// The state in which the kernel reclaims without end and kills nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Livelock {
    /// OOM situations since the last kill, or the start.
    ooms: u64,
    /// Whether the last reading still showed it.
    now: bool,
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

    /// Somebody whom the kernel's log names.
    fn named(
        &mut self,
        uptime: Duration,
        victim: &Victim,
        reading: &MemoryReading,
        tool: Option<&str>,
    ) {
        let whose = self.whose(victim, reading);
        let known = self.kills.iter_mut().find_map(|kill| {
            let is_it = |process: &&mut Named| process.pid == victim.pid;
            (kill.proof == Proof::KernelLog).then_some(())?;
            let process = kill.process.as_mut().filter(is_it)?;
            Some((&mut kill.whose, process))
        });
        if let Some((known_whose, process)) = known {
            // It was announced before it was killed.
            process.resident_bytes = process.resident_bytes.max(victim.resident_bytes);
            if known_whose.is_open() {
                *known_whose = whose;
            }
            return;
        }
        let named = Named {
            pid: victim.pid,
            command: Arc::from(victim.command.as_str()),
            resident_bytes: victim.resident_bytes,
        };
        let kill = Kill {
            seen: uptime,
            whose,
            proof: Proof::KernelLog,
            process: Some(named),
            constraint: Some(victim.constraint.clone()),
            tool: tool.filter(|_| whose != Whose::Foreign).map(str::to_owned),
            told: false,
        };
        // The counter may have been read first.
        let counted = self
            .kills
            .iter_mut()
            .find(|kill| kill.proof == Proof::Counter && uptime.saturating_sub(kill.seen) <= TICK);
        if let Some(counted) = counted {
            *counted = kill;
        } else if self.kills.len() < KILLS {
            self.kills.push(kill);
        }
    }

    /// The log's pids are those of another pid namespace in a container, so a pid alone is not enough.
    fn whose(&self, victim: &Victim, reading: &MemoryReading) -> Whose {
        let known = self.known.get(&victim.pid);
        let fits = known.map(|known| known.fits(&victim.command));
        let is_below = victim.kinship == Kinship::BelowUs;
        // Since the last look it may have become another program: who was looked up by pid and name is it all the same.
        if self.agent == Some(victim.pid) && (fits.unwrap_or(true) || is_below) {
            Whose::Agent
        } else if let (Some(known), Some(true)) = (known, fits) {
            self.role(known)
        } else if is_below || self.orphans.iter().any(|(pid, _)| *pid == victim.pid) {
            by_name(&victim.command)
        } else if victim.kinship == Kinship::Elsewhere
            || !(shares_cgroup(victim, reading) || shares_cgroup(victim, &self.latest))
        {
            Whose::Foreign
        } else if is_alone(reading) && is_alone(&self.latest) {
            Whose::Unseen
        } else {
            Whose::Unclear
        }
    }

    /// Takes a victim for one of the run's if one of its size has been reaped: the kernel tells of everybody who was waited
    /// for how large the largest has been.
    fn size_up(&mut self, reaped_rss_bytes: Option<u64>) {
        let Some(largest) = reaped_rss_bytes else {
            return;
        };
        for kill in &mut self.kills {
            let held = kill
                .process
                .as_ref()
                .map_or(0, |process| process.resident_bytes);
            // What it holds of files is not in the log's number.
            let fits = held.saturating_sub(INEXACT)..=held + held / 8 + 4 * INEXACT;
            if kill.whose.is_open() && held > 4 * INEXACT && fits.contains(&largest) {
                kill.whose = Whose::Probable;
            }
        }
    }

    /// Percent of the limit that the run can have held at once, as far as is known; `None` where there is no limit, or
    /// where files hold the memory, which are nobody's.
    pub(super) fn held_percent(&self) -> Option<u64> {
        let largest = self.latest.reaped_rss_bytes?;
        let limit = self.limit().filter(|limit| *limit > 0)?;
        let mut cgroups = self.latest.cgroups.iter();
        if cgroups.any(|cgroup| cgroup.shmem_bytes >= Some(limit / 2)) {
            return None;
        }
        Some(largest.max(self.together).saturating_mul(100) / limit)
    }

    fn role(&self, known: &Known) -> Whose {
        let runs_script = [Some(&known.command), known.executable.as_ref()]
            .into_iter()
            .flatten()
            .any(|name| matches!(&**name, "node" | "bun"));
        let is_child = Some(known.parent) == self.agent;
        if is_cli(&known.command, known.executable.as_deref()) || (runs_script && is_child) {
            Whose::Cli
        } else {
            Whose::Descendant
        }
    }

    /// A counter moved and nobody was named.
    fn unnamed(&mut self, uptime: Duration, reading: &MemoryReading, tool: Option<&str>) -> Kill {
        let mut kill = Kill {
            seen: uptime,
            whose: Whose::Unclear,
            proof: Proof::Counter,
            process: None,
            constraint: None,
            tool: tool.map(str::to_owned),
            told: false,
        };
        let orphan = self
            .orphans
            .iter()
            .position(|(_, ended)| uptime.saturating_sub(*ended) <= TICK);
        if let Some(at) = orphan {
            let (pid, _) = self.orphans.remove(at);
            self.name(&mut kill, pid, Proof::WaitStatus);
        } else if self.is_alone_where_it_rose(reading) {
            // Nobody else is there who could have been killed.
            kill.whose = Whose::Descendant;
        }
        kill
    }

    fn is_alone_where_it_rose(&self, reading: &MemoryReading) -> bool {
        let mut rose = reading
            .cgroups
            .iter()
            .filter(|cgroup| rise(cgroup, &self.latest, |cgroup| cgroup.oom_kills) > Some(0))
            .peekable();
        rose.peek().is_some()
            && rose.any(|cgroup| {
                let before = self.latest.cgroups.iter();
                let before = before.filter(|other| other.name == cgroup.name);
                before
                    .chain([cgroup])
                    .all(|cgroup| cgroup.largest_other_bytes == Some(0))
            })
    }

    fn name(&self, kill: &mut Kill, pid: u32, proof: Proof) {
        let known = self.known.get(&pid);
        kill.proof = proof;
        kill.whose = if self.agent == Some(pid) {
            Whose::Agent
        } else {
            known.map_or(Whose::Descendant, |known| self.role(known))
        };
        kill.process = known.map(|known| Named {
            pid,
            command: Arc::clone(&known.command),
            resident_bytes: known.rss_bytes,
        });
    }

    /// An orphan ended; `ours` if we may have ended it.
    pub(super) fn orphan_ended(&mut self, uptime: Duration, reaped: Reaped, ours: bool) {
        let killed = matches!(
            reaped.termination,
            Termination::Signaled {
                signal: nix::libc::SIGKILL,
                ..
            }
        );
        let Ok(pid) = u32::try_from(reaped.pid.as_raw()) else {
            return;
        };
        if !killed || ours {
            return;
        }
        let waiting = self.kills.iter().position(|kill| {
            kill.proof == Proof::Counter && uptime.saturating_sub(kill.seen) <= TICK
        });
        if let Some(at) = waiting {
            let mut kill = self.kills[at].clone();
            self.name(&mut kill, pid, Proof::WaitStatus);
            self.kills[at] = kill;
        } else {
            // What no kill has claimed by now none will, and the pid may be another's soon.
            self.orphans
                .retain(|(_, ended)| uptime.saturating_sub(*ended) <= FRESH);
            if self.orphans.len() >= KILLS {
                self.orphans.remove(0);
            }
            self.orphans.push((pid, uptime));
        }
    }

    /// A look at the processes: remembers their names, and whom a kill without a name may have taken.
    pub(super) fn looked(&mut self, uptime: Duration, tree: &TreeSample) {
        let vanished: Vec<u32> = self
            .present
            .iter()
            .copied()
            .filter(|pid| !is_alive(*pid, tree))
            .collect();
        if self
            .looked
            .is_none_or(|last| uptime.saturating_sub(last) <= TICK)
        {
            self.blame(uptime, &vanished);
        }
        // What the agent was part of stays, for that is what its end is judged by.
        let is_agent = |pid: u32| self.agent == Some(pid);
        let was_there = self.present.iter().any(|pid| is_agent(*pid));
        if was_there && self.agent.is_some_and(|agent| !is_alive(agent, tree)) {
            return;
        }
        self.looked = Some(uptime);
        let held = tree.processes.iter().map(|process| process.rss_bytes);
        self.together = held.sum();
        self.present.clear();
        for process in tree.processes.iter().take(KNOWN) {
            self.present.push(process.pid);
            self.remember(uptime, process);
        }
        self.forget_oldest();
    }

    fn remember(&mut self, uptime: Duration, process: &ProcessUse) {
        self.known.insert(
            process.pid,
            Known {
                command: Arc::clone(&process.command),
                executable: process.executable.clone(),
                parent: process.parent,
                rss_bytes: process.rss_bytes,
                last_seen: uptime,
            },
        );
    }

    fn forget_oldest(&mut self) {
        let surplus = self.known.len().saturating_sub(KNOWN);
        if surplus == 0 {
            return;
        }
        let known = self.known.iter();
        let mut by_age: Vec<(Duration, u32)> =
            known.map(|(pid, known)| (known.last_seen, *pid)).collect();
        by_age.sort_unstable();
        for (_, pid) in by_age.into_iter().take(surplus) {
            self.known.remove(&pid);
        }
    }

    /// Of those who vanished in the tick of a kill without a name, the largest was it, if it was the largest of all.
    fn blame(&mut self, uptime: Duration, vanished: &[u32]) {
        let Some(at) = self.kills.iter().position(|kill| {
            kill.proof == Proof::Counter && uptime.saturating_sub(kill.seen) <= TICK
        }) else {
            return;
        };
        let Some(largest) = self.largest() else {
            return;
        };
        // How the agent ended, its wait status says.
        if self.agent != Some(largest)
            && vanished.contains(&largest)
            && self.outweighs_others(largest)
        {
            let mut kill = self.kills[at].clone();
            self.name(&mut kill, largest, Proof::Samples);
            self.kills[at] = kill;
        }
    }

    /// The largest of the run's processes at the last look.
    fn largest(&self) -> Option<u32> {
        self.present
            .iter()
            .copied()
            .max_by_key(|pid| self.known.get(pid).map_or(0, |known| known.rss_bytes))
    }

    /// Whether no process of another command was as large; where nobody looked, nobody knows.
    fn outweighs_others(&self, pid: u32) -> bool {
        let rss = self.known.get(&pid).map_or(0, |known| known.rss_bytes);
        self.others().is_some_and(|other| other < rss)
    }

    fn judge_livelock(&mut self, reading: &MemoryReading, killed: u64) {
        let before = ooms(&self.latest);
        let rose = ooms(reading)
            .zip(before)
            .map_or(0, |(now, before)| now.saturating_sub(before));
        if killed > 0 {
            self.livelock = Livelock::default();
            return;
        }
        self.livelock.ooms = self.livelock.ooms.saturating_add(rose);
        self.livelock.now = rose > 0
            && (self.livelock.ooms >= LIVELOCK_OOMS || pressure(reading) > LIVELOCK_PRESSURE);
    }

    /// OOM situations without a kill, as long as they go on.
    pub(super) fn livelock(&self) -> Option<String> {
        let cgroup = self
            .latest
            .cgroups
            .iter()
            .find(|cgroup| cgroup.ooms.is_some())?;
        self.livelock.now.then(|| {
            format!(
                "memory ran out {} times in {}{} and nobody was killed, {:.0} % of the time nobody could go on",
                self.livelock.ooms,
                cgroup.name,
                in_limit(cgroup.limit_bytes),
                pressure(&self.latest),
            )
        })
    }

    #[cfg(test)]
    pub(super) fn kills(&self) -> &[Kill] {
        &self.kills
    }

    /// The last kill that meets a condition.
    pub(super) fn last_kill(&self, fits: impl Fn(&Kill) -> bool) -> Option<&Kill> {
        self.kills.iter().rev().find(|kill| fits(kill))
    }

    /// The same, of those shortly before the end.
    pub(super) fn fresh_kill(
        &self,
        within: Duration,
        fits: impl Fn(&Kill) -> bool,
    ) -> Option<&Kill> {
        let end = self.exited.unwrap_or(Duration::MAX);
        self.last_kill(|kill| fits(kill) && end.saturating_sub(kill.seen) <= within)
    }

    /// Who was killed together with somebody, and held more.
    pub(super) fn larger_with(&self, kill: &Kill) -> Option<&Kill> {
        let held = |kill: &Kill| {
            kill.process
                .as_ref()
                .map_or(0, |process| process.resident_bytes)
        };
        let near = self.kills.iter().filter(|other| {
            other.whose != Whose::Foreign
                && other.proof == Proof::KernelLog
                && other.seen.abs_diff(kill.seen) <= Duration::from_millis(500)
        });
        near.max_by_key(|other| held(other))
            .filter(|other| held(other) > held(kill))
    }

    /// Whether the log named the agent's pid, though not the name that it was known by.
    pub(super) fn has_pid_of_agent(&self, kill: &Kill) -> bool {
        let pid = kill.process.as_ref().map(|process| process.pid);
        pid.is_some() && pid == self.agent && kill.whose != Whose::Foreign
    }

    /// How long before the agent's end a kill was heard of.
    pub(super) fn age(&self, kill: &Kill) -> Option<Duration> {
        self.exited.map(|end| end.saturating_sub(kill.seen))
    }

    /// What to say of a tool that failed, if a process of its was killed while it ran: a sentence and the evidence.
    pub(super) fn blame_for_tool(
        &mut self,
        since: Duration,
        text: &str,
    ) -> Option<(String, Vec<String>)> {
        // Claude Code's words for a shell's exit code, and the shell's own.
        let says_killed = text.starts_with("Exit code 137") || text.contains("Killed");
        let at = self.kills.iter().rposition(|kill| {
            kill.seen >= since
                && match kill.whose {
                    Whose::Descendant => says_killed || !kill.told,
                    Whose::Probable | Whose::Unseen | Whose::Unclear => says_killed,
                    Whose::Agent | Whose::Cli | Whose::Foreign => false,
                }
        })?;
        let kill = &mut self.kills[at];
        kill.told = true;
        if kill.whose.is_open() {
            kill.whose = Whose::Probable;
        }
        Some(of_tool(&self.kills[at], self))
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

    /// Where the agent stood at the last look before its end.
    pub(super) fn agent_standing(&self) -> Standing {
        let (Some(agent), Some(largest)) = (self.agent, self.largest()) else {
            return Standing::Unknown;
        };
        let recent = self
            .looked
            .zip(self.exited)
            .is_some_and(|(looked, end)| end.saturating_sub(looked) <= FRESH);
        if !recent || !self.present.contains(&agent) {
            return Standing::Unknown;
        }
        if largest != agent {
            return Standing::Smaller(self.named_of(largest));
        }
        if self.outweighs_others(agent) {
            Standing::Largest
        } else if self.others() > self.known.get(&agent).map(|known| known.rss_bytes) {
            Standing::SmallerThanOthers
        } else {
            // Nobody looked at the others.
            Standing::LargestOfRun
        }
    }

    /// The largest process of the run at the last look, if nobody else's was larger.
    pub(super) fn heaviest(&self) -> Option<(Whose, Named)> {
        let pid = self.largest()?;
        let known = self.known.get(&pid)?;
        let whose = if self.agent == Some(pid) {
            Whose::Agent
        } else {
            self.role(known)
        };
        let named = self.named_of(pid)?;
        self.outweighs_others(pid).then_some((whose, named))
    }

    /// The largest process of another command, of those who could have been killed in the run's place: where a counter
    /// has risen, else anywhere.
    fn others(&self) -> Option<u64> {
        let rose = |cgroup: &&CgroupMemory| {
            rise(cgroup, &self.baseline, |cgroup| cgroup.oom_kills) > Some(0)
        };
        let cgroups = &self.latest.cgroups;
        let largest = |cgroup: &CgroupMemory| cgroup.largest_other_bytes;
        if cgroups.iter().any(|cgroup| rose(&cgroup)) {
            cgroups.iter().filter(rose).filter_map(largest).max()
        } else {
            cgroups.iter().filter_map(largest).max()
        }
    }

    fn named_of(&self, pid: u32) -> Option<Named> {
        self.known.get(&pid).map(|known| Named {
            pid,
            command: Arc::clone(&known.command),
            resident_bytes: known.rss_bytes,
        })
    }

    /// The agent as the samples saw it last.
    pub(super) fn agent_named(&self) -> Option<Named> {
        self.named_of(self.agent?)
    }

    /// How long before the end the last look was.
    pub(super) fn last_look(&self) -> Option<Duration> {
        let end = self.exited?;
        self.looked.map(|looked| end.saturating_sub(looked))
    }

    /// A killer in userspace that took the agent, or all of its cgroup, shortly before its end.
    pub(super) fn userspace_kill(&self) -> Option<UserspaceEnd> {
        self.userspace_aim()
            .or_else(|| {
                let kill = self
                    .fresh_userspace()
                    .find(|kill| kill.pid.is_none() && self.is_of_cgroup(kill))?;
                let place = kill.cgroup.as_deref().unwrap_or("a cgroup");
                Some(UserspaceEnd {
                    source: "kernel_log",
                    fact: format!("{} killed {place} for want of memory", kill.killer),
                    is_sure: true,
                })
            })
            .or_else(|| {
                self.latest.cgroups.iter().find_map(|cgroup| {
                    let rose = rise(cgroup, &self.baseline, |cgroup| {
                        cgroup.oomd_kills.or(Some(0))
                    })?;
                    let name = &cgroup.name;
                    (rose > 0).then(|| UserspaceEnd {
                        source: "cgroup",
                        fact: format!(
                            "systemd-oomd killed in {name} (user.oomd_kill rose by {rose})"
                        ),
                        is_sure: true,
                    })
                })
            })
    }

    /// A killer in userspace that named the agent shortly before its end: it asks with a TERM first.
    pub(super) fn userspace_aim(&self) -> Option<UserspaceEnd> {
        let agent = self.agent?;
        let known = self.known.get(&agent);
        let aims = self.fresh_userspace().filter_map(|kill| {
            let pid = kill.pid?;
            let command = kill.command.as_deref();
            let fits = known
                .zip(command)
                .map(|(known, command)| known.fits(command));
            // The pids are those of the first pid namespace, and names are shared by many: one alone is a hint. Somebody
            // else of the run has both.
            let is_other = pid != agent
                && self
                    .known
                    .get(&pid)
                    .is_some_and(|known| command.is_none_or(|command| known.fits(command)));
            let is_sure = pid == agent && fits != Some(false);
            let is_hint = pid == agent || (fits == Some(true) && !is_other);
            (is_sure || is_hint).then(|| UserspaceEnd {
                source: "kernel_log",
                fact: match (is_sure, command) {
                    (true, _) => format!("{} ended process {pid}, the agent", kill.killer),
                    (false, Some(command)) => {
                        format!("{} ended process {pid} ({command})", kill.killer)
                    }
                    (false, None) => format!("{} ended process {pid}", kill.killer),
                },
                is_sure,
            })
        });
        aims.max_by_key(|end| end.is_sure)
    }

    /// What killers in userspace wrote shortly before the end, the last first.
    fn fresh_userspace(&self) -> impl Iterator<Item = &UserspaceKill> {
        let end = self.exited.unwrap_or(Duration::MAX);
        let kills = self.userspace.iter().rev();
        kills
            .filter(move |(seen, _)| end.saturating_sub(*seen) <= FRESH)
            .map(|(_, kill)| kill)
    }

    /// Whether it killed the agent's cgroup, or one above it.
    fn is_of_cgroup(&self, kill: &UserspaceKill) -> bool {
        kill.cgroup.as_deref().is_none_or(|killed| {
            let mut cgroups = self.latest.cgroups.iter();
            cgroups.any(|cgroup| includes(killed, &cgroup.name))
        })
    }

    /// What the counters say, in words: source and fact.
    pub(super) fn counted(&self) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        for cgroup in &self.latest.cgroups {
            let killed = rise(cgroup, &self.baseline, |cgroup| cgroup.oom_kills).unwrap_or(0);
            if killed > 0 {
                let limit = in_limit(cgroup.limit_bytes);
                facts.push((
                    "cgroup",
                    format!(
                        "oom_kill rose by {killed} in {}{limit} while the agent ran",
                        cgroup.name
                    ),
                ));
            }
            let groups = rise(cgroup, &self.baseline, |cgroup| cgroup.group_kills).unwrap_or(0);
            if groups > 0 {
                facts.push((
                    "cgroup",
                    "memory.oom.group is set: all of the cgroup was killed together".to_owned(),
                ));
            }
            if killed > 0
                && let (Some(shmem), Some(limit)) = (cgroup.shmem_bytes, cgroup.limit_bytes)
                && shmem >= limit / 2
            {
                facts.push((
                    "cgroup",
                    format!(
                        "{} of {} were files in memory (tmpfs or shared memory), which no process holds",
                        size(shmem),
                        size(limit)
                    ),
                ));
            }
        }
        if facts.is_empty() {
            let killed = self.total();
            if killed > 0 {
                facts.push((
                    "vmstat",
                    format!("oom_kill rose by {killed} in the whole sandbox while the agent ran"),
                ));
            }
        }
        facts
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

/// What shows that a killer in userspace ended the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UserspaceEnd {
    pub(super) source: &'static str,
    pub(super) fact: String,
    /// Not a pid or a name alone, which others may have as well.
    pub(super) is_sure: bool,
}

/// What the last look before the end says of the agent's size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    Unknown,
    /// Of the run and of everybody in the cgroup.
    Largest,
    /// Of the run; the others were not looked at.
    LargestOfRun,
    /// Another command's process was larger.
    SmallerThanOthers,
    /// A process that the agent had started was larger.
    Smaller(Option<Named>),
}

impl Known {
    /// A name as the log has it, 15 bytes at most. Claude Code's own binary may call itself by its version.
    fn fits(&self, command: &str) -> bool {
        let alike = |name: &str| {
            let length = name.len().min(15);
            !command.is_empty() && name.as_bytes().get(..length) == Some(command.as_bytes())
        };
        alike(&self.command) || self.executable.as_deref().is_some_and(alike)
    }
}

/// Whether a look saw this process: it has them by pid.
fn is_alive(pid: u32, tree: &TreeSample) -> bool {
    let found = tree
        .processes
        .binary_search_by_key(&pid, |process| process.pid);
    found.is_ok()
}

/// Whether a cgroup that was killed with all that is below it is this one, or above it. The killer names it from the root
/// on, of which a container sees the end.
fn includes(killed: &str, ours: &str) -> bool {
    let killed = killed.trim_end_matches('/');
    let is_above = ours
        .strip_prefix(killed)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    is_above || (ours.len() > 1 && killed.ends_with(ours))
}

/// A process of the run of which no more than the name is known.
fn by_name(command: &str) -> Whose {
    if is_cli(command, None) {
        Whose::Cli
    } else {
        Whose::Descendant
    }
}

/// Claude Code's native binary, which shows its version as its name (`reference/supervision.md` §3.2).
fn is_cli(command: &str, executable: Option<&str>) -> bool {
    let is_version = |name: &str| {
        name.contains('.')
            && name
                .bytes()
                .all(|byte| byte == b'.' || byte.is_ascii_digit())
    };
    [Some(command), executable]
        .into_iter()
        .flatten()
        .any(|name| name == "claude" || is_version(name))
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

fn ooms(reading: &MemoryReading) -> Option<u64> {
    reading
        .cgroups
        .iter()
        .filter_map(|cgroup| cgroup.ooms)
        .max()
}

fn pressure(reading: &MemoryReading) -> f64 {
    let cgroups = reading
        .cgroups
        .iter()
        .filter_map(|cgroup| cgroup.pressure_full);
    cgroups
        .chain(reading.sandbox_pressure_full)
        .fold(0.0, f64::max)
}

/// Whether a look saw nobody else. Without a cgroup of our own, everybody in the sandbox may have been killed.
fn is_alone(reading: &MemoryReading) -> bool {
    let mut cgroups = reading.cgroups.iter();
    !reading.cgroups.is_empty() && cgroups.all(|cgroup| cgroup.largest_other_bytes == Some(0))
}

/// The log names cgroups from the root on, of which a container sees the end.
fn shares_cgroup(victim: &Victim, reading: &MemoryReading) -> bool {
    let Some(path) = &victim.task_cgroup else {
        return true;
    };
    let mut cgroups = reading.cgroups.iter();
    cgroups.any(|cgroup| path.ends_with(&*cgroup.name) || path.starts_with(&*cgroup.name))
}

impl Session {
    /// Takes a reading, and tells the host at once of whom the kernel killed.
    pub(super) fn memory_read(&mut self, now: Now, reading: MemoryReading, effects: &mut Effects) {
        let tools = self.tools.awaited();
        let tool = match tools.as_slice() {
            [] => None,
            [(_, tool)] => Some(tool.name.clone()),
            [(_, tool), others @ ..] => Some(format!("{} and {} more", tool.name, others.len())),
        };
        let was_livelocked = self.memory.livelock().is_some();
        let known = self.memory.read(now.uptime, reading, tool.as_deref());
        for kill in &self.memory.kills[known..] {
            if kill.whose != Whose::Foreign {
                effects.actions.push(Action::Warn {
                    code: "oom_kill",
                    message: told(kill, &self.memory),
                    counts: counts(kill),
                });
            }
        }
        if let (Some(message), false) = (self.memory.livelock(), was_livelocked) {
            effects.actions.push(Action::Warn {
                code: "oom_livelock",
                message,
                counts: Map::new(),
            });
        }
    }
}

/// Whether a line is about a tool that failed, which is the moment to look whether the kernel had to do with it.
#[must_use]
pub fn wants_reading(line: &Decoded<'_>) -> bool {
    match line {
        Decoded::Event(AgentEvent::User(user)) => user.results.iter().any(|result| result.is_error),
        _ => false,
    }
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mib @ 1..10_240 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib >> 10),
    }
}

fn in_limit(limit: Option<u64>) -> String {
    limit.map_or_else(String::new, |limit| format!(" (limit {})", size(limit)))
}

/// The counts of a warning about a kill.
fn counts(kill: &Kill) -> Map<String, serde_json::Value> {
    let mut counts = Map::new();
    if let Some(process) = &kill.process {
        counts.insert("pid".to_owned(), process.pid.into());
        counts.insert("command".to_owned(), (*process.command).into());
        if process.resident_bytes > 0 {
            counts.insert(
                "resident_bytes".to_owned(),
                int(process.resident_bytes).into(),
            );
        }
    }
    if let Some(tool) = &kill.tool {
        counts.insert("tool".to_owned(), tool.as_str().into());
    }
    counts
}
