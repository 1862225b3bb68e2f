//! What a line is, whatever it says.

use super::super::*;
use super::{assistant, event, result};
use crate::agent::event::*;

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
