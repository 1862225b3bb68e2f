//! Arize Phoenix, by the source of its converter (`phoenix.trace.gen_ai.conversion`, 20.26) and a real server.
//!
//! Since 2026-05 it makes OpenInference of GenAI attributes itself: kinds, tokens, models, messages, the session. What
//! it cannot make: a kind for spans without an operation, which it shows as unknown; a tool's input; the reason of an
//! error, which it reads from `exception` events; and the project, which is a resource attribute. It reads cache
//! writes under their name of 1.41 alone.

use opentelemetry::{Key, Value};
use opentelemetry_sdk::Resource;

use super::rules::{
    CACHE_WRITE, Edit, INPUT, OUTPUT, Role, Rule, add, apply, get, is_json, list_tags,
    show_exchange, tell_exception, text,
};
use crate::session::semconv::key;
use crate::session::span::FinishedSpan;

const RULES: &[Rule] = &[
    (
        &[Role::Run, Role::Helper],
        Edit::Word("openinference.span.kind", "CHAIN"),
    ),
    (
        &[Role::Chat],
        Edit::Copy(CACHE_WRITE, key::GEN_AI_CACHE_CREATION),
    ),
];

pub(super) fn span(mut span: FinishedSpan) -> FinishedSpan {
    apply(RULES, &mut span);
    list_tags(&mut span, "tag.tags");
    show_exchange(&mut span);
    show_call(&mut span);
    tell_exception(&mut span);
    span
}

/// A call's arguments and result as input and output of its span, where both are captured.
fn show_call(span: &mut FinishedSpan) {
    let (Some(arguments), Some(result)) = (
        text(span, key::GEN_AI_TOOL_ARGUMENTS).map(str::to_owned),
        text(span, key::GEN_AI_TOOL_RESULT).map(str::to_owned),
    ) else {
        return;
    };
    if get(span, INPUT).is_some() || get(span, OUTPUT).is_some() {
        return;
    }
    for (text, key, mime) in [
        (arguments, INPUT, "input.mime_type"),
        (result, OUTPUT, "output.mime_type"),
    ] {
        if is_json(&text) {
            add(span, mime, "application/json");
        }
        add(span, key, text);
    }
}

/// The project is the service, unless the destination names another.
pub(super) fn resource(common: &Resource) -> Vec<(Key, Value)> {
    let service = common.get(&Key::from_static_str("service.name"));
    let project = |name| (Key::from_static_str("openinference.project.name"), name);
    service.map(project).into_iter().collect()
}
