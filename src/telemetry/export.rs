//! The export thread: the run buffer, and from there to every destination.
//!
//! One thread with a runtime of its own, so that neither a slow encoding nor a stuck backend ever takes time from the
//! supervisor's loop. Spans wait here for up to [`Batching::delay`] and go out in batches bounded by count and bytes.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use opentelemetry_sdk::Resource;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::console::Console;
use super::counts::Counts;
use super::destination::{Batching, Dialect};
use super::encode::Encoder;
use super::file::TracesFile;
use super::queue::{Parcel, Queue};
use super::sender::Sender;
use super::span_data::{TraceFacts, span_data, weight};
use crate::session::span::FinishedSpan;

/// What the handle tells the export thread.
#[derive(Debug)]
pub(super) enum Message {
    /// A span, and the room it takes until every destination has its own copy.
    Span(Box<FinishedSpan>, OwnedSemaphorePermit),
    /// Do not wait for the batch to fill.
    Flush,
    /// From here on spans come from somebody else.
    Identify(Resource),
    /// Send the last batch, drain until the deadline, and answer.
    Shutdown {
        deadline: Instant,
        done: std::sync::mpsc::Sender<()>,
    },
}

/// A destination brought to life.
#[derive(Debug)]
pub(super) enum Sink {
    Otlp(Box<OtlpSink>),
    Console(Console),
    File(TracesFile),
}

/// The near half of an OTLP destination; the far half is its [`Sender`].
#[derive(Debug)]
pub(super) struct OtlpSink {
    pub(super) dialect: Dialect,
    pub(super) encoder: Encoder,
    pub(super) queue: Arc<Queue>,
    pub(super) counts: Arc<Counts>,
}

impl OtlpSink {
    fn send(&self, spans: Vec<FinishedSpan>, trace: &TraceFacts) {
        let count = spans.len() as u64;
        let translate = self.dialect.span();
        let encoded = caught(|| {
            let spans = spans
                .into_iter()
                .map(|span| span_data(translate(span), trace));
            self.encoder
                .encode(spans.collect())
                .map_err(|error| error.to_string())
        });
        match encoded.and_then(|encoded| encoded) {
            Ok(body) => self.queue.push(Parcel { body, spans: count }),
            Err(error) => self.counts.dropped(count, &error),
        }
    }
}

/// Everything the export thread owns.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) messages: mpsc::UnboundedReceiver<Message>,
    pub(super) batching: Batching,
    /// The most weight in a batch.
    pub(super) batch_weight: usize,
    pub(super) trace: TraceFacts,
    pub(super) sinks: Vec<Sink>,
    pub(super) senders: Vec<Sender>,
    pub(super) draining: watch::Sender<bool>,
}

/// The run buffer.
#[derive(Debug, Default)]
struct Batch {
    spans: Vec<FinishedSpan>,
    permits: Vec<OwnedSemaphorePermit>,
    weight: usize,
    due: Option<Instant>,
}

impl Export {
    /// Runs until shutdown, or until the handle is gone.
    pub(super) async fn run(mut self) {
        let mut tasks = JoinSet::new();
        for sender in self.senders.drain(..) {
            // A sender that panics ends alone; what it leaves is counted as queued.
            tasks.spawn(sender.run());
        }
        let mut batch = Batch::default();
        let (deadline, done) = loop {
            let due = batch.due;
            let message = tokio::select! {
                message = self.messages.recv() => message,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Some(Message::Flush),
            };
            match message {
                Some(Message::Span(span, permit)) => self.admit(&mut batch, *span, permit),
                Some(Message::Flush) => self.emit(&mut batch),
                Some(Message::Identify(resource)) => {
                    self.emit(&mut batch);
                    self.identify(&resource);
                }
                Some(Message::Shutdown { deadline, done }) => break (deadline, done),
                None => return,
            }
        };
        self.emit(&mut batch);
        self.drain(tasks, deadline).await;
        // The other end may have answered without us already.
        done.send(()).unwrap_or_default();
    }

    fn admit(&mut self, batch: &mut Batch, span: FinishedSpan, permit: OwnedSemaphorePermit) {
        let weight = weight(&span);
        if batch.weight + weight > self.batch_weight {
            self.emit(batch);
        }
        batch.weight += weight;
        batch
            .due
            .get_or_insert_with(|| Instant::now() + self.batching.delay);
        batch.spans.push(span);
        batch.permits.push(permit);
        if batch.spans.len() >= self.batching.max_spans {
            self.emit(batch);
        }
    }

    /// Hands the batch to every destination. The file comes first: it is the one that survives us.
    fn emit(&mut self, batch: &mut Batch) {
        let batch = std::mem::take(batch);
        if batch.spans.is_empty() {
            return;
        }
        let data = |spans: &[FinishedSpan]| {
            let spans = spans
                .iter()
                .cloned()
                .map(|span| span_data(span, &self.trace));
            spans.collect::<Vec<_>>()
        };
        for sink in &mut self.sinks {
            match sink {
                Sink::File(file) => file.write(data(&batch.spans)),
                Sink::Console(console) => console.print(data(&batch.spans), batch.weight),
                Sink::Otlp(otlp) => otlp.send(batch.spans.clone(), &self.trace),
            }
        }
    }

    fn identify(&mut self, resource: &Resource) {
        for sink in &mut self.sinks {
            match sink {
                Sink::File(file) => file.identify(resource),
                Sink::Console(console) => console.identify(resource.clone()),
                Sink::Otlp(otlp) => otlp.encoder.identify(resource),
            }
        }
    }

    /// Lets the senders empty their queues until the deadline, all at once.
    async fn drain(&mut self, mut tasks: JoinSet<()>, deadline: Instant) {
        self.draining.send_replace(true);
        for sink in self.sinks.drain(..) {
            match sink {
                Sink::Otlp(otlp) => otlp.queue.close(),
                Sink::Console(console) => {
                    tasks.spawn(console.finish());
                }
                Sink::File(_) => {}
            }
        }
        let all = async { while tasks.join_next().await.is_some() {} };
        // Past the deadline the tasks are aborted; what they leave is counted as queued.
        timeout_at(deadline, all).await.unwrap_or_default();
    }
}

/// Runs an export that never waits. Its panic is an error like any other.
pub(super) fn poll_once<F>(export: impl FnOnce() -> F) -> Result<(), String>
where
    F: Future<Output = opentelemetry_sdk::error::OTelSdkResult>,
{
    caught(
        || match pin!(export()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result.map_err(|error| error.to_string()),
            Poll::Pending => Err("the exporter waits for something".to_owned()),
        },
    )
    .and_then(|result| result)
}

/// A panic in a destination's code costs the batch, not the thread.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // What a panic may leave half-done is the exporter's own state, which nothing of ours reads.
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| "the exporter panicked".to_owned())
}
