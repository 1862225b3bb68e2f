//! The names that hosts go by.

use std::fmt;

/// Of the whole name as text, and of one label of it (RFC 1035 §2.3.4).
const NAME_BYTES: usize = 253;
const LABEL_BYTES: usize = 63;

/// A host's full name in lower case, without the dot at its end. International names have their ASCII form here: a URL
/// with another one does not parse in the first place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct HostName(String);

impl HostName {
    /// Not every name is a host name by the book: those of compose services may have underscores.
    pub(in crate::network) fn parse(text: &str) -> Option<Self> {
        let is_label = |label: &str| {
            (1..=LABEL_BYTES).contains(&label.len())
                && !label.starts_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        (name.len() <= NAME_BYTES && name.split('.').all(is_label))
            .then(|| Self(name.to_ascii_lowercase()))
    }

    /// This name below a domain.
    pub(super) fn within(&self, domain: &Self) -> Option<Self> {
        Self::parse(&format!("{self}.{domain}"))
    }

    pub(super) fn dots(&self) -> usize {
        self.0.bytes().filter(|byte| *byte == b'.').count()
    }

    /// RFC 6761: these names are this machine, whatever any server says.
    pub(super) fn is_localhost(&self) -> bool {
        self.is_below("localhost")
    }

    /// RFC 6761 and RFC 7686: no name server knows these, and those of hidden services must not be told to any.
    pub(super) fn is_never_asked_for(&self) -> bool {
        self.is_below("invalid") || self.is_below("onion")
    }

    fn is_below(&self, domain: &str) -> bool {
        self.0
            .strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
