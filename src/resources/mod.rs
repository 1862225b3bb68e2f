//! What the sandbox uses: CPU, memory, swap, load.
//!
//! A [`Sampler`] looks at the machine as a whole, at an interval, on a thread of its own, so that a slow /proc never
//! holds up the agent's output. It knows nothing of the agent.

pub mod memory_cgroup;
pub mod sample;
pub mod sampler;

pub use memory_cgroup::{CgroupVersion, MemoryCgroup};
pub use sample::{Occasion, ProcessUse, Sample, TreeSample};
pub use sampler::Sampler;
