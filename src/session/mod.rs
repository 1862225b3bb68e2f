//! What the run means.
pub mod span;
