//! What the agent says: bytes become bounded lines, and lines become events.
//!
//! Pure: nothing here reads a clock, a file or the environment, and nothing here fails. A line is an event, plain text,
//! or JSON that we do not know; each outcome keeps the line.

pub mod event;

pub use event::AgentEvent;
