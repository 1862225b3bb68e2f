//! What each tool used: CPU time and memory, of its own processes where they can be told apart, else of the whole tree.

use super::Session;
use crate::resources::TreeSample;
use crate::time::Now;

/// The accounts of the tools in flight.
#[derive(Debug, Default)]
pub(super) struct ToolUsage {}

impl Session {
    /// A look at the agent's processes.
    pub(super) fn looked(&mut self, _now: Now, _tree: &TreeSample) {}
}
