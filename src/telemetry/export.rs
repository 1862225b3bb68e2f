//! The export thread: the run buffer, and from there to every destination.
//!
//! One thread with a runtime of its own, so that neither a slow encoding nor a stuck backend ever takes time from the
//! supervisor's loop. Spans wait here for up to [`Batching::delay`] and go out in batches bounded by count and bytes.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use opentelemetry::{Key, Value};
use opentelemetry_otlp::{LogExporter, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use sandtrace_client::wire;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout_at};

use super::console::Console;
use super::counts::Counts;
use super::destination::{Batching, Dialect, Semconv, Signal};
use super::encode::{EncodeError, Encoder, Whose};
use super::file::{JournalFiles, Moment};
use super::held::{Held, NOT_THERE, ReadBack};
use super::home::{COPIED, sandbox_id};
use super::host::Host;
use super::logs::{LogEntry, Records};
use super::messages::MessagePlace;
use super::metrics::{Metrics, points};
use super::prometheus::{Ask, Page, page};
use super::queue::{Depot, Door, Queue};
use super::redaction::Redactor;
use super::resend::{ResendReport, Target, resend};
use super::sampling::{Fate, Gate, Judgement};
use super::sender::Sender;
use super::span_data::{TraceFacts, span_data, weight};
use super::{resource_of, with_extra};
use crate::session::span::FinishedSpan;

/// How long the end of a run waits for the answer to a request of an earlier run.
const LAST_WORD: Duration = Duration::from_millis(250);

/// What the handle tells the export thread.
#[derive(Debug)]
pub(super) enum Message {
    /// A span, and the room it takes until every destination has its own copy.
    Span(Box<FinishedSpan>, OwnedSemaphorePermit),
    /// Likewise a log record.
    Log(Box<LogEntry>, OwnedSemaphorePermit),
    /// Likewise what the sandbox and the agent use.
    Resources(Box<wire::Resources>, OwnedSemaphorePermit),
    /// Do not wait for the batch to fill.
    Flush,
    /// From here on spans come from somebody else.
    Identify(Vec<(Key, Value)>),
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
    File(JournalFiles),
    Host(Host),
}

impl Sink {
    /// How this sink wants its metrics, if it wants any.
    pub(super) fn temporality(&self) -> Option<Temporality> {
        match self {
            // A file is read from its start: what counts from there says it all.
            Self::File(files) => files.takes_metrics().then_some(Temporality::Cumulative),
            Self::Host(host) => host.takes().metrics.then_some(Temporality::Cumulative),
            Self::Otlp(otlp) => otlp.metrics.as_ref().map(|_| otlp.temporality),
            Self::Console(console) => {
                let takes = console.takes().metrics;
                takes.then_some(Temporality::Cumulative)
            }
        }
    }

    /// Those of a destination that takes spans and has no queue for them.
    fn spans_without_queue(&self) -> Option<&Counts> {
        match self {
            Self::Host(host) => host.takes().traces.then(|| host.spans_counted()),
            Self::Console(console) => console.takes().traces.then(|| console.spans_counted()),
            Self::File(_) | Self::Otlp(_) => None,
        }
    }

    /// Sends what waited for the end of the run.
    fn send_late(&self, copy: ReadBack) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match self {
            Self::Host(host) => Box::pin(host.send_late(copy)),
            Self::Console(console) => Box::pin(console.print_late(copy)),
            Self::File(_) | Self::Otlp(_) => Box::pin(std::future::ready(())),
        }
    }
}

/// The near half of an OTLP destination; the far half is a [`Sender`] for each route.
#[derive(Debug)]
pub(super) struct OtlpSink {
    /// What this destination's resource has beyond the common one.
    pub(super) extra: Vec<(Key, Value)>,
    pub(super) dialect: Dialect,
    pub(super) semconv: Semconv,
    pub(super) temporality: Temporality,
    pub(super) traces: Option<RouteSink<SpanExporter>>,
    pub(super) metrics: Option<RouteSink<Whose>>,
    pub(super) logs: Option<RouteSink<LogExporter>>,
}

/// Where one signal's requests are made and queued.
#[derive(Debug)]
pub(super) struct RouteSink<E> {
    pub(super) encoder: Encoder<E>,
    pub(super) queue: Queue,
    pub(super) counts: Arc<Counts>,
}

impl<E> RouteSink<E> {
    fn send(
        &self,
        items: u64,
        encode: impl FnOnce(&Encoder<E>) -> Result<bytes::Bytes, EncodeError>,
    ) {
        self.counts.taken(items);
        match self.queue.door() {
            Door::Open | Door::Held => {}
            Door::Off => return self.counts.dropped_too(items),
            Door::NotSampled => return self.counts.not_sampled(items),
            Door::Copied => return self.counts.dropped(items, COPIED),
        }
        let encoded = caught(|| encode(&self.encoder).map_err(|error| error.to_string()));
        match encoded.and_then(|encoded| encoded) {
            Ok(body) => self.queue.push(body, items),
            Err(error) => self.counts.dropped(items, &error),
        }
    }
}

impl OtlpSink {
    fn spans(&self, spans: Vec<FinishedSpan>, trace: &TraceFacts) {
        let Some(route) = &self.traces else { return };
        let (conventions, dialect) = (self.semconv.span(), self.dialect.span());
        let translate = |span| dialect(conventions(span));
        route.send(spans.len() as u64, |encoder| {
            let spans = spans
                .into_iter()
                .map(|span| span_data(translate(span), trace));
            encoder.encode(spans.collect())
        });
    }

    fn logs(&self, records: &Records) {
        if let Some(route) = &self.logs {
            route.send(records.len(), |encoder| encoder.encode(&records.pairs()));
        }
    }

    fn metrics(&self, metrics: &ResourceMetrics) {
        if let Some(route) = &self.metrics {
            route.send(points(metrics), |encoder| encoder.encode(metrics));
        }
    }

    fn identify(&mut self, resource: &Resource) {
        let resource = with_extra(resource, &self.extra);
        if let Some(route) = &mut self.traces {
            route.encoder.identify(&resource);
        }
        if let Some(route) = &mut self.logs {
            route.encoder.identify(&resource);
        }
        if let Some(route) = &mut self.metrics {
            route.encoder.identify(&resource);
        }
    }

    /// The trace id says that the spans wait for the end of the run.
    fn hold(&self) {
        if let Some(route) = &self.traces {
            route.queue.hold();
        }
    }

    fn judge(&self, judgement: Judgement) {
        match (&self.traces, judgement) {
            (Some(route), Judgement::Keep) => route.queue.open(),
            (Some(route), Judgement::Forget) => route.queue.not_sampled(),
            (None, _) => {}
        }
    }

    fn not_sampled(&self, spans: u64) {
        if let Some(route) = &self.traces {
            route.counts.not_sampled(spans);
        }
    }

    fn close(&self) {
        let queues = [
            self.traces.as_ref().map(|route| &route.queue),
            self.metrics.as_ref().map(|route| &route.queue),
            self.logs.as_ref().map(|route| &route.queue),
        ];
        for queue in queues.into_iter().flatten() {
            queue.close();
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
    pub(super) metric_interval: Duration,
    pub(super) trace: TraceFacts,
    /// Spans go nowhere but into the journal.
    pub(super) unsampled: bool,
    /// For the destinations that have no queue.
    pub(super) held: Held,
    pub(super) messages_in: MessagePlace,
    pub(super) gate: Gate,
    pub(super) depot: Arc<Depot>,
    pub(super) leftovers: Option<Leftovers>,
    pub(super) redactor: Arc<Redactor>,
    pub(super) metrics: Metrics,
    /// Where metrics are scraped.
    pub(super) pages: Vec<Page>,
    pub(super) sinks: Vec<Sink>,
    pub(super) senders: Vec<Sender>,
    /// What sends: all of it must be done by the deadline.
    pub(super) tasks: JoinSet<()>,
    pub(super) draining: watch::Sender<Option<Instant>>,
}

/// What earlier runs may have left, and for whom.
#[derive(Debug)]
pub(super) struct Leftovers {
    pub(super) root: PathBuf,
    pub(super) targets: Vec<Target>,
}

/// What gathers until it is a request's worth.
#[derive(Debug)]
struct Batch<T> {
    items: Vec<T>,
    permits: Vec<OwnedSemaphorePermit>,
    weight: usize,
    due: Option<Instant>,
}

// By hand, for the derived one asks the same of `T`.
impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            permits: Vec::new(),
            weight: 0,
            due: None,
        }
    }
}

impl<T> Batch<T> {
    fn push(
        &mut self,
        item: T,
        weight: usize,
        permit: Option<OwnedSemaphorePermit>,
        delay: Duration,
    ) {
        self.weight += weight;
        self.due.get_or_insert_with(|| Instant::now() + delay);
        self.items.push(item);
        self.permits.extend(permit);
    }
}

impl Export {
    /// Runs until shutdown, or until the handle is gone.
    pub(super) async fn run(mut self) {
        self.depot.open();
        let resending = self.leftovers.take().map(|leftovers| {
            let draining = self.draining.subscribe();
            tokio::spawn(resend(
                leftovers.root,
                leftovers.targets,
                draining,
                sandbox_id,
            ))
        });
        for sender in self.senders.drain(..) {
            // A sender that panics ends alone; what it leaves is counted as queued.
            self.tasks.spawn(sender.run());
        }
        let (asks, mut asked) = mpsc::channel(1);
        for page in self.pages.drain(..) {
            tokio::spawn(page.serve(asks.clone()));
        }
        let mut spans = Batch::default();
        let mut logs = Batch::default();
        let mut measured = interval_at(Instant::now() + self.metric_interval, self.metric_interval);
        measured.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (deadline, done) = loop {
            let due = [spans.due, logs.due].into_iter().flatten().min();
            let is_due = |of: Option<Instant>| of.is_some_and(|due| due <= Instant::now());
            let message = tokio::select! {
                message = self.messages.recv() => message,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if is_due(spans.due) {
                        self.emit_spans(&mut spans);
                    }
                    if is_due(logs.due) {
                        self.emit_logs(&mut logs);
                    }
                    continue;
                }
                _ = measured.tick() => {
                    self.emit_metrics(Moment::Interval);
                    continue;
                }
                Some(ask) = asked.recv() => {
                    self.scraped(ask);
                    continue;
                }
            };
            match message {
                Some(Message::Span(span, permit)) => {
                    let details = self.admit_span(&mut spans, *span, permit);
                    if let Some(entry) = details {
                        self.admit_log(&mut logs, entry, None);
                    }
                }
                Some(Message::Log(mut log, permit)) => {
                    self.redactor.log(&mut log);
                    log.clip();
                    self.admit_log(&mut logs, *log, Some(permit));
                }
                Some(Message::Resources(resources, _permit)) => self.metrics.resources(&resources),
                Some(Message::Flush) => {
                    self.emit_spans(&mut spans);
                    self.emit_logs(&mut logs);
                    self.emit_metrics(Moment::Last);
                }
                Some(Message::Identify(mut resource)) => {
                    self.depot.copied();
                    // The original's, too: only the journal's copy is ours.
                    self.emit_spans(&mut spans);
                    self.emit_logs(&mut logs);
                    self.emit_metrics(Moment::Last);
                    self.forget_held();
                    self.depot.settle();
                    self.redactor.attributes(&mut resource);
                    self.identify(&resource_of(resource));
                }
                Some(Message::Shutdown { deadline, done }) => break (deadline, done),
                None => return,
            }
        };
        self.emit_spans(&mut spans);
        self.emit_logs(&mut logs);
        self.emit_metrics(Moment::Last);
        if let Some(judgement) = self.gate.judge_end() {
            self.judge(judgement);
        }
        self.drain(resending, deadline, asked).await;
        self.depot.finish();
        // The other end may have answered without us already.
        done.send(()).unwrap_or_default();
    }

    fn admit_span(
        &mut self,
        batch: &mut Batch<FinishedSpan>,
        mut span: FinishedSpan,
        permit: OwnedSemaphorePermit,
    ) -> Option<LogEntry> {
        self.redactor.span(&mut span);
        let details = self.messages_in.place(&mut span);
        self.metrics.span(&span);
        if self.gate.fate(span.trace_id) == Fate::Hold {
            self.hold();
        }
        let judgement = self.gate.judge(&span);
        let weight = weight(&span);
        if batch.weight + weight > self.batch_weight {
            self.emit_spans(batch);
        }
        batch.push(span, weight, Some(permit), self.batching.delay);
        if batch.items.len() >= self.batching.max_spans {
            self.emit_spans(batch);
        }
        if let Some(judgement) = judgement {
            self.emit_spans(batch);
            self.judge(judgement);
        }
        details
    }

    fn otlp(&self) -> impl Iterator<Item = &OtlpSink> {
        self.sinks.iter().filter_map(|sink| match sink {
            Sink::Otlp(otlp) => Some(otlp.as_ref()),
            _ => None,
        })
    }

    /// Keeps spans back until the end.
    fn hold(&mut self) {
        for otlp in self.otlp() {
            otlp.hold();
        }
        let has_file = self.copies().is_some_and(JournalFiles::takes_traces);
        self.held.hold(has_file);
    }

    /// What waits for the end of the run is the original's.
    fn forget_held(&mut self) {
        let length = self.copies().map(JournalFiles::traces_length);
        let waiting = self.held.forget(length.unwrap_or_default());
        for counts in self.sinks.iter().filter_map(Sink::spans_without_queue) {
            if waiting > 0 {
                counts.dropped(waiting, COPIED);
            }
        }
    }

    fn copies(&self) -> Option<&JournalFiles> {
        self.sinks.iter().find_map(|sink| match sink {
            Sink::File(files) => Some(files),
            _ => None,
        })
    }

    fn judge(&mut self, judgement: Judgement) {
        for otlp in self.otlp() {
            otlp.judge(judgement);
        }
        let waiting = self.held.judge(judgement);
        if waiting == 0 {
            return;
        }
        for sink in &self.sinks {
            let Some(counts) = sink.spans_without_queue() else {
                continue;
            };
            if judgement == Judgement::Forget {
                counts.not_sampled(waiting);
                continue;
            }
            match self
                .copies()
                .map(|files| files.read_back(self.held.begin(), waiting))
            {
                Some(Ok(copy)) => {
                    self.tasks.spawn(sink.send_late(copy));
                }
                Some(Err(error)) => counts.dropped(waiting, &format!("{NOT_THERE}: {error}")),
                None => counts.dropped(waiting, NOT_THERE),
            }
        }
    }

    fn admit_log(
        &mut self,
        batch: &mut Batch<LogEntry>,
        log: LogEntry,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let weight = log.weight();
        if batch.weight + weight > self.batch_weight {
            self.emit_logs(batch);
        }
        batch.push(log, weight, permit, self.batching.log_delay);
        if batch.items.len() >= self.batching.max_logs {
            self.emit_logs(batch);
        }
    }

    /// Hands the batch to every destination. The file comes first: it is the one that survives us.
    fn emit_spans(&mut self, batch: &mut Batch<FinishedSpan>) {
        let batch = std::mem::take(batch);
        if batch.items.is_empty() {
            return;
        }
        let data = |spans: &[FinishedSpan]| {
            let spans = spans
                .iter()
                .cloned()
                .map(|span| span_data(span, &self.trace));
            spans.collect::<Vec<_>>()
        };
        let count = batch.items.len() as u64;
        let door = self.held.take(count);
        let is_copy = self.depot.is_copy();
        for sink in &mut self.sinks {
            match (&mut *sink, door) {
                (Sink::File(files), _) => files.spans(data(&batch.items)),
                (Sink::Otlp(otlp), _) if self.unsampled => otlp.not_sampled(count),
                (Sink::Otlp(otlp), _) => otlp.spans(batch.items.clone(), &self.trace),
                (_, Door::Held) => {}
                (Sink::Host(host), Door::Open) if is_copy => host.leave(Signal::Traces, count),
                (Sink::Console(console), Door::Open) if console.takes().traces => {
                    console.print(data(&batch.items), batch.weight);
                }
                (Sink::Host(host), Door::Open) if host.takes().traces => {
                    host.spans(&batch.items, &self.trace);
                }
                (Sink::Console(_) | Sink::Host(_), Door::Open) => {}
                (Sink::Console(_) | Sink::Host(_), _) => {
                    if let Some(counts) = sink.spans_without_queue() {
                        counts.not_sampled(count);
                    }
                }
            }
        }
    }

    fn emit_logs(&mut self, batch: &mut Batch<LogEntry>) {
        let batch = std::mem::take(batch);
        if batch.items.is_empty() {
            return;
        }
        let records = Arc::new(Records::new(batch.items, self.trace.flags));
        let is_copy = self.depot.is_copy();
        for sink in &mut self.sinks {
            match sink {
                Sink::File(files) => files.logs(&records),
                Sink::Otlp(otlp) => otlp.logs(&records),
                Sink::Host(host) if is_copy => host.leave(Signal::Logs, records.len()),
                Sink::Host(host) if host.takes().logs => host.logs(&records),
                Sink::Console(console) if console.takes().logs => {
                    console.logs(&records, batch.weight);
                }
                Sink::Host(_) | Sink::Console(_) => {}
            }
        }
    }

    fn emit_metrics(&mut self, moment: Moment) {
        for temporality in [
            Temporality::Cumulative,
            Temporality::Delta,
            Temporality::LowMemory,
        ] {
            let wants = |sink: &Sink| sink.temporality() == Some(temporality);
            if !self.sinks.iter().any(wants) {
                continue;
            }
            let Some(metrics) = self.metrics.collect(temporality).map(Arc::new) else {
                continue;
            };
            let is_copy = self.depot.is_copy();
            for sink in self.sinks.iter_mut().filter(|sink| wants(sink)) {
                match sink {
                    Sink::File(files) => files.metrics(&metrics, moment),
                    Sink::Otlp(otlp) => otlp.metrics(&metrics),
                    Sink::Host(host) if is_copy => host.leave(Signal::Metrics, points(&metrics)),
                    Sink::Host(host) => host.metrics(&metrics),
                    Sink::Console(console) => console.metrics(&metrics),
                }
            }
        }
    }

    fn identify(&mut self, resource: &Resource) {
        self.metrics.identify(resource);
        for sink in &mut self.sinks {
            match sink {
                Sink::File(files) => files.identify(resource),
                Sink::Console(console) => console.identify(resource.clone()),
                Sink::Otlp(otlp) => otlp.identify(resource),
                Sink::Host(host) => host.identify(resource),
            }
        }
    }

    /// Answers a scrape.
    fn scraped(&mut self, ask: Ask) {
        let metrics = self.metrics.collect(Temporality::Cumulative);
        let page = metrics.as_ref().map(page).unwrap_or_default();
        // Whoever asked may have left.
        ask.send(page).unwrap_or_default();
    }

    /// Lets the senders empty their queues until the deadline, all at once.
    async fn drain(
        &mut self,
        resending: Option<JoinHandle<ResendReport>>,
        deadline: Instant,
        mut asked: mpsc::Receiver<Ask>,
    ) {
        self.draining.send_replace(Some(deadline));
        let mut tasks = std::mem::take(&mut self.tasks);
        for sink in self.sinks.drain(..) {
            match sink {
                Sink::Otlp(otlp) => otlp.close(),
                Sink::Console(console) => {
                    tasks.spawn(console.finish());
                }
                Sink::File(_) | Sink::Host(_) => {}
            }
        }
        let all = async {
            loop {
                tokio::select! {
                    joined = tasks.join_next() => {
                        if joined.is_none() {
                            return;
                        }
                    }
                    // The last chance for a scrape.
                    Some(ask) = asked.recv() => self.scraped(ask),
                }
            }
        };
        // Past the deadline the tasks are aborted; what they leave is counted as queued.
        timeout_at(deadline, all).await.unwrap_or_default();
        // Nothing of an earlier run is begun any more, but an answer that is on its way should find somebody: without it
        // the request would be sent again.
        if let Some(mut resending) = resending {
            let last_word = deadline.min(Instant::now() + LAST_WORD);
            if timeout_at(last_word, &mut resending).await.is_err() {
                resending.abort();
            }
        }
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
