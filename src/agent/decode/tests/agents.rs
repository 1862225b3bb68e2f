//! Events that agents write themselves.

use super::{assistant, event, result, text, user};
use crate::agent::event::*;

#[test]
fn the_boilerplates_events() {
    let line = r#"{"type": "start", "data": {"prompt": "Do it"}}"#;
    assert_eq!(
        event(line),
        AgentEvent::Start {
            prompt: text("Do it")
        }
    );

    let one = |line| {
        let assistant = assistant(line);
        assert_eq!((assistant.message_id, assistant.blocks.len()), (None, 1));
        assistant.blocks.into_iter().next().unwrap()
    };
    assert_eq!(
        one(r#"{"type": "text", "data": {"text": "caf\u00e9"}}"#),
        Block::Text("café".into())
    );
    assert_eq!(
        one(r#"{"type": "thinking", "data": {"thinking": "hm", "signature": "s"}}"#),
        Block::Thinking {
            chars: 2,
            json: r#""hm""#
        }
    );
    assert_eq!(
        one(
            r#"{"type": "tool_use", "data": {"id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}}"#
        ),
        Block::ToolUse(ToolUse {
            id: "toolu_1".into(),
            name: "Bash".into(),
            input: r#"{"command": "ls"}"#,
            ..ToolUse::default()
        })
    );
    let line = r#"{"type": "tool_result", "data": {"tool_use_id": "toolu_1", "content": "boom", "is_error": true}}"#;
    assert_eq!(
        user(line).results,
        [ToolResult {
            tool_use_id: "toolu_1".into(),
            is_error: true,
            text: "boom".into(),
            content: r#""boom""#,
            ..ToolResult::default()
        }]
    );

    let line = r#"{"type": "result", "data": {"result": "done", "duration_ms": 1200, "cost": 0.01, "num_turns": 2, "usage": {"input_tokens": 12, "output_tokens": 60, "cache_read_input_tokens": 4000}}}"#;
    let usage = Usage {
        input_tokens: 12,
        output_tokens: 60,
        cache_read_input_tokens: 4000,
        ..Usage::default()
    };
    assert_eq!(
        result(line),
        ResultMessage {
            subtype: "success".into(),
            result: text("done"),
            duration_ms: Some(1200),
            num_turns: Some(2),
            total_cost_usd: Some(0.01),
            usage: Some(usage),
            ..ResultMessage::default()
        }
    );
    assert_eq!(
        result(r#"{"type": "result", "data": {"result": null, "usage": {}}}"#).usage,
        None
    );

    for line in [
        r#"{"type": "error", "data": {"error": "exception", "message": "boom"}}"#,
        r#"{"type": "error", "data": {"error": "boom"}}"#,
        r#"{"type": "error", "error": {"type": "overloaded_error", "message": "boom"}}"#,
        r#"{"type": "error", "error": "boom"}"#,
        r#"{"type": "error", "message": "boom"}"#,
    ] {
        assert_eq!(
            event(line),
            AgentEvent::Error {
                message: "boom".into()
            }
        );
    }
    for (status, success) in [("success", true), ("error", false)] {
        let line = format!(r#"{{"type": "complete", "data": {{"status": "{status}"}}}}"#);
        assert_eq!(event(&line), AgentEvent::Complete { success });
    }
}

#[test]
fn the_boilerplates_session_mode_and_basic_mode() {
    let line = r#"{"event": "tool_use", "name": "Read", "input": {"file_path": "x"}}"#;
    assert_eq!(
        assistant(line).blocks,
        [Block::ToolUse(ToolUse {
            name: "Read".into(),
            input: r#"{"file_path": "x"}"#,
            ..ToolUse::default()
        })]
    );
    let line = r#"{"event": "tool_result", "content": "ok"}"#;
    assert_eq!(user(line).results[0].text, "ok");
    let line =
        r#"{"event": "complete", "data": {"result": "done", "tool_uses": [], "turn_id": "t"}}"#;
    assert_eq!(
        result(line),
        ResultMessage {
            subtype: "success".into(),
            result: text("done"),
            ..ResultMessage::default()
        }
    );
    let line = r#"{"result": "done", "usage": {"input_tokens": 12, "output_tokens": 60}}"#;
    assert_eq!(result(line).usage.unwrap().output_tokens, 60);
}

#[test]
fn the_templates_approvals() {
    assert_eq!(
        event(
            r#"{"type":"approval_request","data":{"id":"a1","tool_use_id":"toolu_1","tool_name":"Bash","input":{"command":"rm"}}}"#
        ),
        AgentEvent::ApprovalRequest(ApprovalRequest {
            id: "a1".into(),
            tool_use_id: text("toolu_1"),
            tool_name: text("Bash"),
        })
    );
    for (word, decision) in [
        ("allow", Decision::Allow),
        ("approve", Decision::Allow),
        ("deny", Decision::Deny),
    ] {
        let line = format!(
            r#"{{"type":"approval_decision","data":{{"id":"a1","decision":"{word}","by":"host","reason":"no!"}}}}"#
        );
        assert_eq!(
            event(&line),
            AgentEvent::ApprovalDecision(ApprovalDecision {
                id: "a1".into(),
                decision,
                by: text("host"),
                reason: text("no!"),
            })
        );
    }
}
