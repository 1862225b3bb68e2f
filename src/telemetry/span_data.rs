//! A finished span as the OpenTelemetry SDK's own data, which its exporters take.

use std::sync::LazyLock;

use opentelemetry::trace::{Event, Link, SpanContext, SpanId, Status, TraceFlags, TraceState};
use opentelemetry::{Array, InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::limits::{Limits, shorten};
use crate::session::span::{Attribute, FinishedSpan, SpanEvent, SpanStatus};

pub(super) static SCOPE: LazyLock<InstrumentationScope> = LazyLock::new(|| {
    InstrumentationScope::builder("sandtrace")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
});

/// What every span of a run shares: the caller's flag and state, and how much of a span is kept.
#[derive(Debug, Clone, Default)]
pub(super) struct TraceFacts {
    pub(super) flags: TraceFlags,
    pub(super) state: TraceState,
    pub(super) limits: Limits,
}

/// Translates one span; the attributes move.
pub(super) fn span_data(mut span: FinishedSpan, trace: &TraceFacts) -> SpanData {
    let limits = trace.limits;
    let mut events = SpanEvents::default();
    let dropped_events = shorten(&mut span.events, limits.events);
    events.dropped_count = span.dropped_events.saturating_add(dropped_events);
    let kept = span.events.into_iter();
    events.events = kept.map(|kept| event(kept, limits)).collect();
    let mut links = SpanLinks::default();
    links.links.extend(span.link.map(|link| {
        let context = SpanContext::new(
            link.trace_id,
            link.span_id,
            trace.flags,
            true,
            TraceState::default(),
        );
        Link::with_context(context)
    }));
    links.dropped_count = shorten(&mut links.links, limits.links);
    let mut attributes = key_values(span.attributes);
    let dropped_attributes_count = limits.clip(&mut attributes, limits.attributes);
    SpanData {
        span_context: SpanContext::new(
            span.trace_id,
            span.span_id,
            trace.flags,
            false,
            trace.state.clone(),
        ),
        parent_span_id: span.parent_span_id.unwrap_or(SpanId::INVALID),
        parent_span_is_remote: span.parent_is_remote,
        span_kind: span.kind,
        name: span.name,
        start_time: span.start.into(),
        // A receiver computes the length as an unsigned number: a span must not end before it starts.
        end_time: span.end.max(span.start).into(),
        attributes,
        dropped_attributes_count,
        events,
        links,
        status: match span.status {
            SpanStatus::Unset => Status::Unset,
            SpanStatus::Ok => Status::Ok,
            SpanStatus::Error { message } => Status::error(message),
        },
        instrumentation_scope: SCOPE.clone(),
    }
}

fn event(event: SpanEvent, limits: Limits) -> Event {
    let mut attributes = key_values(event.attributes);
    let dropped = limits.clip(&mut attributes, limits.event_attributes);
    Event::new(event.name, event.time.into(), attributes, dropped)
}

fn key_values(attributes: Vec<Attribute>) -> Vec<KeyValue> {
    let pairs = attributes.into_iter();
    pairs
        .map(|(key, value)| KeyValue::new(key, value))
        .collect()
}

/// The most bytes that a span takes when encoded as protobuf, and about what it takes in memory.
pub(super) fn weight(span: &FinishedSpan) -> usize {
    let status = match &span.status {
        SpanStatus::Error { message } => message.len(),
        SpanStatus::Unset | SpanStatus::Ok => 0,
    };
    let events = span
        .events
        .iter()
        .map(|event| 96 + event.name.len() + attributes_weight(&event.attributes));
    let content = span.content.iter();
    let content = content.map(|content| 64 + content.key.len() + content.text.len());
    320 + span.name.len()
        + status
        + attributes_weight(&span.attributes)
        + events.sum::<usize>()
        + content.sum::<usize>()
}

pub(super) fn attributes_weight(attributes: &[Attribute]) -> usize {
    let pairs = attributes.iter();
    pairs
        .map(|(key, value)| 64 + key.as_str().len() + value_weight(value))
        .sum()
}

fn value_weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.as_str().len(),
        Value::Array(Array::String(texts)) => {
            texts.iter().map(|text| 40 + text.as_str().len()).sum()
        }
        Value::Array(Array::Bool(values)) => 40 * values.len(),
        Value::Array(Array::I64(values)) => 40 * values.len(),
        Value::Array(Array::F64(values)) => 40 * values.len(),
        // Bool, I64, F64, and whatever kinds the crate adds.
        _ => 16,
    }
}

/// The most bytes a span of this weight takes as JSON, in proportion to it; text full of control characters may
/// take more.
pub(super) const JSON_FACTOR: usize = 2;

#[cfg(test)]
pub(super) mod tests {
    use std::borrow::Cow;
    use std::str::FromStr;

    use opentelemetry::trace::{SpanKind, TraceId};
    use opentelemetry_proto::tonic::trace::v1::Span;
    use prost::Message;

    use super::*;
    use crate::time::UnixNanos;

    pub(in crate::telemetry) fn a_span(attributes: Vec<Attribute>) -> FinishedSpan {
        FinishedSpan {
            trace_id: TraceId::from(7),
            span_id: SpanId::from(8),
            parent_span_id: Some(SpanId::from(9)),
            parent_is_remote: true,
            name: Cow::Borrowed("agent.run"),
            kind: SpanKind::Client,
            start: UnixNanos(2_000),
            end: UnixNanos(1_000),
            status: SpanStatus::Error {
                message: Cow::Borrowed("it broke"),
            },
            attributes: attributes.clone(),
            events: vec![SpanEvent {
                name: Cow::Borrowed("retry"),
                time: UnixNanos(1_500),
                attributes,
            }],
            dropped_events: 3,
            link: None,
            content: Vec::new(),
        }
    }

    #[test]
    fn every_fact_of_a_span_reaches_the_protocol() {
        let trace = TraceFacts {
            flags: TraceFlags::SAMPLED,
            state: TraceState::from_str("a=1").unwrap(),
            ..TraceFacts::default()
        };
        let encoded = Span::from(span_data(a_span(vec![("k".into(), "v".into())]), &trace));
        assert_eq!(encoded.trace_id, TraceId::from(7).to_bytes());
        assert_eq!(encoded.span_id, SpanId::from(8).to_bytes());
        assert_eq!(encoded.parent_span_id, SpanId::from(9).to_bytes());
        assert_eq!(encoded.trace_state, "a=1");
        // Sampled, remoteness known, parent remote.
        assert_eq!(encoded.flags, 0x301);
        assert_eq!(encoded.kind, 3);
        assert_eq!(
            (encoded.start_time_unix_nano, encoded.end_time_unix_nano),
            (2_000, 2_000)
        );
        assert_eq!(encoded.status.unwrap().message, "it broke");
        assert_eq!(encoded.attributes[0].key, "k");
        assert_eq!(encoded.events[0].time_unix_nano, 1_500);
    }

    #[test]
    fn what_a_limit_leaves_out_is_counted_in_the_protocol() {
        let attributes = |count: i64| -> Vec<Attribute> {
            (0..count)
                .map(|n| (format!("k{n}").into(), n.into()))
                .collect()
        };
        let full = FinishedSpan {
            events: vec![a_span(attributes(4)).events.remove(0); 5],
            dropped_events: 3,
            link: Some(crate::session::span::SpanLink {
                trace_id: TraceId::from(1),
                span_id: SpanId::from(2),
            }),
            ..a_span(attributes(9))
        };
        let encode = |limits| {
            let trace = TraceFacts {
                limits,
                ..TraceFacts::default()
            };
            Span::from(span_data(full.clone(), &trace))
        };
        let whole = encode(Limits::default());
        assert_eq!(
            (whole.attributes.len(), whole.dropped_attributes_count),
            (9, 0)
        );
        assert_eq!((whole.events.len(), whole.dropped_events_count), (5, 3));
        assert_eq!((whole.links.len(), whole.dropped_links_count), (1, 0));

        let limited = encode(Limits {
            attributes: 7,
            events: 2,
            links: 0,
            event_attributes: 1,
            value_characters: None,
        });
        let kept: Vec<_> = limited.attributes.iter().map(|pair| &pair.key).collect();
        assert_eq!(kept, ["k0", "k1", "k2", "k3", "k4", "k5", "k6"]);
        assert_eq!(limited.dropped_attributes_count, 2);
        // Those that the session has already left out, and three more.
        assert_eq!((limited.events.len(), limited.dropped_events_count), (2, 6));
        assert_eq!((limited.links.len(), limited.dropped_links_count), (0, 1));
        for event in &limited.events {
            assert_eq!(
                (event.attributes.len(), event.dropped_attributes_count),
                (1, 3)
            );
        }
    }

    #[test]
    fn long_texts_are_clipped_by_characters_wherever_they_stand() {
        let texts: Vec<opentelemetry::StringValue> = vec!["äöüß".into(), "ab".into()];
        let attributes = vec![
            ("text".into(), "äöüß".into()),
            ("texts".into(), Value::Array(Array::String(texts))),
            ("short".into(), "äöü".into()),
            ("number".into(), 12_345.into()),
        ];
        let trace = TraceFacts {
            limits: Limits {
                value_characters: Some(3),
                ..Limits::default()
            },
            ..TraceFacts::default()
        };
        let data = span_data(a_span(attributes), &trace);
        for attributes in [&data.attributes, &data.events.events[0].attributes] {
            let values: Vec<_> = attributes
                .iter()
                .map(|pair| pair.value.to_string())
                .collect();
            assert_eq!(values, ["äöü", r#"["äöü","ab"]"#, "äöü", "12345"]);
        }
        assert_eq!(data.dropped_attributes_count, 0);
    }

    #[test]
    fn a_root_has_no_parent() {
        let root = FinishedSpan {
            parent_span_id: None,
            parent_is_remote: false,
            ..a_span(vec![])
        };
        let encoded = Span::from(span_data(root, &TraceFacts::default()));
        assert!(encoded.parent_span_id.is_empty());
        assert_eq!(encoded.flags, 0x100);
    }

    #[test]
    fn the_weight_bounds_the_encoded_size() {
        let values: Vec<Value> = vec![
            true.into(),
            i64::MIN.into(),
            f64::MIN.into(),
            "text \"quoted\"\n".repeat(300).into(),
            Value::Array(Array::I64(vec![i64::MIN; 50])),
            Value::Array(Array::F64(vec![f64::MIN_POSITIVE; 50])),
            Value::Array(Array::Bool(vec![true; 50])),
            Value::Array(Array::String(vec!["x".into(); 50])),
        ];
        let attributes = values
            .into_iter()
            .map(|value| ("some.key".into(), value))
            .collect();
        for span in [a_span(attributes), a_span(vec![])] {
            let weight = weight(&span);
            let encoded = Span::from(span_data(span, &TraceFacts::default()));
            // A few bytes more for the tag and length of the span within its request.
            assert!(
                encoded.encoded_len() + 8 <= weight,
                "{} > {weight}",
                encoded.encoded_len()
            );
            let json = serde_json::to_string(&encoded).unwrap().len();
            assert!(
                json <= JSON_FACTOR * weight,
                "{json} > {JSON_FACTOR} * {weight}"
            );
        }
    }
}
