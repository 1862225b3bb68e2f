//! What stands below the waterfall: the verdict's grounds, and what became of everything else.

use sandtrace_client::wire::{DestinationCounts, RunFinished, Survivor, Warning};
use sandtrace_client::{Alternative, Failure};
use serde_json::Value;

use super::header::failure;
use super::load::{Run, Unreadable};
use super::page::Page;
use super::text::percent;
use super::view::{Paint, View};

/// How many different warnings are shown.
const MOST_WARNINGS: usize = 20;

/// Draws the footer.
pub(super) fn render(run: &Run, view: View) -> String {
    let mut page = Page::new(view);
    if let Some(failure) = failure(run) {
        why(failure, &mut page);
    }
    warnings(&run.warnings, &mut page);
    if let Some(finished) = &run.finished {
        telemetry(finished, &mut page);
        survivors(&finished.survivors, &mut page);
    }
    for (at, file) in run.files.iter().enumerate() {
        let label = if at == 0 { "files" } else { "" };
        page.uncut(label, &file.to_string_lossy());
    }
    for unreadable in &run.unreadable {
        page.line("unread", Paint::Warning, &sentence(unreadable));
    }
    page.finish()
}

fn why(failure: &Failure, page: &mut Page) {
    // Of a run that somebody stopped it says nothing whether it would have succeeded.
    let again = match (failure.kind.class(), failure.recoverable) {
        ("cancelled", _) => "",
        (_, true) => "; may succeed if started again",
        (_, false) => "; not likely to succeed if started again",
    };
    let text = format!(
        "{}, {} sure{again}",
        failure.kind,
        percent(failure.confidence)
    );
    page.line("failure", Paint::Bad, &text);
    for (at, evidence) in failure.evidence.iter().enumerate() {
        let label = if at == 0 { "evidence" } else { "" };
        page.line(
            label,
            Paint::Plain,
            &format!("{}: {}", evidence.source, evidence.fact),
        );
    }
    let other = |other: &Alternative| format!("{} ({})", other.kind, percent(other.confidence));
    let others: Vec<String> = failure.alternatives.iter().map(other).collect();
    page.items("or else", &others);
}

fn warnings(warnings: &[(Warning, usize)], page: &mut Page) {
    for (at, (warning, times)) in warnings.iter().take(MOST_WARNINGS).enumerate() {
        let label = if at == 0 { "warnings" } else { "" };
        let mut text = format!("{}: {}", warning.code, warning.message);
        let counts = warning.counts.iter();
        let counts: Vec<String> = counts
            .map(|(name, value)| format!("{name} {}", bare(value)))
            .collect();
        if !counts.is_empty() {
            text.push_str(&format!(" ({})", counts.join(", ")));
        }
        if *times > 1 {
            text.push_str(&format!(" [{times} times]"));
        }
        page.line(label, Paint::Warning, &text);
    }
    if let Some(more) = warnings
        .len()
        .checked_sub(MOST_WARNINGS)
        .filter(|more| *more > 0)
    {
        page.line("", Paint::Warning, &format!("and {more} more"));
    }
}

/// A JSON value without the quotes of a string.
fn bare(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn telemetry(finished: &RunFinished, page: &mut Page) {
    let telemetry = &finished.telemetry;
    let dropped = match telemetry.spans_dropped {
        0 => String::new(),
        dropped => format!(", {dropped} never reached the exporter"),
    };
    page.line(
        "telemetry",
        Paint::Plain,
        &format!("{} spans{dropped}", telemetry.spans),
    );
    for destination in &telemetry.destinations {
        let lost = destination.dropped > 0 || destination.queued > 0;
        let paint = if lost { Paint::Warning } else { Paint::Plain };
        page.line("", paint, &destination_words(destination));
    }
}

fn destination_words(destination: &DestinationCounts) -> String {
    let mut text = format!("{}: {} exported", destination.name, destination.exported);
    for (count, what) in [
        (destination.dropped, "dropped"),
        (destination.queued, "still queued"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    if let Some(error) = &destination.last_error {
        text.push_str(&format!("; {error}"));
    }
    text
}

fn survivors(survivors: &[Survivor], page: &mut Page) {
    let word = |it: &Survivor| {
        let fate = if it.killed { "killed" } else { "left running" };
        format!("{} {} ({fate})", it.pid, it.command)
    };
    let survivors: Vec<String> = survivors.iter().map(word).collect();
    page.items("survivors", &survivors);
}

fn sentence(unreadable: &Unreadable) -> String {
    let Unreadable { file, lines, first } = unreadable;
    match lines {
        1 => format!("line {first} of {file} could not be read and is left out here."),
        lines => format!(
            "{lines} lines of {file}, the first of them {first}, could not be read and are left out here."
        ),
    }
}
