//! How a verdict is put into words.

use std::time::Duration;

use sandtrace_client::failure::{Alternative, Evidence, Failure, FailureKind};

/// A verdict still without its evidence.
pub(super) fn verdict(kind: FailureKind, confidence: f64, message: String) -> Failure {
    let recoverable = kind.recoverable();
    Failure {
        kind,
        message,
        confidence,
        recoverable,
        evidence: Vec::new(),
        alternatives: Vec::new(),
    }
}

/// Building a verdict reads as a sentence: this, because of that, or else the other.
pub(super) trait Because {
    fn because(self, source: &str, fact: String) -> Self;
    fn because_some(self, source: &str, fact: Option<&str>, name: &str) -> Self;
    fn or(self, kind: FailureKind, confidence: f64) -> Self;
}

impl Because for Failure {
    fn because(mut self, source: &str, fact: String) -> Self {
        if !fact.is_empty() {
            self.evidence.push(Evidence {
                source: source.to_owned(),
                fact,
            });
        }
        self
    }

    fn because_some(self, source: &str, fact: Option<&str>, name: &str) -> Self {
        match fact {
            Some(fact) => self.because(source, format!("{name} {}", clip(fact))),
            None => self,
        }
    }

    fn or(mut self, kind: FailureKind, confidence: f64) -> Self {
        self.alternatives.push(Alternative { kind, confidence });
        self
    }
}

/// Facts go to a telemetry backend, so they are previews of 200 characters.
pub(super) fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(200).collect();
    if clipped.len() < text.len() {
        clipped.push('…');
    }
    clipped
}

/// The first line of a text as a sentence.
pub(super) fn sentence(text: &str) -> String {
    let line = clip(
        text.lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("(no message)")
            .trim(),
    );
    if line.ends_with(['.', '!', '?', '…', ')']) {
        line
    } else {
        format!("{line}.")
    }
}

pub(super) fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
