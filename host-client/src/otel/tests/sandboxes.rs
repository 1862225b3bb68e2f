use std::collections::BTreeMap;

use opentelemetry::Context;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::{SpanId, SpanKind, Status, TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use serde_json::json;

use super::{CALLER, TRACE, caller, line};
use crate::otel::Instruments;

/// The application's telemetry.
struct Application {
    spans: InMemorySpanExporter,
    traces: SdkTracerProvider,
    points: InMemoryMetricExporter,
    metrics: SdkMeterProvider,
}

impl Application {
    fn new() -> Self {
        let spans = InMemorySpanExporter::default();
        let points = InMemoryMetricExporter::default();
        Self {
            traces: SdkTracerProvider::builder()
                .with_simple_exporter(spans.clone())
                .build(),
            metrics: SdkMeterProvider::builder()
                .with_reader(PeriodicReader::builder(points.clone()).build())
                .build(),
            spans,
            points,
        }
    }

    fn instruments(&self) -> Instruments {
        Instruments::new(self.traces.tracer("app"), &self.metrics.meter("app"))
    }

    fn spans(&self) -> Vec<SpanData> {
        self.spans.get_finished_spans().unwrap()
    }

    /// The points of a metric by their attributes: a sum's value, a histogram's count.
    fn points(&self, name: &str) -> BTreeMap<String, f64> {
        self.metrics.force_flush().unwrap();
        let exports = self.points.get_finished_metrics().unwrap();
        let last = exports.last().unwrap();
        let metrics = last.scope_metrics().flat_map(|scope| scope.metrics());
        let mut points = BTreeMap::new();
        for metric in metrics.filter(|metric| metric.name() == name) {
            let mut put = |mut attributes: Vec<String>, value: f64| {
                attributes.sort();
                points.insert(attributes.join(","), value);
            };
            let told = |pair: &opentelemetry::KeyValue| format!("{}={}", pair.key, pair.value);
            match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                    assert!(sum.is_monotonic());
                    for point in sum.data_points() {
                        put(point.attributes().map(told).collect(), point.value() as f64);
                    }
                }
                AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                    assert!(!sum.is_monotonic());
                    for point in sum.data_points() {
                        put(point.attributes().map(told).collect(), point.value() as f64);
                    }
                }
                AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                    assert_eq!(metric.unit(), "s");
                    for point in histogram.data_points() {
                        put(point.attributes().map(told).collect(), point.count() as f64);
                    }
                }
                other => panic!("{name} is {other:?}"),
            }
        }
        points
    }
}

fn told(span: &SpanData) -> (String, String, String) {
    let mut attributes: Vec<_> = span
        .attributes
        .iter()
        .map(|pair| format!("{}={}", pair.key, pair.value))
        .collect();
    attributes.sort();
    (
        span.name.to_string(),
        span.parent_span_id.to_string(),
        attributes.join(","),
    )
}

#[test]
fn a_callers_span_has_the_sandbox_the_run_and_its_end_as_children() {
    let application = Application::new();
    let sandbox = application
        .instruments()
        .creating("base", &caller())
        .done("sbx-1");
    // This is what the run's TRACEPARENT is made of.
    assert_eq!(
        sandbox
            .context()
            .span()
            .span_context()
            .span_id()
            .to_string(),
        CALLER
    );
    sandbox.killing().done();
    let spans = application.spans();
    let attributes = "sandbox.id=sbx-1,sandbox.template.id=base".to_owned();
    assert_eq!(
        spans.iter().map(told).collect::<Vec<_>>(),
        [
            (
                "sandbox.create".to_owned(),
                CALLER.to_owned(),
                attributes.clone()
            ),
            ("sandbox.kill".to_owned(), CALLER.to_owned(), attributes),
        ]
    );
    for span in &spans {
        assert_eq!(span.span_context.trace_id().to_string(), TRACE);
        assert_eq!(span.span_kind, SpanKind::Client);
        assert_eq!(span.status, Status::Unset);
    }
}

#[test]
fn without_a_caller_the_sandbox_begins_the_trace_of_its_run_and_its_end() {
    let application = Application::new();
    let sandbox = application
        .instruments()
        .creating("base", &Context::new())
        .done("sbx-1");
    let run = sandbox.context().span().span_context().clone();
    sandbox.killing().done();
    let spans = application.spans();
    assert_eq!(spans[0].parent_span_id, SpanId::INVALID);
    let create = &spans[0].span_context;
    assert_eq!(
        (run.trace_id(), run.span_id()),
        (create.trace_id(), create.span_id())
    );
    assert_eq!(spans[1].parent_span_id, create.span_id());
    assert_eq!(spans[1].span_context.trace_id(), create.trace_id());
}

#[test]
fn a_sandbox_that_never_came_is_an_error_and_no_active_one() {
    let application = Application::new();
    let instruments = application.instruments();
    instruments
        .creating("base", &caller())
        .failed("rate_limited", "429 Too Many Requests");
    drop(instruments.creating("base", &caller()));
    let spans = application.spans();
    assert_eq!(spans[0].status, Status::error("429 Too Many Requests"));
    assert_eq!(
        told(&spans[0]).2,
        "error.type=rate_limited,sandbox.template.id=base"
    );
    assert!(matches!(spans[1].status, Status::Error { .. }));
    assert_eq!(
        told(&spans[1]).2,
        "error.type=abandoned,sandbox.template.id=base"
    );
    assert_eq!(
        application.points("sandtrace.sandbox.create.duration"),
        BTreeMap::from([
            (
                "error.type=abandoned,sandbox.template.id=base".to_owned(),
                1.0
            ),
            (
                "error.type=rate_limited,sandbox.template.id=base".to_owned(),
                1.0
            ),
        ])
    );
    assert_eq!(
        application.points("sandtrace.sandbox.active"),
        BTreeMap::new()
    );
}

#[test]
fn a_sandbox_is_active_until_it_is_known_to_be_gone_and_goes_once() {
    let application = Application::new();
    let instruments = application.instruments();
    let active = || application.points("sandtrace.sandbox.active")["sandbox.template.id=base"];
    let one = instruments.creating("base", &caller()).done("sbx-1");
    let two = instruments.creating("base", &caller()).done("sbx-2");
    assert!((active() - 2.0).abs() < 0.1);
    one.killing().failed("unreachable", "no answer");
    drop(one.killing());
    assert!((active() - 2.0).abs() < 0.1, "nobody knows that it is gone");
    one.clone().gone();
    one.killing().done();
    one.gone();
    assert!((active() - 1.0).abs() < 0.1);
    two.killing().done();
    assert!(active().abs() < 0.1);
    instruments
        .connected("sbx-3", None, &caller())
        .killing()
        .done();
    assert!(active().abs() < 0.1, "somebody else counted it");
    let durations = application.points("sandtrace.sandbox.create.duration");
    assert_eq!(
        durations,
        BTreeMap::from([("sandbox.template.id=base".to_owned(), 2.0)])
    );
    let errors = application.spans();
    let errors = errors
        .iter()
        .filter(|span| matches!(span.status, Status::Error { .. }));
    assert_eq!(errors.count(), 2);
}

#[test]
fn events_are_counted_by_types_that_no_agent_can_add_to() {
    let application = Application::new();
    let instruments = application.instruments();
    let heartbeat = json!({ "uptime_ms": 1, "state": "in_tool" });
    instruments.event(&line(1, 0, "sandtrace.heartbeat", heartbeat.clone()));
    instruments.event(&line(2, 0, "sandtrace.heartbeat", heartbeat));
    instruments.event(&line(3, 0, "assistant", json!({})));
    instruments.event(&line(4, 0, "text", json!({})));
    instruments.event(&line(5, 0, "sandtrace.of.tomorrow", json!({})));
    let expected = [
        ("sandtrace.event.type=_OTHER", 1.0),
        ("sandtrace.event.type=agent", 2.0),
        ("sandtrace.event.type=sandtrace.heartbeat", 2.0),
    ];
    assert_eq!(
        application.points("sandtrace.events.sent"),
        expected
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect()
    );
}
