//! The Connect protocol in JSON: envelopes, errors, codes (`reference/e2b.md` §6).

use serde_json::{Map, Value, json};

const COMPRESSED: u8 = 0x01;
const END_OF_STREAM: u8 = 0x02;

/// The longest message that is taken; envd has no limit of its own.
const LONGEST: usize = 64 << 20;

/// An error as Connect tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Error {
    code: Code,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
}

impl Code {
    fn word(self) -> &'static str {
        match self {
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Internal => "internal",
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::Unavailable => "unavailable",
            Self::Unimplemented => "unimplemented",
        }
    }

    /// The HTTP status of a unary answer.
    fn status(self) -> u16 {
        match self {
            Self::DeadlineExceeded => 504,
            Self::Internal => 500,
            Self::InvalidArgument => 400,
            Self::NotFound => 404,
            Self::Unavailable => 503,
            Self::Unimplemented => 501,
        }
    }
}

impl Error {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    pub(super) fn status(&self) -> u16 {
        self.code.status()
    }

    pub(super) fn json(&self) -> Value {
        json!({"code": self.code.word(), "message": self.message})
    }
}

pub(super) type Result<T> = std::result::Result<T, Error>;

fn envelope(flags: u8, payload: &Value) -> Vec<u8> {
    let payload = payload.to_string();
    let length = u32::try_from(payload.len()).unwrap();
    let mut bytes = vec![flags];
    bytes.extend(length.to_be_bytes());
    bytes.extend(payload.bytes());
    bytes
}

/// One message of a stream.
pub(super) fn message(payload: &Value) -> Vec<u8> {
    envelope(0, payload)
}

/// The end of a stream.
pub(super) fn end_of_stream(error: Option<&Error>) -> Vec<u8> {
    let payload = match error {
        None => Value::Object(Map::new()),
        Some(error) => json!({"error": error.json()}),
    };
    envelope(END_OF_STREAM, &payload)
}

/// The envelopes of a request, from whatever pieces it comes in.
#[derive(Debug, Default)]
pub(super) struct Envelopes {
    buffer: Vec<u8>,
}

impl Envelopes {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message; None if more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<Value>> {
        let Some((head, rest)) = self.buffer.split_first_chunk::<5>() else {
            return Ok(None);
        };
        let [flags, length @ ..] = *head;
        let length = u32::from_be_bytes(length) as usize;
        if flags & COMPRESSED != 0 {
            // Nobody announced a compression.
            return Err(Error::internal(
                "protocol error: sent compressed message without compression support",
            ));
        }
        if flags != 0 {
            return Err(Error::internal(format!(
                "protocol error: invalid envelope flags {flags:08b}"
            )));
        }
        if length > LONGEST {
            return Err(Error::invalid(format!("message of {length} bytes")));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let message = parse(&rest[..length]);
        self.buffer.drain(..5 + length);
        message.map(Some)
    }

    /// The request is over.
    pub(super) fn finish(&self) -> Result<()> {
        match self.buffer.len() {
            0 => Ok(()),
            left => Err(Error::invalid(format!(
                "protocol error: incomplete envelope: {left} bytes are left"
            ))),
        }
    }
}

/// A message in JSON; an empty body is an empty message.
pub(super) fn parse(bytes: &[u8]) -> Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let message = serde_json::from_slice::<Value>(bytes);
    let message = message.map_err(|error| Error::invalid(format!("unmarshal message: {error}")))?;
    if message.is_object() {
        Ok(message)
    } else {
        Err(Error::invalid("unmarshal message: no object"))
    }
}
