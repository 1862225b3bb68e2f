//! What people are told at the end of a run, on stderr.

use std::fmt::Write as _;

use sandtrace_client::wire::{Outcome, RunFinished};

use crate::echo::Delivery;

/// Three or four lines: how it ended, what it took, where to look further.
#[must_use]
pub fn of(run_id: &str, finished: &RunFinished, delivery: Delivery) -> String {
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
        line(format_args!(
            "sandtrace: {lost} spans did not reach their destination; the journal has them\n"
        ));
    }
    match delivery {
        Delivery::Complete => {}
        Delivery::Gone => line(format_args!(
            "sandtrace: the reader of stdout left early; the journal has every line\n"
        )),
        Delivery::Stalled => line(format_args!(
            "sandtrace: the reader of stdout stopped reading; the journal has every line\n"
        )),
    }
    line(format_args!(
        "sandtrace: see it with: sandtrace report {run_id}\n"
    ));
    text
}
