//! Signs of life, and what is told when they are missing: a stall, a loop, a pause of the whole sandbox.

use std::time::Duration;

use super::{Effects, Session};
use crate::resources::TreeSample;
use crate::time::Now;

/// Time that passed without us: the sandbox was paused, or we were stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    pub length: Duration,
}

impl Session {
    /// CPU time in the tree is a sign of life.
    pub(super) fn tree_alive(&mut self, _now: Now, _tree: &TreeSample, _effects: &mut Effects) {}

    pub(super) fn paused(&mut self, _now: Now, _pause: Pause, _effects: &mut Effects) {}
}
