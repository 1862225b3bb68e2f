//! How a kill gets its name.
//!
//! The kernel's log gives one where it may be read. Else a kill begins as a counter that rose, and becomes that of the
//! orphan that a KILL ended, or of the largest process if that vanished in the same tick. What is still open then, a
//! process of the victim's size may settle that was reaped.

use std::sync::Arc;
use std::time::Duration;

use super::kills::{Kill, Named, Proof, Whose};
use super::known::is_cli;
use super::{FRESH, KILLS, Memory, MemoryReading, TICK, rise};
use crate::process::exit::Termination;
use crate::process::reaper::Reaped;
use crate::resources::{Kinship, Victim};

/// By how much the kernel's own accounts of a process's size differ: counts are kept per CPU.
const INEXACT: u64 = 4 << 20;

impl Memory {
    /// Somebody whom the kernel's log names.
    pub(super) fn named(
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
    pub(super) fn size_up(&mut self, reaped_rss_bytes: Option<u64>) {
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

    /// A counter moved and nobody was named.
    pub(super) fn unnamed(
        &mut self,
        uptime: Duration,
        reading: &MemoryReading,
        tool: Option<&str>,
    ) -> Kill {
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
        kill.process = self.named_of(pid);
    }

    /// An orphan ended; `ours` if we may have ended it.
    pub(in crate::session) fn orphan_ended(
        &mut self,
        uptime: Duration,
        reaped: Reaped,
        ours: bool,
    ) {
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

    /// Of those who vanished in the tick of a kill without a name, the largest was it, if it was the largest of all.
    pub(super) fn blame(&mut self, uptime: Duration, vanished: &[u32]) {
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
}

/// A process of the run of which no more than the name is known.
fn by_name(command: &str) -> Whose {
    if is_cli(command, None) {
        Whose::Cli
    } else {
        Whose::Descendant
    }
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
