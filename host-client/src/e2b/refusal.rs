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
    /// Reads the body of an answer with a status other than 2xx. Whatever it holds, the status is known, and is the code
    /// of what has none.
    pub(super) fn of(status: u16, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Written {
            code: Option<Code>,
            message: Option<String>,
        }
        let (code, message) = match serde_json::from_slice(body) {
            Ok(Written { code, message }) => (code, message),
            Err(_) => (None, None),
        };
        let message = match (&code, message) {
            (_, Some(message)) => message,
            (Some(_), None) => String::new(),
            (None, None) => String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned(),
        };
        Self {
            code: code.unwrap_or(Code::Status(status)),
            message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, Refusal};

    #[test]
    fn what_names_no_code_has_its_status_for_one() {
        for (body, code, message) in [
            (r#"{"code":"not_found","message":"m"}"#, Code::NotFound, "m"),
            (r#"{"code":404,"message":"m"}"#, Code::Status(404), "m"),
            (r#"{"code":"unknown"}"#, Code::Unknown, ""),
            (r#"{"message":"m"}"#, Code::Status(403), "m"),
            (r#"{"code":null,"message":"m"}"#, Code::Status(403), "m"),
            (r#"{"error":"e"}"#, Code::Status(403), r#"{"error":"e"}"#),
            ("<html>", Code::Status(403), "<html>"),
            ("", Code::Status(403), ""),
        ] {
            let message = message.to_owned();
            assert_eq!(
                Refusal::of(403, body.as_bytes()),
                Refusal { code, message },
                "{body}"
            );
        }
    }
}
