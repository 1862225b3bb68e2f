//! Spans to translate: those of every recording as the pipeline has them before the dialect, and a few by hand for what
//! no recording has.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use opentelemetry::trace::{SpanId, SpanKind, TraceId};
use opentelemetry::{Key, Value};
use serde_json::Value as Json;

use super::super::{Dialect, Semconv};
use crate::agent::{Fragment, Lines, decode};
use crate::process::exit::Termination;
use crate::session::id;
use crate::session::{
    Attribute, Capture, Effects, FinishedSpan, Input, ProbePolicy, Session, SessionConfig,
    SpanStatus, TraceContext,
};
use crate::telemetry::Redactor;
use crate::time::{Now, UnixNanos};

pub(super) const START: UnixNanos = UnixNanos(1_769_860_800_000_000_000);

pub(super) const DIALECTS: [Dialect; 14] = [
    Dialect::Otlp,
    Dialect::Langfuse,
    Dialect::LangfuseGuest,
    Dialect::Signoz,
    Dialect::Phoenix,
    Dialect::Honeycomb,
    Dialect::Datadog,
    Dialect::Braintrust,
    Dialect::Grafana,
    Dialect::Logfire,
    Dialect::Langsmith,
    Dialect::Traceloop,
    Dialect::Jaeger,
    Dialect::Prometheus,
];

/// How a run was started.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) capture: Capture,
    pub(super) remote_parent: Option<SpanId>,
    pub(super) attributes: Vec<(&'static str, &'static str)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            capture: Capture::Preview,
            remote_parent: None,
            attributes: Vec::new(),
        }
    }
}

pub(super) fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recordings")
}

/// The spans of one recording in the order they closed, redacted.
pub(super) fn play(directory: &Path, mode: &str, options: &Options) -> Option<Vec<FinishedSpan>> {
    let stream = fs::read(directory.join(format!("{mode}.jsonl"))).ok()?;
    let times = fs::read_to_string(directory.join(format!("{mode}.times.txt"))).unwrap_or_default();
    let times: Vec<u64> = times
        .lines()
        .map(|time| time.trim().parse().unwrap())
        .collect();
    let meta = fs::read(directory.join("meta.json")).unwrap();
    let meta: Json = serde_json::from_slice(&meta).unwrap();
    let meta = &meta[mode];

    let at = |millis| Now {
        wall: START.plus(Duration::from_millis(millis)),
        uptime: Duration::from_millis(millis),
    };
    let mut effects = Effects::default();
    let mut session = Session::new(config(options), at(0), &mut effects);
    session.handle(at(1), Input::Spawned { pid: 42 }, &mut effects);
    let (mut now, mut count) = (1, 0);
    let mut sink = |fragment: Fragment<'_>| {
        now = now.max(times.get(count).or(times.last()).copied().unwrap_or(0));
        session.handle(at(now), Input::Line(&decode(fragment.bytes)), &mut effects);
        count += 1;
    };
    let mut lines = Lines::default();
    lines.push(&stream, &mut sink);
    lines.finish(&mut sink);
    let end = at(now.max(meta["duration_ms"].as_u64().unwrap()));
    let code = i32::try_from(meta["exit_code"].as_i64().unwrap()).unwrap();
    let termination = match code {
        0.. => Termination::Exited(code),
        _ => Termination::Signaled {
            signal: -code,
            core_dumped: false,
        },
    };
    for input in [
        Input::StdoutClosed,
        Input::StderrClosed,
        Input::Exited(termination),
        Input::TreeEmpty,
    ] {
        session.handle(end, input, &mut effects);
    }
    let redactor = Redactor::default();
    let mut spans = effects.spans.closed;
    spans.iter_mut().for_each(|span| redactor.span(span));
    assert!(!spans.is_empty(), "{} has no spans", directory.display());
    Some(spans)
}

fn config(options: &Options) -> SessionConfig {
    let attributes = options.attributes.iter();
    SessionConfig {
        run_id: "run-1".to_owned(),
        context: TraceContext {
            trace_id: match options.remote_parent {
                Some(_) => TraceId::from_bytes([7; 16]),
                None => id::trace_id("run-1"),
            },
            parent_span_id: options.remote_parent,
            sampled: true,
            trace_state: String::new(),
        },
        agent_name: "auditor".to_owned(),
        session_id: None,
        user_id: Some("ada".to_owned()),
        attributes: attributes
            .map(|(key, value)| (Key::from_static_str(key), Value::from(*value)))
            .collect(),
        capture: options.capture,
        deadline: None,
        idle_timeout: None,
        sandbox_ends_at: None,
        grace: Duration::from_secs(10),
        survivors: None,
        probe: ProbePolicy::Off,
        executable: "python3".to_owned(),
        resumed: false,
    }
}

/// Every recording in both dialects of the agent, with previews and in full, and the spans made by hand.
pub(super) fn everything() -> Vec<(String, Vec<FinishedSpan>)> {
    let mut found: Vec<_> = fs::read_dir(recordings())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    let mut runs = vec![("by hand".to_owned(), by_hand())];
    for directory in found {
        for mode in ["cli", "sdk"] {
            for capture in [Capture::Preview, Capture::Full] {
                let options = Options {
                    capture,
                    remote_parent: Some(SpanId::from(9)),
                    ..Options::default()
                };
                if let Some(spans) = play(&directory, mode, &options) {
                    let name = directory.file_name().unwrap().to_str().unwrap();
                    runs.push((format!("{name}/{mode}/{capture:?}"), spans));
                }
            }
        }
    }
    assert!(runs.len() > 200, "the recordings are missing");
    runs
}

/// A span with these attributes, as if the session had made it.
pub(super) fn span(name: &'static str, attributes: &[(&'static str, &str)]) -> FinishedSpan {
    let attribute = |(key, value): &(&'static str, &str)| -> Attribute {
        (Key::from_static_str(key), (*value).to_owned().into())
    };
    FinishedSpan {
        trace_id: TraceId::from(7),
        span_id: SpanId::from(8),
        parent_span_id: Some(SpanId::from(9)),
        parent_is_remote: false,
        name: Cow::Borrowed(name),
        kind: SpanKind::Internal,
        start: START,
        end: START.plus(Duration::from_secs(1)),
        status: SpanStatus::Unset,
        attributes: attributes.iter().map(attribute).collect(),
        events: Vec::new(),
        dropped_events: 0,
        link: None,
        content: Vec::new(),
    }
}

pub(super) const CHAT: (&str, &str) = ("gen_ai.operation.name", "chat");
pub(super) const TOOL: (&str, &str) = ("gen_ai.operation.name", "execute_tool");
pub(super) const TURN: (&str, &str) = ("gen_ai.operation.name", "invoke_agent");
const AGENT: (&str, &str) = ("gen_ai.agent.name", "auditor");
const CONVERSATION: (&str, &str) = ("gen_ai.conversation.id", "c-1");
pub(super) const PROMPT: (&str, &str) = ("sandtrace.prompt", "add them up \"now\"");
pub(super) const ANSWER: (&str, &str) = ("sandtrace.answer", "449.15\n");

/// What a run captures in full, in all combinations of what may be missing.
fn by_hand() -> Vec<FinishedSpan> {
    let arguments = ("gen_ai.tool.call.arguments", "{\"command\":\"ls\"}");
    let clipped = ("gen_ai.tool.call.arguments", "{\"command\":\"l");
    let result = ("gen_ai.tool.call.result", "total 4\n");
    let input = (
        "gen_ai.input.messages",
        "[{\"role\":\"user\",\"parts\":[]}]",
    );
    let output = (
        "gen_ai.output.messages",
        "[{\"role\":\"assistant\",\"parts\":[],\"finish_reason\":\"stop\"}]",
    );
    let made: [(&'static str, Vec<(&'static str, &str)>); 12] = [
        ("execute_tool Bash", vec![TOOL, arguments, result]),
        ("execute_tool Bash", vec![TOOL, clipped, result]),
        ("execute_tool Bash", vec![TOOL, arguments]),
        ("execute_tool Bash", vec![TOOL, result]),
        ("chat claude-next", vec![CHAT, PROMPT, ANSWER]),
        (
            "chat claude-next",
            vec![CHAT, PROMPT, ANSWER, input, output],
        ),
        ("chat claude-next", vec![CHAT, PROMPT]),
        ("chat claude-next", vec![CHAT, ANSWER]),
        ("invoke_agent auditor", vec![TURN, PROMPT, ANSWER]),
        (
            "invoke_agent auditor",
            vec![TURN, PROMPT, ANSWER, input, output],
        ),
        ("invoke_agent auditor", vec![TURN, ANSWER]),
        ("agent.run", vec![PROMPT, ANSWER]),
    ];
    let spans = made.into_iter().map(|(name, mut attributes)| {
        attributes.extend([AGENT, CONVERSATION]);
        span(name, &attributes)
    });
    spans.collect()
}

pub(super) fn translated(span: &FinishedSpan, semconv: Semconv, dialect: Dialect) -> FinishedSpan {
    dialect.span()(semconv.span()(span.clone()))
}

pub(super) fn value<'a>(span: &'a FinishedSpan, key: &str) -> Option<&'a Value> {
    let mut attributes = span.attributes.iter();
    attributes
        .find(|(known, _)| known.as_str() == key)
        .map(|(_, value)| value)
}
