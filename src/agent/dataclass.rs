//! The Python SDK's dataclasses, printed as JSON by an agent.
//!
//! An agent that tags them prints `{"type":"AssistantMessage",…}`; `dataclasses.asdict` alone prints neither the name
//! of the class nor those of the blocks, so the message is told by its shape. System messages carry the CLI's whole
//! object in `data`.

use super::decode::{Members, Top, note};
use super::event::AgentEvent;
use super::json::Json;
use super::{message, result, system};

/// A message with its class name in `type`.
pub(super) fn tagged<'a>(class: &str, members: &Members<'a>) -> Option<AgentEvent<'a>> {
    let top = &members.top;
    match class {
        "StreamEvent" => message::stream(top),
        "AssistantMessage" => message::assistant(top),
        "UserMessage" => message::user(top),
        "ResultMessage" => result::result(top),
        "RateLimitEvent" => result::rate_limit(top),
        "ConversationResetMessage" => Some(note("conversation_reset".into())),
        "SystemMessage"
        | "TaskStartedMessage"
        | "TaskProgressMessage"
        | "TaskUpdatedMessage"
        | "TaskNotificationMessage"
        | "HookEventMessage"
        | "MirrorErrorMessage" => system::event(wire_object(members)),
        _ => None,
    }
}

/// A message without any name.
pub(super) fn plain<'a>(members: &Members<'a>) -> Option<AgentEvent<'a>> {
    let top = &members.top;
    if top.num_turns.is_present() {
        result::result(top)
    } else if top.event.is_object() {
        message::stream(top)
    } else if top.subtype.is_string() && top.data.is_object() {
        system::event(top.data)
    } else if top.rate_limit_info.is_object() {
        result::rate_limit(top)
    } else if top.new_conversation_id.is_string() {
        Some(note("conversation_reset".into()))
    } else if top.model.is_string() && top.content.is_array() {
        message::assistant(top)
    } else if is_user(top) {
        message::user(top)
    } else {
        None
    }
}

/// `content` alone would claim too many of an agent's own lines; `asdict` prints every field of the class, null or not.
fn is_user(top: &Top<'_>) -> bool {
    top.content.is_present() && top.parent_tool_use_id.is_present() && !top.model.is_present()
}

/// The CLI's object, or the message itself where the agent left `data` out.
fn wire_object<'a>(members: &Members<'a>) -> Json<'a> {
    if members.top.data.is_object() {
        members.top.data
    } else {
        members.object
    }
}
