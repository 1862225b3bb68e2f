//! The tree as rows: which spans are shown, with which branches, and what is said of each.

use super::text::{bytes, clean, count, duration, usd};
use super::tree::{Place, Role, Span, Tree, Window};
use super::view::{Charset, Paint, View};
use crate::session::semconv::{key, value};

/// From this many siblings on, the middle is left out.
const MANY: usize = 200;
/// How many of them are shown at each end.
const SHOWN_AT_END: usize = 6;
/// How many failed or open ones are shown from the middle.
const NOTABLE: usize = 12;
/// Deeper branches are cut on the left; no terminal is wider.
const DEEPEST_BRANCH: usize = 240;

/// Less of a tool's own is not told.
const CPU_WORTH_A_WORD: f64 = 0.1;
const MEMORY_WORTH_A_WORD: u64 = 32 << 20;

/// One line of the waterfall, and perhaps a line of notes below it.
pub(super) struct Row {
    /// The branches before the name, and before the notes.
    pub(super) branch: String,
    pub(super) stem: String,
    pub(super) name: String,
    pub(super) paint: Paint,
    pub(super) drawn: Drawn,
    pub(super) took: String,
    pub(super) tokens: String,
    pub(super) cost: String,
    /// What is worth a word.
    pub(super) notes: Vec<String>,
}

/// What the bar shows.
pub(super) enum Drawn {
    Span(usize),
    /// Siblings that are left out, all in one row.
    Hidden(Vec<usize>),
}

/// All rows, from the top.
pub(super) fn rows(tree: &Tree, window: Window, view: View) -> Vec<Row> {
    let charset = view.charset();
    let mut rows = Vec::new();
    // A stack instead of a recursion: a journal may nest deeper than our own stack.
    let mut pending: Vec<(Drawn, String, String)> = Vec::new();
    for root in visible(tree, tree.roots()).into_iter().rev() {
        pending.push((root, String::new(), String::new()));
    }
    while let Some((drawn, branch, stem)) = pending.pop() {
        let mut below = Vec::new();
        if let Drawn::Span(at) = drawn {
            let mut last = true;
            for child in visible(tree, tree.children(at)).into_iter().rev() {
                let (branch, go_on) = match last {
                    true => (charset.pick("└ ", "`-"), "  "),
                    false => (charset.pick("├ ", "|-"), charset.pick("│ ", "| ")),
                };
                last = false;
                below.push((child, grown(&stem, branch), grown(&stem, go_on)));
            }
        }
        // Notes stand between a span and its children, so the line down to the first child goes past them.
        let to_child = if below.is_empty() {
            "  "
        } else {
            charset.pick("│ ", "| ")
        };
        let stem = grown(&stem, to_child);
        rows.push(match drawn {
            Drawn::Span(at) => span_row(tree, at, window, charset, branch, stem),
            Drawn::Hidden(hidden) => hidden_row(tree, hidden, charset, branch, stem),
        });
        pending.append(&mut below);
    }
    rows
}

/// A branch one level deeper, as far as anybody will see it.
fn grown(stem: &str, level: &str) -> String {
    let surplus = stem.chars().count().saturating_sub(DEEPEST_BRANCH);
    stem.chars().skip(surplus).chain(level.chars()).collect()
}

/// The siblings to show: all, or of very many the first, the last, and those in between that failed or are open.
fn visible(tree: &Tree, siblings: &[usize]) -> Vec<Drawn> {
    if siblings.len() < MANY {
        return siblings.iter().copied().map(Drawn::Span).collect();
    }
    let mut shown = Vec::new();
    let mut hidden = Vec::new();
    let mut notable = 0;
    for (position, at) in siblings.iter().copied().enumerate() {
        let span = tree.span(at);
        let at_end = position < SHOWN_AT_END || position >= siblings.len() - SHOWN_AT_END;
        let is_notable = !at_end && notable < NOTABLE && (span.failed() || span.end.is_none());
        notable += usize::from(is_notable);
        if !at_end && !is_notable {
            hidden.push(at);
            continue;
        }
        if !hidden.is_empty() {
            shown.push(Drawn::Hidden(std::mem::take(&mut hidden)));
        }
        shown.push(Drawn::Span(at));
    }
    shown
}

fn span_row(
    tree: &Tree,
    at: usize,
    window: Window,
    charset: Charset,
    branch: String,
    stem: String,
) -> Row {
    let span = tree.span(at);
    let mark = if span.failed() {
        charset.pick("✗ ", "x ")
    } else {
        ""
    };
    let took = match span.end {
        Some(end) => duration(end.since(span.start)),
        None => format!(">{}", duration(window.end.since(span.start))),
    };
    Row {
        branch,
        stem,
        name: match clean(&span.name, charset) {
            name if name.trim().is_empty() => format!("{mark}(no name)"),
            name => format!("{mark}{name}"),
        },
        paint: paint(span),
        took,
        tokens: tokens(span, charset),
        cost: span.number(key::COST_USD).map(usd).unwrap_or_default(),
        notes: notes(tree, at, window, charset),
        drawn: Drawn::Span(at),
    }
}

fn hidden_row(
    tree: &Tree,
    hidden: Vec<usize>,
    charset: Charset,
    branch: String,
    stem: String,
) -> Row {
    let failed = hidden.iter().filter(|at| tree.span(**at).failed()).count();
    let failed = match failed {
        0 => Vec::new(),
        failed => vec![format!("{failed} of them failed")],
    };
    Row {
        branch,
        stem,
        name: format!("{} {} more", charset.ellipsis(), hidden.len()),
        paint: Paint::Dim,
        took: String::new(),
        tokens: String::new(),
        cost: String::new(),
        notes: failed,
        drawn: Drawn::Hidden(hidden),
    }
}

fn paint(span: &Span) -> Paint {
    match span.role() {
        _ if span.failed() => Paint::Bad,
        Role::Chat => Paint::Chat,
        Role::Tool => Paint::Tool,
        Role::Approval => Paint::Waiting,
        Role::Agent | Role::Other => Paint::Plain,
    }
}

/// `in→out`; what is not known is a question mark, never a zero.
fn tokens(span: &Span, charset: Charset) -> String {
    let (input, output) = match span.role() {
        Role::Chat => (key::GEN_AI_INPUT_TOKENS, key::GEN_AI_OUTPUT_TOKENS),
        _ => (key::USAGE_INPUT, key::USAGE_OUTPUT),
    };
    let (input, output) = (span.count(input), span.count(output));
    // A chat that is still going on has not been counted yet; one that ended uncounted is worth a question mark.
    if input.is_none() && output.is_none() && (span.role() != Role::Chat || span.end.is_none()) {
        return String::new();
    }
    let shown = |tokens: Option<u64>| tokens.map_or_else(|| "?".to_owned(), count);
    format!(
        "{}{}{}",
        shown(input),
        charset.pick("→", ">"),
        shown(output)
    )
}

fn notes(tree: &Tree, at: usize, window: Window, charset: Charset) -> Vec<String> {
    let span = tree.span(at);
    let mut notes = Vec::new();
    if span.failed() {
        let kind = clean(span.text(key::ERROR_TYPE).unwrap_or("error"), charset);
        let message = clean(span.message.as_deref().unwrap_or_default(), charset);
        match message.trim() {
            "" => notes.push(kind),
            message => notes.push(format!("{kind}: {message}")),
        }
    }
    if span.role() == Role::Approval
        && let Some(decision) = span.text(key::APPROVAL_DECISION)
    {
        notes.push(clean(decision, charset));
    }
    notes.extend(resources(span));
    match span.count(key::RETRIES) {
        None | Some(0) => {}
        Some(1) => notes.push("1 retry".to_owned()),
        Some(retries) => notes.push(format!("{retries} retries")),
    }
    if span.flag(key::BACKGROUND) {
        notes.push("background".to_owned());
    }
    if span.flag(key::ABANDONED) {
        notes.push("abandoned".to_owned());
    }
    match tree.place(at) {
        Place::Proper => {}
        Place::ParentMissing => notes.push("parent unknown".to_owned()),
        Place::ParentLoop => notes.push("is its own ancestor".to_owned()),
    }
    if span.start > window.end || span.end.unwrap_or(window.end) < window.start {
        notes.push("outside the run's time".to_owned());
    }
    notes
}

/// CPU and memory of a tool's own processes, where they are worth a word; the tree's would be said of each tool again.
fn resources(span: &Span) -> Option<String> {
    if span.text(key::TOOL_RESOURCES) != Some(value::OWN) {
        return None;
    }
    let cpu = span
        .number(key::TOOL_CPU_SECONDS)
        .filter(|cpu| *cpu >= CPU_WORTH_A_WORD);
    let memory = span
        .count(key::TOOL_MEMORY_PEAK)
        .filter(|bytes| *bytes >= MEMORY_WORTH_A_WORD);
    let cpu = cpu.map(|cpu| format!("{cpu:.1} s of CPU"));
    let words: Vec<String> = cpu.into_iter().chain(memory.map(bytes)).collect();
    (!words.is_empty()).then(|| words.join(", "))
}
