//! Journals made by hand, line by line, as a supervisor would write them. Times are milliseconds of the run.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::Journal as Root;
use crate::report::load::{Run, load};
use crate::report::locate::{Located, locate};
use crate::time::UnixNanos;

pub(super) const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// 2026-01-31T12:00:00Z
const START: UnixNanos = UnixNanos(1_769_860_800_000_000_000);

pub(super) fn at(millis: u64) -> UnixNanos {
    START.plus(Duration::from_millis(millis))
}

/// The lines of an `events.ndjson`.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) text: String,
    seq: u64,
    open: Vec<(String, String, Option<String>, u64)>,
}

impl Journal {
    pub(super) fn line(&mut self, millis: u64, kind: &str, data: &Value) -> &mut Self {
        self.seq += 1;
        let line = json!({
            "type": format!("sandtrace.{kind}"),
            "data": data,
            "sandtrace": {
                "seq": self.seq,
                "time": at(millis).to_string(),
                "trace_id": TRACE,
                "span_id": "00f067aa0ba902b7",
            },
        });
        self.raw(&format!("{line}\n"))
    }

    pub(super) fn raw(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    pub(super) fn run_started(&mut self, run_id: &str) -> &mut Self {
        let data = json!({
            "wire": 1, "run_id": run_id, "pid": 4242, "executable": "python3",
            "trace_id": TRACE, "root_span_id": "run", "parent_span_id": null,
            "versions": {"sandtrace": "0.1.0"}, "journal": format!("/journal/{run_id}"),
            "limits": {"line_bytes": 4_194_304, "deadline_ms": null, "idle_timeout_ms": 1_800_000,
                "grace_ms": 10_000, "flush_timeout_ms": 5_000, "journal_bytes": 268_435_456},
            "abilities": {},
        });
        self.line(0, "run.started", &data)
            .open("run", None, "agent.run", 0)
    }

    pub(super) fn open(
        &mut self,
        id: &str,
        parent: impl Into<Option<&'static str>>,
        name: &str,
        millis: u64,
    ) -> &mut Self {
        let parent = parent.into().map(str::to_owned);
        self.open
            .push((id.to_owned(), name.to_owned(), parent.clone(), millis));
        let data = json!({
            "span_id": id, "parent_span_id": parent, "name": name, "kind": "internal",
            "start_time": at(millis).to_string(), "attributes": {},
        });
        self.line(millis, "span.started", &data)
    }

    pub(super) fn end(&mut self, id: &str, millis: u64, attributes: &Value) -> &mut Self {
        self.end_as(id, millis, "unset", None, attributes)
    }

    pub(super) fn fail(
        &mut self,
        id: &str,
        millis: u64,
        message: impl Into<Option<&'static str>>,
        attributes: &Value,
    ) -> &mut Self {
        self.end_as(id, millis, "error", message.into(), attributes)
    }

    fn end_as(
        &mut self,
        id: &str,
        millis: u64,
        status: &str,
        message: Option<&str>,
        attributes: &Value,
    ) -> &mut Self {
        let opened = self.open.iter().find(|(known, ..)| known == id).unwrap();
        let (_, name, parent, start) = opened.clone();
        let mut data = json!({
            "span_id": id, "parent_span_id": parent, "name": name, "status": status,
            "duration_ms": millis.saturating_sub(start), "attributes": attributes,
        });
        if let Some(message) = message {
            data["message"] = json!(message);
        }
        self.line(millis, "span.ended", &data)
    }

    /// A span from start to end.
    pub(super) fn span(
        &mut self,
        id: &str,
        parent: &'static str,
        name: &str,
        (start, end): (u64, u64),
        attributes: &Value,
    ) -> &mut Self {
        self.open(id, parent, name, start).end(id, end, attributes)
    }

    /// Writes the journal into a directory of its own and reads it back, as a report does.
    pub(super) fn load(&self, run_id: &str) -> Run {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join(run_id);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("events.ndjson"), &self.text).unwrap();
        let located = locate(run_id.as_ref(), &Root::Directory(root.path().to_owned())).unwrap();
        load_as(located, run_id)
    }
}

/// Loads, and then forgets where the test kept its files.
pub(super) fn load_as(located: Located, run_id: &str) -> Run {
    let mut run = load(located).unwrap();
    for file in &mut run.files {
        *file = PathBuf::from("/journal")
            .join(run_id)
            .join(file.file_name().unwrap());
    }
    run
}

/// A chat's attributes.
pub(super) fn chat(
    input: u64,
    output: impl Into<Option<u64>>,
    usd: f64,
    first_chunk: f64,
) -> Value {
    let mut attributes = json!({
        "gen_ai.request.model": "claude-sonnet-4-5",
        "gen_ai.usage.input_tokens": input,
        "gen_ai.usage.cache_read.input_tokens": input * 8 / 10,
        "gen_ai.response.time_to_first_chunk": first_chunk,
        "sandtrace.cost.usd": usd,
        "sandtrace.cost.source": "agent",
    });
    if let Some(output) = output.into() {
        attributes["gen_ai.usage.output_tokens"] = json!(output);
    }
    attributes
}

/// `run.finished` of a success; a test changes what differs.
pub(super) fn finished(duration_ms: f64) -> Value {
    json!({
        "outcome": "success", "failure": null,
        "exit": {"code": 0, "signal": null, "core_dumped": false, "reported_code": 0},
        "duration_ms": duration_ms,
        "usage": {"input_tokens": 148_210, "output_tokens": 4_310,
            "cache_read_input_tokens": 121_532, "cache_creation_input_tokens": 20_100},
        "cost": {"usd": 0.1873, "source": "agent"},
        "cache_hit_ratio": 0.82,
        "phases": {"spawn_ms": 1.8, "first_line_ms": 312.0, "first_token_ms": 1_930.0,
            "tools_ms": 19_400.0, "result_ms": 40_900.0, "exit_ms": duration_ms},
        "counts": {"turns": 2, "chats": 7, "tools": 7, "subagents": 1, "retries": 2,
            "events": 96, "unrecognised": 0},
        "resources": {"samples": 41, "cpu_utilization_max": 0.87,
            "memory_used_bytes_max": 1_288_490_189_u64},
        "telemetry": {"spans": 19, "spans_dropped": 0, "destinations": [
            {"name": "otlp", "exported": 19, "dropped": 0, "queued": 0}]},
        "survivors": [],
    })
}
