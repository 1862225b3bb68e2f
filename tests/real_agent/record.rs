//! What a run left, and what must be true of any run.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus};

use sandtrace_client::wire::{Body, RunFinished, SpanEnded, SpanStarted};
use serde_json::{Map, Value};

use super::stage::{Caller, PARENT, Stage, TRACE};

/// What a line of a tree shows, in this order: the key and its short name.
const SHOWN: [(&str, &str); 24] = [
    ("sandtrace.outcome", "outcome"),
    ("process.exit.code", "exit"),
    ("sandtrace.exit.signal", "signal"),
    ("error.type", "error"),
    ("http.response.status_code", "http"),
    ("sandtrace.abandoned", "abandoned"),
    ("sandtrace.background", "background"),
    ("sandtrace.synthetic", "synthetic"),
    ("sandtrace.turn", "turn"),
    ("sandtrace.result.terminal_reason", "terminal"),
    ("gen_ai.tool.call.id", "call"),
    ("sandtrace.agent.status", "status"),
    ("sandtrace.approval.decision", "decision"),
    ("sandtrace.approval.source", "by"),
    ("sandtrace.approval.feedback_chars", "feedback"),
    ("gen_ai.usage.input_tokens", "in"),
    ("gen_ai.usage.cache_read.input_tokens", "read"),
    ("gen_ai.usage.cache_creation.input_tokens", "write"),
    ("gen_ai.usage.output_tokens", "out"),
    ("gen_ai.response.finish_reasons", "finish"),
    ("sandtrace.usage.input_tokens", "in"),
    ("sandtrace.usage.output_tokens", "out"),
    ("sandtrace.run.chats", "chats"),
    ("sandtrace.run.tools", "tools"),
];

/// A run that is over, as the host saw it.
pub(super) struct Run {
    pub(super) status: ExitStatus,
    pub(super) lines: Vec<Value>,
    pub(super) stderr: String,
    pub(super) finished: RunFinished,
    pub(super) spans: Vec<Span>,
    /// What the API was asked, and what it billed.
    requests: Vec<Value>,
}

/// A span as the lines on stdout told it, with what only the trace has: exact times, and events.
#[derive(Debug)]
pub(super) struct Span {
    id: String,
    pub(super) parent: Option<String>,
    name: String,
    status: String,
    attributes: Map<String, Value>,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) events: Vec<Event>,
}

#[derive(Debug)]
pub(super) struct Event {
    name: String,
    pub(super) attributes: Map<String, Value>,
}

impl Span {
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.attributes.get(key)?.as_str()
    }

    pub(super) fn count(&self, key: &str) -> u64 {
        self.attributes
            .get(key)
            .and_then(Value::as_u64)
            .unwrap_or(0)
    }

    /// The last word of its name.
    pub(super) fn tool(&self) -> &str {
        self.name.split(' ').next_back().unwrap()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.attributes.keys().map(String::as_str)
    }

    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.attributes.get(key)?.as_f64()
    }

    pub(super) fn seconds(&self, key: &str) -> f64 {
        self.attributes[key].as_f64().unwrap()
    }

    pub(super) fn duration(&self) -> f64 {
        (self.end - self.start) as f64 / 1e9
    }

    fn line(&self) -> String {
        let mut line = self.name.clone();
        if self.status != "unset" {
            write!(line, " {}", self.status.to_uppercase()).unwrap();
        }
        for (key, label) in SHOWN {
            match self.attributes.get(key) {
                None => {}
                Some(Value::Bool(true)) => write!(line, " {label}").unwrap(),
                Some(Value::String(text)) => write!(line, " {label}={text}").unwrap(),
                Some(value) => write!(line, " {label}={value}").unwrap(),
            }
        }
        for event in &self.events {
            write!(line, " +{}", event.name).unwrap();
        }
        line
    }
}

impl Run {
    pub(super) fn read(stage: &Stage, status: ExitStatus) -> Self {
        let stderr = fs::read_to_string(stage.path("stderr")).unwrap();
        let lines = json_lines(&stage.path("stdout"));
        let last: Body = body(lines.last().unwrap()).unwrap();
        let Body::RunFinished(finished) = last else {
            panic!("the last line is another: {last:?}\n{stderr}");
        };
        Self {
            status,
            spans: read_spans(&lines, &stage.path("journal/real/traces.jsonl")),
            lines,
            stderr,
            finished: *finished,
            requests: match stage.path("api.log") {
                log if log.exists() => json_lines(&log),
                _ => Vec::new(),
            },
        }
    }

    pub(super) fn root(&self) -> &Span {
        self.spans
            .iter()
            .find(|span| span.name == "agent.run")
            .unwrap()
    }

    pub(super) fn spans<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Span> {
        self.spans
            .iter()
            .filter(move |span| span.name.starts_with(name))
    }

    /// Agent lines of a type, which carry the SDK's class names.
    fn messages<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.lines.iter().filter(move |line| line["type"] == kind)
    }

    /// The spans as indented text: siblings by their start, no ids of spans, no times.
    pub(super) fn tree(&self) -> String {
        let mut tree = String::new();
        self.branch(self.root(), 0, &mut tree);
        tree
    }

    fn branch(&self, span: &Span, depth: usize, tree: &mut String) {
        writeln!(tree, "{:1$}{2}", "", 2 * depth, span.line()).unwrap();
        let mut children: Vec<&Span> = self
            .spans
            .iter()
            .filter(|child| child.parent.as_ref() == Some(&span.id))
            .collect();
        children.sort_by_key(|child| child.start);
        for child in children {
            self.branch(child, depth + 1, tree);
        }
    }

    /// What must be true of any run.
    pub(super) fn check(&self, stage: &Stage, caller: Caller) {
        self.check_lines(stage, caller);
        self.check_spans();
        self.check_totals();
        self.check_report(stage);
    }

    /// The lines are whole, in order and without a gap, and the journal has the same ones.
    fn check_lines(&self, stage: &Stage, caller: Caller) {
        let root = self.root();
        let first: Body = body(&self.lines[0]).unwrap();
        let Body::RunStarted(started) = first else {
            panic!("the first line is another: {first:?}");
        };
        assert_eq!(started.root_span_id, root.id);
        assert_eq!(started.parent_span_id, root.parent);
        if caller == Caller::Traces {
            assert_eq!(started.trace_id, TRACE);
            assert_eq!(root.parent.as_deref(), Some(PARENT));
        }
        let known: HashSet<&str> = self.spans.iter().map(|span| span.id.as_str()).collect();
        for (line, seq) in self.lines.iter().zip(1_u64..) {
            let stamp = &line["sandtrace"];
            assert_eq!(stamp["seq"], seq);
            assert_eq!(stamp["trace_id"], started.trace_id.as_str());
            assert!(known.contains(stamp["span_id"].as_str().unwrap()), "{line}");
        }
        let stdout = fs::read(stage.path("stdout")).unwrap();
        let journal = fs::read(stage.path("journal/real/events.ndjson")).unwrap();
        assert!(
            stdout == journal,
            "the journal differs from what the host read"
        );
        assert_eq!(
            self.status.code(),
            self.finished
                .exit
                .as_ref()
                .map(|exit| i32::from(exit.reported_code))
        );
    }

    /// Every span has its place: one root, every other under a span that it lies within.
    fn check_spans(&self) {
        let by_id: HashMap<&str, &Span> = self
            .spans
            .iter()
            .map(|span| (span.id.as_str(), span))
            .collect();
        assert_eq!(by_id.len(), self.spans.len(), "a span came twice");
        for span in &self.spans {
            assert!(span.start <= span.end, "{span:?}");
            if span.name == "agent.run" {
                continue;
            }
            let parent = by_id.get(span.parent.as_deref().unwrap());
            let parent = parent.unwrap_or_else(|| panic!("without a parent: {span:?}"));
            // What runs in the background may outlast its parent, and says so (DESIGN §5).
            let within = span.end <= parent.end
                || span.attributes.get("sandtrace.background") == Some(&true.into());
            assert!(
                parent.start <= span.start && within,
                "{span:?}\nis not within\n{parent:?}"
            );
        }
        assert_eq!(
            self.tree().lines().count(),
            self.spans.len(),
            "a span is not in the tree"
        );
        assert_eq!(self.finished.telemetry.spans, self.spans.len() as u64);
        assert_eq!(self.finished.telemetry.spans_dropped, 0);
    }

    /// The model's bill, three times: what the API counted, what Claude Code counted, and what we say.
    fn check_totals(&self) {
        let sum = |name: &str| -> u64 {
            let billed = self.requests.iter().filter_map(|asked| asked.get("usage"));
            billed.map(|usage| usage[name].as_u64().unwrap_or(0)).sum()
        };
        let read = sum("cache_read_input_tokens");
        let write = sum("cache_creation_input_tokens");
        let input = sum("input_tokens") + read + write;
        let chats = |key: &str| -> u64 { self.spans("chat").map(|chat| chat.count(key)).sum() };
        assert_eq!(chats("gen_ai.usage.input_tokens"), input);
        assert_eq!(chats("gen_ai.usage.cache_read.input_tokens"), read);
        assert_eq!(chats("gen_ai.usage.cache_creation.input_tokens"), write);

        let Some(result) = self.messages("ResultMessage").last() else {
            return;
        };
        let claimed = |name: &str| -> u64 {
            let models = result["model_usage"].as_object().into_iter().flatten();
            models.map(|(_, usage)| usage[name].as_u64().unwrap()).sum()
        };
        let usage = self.finished.usage;
        let claimed_read = claimed("cacheReadInputTokens");
        let claimed_write = claimed("cacheCreationInputTokens");
        assert_eq!(usage.cache_read_input_tokens, claimed_read);
        assert_eq!(usage.cache_creation_input_tokens, claimed_write);
        assert_eq!(
            usage.input_tokens,
            claimed("inputTokens") + claimed_read + claimed_write
        );
        assert_eq!(usage.output_tokens, claimed("outputTokens"));
        assert_eq!(usage.input_tokens, input);
        let usd = self.finished.cost.as_ref().map_or(0.0, |cost| cost.usd);
        let total = result["total_cost_usd"].as_f64().unwrap();
        assert!((usd - total).abs() < 1e-9, "{usd} is not {total}");
    }

    /// `sandtrace report` shows the run to people, in whatever characters their terminal has.
    fn check_report(&self, stage: &Stage) {
        for locale in ["C.UTF-8", "C"] {
            let output = Command::new(env!("CARGO_BIN_EXE_sandtrace"))
                .arg("report")
                .arg(stage.path("journal/real"))
                .env_clear()
                .envs([("LC_ALL", locale), ("COLUMNS", "120")])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), "");
            assert!(output.status.success(), "{text}");
            assert!(locale != "C" || text.is_ascii(), "{text}");
            for span in &self.spans {
                assert!(text.contains(&span.name), "no {}\n{text}", span.name);
            }
            // Where every character can be shown, a question mark can only be a number that is not known.
            let known = text.replace("?→?", "").replace("→?", "");
            let garbled = known.contains(['?', '\u{fffd}']) && locale != "C";
            assert!(!garbled, "{text}");
        }
    }
}

/// The lines on stdout must tell of the same spans as the trace.
fn read_spans(lines: &[Value], traces: &Path) -> Vec<Span> {
    let mut started: HashMap<String, SpanStarted> = HashMap::new();
    let mut ended: Vec<SpanEnded> = Vec::new();
    for line in lines {
        match body(line) {
            Some(Body::SpanStarted(span)) => {
                let before = started.insert(span.span_id.clone(), *span);
                assert!(before.is_none(), "started twice: {before:?}");
            }
            Some(Body::SpanEnded(span)) => {
                assert!(started.contains_key(&span.span_id), "not started: {span:?}");
                ended.push(*span);
            }
            _ => {}
        }
    }
    assert_eq!(started.len(), ended.len(), "a span never ended");
    let trace_id = lines[0]["sandtrace"]["trace_id"].as_str().unwrap();
    let mut traced: HashMap<String, Value> = HashMap::new();
    for batch in json_lines(traces) {
        for resource in batch["resourceSpans"].as_array().unwrap() {
            for scope in resource["scopeSpans"].as_array().unwrap() {
                for span in scope["spans"].as_array().unwrap() {
                    assert_eq!(span["traceId"], trace_id, "{span}");
                    let id = span["spanId"].as_str().unwrap().to_owned();
                    let before = traced.insert(id, span.clone());
                    assert!(before.is_none(), "exported twice: {before:?}");
                }
            }
        }
    }
    assert_eq!(traced.len(), ended.len(), "the trace has other spans");
    ended
        .into_iter()
        .map(|span| {
            let trace = &traced[&span.span_id];
            let parent = trace["parentSpanId"].as_str().filter(|id| !id.is_empty());
            assert_eq!(parent, span.parent_span_id.as_deref(), "{span:?}");
            assert_eq!(trace["name"], span.name.as_str());
            let mut traced = attributes(trace);
            // The lines need not say it: the first of them does.
            assert_eq!(traced.remove("sandtrace.run.id"), Some("real".into()));
            // What people and models wrote stands in the agent's own lines.
            for content in CONTENT {
                assert!(!span.attributes.contains_key(content), "{content}");
            }
            let told = traced
                .iter()
                .filter(|(key, _)| !CONTENT.contains(&key.as_str()));
            let told: Map<_, _> = told
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            assert_eq!(told, span.attributes);
            let nanos = |key: &str| trace[key].as_str().unwrap().parse().unwrap();
            Span {
                id: span.span_id,
                parent: span.parent_span_id,
                name: span.name,
                status: span.status,
                attributes: traced,
                start: nanos("startTimeUnixNano"),
                end: nanos("endTimeUnixNano"),
                events: trace["events"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|event| Event {
                        name: event["name"].as_str().unwrap().to_owned(),
                        attributes: attributes(event),
                    })
                    .collect(),
            }
        })
        .collect()
}

/// OTLP's attributes as plain JSON.
/// Attributes that hold what people and models wrote, which no line of ours repeats.
const CONTENT: [&str; 3] = [
    "sandtrace.prompt",
    "sandtrace.answer",
    "sandtrace.agent.description",
];

fn attributes(of: &Value) -> Map<String, Value> {
    fn plain(value: &Value) -> Value {
        let (kind, content) = value.as_object().unwrap().iter().next().unwrap();
        match kind.as_str() {
            "intValue" => content.as_str().unwrap().parse::<i64>().unwrap().into(),
            "arrayValue" => content["values"]
                .as_array()
                .unwrap()
                .iter()
                .map(plain)
                .collect(),
            _ => content.clone(),
        }
    }
    of["attributes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pair| {
            (
                pair["key"].as_str().unwrap().to_owned(),
                plain(&pair["value"]),
            )
        })
        .collect()
}

/// A line of our own; none for the agent's.
fn body(line: &Value) -> Option<Body> {
    let ours = line["type"].as_str()?.starts_with("sandtrace.");
    ours.then(|| serde_json::from_value(line.clone()).unwrap())
}

fn json_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect()
}
