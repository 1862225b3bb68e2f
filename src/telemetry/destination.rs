//! Where telemetry goes, as data.
//!
//! A destination is only described here; [`super::Telemetry::start`] brings it to life. The values of its headers are
//! credentials: they are marked sensitive, so that no `Debug` output and no error repeats them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, Uri};

pub use super::variables::{DestinationError, Unsupported, Wanted, from_env};
use crate::session::span::FinishedSpan;

/// One place that spans are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A backend that speaks OTLP over HTTP.
    Otlp(Box<OtlpDestination>),
    /// Text for people on stderr, by opentelemetry-stdout: it prints to fd 1, which the program points at stderr.
    Console,
    /// The journal's `traces.jsonl`. Naming it changes nothing: it is written whenever there is a journal.
    File,
}

/// A backend that speaks OTLP over HTTP, and all it takes to reach it.
#[derive(Clone, PartialEq, Eq)]
pub struct OtlpDestination {
    /// The name in counts and messages.
    pub name: &'static str,
    /// Where to POST, path included.
    pub endpoint: Uri,
    /// Sent with each request, to this destination only.
    pub headers: HeaderMap,
    /// How requests are written.
    pub protocol: Protocol,
    /// Whether they are compressed.
    pub compression: Compression,
    /// The time one request may take, from name resolution to the end of the answer.
    pub timeout: Duration,
    /// A PEM file with certificate authorities to trust besides the usual ones.
    pub certificate: Option<PathBuf>,
    /// What this backend wants to read.
    pub dialect: Dialect,
}

impl fmt::Debug for OtlpDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtlpDestination")
            .field("name", &self.name)
            // Without the query, where some backends take their token.
            .field("host", &self.endpoint.host())
            .field("path", &self.endpoint.path())
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("protocol", &self.protocol)
            .field("compression", &self.compression)
            .field("timeout", &self.timeout)
            .field("certificate", &self.certificate)
            .field("dialect", &self.dialect)
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

/// What a backend wants to read beyond the base conventions, or instead of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// The spans as they are.
    #[default]
    Otlp,
}

impl Dialect {
    /// The translation of one span.
    #[must_use]
    pub fn span(self) -> fn(FinishedSpan) -> FinishedSpan {
        match self {
            Self::Otlp => |span| span,
        }
    }
}

/// How spans are gathered into requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// The longest a finished span waits, OTEL_BSP_SCHEDULE_DELAY.
    pub delay: Duration,
    /// The most spans in a request, OTEL_BSP_MAX_EXPORT_BATCH_SIZE.
    pub max_spans: usize,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            delay: Duration::from_secs(5),
            max_spans: 512,
        }
    }
}
