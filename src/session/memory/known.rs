//! The run's processes as the samples saw them last: their names, which outlive them, and who was the largest.

use std::sync::Arc;
use std::time::Duration;

use super::kills::{Named, Whose};
use super::{FRESH, Memory, TICK, rise};
use crate::order::by_number;
use crate::resources::{CgroupMemory, ProcessUse, TreeSample};

/// Processes that are remembered by name, the dead too: a victim is told of after it is gone.
const KNOWN: usize = 1024;

/// A process as the samples saw it last.
#[derive(Debug, Clone)]
pub(super) struct Known {
    command: Arc<str>,
    executable: Option<Arc<str>>,
    parent: u32,
    rss_bytes: u64,
    last_seen: Duration,
}

impl Known {
    /// A name as the log has it, 15 bytes at most. Claude Code's own binary may call itself by its version.
    pub(super) fn fits(&self, command: &str) -> bool {
        let alike = |name: &str| {
            let length = name.len().min(15);
            !command.is_empty() && name.as_bytes().get(..length) == Some(command.as_bytes())
        };
        alike(&self.command) || self.executable.as_deref().is_some_and(alike)
    }
}

/// What the last look before the end says of the agent's size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::session) enum Standing {
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

impl Memory {
    /// A look at the processes: remembers their names, and whom a kill without a name may have taken.
    pub(in crate::session) fn looked(&mut self, uptime: Duration, tree: &TreeSample) {
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
        let known = known.map(|(pid, known)| (known.last_seen, *pid)).collect();
        let by_age = by_number(known, |(seen, _): &(Duration, u32)| seen.as_nanos());
        for (_, pid) in by_age.into_iter().take(surplus) {
            self.known.remove(&pid);
        }
    }

    pub(super) fn role(&self, known: &Known) -> Whose {
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

    /// The largest of the run's processes at the last look.
    pub(super) fn largest(&self) -> Option<u32> {
        self.present
            .iter()
            .copied()
            .max_by_key(|pid| self.known.get(pid).map_or(0, |known| known.rss_bytes))
    }

    /// Whether no process of another command was as large; where nobody looked, nobody knows.
    pub(super) fn outweighs_others(&self, pid: u32) -> bool {
        let rss = self.known.get(&pid).map_or(0, |known| known.rss_bytes);
        self.others().is_some_and(|other| other < rss)
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

    pub(super) fn named_of(&self, pid: u32) -> Option<Named> {
        self.known.get(&pid).map(|known| Named {
            pid,
            command: Arc::clone(&known.command),
            resident_bytes: known.rss_bytes,
        })
    }

    /// The agent as the samples saw it last.
    pub(in crate::session) fn agent_named(&self) -> Option<Named> {
        self.named_of(self.agent?)
    }

    /// How long before the end the last look was.
    pub(in crate::session) fn last_look(&self) -> Option<Duration> {
        let end = self.exited?;
        self.looked.map(|looked| end.saturating_sub(looked))
    }

    /// Percent of the limit that the run can have held at once, as far as is known; `None` where there is no limit, or
    /// where files hold the memory, which are nobody's.
    pub(in crate::session) fn held_percent(&self) -> Option<u64> {
        let largest = self.latest.reaped_rss_bytes?;
        let limit = self.limit().filter(|limit| *limit > 0)?;
        let mut cgroups = self.latest.cgroups.iter();
        if cgroups.any(|cgroup| cgroup.shmem_bytes >= Some(limit / 2)) {
            return None;
        }
        Some(largest.max(self.together).saturating_mul(100) / limit)
    }

    /// Where the agent stood at the last look before its end.
    pub(in crate::session) fn agent_standing(&self) -> Standing {
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
    pub(in crate::session) fn heaviest(&self) -> Option<(Whose, Named)> {
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
}

/// Claude Code's native binary, which shows its version as its name (`reference/supervision.md` §3.2).
pub(super) fn is_cli(command: &str, executable: Option<&str>) -> bool {
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

/// Whether a look saw this process: it has them by pid.
fn is_alive(pid: u32, tree: &TreeSample) -> bool {
    let found = tree
        .processes
        .binary_search_by_key(&pid, |process| process.pid);
    found.is_ok()
}
