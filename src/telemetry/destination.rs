//! Where telemetry goes, as data.
//!
//! A destination is only described here; [`super::Telemetry::start`] brings it to life. The values of its headers are
//! credentials: they are marked sensitive, so that no `Debug` output and no error repeats them.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, Uri};
use opentelemetry::{Key, Value};
use opentelemetry_sdk::Resource;
pub use opentelemetry_sdk::metrics::Temporality;

pub use super::dialect::{Dialect, Semconv};
pub use super::variables::{DestinationError, Unsupported, Wanted, from_env};

/// One place that telemetry is sent to.
#[derive(Debug, Clone, PartialEq)]
pub enum Destination {
    /// A backend that speaks OTLP.
    Otlp(Box<OtlpDestination>),
    /// Text for people on stderr, by opentelemetry-stdout: it prints to fd 1, which the program points at stderr.
    Console(Signals),
    /// The journal's `traces.jsonl`, `metrics.jsonl` and `logs.jsonl`. Naming it, for whichever signal, changes nothing:
    /// all of them are written whenever there is a journal.
    File,
    /// A page of metrics on this address, for a Prometheus that scrapes.
    Prometheus(SocketAddr),
    /// OTLP requests as lines of the echo, for a sandbox without a way out: the host exports them.
    Host(Signals),
}

/// One kind of telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        })
    }
}

/// Several kinds of telemetry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signals {
    pub traces: bool,
    pub metrics: bool,
    pub logs: bool,
}

impl Signals {
    pub const ALL: Self = Self {
        traces: true,
        metrics: true,
        logs: true,
    };

    /// One alone.
    #[must_use]
    pub fn of(signal: Signal) -> Self {
        Self {
            traces: signal == Signal::Traces,
            metrics: signal == Signal::Metrics,
            logs: signal == Signal::Logs,
        }
    }

    /// Those and these.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            traces: self.traces || other.traces,
            metrics: self.metrics || other.metrics,
            logs: self.logs || other.logs,
        }
    }

    /// Whether one of them is this.
    #[must_use]
    pub fn has(self, signal: Signal) -> bool {
        match signal {
            Signal::Traces => self.traces,
            Signal::Metrics => self.metrics,
            Signal::Logs => self.logs,
        }
    }
}

/// A backend that speaks OTLP: what it wants to read, and the way there for each signal that it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpDestination {
    /// The name in counts and messages; each destination of a run has another.
    pub name: &'static str,
    /// What this backend wants to read.
    pub dialect: Dialect,
    /// Which vintage of the GenAI conventions it is told in.
    pub semconv: Semconv,
    /// Resource attributes for this backend alone.
    pub resource: Vec<(Key, Value)>,
    /// Whether counters count from the start of the run or from the last request.
    pub temporality: Temporality,
    /// At most one for each signal. Each has its queue and its retry clock.
    pub routes: Vec<Route>,
}

impl OtlpDestination {
    /// What this destination's resource has beyond the `common` one.
    pub(super) fn extra_resource(&self, common: &Resource) -> Vec<(Key, Value)> {
        // What the destination says itself comes last, and so stays.
        let mut extra = self.dialect.resource(common);
        extra.extend(self.resource.iter().cloned());
        extra
    }
}

/// The way to a backend for one signal.
#[derive(Clone, PartialEq, Eq)]
pub struct Route {
    pub signal: Signal,
    /// Where to POST, path included; for gRPC scheme and authority alone count.
    pub endpoint: Uri,
    /// Sent with each request on this route only.
    pub headers: HeaderMap,
    /// How requests are written.
    pub protocol: Protocol,
    /// Whether they are compressed.
    pub compression: Compression,
    /// The time one request may take, from name resolution to the end of the answer.
    pub timeout: Duration,
    /// PEM files for TLS.
    pub tls: TlsFiles,
}

/// PEM files that a route needs besides what is built in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate authorities to trust besides the usual ones.
    pub authorities: Option<PathBuf>,
    /// Who we are, for a backend that asks: certificate chain and private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("signal", &self.signal)
            // Without the query, where some backends take their token.
            .field("host", &self.endpoint.host())
            .field("path", &self.endpoint.path())
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("protocol", &self.protocol)
            .field("compression", &self.compression)
            .field("timeout", &self.timeout)
            .field("tls", &self.tls)
            .finish()
    }
}

/// How OTLP requests are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf, which every backend reads.
    #[default]
    HttpProtobuf,
    /// OTLP's JSON.
    HttpJson,
    /// Protobuf over gRPC.
    Grpc,
}

/// Whether OTLP requests are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// They are not, which is the specification's default.
    #[default]
    None,
    /// By gzip.
    Gzip,
}

/// How spans and log records are gathered into requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// The longest a finished span waits, OTEL_BSP_SCHEDULE_DELAY.
    pub delay: Duration,
    /// The most spans in a request, OTEL_BSP_MAX_EXPORT_BATCH_SIZE.
    pub max_spans: usize,
    /// The longest a log record waits, OTEL_BLRP_SCHEDULE_DELAY.
    pub log_delay: Duration,
    /// The most log records in a request, OTEL_BLRP_MAX_EXPORT_BATCH_SIZE.
    pub max_logs: usize,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            delay: Duration::from_secs(5),
            max_spans: 512,
            log_delay: Duration::from_secs(5),
            max_logs: 512,
        }
    }
}
