//! The envelopes of Connect's streams: one byte of flags, four of length, a message. No I/O.
//!
//! Every message of `application/connect+json` is in one, and the last envelope of a stream holds how it ended, always in
//! JSON (`reference/e2b.md` §6). An HTTP body that ends before that envelope was cut, whatever HTTP says about it.
//!
//! ```
//! use sandtrace_client::e2b::envelope::{Envelopes, Part, enclosed};
//!
//! let mut body = enclosed(br#"{"event":{"keepalive":{}}}"#);
//! body.extend_from_slice(b"\x02\x00\x00\x00\x02{}");
//! let mut envelopes = Envelopes::new();
//! let mut parts = Vec::new();
//! for byte in body {
//!     envelopes.feed(&[byte]);
//!     while let Some(part) = envelopes.next()? {
//!         parts.push(part);
//!     }
//! }
//! assert_eq!(parts[0], Part::Message(br#"{"event":{"keepalive":{}}}"#[..].into()));
//! assert_eq!(parts[1], Part::End(None));
//! envelopes.finish()?;
//! # Ok::<(), sandtrace_client::e2b::envelope::EnvelopeError>(())
//! ```

use bytes::{Buf as _, Bytes, BytesMut};
use serde::Deserialize;
use thiserror::Error;

use super::refusal::Refusal;

/// The longest message that is taken, bytes. envd reads 32 KiB at a time, which is 44 KiB in base64; what claims to be far
/// more is no answer of envd's.
pub const LONGEST: usize = 4 << 20;

/// Flags and length.
const HEAD: usize = 5;
const COMPRESSED: u8 = 1;
const END: u8 = 2;

/// A message in its envelope.
#[must_use]
pub fn enclosed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut envelope = Vec::with_capacity(HEAD + message.len());
    envelope.push(0);
    envelope.extend_from_slice(&length.to_be_bytes());
    envelope.extend_from_slice(message);
    envelope
}

/// What a stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A message.
    Message(Bytes),
    /// How the stream ended; nothing follows.
    End(Option<Refusal>),
}

/// Why a body is no stream of envelopes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// No compression was offered.
    #[error("a message is compressed, which nobody asked for")]
    Compressed,
    /// There are two flags.
    #[error("a message has unknown flags: {0:#04x}")]
    Flags(u8),
    /// It is longer than [`LONGEST`].
    #[error("a message claims to have {0} bytes; {LONGEST} are the most that is taken")]
    TooLong(u32),
    /// The last message is not what it must be.
    #[error("the end of the stream is not readable: {0}")]
    End(String),
    /// There is something after the last message.
    #[error("there is something after the end of the stream")]
    AfterEnd,
    /// The body ended first.
    #[error("the body ended before the end of the stream")]
    Cut,
}

/// Takes a body in pieces and gives its parts.
#[derive(Debug, Default)]
pub struct Envelopes {
    bytes: BytesMut,
    ended: bool,
}

/// The message at the end of a stream.
#[derive(Deserialize)]
struct EndOfStream {
    #[serde(default)]
    error: Option<Refusal>,
}

impl Envelopes {
    /// At the start of a body.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes. Call [`next`](Self::next) until there is nothing, before feeding more: what is kept is then
    /// never more than one envelope and one piece.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next part, if it is there whole.
    ///
    /// # Errors
    ///
    /// When the body is no stream of envelopes; nothing sensible can follow.
    #[expect(
        clippy::should_implement_trait,
        reason = "it says why it cannot go on, an iterator ends"
    )]
    pub fn next(&mut self) -> Result<Option<Part>, EnvelopeError> {
        if self.ended && !self.bytes.is_empty() {
            return Err(EnvelopeError::AfterEnd);
        }
        // What is wrong shows in the head, before the message is there.
        let Some((&[flags, a, b, c, d], _)) = self.bytes.split_first_chunk::<HEAD>() else {
            return match self.bytes.first() {
                Some(flags) => checked(*flags).map(|()| None),
                None => Ok(None),
            };
        };
        checked(flags)?;
        let claimed = u32::from_be_bytes([a, b, c, d]);
        let length = usize::try_from(claimed).unwrap_or(usize::MAX);
        if length > LONGEST {
            return Err(EnvelopeError::TooLong(claimed));
        }
        if self.bytes.len() < HEAD + length {
            return Ok(None);
        }
        self.bytes.advance(HEAD);
        let message = self.bytes.split_to(length).freeze();
        if flags & END == 0 {
            return Ok(Some(Part::Message(message)));
        }
        self.ended = true;
        let end: EndOfStream = serde_json::from_slice(&message)
            .map_err(|error| EnvelopeError::End(error.to_string()))?;
        Ok(Some(Part::End(end.error)))
    }

    /// The body is over.
    ///
    /// # Errors
    ///
    /// When it is over too early.
    pub fn finish(&self) -> Result<(), EnvelopeError> {
        match (self.ended, self.bytes.is_empty()) {
            (true, true) => Ok(()),
            (true, false) => Err(EnvelopeError::AfterEnd),
            (false, _) => Err(EnvelopeError::Cut),
        }
    }
}

fn checked(flags: u8) -> Result<(), EnvelopeError> {
    match flags {
        0 | END => Ok(()),
        flags if flags & !(COMPRESSED | END) != 0 => Err(EnvelopeError::Flags(flags)),
        _ => Err(EnvelopeError::Compressed),
    }
}
