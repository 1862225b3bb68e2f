//! The CLI's own stream: `claude --output-format stream-json`.
//!
//! A line is told by its `type`, a `system` line further by its `subtype`. This is also where the names of all events
//! come from: the other dialects are this one with members renamed or dropped.

use super::decode::{Members, Top, note, note_on};
use super::event::{AgentEvent, ApiRetry, ApprovalDecision, ApprovalRequest, Decision};
use super::json::fields;
use super::{message, result, system};

pub(super) fn event<'a>(kind: &str, members: &Members<'a>) -> Option<AgentEvent<'a>> {
    let top = &members.top;
    match kind {
        "stream_event" => message::stream(top),
        "assistant" => message::assistant(top),
        "user" => message::user(top),
        "system" => system::event(members.object),
        "result" => result::result(top),
        "rate_limit_event" => result::rate_limit(top),
        "tool_progress" => Some(tool_progress(top)),
        "control_request" => Some(control_request(top)),
        "control_response" => Some(control_response(top)),
        // Named in the CLI and the SDK; nothing in them starts or ends anything.
        "api_metrics"
        | "auth_status"
        | "command_lifecycle"
        | "control_cancel_request"
        | "conversation_reset"
        | "keep_alive"
        | "prompt_suggestion"
        | "streamlined_text"
        | "streamlined_tool_use_summary"
        | "tombstone"
        | "tool_use_summary"
        | "transcript_mirror" => Some(note(top.kind.text_or_empty())),
        _ => None,
    }
}

fields! {
    SubagentRetry {
        attempt: "attempt",
        max_retries: "max_retries",
        retry_delay_ms: "retry_delay_ms",
        error_status: "error_status",
        error_category: "error_category",
    }
}

/// A heartbeat of a long tool, whose `parent_tool_use_id` is the tool itself, or a retry inside a subagent, whose
/// `parent_tool_use_id` is the call that started it.
fn tool_progress<'a>(top: &Top<'a>) -> AgentEvent<'a> {
    if !top.subagent_retry.is_object() {
        return note_on(top.kind.text_or_empty(), top.parent_tool_use_id.text());
    }
    let retry: SubagentRetry<'_> = top.subagent_retry.fields();
    AgentEvent::ApiRetry(ApiRetry {
        parent_tool_use_id: top.parent_tool_use_id.text(),
        attempt: retry.attempt.unsigned(),
        max_retries: retry.max_retries.unsigned(),
        retry_delay_ms: retry.retry_delay_ms.number(),
        error_status: retry.error_status.status(),
        error: retry.error_category.text(),
        no_response: None,
    })
}

fields! {
    Request {
        subtype: "subtype",
        tool_use_id: "tool_use_id",
        tool_name: "tool_name",
    }
}

fn control_request<'a>(top: &Top<'a>) -> AgentEvent<'a> {
    let request: Request<'_> = top.request.fields();
    if request.subtype.text().as_deref() != Some("can_use_tool") {
        return note(top.kind.text_or_empty());
    }
    AgentEvent::ApprovalRequest(ApprovalRequest {
        id: top.request_id.text_or_empty(),
        tool_use_id: request.tool_use_id.text(),
        tool_name: request.tool_name.text(),
    })
}

fields! {
    Response {
        request_id: "request_id",
        response: "response",
    }
}

fields! {
    Permission {
        behavior: "behavior",
        message: "message",
    }
}

/// Every answer to a control request has this type; only one to `can_use_tool` has a `behavior`.
fn control_response<'a>(top: &Top<'a>) -> AgentEvent<'a> {
    let response: Response<'_> = top.response.fields();
    let permission: Permission<'_> = response.response.fields();
    match permission.behavior.text().as_deref().and_then(decision) {
        Some(decision) => AgentEvent::ApprovalDecision(ApprovalDecision {
            id: response.request_id.text_or_empty(),
            decision,
            by: None,
            reason: permission.message.text(),
        }),
        None => note(top.kind.text_or_empty()),
    }
}

/// The words for a permission decision: the wire's, the metadata's and agent.py's.
pub(super) fn decision(word: &str) -> Option<Decision> {
    match word {
        "allow" | "accept" | "approve" | "approved" | "allowed" => Some(Decision::Allow),
        "deny" | "reject" | "denied" | "rejected" => Some(Decision::Deny),
        _ => None,
    }
}
