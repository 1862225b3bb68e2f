//! The GenAI conventions as drafted after 1.41, by their own migration guide (`semantic-conventions-genai`, 2026-11):
//! `reference/observability.md` §1.1, column C.
//!
//! Chosen by OTEL_SEMCONV_STABILITY_OPT_IN, and applied before any dialect. A backend known to read the old name alone
//! is given it back by its dialect, so that opting in costs nobody its cache figures. The guide's other changes are
//! of metrics, or of attributes that our spans do not have.

use super::rules::{CACHE_WRITE, Edit, Role, Rule, apply};
use crate::session::semconv::key;
use crate::session::span::FinishedSpan;

const RULES: &[Rule] = &[
    (
        &[Role::Chat],
        Edit::Move(key::GEN_AI_CACHE_CREATION, CACHE_WRITE),
    ),
    (&[Role::Agent], Edit::Drop(key::GEN_AI_PROVIDER)),
    (&[Role::Agent], Edit::Drop("gen_ai.agent.id")),
    (&[Role::Agent], Edit::Drop("gen_ai.agent.version")),
];

pub(super) fn span(mut span: FinishedSpan) -> FinishedSpan {
    apply(RULES, &mut span);
    span
}
