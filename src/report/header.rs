//! What stands above the waterfall: who ran, how it ended, and what it took.

use std::time::Duration;

use sandtrace_client::Failure;
use sandtrace_client::wire::{Exit, Outcome, Phases, ResourcePeaks};

use super::load::Run;
use super::page::Page;
use super::text::{bytes, count, duration, percent, usd};
use super::tree::{Role, Span, Tree};
use super::view::{Paint, View};
use crate::session::semconv::key;

/// Draws the header.
pub(super) fn render(run: &Run, tree: &Tree, view: View) -> String {
    let mut page = Page::new(view);
    if let Some(started) = &run.started {
        page.line("run", Paint::Bold, &started.run_id);
    }
    outcome(run, tree, &mut page);
    when(run, tree, &mut page);
    cost(run, tree, &mut page);
    tokens(run, tree, &mut page);
    work(run, tree, &mut page);
    if let Some(trace_id) = run
        .started
        .as_ref()
        .map(|s| &s.trace_id)
        .or(run.trace_id.as_ref())
    {
        page.line("trace", Paint::Plain, trace_id);
    }
    if let Some(finished) = &run.finished {
        page.items("phases", &phases(&finished.phases));
        if let Some(peaks) = &finished.resources {
            let cpu = format!("{} of all CPUs", percent(peaks.cpu_utilization_max));
            let memory = format!("{} of memory in use", bytes(peaks.memory_used_bytes_max));
            page.items("peaks", &[cpu, memory]);
            page.items("agent", &agent_tree(peaks));
        }
    }
    if tree.spans().is_empty() {
        page.line("spans", Paint::Dim, "none is recorded yet");
    }
    page.finish()
}

/// What the agent and everything it started used; empty where that could not be seen.
fn agent_tree(peaks: &ResourcePeaks) -> Vec<String> {
    if peaks.tree_processes_max == 0 {
        return Vec::new();
    }
    let mut items = vec![
        format!("{:.1} s of CPU", peaks.tree_cpu_seconds),
        format!("{} at most", bytes(peaks.tree_rss_bytes_max)),
        match peaks.tree_processes_max {
            1 => "1 process".to_owned(),
            processes => format!("{processes} processes at most"),
        },
    ];
    if let Some(tool) = &peaks.largest_tool {
        items.push(format!(
            "largest tool {} with {}",
            tool.name,
            bytes(tool.memory_peak_bytes)
        ));
    }
    items
}

/// The verdict, as soon as it was given.
pub(super) fn failure(run: &Run) -> Option<&Failure> {
    let finished = run
        .finished
        .as_ref()
        .and_then(|finished| finished.failure.as_ref());
    finished.or_else(|| run.exited.as_ref()?.failure.as_ref())
}

fn outcome(run: &Run, tree: &Tree, page: &mut Page) {
    let finished = run
        .finished
        .as_ref()
        .map(|it| (it.outcome, it.exit.as_ref()));
    let exited = run.exited.as_ref().map(|it| (it.outcome, it.exit.as_ref()));
    let (outcome, exit) = match finished.or(exited) {
        Some((outcome, exit)) => (Some(outcome), exit),
        None => (outcome_of_span(tree), None),
    };
    let (paint, mark) = match outcome {
        Some(Outcome::Success) => (Paint::Good, page.pick("✓ ", "")),
        Some(Outcome::Failure) => (Paint::Bad, page.pick("✗ ", "")),
        _ => (Paint::Warning, ""),
    };
    let Some(outcome) = outcome else {
        let ended = tree.run().is_some_and(|run| run.end.is_some());
        let unknown = if ended {
            "unknown: the run ended, but how is not recorded"
        } else {
            "not ended: the run goes on, or its supervisor died"
        };
        return page.line("outcome", Paint::Warning, unknown);
    };
    let mut text = format!("{mark}{}", outcome.as_str());
    let kind = failure(run).map(|failure| failure.kind.to_string());
    let kind = kind.or_else(|| tree.run()?.text(key::ERROR_TYPE).map(str::to_owned));
    if let Some(kind) = kind {
        text.push_str(&format!(", {kind}"));
    }
    if let Some(exit) = exit {
        text.push_str(&format!(" ({})", exit_words(exit)));
    }
    page.line("outcome", paint, &text);
    let message = failure(run).map(|failure| failure.message.as_str());
    if let Some(message) = message.or_else(|| tree.run()?.message.as_deref()) {
        page.line("", Paint::Plain, message);
    }
    if run.finished.is_none() && run.exited.is_some() {
        page.line(
            "",
            Paint::Warning,
            "the agent is gone, but the run's last line is missing",
        );
    }
}

/// What the run's own span says, when the events are missing.
fn outcome_of_span(tree: &Tree) -> Option<Outcome> {
    let run = tree.run().filter(|run| run.end.is_some())?;
    match run.text(key::OUTCOME) {
        Some("success") => Some(Outcome::Success),
        Some("cancelled") => Some(Outcome::Cancelled),
        Some("failure") => Some(Outcome::Failure),
        _ if run.failed() => Some(Outcome::Failure),
        _ => None,
    }
}

fn exit_words(exit: &Exit) -> String {
    match (&exit.signal, exit.code) {
        (Some(signal), _) if exit.core_dumped => format!("{signal}, core dumped"),
        (Some(signal), _) => signal.clone(),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => format!("reported as {}", exit.reported_code),
    }
}

fn when(run: &Run, tree: &Tree, page: &mut Page) {
    let Some(window) = tree.window(run.last_seen) else {
        return;
    };
    // Seconds are enough for a person: `2026-01-31T12:00:00.123456Z` without its end.
    let start = window.start.to_string().replace('T', " ");
    let start = start.get(..19).unwrap_or(&start);
    let took = match (&run.finished, tree.run().map(|run| run.end)) {
        (Some(finished), _) => format!("took {}", milliseconds(finished.duration_ms)),
        (None, Some(Some(_))) => format!("took {}", duration(window.length())),
        (None, _) => format!("last heard of after {}", duration(window.length())),
    };
    page.line("when", Paint::Plain, &format!("{start} UTC, {took}"));
}

fn cost(run: &Run, tree: &Tree, page: &mut Page) {
    let finished = run.finished.as_ref().and_then(|it| it.cost.as_ref());
    let (amount, source) = match (finished, tree.run()) {
        (Some(cost), _) => (Some(cost.usd), Some(cost.source.as_str())),
        (None, Some(run)) => (run.number(key::COST_USD), run.text(key::COST_SOURCE)),
        (None, None) => (None, None),
    };
    if let Some(amount) = amount {
        let source = source.map_or(String::new(), |source| {
            format!(" ({})", source_words(source))
        });
        return page.line("cost", Paint::Plain, &format!("{}{source}", usd(amount)));
    }
    let chats = chats(tree);
    if run.finished.is_some() && !chats.is_empty() {
        return page.line("cost", Paint::Plain, "? (no price is known)");
    }
    let sum: f64 = chats
        .iter()
        .filter_map(|chat| chat.number(key::COST_USD))
        .sum();
    if sum > 0.0 {
        page.line("cost", Paint::Plain, &format!("{} so far", usd(sum)));
    }
}

/// `agent`, `table@DATE` or `agent+table@DATE`, for a person.
fn source_words(source: &str) -> String {
    let table = |date: &str| format!("from the prices of {date}");
    match (
        source.strip_prefix("agent+table@"),
        source.strip_prefix("table@"),
    ) {
        (Some(date), _) => format!("in part as the agent reports, in part {}", table(date)),
        (_, Some(date)) => table(date),
        _ if source == "agent" => "as the agent reports".to_owned(),
        _ => source.to_owned(),
    }
}

fn chats(tree: &Tree) -> Vec<&Span> {
    let chats = tree.spans().iter().filter(|span| span.role() == Role::Chat);
    chats.collect()
}

fn tokens(run: &Run, tree: &Tree, page: &mut Page) {
    let finished = run.finished.as_ref().map(|it| it.usage);
    let of_run = |key| tree.run().and_then(|run| run.count(key));
    let known = match finished {
        Some(usage) => {
            let cached = Some(usage.cache_read_input_tokens);
            Some((usage.input_tokens, usage.output_tokens, cached))
        }
        None => of_run(key::USAGE_INPUT)
            .zip(of_run(key::USAGE_OUTPUT))
            .map(|(input, output)| (input, output, of_run(key::USAGE_CACHE_READ))),
    };
    if let Some((input, output, cached)) = known {
        let ratio = run.finished.as_ref().and_then(|it| it.cache_hit_ratio);
        let ratio = ratio.or_else(|| share(cached?, input));
        let ratio = ratio.map(|ratio| format!(", {} of the input from the cache", percent(ratio)));
        let text = format!(
            "{} in, {} out{}",
            count(input),
            count(output),
            ratio.unwrap_or_default()
        );
        return page.line("tokens", Paint::Plain, &text);
    }
    let chats = chats(tree);
    let (input, output) = (
        sum(&chats, key::GEN_AI_INPUT_TOKENS),
        sum(&chats, key::GEN_AI_OUTPUT_TOKENS),
    );
    if input != Sum::Nothing || output != Sum::Nothing {
        let text = format!(
            "{} in, {} out so far",
            input.words(page),
            output.words(page)
        );
        page.line("tokens", Paint::Plain, &text);
    }
}

#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// A sum of counts of which some may be unknown.
#[derive(PartialEq, Eq)]
enum Sum {
    Nothing,
    AtLeast(u64),
    Exactly(u64),
}

fn sum(spans: &[&Span], key: &str) -> Sum {
    let counts: Vec<u64> = spans.iter().filter_map(|span| span.count(key)).collect();
    let total = counts
        .iter()
        .fold(0_u64, |total, count| total.saturating_add(*count));
    match counts.len() {
        0 => Sum::Nothing,
        known if known < spans.len() => Sum::AtLeast(total),
        _ => Sum::Exactly(total),
    }
}

impl Sum {
    fn words(&self, page: &Page) -> String {
        match self {
            Self::Nothing => "?".to_owned(),
            Self::AtLeast(total) => format!("{}{}", page.pick("≥", ">="), count(*total)),
            Self::Exactly(total) => count(*total),
        }
    }
}

fn work(run: &Run, tree: &Tree, page: &mut Page) {
    let spans = || tree.spans().iter();
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let with_role = |role| number(spans().filter(|span| span.role() == role).count());
    let (turns, subagents): (Vec<_>, Vec<_>) = {
        let under_run = |span: &&Span| span.parent.as_ref() == tree.run().map(|run| &run.id);
        spans()
            .filter(|span| span.is_subagent())
            .partition(under_run)
    };
    let [turns, chats, tools, subagents, retries] = match run.finished.as_ref().map(|it| it.counts)
    {
        Some(counts) => [
            counts.turns,
            counts.chats,
            counts.tools,
            counts.subagents,
            counts.retries,
        ],
        None => [
            number(turns.len()),
            with_role(Role::Chat),
            with_role(Role::Tool),
            number(subagents.len()),
            spans()
                .filter_map(|span| span.count(key::RETRIES))
                .fold(0, u64::saturating_add),
        ],
    };
    let at_once = match tree.tools_at_once() {
        0 | 1 => String::new(),
        most => format!(" ({most} at once)"),
    };
    let nouns = [
        (turns, "turn", "turns", ""),
        (chats, "chat", "chats", ""),
        (tools, "tool call", "tool calls", at_once.as_str()),
        (subagents, "subagent", "subagents", ""),
        (retries, "retry", "retries", ""),
    ];
    let items: Vec<String> = nouns
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, one, many, more)| match count {
            1 => format!("1 {one}{more}"),
            count => format!("{count} {many}{more}"),
        })
        .collect();
    page.items("work", &items);
}

fn phases(phases: &Phases) -> Vec<String> {
    let moments = [
        ("spawn", phases.spawn_ms),
        ("first line", phases.first_line_ms),
        ("first token", phases.first_token_ms),
        ("result", phases.result_ms),
        ("exit", phases.exit_ms),
        ("in tools", phases.tools_ms),
    ];
    let known = moments
        .into_iter()
        .filter_map(|(name, time)| Some((name, time?)));
    known
        .map(|(name, time)| format!("{name} {}", milliseconds(time)))
        .collect()
}

fn milliseconds(millis: f64) -> String {
    match Duration::try_from_secs_f64(millis / 1_000.0) {
        Ok(length) => duration(length),
        Err(_) => "?".to_owned(),
    }
}
