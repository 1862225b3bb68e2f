//! The spans of a run as a tree. Whatever the journal says, it is one: a span whose parent is missing becomes a root,
//! and a loop of parents is cut open.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::order::by_number;
use crate::time::UnixNanos;

/// A span as the journal tells of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    pub(super) id: String,
    pub(super) parent: Option<String>,
    pub(super) name: String,
    pub(super) start: UnixNanos,
    /// `None` while it is open, or for ever if the supervisor died.
    pub(super) end: Option<UnixNanos>,
    pub(super) status: Status,
    /// The status's message.
    pub(super) message: Option<String>,
    pub(super) attributes: Map<String, Value>,
}

/// How a span ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Status {
    #[default]
    Unset,
    Ok,
    Error,
}

/// What a span stands for; it decides how its bar is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// `agent.run` or `invoke_agent`: it contains the work of others.
    Agent,
    Chat,
    Tool,
    Approval,
    Other,
}

impl Span {
    pub(super) fn role(&self) -> Role {
        match self.name.split(' ').next() {
            Some("agent.run" | "invoke_agent") => Role::Agent,
            Some("chat") => Role::Chat,
            Some("execute_tool") => Role::Tool,
            Some("approval") => Role::Approval,
            _ => Role::Other,
        }
    }

    pub(super) fn is_subagent(&self) -> bool {
        self.name.starts_with("invoke_agent ")
    }

    pub(super) fn failed(&self) -> bool {
        self.status == Status::Error
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.attributes.get(key)?.as_str()
    }

    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.attributes.get(key)?.as_f64()
    }

    pub(super) fn count(&self, key: &str) -> Option<u64> {
        self.attributes.get(key)?.as_u64()
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        self.attributes.get(key) == Some(&Value::Bool(true))
    }
}

/// Where a span hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Under its parent, or it has none.
    Proper,
    /// At the top, for nothing is known of its parent.
    ParentMissing,
    /// At the top, for it is its own ancestor.
    ParentLoop,
}

/// Spans with their children in order of their start.
#[derive(Debug)]
pub(super) struct Tree {
    spans: Vec<Span>,
    children: Vec<Vec<usize>>,
    places: Vec<Place>,
    roots: Vec<usize>,
}

impl Tree {
    /// Builds the tree. `root` is the id of the run's own span, whose parent is rightly elsewhere. Of two spans with
    /// one id the first counts.
    pub(super) fn build(mut spans: Vec<Span>, root: Option<&str>) -> Self {
        let mut index: HashMap<String, usize> = HashMap::with_capacity(spans.len());
        spans.retain(|span| {
            let next = index.len();
            let known = index.entry(span.id.clone()).or_insert(next);
            *known == next
        });
        let parents: Vec<Option<usize>> = spans
            .iter()
            .map(|span| index.get(span.parent.as_ref()?).copied())
            .collect();

        let mut tree = Self {
            children: vec![Vec::new(); spans.len()],
            places: vec![Place::Proper; spans.len()],
            roots: Vec::new(),
            spans,
        };
        for (at, parent) in parents.iter().enumerate() {
            let span = &tree.spans[at];
            match parent {
                Some(parent) => tree.children[*parent].push(at),
                None => {
                    let run = root == Some(span.id.as_str()) || span.name == "agent.run";
                    if span.parent.is_some() && !run {
                        tree.places[at] = Place::ParentMissing;
                    }
                    tree.roots.push(at);
                }
            }
        }
        tree.cut_loops(&parents);
        let spans = &tree.spans;
        let by_start = |at: &usize| u128::from(spans[*at].start.0) << 32 | *at as u128;
        for children in &mut tree.children {
            *children = by_number(std::mem::take(children), by_start);
        }
        // The run itself comes first, even before a stray span with an earlier time.
        tree.roots = by_number(std::mem::take(&mut tree.roots), |at| {
            let is_stray = tree.places[*at] != Place::Proper;
            u128::from(is_stray) << 100 | by_start(at)
        });
        tree
    }

    /// What no root reaches hangs from a loop; each loop is opened at one of its spans, which becomes a root.
    fn cut_loops(&mut self, parents: &[Option<usize>]) {
        let mut reached = vec![false; self.spans.len()];
        for root in self.roots.clone() {
            self.mark(root, &mut reached);
        }
        for at in 0..self.spans.len() {
            if reached[at] {
                continue;
            }
            let mut path = HashSet::from([at]);
            let mut current = at;
            while let Some(parent) = parents[current] {
                current = parent;
                if !path.insert(current) {
                    break;
                }
            }
            if let Some(parent) = parents[current] {
                self.children[parent].retain(|child| *child != current);
            }
            self.places[current] = Place::ParentLoop;
            self.roots.push(current);
            self.mark(current, &mut reached);
        }
    }

    fn mark(&self, root: usize, reached: &mut [bool]) {
        let mut pending = vec![root];
        while let Some(at) = pending.pop() {
            if !reached[at] {
                reached[at] = true;
                pending.extend(&self.children[at]);
            }
        }
    }

    pub(super) fn spans(&self) -> &[Span] {
        &self.spans
    }

    pub(super) fn span(&self, at: usize) -> &Span {
        &self.spans[at]
    }

    pub(super) fn children(&self, at: usize) -> &[usize] {
        &self.children[at]
    }

    pub(super) fn place(&self, at: usize) -> Place {
        self.places[at]
    }

    pub(super) fn roots(&self) -> &[usize] {
        &self.roots
    }

    /// The run's own span.
    pub(super) fn run(&self) -> Option<&Span> {
        let first = self.span(*self.roots.first()?);
        (first.name == "agent.run").then_some(first)
    }

    /// The most tools that ran at once under one parent; a subagent's tools are not counted with the tool they run in.
    pub(super) fn tools_at_once(&self) -> usize {
        let most = |siblings: &Vec<usize>| {
            let mut edges = Vec::new();
            for span in siblings.iter().map(|at| self.span(*at)) {
                if span.role() == Role::Tool {
                    edges.push((span.start, 1_i64));
                    // However short, it ran.
                    edges.extend(
                        span.end
                            .map(|end| (end.max(UnixNanos(span.start.0.saturating_add(1))), -1)),
                    );
                }
            }
            // At the same moment an end comes before a start, so that a sequence is not taken for an overlap.
            let edges = by_number(edges, |(time, step)| {
                u128::from(time.0) << 1 | u128::from(*step > 0)
            });
            let running = edges.iter().scan(0, |running, (_, step)| {
                *running += step;
                Some(*running)
            });
            running.max().unwrap_or(0)
        };
        let most = self.children.iter().map(most).max().unwrap_or(0);
        usize::try_from(most).unwrap_or(0)
    }

    /// The time the report is about: the run's own, if it is known, so that one absurd timestamp cannot squeeze the
    /// rest; else that of all spans. `last_seen` is the journal's newest line.
    pub(super) fn window(&self, last_seen: Option<UnixNanos>) -> Option<Window> {
        let run = self.run();
        let start = match run {
            Some(run) => run.start,
            None => self.spans.iter().map(|span| span.start).min()?,
        };
        let ends = || self.spans.iter().filter_map(|span| span.end).max();
        let end = run
            .and_then(|run| run.end)
            .or(last_seen)
            .or_else(ends)
            .unwrap_or(start);
        Some(Window {
            start,
            end: end.max(start),
        })
    }
}

/// The stretch of time that the axis shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: UnixNanos,
    pub(super) end: UnixNanos,
}

impl Window {
    pub(super) fn length(self) -> Duration {
        self.end.since(self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: &str, parent: Option<&str>, start: u64, end: Option<u64>) -> Span {
        Span {
            id: id.to_owned(),
            parent: parent.map(str::to_owned),
            name: format!("execute_tool {id}"),
            start: UnixNanos(start),
            end: end.map(UnixNanos),
            status: Status::Unset,
            message: None,
            attributes: Map::new(),
        }
    }

    /// The tree in one line: `a(b c(d))`.
    fn shape(tree: &Tree, nodes: &[usize]) -> String {
        let one = |at: &usize| match tree.children(*at) {
            [] => tree.span(*at).id.clone(),
            children => format!("{}({})", tree.span(*at).id, shape(tree, children)),
        };
        nodes.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_span_hangs_somewhere_exactly_once() {
        type Edges = &'static [(&'static str, Option<&'static str>, u64)];
        let table: [(Edges, &str); 8] = [
            (&[], ""),
            (
                &[("a", None, 0), ("b", Some("a"), 2), ("c", Some("a"), 1)],
                "a(c b)",
            ),
            (&[("b", Some("a"), 2), ("a", None, 5)], "a(b)"),
            (&[("a", None, 5), ("b", Some("gone"), 1)], "a b"),
            (&[("a", Some("a"), 0)], "a"),
            (&[("a", Some("b"), 0), ("b", Some("a"), 1)], "a(b)"),
            (
                &[
                    ("x", Some("a"), 0),
                    ("a", Some("b"), 1),
                    ("b", Some("a"), 2),
                ],
                "a(x b)",
            ),
            (
                &[("a", None, 0), ("a", Some("a"), 1), ("b", Some("a"), 2)],
                "a(b)",
            ),
        ];
        for (edges, expected) in table {
            let spans = edges
                .iter()
                .map(|(id, parent, start)| span(id, *parent, *start, None))
                .collect();
            let tree = Tree::build(spans, Some("a"));
            assert_eq!(shape(&tree, tree.roots()), expected, "{edges:?}");
        }
    }

    #[test]
    fn a_chain_of_a_hundred_thousand_spans_does_not_overflow_the_stack() {
        let spans = (0..100_000_u64)
            .map(|i| {
                let parent = i.checked_sub(1).map(|parent| parent.to_string());
                span(&i.to_string(), parent.as_deref(), i, None)
            })
            .collect();
        assert_eq!(Tree::build(spans, None).roots(), [0]);
    }

    #[test]
    fn tools_at_once_counts_overlaps_and_no_sequences() {
        type Case<'a> = (&'a [(u64, Option<u64>)], usize);
        let table: [Case<'_>; 5] = [
            (&[], 0),
            (&[(0, Some(1)), (1, Some(2))], 1),
            (&[(0, Some(3)), (1, Some(2)), (2, Some(4))], 2),
            (&[(0, None), (1, None), (5, Some(6))], 3),
            (&[(0, Some(9)), (1, Some(9)), (2, Some(9))], 3),
        ];
        for (times, most) in table {
            let mut spans = vec![span("root", None, 0, None)];
            spans.extend(
                times
                    .iter()
                    .enumerate()
                    .map(|(i, (start, end))| span(&i.to_string(), Some("root"), *start, *end)),
            );
            let tree = Tree::build(spans, None);
            assert_eq!(tree.tools_at_once(), most, "{times:?}");
        }
    }
}
