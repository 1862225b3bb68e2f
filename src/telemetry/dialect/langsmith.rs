//! `LangSmith`, by its documentation (Trace with OpenTelemetry, and its collector's own).
//!
//! Three traps. A span whose parent never comes is dropped without a word, and with it all below, so a run under a
//! caller's TRACEPARENT says that it is a root: the caller's span may well go elsewhere, and a trace apart is better
//! than none. `langsmith.trace.name` names the span that it stands on, so only the run's has it. And a "session" is a
//! project there; what groups runs into a thread is `session_id` in the metadata, so `langsmith.trace.session_id`
//! stays unset.
//!
//! Of the GenAI usage it reads input and output alone; the caches go by `langsmith.usage_metadata`, where, as its own
//! integration for Claude has it, writes are told by their life or as one sum, never both.

use super::rules::{
    ANY, Edit, Object, Role, Rule, Usage, add, apply, number, set_aside, show_exchange, take_tags,
    tell_exception,
};
use crate::session::semconv::key;
use crate::session::span::FinishedSpan;

const KIND: &str = "langsmith.span.kind";

const RULES: &[Rule] = &[
    (
        &[Role::Run, Role::Agent, Role::Helper],
        Edit::Word(KIND, "chain"),
    ),
    (&[Role::Chat], Edit::Word(KIND, "llm")),
    (&[Role::Tool], Edit::Word(KIND, "tool")),
    (
        &[Role::Run],
        Edit::Copy(key::RUN_AGENT, "langsmith.trace.name"),
    ),
    (
        ANY,
        Edit::Copy(key::SESSION_ID, "langsmith.metadata.session_id"),
    ),
    (ANY, Edit::Copy(key::USER_ID, "langsmith.metadata.user_id")),
    (ANY, Edit::Copy(key::RUN_ID, "langsmith.metadata.run_id")),
    (
        &[Role::Run],
        Edit::Copy(key::OUTCOME, "langsmith.metadata.outcome"),
    ),
    (
        &[Role::Run],
        Edit::Copy(key::ERROR_TYPE, "langsmith.metadata.failure"),
    ),
    (
        &[Role::Chat],
        Edit::Copy(key::GEN_AI_PROVIDER, "langsmith.metadata.ls_provider"),
    ),
    (
        &[Role::Chat],
        Edit::Copy(
            key::GEN_AI_REQUEST_MODEL,
            "langsmith.metadata.ls_model_name",
        ),
    ),
];

/// Taken for input, output or parameters wherever they stand.
const MISREAD: &[&str] = &[
    "prompt",
    "events",
    "all_messages_events",
    "tools",
    "tool_arguments",
    "metadata",
];

pub(super) fn span(mut span: FinishedSpan) -> FinishedSpan {
    set_aside(&mut span, "langsmith.metadata.", |key| {
        MISREAD.contains(&key)
            || key.starts_with("gen_ai.prompt")
            || key.starts_with("gen_ai.completion")
    });
    apply(RULES, &mut span);
    if let Some(tags) = take_tags(&mut span) {
        add(&mut span, "langsmith.span.tags", tags.join(","));
    }
    show_exchange(&mut span);
    tell_exception(&mut span);
    if span.parent_is_remote {
        add(&mut span, "langsmith.is_root", true);
    }
    if let Some(usage) = usage_metadata(&span) {
        add(&mut span, "langsmith.usage_metadata", usage);
    }
    span
}

fn usage_metadata(span: &FinishedSpan) -> Option<String> {
    let usage = Usage::of(span)?;
    let tells_life = usage.cache_write == 0;
    let details = Object::default().with_count("cache_read", usage.cache_read);
    let details = match tells_life {
        true => details
            .with_count("ephemeral_5m_input_tokens", usage.cache_write_5m)
            .with_count("ephemeral_1h_input_tokens", usage.cache_write_1h),
        false => details.with_count(
            "cache_creation",
            usage.cache_write + usage.cache_write_5m + usage.cache_write_1h,
        ),
    };
    let details = (!details.is_empty()).then(|| details.json());
    let usage = Object::default()
        .with("input_tokens", usage.input)
        .with_some("output_tokens", usage.output)
        .with_some(
            "total_tokens",
            usage.output.map(|output| usage.input + output),
        )
        .with_some("input_token_details", details)
        .with_some("total_cost", number(span, key::COST_USD));
    Some(usage.text())
}
