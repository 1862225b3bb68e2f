//! The journal's `traces.jsonl`: one OTLP request a line, as OpenTelemetry's file exporter writes it.
//!
//! Written first and whatever becomes of the destinations. A full disk or a reached cap loses the copy, counted, and
//! nothing else.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;

use super::counts::Counts;

/// Why a batch is not in the file.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("failed to encode spans: {0}")]
    Encode(#[from] serde_json::Error),
    #[error("failed to write traces.jsonl: {0}")]
    Write(#[from] io::Error),
    #[error("traces.jsonl has reached its cap of {0} bytes")]
    Full(u64),
}

/// The open file.
#[derive(Debug)]
pub(super) struct TracesFile {
    file: File,
    cap: u64,
    written: u64,
    /// The last write stopped within a line.
    torn: bool,
    resource: ResourceAttributesWithSchema,
    counts: Arc<Counts>,
}

impl TracesFile {
    pub(super) fn new(file: File, cap: u64, resource: &Resource, counts: Arc<Counts>) -> Self {
        Self {
            written: file.metadata().map_or(0, |metadata| metadata.len()),
            file,
            cap,
            torn: false,
            resource: resource.into(),
            counts,
        }
    }

    /// Says from now on that the spans are somebody else's.
    pub(super) fn identify(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }

    pub(super) fn write(&mut self, spans: Vec<SpanData>) {
        let count = spans.len() as u64;
        match self.write_line(spans) {
            Ok(()) => self.counts.exported(count),
            Err(error) => self.counts.dropped(count, &error.to_string()),
        }
    }

    fn write_line(&mut self, spans: Vec<SpanData>) -> Result<(), FileError> {
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(spans, &self.resource),
        };
        // What follows a torn line starts a new one, so that a reader loses no more than the torn one.
        let mut line = if self.torn {
            b"\n".to_vec()
        } else {
            Vec::new()
        };
        serde_json::to_writer(&mut line, &request)?;
        line.push(b'\n');
        if self.written + line.len() as u64 > self.cap {
            return Err(FileError::Full(self.cap));
        }
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(bytes) => {
                    rest = &rest[bytes..];
                    self.written += bytes as u64;
                    self.torn = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
