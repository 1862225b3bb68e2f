//! How much of a span is kept on its way into the protocol. What is left out is counted there, as the protocol has it.

use opentelemetry::{Array, KeyValue, Value};

/// The specification's limits of spans (trace/sdk.md, *Span Limits*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most attributes of a span, OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT.
    pub attributes: usize,
    /// The most characters of a text in an attribute, OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT; `None` for all.
    pub value_characters: Option<usize>,
    /// The most events of a span, OTEL_SPAN_EVENT_COUNT_LIMIT.
    pub events: usize,
    /// The most links of a span, OTEL_SPAN_LINK_COUNT_LIMIT.
    pub links: usize,
    /// The most attributes of an event, OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT.
    pub event_attributes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attributes: 128,
            value_characters: None,
            events: 128,
            links: 128,
            event_attributes: 128,
        }
    }
}

impl Limits {
    /// Keeps the first `most` of them with texts clipped, and says how many were left out.
    pub(super) fn clip(&self, attributes: &mut Vec<KeyValue>, most: usize) -> u32 {
        let dropped = shorten(attributes, most);
        if let Some(limit) = self.value_characters {
            for attribute in attributes {
                clip_value(&mut attribute.value, limit);
            }
        }
        dropped
    }
}

/// Keeps the first `most` items, and says how many were left out.
pub(super) fn shorten<T>(items: &mut Vec<T>, most: usize) -> u32 {
    let dropped = items.len().saturating_sub(most);
    items.truncate(most);
    u32::try_from(dropped).unwrap_or(u32::MAX)
}

fn clip_value(value: &mut Value, limit: usize) {
    match value {
        Value::String(text) => {
            if let Some(kept) = clipped(text.as_str(), limit) {
                *text = kept.to_owned().into();
            }
        }
        Value::Array(Array::String(texts)) => {
            for text in texts {
                if let Some(kept) = clipped(text.as_str(), limit) {
                    *text = kept.to_owned().into();
                }
            }
        }
        // Numbers and what the crate adds have no length to clip.
        _ => {}
    }
}

/// The first characters of a text that has more.
fn clipped(text: &str, limit: usize) -> Option<&str> {
    let (end, _) = text.char_indices().nth(limit)?;
    text.get(..end)
}
