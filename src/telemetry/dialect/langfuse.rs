//! Langfuse, by its own source (`packages/shared/src/server/otel`, 2026-11) and `reference/observability.md` §2.3.
//!
//! It reads the GenAI names, but its own are exact where those are not: cache writes are priced by their life, costs
//! are taken as given, and the type of an observation is not guessed. In its fourth version a row stands alone, so
//! what belongs to the trace is on every span.
//!
//! Bare names get hijacked: an attribute `prompt` is the input before anything else is looked at, `model` makes a
//! generation of any span. Ours have none, but a user's `--attribute` may: they go to the metadata.
//!
//! A trace that a caller's TRACEPARENT names is the caller's. Langfuse takes the name of a trace from whichever span
//! said one last, so ours say none, nor anything else of the trace; what the run has to say of itself stands on its own
//! span. Neither do we set `langfuse.internal.as_root`: before issue 15860 was mended, a server made the trace's name,
//! input and output those of any span so marked.
//!
//! But Langfuse's fourth version lists a trace by its heads, spans without a parent or with
//! `langfuse.internal.is_app_root`, and whether the caller's span ever reaches Langfuse cannot be known here. If it does
//! not, a trace without a head is on no list. So the run's span says that it is one, as Langfuse's SDKs mark what they
//! export below a foreign parent; and as with them, it does not where the caller's BAGGAGE has the trace's id under
//! `langfuse_trace_id`, by which such an SDK says that there is a head already (source of the Python SDK, 5.0.4).

use std::time::Duration;

use opentelemetry::Value;

use super::rules::{
    ANY, Edit, Object, Role, Rule, Usage, add, apply, count, list_tags, number, set_aside,
    show_exchange, text,
};
use crate::session::id;
use crate::session::semconv::key;
use crate::session::span::{FinishedSpan, SpanStatus};

/// The member of BAGGAGE by which Langfuse's SDKs say in which trace they have made a head.
pub(super) const CLAIM: &str = "langfuse_trace_id";

const TYPE: &str = "langfuse.observation.type";
const LEVEL: &str = "langfuse.observation.level";

const RULES: &[Rule] = &[
    (&[Role::Run, Role::Helper], Edit::Word(TYPE, "span")),
    (&[Role::Agent], Edit::Word(TYPE, "agent")),
    (&[Role::Chat], Edit::Word(TYPE, "generation")),
    (&[Role::Tool], Edit::Word(TYPE, "tool")),
    // Where a user's own session id is not given, the conversation is the session.
    (
        ANY,
        Edit::Copy(key::GEN_AI_CONVERSATION_ID, key::SESSION_ID),
    ),
];

/// What is said of a trace, if it is the run's own.
const OF_TRACE: &[Rule] = &[
    (ANY, Edit::Copy(key::RUN_AGENT, "langfuse.trace.name")),
    (
        &[Role::Run],
        Edit::Copy(key::RUN_ID, "langfuse.trace.metadata.run_id"),
    ),
    (
        &[Role::Run],
        Edit::Copy(key::OUTCOME, "langfuse.trace.metadata.outcome"),
    ),
    (
        &[Role::Run],
        Edit::Copy(key::ERROR_TYPE, "langfuse.trace.metadata.failure"),
    ),
];

/// Taken for input, output, model or name wherever they stand (source: `extractInputAndOutput`, `extractName`,
/// `extractModelName`, `extractModelParameters`).
const HIJACKED: &[&str] = &[
    "model",
    "input",
    "output",
    "prompt",
    "events",
    "all_messages_events",
    "tool_arguments",
    "tool_response",
    "model_config",
    "final_result",
    "operation.name",
    "logfire.msg",
];

const HIJACKED_PREFIXES: &[&str] = &[
    "gen_ai.prompt",
    "gen_ai.completion",
    "llm.input_messages",
    "llm.output_messages",
    "llm.token_count",
    "traceloop.entity.",
    "mlflow.span",
    "lk.",
    "ai.",
    "gcp.vertex.agent.",
];

pub(super) fn span(span: FinishedSpan) -> FinishedSpan {
    let is_head = span.parent_is_remote;
    let mut span = guest(span);
    if is_head {
        add(&mut span, "langfuse.internal.is_app_root", true);
    }
    span
}

/// As [`span`], where the caller's trace has a head already.
pub(super) fn guest(mut span: FinishedSpan) -> FinishedSpan {
    set_aside(&mut span, "langfuse.observation.metadata.", |key| {
        HIJACKED.contains(&key) || HIJACKED_PREFIXES.iter().any(|it| key.starts_with(it))
    });
    apply(RULES, &mut span);
    if is_own_trace(&span) {
        apply(OF_TRACE, &mut span);
    }
    list_tags(&mut span, "langfuse.trace.tags");
    show_exchange(&mut span);
    if let Some(level) = level(&span) {
        add(&mut span, LEVEL, level);
    }
    if let Some(usage) = Usage::of(&span) {
        let details = usage_details(usage);
        add(&mut span, "langfuse.observation.usage_details", details);
    }
    if let Some(details) = cost_details(&span) {
        add(&mut span, "langfuse.observation.cost_details", details);
    }
    if let Some(time) = first_chunk(&span) {
        let key = "langfuse.observation.completion_start_time";
        add(&mut span, key, time);
    }
    span
}

/// A run without a caller gives its trace the id itself, and so does one that was forked.
fn is_own_trace(span: &FinishedSpan) -> bool {
    text(span, key::RUN_ID).is_some_and(|run_id| id::trace_id(run_id) == span.trace_id)
}

/// An error is one by its status; what is odd but no error is worth a look.
fn level(span: &FinishedSpan) -> Option<&'static str> {
    let role = Role::of(span);
    let cancelled = role == Role::Run && text(span, key::OUTCOME) == Some("cancelled");
    let retried = role == Role::Chat && count(span, key::RETRIES).is_some_and(|count| count > 0);
    match span.status {
        SpanStatus::Error { .. } => Some("ERROR"),
        _ if cancelled || retried => Some("WARNING"),
        _ => None,
    }
}

/// Its price table knows these names; only with them is a cache write of an hour priced as one.
fn usage_details(usage: Usage) -> String {
    Object::default()
        .with("input", usage.fresh())
        .with_some("output", usage.output)
        .with_count("input_cache_read", usage.cache_read)
        .with_count("input_cache_creation_5m", usage.cache_write_5m)
        .with_count("input_cache_creation_1h", usage.cache_write_1h)
        .with_count("input_cache_creation", usage.cache_write)
        .text()
}

/// What we reckon a call costs. Without it Langfuse reckons by its own table.
fn cost_details(span: &FinishedSpan) -> Option<String> {
    if Role::of(span) != Role::Chat {
        return None;
    }
    let total = number(span, key::COST_USD)?;
    let part = |key| number(span, key);
    let details = Object::default()
        .with("total", total)
        .with_some("input", part(key::COST_INPUT_USD))
        .with_some("output", part(key::COST_OUTPUT_USD))
        .with_some("input_cache_read", part(key::COST_CACHE_READ_USD))
        .with_some(
            // Writes of unknown life are reckoned as five-minute ones, and stand where their tokens do.
            match Usage::of(span) {
                Some(usage) if usage.cache_write > 0 => "input_cache_creation",
                _ => "input_cache_creation_5m",
            },
            part(key::COST_CACHE_CREATION_5M_USD),
        )
        .with_some(
            "input_cache_creation_1h",
            part(key::COST_CACHE_CREATION_1H_USD),
        );
    Some(details.text())
}

/// When the answer began. A chat carried into a fork began before its span did, so the time is kept within the span.
fn first_chunk(span: &FinishedSpan) -> Option<Value> {
    let seconds = number(span, key::GEN_AI_TIME_TO_FIRST_CHUNK)?;
    let after = Duration::try_from_secs_f64(seconds).ok()?;
    Some(span.start.plus(after).min(span.end).to_string().into())
}
