//! A span as finished data.
//!
//! Spans are not instrumented but concluded: the session knows id, parent, times and attributes, and hands the whole
//! thing on once it is closed.

use std::borrow::Cow;

use opentelemetry::trace::{SpanId, SpanKind, TraceId};
use opentelemetry::{Key, Value};

use crate::time::UnixNanos;

/// A key and a value; keys come from [`super::semconv`].
pub type Attribute = (Key, Value);

/// How a span ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum SpanStatus {
    /// Nothing is known to have failed.
    #[default]
    Unset,
    /// It is known to have succeeded.
    Ok,
    /// It failed; the message is for a person.
    Error { message: Cow<'static, str> },
}

/// Something that happened at one moment within a span.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanEvent {
    pub name: Cow<'static, str>,
    pub time: UnixNanos,
    pub attributes: Vec<Attribute>,
}

/// The trace a run belongs to: the caller's, or its own.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceContext {
    pub trace_id: TraceId,
    /// The caller's span, from TRACEPARENT.
    pub parent_span_id: Option<SpanId>,
    /// The W3C `sampled` flag: the caller's, else true.
    pub sampled: bool,
    /// TRACESTATE as given, handed on unchanged.
    pub trace_state: String,
}

/// A span of another trace that a span has to do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanLink {
    pub trace_id: TraceId,
    pub span_id: SpanId,
}

/// More of a text than may be kept: what is cut must be redacted first, or half a secret would pass for none.
pub const REDACTION_SLACK: usize = 8 * 1024;

/// A text of a person or a model that becomes an attribute once it is redacted and clipped. Never on the wire, where
/// the agent's own line has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub key: &'static str,
    /// Up to [`REDACTION_SLACK`] characters beyond what may be kept.
    pub text: String,
    pub form: ContentForm,
}

/// How a content is clipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentForm {
    /// To so many characters.
    Text { chars: usize },
    /// A JSON document, each string in it to so many characters, so that it stays one.
    Json { chars: usize },
}

/// A span that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedSpan {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    /// `None` only for a run without a caller.
    pub parent_span_id: Option<SpanId>,
    /// Whether the parent belongs to another process: true only for the run's span under a TRACEPARENT.
    pub parent_is_remote: bool,
    pub name: Cow<'static, str>,
    pub kind: SpanKind,
    pub start: UnixNanos,
    pub end: UnixNanos,
    pub status: SpanStatus,
    pub attributes: Vec<Attribute>,
    pub events: Vec<SpanEvent>,
    /// Events beyond the limit of the OpenTelemetry SDK.
    pub dropped_events: u32,
    /// Where a forked run comes from.
    pub link: Option<SpanLink>,
    /// What people and models wrote; not yet redacted, and therefore longer than it will be.
    pub content: Vec<Content>,
}
