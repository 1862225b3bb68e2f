//! What closes a turn, and what limits it.

use super::decode::Top;
use super::event::{AgentEvent, RateLimit, ResultMessage, Text};
use super::json::{Json, fields};
use super::usage;

fields! {
    Denial {
        tool_use_id: "tool_use_id",
    }
}

fields! {
    Origin {
        kind: "kind",
    }
}

fields! {
    SubagentStats {
        spawned: "spawned",
    }
}

/// An agent may well print a `result` of its own; the CLI's always says how it ended.
pub(super) fn result<'a>(top: &Top<'a>) -> Option<AgentEvent<'a>> {
    if !top.subtype.is_string() && !top.is_error.is_present() {
        return None;
    }
    let origin: Origin<'_> = top.origin.fields();
    let stats: SubagentStats<'_> = top.subagent_stats.fields();
    Some(AgentEvent::Result(Box::new(ResultMessage {
        subtype: top.subtype.text_or_empty(),
        is_error: top.is_error.is_true(),
        api_error_status: top.api_error_status.status(),
        terminal_reason: top.terminal_reason.text(),
        stop_reason: top.stop_reason.text(),
        num_turns: top.num_turns.unsigned(),
        duration_ms: top.duration_ms.unsigned(),
        duration_api_ms: top.duration_api_ms.unsigned(),
        result: top.result.text(),
        errors: texts(top.errors),
        total_cost_usd: top.total_cost_usd.number(),
        usage: usage::usage(top.usage),
        model_usage: usage::by_model(top.model_usage),
        model_usage_delta: usage::by_model(top.model_usage_delta),
        permission_denials: denials(top.permission_denials),
        session_id: top.session_id.text(),
        origin: origin.kind.text(),
        subagents_spawned: stats.spawned.unsigned(),
    })))
}

fn texts(array: Json<'_>) -> Vec<Text<'_>> {
    let mut texts = Vec::new();
    array.elements(&mut |element| texts.extend(element.text()));
    texts
}

fn denials(array: Json<'_>) -> Vec<Text<'_>> {
    let mut ids = Vec::new();
    array.elements(&mut |element| {
        let denial: Denial<'_> = element.fields();
        ids.extend(denial.tool_use_id.text());
    });
    ids
}

fields! {
    RateLimitInfo {
        status: "status",
        kind: "rateLimitType" | "rate_limit_type",
        resets_at: "resetsAt" | "resets_at",
        utilization: "utilization",
    }
}

pub(super) fn rate_limit<'a>(top: &Top<'a>) -> Option<AgentEvent<'a>> {
    if !top.rate_limit_info.is_object() {
        return None;
    }
    let info: RateLimitInfo<'_> = top.rate_limit_info.fields();
    Some(AgentEvent::RateLimit(RateLimit {
        status: info.status.text_or_empty(),
        rate_limit_type: info.kind.text(),
        resets_at: info.resets_at.unsigned(),
        utilization: info.utilization.number(),
    }))
}
