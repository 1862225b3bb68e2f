//! The last events of a run, for many readers at their own speeds.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::last::Last;
use super::{Names, data, text_of};
use crate::event::{Content, Event};
use crate::failure::Failure;
use crate::run::{Conclusion, LossReason};
use crate::wire::{Body, Outcome};

/// What an event takes besides its text, bytes.
const ENTRY_BYTES: usize = 64;

/// The last events of a run.
#[derive(Debug, Clone)]
pub struct Feed {
    most_bytes: usize,
    names: Names,
    kept: VecDeque<Entry>,
    kept_bytes: usize,
    /// The number of the last event that was put in.
    last_seq: u64,
    trace: Trace,
    end: Option<Box<str>>,
}

#[derive(Debug, Clone)]
struct Entry {
    seq: u64,
    /// Empty for an event that no reader shall see.
    text: Box<str>,
}

#[derive(Debug, Clone, Default)]
struct Trace {
    trace_id: String,
    run_id: Option<String>,
    root_span_id: Option<String>,
}

/// Where one reader of a [`Feed`] is.
#[derive(Debug, Clone)]
pub struct Reader {
    /// All up to this number was given.
    seq: u64,
    /// Whether it has the `end`, from this stream or an earlier one.
    has_end: bool,
    has_trace: bool,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Reading {
    /// Whole events.
    Text(String),
    /// It has all there is for now.
    Nothing,
    /// It has everything, and there will be no more.
    Over,
}

impl Feed {
    /// A feed that keeps the last events up to so many bytes, and the last one however long it is.
    #[must_use]
    pub fn new(most_bytes: usize) -> Self {
        Self {
            most_bytes,
            names: Names::default(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            last_seq: 0,
            trace: Trace::default(),
            end: None,
        }
    }

    /// What the events are called from now on.
    #[must_use]
    pub fn names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// Puts the next event in. One that is in already changes nothing; the run's last line ends the feed.
    pub fn push(&mut self, event: &Event) {
        let text = text_of(event, self.names);
        self.keep(event, text);
    }

    /// Counts an event that no reader shall see, for instance telemetry, so that none of them misses it.
    pub fn pass_over(&mut self, event: &Event) {
        self.keep(event, String::new());
    }

    /// Ends the feed of a run that was lost. One that has ended stays as it is.
    pub fn conclude(&mut self, conclusion: &Conclusion) {
        let lost = conclusion.lost.as_ref().map(|loss| {
            json!({ "reason": reason_word(&loss.reason), "provider_says": loss.provider_says })
        });
        self.finish(conclusion.outcome, conclusion.failure.as_ref(), lost);
    }

    /// The number of the last event that was put in, 0 before the first.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Whether the run has its conclusion: nothing comes after it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// A reader for one who has everything up to `last`.
    #[must_use]
    pub fn reader(&self, last: Last) -> Reader {
        Reader {
            seq: last.seq,
            has_end: last.end && self.is_over(),
            has_trace: false,
        }
    }

    /// How many events after the reader's are not kept any more, or never came: what a `gap` would tell it. They are those
    /// with the numbers [`Reader::seq`] + 1 and following.
    #[must_use]
    pub fn missing(&self, reader: &Reader) -> u64 {
        let next = self.kept.get(self.after(reader.seq));
        next.map_or(0, |next| next.seq - reader.seq - 1)
    }

    fn after(&self, seq: u64) -> usize {
        self.kept.partition_point(|entry| entry.seq <= seq)
    }

    fn keep(&mut self, event: &Event, text: String) {
        if event.seq() <= self.last_seq || self.is_over() {
            return;
        }
        self.last_seq = event.seq();
        if self.trace.trace_id != event.stamp().trace_id {
            // The first event, or the first in a copy of the sandbox.
            self.trace.trace_id.clone_from(&event.stamp().trace_id);
        }
        if let Content::Supervisor(Body::RunStarted(started)) = event.content() {
            self.trace.run_id = Some(started.run_id.clone());
            self.trace.root_span_id = Some(started.root_span_id.clone());
        }
        self.kept_bytes += text.len() + ENTRY_BYTES;
        self.kept.push_back(Entry {
            seq: event.seq(),
            text: text.into_boxed_str(),
        });
        while self.kept_bytes > self.most_bytes && self.kept.len() > 1 {
            if let Some(oldest) = self.kept.pop_front() {
                self.kept_bytes -= oldest.text.len() + ENTRY_BYTES;
            }
        }
        if let Content::Supervisor(Body::RunFinished(finished)) = event.content() {
            self.finish(finished.outcome, finished.failure.as_ref(), None);
        }
    }

    fn finish(&mut self, outcome: Outcome, failure: Option<&Failure>, lost: Option<Value>) {
        if self.is_over() {
            return;
        }
        let end = json!({
            "trace_id": self.trace.trace_id,
            "run_id": self.trace.run_id,
            "seq": self.last_seq,
            "outcome": outcome,
            "failure": failure,
            "lost": lost,
        });
        let mut text = format!("id: {}.end\nevent: end\n", self.last_seq);
        data(&mut text, &end.to_string());
        self.end = Some(text.into_boxed_str());
    }
}

impl Reader {
    /// The number of the last event that it was given, or came with.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Says that its owner gave it everything up to this number from elsewhere: the journal.
    pub fn skip_to(&mut self, seq: u64) {
        self.seq = self.seq.max(seq);
    }

    /// What comes next: as many whole events as fit in `most_bytes`, but at least one if there is one.
    pub fn read(&mut self, feed: &Feed, most_bytes: usize) -> Reading {
        if self.has_end {
            return Reading::Over;
        }
        let mut text = String::new();
        let mut whole = true;
        for entry in feed.kept.range(feed.after(self.seq)..) {
            if text.len() + entry.text.len() > most_bytes && !text.is_empty() {
                whole = false;
                break;
            }
            let missing = entry.seq - self.seq - 1;
            if missing > 0 {
                self.give_trace(feed, &mut text);
                let gap = json!({ "after": self.seq, "missing": missing });
                text.push_str(&format!("id: {}\nevent: gap\n", entry.seq - 1));
                data(&mut text, &gap.to_string());
            }
            if !entry.text.is_empty() {
                self.give_trace(feed, &mut text);
                text.push_str(&entry.text);
            }
            self.seq = entry.seq;
        }
        if let (true, Some(end)) = (whole, &feed.end) {
            self.give_trace(feed, &mut text);
            text.push_str(end);
            self.has_end = true;
        }
        if text.is_empty() {
            Reading::Nothing
        } else {
            Reading::Text(text)
        }
    }

    fn give_trace(&mut self, feed: &Feed, text: &mut String) {
        if self.has_trace || feed.trace.trace_id.is_empty() {
            return;
        }
        self.has_trace = true;
        let trace = json!({
            "trace_id": feed.trace.trace_id,
            "run_id": feed.trace.run_id,
            "root_span_id": feed.trace.root_span_id,
        });
        text.push_str("event: trace\n");
        data(text, &trace.to_string());
    }
}

fn reason_word(reason: &LossReason) -> &'static str {
    match reason {
        LossReason::SandboxGone => "sandbox_gone",
        LossReason::SandboxTimeout => "sandbox_timeout",
        LossReason::SupervisorGone { .. } => "supervisor_gone",
        LossReason::Unreachable => "unreachable",
    }
}
