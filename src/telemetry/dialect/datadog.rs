//! Datadog's LLM Observability, by its documentation (OpenTelemetry instrumentation).
//!
//! It reads the GenAI conventions since 1.37, and input and output from the messages alone. So where only previews are
//! captured, they become messages of one text each. `ml_app` is the root span's service.

use serde_json::json;

use super::rules::{Role, add, has_messages, take, text};
use crate::session::semconv::key;
use crate::session::span::{FinishedSpan, SpanStatus};

pub(super) fn span(mut span: FinishedSpan) -> FinishedSpan {
    let role = Role::of(&span);
    if !matches!(role, Role::Agent | Role::Chat) || has_messages(&span) {
        return span;
    }
    let (Some(prompt), Some(answer)) = (
        text(&span, key::PROMPT_PREVIEW),
        text(&span, key::ANSWER_PREVIEW),
    ) else {
        return span;
    };
    let finish = match span.status {
        SpanStatus::Error { .. } => "error",
        _ => "stop",
    };
    let part = |text: &str| json!([{ "type": "text", "content": text }]);
    let input = json!([{ "role": "user", "parts": part(prompt) }]).to_string();
    let output = json!([{ "role": "assistant", "parts": part(answer), "finish_reason": finish }]);
    let output = output.to_string();
    take(&mut span, key::PROMPT_PREVIEW);
    take(&mut span, key::ANSWER_PREVIEW);
    add(&mut span, key::GEN_AI_INPUT_MESSAGES, input);
    add(&mut span, key::GEN_AI_OUTPUT_MESSAGES, output);
    span
}
