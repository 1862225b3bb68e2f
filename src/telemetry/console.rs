//! Spans, metrics and logs as text for people, by opentelemetry-stdout.
//!
//! The crate prints with `println!`, so the program points fd 1 at stderr before anything else. A terminal or pipe that
//! nobody reads blocks such a print for good, and a closed one makes it panic. Hence the thread of its own: it may hang
//! or die, and the other destinations do not notice.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter as _;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::yield_now;

use super::counts::{Counts, SignalCounts};
use super::destination::Signals;
use super::export::poll_once;
use super::held::{NOT_THERE, ReadBack};
use super::logs::Records;
use super::metrics::points;

/// The most bytes that wait to be printed.
const CONSOLE_BYTES: usize = 8 << 20;
/// What a data point takes.
const POINT_BYTES: usize = 512;

const GONE: &str = "the console is gone";

/// What the thread is to do.
#[derive(Debug)]
enum Print {
    Spans(Vec<SpanData>, OwnedSemaphorePermit),
    Metrics(Arc<ResourceMetrics>, OwnedSemaphorePermit),
    Logs(Arc<Records>, OwnedSemaphorePermit),
    /// From here on spans come from somebody else.
    Identify(Box<Resource>),
}

/// The way to the console's thread.
#[derive(Debug)]
pub(super) struct Console {
    /// Bounded by `room`: each batch carries its permit.
    batches: mpsc::Sender<Print>,
    room: Arc<Semaphore>,
    done: oneshot::Receiver<()>,
    counts: SignalCounts,
    signals: Signals,
}

impl Console {
    pub(super) fn start(
        resource: &Resource,
        counts: SignalCounts,
        signals: Signals,
    ) -> io::Result<Self> {
        let (batches, received) = mpsc::channel::<Print>();
        counts.expect(signals);
        let (alive, done) = oneshot::channel();
        let mut exporter = opentelemetry_stdout::SpanExporter::default();
        exporter.set_resource(resource);
        let metrics_exporter = opentelemetry_stdout::MetricExporter::default();
        let mut log_exporter = opentelemetry_stdout::LogExporter::default();
        log_exporter.set_resource(resource);
        let printed = counts.clone();
        thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                // Dropped when the thread ends, which is what `done` waits for.
                let _alive: oneshot::Sender<()> = alive;
                for print in received {
                    match print {
                        Print::Spans(spans, _permit) => {
                            let count = spans.len() as u64;
                            let result = poll_once(|| exporter.export(spans));
                            settle(&printed.spans, count, result);
                        }
                        Print::Metrics(metrics, _permit) => {
                            let result = poll_once(|| metrics_exporter.export(&metrics));
                            settle(&printed.metrics, points(&metrics), result);
                        }
                        Print::Logs(records, _permit) => {
                            let pairs = records.pairs();
                            let result = poll_once(|| log_exporter.export(LogBatch::new(&pairs)));
                            settle(&printed.logs, records.len(), result);
                        }
                        Print::Identify(resource) => {
                            exporter.set_resource(&resource);
                            log_exporter.set_resource(&resource);
                        }
                    }
                }
            })?;
        Ok(Self {
            batches,
            room: Arc::new(Semaphore::new(CONSOLE_BYTES)),
            done,
            counts,
            signals,
        })
    }

    pub(super) fn print(&self, spans: Vec<SpanData>, weight: usize) {
        let count = spans.len() as u64;
        self.send(&self.counts.spans, count, weight, |permit| {
            Print::Spans(spans, permit)
        });
    }

    /// Those of the spans.
    pub(super) fn spans_counted(&self) -> &Counts {
        &self.counts.spans
    }

    /// Prints spans that waited for the end of the run, as fast as they are read.
    pub(super) fn print_late(&self, mut copy: ReadBack) -> impl Future<Output = ()> + use<> {
        let batches = self.batches.clone();
        let room = Arc::clone(&self.room);
        let counts = Arc::clone(&self.counts.spans);
        async move {
            while let Some(line) = copy.next() {
                let count = line.spans;
                let size = u32::try_from(line.bytes.min(CONSOLE_BYTES)).unwrap_or(u32::MAX);
                let Ok(permit) = Arc::clone(&room).acquire_many_owned(size).await else {
                    counts.dropped(count, GONE);
                    continue;
                };
                if batches
                    .send(Print::Spans(line.span_data(), permit))
                    .is_err()
                {
                    counts.dropped(count, GONE);
                }
                yield_now().await;
            }
            if copy.missing() > 0 {
                counts.dropped(copy.missing(), NOT_THERE);
            }
        }
    }

    pub(super) fn takes(&self) -> Signals {
        self.signals
    }

    pub(super) fn metrics(&self, metrics: &Arc<ResourceMetrics>) {
        let count = points(metrics);
        let weight = usize::try_from(count).unwrap_or(usize::MAX);
        let weight = weight.saturating_mul(POINT_BYTES);
        self.send(&self.counts.metrics, count, weight, |permit| {
            Print::Metrics(Arc::clone(metrics), permit)
        });
    }

    pub(super) fn logs(&self, records: &Arc<Records>, weight: usize) {
        self.send(&self.counts.logs, records.len(), weight, |permit| {
            Print::Logs(Arc::clone(records), permit)
        });
    }

    fn send(
        &self,
        counts: &Counts,
        items: u64,
        weight: usize,
        print: impl FnOnce(OwnedSemaphorePermit) -> Print,
    ) {
        counts.taken(items);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.room).try_acquire_many_owned(weight) else {
            return counts.dropped(items, "the console does not keep up");
        };
        if self.batches.send(print(permit)).is_err() {
            counts.dropped(items, GONE);
        }
    }

    /// Says from now on that the spans are somebody else's.
    pub(super) fn identify(&self, resource: Resource) {
        // If the thread is gone, nobody prints anything any more.
        self.batches
            .send(Print::Identify(Box::new(resource)))
            .unwrap_or_default();
    }

    /// Waits until everything is printed.
    pub(super) async fn finish(self) {
        drop(self.batches);
        // An error is the sender's drop, which is the news.
        self.done.await.unwrap_or_default();
    }
}

fn settle(counts: &Counts, items: u64, result: Result<(), String>) {
    match result {
        Ok(()) => counts.exported(items),
        Err(error) => counts.dropped(items, &error),
    }
}
