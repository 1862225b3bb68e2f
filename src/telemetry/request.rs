//! OTLP requests as the protocol's own types, where they are written as JSON: for the journal, for the host, and for a
//! backend that wants JSON. What goes out as protobuf is made by opentelemetry-otlp's exporters.

use opentelemetry::InstrumentationScope;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::logs::{LogBatch, SdkLogRecord};
use opentelemetry_sdk::trace::SpanData;

pub(super) fn of_spans(
    spans: Vec<SpanData>,
    resource: &ResourceAttributesWithSchema,
) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: group_spans_by_resource_and_scope(spans, resource),
    }
}

pub(super) fn of_logs(
    records: &[(&SdkLogRecord, &InstrumentationScope)],
    resource: &ResourceAttributesWithSchema,
) -> ExportLogsServiceRequest {
    ExportLogsServiceRequest {
        resource_logs: group_logs_by_resource_and_scope(&LogBatch::new(records), resource),
    }
}
