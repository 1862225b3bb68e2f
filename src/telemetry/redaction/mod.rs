//! Redaction: what must not leave the sandbox is taken out of everything that we make, before it is on disk, on the wire
//! or in a terminal.
//!
//! Looked for are the values of secret variables, in several spellings (`environment`); the formats of well-known
//! credentials (`rules`); and the user's own patterns (`pattern`). In the place of each stands `<redacted:NAME>`,
//! with the name of the rule or of the variable and never a part of the value. Only then are texts clipped: half a secret
//! would pass for none. The agent's own bytes stay as they are, on stdout and in `events.ndjson` (DESIGN §8).
//!
//! Spans, records and resources are redacted on the export thread. Our own lines about a run are redacted on the loop's,
//! for a line must be whole when it gets its number, and the agent's next line may not be told before it. That is cheap
//! enough to need no thread of its own (`benches/redact.rs`): the set of keywords and known values is made once, with the
//! first line, in 0.08 ms; a span without a secret takes 2 µs. A rule is compiled when its keyword turns up, once for both
//! threads, in 0.01 ms as a rule and 0.07 ms at most; all 95 take 0.8 ms and 1.1 MiB. The agent's lines are never
//! looked through, so they wait for this only where they make a span begin or end.
//!
//! A span and a log record say how many were taken out of them, each for itself; no other count is kept, so what is told
//! twice, in a line and in its span, is counted once.

mod environment;
mod needles;
mod pattern;
mod rules;
mod scan;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::{Array, StringValue, Value};
use sandtrace_client::failure::Failure;
use serde_json::Value as Json;

use self::scan::{Ends, Scanner};
use super::logs::LogEntry;
use crate::session::semconv::key;
use crate::session::span::{Attribute, Content, ContentForm, FinishedSpan, SpanStatus};

pub use self::pattern::{Pattern, PatternError};

/// The rule by which a secret is known that stands under a name.
const ASSIGNED: &str = "assigned-secret";
/// The rule for private keys.
const PRIVATE_KEY: &str = "private-key";

/// What to take out.
#[derive(Debug)]
pub struct Redactor {
    scanner: Scanner,
    /// The last log record ended within a private key, which stderr shows one line at a time.
    inside_key: AtomicBool,
}

impl Default for Redactor {
    /// Knows the formats, and nobody's variables.
    fn default() -> Self {
        Self::new([], Vec::new())
    }
}

impl Redactor {
    /// Learns the secrets among `variables`, given as name and value. One that is not UTF-8 appears in no text.
    #[must_use]
    pub fn new<'a>(
        variables: impl IntoIterator<Item = (&'a OsStr, &'a OsStr)>,
        patterns: Vec<Pattern>,
    ) -> Self {
        let text = |text: &OsStr| text.to_str().map(str::to_owned);
        let variables = variables.into_iter();
        let variables = variables.filter_map(|(name, value)| Some((text(name)?, text(value)?)));
        Self {
            scanner: Scanner::new(variables, patterns),
            inside_key: AtomicBool::new(false),
        }
    }

    /// A text without its secrets.
    #[must_use]
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.scanner.clean(text, Ends::Whole).0
    }

    /// Takes them out of a verdict's words.
    pub fn failure(&self, failure: &mut Failure) {
        self.string(&mut failure.message);
        for evidence in &mut failure.evidence {
            self.string(&mut evidence.fact);
        }
    }

    /// Takes them out of every string of a JSON value, and says how many there were.
    pub fn json(&self, value: &mut Json) -> u64 {
        self.json_clipped(value, usize::MAX)
    }

    /// Takes them out of all texts of a span, and makes attributes of its content.
    pub fn span(&self, span: &mut FinishedSpan) {
        let mut taken = self.cow(&mut span.name);
        if let SpanStatus::Error { message } = &mut span.status {
            taken += self.cow(message);
        }
        taken += self.attributes(&mut span.attributes);
        for event in &mut span.events {
            taken += self.cow(&mut event.name);
            taken += self.attributes(&mut event.attributes);
        }
        for content in std::mem::take(&mut span.content) {
            let key = content.key;
            let (text, more) = self.content(content);
            taken += more;
            span.attributes.push((key.into(), text.into()));
        }
        if taken > 0 {
            let taken = i64::try_from(taken).unwrap_or(i64::MAX);
            span.attributes.push((key::REDACTIONS.into(), taken.into()));
        }
    }

    /// Takes them out of all texts of a log record.
    pub(super) fn log(&self, log: &mut LogEntry) {
        let mut taken = 0;
        if self.is_line_of_key(&log.body) {
            log.body = placeholder(PRIVATE_KEY);
            taken += 1;
        } else {
            taken += self.string(&mut log.body);
        }
        taken += self.attributes(&mut log.attributes);
        if taken > 0 {
            let taken = i64::try_from(taken).unwrap_or(i64::MAX);
            log.attributes.push((key::REDACTIONS.into(), taken.into()));
        }
    }

    /// Whether a record is a line of a private key that an earlier record began.
    fn is_line_of_key(&self, line: &str) -> bool {
        let begins = line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
        let ends = line.contains("-----END");
        if begins {
            self.inside_key.store(!ends, Ordering::Relaxed);
            return false;
        }
        if !self.inside_key.load(Ordering::Relaxed) {
            return false;
        }
        // Whoever logs may put something before the line: a time, a level.
        let last = line.split_whitespace().next_back().unwrap_or_default();
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=\\\"',".contains(&byte);
        let goes_on = !ends && last.bytes().all(is_base64);
        self.inside_key.store(goes_on, Ordering::Relaxed);
        goes_on && !last.is_empty()
    }

    fn content(&self, content: Content) -> (String, u64) {
        match content.form {
            ContentForm::Text { chars } => self.clipped(&content.text, chars),
            ContentForm::Json { chars } => {
                let Ok(mut json) = serde_json::from_str::<Json>(&content.text) else {
                    return self.clipped(&content.text, chars);
                };
                let taken = self.json_clipped(&mut json, chars);
                // Written anew in any case: what the parser skipped, nobody looked at.
                (json.to_string(), taken)
            }
        }
    }

    /// The whole text is redacted, then clipped. Beyond the slack somebody may have cut it already.
    fn clipped(&self, text: &str, chars: usize) -> (String, u64) {
        let (clean, taken) = self.scanner.clean(text, Ends::Cut);
        (clip(clean.into_owned(), chars), taken)
    }

    fn json_clipped(&self, value: &mut Json, chars: usize) -> u64 {
        match value {
            Json::Null | Json::Bool(_) | Json::Number(_) => 0,
            Json::String(text) => {
                let (clean, taken) = self.scanner.clean(text, Ends::Whole);
                let is_long = clean.len() > chars && clean.chars().nth(chars).is_some();
                if taken > 0 || is_long {
                    *text = clip(clean.into_owned(), chars);
                }
                taken
            }
            Json::Array(values) => {
                let each = values.iter_mut();
                each.map(|value| self.json_clipped(value, chars)).sum()
            }
            Json::Object(members) => {
                let mut taken = 0;
                let dirty = |name: &String| self.scanner.clean(name, Ends::Whole).1 > 0;
                if members.keys().any(dirty) {
                    let old = std::mem::take(members);
                    members.extend(old.into_iter().map(|(name, value)| {
                        let (clean, more) = self.scanner.clean(&name, Ends::Whole);
                        taken += more;
                        (clean.into_owned(), value)
                    }));
                }
                for (name, value) in members {
                    taken += match value {
                        Json::String(text) if is_secret_under(name, text) => {
                            *text = placeholder(ASSIGNED);
                            1
                        }
                        other => self.json_clipped(other, chars),
                    };
                }
                taken
            }
        }
    }

    /// Takes them out of the values of attributes, and says how many there were.
    pub(super) fn attributes(&self, attributes: &mut [Attribute]) -> u64 {
        let mut taken = 0;
        for (_, value) in attributes {
            match value {
                Value::String(text) => taken += self.value(text),
                Value::Array(Array::String(texts)) => {
                    taken += texts.iter_mut().map(|text| self.value(text)).sum::<u64>();
                }
                // Numbers and booleans, and whatever kinds the crate adds.
                _ => {}
            }
        }
        taken
    }

    fn value(&self, value: &mut StringValue) -> u64 {
        let (clean, taken) = self.scanner.clean(value.as_str(), Ends::Whole);
        if taken > 0 {
            *value = clean.into_owned().into();
        }
        taken
    }

    fn string(&self, text: &mut String) -> u64 {
        let (clean, taken) = self.scanner.clean(text, Ends::Whole);
        if taken > 0 {
            *text = clean.into_owned();
        }
        taken
    }

    fn cow(&self, text: &mut Cow<'static, str>) -> u64 {
        let (clean, taken) = self.scanner.clean(text, Ends::Whole);
        if taken > 0 {
            *text = Cow::Owned(clean.into_owned());
        }
        taken
    }
}

/// What stands for a secret that only its place gave away.
fn placeholder(rule: &str) -> String {
    format!("<redacted:{rule}>")
}

/// Whether the name of a JSON member and its looks make a text a secret.
fn is_secret_under(name: &str, text: &str) -> bool {
    environment::is_secret_member(name) && rules::is_assigned_secret(rules::is_password(name), text)
}

/// At most so many characters.
fn clip(mut text: String, chars: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(chars) {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests;
