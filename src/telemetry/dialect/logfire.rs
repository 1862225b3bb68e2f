//! Pydantic Logfire. Its server is closed, so what it reads is known from what its SDK and Pydantic AI write (source), and
//! what its pages make of that from its documentation alone.
//!
//! Documented: it reads GenAI's names. Written by them: the cost of a call under `operation.cost`, and a JSON schema that
//! says which attributes hold JSON; without it, we take it, they are texts and make no conversation. Its pending spans are
//! not made: each would be one more span of another id.

use super::rules::{Edit, Object, Role, Rule, add, apply, is_json, tell_exception, text};
use crate::session::semconv::key;
use crate::session::span::FinishedSpan;

const RULES: &[Rule] = &[(&[Role::Chat], Edit::Copy(key::COST_USD, "operation.cost"))];

/// Which of ours hold JSON, and of what type.
const JSON: &[(&str, &str)] = &[
    (key::GEN_AI_INPUT_MESSAGES, "array"),
    (key::GEN_AI_OUTPUT_MESSAGES, "array"),
    ("gen_ai.system_instructions", "array"),
    (key::GEN_AI_TOOL_ARGUMENTS, "object"),
];

pub(super) fn span(mut span: FinishedSpan) -> FinishedSpan {
    apply(RULES, &mut span);
    tell_exception(&mut span);
    let mut properties = Object::default();
    for (key, kind) in JSON {
        if text(&span, key).is_some_and(is_json) {
            properties = properties.with(key, Object::default().with("type", *kind).json());
        }
    }
    if !properties.is_empty() {
        let schema = Object::default()
            .with("type", "object")
            .with("properties", properties.json());
        add(&mut span, "logfire.json_schema", schema.text());
    }
    span
}
