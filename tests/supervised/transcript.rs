//! The lines of a run, and what holds for all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use memchr::memmem;
use serde_json::Value;

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    bytes: Vec<u8>,
    /// `null` where serde_json is stricter than an agent.
    pub(crate) json: Value,
    pub(crate) stamp: Value,
}

const MEMBER: &[u8] = b"\"sandtrace\":{\"seq\":";

impl Line {
    fn parse(bytes: &[u8]) -> Self {
        let (start, end) = Self::member(bytes);
        let object = &bytes[start + b"\"sandtrace\":".len()..end];
        Self {
            bytes: bytes.to_owned(),
            json: serde_json::from_slice(bytes).unwrap_or_default(),
            stamp: serde_json::from_slice(object).unwrap(),
        }
    }

    /// Where our member stands.
    fn member(line: &[u8]) -> (usize, usize) {
        let start = memmem::rfind(line, MEMBER)
            .unwrap_or_else(|| panic!("no stamp: {}", String::from_utf8_lossy(line)));
        let end = start + memchr::memchr(b'}', &line[start..]).unwrap() + 1;
        (start, end)
    }

    pub(crate) fn kind(&self) -> &str {
        self.json["type"].as_str().unwrap_or_default()
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.kind().starts_with("sandtrace.")
    }

    /// The line without our member, as the agent wrote it.
    pub(crate) fn agent_bytes(&self) -> Vec<u8> {
        let (start, end) = Self::member(&self.bytes);
        let head = &self.bytes[..start];
        let is_empty = head.trim_ascii() == b"{";
        let head = match head.split_last() {
            Some((b',', rest)) if !is_empty => rest,
            _ => head,
        };
        [head, &self.bytes[end..]].concat()
    }

    pub(crate) fn time(&self) -> Timestamp {
        self.stamp["time"].as_str().unwrap().parse().unwrap()
    }

    /// The bytes of a `sandtrace.output`.
    pub(crate) fn output(&self) -> Vec<u8> {
        let data = &self.json["data"];
        match (data["text"].as_str(), data["base64"].as_str()) {
            (Some(text), None) => text.as_bytes().to_owned(),
            (None, Some(base64)) => {
                let bytes = STANDARD.decode(base64).unwrap();
                assert!(std::str::from_utf8(&bytes).is_err(), "text in base64");
                bytes
            }
            _ => panic!("neither text nor base64: {}", self.json),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Transcript {
    pub(crate) lines: Vec<Line>,
}

impl Transcript {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        assert!(bytes.ends_with(b"\n"), "the last line is not whole");
        let lines = bytes[..bytes.len() - 1].split(|byte| *byte == b'\n');
        Self {
            lines: lines.map(Line::parse).collect(),
        }
    }

    /// The data of every line of ours of this type.
    pub(crate) fn all(&self, kind: &str) -> Vec<&Value> {
        let lines = self.lines.iter().filter(|line| line.kind() == kind);
        lines.map(|line| &line.json["data"]).collect()
    }

    pub(crate) fn line(&self, kind: &str) -> &Line {
        let mut lines = self.lines.iter().filter(|line| line.kind() == kind);
        let line = lines.next().unwrap_or_else(|| panic!("no {kind}"));
        assert!(lines.next().is_none(), "more than one {kind}");
        line
    }

    /// The end of the first span of that name.
    pub(crate) fn span(&self, name: &str) -> &Value {
        let ended = self.all("sandtrace.span.ended").into_iter();
        let mut named = ended.filter(|span| span["name"] == name);
        named
            .next()
            .unwrap_or_else(|| panic!("no span {name} has ended"))
    }

    /// The first line's data; after a fork, that of the run which it became.
    pub(crate) fn started(&self) -> &Value {
        let runs = self.all("sandtrace.run.started");
        runs.last().unwrap_or_else(|| panic!("no run.started"))
    }

    pub(crate) fn finished(&self) -> &Value {
        &self.line("sandtrace.run.finished").json["data"]
    }

    /// `class.reason` of the run's failure, or its outcome: `success`.
    pub(crate) fn verdict(&self) -> String {
        let finished = self.finished();
        let failure = &finished["failure"];
        match (failure["class"].as_str(), failure["reason"].as_str()) {
            (Some(class), Some(reason)) => format!("{class}.{reason}"),
            (Some(class), None) => class.to_owned(),
            _ => finished["outcome"].as_str().unwrap().to_owned(),
        }
    }

    /// The codes of all warnings.
    pub(crate) fn warnings(&self) -> Vec<&str> {
        let warnings = self.all("sandtrace.warning");
        warnings
            .iter()
            .map(|warning| warning["code"].as_str().unwrap())
            .collect()
    }

    /// The agent's own lines, without our member.
    pub(crate) fn agent_lines(&self) -> Vec<Vec<u8>> {
        let lines = self.lines.iter().filter(|line| !line.is_ours());
        lines.map(Line::agent_bytes).collect()
    }

    pub(crate) fn outputs(&self, stream: &str) -> Vec<&Line> {
        let lines = self.lines.iter();
        lines
            .filter(|line| line.kind() == "sandtrace.output")
            .filter(|line| line.json["data"]["stream"] == stream)
            .collect()
    }

    /// What the agent wrote to a stream, put together again. A JSON object at the very end of stdout has a newline
    /// here, whether or not it had one.
    pub(crate) fn stream(&self, stream: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in &self.lines {
            if line.kind() == "sandtrace.output" {
                if line.json["data"]["stream"] == stream {
                    bytes.extend(line.output());
                    if line.json["data"]["newline"] == true {
                        bytes.push(b'\n');
                    }
                }
            } else if stream == "stdout" && !line.is_ours() {
                bytes.extend(line.agent_bytes());
                bytes.push(b'\n');
            }
        }
        bytes
    }

    pub(crate) fn span_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self
            .all("sandtrace.span.ended")
            .iter()
            .map(|span| span["span_id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    }

    /// Numbers, first and last line, stamps and spans are as DESIGN §4 and §5 promise.
    pub(crate) fn assert_whole(&self) {
        let problems = self.problems();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let seqs = self.lines.iter().map(|line| line.stamp["seq"].as_u64());
        for (seq, expected) in seqs.zip(1..) {
            if seq != Some(expected) {
                problems.push(format!("seq {seq:?} where {expected} is due"));
                break;
            }
        }
        let kind = |line: Option<&Line>| line.map(|line| line.kind().to_owned());
        for (place, line, expected) in [
            ("first", self.lines.first(), "sandtrace.run.started"),
            ("last", self.lines.last(), "sandtrace.run.finished"),
        ] {
            if kind(line).as_deref() != Some(expected) {
                problems.push(format!("the {place} line is {:?}", kind(line)));
            }
        }
        if !problems.is_empty() {
            return problems;
        }
        for kind in ["run.started", "agent.exited", "run.finished"] {
            let lines = self.all(&format!("sandtrace.{kind}"));
            let is_fork = |data: &&&Value| !data["forked_from"].is_null();
            let count = lines.len() - lines.iter().filter(is_fork).count();
            if count != 1 {
                problems.push(format!("{count} lines {kind}"));
            }
        }
        for field in ["outcome", "failure", "exit"] {
            let exited = &self.line("sandtrace.agent.exited").json["data"];
            if exited[field] != self.finished()[field] {
                problems.push(format!("two verdicts: {field}"));
            }
        }
        Spans::check(self, &mut problems);
        problems
    }
}

#[derive(Debug, Clone)]
struct Span {
    name: String,
    start: Timestamp,
    duration: Option<Duration>,
}

/// The spans as the lines tell them.
struct Spans<'a> {
    started: &'a Value,
    known: BTreeMap<String, Span>,
}

impl Spans<'_> {
    fn check(transcript: &Transcript, problems: &mut Vec<String>) {
        let mut spans = Spans {
            started: transcript.all("sandtrace.run.started")[0],
            known: BTreeMap::new(),
        };
        for line in &transcript.lines {
            let before = problems.len();
            match line.kind() {
                // What was open then is for the original to close.
                "sandtrace.run.started" => {
                    spans.started = &line.json["data"];
                    spans.known.clear();
                }
                "sandtrace.span.started" => spans.open(line, problems),
                "sandtrace.span.ended" => spans.close(line, problems),
                _ => {}
            }
            let root = &spans.started["root_span_id"];
            let span = line.stamp["span_id"].as_str().unwrap_or_default();
            if line.stamp["trace_id"] != spans.started["trace_id"] {
                problems.push("another trace id".to_owned());
            }
            if span != root && !spans.known.contains_key(span) {
                problems.push(format!("a span {span} that was never started"));
            }
            for problem in &mut problems[before..] {
                *problem = format!("seq {}: {problem}", line.stamp["seq"]);
            }
        }
        for span in spans.known.values().filter(|span| span.duration.is_none()) {
            problems.push(format!("the span '{}' never ended", span.name));
        }
        // A child's start within its parent can only be checked once the ends are known.
        for data in transcript.all("sandtrace.span.started") {
            spans.within_parent(data, problems);
        }
    }

    fn open(&mut self, line: &Line, problems: &mut Vec<String>) {
        let data = &line.json["data"];
        let id = data["span_id"].as_str().unwrap().to_owned();
        let name = data["name"].as_str().unwrap().to_owned();
        let parent = data["parent_span_id"].as_str();
        let is_root = self.started["root_span_id"] == id.as_str();
        let is_known = parent.is_some_and(|parent| self.known.contains_key(parent));
        if is_root && data["parent_span_id"] != self.started["parent_span_id"] {
            problems.push("the run's span has another parent than the run".to_owned());
        } else if !is_root && !is_known {
            problems.push(format!("the span '{name}' starts before its parent"));
        }
        let span = Span {
            start: data["start_time"].as_str().unwrap().parse().unwrap(),
            duration: None,
            name,
        };
        if let Some(twin) = self.known.insert(id, span) {
            problems.push(format!("the span '{}' starts twice", twin.name));
        }
    }

    fn close(&mut self, line: &Line, problems: &mut Vec<String>) {
        let data = &line.json["data"];
        let Some(span) = self.known.get_mut(data["span_id"].as_str().unwrap()) else {
            problems.push(format!("the span {} ends without a start", data["name"]));
            return;
        };
        let millis = data["duration_ms"].as_f64().unwrap();
        if span.duration.is_some() {
            problems.push(format!("the span '{}' ends twice", span.name));
        }
        if millis < 0.0 {
            problems.push(format!("the span '{}' takes {millis} ms", span.name));
        }
        span.duration = Some(Duration::from_secs_f64(millis.max(0.0) / 1e3));
    }

    fn within_parent(&self, data: &Value, problems: &mut Vec<String>) {
        let find = |field: &str| self.known.get(data[field].as_str()?);
        let (Some(child), Some(parent)) = (find("span_id"), find("parent_span_id")) else {
            return;
        };
        // Times on the wire are cut to microseconds.
        let slack = Duration::from_micros(2);
        let end = parent.start + parent.duration.unwrap_or_default() + slack;
        if child.start + slack < parent.start || child.start > end {
            problems.push(format!(
                "'{}' starts at {}, outside of its parent '{}', {} to {end}",
                child.name, child.start, parent.name, parent.start
            ));
        }
    }
}

/// The span ids in a file of OTLP JSON lines, sorted.
pub(super) fn otlp_spans(file: &[u8]) -> Vec<String> {
    let requests = serde_json::Deserializer::from_slice(file).into_iter::<Value>();
    let mut ids = Vec::new();
    for request in requests {
        let request = request.unwrap();
        let pointer =
            |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
        for resource in pointer(&request, "resourceSpans") {
            for scope in pointer(&resource, "scopeSpans") {
                for span in pointer(&scope, "spans") {
                    ids.push(span["spanId"].as_str().unwrap().to_owned());
                }
            }
        }
    }
    ids.sort();
    ids
}
