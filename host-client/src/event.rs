//! One line of a run, as the host reads it.
//!
//! A line is kept as it came ([`Event::raw`]), so nothing that a newer supervisor or agent says is lost on a reader that
//! does not know it. What this crate knows of it is in [`Content`].

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::agent::AgentLine;
use crate::wire::{Body, Stamp};

/// Where our member begins in a line of the agent: it is always the last one (DESIGN §4).
const MEMBER: &str = "\"sandtrace\":";

/// One line of a run. Cheap to clone but for the supervisor's lines.
#[derive(Debug, Clone)]
pub struct Event {
    stamp: Stamp,
    content: Content,
    raw: Arc<str>,
}

/// What a line says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Content {
    /// The supervisor speaks.
    Supervisor(Body),
    /// The agent speaks.
    Agent(AgentLine),
    /// The supervisor speaks in words that this version does not know: a new type, or a known one in a new shape.
    /// [`Event::raw`] has them.
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

/// A line's outside: what every line has. Of members that stand twice, as an agent may print them, the last counts, as
/// in nearly all JSON libraries.
#[derive(Default)]
struct Envelope<'a> {
    kind: Option<&'a RawValue>,
    stamp: Option<&'a RawValue>,
}

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Envelope<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut envelope = Envelope::default();
                // Raw keys too: half of a UTF-16 pair in one makes no line unreadable.
                while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                    match text(key).as_deref() {
                        Some("type") => envelope.kind = Some(value),
                        Some("sandtrace") => envelope.stamp = Some(value),
                        _ => {}
                    }
                }
                Ok(envelope)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// The text of a JSON string.
fn text(json: &RawValue) -> Option<Cow<'_, str>> {
    let quoted = json.get();
    let inside = quoted.strip_prefix('"')?.strip_suffix('"')?;
    if inside.contains('\\') {
        return serde_json::from_str(quoted).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inside))
}

impl Event {
    /// Reads one line, without its newline.
    ///
    /// # Errors
    ///
    /// When it is no line of a supervised run.
    pub fn parse(line: &str) -> Result<Self, NotAnEvent> {
        let envelope: Envelope<'_> = serde_json::from_str(line).map_err(NotAnEvent::NotJson)?;
        let stamp = envelope
            .stamp
            .and_then(|stamp| serde_json::from_str(stamp.get()).ok())
            .ok_or(NotAnEvent::NoStamp)?;
        let raw: Arc<str> = line.into();
        let content = match envelope.kind.and_then(text) {
            Some(kind) if kind.starts_with("sandtrace.") => match serde_json::from_str(line) {
                Ok(body) => Content::Supervisor(body),
                Err(_) => Content::Unknown {
                    kind: kind.into_owned(),
                },
            },
            kind => {
                let kind = kind.map(|kind| kind.into_owned().into_boxed_str());
                Content::Agent(AgentLine::new(kind, Arc::clone(&raw)))
            }
        };
        Ok(Self {
            stamp,
            content,
            raw,
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

    /// The line's `type`; an agent's line may have none.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        match &self.content {
            Content::Supervisor(body) => Some(body.kind()),
            Content::Agent(line) => line.kind(),
            Content::Unknown { kind } => Some(kind),
        }
    }

    /// The whole line as it came, without its newline.
    #[must_use]
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// The whole line as a JSON value, with every member that this version does not know. `null` for an agent's line
    /// that cannot be one, see [`AgentLine::json`].
    #[must_use]
    pub fn json(&self) -> Value {
        match &self.content {
            Content::Agent(line) => line.json().clone(),
            // It was read once already.
            _ => serde_json::from_str(&self.raw).unwrap_or_default(),
        }
    }

    /// The line as the agent printed it, byte for byte, when it is the agent's.
    #[must_use]
    pub fn as_printed(&self) -> Option<String> {
        let Content::Agent(_) = self.content else {
            return None;
        };
        let at = self.raw.rfind(MEMBER)?;
        // The member's value is a flat object of ours.
        let end = at + self.raw[at..].find('}')? + 1;
        let kept = self.raw[..at].strip_suffix(',').unwrap_or(&self.raw[..at]);
        Some([kept, &self.raw[end..]].concat())
    }
}
