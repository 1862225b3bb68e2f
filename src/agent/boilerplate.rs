//! Events that agents write themselves: the E2B boilerplate's `{"type":T,"data":{…}}` and its session mode, and the
//! approvals of our own template's agent.py.
//!
//! The boilerplate gives no message ids, and its session mode no tool ids either. Untyped lines are claimed only in
//! the exact shape the boilerplate prints: `event` is also the key in which structlog puts a log line's text.

use super::block::{self, Block as RawBlock, Kind};
use super::cli::decision;
use super::decode::Top;
use super::event::{
    AgentEvent, ApprovalDecision, ApprovalRequest, Assistant, Block, ResultMessage, ToolResult,
    User,
};
use super::json::fields;
use super::usage;

fields! {
    Data {
        prompt: "prompt",
        status: "status",
        message: "message",
        error: "error",
        result: "result",
        duration_ms: "duration_ms",
        cost: "cost",
        num_turns: "num_turns",
        usage: "usage",
        tool_uses: "tool_uses",
        turn_id: "turn_id",
        id: "id",
        tool_use_id: "tool_use_id",
        tool_name: "tool_name",
        decision: "decision",
        by: "by",
        reason: "reason",
    }
}

/// A line with a `type` that neither the CLI nor the SDK claimed.
pub(super) fn event<'a>(kind: &str, top: &Top<'a>) -> Option<AgentEvent<'a>> {
    if kind == "error" {
        return error(top);
    }
    if !top.data.is_object() {
        return None;
    }
    match kind {
        "text" => Some(assistant(block::block(Kind::Text, &top.data.fields()))),
        "thinking" => Some(assistant(block::block(Kind::Thinking, &top.data.fields()))),
        "tool_use" => Some(assistant(block::block(Kind::ToolUse, &top.data.fields()))),
        "tool_result" => Some(one_result(block::tool_result(&top.data.fields()))),
        _ => {
            let data: Data<'_> = top.data.fields();
            match kind {
                "start" => Some(AgentEvent::Start {
                    prompt: data.prompt.text(),
                }),
                "result" => Some(result(&data)),
                "complete" => Some(AgentEvent::Complete {
                    success: data.status.text().as_deref() == Some("success"),
                }),
                "approval_request" => Some(AgentEvent::ApprovalRequest(ApprovalRequest {
                    id: data.id.text_or_empty(),
                    tool_use_id: data.tool_use_id.text(),
                    tool_name: data.tool_name.text(),
                })),
                "approval_decision" => approval_decision(&data),
                _ => None,
            }
        }
    }
}

/// A line without a `type`.
pub(super) fn untyped<'a>(top: &Top<'a>) -> Option<AgentEvent<'a>> {
    match top.event.text().as_deref() {
        Some("tool_use") if top.name.is_string() && top.input.is_present() => {
            let fields = RawBlock {
                name: top.name,
                input: top.input,
                ..RawBlock::default()
            };
            Some(assistant(block::block(Kind::ToolUse, &fields)))
        }
        Some("tool_result") if top.content.is_present() => {
            Some(one_result(block::tool_result(&RawBlock {
                content: top.content,
                is_error: top.is_error,
                ..RawBlock::default()
            })))
        }
        // The only line that ends a turn in session mode.
        Some("complete") => {
            let data: Data<'_> = top.data.fields();
            let known = data.result.or(data.tool_uses).or(data.turn_id);
            known.is_present().then(|| result(&data))
        }
        // Basic mode prints this line and no other.
        None if top.result.is_present() && top.usage.is_present() => Some(result(&Data {
            result: top.result,
            usage: top.usage,
            ..Data::default()
        })),
        _ => None,
    }
}

fn assistant(block: Block<'_>) -> AgentEvent<'_> {
    AgentEvent::Assistant(Assistant {
        blocks: vec![block],
        ..Assistant::default()
    })
}

fn one_result(result: ToolResult<'_>) -> AgentEvent<'_> {
    AgentEvent::User(User {
        results: vec![result],
        ..User::default()
    })
}

fn result<'a>(data: &Data<'a>) -> AgentEvent<'a> {
    AgentEvent::Result(Box::new(ResultMessage {
        subtype: "success".into(),
        num_turns: data.num_turns.unsigned(),
        duration_ms: data.duration_ms.unsigned(),
        result: data.result.text(),
        total_cost_usd: data.cost.number(),
        usage: usage::usage(data.usage),
        ..ResultMessage::default()
    }))
}

/// In the boilerplate `data.error` is the constant `exception`; elsewhere it may be all there is.
fn error<'a>(top: &Top<'a>) -> Option<AgentEvent<'a>> {
    let data: Data<'_> = top.data.fields();
    let nested: Data<'_> = top.error.fields();
    let message = data
        .message
        .or(top.message)
        .or(nested.message)
        .or(data.error)
        .or(top.error)
        .text()?;
    Some(AgentEvent::Error { message })
}

fn approval_decision<'a>(data: &Data<'a>) -> Option<AgentEvent<'a>> {
    Some(AgentEvent::ApprovalDecision(ApprovalDecision {
        id: data.id.text_or_empty(),
        decision: decision(&data.decision.text()?)?,
        by: data.by.text(),
        reason: data.reason.text(),
    }))
}
