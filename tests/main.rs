//! Black-box tests, in one binary.
#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, its functions included"
)]

mod attach;
mod cgroup;
mod clock;
mod disk;
mod doctor;
mod echo;
mod elsewhere;
mod executable;
mod export;
mod fleet;
mod fuzz;
mod host;
mod isolated;
mod joined;
mod journal;
mod logs;
mod metrics;
mod network;
mod oom;
mod otlp_lines;
mod process;
mod process_tree;
mod readme;
mod real_agent;
mod recordings;
mod resources;
mod run;
mod sampling;
mod schema;
mod secrets;
mod security;
mod spool;
mod stop;
mod stop_command;
mod streams;
mod supervised;
mod support;
mod telemetry;
mod transport;
mod twin;
