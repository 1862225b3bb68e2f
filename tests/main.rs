//! Black-box tests, in one binary.
#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, its functions included"
)]

mod export;
mod isolated;
mod process;
mod real_agent;
mod support;
mod telemetry;
