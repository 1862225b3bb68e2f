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

/// Turns a stream into events, however it was cut into chunks. Does no I/O and knows no clock.
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

/// A line of nobody's, as a login shell's profile prints before the first event.
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
            self.keep(&bytes[..end]);
            decoded.extend(self.take());
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
        decoded
    }

    /// The stream is over: gives the last line if its newline is missing.
    #[must_use = "the last event is in the result"]
    pub fn finish(&mut self) -> Option<Decoded> {
        self.take()
    }

    /// The stream broke: what has begun of a line is thrown away, for the next stream brings the whole line.
    pub fn reset(&mut self) {
        self.line.clear();
        self.passed_over = 0;
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES - self.line.len();
        let kept = &bytes[..bytes.len().min(room)];
        self.line.extend_from_slice(kept);
        self.passed_over += (bytes.len() - kept.len()) as u64;
    }

    fn take(&mut self) -> Option<Decoded> {
        let bytes = std::mem::take(&mut self.line);
        let passed_over = std::mem::take(&mut self.passed_over);
        if bytes.iter().all(u8::is_ascii_whitespace) && passed_over == 0 {
            return None;
        }
        let event = std::str::from_utf8(&bytes)
            .ok()
            .filter(|_| passed_over == 0)
            .and_then(|line| Event::parse(line).ok());
        Some(match event {
            Some(event) => Decoded::Event(Box::new(event)),
            None => Decoded::Noise(Noise { bytes, passed_over }),
        })
    }
}
