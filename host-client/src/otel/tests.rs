#[cfg(feature = "otlp")]
mod forwarding;
mod lost;
mod sandboxes;

use opentelemetry::propagation::text_map_propagator::FieldIter;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, KeyValue, baggage::BaggageExt as _, global};
use serde_json::{Value, json};

use super::*;
use crate::{Event, Launch};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A line of the supervisor, so many milliseconds after noon.
fn line(seq: u64, millis: u64, kind: &str, data: Value) -> Event {
    let line = json!({ "type": kind, "data": data, "sandtrace": {
        "seq": seq, "time": format!("2026-01-31T12:00:00.{millis:03}000Z"), "trace_id": TRACE,
        "span_id": "917bf7d5dccadbd6",
    }});
    Event::parse(&line.to_string()).unwrap()
}

fn caller() -> Context {
    Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from_hex(TRACE).unwrap(),
        SpanId::from_hex(CALLER).unwrap(),
        TraceFlags::SAMPLED,
        true,
        TraceState::from_key_value([("vendor", "7")]).unwrap(),
    ))
}

#[derive(Debug)]
struct Homemade([String; 1]);

impl TextMapPropagator for Homemade {
    fn inject_context(&self, _: &Context, injector: &mut dyn Injector) {
        injector.set("x-home-made.id", "42".to_owned());
    }

    fn extract_with_context(&self, context: &Context, _: &dyn Extractor) -> Context {
        context.clone()
    }

    fn fields(&self) -> FieldIter<'_> {
        FieldIter::new(&self.0)
    }
}

/// One test, for the propagator is global.
#[test]
fn a_context_goes_into_the_environment_as_the_application_propagates_it() {
    let launch = || Launch::new(["agent"]);
    assert_eq!(launch().context(&Context::new()).env(), []);
    assert_eq!(launch().current_context().env(), []);

    let context = caller().with_baggage([KeyValue::new("tenant", "acme")]);
    let expected = [
        ("TRACEPARENT", format!("00-{TRACE}-{CALLER}-01")),
        ("TRACESTATE", "vendor=7".to_owned()),
        ("BAGGAGE", "tenant=acme".to_owned()),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(launch().context(&context).env(), expected);
    let attached = context.clone().attach();
    assert_eq!(launch().current_context().env(), expected);
    drop(attached);

    global::set_text_map_propagator(Homemade(["x-home-made.id".to_owned()]));
    let expected = [("X_HOME_MADE_ID".to_owned(), "42".to_owned())];
    assert_eq!(launch().context(&context).env(), expected);
}

#[test]
fn a_request_of_the_sandbox_is_the_text_that_the_supervisor_wrote() {
    // Numbers that a reader of floating point would change, and white space.
    let request = r#"{"resourceSpans": [ {"a":1.10, "b":12345678901234567890123} ]}"#;
    for (signal, path) in [
        ("traces", Some("/v1/traces")),
        ("metrics", Some("/v1/metrics")),
        ("logs", Some("/v1/logs")),
        ("../admin", None),
    ] {
        let line = format!(
            r#"{{"type":"sandtrace.otlp","data":{{"signal":"{signal}","request":{request}}},"sandtrace":{{"seq":1,"time":"2026-01-31T12:00:00.000000Z","trace_id":"{TRACE}","span_id":"{CALLER}"}}}}"#
        );
        let asked = OtlpRequest::of(&Event::parse(&line).unwrap()).unwrap();
        assert_eq!(asked.body, request);
        assert_eq!(asked.path(), path);
    }
    let other = line(
        1,
        0,
        "sandtrace.heartbeat",
        json!({ "uptime_ms": 1, "state": "in_tool" }),
    );
    assert_eq!(OtlpRequest::of(&other), None);
}
