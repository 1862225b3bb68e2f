//! Which runs' spans are exported: decided by the trace id, and again at the end.

use std::time::Duration;

/// The user's wish.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// The share of runs that are exported as they go, 0 to 1.
    pub rate: f64,
    /// A run that took longer is exported in any case; `None` for none.
    pub slow: Option<Duration>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            rate: 1.0,
            slow: None,
        }
    }
}
