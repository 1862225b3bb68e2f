//! What a backend wants to read beyond the base conventions, or instead of them: a pure function over a span.

use crate::session::span::FinishedSpan;

/// How a backend wants its attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// The spans as they are.
    #[default]
    Otlp,
}

impl Dialect {
    /// The translation of one span.
    #[must_use]
    pub fn span(self) -> fn(FinishedSpan) -> FinishedSpan {
        match self {
            Self::Otlp => |span| span,
        }
    }
}
