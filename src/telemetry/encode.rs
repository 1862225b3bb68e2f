//! Spans as the bytes of an OTLP request, by opentelemetry-otlp's exporter.
//!
//! The exporter's HTTP client is ours, and it does not send: it keeps the body and answers 200 at once. So the crate
//! does what it is good at, the encoding, while queueing, retries and headers are decided elsewhere. Only the body is
//! kept. The exporter merges OTEL_EXPORTER_OTLP_HEADERS into the headers of *every* exporter it builds, which would
//! hand one backend's credentials to all of them.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};

use super::destination::{Compression, OtlpDestination, Protocol};

/// Why spans could not be encoded.
#[derive(Debug, thiserror::Error)]
pub(super) enum EncodeError {
    #[error("failed to encode spans")]
    Exporter(#[from] OTelSdkError),
    #[error("the exporter made no request")]
    NoRequest,
}

/// Encodes batches for one destination.
#[derive(Debug)]
pub(super) struct Encoder {
    exporter: SpanExporter,
    captured: Captured,
}

impl Encoder {
    pub(super) fn new(
        destination: &OtlpDestination,
        resource: &Resource,
    ) -> Result<Self, opentelemetry_otlp::ExporterBuildError> {
        let captured = Captured::default();
        // Everything is said here, for whatever is not is read from the environment by the crate.
        let builder = SpanExporter::builder()
            .with_http()
            .with_http_client(captured.clone())
            .with_endpoint(destination.endpoint.to_string())
            .with_timeout(destination.timeout)
            .with_retry_policy(RetryPolicy::disabled())
            .with_protocol(match destination.protocol {
                Protocol::HttpProtobuf => opentelemetry_otlp::Protocol::HttpBinary,
                Protocol::HttpJson => opentelemetry_otlp::Protocol::HttpJson,
            });
        let builder = match destination.compression {
            Compression::Gzip => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
            // The crate has no word for "none"; a body that the environment had compressed is told by its first bytes.
            Compression::None => builder,
        };
        let mut exporter = builder.build()?;
        exporter.set_resource(resource);
        Ok(Self { exporter, captured })
    }

    /// Says from now on that the spans are somebody else's.
    pub(super) fn identify(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }

    /// The request's body. Nothing in the exporter waits, so one poll is all it takes.
    pub(super) fn encode(&self, spans: Vec<SpanData>) -> Result<Bytes, EncodeError> {
        let export = pin!(self.exporter.export(spans));
        match export.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result?,
            Poll::Pending => return Err(EncodeError::NoRequest),
        }
        self.captured.take().ok_or(EncodeError::NoRequest)
    }
}

/// Whether a body is compressed: neither protobuf's first field nor a JSON object starts like gzip.
pub(super) fn is_gzip(body: &[u8]) -> bool {
    body.starts_with(&[0x1f, 0x8b])
}

/// The client that keeps the body. Shared and locked because the trait asks for `Sync`; nothing contends.
#[derive(Debug, Clone, Default)]
struct Captured(Arc<Mutex<Option<Bytes>>>);

impl Captured {
    fn take(&self) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait]
impl HttpClient for Captured {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(request.into_body());
        Ok(Response::new(Bytes::new()))
    }
}
