//! What the host is told at once, and what the counters say in words.

use serde_json::Map;

use super::kills::{Kill, Whose};
use super::{Memory, MemoryReading, rise};
use crate::agent::{AgentEvent, Decoded};
use crate::session::failure::memory::told;
use crate::session::{Action, Effects, Session, int};
use crate::time::Now;

impl Session {
    /// Takes a reading, and tells the host at once of whom the kernel killed.
    pub(in crate::session) fn memory_read(
        &mut self,
        now: Now,
        reading: MemoryReading,
        effects: &mut Effects,
    ) {
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

impl Memory {
    /// What the counters say, in words: source and fact.
    pub(in crate::session) fn counted(&self) -> Vec<(&'static str, String)> {
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
}

/// Bytes for people.
pub(in crate::session) fn size(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mib @ 1..10_240 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib >> 10),
    }
}

pub(super) fn in_limit(limit: Option<u64>) -> String {
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
