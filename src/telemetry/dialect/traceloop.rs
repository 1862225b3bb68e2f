//! Traceloop. Its server is closed: the attributes are those that its SDK, `OpenLLMetry`, writes (source); that it reads
//! them beside GenAI's, and what its pages make of them, is its documentation's word.
//!
//! A workflow has agents and tools in it, each an entity with a name; session and user are association properties, by
//! which, it says, its pages filter.

use super::rules::{ANY, Edit, Object, Role, Rule, add, apply, has_messages, take, text};
use crate::session::semconv::key;
use crate::session::span::FinishedSpan;

const KIND: &str = "traceloop.span.kind";
const ENTITY: &str = "traceloop.entity.name";

const RULES: &[Rule] = &[
    (&[Role::Run], Edit::Word(KIND, "workflow")),
    (&[Role::Agent], Edit::Word(KIND, "agent")),
    (&[Role::Tool], Edit::Word(KIND, "tool")),
    (&[Role::Helper], Edit::Word(KIND, "task")),
    (&[Role::Chat], Edit::Word("llm.request.type", "chat")),
    (ANY, Edit::Copy(key::RUN_AGENT, "traceloop.workflow.name")),
    (&[Role::Run], Edit::Copy(key::RUN_AGENT, ENTITY)),
    (&[Role::Agent], Edit::Copy(key::GEN_AI_AGENT_NAME, ENTITY)),
    (&[Role::Tool], Edit::Copy(key::GEN_AI_TOOL_NAME, ENTITY)),
    (
        ANY,
        Edit::Copy(
            key::SESSION_ID,
            "traceloop.association.properties.session_id",
        ),
    ),
    (
        ANY,
        Edit::Copy(key::USER_ID, "traceloop.association.properties.user_id"),
    ),
    (
        ANY,
        Edit::Copy(key::RUN_ID, "traceloop.association.properties.run_id"),
    ),
];

pub(super) fn span(mut span: FinishedSpan) -> FinishedSpan {
    apply(RULES, &mut span);
    if Role::of(&span) == Role::Agent && !has_messages(&span) {
        let both = text(&span, key::PROMPT_PREVIEW).zip(text(&span, key::ANSWER_PREVIEW));
        if let Some((prompt, answer)) = both {
            // As its decorators write them: the arguments of a call, and what it returned.
            let input = Object::default().with("prompt", prompt).text();
            let output = serde_json::Value::from(answer).to_string();
            take(&mut span, key::PROMPT_PREVIEW);
            take(&mut span, key::ANSWER_PREVIEW);
            add(&mut span, "traceloop.entity.input", input);
            add(&mut span, "traceloop.entity.output", output);
        }
    }
    span
}
