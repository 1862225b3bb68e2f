//! The spans of a held run, for destinations that have no queue of their own.
//!
//! A backend's requests wait in its queue, on disk. The host's lines and the console have none, and need none: whatever
//! they may get later stands in the run's `traces.jsonl` already. So all that is kept here is how many spans that are.
//! If the end of the run is for it, each of them reads the file back, a line at a time and no faster than it gets rid of
//! the spans. What the file does not have, because its cap or its disk was reached, is counted as dropped; and without
//! the file nothing waits, so what is not sent at once is never sent.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Array, KeyValue, Value};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{self as otlp, any_value};
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span, SpanFlags, span, status,
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use prost::Message as _;

use super::queue::Door;
use super::sampling::Judgement;
use super::span_data::SCOPE;

/// The longest line that is read back. Ours have some 2 MiB, but for a span that is longer by itself.
const LONGEST_LINE: u64 = 16 << 20;

/// What is told of spans that the file does not have.
pub(super) const NOT_THERE: &str =
    "spans that waited for the end of the run are not in its traces.jsonl";

/// Whether spans pass, and how many wait.
#[derive(Debug)]
pub(super) struct Held {
    door: Door,
    waiting: u64,
    /// Where they begin in the file.
    begin: u64,
}

impl Held {
    /// `sampled` is the trace's W3C flag.
    pub(super) fn new(sampled: bool) -> Self {
        Self {
            door: if sampled {
                Door::Open
            } else {
                Door::NotSampled
            },
            waiting: 0,
            begin: 0,
        }
    }

    /// From here on spans wait, if there is a file for them to wait in.
    pub(super) fn hold(&mut self, has_file: bool) {
        self.door = if has_file {
            Door::Held
        } else {
            Door::NotSampled
        };
    }

    /// Says what becomes of so many spans.
    pub(super) fn take(&mut self, spans: u64) -> Door {
        if self.door == Door::Held {
            self.waiting += spans;
        }
        self.door
    }

    /// Where what waits begins in the file.
    pub(super) fn begin(&self) -> u64 {
        self.begin
    }

    /// So many spans wait no longer; those that do begin here in the file.
    pub(super) fn forget(&mut self, begin: u64) -> u64 {
        self.begin = begin;
        std::mem::take(&mut self.waiting)
    }

    /// The end has decided, for so many spans that waited.
    pub(super) fn judge(&mut self, judgement: Judgement) -> u64 {
        self.door = match judgement {
            Judgement::Keep => Door::Open,
            Judgement::Forget => Door::NotSampled,
        };
        std::mem::take(&mut self.waiting)
    }
}

/// The spans that waited, out of the journal's copy.
#[derive(Debug)]
pub(super) struct ReadBack {
    lines: BufReader<io::Take<Part>>,
    line: Vec<u8>,
    owed: u64,
}

/// Reads a file without moving the offset that its writer shares.
#[derive(Debug)]
struct Part {
    file: File,
    at: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A line of the copy.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) request: ExportTraceServiceRequest,
    pub(super) spans: u64,
    /// As text.
    pub(super) bytes: usize,
}

impl ReadBack {
    /// The first `owed` spans within these bytes.
    pub(super) fn new(file: File, bytes: Range<u64>, owed: u64) -> Self {
        let file = Part {
            file,
            at: bytes.start,
        };
        let length = bytes.end.saturating_sub(bytes.start);
        Self {
            lines: BufReader::with_capacity(64 << 10, file.take(length)),
            line: Vec::new(),
            owed,
        }
    }

    /// The next line, passing over those that are torn. The agent may write to the file as well, so no more spans are
    /// believed than were counted.
    pub(super) fn next(&mut self) -> Option<Line> {
        while self.owed > 0 {
            self.line.clear();
            let mut lines = (&mut self.lines).take(LONGEST_LINE);
            if lines.read_until(b'\n', &mut self.line).ok()? == 0 {
                return None;
            }
            let text = std::str::from_utf8(&self.line).unwrap_or_default();
            let Ok(request) = serde_json::from_str::<ExportTraceServiceRequest>(text) else {
                continue;
            };
            let spans = scopes(&request).map(|scope| scope.spans.len() as u64).sum();
            if spans > self.owed {
                return None;
            }
            self.owed -= spans;
            return Some(Line {
                request,
                spans,
                bytes: self.line.len(),
            });
        }
        None
    }

    /// How many spans have not been found.
    pub(super) fn missing(&self) -> u64 {
        self.owed
    }
}

fn scopes(request: &ExportTraceServiceRequest) -> impl Iterator<Item = &ScopeSpans> {
    let resources = request.resource_spans.iter();
    resources.flat_map(|resource| &resource.scope_spans)
}

impl Line {
    /// As requests of at most so many bytes of protobuf, or of one span that has more; each with its number of spans.
    pub(super) fn parts(self, most: usize) -> Vec<(ExportTraceServiceRequest, u64)> {
        let mut parts = Vec::new();
        for resource in self.request.resource_spans {
            for scope in resource.scope_spans {
                let mut spans = scope.spans.into_iter().peekable();
                while spans.peek().is_some() {
                    let mut size = 0;
                    let mut now = Vec::new();
                    while let Some(span) = spans.next_if(|span| {
                        size += span.encoded_len();
                        size <= most || now.is_empty()
                    }) {
                        now.push(span);
                    }
                    let count = now.len() as u64;
                    let part = ResourceSpans {
                        resource: resource.resource.clone(),
                        schema_url: resource.schema_url.clone(),
                        scope_spans: vec![ScopeSpans {
                            scope: scope.scope.clone(),
                            schema_url: scope.schema_url.clone(),
                            spans: now,
                        }],
                    };
                    let resource_spans = vec![part];
                    parts.push((ExportTraceServiceRequest { resource_spans }, count));
                }
            }
        }
        parts
    }

    /// As the SDK's own data.
    pub(super) fn span_data(self) -> Vec<SpanData> {
        let resources = self.request.resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes
            .flat_map(|scope| scope.spans)
            .map(span_data)
            .collect()
    }
}

/// The way back from the protocol.
fn span_data(span: Span) -> SpanData {
    let kind = span.kind();
    let status = span.status.unwrap_or_default();
    let mut events = SpanEvents::default();
    events.dropped_count = span.dropped_events_count;
    events.events = span.events.into_iter().map(event).collect();
    let mut links = SpanLinks::default();
    links.dropped_count = span.dropped_links_count;
    links.links = span.links.into_iter().map(link).collect();
    let written = span.attributes.len();
    let attributes = key_values(span.attributes);
    let lost = u32::try_from(written - attributes.len()).unwrap_or(u32::MAX);
    SpanData {
        span_context: context(&span.trace_id, &span.span_id, span.flags, &span.trace_state),
        parent_span_id: span_id(&span.parent_span_id),
        parent_span_is_remote: is_remote(span.flags),
        span_kind: match kind {
            span::SpanKind::Client => SpanKind::Client,
            span::SpanKind::Server => SpanKind::Server,
            span::SpanKind::Producer => SpanKind::Producer,
            span::SpanKind::Consumer => SpanKind::Consumer,
            span::SpanKind::Internal | span::SpanKind::Unspecified => SpanKind::Internal,
        },
        name: span.name.into(),
        start_time: time(span.start_time_unix_nano),
        end_time: time(span.end_time_unix_nano),
        attributes,
        dropped_attributes_count: span.dropped_attributes_count.saturating_add(lost),
        events,
        links,
        status: match status.code() {
            status::StatusCode::Unset => Status::Unset,
            status::StatusCode::Ok => Status::Ok,
            status::StatusCode::Error => Status::error(status.message),
        },
        instrumentation_scope: SCOPE.clone(),
    }
}

fn event(event: span::Event) -> Event {
    Event::new(
        event.name,
        time(event.time_unix_nano),
        key_values(event.attributes),
        event.dropped_attributes_count,
    )
}

fn link(link: span::Link) -> Link {
    let trace = TraceId::from_bytes(array(&link.trace_id));
    let context = SpanContext::new(
        trace,
        span_id(&link.span_id),
        flags(link.flags),
        is_remote(link.flags),
        link.trace_state.parse().unwrap_or_default(),
    );
    Link::new(
        context,
        key_values(link.attributes),
        link.dropped_attributes_count,
    )
}

fn context(trace: &[u8], span: &[u8], bits: u32, state: &str) -> SpanContext {
    let state: TraceState = state.parse().unwrap_or_default();
    let trace = TraceId::from_bytes(array(trace));
    SpanContext::new(trace, span_id(span), flags(bits), false, state)
}

fn span_id(bytes: &[u8]) -> SpanId {
    SpanId::from_bytes(array(bytes))
}

/// All zeros, which no id is, where the length is another.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

fn flags(bits: u32) -> TraceFlags {
    let [low, ..] = bits.to_le_bytes();
    TraceFlags::new(low)
}

fn is_remote(bits: u32) -> bool {
    bits & SpanFlags::ContextIsRemoteMask as u32 != 0
}

fn time(nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

fn key_values(pairs: Vec<otlp::KeyValue>) -> Vec<KeyValue> {
    let pairs = pairs.into_iter();
    let known = pairs.filter_map(|pair| Some((pair.key, value(pair.value?.value?)?)));
    known
        .map(|(key, value)| KeyValue::new(key, value))
        .collect()
}

fn value(value: any_value::Value) -> Option<Value> {
    Some(match value {
        any_value::Value::StringValue(text) => text.into(),
        any_value::Value::BoolValue(value) => value.into(),
        any_value::Value::IntValue(value) => value.into(),
        any_value::Value::DoubleValue(value) => value.into(),
        any_value::Value::ArrayValue(array) => Value::Array(list(array.values)),
        // A span's attributes hold no others.
        _ => return None,
    })
}

/// All of its values are of the first one's kind; an empty one could be of any.
fn list(values: Vec<otlp::AnyValue>) -> Array {
    let values = values.into_iter().filter_map(|it| it.value);
    let values: Vec<_> = values.filter_map(value).collect();
    match values.first() {
        Some(Value::Bool(_)) => Array::Bool(only(values, |it| match it {
            Value::Bool(it) => Some(it),
            _ => None,
        })),
        Some(Value::I64(_)) => Array::I64(only(values, |it| match it {
            Value::I64(it) => Some(it),
            _ => None,
        })),
        Some(Value::F64(_)) => Array::F64(only(values, |it| match it {
            Value::F64(it) => Some(it),
            _ => None,
        })),
        _ => Array::String(only(values, |it| match it {
            Value::String(it) => Some(it),
            _ => None,
        })),
    }
}

fn only<T>(values: Vec<Value>, kind: impl Fn(Value) -> Option<T>) -> Vec<T> {
    values.into_iter().filter_map(kind).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use opentelemetry::StringValue;
    use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
    use opentelemetry_sdk::Resource;

    use super::super::request;
    use super::super::span_data::tests::a_span;
    use super::super::span_data::{TraceFacts, span_data};
    use super::*;
    use crate::session::span::{FinishedSpan, SpanLink};

    fn resource() -> ResourceAttributesWithSchema {
        let attributes = [KeyValue::new("service.name", "it")];
        (&Resource::builder_empty()
            .with_attributes(attributes)
            .build())
            .into()
    }

    fn trace() -> TraceFacts {
        TraceFacts {
            flags: TraceFlags::SAMPLED,
            state: "vendor=1".parse().unwrap(),
            ..TraceFacts::default()
        }
    }

    fn a_request(spans: &[FinishedSpan]) -> ExportTraceServiceRequest {
        let spans = spans.iter().cloned().map(|span| span_data(span, &trace()));
        request::of_spans(spans.collect(), &resource())
    }

    /// A copy of these lines; so many spans of them waited.
    fn copy(lines: &[Vec<u8>], owed: u64) -> ReadBack {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&lines.concat()).unwrap();
        let length = file.metadata().unwrap().len();
        ReadBack::new(file, 0..length, owed)
    }

    fn line_of(spans: &[FinishedSpan]) -> Vec<u8> {
        let mut line = serde_json::to_vec(&a_request(spans)).unwrap();
        line.push(b'\n');
        line
    }

    #[test]
    fn a_span_that_is_read_back_is_the_one_that_was_written() {
        let texts: Vec<StringValue> = vec!["a".into(), "b".into()];
        let attributes = vec![
            ("text".into(), "t\n".into()),
            ("flag".into(), true.into()),
            ("number".into(), i64::MIN.into()),
            ("share".into(), 0.25.into()),
            ("texts".into(), Value::Array(Array::String(texts))),
            ("numbers".into(), Value::Array(Array::I64(vec![1, 2]))),
            ("shares".into(), Value::Array(Array::F64(vec![0.5]))),
            ("flags".into(), Value::Array(Array::Bool(vec![false]))),
        ];
        let linked = FinishedSpan {
            link: Some(SpanLink {
                trace_id: TraceId::from(1),
                span_id: SpanId::from(2),
            }),
            ..a_span(attributes)
        };
        let root = FinishedSpan {
            parent_span_id: None,
            parent_is_remote: false,
            ..a_span(vec![])
        };
        let spans = [linked, root];
        let mut copy = copy(&[line_of(&spans)], 2);
        let read = copy.next().unwrap().span_data();
        assert_eq!(request::of_spans(read, &resource()), a_request(&spans));
        assert!(copy.next().is_none());
        assert_eq!(copy.missing(), 0);
    }

    #[test]
    fn an_attribute_of_a_kind_that_a_span_cannot_hold_is_counted_as_dropped() {
        let mut request = a_request(&[a_span(vec![("text".into(), "t".into())])]);
        let span = &mut request.resource_spans[0].scope_spans[0].spans[0];
        let mut foreign = span.attributes[0].clone();
        foreign.value.as_mut().unwrap().value = Some(any_value::Value::BytesValue(vec![1]));
        span.attributes.push(foreign);
        let (kept, dropped) = (span.attributes.len() - 1, span.dropped_attributes_count);
        let read = super::span_data(span.clone());
        assert_eq!(read.attributes.len(), kept);
        assert_eq!(read.dropped_attributes_count, dropped + 1);
    }

    #[test]
    fn what_is_torn_or_was_never_counted_is_passed_over() {
        let one = line_of(&[a_span(vec![])]);
        let torn = [&one[..one.len() / 2], b"\n"].concat();
        let mut lines = copy(&[one.clone(), torn, one.clone(), one.clone()], 4);
        let found = std::iter::from_fn(|| lines.next()).count();
        assert_eq!((found, lines.missing()), (3, 1));
        // Somebody has written more than there was.
        let mut lines = copy(
            &[one.clone(), line_of(&[a_span(vec![]), a_span(vec![])])],
            2,
        );
        let found = std::iter::from_fn(|| lines.next()).count();
        assert_eq!((found, lines.missing()), (1, 1));
    }

    #[test]
    fn a_long_line_is_passed_on_in_parts_of_bounded_size() {
        let long = a_span(vec![("text".into(), "x".repeat(4_000).into())]);
        let spans = vec![long; 10];
        let mut copy = copy(&[line_of(&spans)], 10);
        let whole = a_request(&spans);
        let parts = copy.next().unwrap().parts(10_000);
        assert!(parts.len() > 2);
        let mut sum = 0;
        for (part, count) in parts {
            assert!(part.encoded_len() < 10_500);
            assert_eq!(
                part.resource_spans[0].resource,
                whole.resource_spans[0].resource
            );
            sum += count;
        }
        assert_eq!(sum, 10);
        let mut alone = self::copy(&[line_of(&spans)], 10);
        assert_eq!(alone.next().unwrap().parts(1).len(), 10);
    }
}
