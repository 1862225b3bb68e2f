//! Spans from `traces.jsonl`: one OTLP/JSON request a line, as the OpenTelemetry file exporter writes them.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use serde_json::{Map, Value};

use super::load::BadLine;
use super::tree::{Span, Status};
use crate::time::UnixNanos;

/// The spans of one line, each with its trace id.
pub(super) fn spans(line: &str) -> Result<Vec<(String, Span)>, BadLine> {
    let request: ExportTraceServiceRequest = serde_json::from_str(line).map_err(|_| BadLine)?;
    let spans = request
        .resource_spans
        .into_iter()
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans);
    Ok(spans
        .map(|span| (hex(&span.trace_id), convert(span)))
        .collect())
}

fn convert(span: otlp::Span) -> Span {
    let status = span.status.unwrap_or_default();
    Span {
        id: hex(&span.span_id),
        parent: Some(hex(&span.parent_span_id)).filter(|parent| !parent.is_empty()),
        name: span.name,
        start: UnixNanos(span.start_time_unix_nano),
        end: Some(UnixNanos(
            span.end_time_unix_nano.max(span.start_time_unix_nano),
        )),
        status: match status.code() {
            otlp::status::StatusCode::Error => Status::Error,
            otlp::status::StatusCode::Ok => Status::Ok,
            otlp::status::StatusCode::Unset => Status::Unset,
        },
        message: Some(status.message).filter(|message| !message.is_empty()),
        attributes: attributes(span.attributes),
    }
}

fn attributes(attributes: Vec<KeyValue>) -> Map<String, Value> {
    let pairs = attributes.into_iter();
    pairs.map(|pair| (pair.key, json(pair.value))).collect()
}

/// Nested values carry nothing that a report shows, so they are not followed.
fn json(value: Option<AnyValue>) -> Value {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => Value::from(text),
        Some(any_value::Value::BoolValue(flag)) => Value::from(flag),
        Some(any_value::Value::IntValue(number)) => Value::from(number),
        Some(any_value::Value::DoubleValue(number)) => Value::from(number),
        _ => Value::Null,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
