use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::trace::{
    InMemorySpanExporter, SimpleSpanProcessor, SpanData, SpanProcessor as _,
};
use serde_json::json;

use super::{CALLER, TRACE, line};
use crate::otel::orphans;
use crate::run::{Loss, LossReason, Run};

const ROOT: &str = "917bf7d5dccadbd6";

fn opened(seq: u64, millis: u64, id: &str, parent: &str, name: &str, kind: &str) -> crate::Event {
    line(
        seq,
        millis,
        "sandtrace.span.started",
        json!({
            "span_id": id, "parent_span_id": parent, "name": name, "kind": kind,
            "start_time": format!("2026-01-31T12:00:00.{millis:03}Z"),
            "attributes": { "gen_ai.tool.name": "Bash", "sandtrace.turn": 1, "list": ["a", "b"], "none": null,
                            "sandtrace.run.id": "from the line", "real": 0.5, "flag": true },
        }),
    )
}

/// A run whose tool was done, and whose turn and model call were not.
fn a_run() -> Run {
    let mut run = Run::new();
    let events = [
        line(
            1,
            0,
            "sandtrace.run.started",
            json!({
                "wire": 1, "run_id": "run-7", "pid": 1, "executable": "python3", "trace_id": TRACE,
                "root_span_id": ROOT, "parent_span_id": CALLER, "versions": { "sandtrace": "9.8.7" },
                "journal": null, "abilities": {},
                "limits": { "line_bytes": 1, "deadline_ms": null, "idle_timeout_ms": null, "grace_ms": 1,
                            "flush_timeout_ms": 1, "journal_bytes": 1 },
            }),
        ),
        opened(2, 1, ROOT, CALLER, "agent.run", "internal"),
        opened(
            3,
            2,
            "1111111111111111",
            ROOT,
            "invoke_agent claude",
            "internal",
        ),
        opened(
            4,
            3,
            "2222222222222222",
            "1111111111111111",
            "execute_tool Bash",
            "internal",
        ),
        opened(
            5,
            4,
            "3333333333333333",
            "1111111111111111",
            "chat claude-sonnet-5",
            "client",
        ),
        line(
            6,
            5,
            "sandtrace.span.ended",
            json!({
                "span_id": "2222222222222222", "parent_span_id": "1111111111111111", "name": "execute_tool Bash",
                "status": "unset", "duration_ms": 2.0, "attributes": {},
            }),
        ),
        line(
            7,
            250,
            "sandtrace.heartbeat",
            json!({ "uptime_ms": 250, "state": "waiting_for_model" }),
        ),
    ];
    for event in &events {
        run.apply(event);
    }
    run
}

fn noon_and(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_769_860_800_000 + millis)
}

fn attributes(span: &SpanData) -> BTreeMap<&str, String> {
    let pairs = span.attributes.iter();
    let pairs: Vec<_> = pairs
        .map(|pair| (pair.key.as_str(), pair.value.to_string()))
        .collect();
    let unique: BTreeMap<_, _> = pairs.iter().cloned().collect();
    assert_eq!(unique.len(), pairs.len(), "no key twice: {pairs:?}");
    unique
}

#[test]
fn what_a_lost_run_left_open_is_closed_with_the_same_ids() {
    let mut run = a_run();
    assert_eq!(orphans(&run), [], "it goes on");
    let conclusion = run.lose(Loss::new(LossReason::SandboxGone)).clone();
    let message = conclusion.failure.unwrap().message;
    let spans = orphans(&run);
    assert_eq!(orphans(&run), spans, "they depend on the run alone");

    let told: Vec<_> = spans
        .iter()
        .map(|span| {
            (
                span.name.to_string(),
                span.span_context.span_id().to_string(),
                span.parent_span_id.to_string(),
                span.start_time,
            )
        })
        .collect();
    let expected = [
        ("agent.run", ROOT, CALLER, 1),
        ("invoke_agent claude", "1111111111111111", ROOT, 2),
        (
            "chat claude-sonnet-5",
            "3333333333333333",
            "1111111111111111",
            4,
        ),
    ];
    let expected = expected.map(|(name, id, parent, millis)| {
        (
            name.to_owned(),
            id.to_owned(),
            parent.to_owned(),
            noon_and(millis),
        )
    });
    assert_eq!(told, expected);
    for span in &spans {
        assert_eq!(span.span_context.trace_id().to_string(), TRACE);
        assert!(span.span_context.is_sampled(), "else no processor takes it");
        assert_eq!(span.end_time, noon_and(250), "the last event's time");
        assert_eq!(span.status, Status::error(message.clone()));
        assert_eq!(span.instrumentation_scope.name(), "sandtrace");
        assert_eq!(span.instrumentation_scope.version(), Some("9.8.7"));
        let attributes = attributes(span);
        assert_eq!(attributes["sandtrace.abandoned"], "true");
        assert_eq!(attributes["sandtrace.run.id"], "run-7");
        assert_eq!(attributes["gen_ai.tool.name"], "Bash");
        assert_eq!(attributes["sandtrace.turn"], "1");
        assert_eq!(attributes["real"], "0.5");
        assert_eq!(attributes["list"], r#"["a","b"]"#);
        assert!(!attributes.contains_key("none"));
        let is_root = span.name == "agent.run";
        let error_type = if is_root { "lost.sandbox" } else { "abandoned" };
        assert_eq!(attributes["error.type"], error_type);
        assert_eq!(
            attributes.get("sandtrace.outcome").map(String::as_str),
            is_root.then_some("failure")
        );
        assert_eq!(
            attributes
                .get("sandtrace.failure.reason")
                .map(String::as_str),
            is_root.then_some("sandbox")
        );
        assert_eq!(span.parent_span_is_remote, is_root);
    }
    assert_eq!(spans[2].span_kind, SpanKind::Client);
    assert_eq!(spans[1].span_kind, SpanKind::Internal);
}

#[test]
fn they_pass_through_the_applications_own_processor() {
    let mut run = a_run();
    run.lose(Loss::new(LossReason::SandboxTimeout));
    let exporter = InMemorySpanExporter::default();
    let processor = SimpleSpanProcessor::new(exporter.clone());
    for orphan in orphans(&run) {
        processor.on_end(orphan);
    }
    processor.force_flush().unwrap();
    let spans = exporter.get_finished_spans().unwrap();
    assert_eq!(spans.len(), 3);
    assert_eq!(attributes(&spans[0])["error.type"], "timeout.sandbox_end");
}

#[test]
fn a_run_that_ended_before_our_eyes_leaves_none_even_if_a_span_never_ended() {
    let mut run = a_run();
    run.apply(&line(8, 300, "sandtrace.run.finished", json!({
        "outcome": "success", "failure": null, "exit": null, "duration_ms": 1.0,
        "usage": { "input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0,
                   "cache_creation_input_tokens": 0 },
        "cost": null, "cache_hit_ratio": null, "phases": {},
        "counts": { "turns": 0, "chats": 0, "tools": 0, "subagents": 0, "retries": 0, "events": 0,
                    "unrecognised": 0 },
        "resources": null, "survivors": [],
        "telemetry": { "spans": 0, "spans_dropped": 0, "destinations": [] },
    })));
    run.lose(Loss::new(LossReason::SandboxGone));
    assert_eq!(orphans(&run), []);
}

#[test]
fn a_run_that_was_lost_before_its_first_line_has_none() {
    let mut run = Run::new();
    run.lose(Loss::new(LossReason::Unreachable));
    assert_eq!(orphans(&run), []);
}

#[test]
fn a_run_that_could_not_be_reached_has_none_for_it_may_go_on_and_export_its_own() {
    let mut run = a_run();
    run.lose(Loss::new(LossReason::Unreachable));
    assert!(!run.open_spans().is_empty());
    assert_eq!(orphans(&run), []);
}

#[test]
fn a_span_that_starts_after_the_last_event_has_no_negative_length_and_one_without_ids_is_left_out()
{
    let mut run = a_run();
    let mut late = opened(8, 260, "4444444444444444", ROOT, "late", "internal")
        .raw()
        .to_owned();
    late = late.replace("12:00:00.260Z", "12:00:09.000Z");
    run.apply(&crate::Event::parse(&late).unwrap());
    run.apply(&opened(9, 261, "not an id", ROOT, "nobody", "internal"));
    run.lose(Loss::new(LossReason::SandboxGone));
    let spans = orphans(&run);
    let late = spans.iter().find(|span| span.name == "late").unwrap();
    assert_eq!(late.start_time, late.end_time);
    assert!(spans.iter().all(|span| span.name != "nobody"));
}
