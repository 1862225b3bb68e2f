//! Lines of each dialect, and what must be read from them.

use super::super::*;
use crate::agent::event::*;

fn event(line: &str) -> AgentEvent<'_> {
    match decode(line.as_bytes()) {
        Decoded::Event(event) => event,
        other => panic!("{other:?}: {line}"),
    }
}

fn is_note(line: &str, kind: &str) {
    assert_eq!(event(line), note(kind.into()), "{line}");
}

#[track_caller]
fn assistant(line: &str) -> Assistant<'_> {
    match event(line) {
        AgentEvent::Assistant(assistant) => assistant,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn user(line: &str) -> User<'_> {
    match event(line) {
        AgentEvent::User(user) => user,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn result(line: &str) -> ResultMessage<'_> {
    match event(line) {
        AgentEvent::Result(result) => *result,
        other => panic!("{other:?}"),
    }
}

fn text(text: &str) -> Option<Text<'_>> {
    Some(text.into())
}

#[test]
fn what_is_no_object_is_text() {
    for line in [
        "",
        "  ",
        "progress 10%",
        "42",
        "null",
        r#""just a string""#,
        r#"[{"type":"assistant"}]"#,
        r#"{"type": "looks like json but is cut"#,
        r#"{"type":"user"} trailing"#,
        r#"AssistantMessage(content=[TextBlock(text='Hello!')], model='claude-opus-5-5')"#,
        r#"{"type":"result","total_cost_usd":NaN}"#,
    ] {
        assert_eq!(decode(line.as_bytes()), Decoded::Text, "{line}");
    }
    assert_eq!(decode(b"{\"type\":\"\xff\"}"), Decoded::Text);
}

#[test]
fn what_no_dialect_claims_is_unrecognised() {
    for line in [
        "{}",
        r#"{"level":"info","msg":"structured log line that is not an event"}"#,
        r#"{"type":"agent_note","event":"interrupt_sent"}"#,
        r#"{"type":"agent_note","data":{"event":"x"}}"#,
        r#"{"type":7,"subtype":"init"}"#,
        r#"{"type":"system"}"#,
        r#"{"type":"assistant"}"#,
        r#"{"type":"user","name":"bob"}"#,
        r#"{"type":"result","value":3}"#,
        r#"{"type":"stream_event","event":"start"}"#,
        r#"{"type":"rate_limit_event","rate_limit_info":null}"#,
        r#"{"type":"text","text":"a block without a message"}"#,
        r#"{"type":"start"}"#,
        r#"{"type":"error","code":3}"#,
        r#"{"type":"approval_decision","data":{"id":"a","decision":"perhaps"}}"#,
        r#"{"event":"user logged in","level":"info"}"#,
        r#"{"event":"complete","level":"info"}"#,
        r#"{"event":"tool_use"}"#,
        r#"{"content":"hello"}"#,
        r#"{"model":"claude","content":"hello"}"#,
        r#"{"result":"42"}"#,
    ] {
        assert_eq!(decode(line.as_bytes()), Decoded::Unrecognised, "{line}");
    }
}

#[test]
fn a_line_that_could_be_taken_for_ours_is_forged() {
    for line in [
        r#"{"sandtrace":null}"#,
        r#"{"type":"assistant","message":{},"sandtrace":{"seq":1}}"#,
        r#"{"sand\u0074race":1}"#,
        r#"{"type":"sandtrace.run.finished","data":{}}"#,
        r#"{"type":"\u0073andtrace.x"}"#,
        r#"{"type":"sandtrace.x","type":"assistant","message":{}}"#,
        r#"{"type":"assistant","message":{},"type":"sandtrace.x"}"#,
    ] {
        assert_eq!(decode(line.as_bytes()), Decoded::Forged, "{line}");
    }
    for line in [
        r#"{"type":"sandtraces"}"#,
        r#"{"data":{"sandtrace":1,"type":"sandtrace.x"}}"#,
        r#"{"subtype":"sandtrace.x"}"#,
    ] {
        assert_eq!(decode(line.as_bytes()), Decoded::Unrecognised, "{line}");
    }
}

#[test]
fn space_around_and_escapes_within_change_nothing() {
    let expected = event(r#"{"type":"system","subtype":"status","status":"requesting"}"#);
    for line in [
        " {\"type\" :\t\"system\", \"subtype\":\"status\",\"status\":\"requesting\" }\r",
        r#"{"status":"compacting","\u0074ype":"s\u0079stem","subtype":"status","status":"requesting"}"#,
    ] {
        assert_eq!(event(line), expected, "{line}");
    }
}

#[test]
fn a_member_of_another_type_is_absent() {
    let line = r#"{"type":"result","subtype":["success"],"is_error":"yes","num_turns":"3","duration_ms":12.0,
        "total_cost_usd":"free","usage":[1],"modelUsage":{"a":7},"errors":{"x":1},"permission_denials":[1,{"tool_use_id":2}],
        "session_id":5,"api_error_status":99999,"origin":"me"}"#;
    assert_eq!(
        result(line),
        ResultMessage {
            duration_ms: Some(12),
            model_usage: vec![ModelUsage {
                model: "a".into(),
                ..ModelUsage::default()
            }],
            ..ResultMessage::default()
        }
    );
    let line = r#"{"type":"assistant","message":{"id":1,"model":null,"content":[1,"x",null,{"type":"tool_use","input":3}],"usage":7}}"#;
    assert_eq!(
        assistant(line).blocks,
        [Block::ToolUse(ToolUse {
            input: "3",
            ..ToolUse::default()
        })]
    );
}

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
            Block::Thinking { chars: 2 },
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
        content_bytes: r#""Exit code 3\nboom""#.len(),
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
    let long = "y".repeat(300);
    let content =
        format!(r#"[{{"type":"image","source":{{}}}},{{"type":"text","text":"{long}"}}]"#);
    let line = format!(
        r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","tool_use_id":"t","content":{content}}}]}},"tool_use_result":{{"isAsync":true,"status":"async_launched"}}}}"#
    );
    let result = &user(&line).results[0];
    assert_eq!(result.text, long[..200]);
    assert_eq!(result.content_bytes, content.len());
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

#[test]
fn a_result_in_three_dialects() {
    let common = r#""subtype":"success","duration_ms":1301,"duration_api_ms":95,"is_error":true,"num_turns":4,"session_id":"s1","stop_reason":"end_turn","total_cost_usd":0.007096,"usage":{"input_tokens":24,"output_tokens":120},"result":"API Error","api_error_status":429,"terminal_reason":"api_error","permission_denials":[{"tool_name":"Bash","tool_use_id":"toolu_1","tool_input":{}}],"errors":["one","two"],"origin":{"kind":"task-notification"}"#;
    let models = r#"{"claude-opus-5-5":{"inputTokens":24,"outputTokens":120,"cacheReadInputTokens":8000,"cacheCreationInputTokens":600,"costUSD":0.007096,"cacheCreationEphemeral5mInputTokens":0,"cacheCreationEphemeral1hInputTokens":600}}"#;
    let model_usage = vec![ModelUsage {
        model: "claude-opus-5-5".into(),
        usage: Usage {
            input_tokens: 24,
            output_tokens: 120,
            cache_read_input_tokens: 8000,
            cache_creation_input_tokens: 600,
            cache_creation_5m: Some(0),
            cache_creation_1h: Some(600),
        },
        cost_usd: Some(0.007096),
    }];
    let expected = ResultMessage {
        subtype: "success".into(),
        is_error: true,
        api_error_status: Some(429),
        terminal_reason: text("api_error"),
        stop_reason: text("end_turn"),
        num_turns: Some(4),
        duration_ms: Some(1301),
        duration_api_ms: Some(95),
        result: text("API Error"),
        errors: vec!["one".into(), "two".into()],
        total_cost_usd: Some(0.007096),
        usage: Some(Usage {
            input_tokens: 24,
            output_tokens: 120,
            ..Usage::default()
        }),
        model_usage: model_usage.clone(),
        permission_denials: vec!["toolu_1".into()],
        session_id: text("s1"),
        origin: text("task-notification"),
        ..ResultMessage::default()
    };
    let tagged = format!(r#"{{"type":"ResultMessage",{common},"model_usage":{models}}}"#);
    let plain = format!(r#"{{{common},"model_usage":{models}}}"#);
    assert_eq!(result(&tagged), expected);
    assert_eq!(result(&plain), expected);
    let cli = format!(
        r#"{{{common},"modelUsage":{models},"model_usage_since_last_result":{models},"subagent_stats":{{"spawned":2}},"type":"result"}}"#
    );
    assert_eq!(
        result(&cli),
        ResultMessage {
            model_usage_delta: model_usage,
            subagents_spawned: Some(2),
            ..expected
        }
    );
    let nulls = r#"{"type":"ResultMessage","subtype":"error_max_turns","is_error":true,"result":null,"errors":null,"permission_denials":null,"model_usage":null,"usage":null,"origin":null}"#;
    assert_eq!(
        result(nulls),
        ResultMessage {
            subtype: "error_max_turns".into(),
            is_error: true,
            ..ResultMessage::default()
        }
    );
}

/// Every system object must read the same as a line of the CLI, in `data` with a class, and in `data` without one.
fn system(class: &str, object: &str, expected: &AgentEvent<'_>) {
    let subtype = serde_json::from_str::<serde_json::Value>(object).unwrap()["subtype"].clone();
    for line in [
        object.to_owned(),
        format!(r#"{{"type":"{class}","subtype":{subtype},"data":{object}}}"#),
        format!(r#"{{"subtype":{subtype},"data":{object},"uuid":"other"}}"#),
    ] {
        assert_eq!(&event(&line), expected, "{line}");
    }
}

#[test]
fn system_objects_in_three_dialects() {
    let task_ended = |status: &'static str, tool_use_id, total_tokens| {
        AgentEvent::TaskEnded(TaskEnded {
            task_id: "t1".into(),
            tool_use_id,
            status: status.into(),
            total_tokens,
        })
    };
    let hook = Hook {
        hook_id: "h1".into(),
        hook_name: text("PreToolUse:Bash"),
        hook_event: text("PreToolUse"),
        ..Hook::default()
    };
    for (class, object, expected) in [
        (
            "SystemMessage",
            r#"{"type":"system","subtype":"init","session_id":"s1","tools":["Bash"],"mcp_servers":[{"name":"a","status":"connected"},{"name":"missing","status":"failed"}],"model":"claude-opus-5-5","permissionMode":"default","claude_code_version":"2.1.327"}"#,
            AgentEvent::Init(Init {
                session_id: text("s1"),
                model: text("claude-opus-5-5"),
                claude_code_version: text("2.1.327"),
                permission_mode: text("default"),
                failed_mcp_servers: vec!["missing".into()],
            }),
        ),
        (
            "SystemMessage",
            r#"{"type":"system","subtype":"status","status":null,"compact_result":"failed","compact_error":"too_few_groups","uuid":"u1"}"#,
            AgentEvent::Status(Status {
                status: None,
                compact_result: text("failed"),
                compact_error: text("too_few_groups"),
                uuid: text("u1"),
            }),
        ),
        (
            "SystemMessage",
            r#"{"type":"system","subtype":"compact_boundary","uuid":"u1","compact_metadata":{"trigger":"auto","pre_tokens":961601,"post_tokens":2607,"duration_ms":21}}"#,
            AgentEvent::CompactBoundary(CompactBoundary {
                uuid: text("u1"),
                trigger: text("auto"),
                pre_tokens: Some(961_601),
                post_tokens: Some(2607),
                duration_ms: Some(21),
            }),
        ),
        (
            "SystemMessage",
            r#"{"type":"system","subtype":"api_retry","attempt":1,"max_retries":2,"retry_delay_ms":527.5,"error_status":null,"error":"unknown"}"#,
            AgentEvent::ApiRetry(ApiRetry {
                parent_tool_use_id: None,
                attempt: Some(1),
                max_retries: Some(2),
                retry_delay_ms: Some(527.5),
                error_status: None,
                error: text("unknown"),
            }),
        ),
        (
            "SystemMessage",
            r#"{"type":"system","subtype":"session_state_changed","state":"requires_action"}"#,
            AgentEvent::SessionState(SessionState::RequiresAction),
        ),
        (
            "SystemMessage",
            r#"{"type":"system","subtype":"session_state_changed","state":"tomorrow's"}"#,
            AgentEvent::SessionState(SessionState::Other),
        ),
        (
            "TaskStartedMessage",
            r#"{"type":"system","subtype":"task_started","task_id":"t1","tool_use_id":"toolu_1","description":"Inspect","subagent_type":"general-purpose","task_type":"local_agent","is_backgrounded":true}"#,
            AgentEvent::TaskStarted(TaskStarted {
                task_id: "t1".into(),
                tool_use_id: text("toolu_1"),
                description: text("Inspect"),
                subagent_type: text("general-purpose"),
                task_type: text("local_agent"),
                is_backgrounded: true,
            }),
        ),
        (
            "TaskUpdatedMessage",
            r#"{"type":"system","subtype":"task_updated","task_id":"t1","patch":{"status":"killed","end_time":1795164712221}}"#,
            task_ended("killed", None, None),
        ),
        (
            "TaskUpdatedMessage",
            r#"{"type":"system","subtype":"task_updated","task_id":"t1","patch":{"status":"running"}}"#,
            note("task_updated".into()),
        ),
        (
            "TaskUpdatedMessage",
            r#"{"type":"system","subtype":"task_updated","task_id":"t1","patch":{"end_time":1}}"#,
            note("task_updated".into()),
        ),
        (
            "TaskNotificationMessage",
            r#"{"type":"system","subtype":"task_notification","task_id":"t1","tool_use_id":"toolu_1","status":"stopped","usage":{"total_tokens":4372}}"#,
            task_ended("stopped", text("toolu_1"), Some(4372)),
        ),
        (
            "HookEventMessage",
            r#"{"type":"system","subtype":"hook_started","hook_id":"h1","hook_name":"PreToolUse:Bash","hook_event":"PreToolUse"}"#,
            AgentEvent::HookStarted(hook.clone()),
        ),
        (
            "HookEventMessage",
            r#"{"type":"system","subtype":"hook_response","hook_id":"h1","hook_name":"PreToolUse:Bash","hook_event":"PreToolUse","output":"","exit_code":-2,"outcome":"error"}"#,
            AgentEvent::HookResponse(Hook {
                exit_code: Some(-2),
                outcome: text("error"),
                ..hook
            }),
        ),
        (
            "SystemMessage",
            r#"{"type":"system","subtype":"permission_denied","tool_name":"Bash","tool_use_id":"toolu_1"}"#,
            AgentEvent::PermissionDenied {
                tool_use_id: "toolu_1".into(),
            },
        ),
        (
            "MirrorErrorMessage",
            r#"{"type":"system","subtype":"mirror_error","error":"timed out"}"#,
            note("mirror_error".into()),
        ),
        (
            "SystemMessage",
            r#"{"type":"system","subtype":"of a later release"}"#,
            note("of a later release".into()),
        ),
    ] {
        system(class, object, &expected);
    }
}

#[test]
fn a_system_message_without_its_data_is_read_from_its_own_members() {
    let line = r#"{"type":"TaskStartedMessage","subtype":"task_started","task_id":"t1","description":"d","tool_use_id":"toolu_1","task_type":"local_bash"}"#;
    assert_eq!(
        event(line),
        AgentEvent::TaskStarted(TaskStarted {
            task_id: "t1".into(),
            tool_use_id: text("toolu_1"),
            description: text("d"),
            task_type: text("local_bash"),
            ..TaskStarted::default()
        })
    );
}

#[test]
fn a_rate_limit_in_three_dialects() {
    let expected = AgentEvent::RateLimit(RateLimit {
        status: "rejected".into(),
        rate_limit_type: text("five_hour"),
        resets_at: Some(1_893_456_000),
        utilization: Some(0.91),
    });
    for line in [
        r#"{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1893456000,"rateLimitType":"five_hour","utilization":0.91}}"#,
        r#"{"type":"RateLimitEvent","rate_limit_info":{"type":"RateLimitInfo","status":"rejected","resets_at":1893456000,"rate_limit_type":"five_hour","utilization":0.91,"raw":{"status":"allowed"}}}"#,
        r#"{"rate_limit_info":{"status":"rejected","resets_at":1893456000,"rate_limit_type":"five_hour","utilization":0.91},"uuid":"u","session_id":"s"}"#,
    ] {
        assert_eq!(event(line), expected, "{line}");
    }
}

#[test]
fn tool_progress_is_a_retry_only_in_a_subagent() {
    assert_eq!(
        event(
            r#"{"type":"tool_progress","tool_use_id":"toolu_2","tool_name":"Agent","parent_tool_use_id":"toolu_1","subagent_retry":{"agent_id":"a","attempt":1,"max_retries":2,"retry_delay_ms":551,"error_status":500,"error_category":"server_error"}}"#
        ),
        AgentEvent::ApiRetry(ApiRetry {
            parent_tool_use_id: text("toolu_1"),
            attempt: Some(1),
            max_retries: Some(2),
            retry_delay_ms: Some(551.0),
            error_status: Some(500),
            error: text("server_error"),
        })
    );
    is_note(
        r#"{"type":"tool_progress","tool_use_id":"toolu_1-heartbeat-0","parent_tool_use_id":"toolu_1","elapsed_time_seconds":30,"heartbeat":true}"#,
        "tool_progress",
    );
}

#[test]
fn control_lines_are_approvals_or_notes() {
    assert_eq!(
        event(
            r#"{"type":"control_request","request_id":"r1","request":{"subtype":"can_use_tool","tool_name":"Bash","input":{"command":"x"},"tool_use_id":"toolu_1"}}"#
        ),
        AgentEvent::ApprovalRequest(ApprovalRequest {
            id: "r1".into(),
            tool_use_id: text("toolu_1"),
            tool_name: text("Bash"),
        })
    );
    assert_eq!(
        event(
            r#"{"type":"control_response","response":{"subtype":"success","request_id":"r1","response":{"behavior":"deny","message":"Not n\u00f6w."}}}"#
        ),
        AgentEvent::ApprovalDecision(ApprovalDecision {
            id: "r1".into(),
            decision: Decision::Deny,
            by: None,
            reason_chars: 8,
        })
    );
    is_note(
        r#"{"type":"control_request","request_id":"r2","request":{"subtype":"hook_callback"}}"#,
        "control_request",
    );
    is_note(
        r#"{"type":"control_response","response":{"subtype":"success","request_id":"r2","response":{}}}"#,
        "control_response",
    );
    is_note(r#"{"type":"keep_alive"}"#, "keep_alive");
    for line in [
        r#"{"type":"conversation_reset","new_conversation_id":"c"}"#,
        r#"{"type":"ConversationResetMessage","new_conversation_id":"c"}"#,
        r#"{"new_conversation_id":"c","uuid":"u","session_id":"s"}"#,
    ] {
        is_note(line, "conversation_reset");
    }
}

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
        Block::Thinking { chars: 2 }
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
            content_bytes: 6,
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
                reason_chars: 3,
            })
        );
    }
}
