//! One run with a subagent, parallel tools, an approval, a failed tool and a retry, as each backend gets it.
//!
//! The snapshot of `otlp` shows every attribute. Those of the others show what is different, and are therefore as exact.

use std::fmt::Write as _;

use opentelemetry::Value;
use opentelemetry::trace::SpanId;
use opentelemetry_sdk::Resource;

use super::super::{Dialect, Semconv};
use super::spans::{DIALECTS, Options, START, play, recordings, translated};
use crate::session::{FinishedSpan, SpanStatus};

/// Under a caller's span, where a dialect has the most to mind.
fn tour() -> Vec<FinishedSpan> {
    tour_under(Some(SpanId::from(9)))
}

fn tour_under(remote_parent: Option<SpanId>) -> Vec<FinishedSpan> {
    let options = Options {
        remote_parent,
        attributes: vec![("tags", "nightly, audit"), ("team", "ledger")],
        ..Options::default()
    };
    let mut spans = play(&recordings().join("tour"), "sdk", &options).unwrap();
    spans.sort_by_key(|span| span.start);
    let has = |name: &str| spans.iter().any(|span| span.name == name);
    assert!(has("approval Bash") && has("invoke_agent general-purpose"));
    spans
}

fn head(span: &FinishedSpan) -> String {
    let millis = |time: crate::time::UnixNanos| time.since(START).as_millis();
    let status = match &span.status {
        SpanStatus::Unset => String::new(),
        SpanStatus::Ok => " ok".to_owned(),
        SpanStatus::Error { message } => format!(" error {message:?}"),
    };
    format!(
        "{} {:?} {}..{}{status}",
        span.name,
        span.kind,
        millis(span.start),
        millis(span.end)
    )
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{:?}", text.as_str()),
        other => other.to_string(),
    }
}

/// Its attributes and events, a line each, sorted.
fn lines(span: &FinishedSpan) -> Vec<String> {
    let attributes = span.attributes.iter();
    let mut lines: Vec<_> = attributes
        .map(|(key, value)| format!("{key} = {}", shown(value)))
        .collect();
    lines.sort();
    for event in &span.events {
        let mut attributes: Vec<_> = event
            .attributes
            .iter()
            .map(|(key, value)| format!("{key} = {}", shown(value)))
            .collect();
        attributes.sort();
        let at = event.time.since(START).as_millis();
        lines.push(format!("* {} {at} {}", event.name, attributes.join(", ")));
    }
    lines
}

fn everything(spans: &[FinishedSpan]) -> String {
    let mut text = String::new();
    for span in spans {
        writeln!(text, "{}", head(span)).unwrap();
        for line in lines(span) {
            writeln!(text, "    {line}").unwrap();
        }
    }
    text
}

fn differences(before: &[FinishedSpan], after: &[FinishedSpan]) -> String {
    let mut text = String::new();
    for (before, after) in before.iter().zip(after) {
        assert_eq!(head(before), head(after));
        let (old, new) = (lines(before), lines(after));
        let mut changes: Vec<_> = old
            .iter()
            .filter(|line| !new.contains(line))
            .map(|line| format!("  - {line}"))
            .collect();
        let added = new.iter().filter(|line| !old.contains(line));
        changes.extend(added.map(|line| format!("  + {line}")));
        if !changes.is_empty() {
            writeln!(text, "{}\n{}", head(after), changes.join("\n")).unwrap();
        }
    }
    if text.is_empty() {
        text.push_str("as otlp\n");
    }
    text
}

fn golden(name: &str, text: &str) {
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn each_backend_gets_its_trace() {
    let spans = tour();
    golden("otlp", &everything(&spans));
    let service = opentelemetry::KeyValue::new("service.name", "books");
    let common = Resource::builder_empty().with_attribute(service).build();
    for dialect in DIALECTS.into_iter().filter(|it| *it != Dialect::Otlp) {
        let after: Vec<_> = spans
            .iter()
            .map(|span| translated(span, Semconv::V1_41, dialect))
            .collect();
        let mut text = String::new();
        for (key, value) in dialect.resource(&common) {
            writeln!(text, "resource\n  + {key} = {}", shown(&value)).unwrap();
        }
        text.push_str(&differences(&spans, &after));
        golden(&format!("{dialect:?}").to_lowercase(), &text);
    }
}

#[test]
fn langfuse_is_told_the_name_of_a_trace_that_is_the_runs_own() {
    let spans = tour_under(None);
    let after: Vec<_> = spans
        .iter()
        .map(|span| translated(span, Semconv::V1_41, Dialect::Langfuse))
        .collect();
    golden("langfuse_own_trace", &differences(&spans, &after));
}

#[test]
fn who_opts_in_to_the_latest_conventions_gets_them() {
    let spans = tour();
    let after: Vec<_> = spans
        .iter()
        .map(|span| translated(span, Semconv::Latest, Dialect::Otlp))
        .collect();
    golden("latest", &differences(&spans, &after));
}
