//! A line becomes an event.
//!
//! The line's outermost object is walked once, and the members that any dialect gives a meaning to are kept unparsed;
//! its `type`, or without one its shape, then says which dialect reads them. Nothing here fails and nothing is repaired:
//! a member of an unexpected type is an absent one, and a line that no dialect claims is [`Decoded::Unrecognised`].

use super::event::{AgentEvent, Text};
use super::json::{Fields, Json, fields};
use super::{boilerplate, cli, dataclass};

/// What a line is. The line itself stays with the caller.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is made for each line and taken apart at once; a box would cost more than the bytes"
)]
pub enum Decoded<'a> {
    /// A JSON object in one of the dialects.
    Event(AgentEvent<'a>),
    /// A JSON object that no dialect knows.
    Unrecognised,
    /// No JSON object: text, another JSON value, invalid UTF-8, a line that was cut off.
    Text,
    /// A JSON object that pretends to be one of our own lines.
    Forged,
}

/// Reads one line, with or without white space (and a `\r`) around it.
pub fn decode(line: &[u8]) -> Decoded<'_> {
    let Some(object) = Json::object(line) else {
        return Decoded::Text;
    };
    let mut members = Members {
        object,
        top: Top::default(),
    };
    let mut forged = false;
    object.members(&mut |key, value| {
        // Each `type` is looked at, not only the last: a reader that takes the first must not be fooled.
        forged |= key == "sandtrace" || (key == "type" && is_ours(value));
        if let Some(slot) = members.top.slot(key) {
            *slot = value;
        }
    });
    if forged {
        return Decoded::Forged;
    }
    match event(&members) {
        Some(event) => Decoded::Event(event),
        None => Decoded::Unrecognised,
    }
}

fn event<'a>(members: &Members<'a>) -> Option<AgentEvent<'a>> {
    match members.top.kind.text() {
        Some(kind) => cli::event(&kind, members)
            .or_else(|| dataclass::tagged(&kind, members))
            .or_else(|| boilerplate::event(&kind, &members.top)),
        None => dataclass::plain(members).or_else(|| boilerplate::untyped(&members.top)),
    }
}

/// The members of a line's outermost object.
#[derive(Debug)]
pub(super) struct Members<'a> {
    /// The line.
    pub(super) object: Json<'a>,
    pub(super) top: Top<'a>,
}

fn is_ours(kind: Json<'_>) -> bool {
    kind.text()
        .is_some_and(|kind| kind.starts_with("sandtrace."))
}

/// A line of a known kind that changes no span.
pub(super) fn note(kind: Text<'_>) -> AgentEvent<'_> {
    AgentEvent::Note {
        kind,
        tool_use_id: None,
    }
}

/// A note about a call.
pub(super) fn note_on<'a>(kind: Text<'a>, tool_use_id: Option<Text<'a>>) -> AgentEvent<'a> {
    AgentEvent::Note { kind, tool_use_id }
}

fields! {
    /// The members of the outermost object that a dialect reads, `system` lines apart: these are rare, have many
    /// members and keep a table of their own.
    Top {
        kind: "type",
        subtype: "subtype",
        data: "data",
        session_id: "session_id",
        uuid: "uuid",
        parent_tool_use_id: "parent_tool_use_id",

        event: "event",
        api_message_id: "api_message_id",

        message: "message",
        message_id: "message_id",
        model: "model",
        content: "content",
        usage: "usage",
        stop_reason: "stop_reason",
        request_id: "request_id",
        error: "error",
        api_error: "api_error",
        api_error_type: "api_error_type",
        api_error_status: "api_error_status",
        tool_use_result: "tool_use_result",
        tool_result_meta: "tool_result_meta",
        synthetic: "isSynthetic" | "is_synthetic",

        is_error: "is_error",
        terminal_reason: "terminal_reason",
        num_turns: "num_turns",
        duration_ms: "duration_ms",
        duration_api_ms: "duration_api_ms",
        result: "result",
        errors: "errors",
        total_cost_usd: "total_cost_usd",
        model_usage: "modelUsage" | "model_usage",
        model_usage_delta: "model_usage_since_last_result",
        permission_denials: "permission_denials",
        origin: "origin",
        subagent_stats: "subagent_stats",

        rate_limit_info: "rate_limit_info",
        subagent_retry: "subagent_retry",
        request: "request",
        response: "response",
        new_conversation_id: "new_conversation_id",
        name: "name",
        input: "input",
    }
}

#[cfg(test)]
mod tests;
