//! Table tests by kind of line, real streams, and properties of any line.

mod agents;
mod messages;
mod outcomes;
mod properties;
mod recordings;
mod results;
mod system;

use super::*;
use crate::agent::event::*;

fn event(line: &str) -> AgentEvent<'_> {
    match decode(line.as_bytes()) {
        Decoded::Event(event) => event,
        other => panic!("{other:?}: {line}"),
    }
}

fn is_note(line: &str, kind: &str) {
    assert_eq!(event(line), note(kind.into()), "{line}");
}

#[track_caller]
fn assistant(line: &str) -> Assistant<'_> {
    match event(line) {
        AgentEvent::Assistant(assistant) => assistant,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn user(line: &str) -> User<'_> {
    match event(line) {
        AgentEvent::User(user) => user,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn result(line: &str) -> ResultMessage<'_> {
    match event(line) {
        AgentEvent::Result(result) => *result,
        other => panic!("{other:?}"),
    }
}

fn text(text: &str) -> Option<Text<'_>> {
    Some(text.into())
}

fn kind(decoded: &Decoded<'_>) -> &'static str {
    match decoded {
        Decoded::Unrecognised => "unrecognised",
        Decoded::Text => "text",
        Decoded::Forged => "forged",
        Decoded::Event(event) => match event {
            AgentEvent::Init(_) => "init",
            AgentEvent::Assistant(_) => "assistant",
            AgentEvent::User(_) => "user",
            AgentEvent::Stream(_) => "stream",
            AgentEvent::Result(_) => "result",
            AgentEvent::Status(_) => "status",
            AgentEvent::CompactBoundary(_) => "compact_boundary",
            AgentEvent::ApiRetry(_) => "api_retry",
            AgentEvent::SessionState(_) => "session_state",
            AgentEvent::TaskStarted(_) => "task_started",
            AgentEvent::TaskEnded(_) => "task_ended",
            AgentEvent::HookStarted(_) => "hook_started",
            AgentEvent::HookResponse(_) => "hook_response",
            AgentEvent::PermissionDenied { .. } => "permission_denied",
            AgentEvent::ApprovalRequest(_) => "approval_request",
            AgentEvent::ApprovalDecision(_) => "approval_decision",
            AgentEvent::RateLimit(_) => "rate_limit",
            AgentEvent::Start { .. } => "start",
            AgentEvent::Error { .. } => "error",
            AgentEvent::Complete { .. } => "complete",
            AgentEvent::Note { .. } => "note",
        },
    }
}
