//! The processes that the kernel killed for memory: whose each was, what that is known by, and which of them may have to
//! do with the end of the run.

use std::sync::Arc;
use std::time::Duration;

use super::Memory;
use super::known::is_cli;
use crate::resources::Constraint;
use crate::session::failure::memory::of_tool;

/// Whom the kernel killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum Whose {
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
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Unseen | Self::Unclear)
    }
}

/// What a kill is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum Proof {
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
pub(in crate::session) struct Named {
    pub(in crate::session) pid: u32,
    pub(in crate::session) command: Arc<str>,
    /// What it held: the kernel's word, else that of the last sample.
    pub(in crate::session) resident_bytes: u64,
}

/// One process that the kernel killed for memory.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::session) struct Kill {
    /// Uptime at which we heard of it.
    pub(in crate::session) seen: Duration,
    pub(in crate::session) whose: Whose,
    pub(in crate::session) proof: Proof,
    pub(in crate::session) process: Option<Named>,
    pub(in crate::session) constraint: Option<Constraint>,
    /// The tool that was open, in words.
    pub(in crate::session) tool: Option<String>,
    /// The agent was told, as the result of a tool, and went on.
    pub(in crate::session) told: bool,
}

impl Kill {
    /// Whether it may have been the CLI, if something else says that the CLI is gone.
    pub(in crate::session) fn may_be_cli(&self) -> bool {
        match self.whose {
            Whose::Cli | Whose::Descendant | Whose::Probable | Whose::Unseen => true,
            Whose::Unclear => self.is_named_as_cli(),
            Whose::Agent | Whose::Foreign => false,
        }
    }

    /// Whether the log calls the process what Claude Code's own is called.
    pub(in crate::session) fn is_named_as_cli(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| is_cli(&process.command, None))
    }

    /// Whether the process was seen to be one of the run's.
    pub(in crate::session) fn is_ours(&self) -> bool {
        matches!(self.whose, Whose::Agent | Whose::Cli | Whose::Descendant)
    }
}

impl Memory {
    /// The last kill that meets a condition.
    pub(in crate::session) fn last_kill(&self, fits: impl Fn(&Kill) -> bool) -> Option<&Kill> {
        self.kills.iter().rev().find(|kill| fits(kill))
    }

    /// The same, of those shortly before the end.
    pub(in crate::session) fn fresh_kill(
        &self,
        within: Duration,
        fits: impl Fn(&Kill) -> bool,
    ) -> Option<&Kill> {
        let end = self.exited.unwrap_or(Duration::MAX);
        self.last_kill(|kill| fits(kill) && end.saturating_sub(kill.seen) <= within)
    }

    /// Who was killed together with somebody, and held more.
    pub(in crate::session) fn larger_with(&self, kill: &Kill) -> Option<&Kill> {
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
    pub(in crate::session) fn has_pid_of_agent(&self, kill: &Kill) -> bool {
        let pid = kill.process.as_ref().map(|process| process.pid);
        pid.is_some() && pid == self.agent && kill.whose != Whose::Foreign
    }

    /// How long before the agent's end a kill was heard of.
    pub(in crate::session) fn age(&self, kill: &Kill) -> Option<Duration> {
        self.exited.map(|end| end.saturating_sub(kill.seen))
    }

    /// What to say of a tool that failed, if a process of its was killed while it ran: a sentence and the evidence.
    pub(in crate::session) fn blame_for_tool(
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

    #[cfg(test)]
    pub(in crate::session) fn kills(&self) -> &[Kill] {
        &self.kills
    }
}
