//! What the kernel said and counted about memory, gathered while the run goes on.
//!
//! The shell reads the counters just before the spawn and again once the agent's wait status is in, before any cgroup
//! is cleaned up (`reference/supervision.md` §3.2): only the difference is evidence, for the counters are cumulative.

/// One reading of the counters, and what the kernel's log has said since the last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryReading {
    /// `oom_kill` of the memory cgroup that the agent is charged to.
    pub cgroup_oom_kills: Option<u64>,
    /// `oom_kill` of /proc/vmstat: the whole sandbox.
    pub sandbox_oom_kills: Option<u64>,
}

/// What a verdict may rest on.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Memory {
    /// Just before the spawn.
    baseline: MemoryReading,
    latest: MemoryReading,
}

impl Memory {
    /// The first reading is the baseline.
    pub(super) fn baseline(&mut self, reading: MemoryReading) {
        self.baseline = reading.clone();
        self.latest = reading;
    }

    pub(super) fn read(&mut self, reading: MemoryReading) {
        self.latest = reading;
    }
}
