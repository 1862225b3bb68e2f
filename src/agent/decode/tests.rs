mod dialects;
mod properties;
mod recordings;

use super::{AgentEvent, Decoded};

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
