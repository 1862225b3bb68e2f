//! What the sandbox uses, what the agent's processes use of it, and what its memory cgroup allows.
//!
//! A [`Sampler`] looks at an interval, on a thread of its own, so that a slow /proc never holds up the agent's output.
//! Where the moment matters, at a tool's beginning and end, the loop takes a [`TreeWatch`] and looks for itself: that
//! costs less than a millisecond. Text is parsed by pure functions; what cannot be read is absent, and the rest is told.

pub mod command_line;
pub mod kernel_log;
pub mod memory_cgroup;
pub mod memory_events;
pub mod pressure;
pub mod sample;
pub mod sampler;
pub mod sandbox;
pub mod tree;

pub use kernel_log::{Constraint, KernelLog, Kinship, UserspaceKill, Victim};
pub use memory_cgroup::{CgroupVersion, MemoryCgroup};
pub use memory_events::{CgroupMemory, MemoryCounters};
pub use sample::{Finding, Occasion, ProcessUse, Sample, TreeSample};
pub use sampler::{Sampler, Scope};
pub use sandbox::{SandboxWatch, crowd, crowd_now};
pub use tree::{ReapedCpu, TreeWatch};
