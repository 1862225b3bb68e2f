//! The rows drawn: the tree on the left, a bar on the common axis, and what it took.

use super::axis::{Axis, Ink};
use super::rows::{Drawn, Row, rows};
use super::text::{columns, cut, left, right};
use super::tree::{Role, Span, Tree};
use super::view::{Charset, Paint, View};
use crate::session::semconv::key;
use crate::time::UnixNanos;

/// The narrowest page with a column for costs.
const COST_FROM: usize = 72;

/// Draws the waterfall; nothing if there is no span.
pub(super) fn render(tree: &Tree, last_seen: Option<UnixNanos>, view: View) -> String {
    let Some(window) = tree.window(last_seen) else {
        return String::new();
    };
    let rows = rows(tree, window, view);
    let layout = Layout::fit(&rows, view);
    let axis = Axis::new(window, layout.bar);
    let (labels, ticks) = axis.ticks();
    let mut page = layout.heading(&labels, view);
    for row in &rows {
        layout.row(row, tree, axis, &ticks, view, &mut page);
    }
    page.push_str(&legend(&rows, view));
    page
}

/// Widths in columns. A column that no row needs is 0 wide and takes no gap.
struct Layout {
    name: usize,
    bar: usize,
    took: usize,
    tokens: usize,
    cost: usize,
}

impl Layout {
    /// Text gets what it needs within limits, and the bars get the rest.
    fn fit(rows: &[Row], view: View) -> Self {
        let widest = |part: fn(&Row) -> usize| rows.iter().map(part).max().unwrap_or(0);
        let name = widest(|row| columns(&row.branch) + columns(&row.name))
            .clamp(12, (view.width() * 36 / 100).max(25));
        // A heading is a word of its own width, and a number never needs more than the limit unless it is absurd.
        let column = |part, heading: usize, limit| match widest(part) {
            0 => 0,
            width => width.clamp(heading, limit),
        };
        let took = column(|row| columns(&row.took), 4, 8);
        let tokens = column(|row| columns(&row.tokens), 6, 12);
        let cost = match view.width() {
            ..COST_FROM => 0,
            _ => column(|row| columns(&row.cost), 4, 8),
        };
        let gap = |width: usize| if width == 0 { 0 } else { width + 1 };
        let bar = view.width() - name - 1 - gap(took) - gap(tokens) - gap(cost);
        Self {
            name,
            bar,
            took,
            tokens,
            cost,
        }
    }

    /// What is right of the duration, gaps included.
    fn details(&self) -> usize {
        let gap = |width: usize| if width == 0 { 0 } else { width + 1 };
        gap(self.tokens) + gap(self.cost)
    }

    fn right_hand(&self, took: &str, tokens: &str, cost: &str, charset: Charset) -> String {
        let mut text = format!(" {}", right(took, self.took, charset));
        for (part, width) in [(tokens, self.tokens), (cost, self.cost)] {
            if width > 0 {
                text.push(' ');
                text.push_str(&right(part, width, charset));
            }
        }
        text
    }

    fn heading(&self, labels: &str, view: View) -> String {
        let charset = view.charset();
        let tokens = charset.pick("in→out", "in>out");
        let line = format!(
            "{:name$} {labels:bar$}{}",
            "",
            self.right_hand("time", tokens, "cost", charset),
            name = self.name,
            bar = self.bar,
        );
        format!("{}\n", view.paint(Paint::Dim, line.trim_end()))
    }

    fn row(
        &self,
        row: &Row,
        tree: &Tree,
        axis: Axis,
        ticks: &[usize],
        view: View,
        page: &mut String,
    ) {
        let charset = view.charset();
        let notes = row.notes.join(charset.pick(" · ", ", "));
        let has_numbers = !row.tokens.is_empty() || (self.cost > 0 && !row.cost.is_empty());
        let beside = !has_numbers && columns(&notes) < self.details();

        let branch = shortened(&row.branch, self.name.saturating_sub(10), charset);
        let name = left(&row.name, self.name - columns(&branch), charset);
        let bare = name.trim_end();
        let mut line = view.paint(Paint::Dim, &branch);
        line.push_str(&view.paint(row.paint, bare));
        line.push_str(&name[bare.len()..]);
        line.push(' ');
        line.push_str(&bar(row, tree, axis, ticks, view));
        if beside {
            line.push_str(&self.right_hand(&row.took, "", "", charset));
            line.truncate(line.len() - self.details());
            line.push(' ');
            line.push_str(&view.paint(row.paint, &notes));
        } else {
            line.push_str(&self.right_hand(&row.took, &row.tokens, &row.cost, charset));
        }
        page.push_str(line.trim_end());
        page.push('\n');

        if beside || notes.is_empty() {
            return;
        }
        let stem = shortened(&row.stem, self.name, charset);
        let notes = cut(&notes, view.width() - columns(&stem), charset);
        page.push_str(&view.paint(Paint::Dim, &stem));
        page.push_str(&view.paint(row.paint, &notes));
        page.push('\n');
    }
}

/// A branch too deep for its column keeps its right end.
fn shortened(branch: &str, width: usize, charset: Charset) -> String {
    let length = branch.chars().count();
    if length <= width {
        return branch.to_owned();
    }
    let ellipsis = charset.ellipsis();
    let kept = width.saturating_sub(columns(ellipsis));
    ellipsis
        .chars()
        .chain(branch.chars().skip(length - kept))
        .collect()
}

fn bar(row: &Row, tree: &Tree, axis: Axis, ticks: &[usize], view: View) -> String {
    let mut bar = axis.bar();
    let mut draw = |at: usize| {
        let span = tree.span(at);
        let ink = ink(tree, at);
        let start = span.start;
        let begun = waited_until(span).unwrap_or(start);
        let begun = begun.min(span.end.unwrap_or(begun));
        if begun > start {
            bar.draw(Ink::Wait, start, begun);
        }
        match span.end {
            Some(end) => bar.draw(ink, begun, end),
            None => bar.draw_open(ink, begun),
        }
    };
    match &row.drawn {
        Drawn::Span(at) => draw(*at),
        Drawn::Hidden(hidden) => hidden.iter().copied().for_each(draw),
    }
    bar.render(ticks, row.paint, view)
}

fn ink(tree: &Tree, at: usize) -> Ink {
    let subagent = |at: &usize| tree.span(*at).is_subagent();
    match tree.span(at).role() {
        Role::Agent => Ink::Frame,
        Role::Tool if tree.children(at).iter().any(subagent) => Ink::Frame,
        Role::Approval => Ink::Wait,
        Role::Chat | Role::Tool | Role::Other => Ink::Work,
    }
}

/// When a chat's first token came.
fn waited_until(span: &Span) -> Option<UnixNanos> {
    let seconds = span.number(key::GEN_AI_TIME_TO_FIRST_CHUNK)?;
    let wait = std::time::Duration::try_from_secs_f64(seconds).ok()?;
    (span.role() == Role::Chat).then(|| span.start.plus(wait))
}

/// What the signs mean, as far as they occur.
fn legend(rows: &[Row], view: View) -> String {
    let charset = view.charset();
    let open = rows.iter().any(|row| row.took.starts_with('>'));
    let failed = rows.iter().any(|row| row.paint == Paint::Bad);
    let signs = [
        (true, charset.pick("━ agent", "- agent")),
        (true, charset.pick("█ work", "# work")),
        (
            true,
            charset.pick("░ awaiting model or human", "~ awaiting model or human"),
        ),
        (failed, charset.pick("✗ failed", "x failed")),
        (open, "> open"),
    ];
    let shown = signs.into_iter().filter(|(occurs, _)| *occurs);
    let shown: Vec<&str> = shown.map(|(_, sign)| sign).collect();
    let line = cut(&shown.join("  "), view.width(), charset);
    format!("{}\n", view.paint(Paint::Dim, &line))
}
