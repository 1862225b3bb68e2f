//! Messages of the conversation: assistant, user and the raw API events between them.
//!
//! The CLI wraps the API's message in `message`; the SDK's dataclasses have the same members one level up and call
//! some of them otherwise. So both are read here, the inner place first.

use super::block::{self, Kind};
use super::cli::decision;
use super::decode::Top;
use super::event::{AgentEvent, Assistant, StreamEvent, StreamKind, ToolResult, User};
use super::json::fields;
use super::usage;

const INTERRUPTED: &str = "[Request interrupted by user";

fields! {
    Message {
        id: "id",
        model: "model",
        content: "content",
        usage: "usage",
        stop_reason: "stop_reason",
    }
}

pub(super) fn assistant<'a>(top: &Top<'a>) -> Option<AgentEvent<'a>> {
    if !top.message.is_object() && !top.content.is_present() {
        return None;
    }
    let message: Message<'_> = top.message.fields();
    Some(AgentEvent::Assistant(Assistant {
        message_id: message.id.or(top.message_id).text(),
        model: message.model.or(top.model).text(),
        parent_tool_use_id: top.parent_tool_use_id.text(),
        blocks: block::blocks(message.content.or(top.content)),
        usage: usage::usage(message.usage.or(top.usage)),
        stop_reason: message.stop_reason.or(top.stop_reason).text(),
        session_id: top.session_id.text(),
        request_id: top.request_id.text(),
        error: top.error.text(),
        api_error: top.api_error.text(),
        api_error_type: top.api_error_type.text(),
        api_error_status: top.api_error_status.status(),
    }))
}

pub(super) fn user<'a>(top: &Top<'a>) -> Option<AgentEvent<'a>> {
    if !top.message.is_object() && !top.content.is_present() {
        return None;
    }
    let message: Message<'_> = top.message.fields();
    let content = message.content.or(top.content);
    let mut results = Vec::new();
    let mut text = content.text();
    block::each(content, &mut |kind, fields| match kind {
        Kind::ToolResult => results.push(block::tool_result(fields)),
        Kind::Text if text.is_none() => text = fields.text.text(),
        _ => {}
    });
    complete_results(&mut results, top);
    Some(AgentEvent::User(User {
        parent_tool_use_id: top.parent_tool_use_id.text(),
        results,
        interrupted: text
            .as_deref()
            .is_some_and(|text| text.starts_with(INTERRUPTED)),
        text,
        synthetic: top.synthetic.is_true(),
        session_id: top.session_id.text(),
    }))
}

fields! {
    Outcome {
        background_task_id: "backgroundTaskId",
        is_async: "isAsync",
        interrupted: "interrupted",
    }
}

fields! {
    Meta {
        id: "id",
        permission_decision: "permission_decision",
    }
}

fields! {
    PermissionDecision {
        decision: "decision",
        source: "source",
    }
}

/// Adds what the line says about the results beside their blocks.
fn complete_results<'a>(results: &mut [ToolResult<'a>], top: &Top<'a>) {
    // `tool_use_result` has no id: it means the line's only result.
    if let [result] = results {
        let outcome: Outcome<'_> = top.tool_use_result.fields();
        result.background = outcome.background_task_id.is_string() || outcome.is_async.is_true();
        result.interrupted = outcome.interrupted.is_true();
    }
    top.tool_result_meta.elements(&mut |element| {
        let meta: Meta<'_> = element.fields();
        let permission: PermissionDecision<'_> = meta.permission_decision.fields();
        let id = meta.id.text_or_empty();
        if let Some(result) = results.iter_mut().find(|result| result.tool_use_id == id) {
            result.decision = permission.decision.text().as_deref().and_then(decision);
            result.decision_source = permission.source.text();
        }
    });
}

fields! {
    ApiEvent {
        kind: "type",
        message: "message",
        delta: "delta",
        usage: "usage",
    }
}

pub(super) fn stream<'a>(top: &Top<'a>) -> Option<AgentEvent<'a>> {
    if !top.event.is_object() {
        return None;
    }
    let event: ApiEvent<'_> = top.event.fields();
    let kind = match event.kind.text().as_deref() {
        Some("content_block_delta" | "content_block_start") => StreamKind::Content,
        Some("message_start") => {
            let message: Message<'_> = event.message.fields();
            StreamKind::MessageStart {
                message_id: message.id.or(top.api_message_id).text_or_empty(),
                model: message.model.text(),
                usage: usage::usage(message.usage),
            }
        }
        Some("message_delta") => {
            let delta: Message<'_> = event.delta.fields();
            StreamKind::MessageDelta {
                stop_reason: delta.stop_reason.text(),
                usage: usage::usage(event.usage),
            }
        }
        Some("message_stop") => StreamKind::MessageStop,
        _ => StreamKind::Other,
    };
    Some(AgentEvent::Stream(StreamEvent {
        parent_tool_use_id: top.parent_tool_use_id.text(),
        kind,
    }))
}
