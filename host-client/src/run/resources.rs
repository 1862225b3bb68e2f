//! Samples, and what they say together.

use crate::wire::{ResourcePeaks, Resources};

/// Takes a sample into the peaks.
pub(super) fn note(peaks: &mut Option<ResourcePeaks>, sample: &Resources) {
    let peaks = peaks.get_or_insert_default();
    let sandbox = &sample.sandbox;
    peaks.samples += 1;
    peaks.cpu_utilization_max = peaks.cpu_utilization_max.max(sandbox.cpu_utilization);
    peaks.memory_used_bytes_max = peaks.memory_used_bytes_max.max(sandbox.memory_used_bytes);
    if let Some(tree) = &sample.tree {
        peaks.tree_cpu_seconds = peaks.tree_cpu_seconds.max(tree.cpu_seconds);
        peaks.tree_rss_bytes_max = peaks.tree_rss_bytes_max.max(tree.rss_bytes);
        peaks.tree_processes_max = peaks.tree_processes_max.max(tree.processes);
    }
}

/// How much of the memory that it may use is in use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Memory {
    pub(super) used_bytes: u64,
    pub(super) limit_bytes: u64,
    /// Whose limit it is.
    pub(super) of: &'static str,
}

impl Memory {
    /// Of the sandbox and of the agent's cgroup, the one that has less left.
    pub(super) fn of(sample: &Resources) -> Option<Self> {
        let sandbox = Self {
            used_bytes: sample.sandbox.memory_used_bytes,
            limit_bytes: sample.sandbox.memory_total_bytes,
            of: "the sandbox's",
        };
        let cgroup = sample.cgroup.as_ref().and_then(|cgroup| {
            Some(Self {
                used_bytes: cgroup.memory_used_bytes,
                limit_bytes: cgroup.memory_limit_bytes?,
                of: "the agent's cgroup's",
            })
        });
        let limited = cgroup.into_iter().chain([sandbox]);
        limited
            .filter(|memory| memory.limit_bytes > 0)
            .max_by(|a, b| a.share().total_cmp(&b.share()))
    }

    /// From 0 to 1, and a little above where the kernel counts late.
    pub(super) fn share(&self) -> f64 {
        self.used_bytes as f64 / self.limit_bytes as f64
    }
}
