//! What must hold for every run, whatever went wrong.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{self, AssertUnwindSafe};
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::PANICKED_AT;
use crate::fault::{Collector, EchoMode, Fault, Leaves, Outside};
use crate::supervised::{Finished, Transcript};
use crate::support::receiver::{Received, Receiver};

/// What the summary counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    BytesAltered,
    EventsLost,
    AgentBroken,
}

/// One thing that was not as it should be.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub(crate) harm: Harm,
    what: String,
}

impl Trouble {
    pub(crate) fn new(harm: Harm, what: String) -> Self {
        Self { harm, what }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.harm, self.what)
    }
}

/// One agent, alone and supervised.
pub(crate) struct Twins<'a> {
    pub(crate) fault: &'a Fault,
    pub(crate) alone: &'a Finished,
    pub(crate) supervised: &'a Finished,
    pub(crate) receiver: Option<&'a Receiver>,
}

impl Twins<'_> {
    pub(crate) fn check(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        for check in [
            Self::fate,
            Self::stderr,
            Self::journal,
            Self::host,
            Self::spans,
        ] {
            let found = panic::catch_unwind(AssertUnwindSafe(|| check(self)));
            troubles.extend(found.unwrap_or_else(|_| {
                // Checks shared with the tests say it this way; all are about lines and spans.
                let what = PANICKED_AT.take().unwrap_or_default();
                vec![Trouble::new(Harm::EventsLost, what)]
            }));
        }
        troubles
    }

    /// How it ended, and that nothing is left of it.
    fn fate(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let alone = self.alone.status;
        let code = alone.code().or(alone.signal().map(|signal| 128 + signal));
        if self.supervised.status.code() != code {
            let what = format!("{} alone, {} supervised", alone, self.supervised.status);
            troubles.push(Trouble::new(Harm::AgentBroken, what));
        }
        let mut left = self.supervised.processes();
        // A process that was killed a moment ago still has an environment.
        for _ in 0..50 {
            if left.is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
            left = self.supervised.processes();
        }
        if !left.is_empty() {
            troubles.push(Trouble::new(
                Harm::AgentBroken,
                format!("left running: {left:?}"),
            ));
        }
        troubles
    }

    fn is_chatty(&self) -> bool {
        self.fault.leaves == Leaves::ChattyPipe
    }

    fn stderr(&self) -> Vec<Trouble> {
        let (alone, ours) = (&self.alone.stderr, &self.supervised.stderr);
        let says_something = !self.fault.journal && self.fault.outside == Outside::HostGone;
        let is_kept = if self.fault.outside == Outside::StderrSleeps {
            // What a reader who was asleep did not get is counted, where there is another copy.
            let told = self.told();
            let warnings = told.iter().flat_map(|told| told.all("sandtrace.warning"));
            let dropped = warnings.filter(|warning| warning["code"] == "stderr_dropped");
            let dropped: u64 = dropped
                .filter_map(|warning| warning["counts"]["bytes"].as_u64())
                .sum();
            ours.len() as u64 + dropped == alone.len() as u64
        } else if says_something {
            // Our own sentence about what the host did not get.
            ours.starts_with(alone)
        } else {
            ours == alone
        };
        compare("stderr", is_kept, alone, ours)
    }

    /// The lines, wherever they are complete.
    fn told(&self) -> Option<Transcript> {
        if self.has_journal() {
            Some(self.supervised.journaled())
        } else if self.fault.echo == EchoMode::Enriched && self.fault.outside != Outside::HostGone {
            Some(self.supervised.transcript())
        } else {
            None
        }
    }

    fn has_journal(&self) -> bool {
        self.fault.journal
            && !matches!(
                self.fault.outside,
                Outside::JournalDeleted | Outside::TinyDisk
            )
    }

    /// The lines are whole, and tell the agent's bytes.
    fn journal(&self) -> Vec<Trouble> {
        if self.has_journal() {
            self.supervised.assert_journal_whole();
        }
        let Some(told) = self.told() else {
            return Vec::new();
        };
        let mut troubles: Vec<_> = told
            .problems()
            .into_iter()
            .map(|problem| Trouble::new(Harm::EventsLost, problem))
            .collect();
        let stdout = told.stream("stdout");
        if !self.is_chatty() {
            let mut alone = self.alone.stdout.clone();
            // An object at the very end is a line, with or without a newline.
            let last = alone.rsplit(|&byte| byte == b'\n').next();
            if last.is_some_and(|last| serde_json::from_slice::<Map<String, Value>>(last).is_ok()) {
                alone.push(b'\n');
            }
            troubles.extend(compare("stdout as told", stdout == alone, &alone, &stdout));
        }
        let stderr = told.stream("stderr");
        let alone = &self.alone.stderr;
        troubles.extend(compare("stderr as told", stderr == *alone, alone, &stderr));
        troubles
    }

    /// What the host got on stdout.
    fn host(&self) -> Vec<Trouble> {
        let ours = &self.supervised.stdout;
        match (self.fault.outside, self.fault.echo) {
            (Outside::HostGone, EchoMode::Off) | (_, EchoMode::Raw) if self.is_chatty() => {
                Vec::new()
            }
            (Outside::HostGone, EchoMode::Enriched | EchoMode::Raw) => {
                let errors = self.supervised.errors();
                // Whoever has nothing to say to the host cannot find out that it is gone, and loses nothing.
                let is_silent = self.fault.echo == EchoMode::Raw && self.alone.stdout.is_empty();
                let is_told = self.fault.journal || is_silent || errors.contains("lost");
                let what = "the host was gone, there was no journal, and nobody said so".to_owned();
                if is_told {
                    Vec::new()
                } else {
                    vec![Trouble::new(Harm::EventsLost, what)]
                }
            }
            (_, EchoMode::Off) => compare("stdout without echo", ours.is_empty(), &[], ours),
            (_, EchoMode::Raw) => {
                let alone = &self.alone.stdout;
                compare("stdout", ours == alone, alone, ours)
            }
            (_, EchoMode::Enriched) if self.has_journal() => {
                let journal = self.supervised.journal_file("events.ndjson");
                compare(
                    "stdout beside the journal",
                    *ours == journal,
                    &journal,
                    ours,
                )
            }
            (_, EchoMode::Enriched) => Vec::new(),
        }
    }

    /// A backend that takes everything has every span once.
    fn spans(&self) -> Vec<Trouble> {
        let (Some(receiver), Some(told)) = (self.receiver, self.told()) else {
            return Vec::new();
        };
        if self.fault.outside != Outside::Collector(Collector::Healthy) {
            return Vec::new();
        }
        let received = receiver.received();
        let spans = received.iter().flat_map(Received::spans);
        let mut ids: Vec<String> = spans
            .map(|span| {
                span.span_id
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect()
            })
            .collect();
        ids.sort();
        if ids == told.span_ids() {
            Vec::new()
        } else {
            let what = format!(
                "{} spans ended, {} arrived",
                told.span_ids().len(),
                ids.len()
            );
            vec![Trouble::new(Harm::EventsLost, what)]
        }
    }
}

/// What is missing was lost; what is different was altered.
fn compare(what: &str, is_kept: bool, alone: &[u8], ours: &[u8]) -> Vec<Trouble> {
    if is_kept {
        return Vec::new();
    }
    let harm = if ours.len() < alone.len() {
        Harm::EventsLost
    } else {
        Harm::BytesAltered
    };
    let pairs = alone.iter().zip(ours);
    let same = pairs.take_while(|(alone, ours)| alone == ours).count();
    let what = format!(
        "{what}: {} bytes are due, {} are there, the first {same} are the same",
        alone.len(),
        ours.len()
    );
    vec![Trouble::new(harm, what)]
}
