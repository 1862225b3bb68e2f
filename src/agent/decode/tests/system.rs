//! System and control lines, in each dialect.

use super::super::*;
use super::{event, is_note, text};
use crate::agent::event::*;

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
                no_response: None,
            }),
        ),
        (
            "SystemMessage",
            r#"{"type":"system","subtype":"api_retry","attempt":2,"error_status":null,"error":"unknown","no_response":{"waited_ms":3000,"retry_wait_ms":1100.5}}"#,
            AgentEvent::ApiRetry(ApiRetry {
                attempt: Some(2),
                error: text("unknown"),
                no_response: Some(NoResponse {
                    waited_ms: Some(3000),
                }),
                ..ApiRetry::default()
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
            no_response: None,
        })
    );
    assert_eq!(
        event(
            r#"{"type":"tool_progress","tool_use_id":"toolu_1-heartbeat-0","parent_tool_use_id":"toolu_1","elapsed_time_seconds":30,"heartbeat":true}"#
        ),
        AgentEvent::Note {
            kind: "tool_progress".into(),
            tool_use_id: text("toolu_1"),
        }
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
            reason: text("Not n\u{f6}w."),
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
