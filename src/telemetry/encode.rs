//! Spans, logs and metrics as the bytes of an OTLP request: spans and logs by opentelemetry-otlp's exporters.
//!
//! The exporter's HTTP client is ours, and it does not send: it keeps the body and answers 200 at once. So the crate
//! does what it is good at, the encoding, while queueing, retries and headers are decided elsewhere. Only the body is
//! kept. The exporter merges OTEL_EXPORTER_OTLP_HEADERS into the headers of *every* exporter it builds, which would
//! hand one backend's credentials to all of them.

use std::io::{self, Write as _};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use flate2::write::GzEncoder;
use http::{Request, Response};
use opentelemetry::InstrumentationScope;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    LogExporter, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _, SdkLogRecord};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::resource::v1 as proto;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use prost::Message as _;
use serde::Serialize;

use super::destination::{Compression, Protocol, Route};
use super::request;

/// Why telemetry could not be encoded.
#[derive(Debug, thiserror::Error)]
pub(super) enum EncodeError {
    #[error("failed to encode telemetry")]
    Exporter(#[from] OTelSdkError),
    #[error("the exporter made no request")]
    NoRequest,
    #[error("failed to write JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("failed to compress: {0}")]
    Gzip(#[from] io::Error),
}

/// Encodes one signal's batches for one route.
#[derive(Debug)]
pub(super) struct Encoder<E> {
    exporter: E,
    captured: Captured,
    /// The exporter's own, which each signal's trait has anew.
    set_resource: fn(&mut E, &Resource),
    /// For a route that wants JSON, which the crate would indent.
    json: Option<Json>,
}

impl<E> Encoder<E> {
    /// Says from now on that the telemetry is somebody else's.
    pub(super) fn identify(&mut self, resource: &Resource) {
        if let Some(json) = &mut self.json {
            json.resource = resource.into();
        }
        (self.set_resource)(&mut self.exporter, resource);
    }
}

impl Encoder<SpanExporter> {
    pub(super) fn spans(
        route: &Route,
        resource: &Resource,
    ) -> Result<Self, opentelemetry_otlp::ExporterBuildError> {
        let captured = Captured::default();
        let builder = SpanExporter::builder().with_http();
        let mut encoder = Self {
            exporter: configured(builder, route, &captured).build()?,
            captured,
            set_resource: SpanExporter::set_resource,
            json: Json::of(route),
        };
        encoder.identify(resource);
        Ok(encoder)
    }

    /// The request's body.
    pub(super) fn encode(&self, spans: Vec<SpanData>) -> Result<Bytes, EncodeError> {
        match &self.json {
            Some(json) => json.body(&request::of_spans(spans, &json.resource)),
            None => self.captured.of(self.exporter.export(spans)),
        }
    }
}

impl Encoder<LogExporter> {
    pub(super) fn logs(
        route: &Route,
        resource: &Resource,
    ) -> Result<Self, opentelemetry_otlp::ExporterBuildError> {
        let captured = Captured::default();
        let builder = LogExporter::builder().with_http();
        let mut encoder = Self {
            exporter: configured(builder, route, &captured).build()?,
            captured,
            set_resource: LogExporter::set_resource,
            json: Json::of(route),
        };
        encoder.identify(resource);
        Ok(encoder)
    }

    /// The request's body.
    pub(super) fn encode(
        &self,
        records: &[(&SdkLogRecord, &InstrumentationScope)],
    ) -> Result<Bytes, EncodeError> {
        match &self.json {
            Some(json) => json.body(&request::of_logs(records, &json.resource)),
            None => self
                .captured
                .of(self.exporter.export(LogBatch::new(records))),
        }
    }
}

/// In the place of an exporter for metrics. The crate's own takes who they are of from the SDK's provider, which all
/// destinations share, so it cannot say what one destination's resource has beyond the common one.
#[derive(Debug)]
pub(super) struct Whose {
    resource: proto::Resource,
    compression: Compression,
}

impl Encoder<Whose> {
    pub(super) fn metrics(route: &Route, resource: &Resource) -> Self {
        Self {
            exporter: Whose {
                resource: resource.into(),
                compression: route.compression,
            },
            captured: Captured::default(),
            set_resource: |whose, resource| whose.resource = resource.into(),
            json: Json::of(route),
        }
    }

    /// The request's body.
    pub(super) fn encode(&self, metrics: &ResourceMetrics) -> Result<Bytes, EncodeError> {
        let mut request = ExportMetricsServiceRequest::from(metrics);
        for metrics in &mut request.resource_metrics {
            metrics.resource = Some(self.exporter.resource.clone());
        }
        match &self.json {
            Some(json) => json.body(&request),
            None => compressed(request.encode_to_vec(), self.exporter.compression),
        }
    }
}

/// Says everything, for whatever is not said here is read from the environment by the crate.
fn configured<B: WithExportConfig + WithHttpConfig>(
    builder: B,
    route: &Route,
    captured: &Captured,
) -> B {
    let builder = builder
        .with_http_client(captured.clone())
        .with_endpoint(route.endpoint.to_string())
        .with_timeout(route.timeout)
        .with_retry_policy(RetryPolicy::disabled())
        // What gRPC adds to the protobuf is the transport's business.
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary);
    match route.compression {
        Compression::Gzip => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
        // The crate has no word for "none"; a body that the environment had compressed is told by its first bytes.
        Compression::None => builder,
    }
}

/// How a route that wants JSON gets it.
#[derive(Debug)]
struct Json {
    resource: ResourceAttributesWithSchema,
    compression: Compression,
}

impl Json {
    fn of(route: &Route) -> Option<Self> {
        (route.protocol == Protocol::HttpJson).then(|| Self {
            resource: ResourceAttributesWithSchema::default(),
            compression: route.compression,
        })
    }

    fn body(&self, request: &impl Serialize) -> Result<Bytes, EncodeError> {
        compressed(serde_json::to_vec(request)?, self.compression)
    }
}

fn compressed(body: Vec<u8>, compression: Compression) -> Result<Bytes, EncodeError> {
    match compression {
        Compression::None => Ok(body.into()),
        Compression::Gzip => {
            let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(&body)?;
            Ok(gzip.finish()?.into())
        }
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
    /// The body that an export makes. Nothing in the exporter waits, so one poll is all it takes.
    fn of(&self, export: impl Future<Output = OTelSdkResult>) -> Result<Bytes, EncodeError> {
        match pin!(export).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result?,
            Poll::Pending => return Err(EncodeError::NoRequest),
        }
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        body.ok_or(EncodeError::NoRequest)
    }
}

#[async_trait]
impl HttpClient for Captured {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(request.into_body());
        Ok(Response::new(Bytes::new()))
    }
}
