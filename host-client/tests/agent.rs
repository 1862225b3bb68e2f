//! What agents say, in each dialect.
#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, its functions included"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use sandtrace_client::agent::{AgentLine, Said};
use sandtrace_client::{Content, Event};

const STAMP: &str =
    r#""sandtrace":{"seq":1,"time":"2026-01-31T12:00:00.000000Z","trace_id":"a","span_id":"b"}"#;

/// A line as the supervisor passes it on.
fn line(printed: &str) -> AgentLine {
    let inside = printed.trim_end().strip_suffix('}').unwrap();
    let event = Event::parse(&format!("{inside},{STAMP}}}")).unwrap();
    assert_eq!(event.as_printed().as_deref(), Some(printed.trim_end()));
    match event.content() {
        Content::Agent(line) => line.clone(),
        other => panic!("{other:?}"),
    }
}

fn said(printed: &str) -> String {
    let line = line(printed);
    let said: Vec<String> = line.said().iter().map(short).collect();
    said.join(" + ")
}

fn short(said: &Said<'_>) -> String {
    match said {
        Said::Init(init) => format!(
            "init {} {}",
            init.session_id.unwrap_or("-"),
            init.model.unwrap_or("-")
        ),
        Said::Text(text) => format!("text {text:?}"),
        Said::TextDelta(text) => format!("text… {text:?}"),
        Said::Thinking(text) => format!("thinking {text:?}"),
        Said::ThinkingDelta(text) => format!("thinking… {text:?}"),
        Said::ToolUse(call) => format!("{}({}) as {}", call.name, call.input, call.id),
        Said::ToolResult(result) => format!(
            "{} {:?} of {}",
            if result.is_error { "failed" } else { "gave" },
            result.text,
            result.tool_use_id
        ),
        Said::UserText(text) => format!("user {text:?}"),
        Said::Result(result) => format!(
            "result {:?} error={} {:?} {:?} {:?} ${:?} {:?} turns",
            result.text,
            result.is_error,
            result.subtype,
            result.terminal_reason,
            result.errors,
            result.total_cost_usd,
            result.num_turns,
        ),
        Said::ApprovalRequest(request) => format!(
            "may {}({}) of {} be? {} answerable={}",
            request.tool_name.unwrap_or("-"),
            request.input,
            request.tool_use_id.unwrap_or("-"),
            request.id,
            request.is_answerable
        ),
        Said::ApprovalDecision(decision) => format!(
            "{:?} {} by {:?} for {:?}",
            decision.decision, decision.id, decision.by, decision.reason
        ),
        Said::SessionState(state) => format!("state {state}"),
        Said::Error(words) => format!("error {words:?}"),
        Said::Other(kind) => format!("other {kind}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_dialect_s_words_mean_the_same() {
    let nothing = "";
    for (printed, expected) in [
        // The Python SDK's messages with the names of their classes.
        (
            r#"{"type":"AssistantMessage","content":[{"type":"TextBlock","text":"Hi"},{"type":"ThinkingBlock","thinking":"Hm","signature":"x"},{"type":"ToolUseBlock","id":"t1","name":"Bash","input":{"command":"ls"}}]}"#,
            r#"text "Hi" + thinking "Hm" + Bash({"command":"ls"}) as t1"#,
        ),
        (
            r#"{"type":"UserMessage","content":[{"type":"ToolResultBlock","tool_use_id":"t1","content":"a\nb","is_error":null}]}"#,
            r#"gave "a\nb" of t1"#,
        ),
        (
            r#"{"type":"UserMessage","content":"[Request interrupted by user]"}"#,
            r#"user "[Request interrupted by user]""#,
        ),
        (
            r#"{"type":"StreamEvent","event":{"type":"content_block_delta","delta":{"type":"text_delta","text":"He"}}}"#,
            r#"text… "He""#,
        ),
        (
            r#"{"type":"StreamEvent","event":{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"Hm"}}}"#,
            r#"thinking… "Hm""#,
        ),
        (
            r#"{"type":"StreamEvent","event":{"type":"message_stop"}}"#,
            nothing,
        ),
        (
            r#"{"type":"SystemMessage","subtype":"init","data":{"subtype":"init","session_id":"s","model":"m"}}"#,
            "init s m",
        ),
        (
            r#"{"type":"SystemMessage","subtype":"session_state_changed","data":{"subtype":"session_state_changed","state":"idle"}}"#,
            "state idle",
        ),
        (
            r#"{"type":"TaskStartedMessage","subtype":"task_started","data":{"subtype":"task_started"}}"#,
            "other task_started",
        ),
        (
            r#"{"type":"ResultMessage","subtype":"success","is_error":true,"result":"API Error","errors":["e"],"terminal_reason":"api_error","total_cost_usd":0.5,"num_turns":2}"#,
            r#"result Some("API Error") error=true Some("success") Some("api_error") ["e"] $Some(0.5) Some(2) turns"#,
        ),
        // The CLI's own.
        (
            r#"{"type":"assistant","message":{"content":[{"type":"text","text":"Hi"},{"type":"tool_use","id":"t1","name":"Bash","input":{}}]}}"#,
            r#"text "Hi" + Bash({}) as t1"#,
        ),
        (
            r#"{"type":"assistant","message":{"content":[{"type":"image"},{"type":"redacted_thinking"}]}}"#,
            "other image + other redacted_thinking",
        ),
        (
            r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"is_error":true}]}}"#,
            r#"failed "a\nb" of t1"#,
        ),
        (
            r#"{"type":"user","message":{"content":"SUBAGENT: look"},"parent_tool_use_id":"t9"}"#,
            r#"user "SUBAGENT: look""#,
        ),
        (
            r#"{"type":"stream_event","event":{"type":"content_block_delta","delta":{"type":"text_delta","text":"He"}}}"#,
            r#"text… "He""#,
        ),
        (
            r#"{"type":"system","subtype":"init","session_id":"s","model":"m"}"#,
            "init s m",
        ),
        (
            r#"{"type":"control_request","request_id":"r1","request":{"subtype":"can_use_tool","tool_name":"Bash","tool_use_id":"t1","input":{"a":1}}}"#,
            r#"may Bash({"a":1}) of t1 be? r1 answerable=false"#,
        ),
        (
            r#"{"type":"control_request","request_id":"r1","request":{"subtype":"initialize"}}"#,
            nothing,
        ),
        (
            r#"{"type":"control_response","response":{"request_id":"r1","response":{"behavior":"deny","message":"no"}}}"#,
            r#"Deny r1 by None for Some("no")"#,
        ),
        (
            r#"{"type":"rate_limit_event","rate_limit_info":{}}"#,
            "other rate_limit_event",
        ),
        // `dataclasses.asdict`: no names at all.
        (
            r#"{"model":"m","content":[{"text":"Hi"},{"thinking":"Hm","signature":""},{"id":"t1","name":"Bash","input":{}}],"parent_tool_use_id":null}"#,
            r#"text "Hi" + thinking "Hm" + Bash({}) as t1"#,
        ),
        (
            r#"{"content":[{"tool_use_id":"t1","content":"x","is_error":false}],"parent_tool_use_id":null}"#,
            r#"gave "x" of t1"#,
        ),
        (
            r#"{"subtype":"init","data":{"subtype":"init","session_id":"s"}}"#,
            "init s -",
        ),
        (
            r#"{"event":{"type":"content_block_delta","delta":{"type":"text_delta","text":"He"}},"uuid":"u"}"#,
            r#"text… "He""#,
        ),
        (
            r#"{"num_turns":1,"subtype":"success","is_error":false,"result":"Hi"}"#,
            r#"result Some("Hi") error=false Some("success") None [] $None Some(1) turns"#,
        ),
        // E2B's boilerplate.
        (r#"{"type":"start","data":{"prompt":"p"}}"#, "init - -"),
        (r#"{"type":"text","data":{"text":"Hi"}}"#, r#"text "Hi""#),
        (
            r#"{"type":"thinking","data":{"thinking":"Hm"}}"#,
            r#"thinking "Hm""#,
        ),
        (
            r#"{"type":"tool_use","data":{"id":"t1","name":"Bash","input":{}}}"#,
            "Bash({}) as t1",
        ),
        (
            r#"{"type":"tool_result","data":{"tool_use_id":"t1","content":"x","is_error":true}}"#,
            r#"failed "x" of t1"#,
        ),
        (
            r#"{"type":"result","data":{"result":"Hi","cost":0.25,"num_turns":3}}"#,
            r#"result Some("Hi") error=false None None [] $Some(0.25) Some(3) turns"#,
        ),
        (
            r#"{"type":"complete","data":{"status":"error"}}"#,
            "result None error=true None None [] $None None turns",
        ),
        (
            r#"{"type":"complete","data":{"status":"success"}}"#,
            "other complete",
        ),
        (
            r#"{"type":"error","data":{"error":"exception","message":"boom"}}"#,
            r#"error "boom""#,
        ),
        (
            r#"{"type":"error","error":{"message":"boom"}}"#,
            r#"error "boom""#,
        ),
        (
            r#"{"event":"tool_use","name":"Bash","input":{}}"#,
            "Bash({}) as ",
        ),
        (
            r#"{"event":"tool_result","content":"x"}"#,
            r#"gave "x" of "#,
        ),
        (
            r#"{"event":"complete","data":{"result":"Hi","turn_id":1}}"#,
            r#"result Some("Hi") error=false None None [] $None None turns"#,
        ),
        (
            r#"{"result":"Hi","usage":{}}"#,
            r#"result Some("Hi") error=false None None [] $None None turns"#,
        ),
        // agent.py's approvals.
        (
            r#"{"type":"approval_request","data":{"id":"a1","tool_use_id":"t1","tool_name":"Bash","input":{"command":"ls"}}}"#,
            r#"may Bash({"command":"ls"}) of t1 be? a1 answerable=true"#,
        ),
        (
            r#"{"type":"approval_decision","data":{"id":"a1","decision":"approve","by":"alice","reason":null}}"#,
            r#"Allow a1 by Some("alice") for None"#,
        ),
        (
            r#"{"type":"approval_decision","data":{"id":"a1","decision":"perhaps"}}"#,
            nothing,
        ),
        // Nobody's.
        (r#"{"type":"metrics","data":{"n":1}}"#, "other metrics"),
        (r#"{"type":"metrics","n":1}"#, "other metrics"),
        (r#"{"n":1}"#, nothing),
        (r#"{"type":7}"#, nothing),
        (r#"{"type":"assistant","message":null}"#, nothing),
        (
            r#"{"type":"assistant","message":{"content":[1,"x",null]}}"#,
            nothing,
        ),
    ] {
        assert_eq!(said(printed), expected, "{printed}");
    }
}

#[test]
fn a_subagent_s_words_are_told_by_its_call() {
    let parent = |printed: &str| line(printed).parent_tool_use_id().map(str::to_owned);
    assert_eq!(
        parent(r#"{"type":"assistant","parent_tool_use_id":"t9","message":{}}"#).as_deref(),
        Some("t9")
    );
    assert_eq!(
        parent(r#"{"type":"assistant","parent_tool_use_id":null,"message":{}}"#),
        None
    );
    // A tool's own id, in a heartbeat of Claude Code's.
    assert_eq!(
        parent(r#"{"type":"tool_progress","parent_tool_use_id":"t1"}"#),
        None
    );
}

/// The same conversation was recorded from the CLI and from the SDK: what it says must be the same.
#[test]
fn real_recordings_say_the_same_in_both_dialects() {
    let recordings = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/recordings");
    let mut compared = 0;
    for scenario in [
        "subagent",
        "todo",
        "parallel_tools",
        "thinking",
        "tool_error",
        "plain_text_partial",
    ] {
        let conversation = |kind: &str| -> Option<String> {
            let text =
                fs::read_to_string(recordings.join(scenario).join(format!("{kind}.jsonl"))).ok()?;
            let mut conversation = String::new();
            for printed in text.lines().filter(|line| !line.is_empty()) {
                let line = line(printed);
                for said in line.said() {
                    let shown = match said {
                        Said::Text(text) => format!("text {text}"),
                        Said::ToolUse(call) => format!("call {}", call.name),
                        Said::ToolResult(result) => format!("result {}", result.is_error),
                        Said::Result(result) => format!("end {}", result.is_error),
                        Said::Init(_) => "init".to_owned(),
                        _ => continue,
                    };
                    let lane = line.parent_tool_use_id().map_or("", |_| "  ");
                    writeln!(conversation, "{lane}{shown}").unwrap();
                }
            }
            Some(conversation)
        };
        let (Some(cli), Some(sdk)) = (conversation("cli"), conversation("sdk")) else {
            continue;
        };
        assert_eq!(cli, sdk, "{scenario}");
        assert!(
            cli.starts_with("init\n") && cli.contains("\nend "),
            "{scenario}: {cli}"
        );
        compared += 1;
    }
    assert!(compared >= 4, "{compared}");
}
