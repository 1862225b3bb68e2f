//! What the decoder and the session must do with any stream: no panic, no line of ours forged, each line stamped so
//! that JSON stays JSON, every span opened and closed once and within its parent, and a verdict, once.
//!
//! An input is the agent's stdout. A line that begins with `!` is also something else that happens; see [`Run::aside`].

#[path = "kernel.rs"]
mod kernel;

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::trace::{SpanId, TraceId};
use sandtrace::agent::{Decoded, Lines, decode};
use sandtrace::envelope::Stamper;
use sandtrace::process::exit::Termination;
use sandtrace::session::{
    Action, Capture, Effects, FinishedSpan, Input, OpenedSpan, ProbePolicy, Session, SessionConfig,
    TraceContext,
};
use sandtrace::time::{Now, UnixNanos};
use sandtrace_client::wire::Telemetry;
use sandtrace_client::{Body, Outcome, Stamp};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

/// Smaller than the real one, so that lines that are too long occur.
const LONGEST_LINE: usize = 64 << 10;

pub(crate) fn check(stream: &[u8]) {
    let mut run = Run::new();
    let mut lines = Lines::new(LONGEST_LINE);
    let mut sink = |fragment: sandtrace::agent::Fragment<'_>| match fragment.part {
        None => run.line(fragment.bytes),
        Some(_) => run.input(1, Input::Fragment),
    };
    lines.push(stream, &mut sink);
    lines.finish(&mut sink);
    run.end();
}

struct Run {
    session: Session,
    effects: Effects,
    stamper: Stamper,
    uptime: Duration,
    opened: HashMap<SpanId, OpenedSpan>,
    closed: HashMap<SpanId, FinishedSpan>,
    outcome: Option<Outcome>,
}

impl Run {
    fn new() -> Self {
        let config = SessionConfig {
            run_id: "run".to_owned(),
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
            deadline: Some(Duration::from_secs(6 * 3600)),
            idle_timeout: Some(Duration::from_secs(1800)),
            sandbox_ends_at: None,
            grace: Duration::from_secs(10),
            survivors: None,
            // An aside may answer it, or nobody.
            probe: ProbePolicy::On,
            executable: "python3".to_owned(),
            resumed: false,
        };
        let mut effects = Effects::default();
        let mut run = Self {
            session: Session::new(config, at(Duration::ZERO), &mut effects),
            effects,
            stamper: Stamper::new(TraceId::from_bytes([7; 16])),
            uptime: Duration::ZERO,
            opened: HashMap::new(),
            closed: HashMap::new(),
            outcome: None,
        };
        run.collect();
        run.input(1, Input::Spawned { pid: 42 });
        run
    }

    fn line(&mut self, line: &[u8]) {
        let decoded = decode(line);
        check_decoded(line, &decoded);
        if matches!(decoded, Decoded::Event(_) | Decoded::Unrecognised) {
            self.check_stamped(line);
        }
        self.input(1 + line.len() as u64 * 7 % 97, Input::Line(&decoded));
        if let [b'!', kind, rest @ ..] = line {
            self.aside(*kind, rest);
        }
    }

    fn aside(&mut self, kind: u8, rest: &[u8]) {
        let digit = rest.first().copied().unwrap_or_default();
        match kind {
            b'2' => self.input(0, Input::Stderr(rest)),
            b's' => self.input(0, Input::StopSignal(15)),
            b't' => self.input(0, Input::Tick),
            b'x' => self.input(0, Input::Exited(Termination::Exited(i32::from(digit)))),
            b'k' => {
                let termination = Termination::Signaled {
                    signal: i32::from(digit % 64) + 1,
                    core_dumped: digit > 127,
                };
                self.input(0, Input::Exited(termination));
            }
            b'o' => self.input(0, Input::StdoutClosed),
            b'e' => self.input(0, Input::StderrClosed),
            b'n' => self.input(0, Input::TreeEmpty),
            b'm' => self.input(0, Input::Memory(kernel::reading(rest))),
            b'l' => self.input(0, Input::Looked(&kernel::tree(rest))),
            b'w' => self.input(0, Input::Sockets(kernel::sockets(rest))),
            b'r' => self.input(0, Input::Probed(kernel::probed(rest))),
            // A long pause; what was due in it happens first.
            b'p' => self.wait(Duration::from_secs(u64::from(digit) * 60)),
            _ => {}
        }
    }

    fn wait(&mut self, pause: Duration) {
        let end = self.uptime + pause;
        let mut ticks = 0;
        while let Some(due) = self.session.deadline()
            && due <= end
            && self.outcome.is_none()
        {
            self.uptime = self.uptime.max(due);
            self.input(0, Input::Tick);
            ticks += 1;
            assert!(ticks < 20, "the machine does not come to rest");
        }
        self.uptime = end;
    }

    fn input(&mut self, millis: u64, input: Input<'_>) {
        // The shell sends nothing after the verdict.
        if self.outcome.is_some() {
            return;
        }
        self.uptime += Duration::from_millis(millis);
        let is_line = matches!(input, Input::Line(_));
        self.session
            .handle(at(self.uptime), input, &mut self.effects);
        assert!(
            !is_line || self.effects.line_span.is_some(),
            "a line belongs to a span"
        );
        self.collect();
    }

    fn collect(&mut self) {
        for span in self.effects.spans.opened.drain(..) {
            let id = span.span_id;
            let name = span.name.clone();
            assert!(
                self.opened.insert(id, span).is_none(),
                "{name} opened twice"
            );
        }
        for span in self.effects.spans.closed.drain(..) {
            let id = span.span_id;
            let name = span.name.clone();
            assert!(self.opened.contains_key(&id), "{name} was never open");
            assert!(span.start <= span.end, "{name} ends before it starts");
            assert!(
                self.closed.insert(id, span).is_none(),
                "{name} closed twice"
            );
        }
        if let Some(span) = self.effects.line_span {
            assert!(self.opened.contains_key(&span), "a line of an unknown span");
        }
        for action in &self.effects.actions {
            if let Action::Finish(verdict) | Action::Abort(verdict) = action {
                assert!(self.outcome.is_none(), "two verdicts");
                assert_eq!(
                    verdict.failure.is_none(),
                    verdict.outcome == Outcome::Success
                );
                if let Some(failure) = &verdict.failure {
                    let others = failure.alternatives.iter().map(|other| other.confidence);
                    for confidence in others.chain([failure.confidence]) {
                        assert!((0.0..=1.0).contains(&confidence), "{failure:?}");
                    }
                    assert!(!failure.evidence.is_empty(), "{failure:?}");
                }
                self.outcome = Some(verdict.outcome);
            }
        }
        self.effects.clear();
    }

    /// The agent exits, if it has not, and the run must come to its end.
    fn end(mut self) {
        self.input(5, Input::StdoutClosed);
        self.input(0, Input::StderrClosed);
        self.input(0, Input::Exited(Termination::Exited(0)));
        self.input(0, Input::TreeEmpty);
        // What it may still wait for has an end.
        self.wait(Duration::from_secs(24 * 3600));
        let outcome = self.outcome.expect("a run ends with a verdict");
        for (id, span) in &self.opened {
            assert!(self.closed.contains_key(id), "{} never closed", span.name);
        }
        for span in self.closed.values() {
            self.check_parent(span);
        }
        let finished = self.session.run_finished(Telemetry::default(), Vec::new());
        let body = Body::RunFinished(Box::new(finished.expect("a verdict has its sums")));
        let line = serde_json::to_string(&body).expect("it can be written");
        let read: Body =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(read, body, "{line}");
        let Body::RunFinished(finished) = body else {
            unreachable!("it was made above");
        };
        assert_eq!(finished.outcome, outcome);
    }

    fn check_parent(&self, span: &FinishedSpan) {
        let name = &span.name;
        let Some(parent) = span.parent_span_id else {
            assert_eq!(span.span_id, self.session.root(), "{name} has no parent");
            return;
        };
        let parent = &self.closed[&parent];
        assert!(
            parent.start <= span.start && span.start <= parent.end,
            "{name} does not start within {}",
            parent.name
        );
        let is_background = span
            .attributes
            .iter()
            .any(|(key, _)| key.as_str() == sandtrace::session::semconv::key::BACKGROUND);
        assert!(
            is_background || span.end <= parent.end,
            "{name} ends after {}",
            parent.name
        );
    }

    /// A stamped line is JSON still, the agent's bytes are in it, and its stamp is ours.
    fn check_stamped(&mut self, line: &[u8]) {
        #[derive(Deserialize)]
        struct Stamped {
            sandtrace: Stamp,
        }

        let mut out = Vec::new();
        let time = at(self.uptime).wall;
        assert!(
            self.stamper
                .admit(line, time, self.session.root(), &mut out),
            "an object takes the stamp"
        );
        serde_json::from_slice::<IgnoredAny>(&out).expect("a stamped line is JSON");
        // Keys that are no Unicode are the agent's own business.
        if serde_json::from_slice::<Map<String, Value>>(line).is_ok() {
            let stamped: Stamped = serde_json::from_slice(&out).expect("one stamp");
            assert_eq!(stamped.sandtrace.seq, self.stamper.seq());
        }
        let member = last(&out, b"\"sandtrace\":{\"seq\":").expect("our member");
        let length = out[member..].iter().position(|byte| *byte == b'}');
        let end = member + length.expect("its end") + 1;
        let mut rest = out[..member].to_vec();
        rest.extend_from_slice(&out[end..out.len() - 1]);
        if rest != line {
            assert_eq!(rest.remove(member - 1), b',');
            assert_eq!(rest, line, "the agent's bytes were changed");
        }
    }
}

/// Where `needle` stands last.
fn last(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .rposition(|window| window == needle)
}

fn check_decoded(line: &[u8], decoded: &Decoded<'_>) {
    let mut spaced = b" \t".to_vec();
    spaced.extend_from_slice(line);
    spaced.extend_from_slice(b" \r");
    assert_eq!(
        decode(&spaced),
        *decoded,
        "white space around a line changes what it is"
    );
    // What a strict reader takes for an object is one, and what it takes for a line of ours is forged.
    let Ok(object) = serde_json::from_slice::<Map<String, Value>>(line) else {
        return;
    };
    let is_ours = object.contains_key("sandtrace")
        || object
            .get("type")
            .and_then(Value::as_str)
            .is_some_and(|kind| kind.starts_with("sandtrace."));
    assert_ne!(*decoded, Decoded::Text, "an object was taken for text");
    assert!(
        !is_ours || *decoded == Decoded::Forged,
        "a forged line passed"
    );
}

fn at(uptime: Duration) -> Now {
    Now {
        wall: UnixNanos(1_769_860_800_000_000_000).plus(uptime),
        uptime,
    }
}
