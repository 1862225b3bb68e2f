//! Braintrust, by its documentation (OpenTelemetry attributes) and the source of its SDKs.
//!
//! Its own keys beat what it makes of GenAI's. They hold JSON, and what does not parse ends up in the metadata
//! unread. Tokens go by its SDKs' own rules for Claude: prompt tokens are all input, and cache writes are told by
//! their life or as one sum, never both. The metadata is left to what it makes of the attributes.

use serde_json::Value as Json;

use super::rules::{Object, Role, Usage, add, has_messages, list_tags, number, take, text};
use crate::session::semconv::key;
use crate::session::span::FinishedSpan;

const INPUT: &str = "braintrust.input_json";
const OUTPUT: &str = "braintrust.output_json";

pub(super) fn span(mut span: FinishedSpan) -> FinishedSpan {
    let role = Role::of(&span);
    let kind = match role {
        Role::Run | Role::Agent => "task",
        Role::Chat => "llm",
        Role::Tool => "tool",
        Role::Helper => "function",
    };
    let kind = Object::default().with("type", kind).text();
    add(&mut span, "braintrust.span_attributes", kind);
    list_tags(&mut span, "braintrust.tags");
    if let Some(metrics) = metrics(&span) {
        add(&mut span, "braintrust.metrics", metrics);
    }
    let (input, output) = match role {
        Role::Tool => (key::GEN_AI_TOOL_ARGUMENTS, key::GEN_AI_TOOL_RESULT),
        _ => (key::PROMPT_PREVIEW, key::ANSWER_PREVIEW),
    };
    let both = text(&span, input).is_some() && text(&span, output).is_some();
    if both && (role == Role::Tool || !has_messages(&span)) {
        for (from, to) in [(input, INPUT), (output, OUTPUT)] {
            let json = text(&span, from).map(|text| as_json(role, text));
            take(&mut span, from);
            if let Some(json) = json {
                add(&mut span, to, json);
            }
        }
    }
    span
}

/// A tool's input and output may be JSON already; what a person or a model said is a text.
fn as_json(role: Role, text: &str) -> String {
    let parsed = serde_json::from_str::<Json>(text).ok();
    parsed
        .filter(|_| role == Role::Tool)
        .unwrap_or_else(|| text.into())
        .to_string()
}

fn metrics(span: &FinishedSpan) -> Option<String> {
    let usage = Usage::of(span)?;
    let tells_life = usage.cache_write == 0;
    let (five, hour, sum) = match tells_life {
        true => (usage.cache_write_5m, usage.cache_write_1h, 0),
        false => (
            0,
            0,
            usage.cache_write + usage.cache_write_5m + usage.cache_write_1h,
        ),
    };
    let metrics = Object::default()
        .with("prompt_tokens", usage.input)
        .with_some("completion_tokens", usage.output)
        .with_some("tokens", usage.output.map(|output| usage.input + output))
        .with_count("prompt_cached_tokens", usage.cache_read)
        .with_count("prompt_cache_creation_5m_tokens", five)
        .with_count("prompt_cache_creation_1h_tokens", hour)
        .with_count("prompt_cache_creation_tokens", sum)
        .with_some(
            "time_to_first_token",
            number(span, key::GEN_AI_TIME_TO_FIRST_CHUNK),
        );
    Some(metrics.text())
}
