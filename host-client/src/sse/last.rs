//! What a browser has: the header `Last-Event-ID`.

/// The last event that a reader has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Last {
    pub(super) seq: u64,
    /// It has the `end` too.
    pub(super) end: bool,
}

impl Last {
    /// Nothing yet.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// All up to this number.
    #[must_use]
    pub fn seq(seq: u64) -> Self {
        Self { seq, end: false }
    }

    /// Reads the header `Last-Event-ID`. One that is not ours, and an empty one, stand for nothing: it is better to say
    /// something twice than not at all.
    #[must_use]
    pub fn parse(header: &str) -> Self {
        let (number, end) = match header.strip_suffix(".end") {
            Some(number) => (number, true),
            None => (header, false),
        };
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        match number.parse() {
            Ok(seq) if digits => Self { seq, end },
            _ => Self::none(),
        }
    }
}
