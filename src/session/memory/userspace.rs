//! Killers in userspace: systemd-oomd, which kills a cgroup, and earlyoom, which asks a process first with a TERM.
//!
//! What they write is of the whole machine, so that a line counts only if it is fresh and names the agent or its cgroup.

use std::time::Duration;

use super::{FRESH, Memory, rise};
use crate::resources::UserspaceKill;

/// What shows that a killer in userspace ended the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::session) struct UserspaceEnd {
    pub(in crate::session) source: &'static str,
    pub(in crate::session) fact: String,
    /// Not a pid or a name alone, which others may have as well.
    pub(in crate::session) is_sure: bool,
}

impl Memory {
    /// A killer in userspace that took the agent, or all of its cgroup, shortly before its end.
    pub(in crate::session) fn userspace_kill(&self) -> Option<UserspaceEnd> {
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
    pub(in crate::session) fn userspace_aim(&self) -> Option<UserspaceEnd> {
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
