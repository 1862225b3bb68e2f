//! One line of a run, as the host reads it.
//!
//! A line is kept as it came ([`Event::raw`]), so nothing that a newer supervisor or agent says is lost on a reader that
//! does not know it. What this crate knows of it is in [`Content`].

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::agent::AgentLine;
use crate::wire::{Body, Stamp};

/// Where our member begins in a line of the agent: it is always the last one (DESIGN §4).
const MEMBER: &str = "\"sandtrace\":";

/// One line of a run.
#[derive(Debug, Clone)]
pub struct Event {
    stamp: Stamp,
    content: Content,
    raw: Box<str>,
}

/// What a line says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Content {
    /// The supervisor speaks.
    Supervisor(Body),
    /// The agent speaks.
    Agent(AgentLine),
    /// The supervisor speaks in words that this version does not know; [`Event::raw`] has them.
    Unknown {
        /// The line's type, `sandtrace.…`.
        kind: String,
    },
}

/// Why a line is none of a run's.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NotAnEvent {
    /// It is not a JSON object, as the noise of a login shell.
    #[error("not a JSON object: {0}")]
    NotJson(#[source] serde_json::Error),
    /// It has no member `sandtrace`: nobody supervised whoever printed it.
    #[error("no member \"sandtrace\" with seq, time, trace_id and span_id")]
    NoStamp,
}

/// A line's outside: what every line has.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    sandtrace: Option<&'a RawValue>,
}

impl Event {
    /// Reads one line, without its newline.
    ///
    /// # Errors
    ///
    /// When it is no line of a supervised run.
    pub fn parse(line: &str) -> Result<Self, NotAnEvent> {
        let line = line.trim();
        let envelope: Envelope<'_> = serde_json::from_str(line).map_err(NotAnEvent::NotJson)?;
        let stamp = envelope
            .sandtrace
            .and_then(|stamp| serde_json::from_str(stamp.get()).ok())
            .ok_or(NotAnEvent::NoStamp)?;
        let kind: Option<String> = envelope
            .kind
            .and_then(|kind| serde_json::from_str(kind.get()).ok());
        let content = match kind {
            Some(kind) if kind.starts_with("sandtrace.") => {
                serde_json::from_str(line).map_or(Content::Unknown { kind }, Content::Supervisor)
            }
            kind => Content::Agent(AgentLine::new(kind, line)),
        };
        Ok(Self {
            stamp,
            content,
            raw: line.into(),
        })
    }

    /// The line's number within its run: from 1, without gaps. The key for going on after a disconnect.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.stamp.seq
    }

    /// Number, time, trace and span.
    #[must_use]
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// What the line says, as far as this version knows.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The whole line as it came, without its newline.
    #[must_use]
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// The whole line as a JSON value, with every member that this version does not know.
    #[must_use]
    pub fn json(&self) -> Value {
        // It was read once already.
        serde_json::from_str(&self.raw).unwrap_or_default()
    }

    /// The line as the agent printed it, byte for byte, when it is the agent's.
    #[must_use]
    pub fn as_printed(&self) -> Option<String> {
        let Content::Agent(_) = self.content else {
            return None;
        };
        let at = self.raw.rfind(MEMBER)?;
        let kept = self.raw[..at].strip_suffix(',').unwrap_or(&self.raw[..at]);
        Some(format!("{kept}}}"))
    }
}
