//! A canary: one small request of each signal, on the way that a run's telemetry takes.

use std::time::{Duration, Instant, SystemTime};

use opentelemetry::logs::Severity;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::{SpanKind, TraceFlags};
use opentelemetry::{Key, Value};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader as _;
use tokio::task::JoinSet;

use super::destination::{OtlpDestination, Route, Signal};
use super::encode::Encoder;
use super::logs::{LogEntry, Records};
use super::metrics::Reader;
use super::redaction::Redactor;
use super::retry::Verdict;
use super::span_data::{TraceFacts, span_data};
use super::transport::{Access, Proxies, Transport};
use super::{resource_of, with_extra};
use crate::order::{by_name, by_number};
use crate::session::id::{self, SpanKey};
use crate::session::span::{FinishedSpan, SpanStatus};
use crate::time::UnixNanos;

/// The name of the canary's span, log event and metric.
const NAME: &str = "sandtrace.doctor";

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    pub destination: &'static str,
    pub signal: Signal,
    /// Where it went: scheme, host and path, without a query.
    pub address: String,
    /// How long the answer took, or why there was none, or none that helps.
    pub outcome: Result<Duration, String>,
}

/// Sends one to each route of each destination, all at once; each is bounded by its route's timeout.
pub async fn send(
    destinations: Vec<OtlpDestination>,
    mut resource: Vec<(Key, Value)>,
    redactor: &Redactor,
    proxies: &Proxies,
    run_id: &str,
) -> Vec<Canary> {
    redactor.attributes(&mut resource);
    let mut flights = JoinSet::new();
    for mut destination in destinations {
        redactor.attributes(&mut destination.resource);
        for route in destination.routes.clone() {
            let (destination, resource) = (destination.clone(), resource.clone());
            let (proxies, run_id) = (proxies.clone(), run_id.to_owned());
            flights.spawn(async move {
                let canary = Canary {
                    destination: destination.name,
                    signal: route.signal,
                    address: address(&route),
                    outcome: Ok(Duration::ZERO),
                };
                let outcome = fly(&destination, &route, resource, &proxies, &run_id).await;
                Canary { outcome, ..canary }
            });
        }
    }
    let mut canaries = Vec::new();
    while let Some(landed) = flights.join_next().await {
        canaries.extend(landed);
    }
    let canaries = by_number(canaries, |canary| canary.signal as u128);
    by_name(canaries, |canary| canary.destination)
}

fn address(route: &Route) -> String {
    let uri = &route.endpoint;
    let scheme = uri.scheme_str().unwrap_or_default();
    let host = uri.authority().map_or("", |authority| authority.as_str());
    format!("{scheme}://{host}{}", uri.path())
}

async fn fly(
    destination: &OtlpDestination,
    route: &Route,
    resource: Vec<(Key, Value)>,
    proxies: &Proxies,
    run_id: &str,
) -> Result<Duration, String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let access = Access::new(route, proxies).map_err(|error| told(&error))?;
    let mut transport = Transport::new(route, &access).map_err(|error| told(&error))?;
    let body = body(destination, route, resource, run_id)?;
    let began = Instant::now();
    let answer = transport.post(body).await.map_err(|error| told(&error))?;
    match answer.verdict {
        Verdict::Delivered if answer.partial.rejected > 0 => {
            Err(format!("it was rejected: {}", answer.partial.message))
        }
        Verdict::Delivered => Ok(began.elapsed()),
        Verdict::Retry { .. } | Verdict::Refused | Verdict::Unsupported => Err(answer.told),
    }
}

/// The smallest request that says something.
fn body(
    destination: &OtlpDestination,
    route: &Route,
    resource: Vec<(Key, Value)>,
    run_id: &str,
) -> Result<bytes::Bytes, String> {
    let resource = resource_of(resource);
    let resource = with_extra(&resource, &destination.extra_resource(&resource));
    let flags = TraceFlags::SAMPLED;
    let now = UnixNanos::from(SystemTime::now());
    let trace_id = id::trace_id(run_id);
    let span_id = id::span_id(run_id, SpanKey::Run, &[]);
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    match route.signal {
        Signal::Traces => {
            let span = FinishedSpan {
                trace_id,
                span_id,
                parent_span_id: None,
                parent_is_remote: false,
                name: NAME.into(),
                kind: SpanKind::Internal,
                start: now,
                end: now,
                status: SpanStatus::Ok,
                attributes: Vec::new(),
                events: Vec::new(),
                dropped_events: 0,
                link: None,
                content: Vec::new(),
            };
            let trace = TraceFacts {
                flags,
                ..TraceFacts::default()
            };
            let span = (destination.dialect.span())(span);
            let encoder = Encoder::spans(route, &resource).map_err(|error| failed(&error))?;
            encoder.encode(vec![span_data(span, &trace)])
        }
        Signal::Logs => {
            let entry = LogEntry {
                time: now,
                severity: Severity::Info,
                event: NAME,
                body: "sandtrace doctor was here".to_owned(),
                attributes: Vec::new(),
                trace_id,
                span_id,
            };
            let encoder = Encoder::logs(route, &resource).map_err(|error| failed(&error))?;
            encoder.encode(&Records::new(vec![entry], flags).pairs())
        }
        Signal::Metrics => {
            let encoder = Encoder::metrics(route, &resource);
            let reader = Reader::new(destination.temporality);
            let provider = SdkMeterProvider::builder()
                .with_resource(resource)
                .with_reader(reader.clone())
                .build();
            provider
                .meter("sandtrace")
                .u64_gauge(NAME)
                .build()
                .record(1, &[]);
            let mut metrics = ResourceMetrics::default();
            reader
                .collect(&mut metrics)
                .map_err(|error| failed(&error))?;
            encoder.encode(&metrics)
        }
    }
    .map_err(|error| failed(&error))
}
