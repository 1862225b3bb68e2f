//! The session as a machine: recordings in, span trees and verdicts out; hand-made inputs for what no recording has;
//! properties for what must hold of every stream.

mod behaviour;
mod life;
mod looks;
mod network;
mod properties;
mod recordings;
mod sessions;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use opentelemetry::Value;
use opentelemetry::trace::{SpanId, TraceId};
use sandtrace_client::wire::{AgentExited, RunFinished, Telemetry};

use super::*;
use crate::agent::decode;
use crate::process::exit::Termination;
use crate::resources::TreeSample;

const START: UnixNanos = UnixNanos(1_769_860_800_000_000_000);

fn at(millis: u64) -> Now {
    let uptime = Duration::from_millis(millis);
    Now {
        wall: START.plus(uptime),
        uptime,
    }
}

fn config() -> SessionConfig {
    SessionConfig {
        run_id: "run-1".to_owned(),
        context: TraceContext {
            trace_id: TraceId::from_bytes([7; 16]),
            parent_span_id: None,
            sampled: true,
            trace_state: String::new(),
        },
        agent_name: "claude".to_owned(),
        session_id: None,
        user_id: None,
        attributes: Vec::new(),
        capture: Capture::Preview,
        deadline: None,
        idle_timeout: None,
        sandbox_ends_at: None,
        grace: Duration::from_secs(10),
        survivors: None,
        // Nobody answers one here; the tests of it turn it on.
        probe: ProbePolicy::Off,
        executable: "python3".to_owned(),
        resumed: false,
    }
}

/// A session under test, with everything it ever did.
struct Replay {
    session: Session,
    effects: Effects,
    opened: Vec<OpenedSpan>,
    closed: Vec<FinishedSpan>,
    actions: Vec<Action>,
    /// The span of the last line.
    line_span: Option<SpanId>,
    now: u64,
}

impl Replay {
    fn new(config: SessionConfig) -> Self {
        let mut effects = Effects::default();
        let session = Session::new(config, at(0), &mut effects);
        let mut replay = Self {
            session,
            effects,
            opened: Vec::new(),
            closed: Vec::new(),
            actions: Vec::new(),
            line_span: None,
            now: 0,
        };
        replay.collect();
        replay
    }

    fn spawned() -> Self {
        let mut replay = Self::new(config());
        replay.input(1, Input::Spawned { pid: 42 });
        replay
    }

    fn collect(&mut self) {
        self.opened.append(&mut self.effects.spans.opened);
        self.closed.append(&mut self.effects.spans.closed);
        self.actions.append(&mut self.effects.actions);
        self.line_span = self.effects.line_span.take();
    }

    fn input(&mut self, millis: u64, input: Input<'_>) {
        self.now = self.now.max(millis);
        self.session.handle(at(self.now), input, &mut self.effects);
        self.collect();
    }

    fn line(&mut self, millis: u64, line: &str) {
        self.input(millis, Input::Line(&decode(line.as_bytes())));
    }

    fn event(&mut self, millis: u64, event: AgentEvent<'static>) {
        self.input(millis, Input::Line(&Decoded::Event(event)));
    }

    /// The agent exits and its pipes close.
    fn exit(&mut self, millis: u64, termination: Termination) {
        self.input(millis, Input::StdoutClosed);
        self.input(millis, Input::StderrClosed);
        self.input(millis, Input::Exited(termination));
        self.input(millis, Input::TreeEmpty);
    }

    fn verdict(&self) -> &AgentExited {
        let verdict = self.actions.iter().find_map(|action| match action {
            Action::Finish(verdict) | Action::Abort(verdict) => Some(verdict),
            _ => None,
        });
        verdict.expect("the run has ended")
    }

    /// `class.reason`, or `-`.
    fn failure(&self) -> String {
        let failure = &self.verdict().failure;
        failure
            .as_ref()
            .map_or("-".to_owned(), |failure| failure.kind.to_string())
    }

    fn finished(&self) -> RunFinished {
        self.session
            .run_finished(Telemetry::default(), Vec::new())
            .expect("the run has ended")
    }

    fn span(&self, name: &str) -> &FinishedSpan {
        let mut found = self.closed.iter().filter(|span| span.name == name);
        let span = found
            .next()
            .unwrap_or_else(|| panic!("no span {name} in\n{}", self.tree()));
        assert!(
            found.next().is_none(),
            "several spans {name} in\n{}",
            self.tree()
        );
        span
    }

    /// What must hold of every finished run.
    fn check(&self) {
        let tree = self.tree();
        let mut closed = HashMap::new();
        for span in &self.closed {
            assert!(
                closed.insert(span.span_id, span).is_none(),
                "{} closed twice in\n{tree}",
                span.name
            );
            assert!(
                span.start <= span.end,
                "{} ends before it starts in\n{tree}",
                span.name
            );
        }
        let mut opened = HashMap::new();
        for span in &self.opened {
            assert!(
                opened.insert(span.span_id, span).is_none(),
                "{} opened twice in\n{tree}",
                span.name
            );
            assert!(
                closed.contains_key(&span.span_id),
                "{} never closed in\n{tree}",
                span.name
            );
        }
        assert_eq!(opened.len(), closed.len(), "{tree}");
        for span in &self.closed {
            let Some(parent) = span.parent_span_id else {
                assert_eq!(
                    span.span_id,
                    self.session.root(),
                    "{} has no parent in\n{tree}",
                    span.name
                );
                continue;
            };
            let parent = closed[&parent];
            assert!(
                parent.start <= span.start,
                "{} starts before its parent in\n{tree}",
                span.name
            );
            assert!(
                span.start <= parent.end,
                "{} starts after its parent's end in\n{tree}",
                span.name
            );
            if attribute(span, key::BACKGROUND).is_none() {
                assert!(
                    span.end <= parent.end,
                    "{} ends after its parent in\n{tree}",
                    span.name
                );
            }
        }
    }

    /// The span tree as a person would draw it, with times in milliseconds.
    fn tree(&self) -> String {
        let mut children: HashMap<SpanId, Vec<&FinishedSpan>> = HashMap::new();
        let mut roots = Vec::new();
        for span in &self.closed {
            match span.parent_span_id {
                Some(parent) => children.entry(parent).or_default().push(span),
                None => roots.push(span),
            }
        }
        let order = |span: &&FinishedSpan| {
            (
                span.start,
                self.opened
                    .iter()
                    .position(|opened| opened.span_id == span.span_id),
            )
        };
        roots.sort_by_key(order);
        children
            .values_mut()
            .for_each(|spans| spans.sort_by_key(order));
        let mut text = String::new();
        for root in roots {
            draw(root, 0, &children, &mut text);
        }
        text
    }
}

fn attribute<'a>(span: &'a FinishedSpan, name: &str) -> Option<&'a Value> {
    span.attributes
        .iter()
        .find(|(key, _)| key.as_str() == name)
        .map(|(_, value)| value)
}

/// A text as it leaves the session: not yet redacted and clipped.
fn content<'a>(span: &'a FinishedSpan, name: &str) -> Option<&'a str> {
    let mut contents = span.content.iter();
    let found = contents.find(|content| content.key == name)?;
    Some(&found.text)
}

/// The attributes a tree shows, under short names.
const SHOWN: &[(&str, &str)] = &[
    (key::ERROR_TYPE, "error"),
    (key::GEN_AI_INPUT_TOKENS, "in"),
    (key::GEN_AI_OUTPUT_TOKENS, "out"),
    (key::USAGE_INPUT, "in"),
    (key::USAGE_OUTPUT, "out"),
    (key::GEN_AI_CACHE_READ, "read"),
    (key::GEN_AI_CACHE_CREATION, "write"),
    (key::COST_USD, "usd"),
    (key::COST_SOURCE, "by"),
    (key::GEN_AI_FINISH_REASONS, "finish"),
    (key::GEN_AI_TOOL_CALL_ID, "call"),
    (key::RETRIES, "retries"),
    (key::BACKGROUND, "background"),
    (key::ABANDONED, "abandoned"),
    (key::SYNTHETIC, "synthetic"),
    (key::APPROVAL_DECISION, "decision"),
    (key::APPROVAL_WAIT_MS, "wait"),
    (key::SUBAGENT_STATUS, "status"),
    (key::COMPACT_TRIGGER, "trigger"),
    (key::OUTCOME, "outcome"),
];

fn draw(
    span: &FinishedSpan,
    depth: usize,
    children: &HashMap<SpanId, Vec<&FinishedSpan>>,
    text: &mut String,
) {
    let millis = |time: UnixNanos| time.since(START).as_millis();
    write!(
        text,
        "{:indent$}{} {}..{}",
        "",
        span.name,
        millis(span.start),
        millis(span.end),
        indent = 2 * depth
    )
    .unwrap();
    for (name, short) in SHOWN {
        if let Some(value) = attribute(span, name) {
            match value {
                Value::F64(number) => {
                    write!(text, " {short}={}", (number * 1e6).round() / 1e6).unwrap()
                }
                value => write!(text, " {short}={value}").unwrap(),
            }
        }
    }
    for event in &span.events {
        write!(text, " *{}", event.name).unwrap();
    }
    text.push('\n');
    for child in children.get(&span.span_id).into_iter().flatten() {
        draw(child, depth + 1, children, text);
    }
}
