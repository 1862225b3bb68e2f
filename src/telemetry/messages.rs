//! Where whole messages go: onto the chat's span, into a log event of the conventions, or both.

use opentelemetry::logs::Severity;

use super::logs::LogEntry;
use crate::session::semconv::{event, key};
use crate::session::span::FinishedSpan;

/// What OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT asks for, where messages are captured at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MessagePlace {
    #[default]
    Spans,
    /// `gen_ai.client.inference.operation.details`
    Events,
    Both,
}

/// Attributes that hold messages.
const MESSAGES: [&str; 2] = [key::GEN_AI_INPUT_MESSAGES, key::GEN_AI_OUTPUT_MESSAGES];

impl MessagePlace {
    /// Takes the messages of a redacted span to where they belong.
    pub(super) fn place(self, span: &mut FinishedSpan) -> Option<LogEntry> {
        if self == Self::Spans {
            return None;
        }
        let is_message = |name: &str| MESSAGES.contains(&name);
        if !span
            .attributes
            .iter()
            .any(|(name, _)| is_message(name.as_str()))
        {
            return None;
        }
        let entry = LogEntry {
            time: span.end,
            severity: Severity::Debug,
            event: event::INFERENCE_DETAILS,
            body: String::new(),
            // The event says what the call was, in the conventions' own keys.
            attributes: span
                .attributes
                .iter()
                .filter(|(name, _)| name.as_str().starts_with("gen_ai."))
                .cloned()
                .collect(),
            trace_id: span.trace_id,
            span_id: span.span_id,
        };
        if self == Self::Events {
            span.attributes
                .retain(|(name, _)| !is_message(name.as_str()));
        }
        Some(entry)
    }
}

/// Whether an attribute is JSON that a log record holds as a structure, as the conventions ask of events.
pub(super) fn is_structured(name: &str) -> bool {
    MESSAGES.contains(&name)
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceFlags;
    use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
    use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
    use opentelemetry_sdk::logs::LogBatch;

    use super::super::logs::Records;
    use super::super::span_data::tests::a_span;
    use super::*;

    const INPUT: &str = r#"[{"role":"user","parts":[{"type":"text","content":"hi"}]}]"#;

    fn chat() -> FinishedSpan {
        a_span(vec![
            (key::GEN_AI_REQUEST_MODEL.into(), "m".into()),
            (key::GEN_AI_INPUT_MESSAGES.into(), INPUT.into()),
            (key::COST_USD.into(), 0.5.into()),
        ])
    }

    fn has_messages(span: &FinishedSpan) -> bool {
        let mut attributes = span.attributes.iter();
        attributes.any(|(name, _)| name.as_str() == key::GEN_AI_INPUT_MESSAGES)
    }

    #[test]
    fn messages_go_where_they_are_wanted() {
        for (place, on_span, as_event) in [
            (MessagePlace::Spans, true, false),
            (MessagePlace::Events, false, true),
            (MessagePlace::Both, true, true),
        ] {
            let mut span = chat();
            let entry = place.place(&mut span);
            assert_eq!(has_messages(&span), on_span, "{place:?}");
            assert_eq!(entry.is_some(), as_event, "{place:?}");
        }
        assert_eq!(MessagePlace::Both.place(&mut a_span(vec![])), None);
    }

    #[test]
    fn an_event_holds_messages_as_a_structure() {
        let mut span = chat();
        let entry = MessagePlace::Events.place(&mut span).unwrap();
        let names: Vec<_> = entry
            .attributes
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(
            names,
            [key::GEN_AI_REQUEST_MODEL, key::GEN_AI_INPUT_MESSAGES]
        );
        let records = Records::new(vec![entry], TraceFlags::SAMPLED);
        let pairs = records.pairs();
        let sent = group_logs_by_resource_and_scope(
            &LogBatch::new(&pairs),
            &ResourceAttributesWithSchema::default(),
        );
        let record = &sent[0].scope_logs[0].log_records[0];
        assert_eq!(record.event_name, event::INFERENCE_DETAILS);
        let json = serde_json::to_value(&record.attributes[1].value).unwrap();
        let message = &json["arrayValue"]["values"][0]["kvlistValue"]["values"];
        assert!(
            message.to_string().contains(r#""stringValue":"hi""#),
            "{json}"
        );
    }
}
