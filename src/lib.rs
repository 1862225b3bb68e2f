//! sandtrace
pub mod agent;
pub mod process;
pub mod report;
pub mod resources;
pub mod session;
pub mod telemetry;
pub mod time;
