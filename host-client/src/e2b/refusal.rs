//! What a server says instead of an answer.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// An error as Connect tells it, at the end of a stream or as the body of a status other than 200. A proxy in between
/// speaks the same shape with a number for the code (`reference/e2b.md` §6).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// What kind of error.
    #[serde(default)]
    pub code: Code,
    /// For people.
    #[serde(default)]
    pub message: String,
}

/// Connect's codes, and a proxy's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Code {
    /// `canceled`
    Canceled,
    /// `unknown`, and none at all.
    #[default]
    Unknown,
    /// `invalid_argument`
    InvalidArgument,
    /// `deadline_exceeded`
    DeadlineExceeded,
    /// `not_found`
    NotFound,
    /// `permission_denied`
    PermissionDenied,
    /// `resource_exhausted`
    ResourceExhausted,
    /// `failed_precondition`
    FailedPrecondition,
    /// `unimplemented`
    Unimplemented,
    /// `internal`
    Internal,
    /// `unavailable`
    Unavailable,
    /// `unauthenticated`
    Unauthenticated,
    /// A status of HTTP: it was not the service that answered.
    Status(u16),
    /// Another word.
    Other(String),
}

const WORDS: [(&str, Code); 12] = [
    ("canceled", Code::Canceled),
    ("unknown", Code::Unknown),
    ("invalid_argument", Code::InvalidArgument),
    ("deadline_exceeded", Code::DeadlineExceeded),
    ("not_found", Code::NotFound),
    ("permission_denied", Code::PermissionDenied),
    ("resource_exhausted", Code::ResourceExhausted),
    ("failed_precondition", Code::FailedPrecondition),
    ("unimplemented", Code::Unimplemented),
    ("internal", Code::Internal),
    ("unavailable", Code::Unavailable),
    ("unauthenticated", Code::Unauthenticated),
];

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u16),
            Word(String),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Number(status) => Self::Status(status),
            Written::Word(word) => {
                let known = WORDS.iter().find(|(name, _)| *name == word);
                known.map_or(Self::Other(word), |(_, code)| code.clone())
            }
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "HTTP {status}"),
            Self::Other(word) => f.write_str(word),
            known => {
                let word = WORDS.iter().find(|(_, code)| code == known);
                f.write_str(word.map_or("unknown", |(name, _)| name))
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => self.code.fmt(f),
            message => write!(f, "{}: {message}", self.code),
        }
    }
}

impl Refusal {
    /// Reads the body of an answer with a status other than 2xx. Whatever it holds, the status is known.
    pub(super) fn of(status: u16, body: &[u8]) -> Self {
        let read = serde_json::from_slice::<Self>(body);
        read.ok()
            .filter(|read| *read != Self::nothing())
            .unwrap_or_else(|| Self {
                code: Code::Status(status),
                message: String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned(),
            })
    }

    fn nothing() -> Self {
        Self {
            code: Code::Unknown,
            message: String::new(),
        }
    }
}
