//! A whole run's trace at a backend: the real binary, a real child, an OTLP receiver that decodes what it gets.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::Value as Json;

use crate::supervised::poll;
use crate::support::receiver::{Answer, Received, Receiver};

/// An agent that calls a tool, retries a request, and answers.
const AGENT: &str = r#"
echo '{"type":"system","subtype":"init","session_id":"s1","model":"claude-opus-5-5"}'
echo '{"type":"assistant","message":{"id":"m1","model":"claude-opus-5-5","content":[{"type":"tool_use","id":"t1","name":"Bash","input":{"command":"cat secret.txt"}}],"usage":{"input_tokens":12,"cache_creation_input_tokens":300,"cache_read_input_tokens":4000,"output_tokens":1}}}'
echo '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"the tool said this","is_error":true}]}}'
echo '{"type":"system","subtype":"api_retry","attempt":1,"max_retries":10,"retry_delay_ms":500,"error_status":529,"error":"overloaded"}'
echo '{"type":"assistant","message":{"id":"m2","model":"claude-opus-5-5","content":[{"type":"text","text":"Done."}],"usage":{"input_tokens":12,"cache_creation_input_tokens":300,"cache_read_input_tokens":4000,"output_tokens":1}}}'
echo '{"type":"result","subtype":"success","is_error":false,"session_id":"s1","total_cost_usd":0.007096,"usage":{"input_tokens":24,"output_tokens":120,"cache_creation_input_tokens":600,"cache_read_input_tokens":8000},"modelUsage":{"claude-opus-5-5":{"inputTokens":24,"outputTokens":120,"cacheReadInputTokens":8000,"cacheCreationInputTokens":600,"costUSD":0.007096}}}'
"#;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

struct Run {
    output: Output,
    took: Duration,
    journal: tempfile::TempDir,
}

/// Runs the agent with an environment of its own.
fn run(environment: &[(&str, &str)], arguments: &[&str]) -> Run {
    let journal = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_sandtrace"))
        .args(["run", "--run-id", "exported", "--journal"])
        .arg(journal.path())
        .args(arguments)
        .args(["--", "sh", "-c", AGENT])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let took = began.elapsed();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Run {
        output,
        took,
        journal,
    }
}

impl Run {
    fn lines(&self) -> Vec<Json> {
        let text = String::from_utf8(self.output.stdout.clone()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The ids of the spans that the echo said had ended.
    fn ended(&self) -> BTreeSet<String> {
        let ended = self
            .lines()
            .into_iter()
            .filter(|line| line["type"] == "sandtrace.span.ended");
        ended
            .map(|line| line["data"]["span_id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// What `run.finished` says of one destination.
    fn counts(&self, name: &str) -> Json {
        let lines = self.lines();
        let finished = lines.last().unwrap();
        assert_eq!(finished["type"], "sandtrace.run.finished");
        let destinations = finished["data"]["telemetry"]["destinations"]
            .as_array()
            .unwrap()
            .clone();
        let found = destinations
            .into_iter()
            .find(|destination| destination["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not among the destinations"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The requests that carry spans.
fn requests(receiver: &Receiver) -> Vec<Received> {
    let all = receiver.received().into_iter();
    all.filter(|request| request.path.contains("/v1/traces"))
        .collect()
}

fn spans(receiver: &Receiver) -> BTreeMap<String, Span> {
    let received = requests(receiver);
    let all: Vec<Span> = received
        .iter()
        .flat_map(|request| request.spans())
        .collect();
    let count = all.len();
    let by_name: BTreeMap<_, _> = all
        .into_iter()
        .map(|span| (hex(&span.span_id), span))
        .collect();
    assert_eq!(by_name.len(), count, "a span came twice");
    by_name
}

fn attribute(span: &Span, key: &str) -> Option<Value> {
    span.attributes
        .iter()
        .find(|attribute| attribute.key == key)?
        .value
        .clone()?
        .value
}

fn named<'a>(spans: &'a BTreeMap<String, Span>, name: &str) -> Vec<&'a Span> {
    spans.values().filter(|span| span.name == name).collect()
}

#[test]
fn every_span_of_a_run_reaches_the_backend_once_below_the_callers_span() {
    for (protocol, compression) in [
        ("http/protobuf", "none"),
        ("http/protobuf", "gzip"),
        ("http/json", "gzip"),
    ] {
        let receiver = Receiver::healthy();
        let endpoint = format!("http://127.0.0.1:{}", receiver.port());
        let run = run(
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", compression),
                ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc"),
                ("TRACEPARENT", TRACEPARENT),
            ],
            &["--attribute", "tenant=acme"],
        );
        let spans = spans(&receiver);
        assert_eq!(
            spans.keys().cloned().collect::<BTreeSet<_>>(),
            run.ended(),
            "{protocol}"
        );
        assert_eq!(spans.len(), 5, "{protocol}");
        let root = named(&spans, "agent.run")[0];
        assert_eq!(hex(&root.parent_span_id), "b7ad6b7169203331");
        for span in spans.values() {
            assert_eq!(hex(&span.trace_id), "0af7651916cd43dd8448eb211c80319c");
            assert_eq!(
                attribute(span, "tenant"),
                Some(Value::StringValue("acme".to_owned()))
            );
            assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
            let parent = hex(&span.parent_span_id);
            assert!(
                spans.contains_key(&parent) || span.name == "agent.run",
                "{} has no parent",
                span.name
            );
        }
        let request = &requests(&receiver)[0];
        assert_eq!(request.header("authorization"), Some("Bearer abc"));
        assert_eq!(
            request.header("content-encoding"),
            (compression == "gzip").then_some("gzip")
        );
        assert_eq!(run.counts("otlp")["exported"], 5);
        assert_eq!(run.counts("otlp")["dropped"], 0);
    }
}

#[test]
fn spans_say_what_the_conventions_ask_for_and_nothing_that_misleads() {
    let receiver = Receiver::healthy();
    let endpoint = format!("http://127.0.0.1:{}", receiver.port());
    run(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)], &[]);
    let spans = spans(&receiver);
    let chats = named(&spans, "chat claude-opus-5-5");
    assert_eq!(chats.len(), 2);
    for chat in &chats {
        assert_eq!(
            attribute(chat, "gen_ai.operation.name"),
            Some(Value::StringValue("chat".to_owned()))
        );
        assert_eq!(
            attribute(chat, "gen_ai.provider.name"),
            Some(Value::StringValue("anthropic".to_owned()))
        );
        assert_eq!(
            attribute(chat, "gen_ai.usage.input_tokens"),
            Some(Value::IntValue(4312))
        );
    }
    let retried = chats.iter().filter(|chat| !chat.events.is_empty()).count();
    assert_eq!(retried, 1, "the retry is an event of the call it delayed");
    let tool = named(&spans, "execute_tool Bash")[0];
    assert_eq!(
        attribute(tool, "error.type"),
        Some(Value::StringValue("tool_error".to_owned()))
    );
    assert_eq!(tool.status.as_ref().unwrap().code, StatusCode::Error as i32);
    // Usage or a model on an agent's span would be counted twice by backends that sum over all spans.
    for name in ["agent.run", "invoke_agent claude", "execute_tool Bash"] {
        let span = named(&spans, name)[0];
        let banned = |key: &str| {
            key.starts_with("gen_ai.usage.") || key == "gen_ai.request.model" || key == "model"
        };
        assert!(
            span.attributes
                .iter()
                .all(|attribute| !banned(&attribute.key)),
            "{name}"
        );
    }
    let everything = format!("{spans:?}");
    for secret in ["cat secret.txt", "the tool said this"] {
        assert!(!everything.contains(secret), "{secret} went to a backend");
    }
}

#[test]
fn a_backend_that_never_answers_delays_the_exit_by_no_more_than_its_bound() {
    let receiver = Receiver::scripted(|_, _| Answer::BlackHole);
    let endpoint = format!("http://127.0.0.1:{}", receiver.port());
    let run = run(
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)],
        &["--flush-timeout", "1s"],
    );
    assert!(run.took < Duration::from_secs(4), "{:?}", run.took);
    let counts = run.counts("otlp");
    assert_eq!(counts["exported"], 0);
    assert_eq!(counts["queued"], 5);
    assert_eq!(
        run.counts("file")["exported"],
        5,
        "the journal has them all"
    );
}

#[test]
fn whoever_cuts_the_flush_short_is_told_what_was_exported_until_then() {
    let receiver = Receiver::scripted(|_, request| match request.path.as_str() {
        "/v1/metrics" => Answer::BlackHole,
        _ => Answer::status(200),
    });
    let endpoint = format!("http://127.0.0.1:{}", receiver.port());
    let journal = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let child = Command::new(env!("CARGO_BIN_EXE_sandtrace"))
        .args(["run", "--flush-timeout", "60s", "--journal"])
        .arg(journal.path())
        .args(["--", "sh", "-c", AGENT])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    poll("the run's span", || {
        let all = spans(&receiver);
        let root = all.values().find(|span| span.name == "agent.run");
        root.map(|_| ())
    });
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    // Signals of one kind melt into one as long as nobody took the first.
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        kill(pid, signal).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert!(began.elapsed() < Duration::from_secs(40));
    let run = Run {
        output,
        took: began.elapsed(),
        journal,
    };
    for name in ["file", "otlp"] {
        let counts = run.counts(name);
        assert_eq!(
            (&counts["exported"], &counts["queued"]),
            (&5.into(), &0.into()),
            "{name}"
        );
    }
}

#[test]
fn a_caller_that_does_not_sample_gets_no_spans_and_the_journal_keeps_them() {
    let receiver = Receiver::healthy();
    let endpoint = format!("http://127.0.0.1:{}", receiver.port());
    let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let run = run(
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("TRACEPARENT", unsampled),
        ],
        &[],
    );
    assert!(requests(&receiver).is_empty());
    let traces = std::fs::read_to_string(run.journal.path().join("exported/traces.jsonl")).unwrap();
    assert!(traces.contains("\"agent.run\""));
}

#[test]
fn the_console_prints_to_stderr_and_never_into_the_protocol() {
    let run = run(&[("OTEL_EXPORTERS", "console")], &[]);
    let stderr = String::from_utf8_lossy(&run.output.stderr);
    for word in [
        "execute_tool Bash",
        "gen_ai.execute_tool.duration",
        "sandtrace.run.started",
    ] {
        assert!(stderr.contains(word), "no {word} in {stderr}");
    }
    // Every line of stdout parses, which `lines` asserts.
    assert!(run.lines().len() > 10);
}

#[test]
fn a_malformed_endpoint_is_refused_before_anything_is_spawned() {
    let journal = tempfile::tempdir().unwrap();
    let marker = journal.path().join("spawned");
    let output = Command::new(env!("CARGO_BIN_EXE_sandtrace"))
        .args(["run", "--journal"])
        .arg(journal.path().join("j"))
        .args(["--", "touch"])
        .arg(&marker)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "not a url")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stdout.is_empty());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(!marker.exists());
    assert!(!journal.path().join("j").exists(), "nothing was made");
}

#[test]
fn langfuse_gets_the_spans_where_and_how_it_reads_them() {
    let receiver = Receiver::healthy();
    let host = format!("http://127.0.0.1:{}", receiver.port());
    let run = run(
        &[
            ("OTEL_EXPORTERS", "langFuse"),
            ("LANGFUSE_HOST", &host),
            ("LANGFUSE_PUBLIC_KEY", "pk-lf-1"),
            ("LANGFUSE_SECRET_KEY", "sk-lf-2"),
        ],
        &[],
    );
    assert_eq!(
        spans(&receiver).into_keys().collect::<BTreeSet<_>>(),
        run.ended()
    );
    // Neither metrics, which it throws away, nor logs, which it refuses.
    for request in receiver.received() {
        assert_eq!(request.path, "/api/public/otel/v1/traces");
        // The two keys in base64, as of RFC 4648.
        assert_eq!(
            request.header("authorization"),
            Some("Basic cGstbGYtMTpzay1sZi0y")
        );
        assert_eq!(request.header("x-langfuse-ingestion-version"), Some("4"));
        assert_eq!(request.header("content-encoding"), Some("gzip"));
    }
    assert_eq!(run.counts("langfuse")["exported"], 5);
    assert_eq!(run.counts("langfuse")["dropped"], 0);
}

#[test]
fn under_a_caller_langfuse_keeps_the_callers_name_for_the_trace_and_the_head_it_has() {
    let trace_id = "0af7651916cd43dd8448eb211c80319c";
    let claim = format!("user.id=ada,langfuse_trace_id={trace_id}");
    for (caller, baggage, heads, named) in [
        (None, "user.id=ada", 0, 5),
        (Some(TRACEPARENT), "user.id=ada", 1, 0),
        (Some(TRACEPARENT), claim.as_str(), 0, 0),
    ] {
        let receiver = Receiver::healthy();
        let host = format!("http://127.0.0.1:{}", receiver.port());
        let mut variables = vec![
            ("OTEL_EXPORTERS", "langfuse"),
            ("LANGFUSE_HOST", &host),
            ("LANGFUSE_PUBLIC_KEY", "pk-lf-1"),
            ("LANGFUSE_SECRET_KEY", "sk-lf-2"),
            ("BAGGAGE", baggage),
        ];
        variables.extend(caller.map(|caller| ("TRACEPARENT", caller)));
        run(&variables, &[]);
        let spans = spans(&receiver);
        assert_eq!(spans.len(), 5);
        let with = |key: &str| {
            let has = |span: &&Span| span.attributes.iter().any(|it| it.key == key);
            spans.values().filter(has).count()
        };
        assert_eq!(with("langfuse.internal.is_app_root"), heads, "{baggage}");
        assert_eq!(with("langfuse.internal.as_root"), 0, "{baggage}");
        assert_eq!(with("langfuse.trace.name"), named, "{baggage}");
        assert_eq!(with("user.id"), 5, "{baggage}");
    }
}

#[test]
fn three_backends_at_once_get_every_span_and_never_each_others_keys() {
    let receivers = [(); 3].map(|()| Receiver::healthy());
    let addresses = receivers
        .each_ref()
        .map(|receiver| format!("http://127.0.0.1:{}", receiver.port()));
    let run = run(
        &[
            ("OTEL_EXPORTERS", "langfuse,SIGNOZ,otlp"),
            ("LANGFUSE_HOST", &addresses[0]),
            ("LANGFUSE_PUBLIC_KEY", "pk-lf-1"),
            ("LANGFUSE_SECRET_KEY", "sk-lf-2"),
            ("SIGNOZ_ENDPOINT", &addresses[1]),
            ("SIGNOZ_INGESTION_KEY", "hunter2-signoz"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &addresses[2]),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=hunter2-otlp"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ],
        &[],
    );
    let keys = ["cGstbGYtMTpzay1sZi0y", "hunter2-signoz", "hunter2-otlp"];
    for (own, receiver) in receivers.iter().enumerate() {
        let found = spans(receiver).into_keys().collect::<BTreeSet<_>>();
        assert_eq!(found, run.ended(), "{}", keys[own]);
        for request in receiver.received() {
            for (index, key) in keys.iter().enumerate() {
                let mentions = request.mentions(key);
                assert_eq!(mentions, index == own, "{key} at {}", request.path);
            }
            let json = request.header("content-type") == Some("application/json");
            assert_eq!(json, own == 2, "{}", request.path);
        }
    }
    for name in ["langfuse", "signoz", "otlp"] {
        assert_eq!(run.counts(name)["exported"], 5, "{name}");
        assert_eq!(run.counts(name)["dropped"], 0, "{name}");
    }
    let output = [run.output.stdout.clone(), run.output.stderr.clone()].concat();
    let output = String::from_utf8(output).unwrap();
    for secret in ["sk-lf-2", "hunter2", "cGstbGYtMTpzay1sZi0y"] {
        assert!(!output.contains(secret), "{secret}");
    }
}

#[test]
fn a_sampler_may_overrule_the_caller_in_both_directions() {
    let kept = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let dropped = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    for (sampler, parent, sent) in [
        ("always_off", kept, 0),
        ("always_on", dropped, 5),
        ("parentbased_always_off", kept, 5),
        ("parentbased_always_on", dropped, 0),
    ] {
        let receiver = Receiver::healthy();
        let endpoint = format!("http://127.0.0.1:{}", receiver.port());
        let run = run(
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
                ("OTEL_TRACES_SAMPLER", sampler),
                ("TRACEPARENT", parent),
            ],
            &[],
        );
        assert_eq!(spans(&receiver).len(), sent, "{sampler} under {parent}");
        assert_eq!(run.counts("file")["exported"], 5, "{sampler}");
    }
}

#[test]
fn what_a_limit_leaves_out_is_counted_at_the_backend() {
    let receiver = Receiver::healthy();
    let endpoint = format!("http://127.0.0.1:{}", receiver.port());
    run(
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "3"),
            ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4"),
            ("OTEL_SPAN_EVENT_COUNT_LIMIT", "0"),
        ],
        &[],
    );
    let spans = spans(&receiver);
    assert_eq!(spans.len(), 5);
    for span in spans.values() {
        assert_eq!(span.attributes.len(), 3, "{}", span.name);
        assert!(span.dropped_attributes_count > 0, "{}", span.name);
        assert!(span.events.is_empty());
        for attribute in &span.attributes {
            let value = attribute.value.clone().unwrap().value;
            if let Some(Value::StringValue(text)) = value {
                assert!(text.chars().count() <= 4, "{text}");
            }
        }
    }
    let retried = spans.values().filter(|span| span.dropped_events_count == 1);
    assert_eq!(retried.count(), 1, "the retry was left out, and counted");
}

#[test]
fn a_backend_without_its_keys_is_refused_before_anything_is_spawned() {
    for (name, rest) in [
        ("langfuse", [("LANGFUSE_PUBLIC_KEY", "hunter2")].as_slice()),
        ("signoz", &[("SIGNOZ_INGESTION_KEY", "hunter2")]),
        ("grafana", &[("GRAFANA_CLOUD_TOKEN", "hunter2")]),
        ("datadog", &[]),
    ] {
        let journal = tempfile::tempdir().unwrap();
        let marker = journal.path().join("spawned");
        let output = Command::new(env!("CARGO_BIN_EXE_sandtrace"))
            .args(["run", "--journal"])
            .arg(journal.path().join("j"))
            .args(["--", "touch"])
            .arg(&marker)
            .env("OTEL_EXPORTERS", name)
            .envs(rest.iter().copied())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(125), "{name}");
        assert!(output.stdout.is_empty());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(name) && stderr.contains("set "), "{stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
        assert!(!marker.exists() && !journal.path().join("j").exists());
    }
}
