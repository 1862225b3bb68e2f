//! A run for browsers: its events as [Server-Sent Events](https://html.spec.whatwg.org/multipage/server-sent-events.html).
//!
//! ```
//! use sandtrace_client::Event;
//! use sandtrace_client::sse::{Feed, Last, Reading};
//!
//! // Whoever follows the run owns the feed, and puts every event in.
//! let mut feed = Feed::new(1 << 20);
//! # let line = r#"{"type":"text","data":{"text":"hi"},"sandtrace":{"seq":1,"time":"2026-01-31T12:00:00.000000Z","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7"}}"#;
//! # let event = Event::parse(line)?;
//! feed.push(&event);
//!
//! // For each request there is a reader, which begins after what the browser has: its header `Last-Event-ID`.
//! let mut reader = feed.reader(Last::parse(""));
//! let Reading::Text(text) = reader.read(&feed, 64 << 10) else { panic!() };
//! assert!(text.starts_with("event: trace\n") && text.contains("4bf92f3577b34da6a3ce929d0e0e4736"));
//! assert!(text.contains("id: 1\nevent: agent.text\ndata: {\"type\":\"text\""));
//! assert!(matches!(reader.read(&feed, 64 << 10), Reading::Nothing));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A line becomes one event: `id` is its `seq`, `event` its type ([`Names`]), `data` the line itself. Three more events
//! are no lines of the run:
//!
//! | event | when | data | id |
//! |---|---|---|---|
//! | `trace` | first on every stream | `trace_id`, `run_id`, `root_span_id`; the last two `null` until they are known | none |
//! | `gap` | some events are not kept any more | `after` which number, how many are `missing` | of the last that is missing |
//! | `end` | last, once the run has its conclusion | `trace_id`, `run_id`, `seq`, `outcome`, `failure`, `lost` | `SEQ.end` |
//!
//! So the first and the last event of a run's stream have its trace id, wherever a browser came in.
//!
//! # Nobody waits for a reader
//!
//! A [`Feed`] keeps the last events up to a number of bytes and forgets the oldest. A [`Reader`] is a number and two
//! flags: it takes from the feed what comes after its number, at its own speed. One who is too slow is told by a `gap`
//! what it missed, and goes on; the run, and the other readers, notice nothing. Who would rather have all of it asks
//! [`Feed::missing`] first, takes the missing lines from `sandtrace attach --after`, and writes them with [`text_of`].
//!
//! # In a web server
//!
//! This module does no I/O. In an application with tokio, a feed in a `tokio::sync::watch` channel is all there is to
//! do: the run's task puts events in with `send_modify`, a response waits for `changed`, and reads. The example `sse`
//! does so.
//!
//! - Answer with `Content-Type: text/event-stream` and `Cache-Control: no-store`; first send [`retry`].
//! - Send [`KEEPALIVE`] when nothing was sent for some seconds, so that proxies do not cut the stream, and so that the
//!   server notices when the browser is gone.
//! - When the first thing that a reader gives is [`Reading::Over`], answer 204: it is what tells an `EventSource` to
//!   stop. Ending the stream is not, for it would come back.
//!
//! A page must insert what the lines hold as text, never as HTML: it is written by a model, and by what the model read.

mod feed;
mod last;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

pub use self::feed::{Feed, Reader, Reading};
pub use self::last::Last;

use crate::event::{Content, Event};

/// A comment, which nobody sees: what to send when there is nothing to send.
pub const KEEPALIVE: &str = ":\n\n";

/// The longest name of an event, bytes; a longer type is cut.
const NAME_BYTES: usize = 64;

/// What the events are called, which is what `addEventListener` wants to know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Names {
    /// A line of the supervisor by its type, `sandtrace.run.started`; a line of the agent as `agent.` and its type,
    /// `agent.assistant`, or `agent` if it has none. Nothing that an agent prints can pretend to be the supervisor's, or
    /// one of `EventSource`'s own events: an agent's `error` would look like a broken connection.
    #[default]
    ByType,
    /// No line has a name, so that all of them come to `onmessage`, those of tomorrow too; their type is in the data.
    Unnamed,
}

/// One event as text, with the empty line that ends it.
#[must_use]
pub fn text_of(event: &Event, names: Names) -> String {
    let mut text = String::with_capacity(event.raw().len() + 96);
    // Writing to a string cannot fail.
    _ = writeln!(text, "id: {}", event.seq());
    if let Some(name) = name_of(event, names) {
        _ = writeln!(text, "event: {name}");
    }
    data(&mut text, event.raw());
    text
}

/// How long a browser waits before it comes back, milliseconds on the wire; to be sent once, first of all.
#[must_use]
pub fn retry(wait: Duration) -> String {
    format!("retry: {}\n\n", wait.as_millis())
}

/// Adds the data, and ends the event. A line break within JSON is white space between two tokens; it may be any of three,
/// and each of them would begin a new field, so the data takes as many fields as it has lines.
fn data(text: &mut String, data: &str) {
    for part in data.split('\n') {
        for part in part.strip_suffix('\r').unwrap_or(part).split('\r') {
            text.push_str("data: ");
            text.push_str(part);
            text.push('\n');
        }
    }
    text.push('\n');
}

fn name_of(event: &Event, names: Names) -> Option<Cow<'_, str>> {
    if names == Names::Unnamed {
        return None;
    }
    Some(match event.content() {
        Content::Supervisor(body) => Cow::Borrowed(body.kind()),
        Content::Unknown { kind } => Cow::Owned(word(kind)),
        Content::Agent(line) => match line.kind() {
            Some(kind) => Cow::Owned(word(&format!("agent.{kind}"))),
            None => Cow::Borrowed("agent"),
        },
    })
}

/// A name that cannot end its line.
fn word(name: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    name.chars()
        .take(NAME_BYTES)
        .map(|char| if plain(char) { char } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests;
