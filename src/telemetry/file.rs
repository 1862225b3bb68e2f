//! The journal's `traces.jsonl`, `metrics.jsonl` and `logs.jsonl`: one OTLP request a line, as OpenTelemetry's file
//! exporter writes it.
//!
//! Written first and whatever becomes of the destinations. A full disk or a reached cap loses the copy, counted, and
//! nothing else.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::trace::SpanData;
use serde::Serialize;

use super::counts::{Counts, SignalCounts};
use super::held::ReadBack;
use super::logs::Records;
use super::metrics::points;
use super::request;

/// A file of the journal, opened to append, and the most bytes that it may hold.
#[derive(Debug)]
pub struct JournalFile {
    pub file: File,
    /// What comes beyond is counted as dropped.
    pub cap: u64,
}

/// Those of a run; each may be missing.
#[derive(Debug, Default)]
pub struct JournalPaths {
    pub traces: Option<JournalFile>,
    pub metrics: Option<JournalFile>,
    pub logs: Option<JournalFile>,
}

/// Why a batch is not in the file.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("failed to encode for {name}: {source}")]
    Encode {
        name: &'static str,
        source: serde_json::Error,
    },
    #[error("failed to write {name}: {source}")]
    Write {
        name: &'static str,
        source: io::Error,
    },
    #[error("{name} has reached its cap of {cap} bytes")]
    Full { name: &'static str, cap: u64 },
}

/// How often metrics are written to their file.
const METRICS_EVERY: Duration = Duration::from_secs(60);

/// Why metrics are told now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Some time has passed.
    Interval,
    /// There may be no later.
    Last,
}

/// The open files.
#[derive(Debug)]
pub(super) struct JournalFiles {
    traces: Option<JsonLines>,
    metrics: Option<JsonLines>,
    logs: Option<JsonLines>,
    resource: ResourceAttributesWithSchema,
    /// When metrics were last written.
    measured: Option<Instant>,
}

impl JournalFiles {
    pub(super) fn new(paths: JournalPaths, resource: &Resource, counts: &SignalCounts) -> Self {
        let open = |file: Option<JournalFile>, name, counts: &Arc<Counts>| {
            file.map(|file| JsonLines::new(file, name, Arc::clone(counts)))
        };
        Self {
            traces: open(paths.traces, "traces.jsonl", &counts.spans),
            metrics: open(paths.metrics, "metrics.jsonl", &counts.metrics),
            logs: open(paths.logs, "logs.jsonl", &counts.logs),
            resource: resource.into(),
            measured: None,
        }
    }

    /// Says from now on that the telemetry is somebody else's.
    pub(super) fn identify(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }

    pub(super) fn spans(&mut self, spans: Vec<SpanData>) {
        if let Some(lines) = &mut self.traces {
            let count = spans.len() as u64;
            lines.write(&request::of_spans(spans, &self.resource), count);
        }
    }

    pub(super) fn logs(&mut self, records: &Records) {
        if let Some(lines) = &mut self.logs {
            let request = request::of_logs(&records.pairs(), &self.resource);
            lines.write(&request, records.len());
        }
    }

    pub(super) fn takes_traces(&self) -> bool {
        self.traces.is_some()
    }

    /// How many bytes the copy of spans has.
    pub(super) fn traces_length(&self) -> u64 {
        self.traces.as_ref().map_or(0, |lines| lines.written)
    }

    /// The first `owed` spans from here on, out of the copy as it is now.
    pub(super) fn read_back(&self, from: u64, owed: u64) -> io::Result<ReadBack> {
        let Some(lines) = &self.traces else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let file = lines.file.try_clone()?;
        Ok(ReadBack::new(file, from..lines.written, owed))
    }

    pub(super) fn takes_metrics(&self) -> bool {
        self.metrics.is_some()
    }

    /// They count from the start of the run, so that the last of them say it all and a minute between two is enough:
    /// the file lasts for a day then.
    pub(super) fn metrics(&mut self, metrics: &ResourceMetrics, moment: Moment) {
        let is_due = moment == Moment::Last
            || self
                .measured
                .is_none_or(|measured| measured.elapsed() >= METRICS_EVERY);
        if let Some(lines) = self.metrics.as_mut().filter(|_| is_due) {
            self.measured = Some(Instant::now());
            lines.write(&ExportMetricsServiceRequest::from(metrics), points(metrics));
        }
    }
}

/// One of them.
#[derive(Debug)]
struct JsonLines {
    name: &'static str,
    file: File,
    cap: u64,
    written: u64,
    /// The last write stopped within a line.
    torn: bool,
    counts: Arc<Counts>,
}

impl JsonLines {
    fn new(
        JournalFile { file, cap }: JournalFile,
        name: &'static str,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            name,
            written: file.metadata().map_or(0, |metadata| metadata.len()),
            file,
            cap,
            torn: false,
            counts,
        }
    }

    fn write(&mut self, request: &impl Serialize, items: u64) {
        match self.write_line(request) {
            Ok(()) => self.counts.exported(items),
            Err(error) => self.counts.dropped(items, &error.to_string()),
        }
    }

    fn write_line(&mut self, request: &impl Serialize) -> Result<(), FileError> {
        let name = self.name;
        let failed = |source| FileError::Write { name, source };
        // What follows a torn line starts a new one, so that a reader loses no more than the torn one.
        let mut line = if self.torn {
            b"\n".to_vec()
        } else {
            Vec::new()
        };
        serde_json::to_writer(&mut line, request)
            .map_err(|source| FileError::Encode { name, source })?;
        line.push(b'\n');
        if self.written + line.len() as u64 > self.cap {
            return Err(FileError::Full {
                name,
                cap: self.cap,
            });
        }
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(failed(io::ErrorKind::WriteZero.into())),
                Ok(bytes) => {
                    rest = &rest[bytes..];
                    self.written += bytes as u64;
                    self.torn = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}
