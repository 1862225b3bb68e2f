//! What a look at the machine finds: plain values, for the wire and for the session.

use std::sync::Arc;
use std::time::Duration;

use sandtrace_client::wire::Resources;

/// What the sampler sends.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// At the interval, and when one is asked for.
    Sample(Box<Sample>),
    /// Between samples, while a tool runs.
    Tree(TreeSample),
    /// The command line of this process holds the command of this tool.
    ToldApart { pid: u32, tool_use_id: String },
}

/// The sandbox, the agent's tree and its cgroup at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    pub occasion: Occasion,
    /// As the wire has it.
    pub resources: Resources,
    /// `None` where processes cannot be seen.
    pub tree: Option<TreeSample>,
}

/// Why a sample was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Occasion {
    #[default]
    Interval,
    /// With the proportional share of memory, and told at once.
    ToolEnded,
}

/// The agent and everything it started, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TreeSample {
    /// When: clock ticks since boot, to be compared with [`ProcessUse::start_ticks`].
    pub ticks: u64,
    /// CPU time since the start of the run, of the dead too; never falls.
    pub cpu: Duration,
    /// The living, by pid.
    pub processes: Vec<ProcessUse>,
}

impl TreeSample {
    /// Resident bytes, summed over processes.
    #[must_use]
    pub fn rss_bytes(&self) -> u64 {
        self.processes.iter().map(|process| process.rss_bytes).sum()
    }
}

/// One process at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessUse {
    pub pid: u32,
    /// Clock ticks from boot to its start: with the pid, the identity of a process.
    pub start_ticks: u64,
    pub parent: u32,
    /// The process that leads its session: each of Claude's tools has one of its own.
    pub session: u32,
    /// Its command name (`comm`), never its arguments.
    pub command: Arc<str>,
    /// The file name of its executable, which for Claude Code's own binary says more than `comm`.
    pub executable: Option<Arc<str>>,
    /// User and system time of its own.
    pub cpu: Duration,
    /// The same of its children that it has waited for.
    pub children_cpu: Duration,
    pub rss_bytes: u64,
}
