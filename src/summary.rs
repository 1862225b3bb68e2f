//! What people are told at the end of a run, on stderr.

use std::fmt::Write as _;
use std::path::Path;

use sandtrace_client::wire::{Outcome, RunFinished};

use crate::echo::Delivery;

/// Three or four lines: how it ended, what it took, where to look further. `journal` is the run's directory, if it got
/// every line.
#[must_use]
pub fn of(journal: Option<&Path>, finished: &RunFinished, delivery: Delivery) -> String {
    let mut text = String::from("\nsandtrace: ");
    let verdict = match (&finished.failure, finished.outcome) {
        (Some(failure), _) => format!(
            "{} ({}): {}",
            finished.outcome.as_str(),
            failure.kind,
            failure.message
        ),
        (None, Outcome::Success) => "success".to_owned(),
        (None, outcome) => outcome.as_str().to_owned(),
    };
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing into a String cannot fail.
        text.write_fmt(line).unwrap_or_default();
    };
    line(format_args!("{verdict}\n"));
    line(format_args!(
        "sandtrace: {:.1} s, {} turns, {} model calls, {} tools, {} tokens in, {} out",
        finished.duration_ms / 1e3,
        finished.counts.turns,
        finished.counts.chats,
        finished.counts.tools,
        finished.usage.input_tokens,
        finished.usage.output_tokens,
    ));
    match &finished.cost {
        Some(cost) => line(format_args!(", ${:.4} ({})\n", cost.usd, cost.source)),
        None => line(format_args!(", cost unknown\n")),
    }
    let lost: u64 = finished
        .telemetry
        .destinations
        .iter()
        .map(|destination| destination.dropped + destination.queued)
        .sum();
    if lost > 0 {
        let copies = match journal {
            Some(_) => "; traces.jsonl in the journal keeps copies",
            None => "",
        };
        line(format_args!(
            "sandtrace: {lost} spans did not reach their destination{copies}\n"
        ));
    }
    if let Some(undelivered) = undelivered(journal, delivery) {
        line(format_args!("{undelivered}"));
    }
    if let Some(directory) = journal {
        // The directory, not the id: it may not be where a later command would look for it.
        line(format_args!(
            "sandtrace: see it with: sandtrace report {}\n",
            quoted(&directory.display().to_string())
        ));
    }
    text
}

/// One line about a host that did not get everything, or nothing.
#[must_use]
pub fn undelivered(journal: Option<&Path>, delivery: Delivery) -> Option<String> {
    let what = match delivery {
        Delivery::Complete => return None,
        Delivery::Gone => "the reader of stdout left early",
        Delivery::Stalled => "the reader of stdout did not take everything in time",
        Delivery::Torn => "some lines for stdout could not be read back from the journal",
    };
    let rest = match (journal, delivery) {
        (_, Delivery::Torn) => "",
        (Some(_), _) => "; the journal went on without it",
        (None, _) => "; what it did not take is lost, for there is no whole journal",
    };
    Some(format!("sandtrace: {what}{rest}\n"))
}

/// As a shell takes it.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if path.chars().all(plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', "'\\''"))
    }
}
