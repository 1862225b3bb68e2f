//! Messages of the conversation, in each dialect.

use super::{assistant, event, text, user};
use crate::agent::event::*;

#[test]
fn an_assistant_line_in_three_dialects() {
    let usage = r#""usage":{"input_tokens":12,"cache_creation_input_tokens":300,"cache_read_input_tokens":4000,"output_tokens":1,"cache_creation":{"ephemeral_5m_input_tokens":100,"ephemeral_1h_input_tokens":200}}"#;
    let input = r#"{"description":"Inspect","subagent_type":"Explore","prompt":"p"}"#;
    let cli = format!(
        r#"{{"type":"assistant","message":{{"model":"claude-opus-5-5","id":"msg_1","content":[{{"type":"text","text":"I\nlook"}},{{"type":"thinking","thinking":"h\u00e9","signature":"s"}},{{"type":"tool_use","id":"toolu_1","name":"Agent","input":{input}}},{{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{{}}}}],"stop_reason":"tool_use",{usage}}},"parent_tool_use_id":"toolu_0","session_id":"s1","request_id":"req_1"}}"#
    );
    let tagged = format!(
        r#"{{"type":"AssistantMessage","content":[{{"type":"TextBlock","text":"I\nlook"}},{{"type":"ThinkingBlock","thinking":"h\u00e9","signature":"s"}},{{"type":"ToolUseBlock","id":"toolu_1","name":"Agent","input":{input}}},{{"type":"ServerToolUseBlock","id":"srvtoolu_1","name":"web_search","input":{{}}}}],"model":"claude-opus-5-5","parent_tool_use_id":"toolu_0","error":null,{usage},"message_id":"msg_1","stop_reason":"tool_use","session_id":"s1"}}"#
    );
    let plain = format!(
        r#"{{"content":[{{"text":"I\nlook"}},{{"thinking":"h\u00e9","signature":"s"}},{{"id":"toolu_1","name":"Agent","input":{input}}},{{"id":"srvtoolu_1","name":"web_search","input":{{}}}}],"model":"claude-opus-5-5","parent_tool_use_id":"toolu_0","error":null,{usage},"message_id":"msg_1","stop_reason":"tool_use","session_id":"s1"}}"#
    );
    let expected = Assistant {
        message_id: text("msg_1"),
        model: text("claude-opus-5-5"),
        parent_tool_use_id: text("toolu_0"),
        blocks: vec![
            Block::Text("I\nlook".into()),
            Block::Thinking {
                chars: 2,
                json: r#""h\u00e9""#,
            },
            Block::ToolUse(ToolUse {
                id: "toolu_1".into(),
                name: "Agent".into(),
                input,
                subagent_type: text("Explore"),
                description: text("Inspect"),
            }),
            Block::Other {
                kind: "server_tool_use".into(),
            },
        ],
        usage: Some(Usage {
            input_tokens: 12,
            output_tokens: 1,
            cache_read_input_tokens: 4000,
            cache_creation_input_tokens: 300,
            cache_creation_5m: Some(100),
            cache_creation_1h: Some(200),
        }),
        stop_reason: text("tool_use"),
        session_id: text("s1"),
        ..Assistant::default()
    };
    assert_eq!(assistant(&tagged), expected);
    assert_eq!(assistant(&plain), expected);
    let request_id = text("req_1");
    assert_eq!(
        assistant(&cli),
        Assistant {
            request_id,
            ..expected
        }
    );
}

#[test]
fn a_synthetic_assistant_line_carries_the_error() {
    let line = r#"{"type":"assistant","message":{"id":"8c2d","model":"<synthetic>","stop_reason":"stop_sequence","usage":{"input_tokens":0,"output_tokens":0},"content":[{"type":"text","text":"Connection error"}]},"error":"server_error","is_api_error_message":true,"api_error":"connection_failed","api_error_type":"api_error","api_error_status":503}"#;
    let line = assistant(line);
    assert_eq!(line.model, text("<synthetic>"));
    assert_eq!(line.usage, Some(Usage::default()));
    assert_eq!(line.error, text("server_error"));
    assert_eq!(line.api_error, text("connection_failed"));
    assert_eq!(line.api_error_type, text("api_error"));
    assert_eq!(line.api_error_status, Some(503));
}

#[test]
fn a_tool_result_in_three_dialects() {
    let expected = ToolResult {
        tool_use_id: "toolu_1".into(),
        is_error: true,
        text: "Exit code 3\nboom".into(),
        content: r#""Exit code 3\nboom""#,
        interrupted: true,
        ..ToolResult::default()
    };
    let tagged = r#"{"type":"UserMessage","content":[{"type":"ToolResultBlock","tool_use_id":"toolu_1","content":"Exit code 3\nboom","is_error":true}],"uuid":"u","parent_tool_use_id":"toolu_0","tool_use_result":{"interrupted":true}}"#;
    let plain = r#"{"content":[{"tool_use_id":"toolu_1","content":"Exit code 3\nboom","is_error":true}],"uuid":"u","parent_tool_use_id":"toolu_0","tool_use_result":{"interrupted":true}}"#;
    for line in [tagged, plain] {
        let line = user(line);
        assert_eq!(line.results, std::slice::from_ref(&expected));
        assert_eq!(line.parent_tool_use_id, text("toolu_0"));
    }
    let cli = r#"{"type":"user","message":{"role":"user","content":[{"type":"tool_result","content":"Exit code 3\nboom","is_error":true,"tool_use_id":"toolu_1"}]},"parent_tool_use_id":null,"tool_use_result":{"interrupted":true,"backgroundTaskId":"b1"},"tool_result_meta":[{"id":"toolu_9","permission_decision":{"decision":"accept"}},{"id":"toolu_1","permission_decision":{"decision":"reject","source":"user_reject"},"non_execution_kind":"permission-rule"}]}"#;
    assert_eq!(
        user(cli).results,
        [ToolResult {
            decision: Some(Decision::Deny),
            decision_source: text("user_reject"),
            background: true,
            ..expected
        }]
    );
}

#[test]
fn a_tool_result_of_blocks_gives_the_start_of_its_first_text() {
    let long = "y".repeat(500);
    let content =
        format!(r#"[{{"type":"image","source":{{}}}},{{"type":"text","text":"{long}"}}]"#);
    let line = format!(
        r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","tool_use_id":"t","content":{content}}}]}},"tool_use_result":{{"isAsync":true,"status":"async_launched"}}}}"#
    );
    let result = &user(&line).results[0];
    assert_eq!(result.text, long[..400]);
    assert_eq!(result.content, content);
    assert!(result.background && !result.is_error);
}

#[test]
fn user_lines_without_results() {
    let nudge = user(
        r#"{"type":"user","message":{"role":"user","content":[{"type":"text","text":"Output token limit hit."}]},"isSynthetic":true}"#,
    );
    assert!(nudge.synthetic && !nudge.interrupted);
    assert_eq!(nudge.text, text("Output token limit hit."));
    for line in [
        r#"{"type":"user","message":{"role":"user","content":[{"type":"text","text":"[Request interrupted by user for tool use]"}]}}"#,
        r#"{"type":"user","message":{"role":"user","content":"[Request interrupted by user]"}}"#,
        r#"{"type":"UserMessage","content":[{"type":"TextBlock","text":"[Request interrupted by user]"}],"uuid":"u"}"#,
        r#"{"content":"[Request interrupted by user]","uuid":null,"parent_tool_use_id":null,"tool_use_result":null}"#,
    ] {
        assert!(user(line).interrupted, "{line}");
    }
}

#[test]
fn stream_events_in_three_dialects() {
    let usage = Some(Usage {
        output_tokens: 60,
        ..Usage::default()
    });
    let start = |message_id: &'static str| StreamKind::MessageStart {
        message_id: message_id.into(),
        model: text("claude-opus-5-5"),
        usage,
    };
    for (event_json, kind) in [
        (
            r#"{"type":"message_start","message":{"id":"msg_1","model":"claude-opus-5-5","usage":{"output_tokens":60}}}"#,
            start("msg_1"),
        ),
        (
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
            StreamKind::Content,
        ),
        (
            r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"x"}}"#,
            StreamKind::Content,
        ),
        (
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":60}}"#,
            StreamKind::MessageDelta {
                stop_reason: text("end_turn"),
                usage,
            },
        ),
        (r#"{"type":"message_stop"}"#, StreamKind::MessageStop),
        (
            r#"{"type":"content_block_stop","index":0}"#,
            StreamKind::Other,
        ),
        (r#"{"type":"ping"}"#, StreamKind::Other),
    ] {
        for kind_member in [r#""type":"stream_event","#, r#""type":"StreamEvent","#, ""] {
            let line = format!(
                r#"{{{kind_member}"uuid":"u","session_id":"s","event":{event_json},"parent_tool_use_id":"toolu_0"}}"#
            );
            let expected = AgentEvent::Stream(StreamEvent {
                parent_tool_use_id: text("toolu_0"),
                kind: kind.clone(),
            });
            assert_eq!(event(&line), expected, "{line}");
        }
    }
    let without_id = r#"{"type":"stream_event","api_message_id":"msg_2","event":{"type":"message_start","message":{"model":"claude-opus-5-5","usage":{"output_tokens":60}}}}"#;
    assert_eq!(
        event(without_id),
        AgentEvent::Stream(StreamEvent {
            parent_tool_use_id: None,
            kind: start("msg_2"),
        })
    );
}
