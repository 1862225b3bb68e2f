//! Black-box tests of the host's side, in one binary: everything that talks to the fake envd, and the fake itself.
#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, its functions included"
)]

mod application;
mod broken;
mod client;
mod e2b;
#[path = "../fake_envd/mod.rs"]
mod fake_envd;
mod faults;
mod local;
mod pages;
mod processes;
mod protocol;
mod raw;
mod sandboxes;
mod sdks;
mod stage;
#[path = "../support/mod.rs"]
#[expect(
    dead_code,
    reason = "shared with the other black-box tests, which use all of it"
)]
mod support;
mod telemetry;
