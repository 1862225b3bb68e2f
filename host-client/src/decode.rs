//! Bytes in any chunks → events.
//!
//! ```
//! use sandtrace_client::{Decoded, Decoder};
//!
//! let mut decoder = Decoder::new();
//! for chunk in [&b"Welcome to bash\n{\"type\":\"hi\",\"sandtrace\":{\"seq\":1,\"time\":\"2026-01-31T12:00:00.000000Z\","[..],
//!               &b"\"trace_id\":\"4bf92f3577b34da6a3ce929d0e0e4736\",\"span_id\":\"00f067aa0ba902b7\"}}\n"[..]] {
//!     for decoded in decoder.feed(chunk) {
//!         match decoded {
//!             Decoded::Event(event) => assert_eq!(event.seq(), 1),
//!             Decoded::Noise(noise) => assert_eq!(noise.text(), "Welcome to bash"),
//!             _ => {}
//!         }
//!     }
//! }
//! ```

use std::borrow::Cow;
use std::fmt;

use crate::event::Event;

/// The longest line that is kept, bytes. The supervisor's own limit for an agent's line is 4 MiB (`limits.line_bytes`),
/// and what it adds is small.
const LINE_BYTES: usize = 16 << 20;

/// How often the start of an event is looked for in a line that is none.
const STARTS: usize = 16;

/// Turns a stream into events, however it was cut into chunks. Does no I/O and knows no clock.
///
/// It holds no more than the line that has begun, and of that no more than 16 MiB.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The line that has begun.
    line: Vec<u8>,
    /// How much of it was passed over, because it is longer than anybody's.
    passed_over: u64,
}

/// What a stream holds.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Decoded {
    /// A line of the run.
    Event(Box<Event>),
    /// A line that is none of the run's.
    Noise(Noise),
}

/// A line of nobody's, as a login shell's profile prints before the first event. If it printed no newline after it, the
/// event is in the same line, and follows all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noise {
    bytes: Vec<u8>,
    /// Bytes that are not in it, because the line was too long to keep.
    passed_over: u64,
}

impl Noise {
    /// The bytes, without the newline.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes as text; what is no UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// How many bytes of it were passed over; 0 but for a line of more than 16 MiB.
    #[must_use]
    pub fn passed_over(&self) -> u64 {
        self.passed_over
    }
}

impl fmt::Display for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl Decoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream and gives the lines that they complete.
    #[must_use = "the events are in the result"]
    pub fn feed(&mut self, mut bytes: &[u8]) -> Vec<Decoded> {
        let mut decoded = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let line = &bytes[..end];
            if self.line.is_empty() && line.len() <= LINE_BYTES {
                // Most lines come whole, and need not be kept first.
                read(line, 0, &mut decoded);
            } else {
                self.keep(line);
                self.take(&mut decoded);
            }
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
        decoded
    }

    /// The stream is over: gives the last line if its newline is missing. The next bytes begin another stream.
    #[must_use = "the last event is in the result"]
    pub fn finish(&mut self) -> Option<Decoded> {
        let mut decoded = Vec::new();
        self.take(&mut decoded);
        // Of an event and what stood before it, the event.
        decoded.pop()
    }

    /// The stream broke: what has begun of a line is thrown away, for the next stream brings the whole line.
    pub fn reset(&mut self) {
        self.line = Vec::new();
        self.passed_over = 0;
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES - self.line.len();
        let kept = &bytes[..bytes.len().min(room)];
        self.line.extend_from_slice(kept);
        self.passed_over += (bytes.len() - kept.len()) as u64;
    }

    fn take(&mut self, decoded: &mut Vec<Decoded>) {
        let line = std::mem::take(&mut self.line);
        let passed_over = std::mem::take(&mut self.passed_over);
        read(&line, passed_over, decoded);
    }
}

/// What a line is.
fn read(line: &[u8], passed_over: u64, decoded: &mut Vec<Decoded>) {
    if passed_over == 0 {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        if let Some(event) = event(line) {
            decoded.push(event);
            return;
        }
    }
    let noise = |bytes: &[u8]| {
        Decoded::Noise(Noise {
            bytes: bytes.to_vec(),
            passed_over,
        })
    };
    match (passed_over == 0)
        .then(|| event_after_noise(line))
        .flatten()
    {
        Some((start, event)) => decoded.extend([noise(&line[..start]), event]),
        None => decoded.push(noise(line)),
    }
}

fn event(line: &[u8]) -> Option<Decoded> {
    // Asked first, for most noise is no object and need not be looked through.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let event = Event::parse(std::str::from_utf8(line).ok()?).ok()?;
    Some(Decoded::Event(Box::new(event)))
}

/// The event at the end of a line, behind what somebody printed without a newline: a shell's prompt, or the start of a
/// line that was torn.
fn event_after_noise(line: &[u8]) -> Option<(usize, Decoded)> {
    if line.trim_ascii_end().last() != Some(&b'}') {
        return None;
    }
    let starts = (1..line.len()).filter(|at| line[*at..].starts_with(b"{\""));
    starts
        .take(STARTS)
        .find_map(|start| Some((start, event(&line[start..])?)))
}
