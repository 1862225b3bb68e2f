//! Routes to receivers, and spans to send there.

use std::borrow::Cow;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use opentelemetry::trace::{SpanId, SpanKind, TraceId};
use sandtrace::session::span::{FinishedSpan, SpanStatus};
use sandtrace::telemetry::{
    Compression, Destination, Dialect, OtlpDestination, Protocol, Route, Semconv, Signal,
    Telemetry, TelemetryConfig, Temporality, TlsFiles,
};
use sandtrace::time::UnixNanos;
use sandtrace_client::wire;

/// The way for spans to a receiver.
pub(crate) fn otlp(url: &str) -> Route {
    Route {
        signal: Signal::Traces,
        endpoint: url.parse().unwrap(),
        headers: HeaderMap::new(),
        protocol: Protocol::HttpProtobuf,
        compression: Compression::None,
        timeout: Duration::from_secs(10),
        tls: TlsFiles::default(),
    }
}

/// A destination for each route.
pub(crate) fn config(routes: Vec<Route>) -> TelemetryConfig {
    let destination = |route| OtlpDestination {
        name: "otlp",
        dialect: Dialect::Otlp,
        semconv: Semconv::V1_41,
        resource: Vec::new(),
        temporality: Temporality::Cumulative,
        routes: vec![route],
    };
    TelemetryConfig {
        destinations: routes
            .into_iter()
            .map(|route| Destination::Otlp(Box::new(destination(route))))
            .collect(),
        resource: vec![("service.name".into(), "it".into())],
        ..TelemetryConfig::default()
    }
}

pub(crate) fn start(destinations: Vec<Route>) -> Telemetry {
    Telemetry::start(config(destinations)).unwrap()
}

pub(crate) fn span(name: impl Into<Cow<'static, str>>, text: &str) -> FinishedSpan {
    let now = UnixNanos::from(SystemTime::now());
    FinishedSpan {
        trace_id: TraceId::from(1),
        span_id: SpanId::from(2),
        parent_span_id: None,
        parent_is_remote: false,
        name: name.into(),
        kind: SpanKind::Internal,
        start: now,
        end: now.plus(Duration::from_millis(3)),
        status: SpanStatus::Unset,
        attributes: vec![("text".into(), text.to_owned().into())],
        events: Vec::new(),
        dropped_events: 0,
        link: None,
        content: Vec::new(),
    }
}

/// Records spans named `0000`, `0001` and so on.
pub(crate) fn record(telemetry: &Telemetry, range: std::ops::Range<usize>) {
    for number in range {
        telemetry.record(span(format!("{number:04}"), "a few words"));
    }
}

pub(crate) fn names(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("{number:04}")).collect()
}

/// Shuts down, and checks that the answer came in time.
pub(crate) fn shutdown(telemetry: Telemetry, timeout: Duration) -> wire::Telemetry {
    let (report, late) = shutdown_timed(telemetry, timeout);
    assert!(late.is_zero(), "{late:?} too late for {timeout:?}");
    report
}

/// Shuts down, and tells how much later the answer came than it may, on a machine that wakes its threads as late as
/// this one does now.
pub(crate) fn shutdown_timed(
    telemetry: Telemetry,
    timeout: Duration,
) -> (wire::Telemetry, Duration) {
    let started = Instant::now();
    let answer = telemetry.shutdown(timeout);
    let sleepers = sleepers(timeout);
    let report = answer.blocking_recv().unwrap();
    let late = started
        .elapsed()
        .saturating_sub(timeout + Duration::from_millis(100));
    if late.is_zero() {
        return (report, late);
    }
    // Two had to be woken for the answer: the thread that gives it, and this one.
    let lateness = sleepers.into_iter().map(|sleeper| sleeper.join().unwrap());
    let lateness = lateness.max().unwrap_or_default();
    (report, late.saturating_sub(2 * lateness))
}

/// Threads that wait for as long and do nothing else. Each gives how much later than asked it woke up: next to nothing
/// unless the machine is busy.
pub(crate) fn sleepers(time: Duration) -> Vec<thread::JoinHandle<Duration>> {
    let sleep = move || {
        let started = Instant::now();
        thread::sleep(time);
        started.elapsed().saturating_sub(time)
    };
    (0..8).map(|_| thread::spawn(sleep)).collect()
}

/// Exported, dropped, queued.
pub(crate) fn counts(report: &wire::Telemetry, index: usize) -> (u64, u64, u64) {
    let row = &report.destinations[index];
    (row.exported, row.dropped, row.queued)
}

pub(crate) fn last_error(report: &wire::Telemetry, index: usize) -> &str {
    report.destinations[index]
        .last_error
        .as_deref()
        .unwrap_or_default()
}
