//! Telemetry out: finished spans to every destination, bounded in memory and in time.
//!
//! ```text
//! record ──► run buffer ──┬─► traces.jsonl
//!   (export thread)       ├─► console thread ──► stderr
//!                         └─► dialect ─► OTLP bytes ─► queue ─► sender task ──► HTTP, gRPC  (once a destination)
//! ```
//!
//! The OpenTelemetry crates give the data model and the encoding. Their batch processor and their retries lose spans
//! and hang at the end (a healthy but slow backend costs it three quarters of a burst), so queueing, retries and
//! shutdown are here. Nothing is global: no provider, no propagator, no environment is read but what comes in as data.
//!
//! What holds always: [`Telemetry::record`] never blocks; a destination that fails, hangs or panics costs the others
//! nothing; a retry sends the same bytes; each span is exported, dropped with a reason, or queued, and the counts say
//! which; the answer to [`Telemetry::shutdown`] comes in time even if the export thread is stuck.

pub mod canary;
mod console;
pub mod context;
mod counts;
pub mod destination;
pub mod dialect;
mod encode;
mod export;
mod file;
mod held;
mod home;
mod host;
mod limits;
mod logs;
mod messages;
mod metrics;
mod prometheus;
mod queue;
pub mod redaction;
mod request;
pub mod resend;
pub mod resource;
mod retry;
mod sampling;
pub mod secrets;
mod sender;
mod span_data;
mod spool;
mod transport;
mod variables;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use opentelemetry::trace::{TraceFlags, TraceState};
use opentelemetry::{Key, KeyValue, Value};
use opentelemetry_sdk::Resource;
use sandtrace_client::wire;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::console::Console;
use self::counts::{Ledger, SignalCounts};
use self::encode::Encoder;
use self::export::{Export, Leftovers, Message, OtlpSink, RouteSink, Sink};
use self::file::JournalFiles;
use self::held::Held;
use self::host::Host;
use self::metrics::Metrics;
use self::prometheus::Page;
use self::queue::Depot;
use self::resend::{ResendReport, Target};
use self::sampling::Gate;
use self::sender::{Draining, Link, Sender};
use self::span_data::{JSON_FACTOR, TraceFacts, weight};
use self::transport::Access;

pub use self::destination::{
    Batching, Compression, Destination, Dialect, OtlpDestination, Protocol, Route, Semconv, Signal,
    Signals, Temporality, TlsFiles,
};
pub use self::file::{JournalFile, JournalPaths};
pub use self::home::sandbox_id;
pub use self::host::HostRequest;
pub use self::limits::Limits;
pub use self::logs::LogEntry;
pub use self::messages::MessagePlace;
pub use self::redaction::Redactor;
pub use self::sampling::Sampling;
pub use self::transport::{Proxies, TlsFileError};
pub use self::variables::{
    DestinationError, Propagators, SamplingDecision, batching, limits, metric_interval,
    propagators, sampling,
};
use crate::session::span::FinishedSpan;

/// The most bytes of spans between [`Telemetry::record`] and the destinations' queues.
const BUFFER_BYTES: usize = 8 << 20;

/// How often metrics are told unless OTEL_METRIC_EXPORT_INTERVAL says otherwise. Not the specification's minute: a
/// sandbox that vanishes should take seconds with it.
pub const METRIC_INTERVAL: Duration = Duration::from_secs(10);

/// An interval cannot be nothing.
const SHORTEST_METRIC_INTERVAL: Duration = Duration::from_millis(100);

/// What a sample of the sandbox takes of the run buffer.
const SAMPLE_BYTES: u32 = 512;

/// The most encoded bytes of a request, before compression.
const BATCH_BYTES: usize = 2 << 20;

/// Likewise of log records.
const LOG_BYTES: usize = 1 << 20;

/// The longest that a shutdown may be asked to take.
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(3_600);

/// How much later than asked the answer to a shutdown may come.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(50);

/// Everything telemetry needs to know.
#[derive(Debug)]
pub struct TelemetryConfig {
    /// Where telemetry goes, besides the journal.
    pub destinations: Vec<Destination>,
    /// Who sends them, from [`resource::attributes`].
    pub resource: Vec<(Key, Value)>,
    /// The journal's own copies.
    pub journal: JournalPaths,
    /// The trace's W3C flag. `false` keeps spans from every destination but the journal.
    pub sampled: bool,
    /// Which runs' spans are exported.
    pub sampling: Sampling,
    /// TRACESTATE as given; every span carries it.
    pub trace_state: String,
    /// How much of a span is kept.
    pub limits: Limits,
    /// How spans are gathered into requests.
    pub batching: Batching,
    /// How often metrics are told.
    pub metric_interval: Duration,
    /// Where whole messages go, if they are captured.
    pub messages: MessagePlace,
    /// What never leaves the sandbox.
    pub redactor: Arc<Redactor>,
    /// The way out of a network that only a proxy leaves.
    pub proxies: Proxies,
    /// Where requests wait on disk; `None` for memory alone, 8 MiB of it.
    pub spool: Option<SpoolPlace>,
}

/// Where requests wait on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolPlace {
    /// The run's own directory, in which its spool is made.
    pub run: PathBuf,
    /// The directory with all runs' directories; what they have left in their spools is sent too. `None` leaves it.
    pub root: Option<PathBuf>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            destinations: Vec::new(),
            resource: Vec::new(),
            journal: JournalPaths::default(),
            sampled: true,
            sampling: Sampling::default(),
            trace_state: String::new(),
            limits: Limits::default(),
            batching: Batching::default(),
            metric_interval: METRIC_INTERVAL,
            messages: MessagePlace::default(),
            redactor: Arc::default(),
            proxies: Proxies::default(),
            spool: None,
        }
    }
}

/// Why telemetry cannot start. All of these are the user's to mend, before the agent is started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A file with certificates or a key cannot be used.
    #[error(transparent)]
    Certificate {
        /// Which, and why.
        #[from]
        source: TlsFileError,
    },
    /// The crate that encodes refuses the configuration.
    #[error("failed to set up the encoding for the destination {name}")]
    Encoder {
        /// The destination's name.
        name: &'static str,
        /// Why.
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
}

/// The handle to the export thread. Dropping it without [`Self::shutdown`] gives up what is not sent yet.
#[derive(Debug)]
pub struct Telemetry {
    /// Bounded by `room`: each span carries its permit.
    messages: mpsc::UnboundedSender<Message>,
    room: Arc<Semaphore>,
    /// Apart from the spans' room: a flood on stderr must not cost spans.
    log_room: Arc<Semaphore>,
    ledger: Arc<Ledger>,
    troubles: Vec<String>,
    host: Option<mpsc::UnboundedReceiver<HostRequest>>,
}

impl Telemetry {
    /// Starts the export thread. Where no thread is to be had, the run goes on without export: see [`Self::troubles`].
    pub fn start(config: TelemetryConfig) -> Result<Self, TelemetryError> {
        let mut resource = config.resource;
        config.redactor.attributes(&mut resource);
        let resource = resource_of(resource);
        let (draining, watch_draining) = watch::channel(None);
        let mut ledger = Ledger::default();
        let mut troubles = Vec::new();
        let mut host = None;
        let mut pages = Vec::new();
        let mut sinks = Vec::new();
        let mut senders = Vec::new();
        let mut batch_weight = BATCH_BYTES;
        let (run, root) = match config.spool {
            Some(SpoolPlace { run, root }) => (Some(run), root),
            None => (None, None),
        };
        let depot = Arc::new(Depot::new(run, sandbox_id));
        let paths = config.journal;
        if paths.traces.is_some() || paths.metrics.is_some() || paths.logs.is_some() {
            let counts = ledger.add("file", paths.traces.is_some());
            sinks.push(Sink::File(JournalFiles::new(paths, &resource, &counts)));
        }
        for destination in config.destinations {
            match destination {
                Destination::File => {}
                Destination::Host(signals) => {
                    let counts = ledger.add("host", signals.traces);
                    let (sink, receiver) = Host::new(&resource, counts, signals);
                    sinks.push(Sink::Host(sink));
                    host = Some(receiver);
                }
                Destination::Prometheus(address) => match Page::listen(address) {
                    Ok(page) => pages.push(page),
                    Err(error) => troubles.push(no_page(address, &error)),
                },
                Destination::Console(signals) => {
                    let counts = ledger.add("console", signals.traces);
                    match Console::start(&resource, counts, signals) {
                        Ok(console) => sinks.push(Sink::Console(console)),
                        Err(error) => troubles.push(no_console(&error)),
                    }
                }
                Destination::Otlp(mut destination) => {
                    config.redactor.attributes(&mut destination.resource);
                    let mut routes = destination.routes.iter();
                    let takes_spans = routes.any(|route| route.signal == Signal::Traces);
                    let counts = ledger.add(destination.name, takes_spans);
                    let is_json = |route: &Route| route.protocol == Protocol::HttpJson;
                    if destination.routes.iter().any(is_json) {
                        batch_weight = BATCH_BYTES / JSON_FACTOR;
                    }
                    // Even if nothing will be sent: a mistake in the configuration is told in any case.
                    let (sink, routes) = otlp(
                        *destination,
                        &resource,
                        &counts,
                        &watch_draining,
                        &depot,
                        &config.proxies,
                    )?;
                    sinks.push(Sink::Otlp(Box::new(sink)));
                    senders.extend(routes);
                }
            }
        }
        let is_read_back = |sink: &Sink| {
            matches!(sink, Sink::Host(_) | Sink::Console(_)) && config.sampling.rate < 1.0
        };
        if sinks.iter().any(is_read_back) {
            // A line of the journal is read back whole.
            batch_weight = BATCH_BYTES / JSON_FACTOR;
        }
        let (messages, receiver) = mpsc::unbounded_channel();
        let ledger = Arc::new(ledger);
        let mut temporalities: Vec<_> = sinks.iter().filter_map(Sink::temporality).collect();
        temporalities.extend(pages.iter().map(|_| Temporality::Cumulative));
        let export = Export {
            messages: receiver,
            batching: config.batching,
            batch_weight,
            metric_interval: config.metric_interval.max(SHORTEST_METRIC_INTERVAL),
            unsampled: !config.sampled,
            held: Held::new(config.sampled),
            messages_in: config.messages,
            gate: Gate::new(config.sampled, config.sampling),
            depot,
            leftovers: root.filter(|_| !senders.is_empty()).map(|root| Leftovers {
                root,
                targets: senders.iter().map(Sender::target).collect(),
            }),
            redactor: config.redactor,
            metrics: Metrics::new(&resource, &temporalities, Arc::clone(&ledger)),
            pages,
            trace: TraceFacts {
                flags: TraceFlags::default().with_sampled(config.sampled),
                state: config.trace_state.parse::<TraceState>().unwrap_or_default(),
                limits: config.limits,
            },
            sinks,
            senders,
            tasks: JoinSet::new(),
            draining,
        };
        let panicked = Arc::clone(&ledger);
        // In every bad case the handle finds the channel closed, and counts what it cannot hand over as dropped.
        let work = move || {
            // Built here, for a runtime may not be dropped where the caller's own runs, should there be no thread.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build();
            match runtime {
                Ok(runtime) => {
                    let run = || runtime.block_on(export.run());
                    if catch_unwind(AssertUnwindSafe(run)).is_err() {
                        panicked.error("the export thread panicked");
                    }
                }
                Err(error) => panicked.error(&format!("no export: {error}")),
            }
        };
        let thread = thread::Builder::new().name("export".to_owned());
        if let Err(error) = thread.spawn(work) {
            let message = no_thread(&error);
            ledger.error(&message);
            troubles.push(message);
        }
        Ok(Self {
            messages,
            room: Arc::new(Semaphore::new(BUFFER_BYTES)),
            log_room: Arc::new(Semaphore::new(LOG_BYTES)),
            ledger,
            troubles,
            host,
        })
    }

    /// What is not exported, and why, as far as it was known at the start: at most one for each destination, and one for
    /// all of them.
    #[must_use]
    pub fn troubles(&self) -> &[String] {
        &self.troubles
    }

    /// What the host is to export, if it is a destination. To be asked once.
    pub fn host_requests(&mut self) -> Option<mpsc::UnboundedReceiver<HostRequest>> {
        self.host.take()
    }

    /// Takes a finished span. Never blocks: without room the span is dropped and counted.
    pub fn record(&self, span: FinishedSpan) {
        self.ledger.finished();
        let weight = u32::try_from(weight(&span)).unwrap_or(u32::MAX);
        let sent = Arc::clone(&self.room)
            .try_acquire_many_owned(weight)
            .is_ok_and(|permit| {
                self.messages
                    .send(Message::Span(Box::new(span), permit))
                    .is_ok()
            });
        if !sent {
            self.ledger.dropped();
        }
    }

    /// Takes a log record. Never blocks: without room it is dropped and counted.
    pub fn log(&self, entry: LogEntry) {
        let weight = u32::try_from(entry.weight()).unwrap_or(u32::MAX);
        let sent = Arc::clone(&self.log_room)
            .try_acquire_many_owned(weight)
            .is_ok_and(|permit| {
                self.messages
                    .send(Message::Log(Box::new(entry), permit))
                    .is_ok()
            });
        if !sent {
            self.logs_dropped(1);
        }
    }

    /// Counts log records that nobody made.
    pub fn logs_dropped(&self, records: u64) {
        self.ledger.logs_dropped(records);
    }

    /// Measures what the sandbox and the agent use. Never blocks: without room the sample is left out, for a newer one
    /// will do.
    pub fn resources(&self, resources: &wire::Resources) {
        if let Ok(permit) = Arc::clone(&self.room).try_acquire_many_owned(SAMPLE_BYTES) {
            // If the thread is gone, nothing is measured any more.
            self.messages
                .send(Message::Resources(Box::new(resources.clone()), permit))
                .unwrap_or_default();
        }
    }

    /// The sandbox was copied, and this is the copy: what was recorded until now is the original's to send, and what is
    /// recorded from here on comes from another resource.
    pub fn identify(&self, resource: Vec<(Key, Value)>) {
        // If the thread is gone, nothing is exported any more.
        self.messages
            .send(Message::Identify(resource))
            .unwrap_or_default();
    }

    /// Exports what is finished now, without waiting for a batch to fill.
    pub fn flush_soon(&self) {
        // If the thread is gone, there is nothing to flush.
        self.messages.send(Message::Flush).unwrap_or_default();
    }

    /// What became of the spans so far.
    #[must_use]
    pub fn counts(&self) -> wire::Telemetry {
        self.ledger.report()
    }

    /// Reads the counts, even after [`Self::shutdown`].
    #[must_use]
    pub fn reader(&self) -> CountsReader {
        CountsReader(Arc::clone(&self.ledger))
    }

    /// Exports what is left, for at most `timeout`, and answers with the final counts, at most 50 ms later.
    ///
    /// The answer is given by a thread that does nothing else, so it comes even if the export thread is stuck in a
    /// write to a full disk. That thread then ends with the process.
    #[must_use]
    pub fn shutdown(self, timeout: Duration) -> oneshot::Receiver<wire::Telemetry> {
        let (done, finished) = std::sync::mpsc::channel();
        let timeout = timeout.min(LONGEST_SHUTDOWN);
        let deadline = Instant::now() + timeout;
        let (answer, answered) = oneshot::channel();
        let ledger = Arc::clone(&self.ledger);
        // Any outcome will do: it is done, it is late, or the export thread is gone.
        let wait = move |finished: std::sync::mpsc::Receiver<()>| {
            let finished = finished.recv_timeout(timeout + SHUTDOWN_GRACE);
            finished.unwrap_or_default();
            ledger.report()
        };
        let apart = wait.clone();
        let thread = thread::Builder::new().name("shutdown".to_owned());
        // Nobody may be listening any more.
        let spawned = thread.spawn(move || answer.send(apart(finished)).unwrap_or_default());
        let shut_down = |done| {
            self.messages
                .send(Message::Shutdown { deadline, done })
                .unwrap_or_default();
        };
        if spawned.is_ok() {
            shut_down(done);
            return answered;
        }
        // Without a thread the caller waits here: else the process would end before the journal has its spans.
        let (done, finished) = std::sync::mpsc::channel();
        shut_down(done);
        let (answer, answered) = oneshot::channel();
        answer.send(wait(finished)).unwrap_or_default();
        answered
    }
}

/// See [`Telemetry::reader`].
#[derive(Debug)]
pub struct CountsReader(Arc<Ledger>);

impl CountsReader {
    /// What became of everything so far.
    #[must_use]
    pub fn counts(&self) -> wire::Telemetry {
        self.0.report()
    }
}

fn resource_of(attributes: Vec<(Key, Value)>) -> Resource {
    let attributes = attributes.into_iter();
    Resource::builder_empty()
        .with_attributes(attributes.map(|(key, value)| KeyValue::new(key, value)))
        .build()
}

/// A resource for one destination, which has attributes of its own.
fn with_extra(resource: &Resource, extra: &[(Key, Value)]) -> Resource {
    let common = resource.iter();
    let own = extra.iter().map(|(key, value)| (key, value));
    let all = common.chain(own);
    Resource::builder_empty()
        .with_attributes(all.map(|(key, value)| KeyValue::new(key.clone(), value.clone())))
        .build()
}

fn no_page(address: SocketAddr, error: &io::Error) -> String {
    format!(
        "metrics cannot be scraped at {address}: {error}; set PROMETHEUS_EXPORTER_PORT to a port that is free"
    )
}

fn no_console(error: &io::Error) -> String {
    format!(
        "the console shows no telemetry: there is no thread to be had ({error}), raise the limit on processes"
    )
}

fn no_thread(error: &io::Error) -> String {
    format!(
        "this run has no telemetry: there is no thread to be had ({error}), raise the limit on processes"
    )
}

/// The near half of an OTLP destination, and a far half for each of its routes, with queues between them.
fn otlp(
    destination: OtlpDestination,
    resource: &Resource,
    counts: &SignalCounts,
    draining: &Draining,
    depot: &Arc<Depot>,
    proxies: &Proxies,
) -> Result<(OtlpSink, Vec<Sender>), TelemetryError> {
    let extra = destination.extra_resource(resource);
    let OtlpDestination {
        name,
        dialect,
        semconv,
        resource: _,
        temporality,
        routes,
    } = destination;
    let whose = with_extra(resource, &extra);
    let mut sink = OtlpSink {
        extra,
        dialect,
        semconv,
        temporality,
        traces: None,
        metrics: None,
        logs: None,
    };
    let mut senders = Vec::new();
    let failed = |source| TelemetryError::Encoder { name, source };
    for route in routes {
        let counts = match route.signal {
            Signal::Traces => &counts.spans,
            Signal::Metrics => &counts.metrics,
            Signal::Logs => &counts.logs,
        };
        counts.expect();
        let queue = depot.queue(name, &route, counts);
        match route.signal {
            Signal::Traces => {
                sink.traces = Some(RouteSink {
                    encoder: Encoder::spans(&route, &whose).map_err(failed)?,
                    queue: queue.clone(),
                    counts: Arc::clone(counts),
                });
            }
            Signal::Metrics => {
                sink.metrics = Some(RouteSink {
                    encoder: Encoder::metrics(&route, &whose),
                    queue: queue.clone(),
                    counts: Arc::clone(counts),
                });
            }
            Signal::Logs => {
                sink.logs = Some(RouteSink {
                    encoder: Encoder::logs(&route, &whose).map_err(failed)?,
                    queue: queue.clone(),
                    counts: Arc::clone(counts),
                });
            }
        }
        senders.push(Sender {
            link: Link::new(route.clone(), Access::new(&route, proxies)?),
            queue,
            counts: Arc::clone(counts),
            draining: draining.clone(),
        });
    }
    Ok((sink, senders))
}

/// Sends what the runs below `root` have left, for `doctor`: until everything for these destinations is through, or the
/// first request for one fails. Needs a tokio runtime with I/O and time.
///
/// # Errors
///
/// A destination that cannot be set up.
pub async fn resend_left(
    root: &Path,
    destinations: &[Destination],
    proxies: &Proxies,
) -> Result<ResendReport, TelemetryError> {
    let mut targets = Vec::new();
    for destination in destinations {
        let Destination::Otlp(destination) = destination else {
            continue;
        };
        for route in &destination.routes {
            targets.push(Target {
                address: spool::Address::new(destination.name, route),
                link: Link::new(route.clone(), Access::new(route, proxies)?),
                own: None,
                counts: Arc::default(),
            });
        }
    }
    let (_running, draining) = watch::channel(None);
    Ok(resend::resend(root.to_owned(), targets, draining, sandbox_id).await)
}
