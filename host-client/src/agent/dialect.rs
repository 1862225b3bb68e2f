//! The dialects, each turned into [`Said`]. What is read here is read by the supervisor too (its `src/agent`); the facts
//! are in `reference/agent-streams.md` §2 and §3.
//!
//! Nothing is repaired: a member of an unexpected type is an absent one, and a line of no dialect says nothing.

use std::borrow::Cow;

use serde_json::Value;

use super::said::{
    ApprovalDecision, ApprovalRequest, Decision, Init, Said, ToolResult, ToolUse, TurnResult,
};

static NOTHING: Value = Value::Null;

/// Whether a line of this `type` can change what [`Run`](crate::Run) knows. Tools' results, which may be megabytes, do
/// not.
pub(super) fn concerns_run(kind: Option<&str>) -> bool {
    matches!(
        kind,
        None | Some(
            "assistant"
                | "AssistantMessage"
                | "stream_event"
                | "StreamEvent"
                | "result"
                | "ResultMessage"
                | "system"
                | "SystemMessage"
                | "control_request"
                | "control_response"
                | "text"
                | "approval_request"
                | "approval_decision"
        )
    )
}

/// Whether a line of this `type` brings a tool's result.
pub(super) fn brings_result(kind: Option<&str>) -> bool {
    matches!(kind, Some("user" | "UserMessage" | "tool_result"))
}

/// What a line says.
pub(super) fn said<'a>(kind: Option<&'a str>, line: &'a Value) -> Vec<Said<'a>> {
    let mut said = Vec::new();
    match kind {
        Some("assistant" | "AssistantMessage") => blocks(content(line), &mut said),
        Some("user" | "UserMessage") => user(line, &mut said),
        Some("stream_event" | "StreamEvent") => said.extend(delta(&line["event"])),
        Some("result" | "ResultMessage") if line["data"].is_object() => {
            said.push(Said::Result(Box::new(boilerplate_result(&line["data"]))));
        }
        Some("result" | "ResultMessage") => said.push(Said::Result(Box::new(result(line)))),
        Some("control_request") => said.extend(control_request(line)),
        Some("control_response") => said.extend(control_response(line)),
        Some("error") => said.extend(error(line).map(Said::Error)),
        Some("system") => said.push(system(line)),
        Some(class) if class.ends_with("Message") && line["subtype"].is_string() => {
            // The SDK keeps the CLI's whole object in `data`.
            let data = &line["data"];
            said.push(system(if data.is_object() { data } else { line }));
        }
        Some(kind) if line["data"].is_object() => said.extend(boilerplate(kind, &line["data"])),
        Some(kind) => said.push(Said::Other(kind)),
        None => untyped(line, &mut said),
    }
    said
}

/// The CLI wraps the API's message; the SDK's dataclasses have its members one level up.
fn content(line: &Value) -> &Value {
    match &line["message"]["content"] {
        Value::Null => &line["content"],
        content => content,
    }
}

fn blocks<'a>(content: &'a Value, said: &mut Vec<Said<'a>>) {
    match content {
        Value::String(text) => said.push(Said::Text(text)),
        Value::Array(blocks) => said.extend(blocks.iter().filter_map(block)),
        _ => {}
    }
}

fn user<'a>(line: &'a Value, said: &mut Vec<Said<'a>>) {
    let start = said.len();
    blocks(content(line), said);
    for said in &mut said[start..] {
        if let Said::Text(text) = *said {
            *said = Said::UserText(text);
        }
    }
}

/// A block says what it is by the API's name, by the SDK's class or, printed by `dataclasses.asdict`, only by its keys.
fn block(block: &Value) -> Option<Said<'_>> {
    if !block.is_object() {
        return None;
    }
    let has = |key: &str| block.get(key).is_some();
    let kind = match block["type"].as_str() {
        Some(kind) => kind,
        None if has("tool_use_id") => "tool_result",
        None if has("name") && has("input") => "tool_use",
        None if has("thinking") => "thinking",
        None if has("text") => "text",
        None => "",
    };
    Some(match kind {
        "text" | "TextBlock" => Said::Text(text(&block["text"])),
        "thinking" | "ThinkingBlock" => Said::Thinking(text(&block["thinking"])),
        "tool_use" | "ToolUseBlock" => Said::ToolUse(tool_use(block)),
        "tool_result" | "ToolResultBlock" => Said::ToolResult(tool_result(block)),
        kind => Said::Other(kind),
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn tool_use(block: &Value) -> ToolUse<'_> {
    ToolUse {
        id: text(&block["id"]),
        name: text(&block["name"]),
        input: &block["input"],
    }
}

fn tool_result(block: &Value) -> ToolResult<'_> {
    ToolResult {
        tool_use_id: text(&block["tool_use_id"]),
        text: texts(&block["content"]),
        is_error: block["is_error"] == true,
    }
}

fn texts(content: &Value) -> Cow<'_, str> {
    let Value::Array(blocks) = content else {
        return text(content).into();
    };
    let mut texts = blocks.iter().filter_map(|block| block["text"].as_str());
    match (texts.next(), texts.next()) {
        (first, None) => first.unwrap_or_default().into(),
        (first, second) => {
            let all: Vec<&str> = first.into_iter().chain(second).chain(texts).collect();
            all.join("\n").into()
        }
    }
}

fn delta(event: &Value) -> Option<Said<'_>> {
    let delta = &event["delta"];
    match (event["type"].as_str()?, delta["type"].as_str()?) {
        ("content_block_delta", "text_delta") => Some(Said::TextDelta(text(&delta["text"]))),
        ("content_block_delta", "thinking_delta") => {
            Some(Said::ThinkingDelta(text(&delta["thinking"])))
        }
        _ => None,
    }
}

fn result(line: &Value) -> TurnResult<'_> {
    let errors = line["errors"].as_array();
    TurnResult {
        text: line["result"].as_str(),
        is_error: line["is_error"] == true,
        subtype: line["subtype"].as_str(),
        terminal_reason: line["terminal_reason"].as_str(),
        errors: errors.map_or_else(Vec::new, |errors| {
            errors.iter().filter_map(Value::as_str).collect()
        }),
        session_id: line["session_id"].as_str(),
        total_cost_usd: line["total_cost_usd"].as_f64(),
        num_turns: line["num_turns"].as_u64(),
        duration_ms: line["duration_ms"].as_u64(),
        structured_output: line
            .get("structured_output")
            .filter(|output| !output.is_null()),
    }
}

fn system(object: &Value) -> Said<'_> {
    match object["subtype"].as_str() {
        Some("init") => Said::Init(Init {
            session_id: object["session_id"].as_str(),
            model: object["model"].as_str(),
        }),
        Some("session_state_changed") => Said::SessionState(text(&object["state"])),
        subtype => Said::Other(subtype.unwrap_or("system")),
    }
}

fn control_request(line: &Value) -> Option<Said<'_>> {
    let request = &line["request"];
    (request["subtype"] == "can_use_tool").then(|| {
        Said::ApprovalRequest(ApprovalRequest {
            id: text(&line["request_id"]),
            tool_use_id: request["tool_use_id"].as_str(),
            tool_name: request["tool_name"].as_str(),
            input: &request["input"],
            is_answerable: false,
        })
    })
}

fn control_response(line: &Value) -> Option<Said<'_>> {
    let permission = &line["response"]["response"];
    Some(Said::ApprovalDecision(ApprovalDecision {
        id: text(&line["response"]["request_id"]),
        decision: decision(permission["behavior"].as_str()?)?,
        by: None,
        reason: permission["message"].as_str(),
    }))
}

/// The words for a decision: Claude Code's, its metadata's and agent.py's.
fn decision(word: &str) -> Option<Decision> {
    match word {
        "allow" | "accept" | "approve" | "approved" | "allowed" => Some(Decision::Allow),
        "deny" | "reject" | "denied" | "rejected" => Some(Decision::Deny),
        _ => None,
    }
}

/// In the boilerplate `data.error` is the constant `exception`; elsewhere it may be all there is.
fn error(line: &Value) -> Option<&str> {
    let data = &line["data"];
    [
        &data["message"],
        &line["message"],
        &line["error"]["message"],
        &data["error"],
        &line["error"],
    ]
    .into_iter()
    .find_map(Value::as_str)
}

/// `{"type":T,"data":{…}}`: E2B's boilerplate, and the approvals of agent.py.
fn boilerplate<'a>(kind: &'a str, data: &'a Value) -> Option<Said<'a>> {
    Some(match kind {
        "text" => Said::Text(text(&data["text"])),
        "thinking" => Said::Thinking(text(&data["thinking"])),
        "tool_use" => Said::ToolUse(tool_use(data)),
        "tool_result" => Said::ToolResult(tool_result(data)),
        "start" => Said::Init(Init::default()),
        "complete" if data["status"] != "success" => Said::Result(Box::new(TurnResult {
            is_error: true,
            ..TurnResult::default()
        })),
        "approval_request" => Said::ApprovalRequest(ApprovalRequest {
            id: text(&data["id"]),
            tool_use_id: data["tool_use_id"].as_str(),
            tool_name: data["tool_name"].as_str(),
            input: data.get("input").unwrap_or(&NOTHING),
            is_answerable: true,
        }),
        "approval_decision" => Said::ApprovalDecision(ApprovalDecision {
            id: text(&data["id"]),
            decision: decision(data["decision"].as_str()?)?,
            by: data["by"].as_str(),
            reason: data["reason"].as_str(),
        }),
        kind => Said::Other(kind),
    })
}

fn boilerplate_result(data: &Value) -> TurnResult<'_> {
    TurnResult {
        text: data["result"].as_str(),
        total_cost_usd: data["cost"].as_f64(),
        num_turns: data["num_turns"].as_u64(),
        duration_ms: data["duration_ms"].as_u64(),
        ..TurnResult::default()
    }
}

/// A message without any name: `dataclasses.asdict`, or the boilerplate's session mode. Told by its shape.
fn untyped<'a>(line: &'a Value, said: &mut Vec<Said<'a>>) {
    let has = |key: &str| line.get(key).is_some();
    let event = line["event"].as_str();
    if has("num_turns") {
        said.push(Said::Result(Box::new(result(line))));
    } else if line["event"].is_object() {
        said.extend(delta(&line["event"]));
    } else if line["subtype"].is_string() && line["data"].is_object() {
        said.push(system(&line["data"]));
    } else if line["model"].is_string() && line["content"].is_array() {
        blocks(&line["content"], said);
    } else if has("content") && has("parent_tool_use_id") && !has("model") {
        user(line, said);
    } else if event == Some("tool_use") && line["name"].is_string() && has("input") {
        said.push(Said::ToolUse(tool_use(line)));
    } else if event == Some("tool_result") && has("content") {
        said.push(Said::ToolResult(tool_result(line)));
    } else if event == Some("complete") && line["data"].is_object() {
        said.push(Said::Result(Box::new(boilerplate_result(&line["data"]))));
    } else if event.is_none() && has("result") && has("usage") {
        said.push(Said::Result(Box::new(TurnResult {
            text: line["result"].as_str(),
            ..TurnResult::default()
        })));
    }
}
