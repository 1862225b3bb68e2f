//! `SigNoz`, by its documentation (AI Observability, telemetry requirements) and the source behind
//! `reference/observability.md` §2.1.
//!
//! It counts a span with a request model as a call of the model, one with a tool name as a call of a tool, and sums
//! tokens over all spans: the base is made for that. The time to the first token it reads under a name of its own, in
//! seconds, and cache writes under their name of 1.41 alone.

use super::rules::{CACHE_WRITE, Edit, Role, Rule, apply};
use crate::session::semconv::key;
use crate::session::span::FinishedSpan;

const RULES: &[Rule] = &[
    (
        &[Role::Chat],
        Edit::Copy(key::GEN_AI_TIME_TO_FIRST_CHUNK, "gen_ai.server.ttft"),
    ),
    (
        &[Role::Chat],
        Edit::Copy(CACHE_WRITE, key::GEN_AI_CACHE_CREATION),
    ),
];

pub(super) fn span(mut span: FinishedSpan) -> FinishedSpan {
    apply(RULES, &mut span);
    span
}
