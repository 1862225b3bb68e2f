//! What the agent says: bytes become bounded lines, and lines become events.
//!
//! ```text
//! chunk ─► line::Lines ─► Fragment ─► decode::decode ─► Event | Unrecognised | Text | Forged
//! ```
//!
//! [`mod@line`] cuts the pipe's chunks into lines without losing a byte. [`mod@decode`] asks what a line is: `json`
//! checks it and finds the members of its outermost object, then the dialect it is written in reads those that matter:
//!
//! - `cli`: the stream of `claude --output-format stream-json`, with its many `system` lines;
//! - `dataclass`: the messages of the Python SDK printed as JSON, with or without the names of their classes;
//! - `boilerplate`: the events of the E2B boilerplate's agents and of our template's agent.py.
//!
//! The first two say the same things in nearly the same words, so `message`, `result`, `block` and `usage` read
//! both. Whatever the dialect, the outcome is one [`event`] model.
//!
//! Pure: nothing here reads a clock, a file or the environment, and nothing here fails. A line is an event, plain text,
//! or JSON that we do not know; each outcome leaves the line with its owner, who can always pass it on.

mod block;
mod boilerplate;
mod cli;
mod dataclass;
pub mod decode;
pub mod event;
mod json;
pub mod line;
mod message;
mod result;
mod system;
mod usage;

pub use decode::{Decoded, decode};
pub use event::AgentEvent;
pub use line::{Fragment, Lines, MAX_LINE, Part};
