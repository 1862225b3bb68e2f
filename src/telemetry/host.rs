//! The destination `host`: OTLP requests as lines of the echo, for a sandbox that may not send anything itself.
//!
//! The export thread makes the requests, the loop writes them among the run's lines, and the host exports them. They are
//! small, so that no line between two of the agent's takes long; and what the loop has not taken yet is bounded.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use sandtrace_client::wire;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::yield_now;

use super::counts::{Counts, SignalCounts};
use super::destination::{Signal, Signals};
use super::held::{NOT_THERE, ReadBack};
use super::home::COPIED;
use super::logs::Records;
use super::metrics::points;
use super::request;
use super::span_data::{TraceFacts, span_data, weight};
use crate::session::span::FinishedSpan;

/// The most bytes of requests that wait for the loop.
const WAITING_BYTES: usize = 4 << 20;
/// The most weight of spans or log records in a request. As JSON spans are at most twice as long ([`JSON_FACTOR`]), and
/// log records that hold messages as structures up to ten times; a line may have 4 MiB.
///
/// [`JSON_FACTOR`]: super::span_data::JSON_FACTOR
const REQUEST_WEIGHT: usize = 256 << 10;

const GONE: &str = "nobody writes lines any more";
const TOO_LONG: &str = "a span is too long for a line of the echo";

/// A request on its way to the echo.
#[derive(Debug)]
pub struct HostRequest {
    signal: &'static str,
    /// As text, for which its permit stands: parsed, it takes ten times the memory.
    text: Vec<u8>,
    items: u64,
    counts: Arc<Counts>,
    _room: OwnedSemaphorePermit,
}

impl HostRequest {
    /// It is written by the sandbox that this one was copied from.
    pub fn leave(self) {
        self.counts.dropped(self.items, COPIED);
    }

    /// The line's data. Whoever takes it writes it, which is all that can be known of its delivery here.
    #[must_use]
    pub fn into_line(self) -> wire::Otlp {
        self.counts.exported(self.items);
        wire::Otlp {
            signal: self.signal.to_owned(),
            // It was written by us, so it is JSON.
            request: serde_json::from_slice(&self.text).unwrap_or_default(),
        }
    }
}

/// The near end of the way to the loop.
#[derive(Debug)]
pub(super) struct Host {
    /// Bounded by `room`: each request carries its permit.
    requests: mpsc::UnboundedSender<HostRequest>,
    room: Arc<Semaphore>,
    counts: SignalCounts,
    resource: ResourceAttributesWithSchema,
    signals: Signals,
}

impl Host {
    pub(super) fn new(
        resource: &Resource,
        counts: SignalCounts,
        signals: Signals,
    ) -> (Self, mpsc::UnboundedReceiver<HostRequest>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        counts.expect(signals);
        let host = Self {
            requests,
            room: Arc::new(Semaphore::new(WAITING_BYTES)),
            counts,
            resource: resource.into(),
            signals,
        };
        (host, receiver)
    }

    /// Says from now on that the telemetry is somebody else's.
    pub(super) fn identify(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }

    pub(super) fn spans(&self, spans: &[FinishedSpan], trace: &TraceFacts) {
        let mut rest = spans;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(fitting(rest));
            rest = later;
            let spans = now.iter().cloned().map(|span| span_data(span, trace));
            let request = request::of_spans(spans.collect(), &self.resource);
            self.send("traces", &request, now.len() as u64, &self.counts.spans);
        }
    }

    /// Leaves so much to the sandbox that this one was copied from.
    pub(super) fn leave(&self, signal: Signal, items: u64) {
        let counts = match signal {
            Signal::Traces => &self.counts.spans,
            Signal::Metrics => &self.counts.metrics,
            Signal::Logs => &self.counts.logs,
        };
        if self.signals.has(signal) {
            counts.taken(items);
            counts.dropped(items, COPIED);
        }
    }

    pub(super) fn takes(&self) -> Signals {
        self.signals
    }

    /// Those of the spans.
    pub(super) fn spans_counted(&self) -> &Counts {
        &self.counts.spans
    }

    /// Passes on spans that waited for the end of the run, as fast as the echo takes them.
    pub(super) fn send_late(&self, mut copy: ReadBack) -> impl Future<Output = ()> + use<> {
        let requests = self.requests.clone();
        let room = Arc::clone(&self.room);
        let counts = Arc::clone(&self.counts.spans);
        async move {
            while let Some(line) = copy.next() {
                for (request, items) in line.parts(REQUEST_WEIGHT) {
                    let text = match serde_json::to_vec(&request) {
                        Ok(text) if text.len() <= WAITING_BYTES => text,
                        Ok(_) => {
                            counts.dropped(items, TOO_LONG);
                            continue;
                        }
                        Err(error) => {
                            counts.dropped(items, &format!("failed to encode: {error}"));
                            continue;
                        }
                    };
                    let size = u32::try_from(text.len()).unwrap_or(u32::MAX);
                    let Ok(permit) = Arc::clone(&room).acquire_many_owned(size).await else {
                        counts.dropped(items, GONE);
                        continue;
                    };
                    let request = HostRequest {
                        signal: "traces",
                        text,
                        items,
                        counts: Arc::clone(&counts),
                        _room: permit,
                    };
                    if requests.send(request).is_err() {
                        counts.dropped(items, GONE);
                    }
                }
                yield_now().await;
            }
            if copy.missing() > 0 {
                counts.dropped(copy.missing(), NOT_THERE);
            }
        }
    }

    pub(super) fn logs(&self, records: &Records) {
        for pairs in records.parts(REQUEST_WEIGHT) {
            let request = request::of_logs(&pairs, &self.resource);
            self.send("logs", &request, pairs.len() as u64, &self.counts.logs);
        }
    }

    pub(super) fn metrics(&self, metrics: &ResourceMetrics) {
        let request = ExportMetricsServiceRequest::from(metrics);
        self.send("metrics", &request, points(metrics), &self.counts.metrics);
    }

    fn send(
        &self,
        signal: &'static str,
        request: &impl Serialize,
        items: u64,
        counts: &Arc<Counts>,
    ) {
        counts.taken(items);
        let text = match serde_json::to_vec(request) {
            Ok(text) => text,
            Err(error) => return counts.dropped(items, &format!("failed to encode: {error}")),
        };
        let size = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(size) else {
            return counts.dropped(items, "the echo does not keep up");
        };
        let request = HostRequest {
            signal,
            text,
            items,
            counts: Arc::clone(counts),
            _room: room,
        };
        if self.requests.send(request).is_err() {
            counts.dropped(items, GONE);
        }
    }
}

/// How many of the first spans fit into a request; at least one.
fn fitting(spans: &[FinishedSpan]) -> usize {
    let mut sum = 0;
    let fits = spans.iter().take_while(|span| {
        sum += weight(span);
        sum <= REQUEST_WEIGHT
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use opentelemetry::logs::Severity;
    use opentelemetry::trace::{SpanId, TraceFlags, TraceId};

    use super::super::logs::LogEntry;
    use super::*;
    use crate::session::semconv::{event, key};
    use crate::time::UnixNanos;

    /// An event with whole messages, whose many small parts take much room as OTLP's JSON.
    fn messages() -> LogEntry {
        let message =
            r#"{"role":"user","parts":[{"type":"text","content":"some words of a user"}]},"#;
        let all = message.repeat(500);
        LogEntry {
            time: UnixNanos::default(),
            severity: Severity::Debug,
            event: event::INFERENCE_DETAILS,
            body: String::new(),
            attributes: vec![(
                key::GEN_AI_INPUT_MESSAGES.into(),
                format!("[{}]", all.trim_end_matches(',')).into(),
            )],
            trace_id: TraceId::from(1_u128),
            span_id: SpanId::from(1_u64),
        }
    }

    #[test]
    fn heavy_log_records_go_in_many_lines_of_bounded_length() {
        let counts = SignalCounts::default();
        let resource = Resource::builder_empty().build();
        let (host, mut requests) = Host::new(&resource, counts, Signals::ALL);
        let batch: Vec<_> = (0..30).map(|_| messages()).collect();
        assert!(batch.iter().map(LogEntry::weight).sum::<usize>() < 2 << 20);
        let records = Records::new(batch, TraceFlags::SAMPLED);
        let mut sum = 0;
        for part in records.parts(REQUEST_WEIGHT) {
            sum += part.len() as u64;
        }
        assert_eq!(sum, records.len());
        assert_eq!(records.parts(1).count(), 30, "each goes, however heavy");
        host.logs(&records);
        let first = requests.try_recv().expect("the echo keeps up");
        assert!(first.text.len() < 4 << 20);
        assert!(first.items < 30);
    }
}
