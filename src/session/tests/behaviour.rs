//! What no recording shows: signals, deadlines, drains, and streams of our own making.

use sandtrace_client::Outcome;
use serde_json::json;

use super::*;
use crate::session::span::ContentForm;

const TERM: i32 = nix::libc::SIGTERM;
const KILL: i32 = nix::libc::SIGKILL;
const CONT: i32 = nix::libc::SIGCONT;

const INIT: &str =
    r#"{"type":"system","subtype":"init","session_id":"s1","model":"claude-opus-5-5"}"#;
const RESULT: &str = r#"{"type":"result","subtype":"success","is_error":false,"session_id":"s1"}"#;

fn signaled(signal: i32) -> Termination {
    Termination::Signaled {
        signal,
        core_dumped: false,
    }
}

fn tool_use(id: &str, name: &str) -> String {
    format!(
        r#"{{"type":"assistant","message":{{"id":"msg_{id}","model":"claude-opus-5-5","content":[{{"type":"tool_use","id":"{id}","name":"{name}","input":{{}}}}],"usage":{{"input_tokens":1,"output_tokens":1}}}}}}"#
    )
}

fn tool_result(id: &str) -> String {
    format!(
        r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","tool_use_id":"{id}","content":"ok"}}]}}}}"#
    )
}

fn state(state: &str) -> String {
    format!(r#"{{"type":"system","subtype":"session_state_changed","state":"{state}"}}"#)
}

#[test]
fn a_deaf_agent_is_killed_after_the_grace_period() {
    let mut replay = Replay::spawned();
    replay.line(10, INIT);
    replay.line(20, &tool_use("t1", "Bash"));
    replay.input(1000, Input::StopSignal(TERM));
    assert_eq!(
        replay.actions,
        [Action::SignalAgent(TERM), Action::SignalAgent(CONT)]
    );
    assert_eq!(replay.session.deadline(), Some(Duration::from_secs(11)));
    replay.input(10_999, Input::Tick);
    assert_eq!(
        replay.actions.len(),
        2,
        "nothing happens before the grace is over"
    );
    replay.input(11_000, Input::Tick);
    assert_eq!(replay.actions[2..], [Action::KillTree]);
    replay.exit(11_010, signaled(KILL));
    assert_eq!(replay.failure(), "cancelled.host");
    assert_eq!(replay.verdict().outcome, Outcome::Cancelled);
    assert_eq!(replay.verdict().exit.as_ref().unwrap().reported_code, 137);
    assert!(attribute(replay.span("execute_tool Bash"), key::ABANDONED).is_some());
    assert_eq!(
        replay.span("agent.run").status,
        SpanStatus::Unset,
        "a cancelled run did not fail"
    );
    replay.check();
}

#[test]
fn a_second_signal_kills_at_once_and_a_third_leaves() {
    let mut replay = Replay::spawned();
    replay.input(10, Input::StopSignal(TERM));
    replay.input(20, Input::StopSignal(TERM));
    assert_eq!(replay.actions[2..], [Action::KillTree]);
    replay.input(30, Input::StopSignal(TERM));
    assert!(matches!(replay.actions.last(), Some(Action::Abort(_))));
    replay.check();
}

#[test]
fn a_deadline_of_ours_exits_with_124_whatever_the_agent_does() {
    for ending in [Termination::Exited(0), signaled(TERM), signaled(KILL)] {
        let mut replay = Replay::new(SessionConfig {
            deadline: Some(Duration::from_secs(5)),
            ..config()
        });
        replay.line(10, INIT);
        replay.input(5000, Input::Tick);
        assert_eq!(replay.actions[0], Action::SignalAgent(TERM));
        replay.exit(5100, ending);
        assert_eq!(replay.failure(), "timeout.deadline");
        assert_eq!(replay.verdict().exit.as_ref().unwrap().reported_code, 124);
        replay.check();
    }
}

fn idle() -> Replay {
    Replay::new(SessionConfig {
        idle_timeout: Some(Duration::from_secs(60)),
        ..config()
    })
}

#[test]
fn silence_within_a_turn_is_a_failure() {
    let mut replay = idle();
    replay.line(10, INIT);
    assert_eq!(
        replay.session.deadline(),
        Some(Duration::from_millis(60_010))
    );
    replay.line(
        30_000,
        r#"{"type":"system","subtype":"api_retry","attempt":1}"#,
    );
    replay.input(60_010, Input::Tick);
    assert_eq!(
        replay.actions,
        [Action::LookAtSockets],
        "a retry is a sign of life"
    );
    replay.input(90_000, Input::Tick);
    replay.exit(90_100, signaled(TERM));
    assert_eq!(replay.failure(), "timeout.idle");
    assert_eq!(replay.verdict().exit.as_ref().unwrap().reported_code, 124);
}

#[test]
fn silence_between_turns_closes_the_session_without_a_failure() {
    let mut replay = idle();
    replay.line(10, INIT);
    replay.line(20, RESULT);
    replay.input(60_020, Input::Tick);
    replay.exit(60_100, signaled(TERM));
    assert_eq!(replay.failure(), "-");
    assert_eq!(replay.verdict().exit.as_ref().unwrap().reported_code, 0);
}

#[test]
fn a_tool_or_a_human_may_be_silent() {
    let mut replay = idle();
    replay.line(10, INIT);
    replay.line(20, &tool_use("t1", "Bash"));
    assert_eq!(replay.session.deadline(), None);
    replay.line(30, &state("requires_action"));
    assert_eq!(replay.session.state(), State::WaitingForApproval);
    assert_eq!(replay.session.deadline(), None);
}

#[test]
fn a_pipe_that_a_grandchild_holds_does_not_hold_the_run() {
    let mut replay = Replay::spawned();
    replay.line(10, INIT);
    replay.line(20, RESULT);
    replay.input(100, Input::Exited(Termination::Exited(0)));
    assert_eq!(replay.session.deadline(), Some(Duration::from_millis(400)));
    // Each chunk starts the silence again, but not for ever.
    for millis in (300..2000).step_by(200) {
        replay.line(millis, "noise");
    }
    assert_eq!(replay.session.deadline(), Some(Duration::from_millis(2100)));
    replay.input(2100, Input::Tick);
    assert_eq!(replay.failure(), "-");
}

#[test]
fn nothing_but_a_tick_ends_the_drain_by_the_clock() {
    let mut replay = Replay::new(SessionConfig {
        survivors: Some(SurvivorPolicy::Kill),
        ..config()
    });
    replay.line(10, INIT);
    replay.input(100, Input::Exited(Termination::Exited(0)));
    // On a busy machine the look at the tree took longer than the drain; what the pipes hold has not been read yet.
    replay.input(5000, Input::TreeEmpty);
    let ended = |action: &Action| matches!(action, Action::Finish(_));
    assert!(!replay.actions.iter().any(ended));
    replay.line(5010, RESULT);
    replay.input(5020, Input::StdoutClosed);
    replay.input(5020, Input::StderrClosed);
    assert_eq!(replay.failure(), "-");
}

#[test]
fn the_last_line_may_come_after_the_exit() {
    let mut replay = Replay::spawned();
    replay.line(10, INIT);
    replay.input(100, Input::Exited(Termination::Exited(0)));
    replay.line(110, RESULT);
    replay.input(120, Input::StdoutClosed);
    replay.input(120, Input::StderrClosed);
    assert_eq!(replay.failure(), "-");
}

#[test]
fn what_an_agent_leaves_is_ended_only_if_it_did_not_leave_by_itself() {
    let after = |survivors, ending| {
        let mut replay = Replay::new(SessionConfig {
            survivors,
            ..config()
        });
        replay.input(10, Input::Exited(ending));
        replay.actions.contains(&Action::SignalTree(TERM))
    };
    use SurvivorPolicy::{Kill, Leave};
    assert!(!after(None, Termination::Exited(0)));
    assert!(!after(None, Termination::Exited(1)));
    assert!(after(None, signaled(KILL)));
    assert!(after(Some(Kill), Termination::Exited(0)));
    assert!(!after(Some(Leave), signaled(KILL)));
}

#[test]
fn an_agent_that_does_not_die_of_kill_does_not_hold_the_run() {
    let mut replay = Replay::spawned();
    replay.input(10, Input::StopSignal(TERM));
    replay.input(20, Input::StopSignal(TERM));
    let due = replay.session.deadline().unwrap();
    replay.input(u64::try_from(due.as_millis()).unwrap(), Input::Tick);
    assert_eq!(replay.failure(), "cancelled.host");
}

#[test]
fn one_open_tool_takes_the_approval() {
    let mut replay = Replay::spawned();
    replay.line(10, INIT);
    replay.line(20, &tool_use("t1", "Bash"));
    replay.line(30, &state("requires_action"));
    replay.line(2030, &state("running"));
    replay.line(2100, &tool_result("t1"));
    replay.line(2110, RESULT);
    replay.exit(2200, Termination::Exited(0));
    let approval = replay.span("approval Bash");
    assert_eq!(
        approval.parent_span_id,
        Some(replay.span("execute_tool Bash").span_id)
    );
    assert_eq!(
        attribute(approval, key::APPROVAL_WAIT_MS),
        Some(&Value::F64(2000.0))
    );
    assert_eq!(
        attribute(approval, key::APPROVAL_DECISION),
        Some(&"allow".into())
    );
    replay.check();
}

#[test]
fn a_wait_that_several_tools_may_explain_becomes_a_span_of_the_turn() {
    let mut replay = Replay::spawned();
    replay.line(10, INIT);
    replay.line(20, &tool_use("t1", "Bash"));
    replay.line(21, &tool_use("t2", "Write"));
    replay.line(30, &state("requires_action"));
    replay.line(1030, &state("running"));
    replay.exit(2000, Termination::Exited(0));
    let approval = replay.span("approval");
    assert_eq!(
        approval.parent_span_id,
        Some(replay.span("invoke_agent claude").span_id)
    );
    assert_eq!(approval.end.since(approval.start), Duration::from_secs(1));
    replay.check();
}

#[test]
fn an_agent_that_says_who_approves_is_believed_to_the_letter() {
    let mut replay = Replay::spawned();
    replay.line(10, INIT);
    replay.line(20, &tool_use("t1", "Bash"));
    replay.line(21, &tool_use("t2", "Write"));
    replay.line(30, &state("requires_action"));
    replay.line(
        35,
        r#"{"type":"approval_request","data":{"id":"r1","tool_use_id":"t2","tool_name":"Write","input":{}}}"#,
    );
    replay.line(
        500,
        r#"{"type":"approval_decision","data":{"id":"r1","decision":"deny","by":"ada","reason":"no thanks"}}"#,
    );
    replay.line(510, &state("running"));
    replay.exit(2000, Termination::Exited(0));
    let approval = replay.span("approval Write");
    assert_eq!(
        approval.parent_span_id,
        Some(replay.span("execute_tool Write").span_id)
    );
    assert_eq!((approval.start, approval.end), (at(30).wall, at(500).wall));
    assert_eq!(
        attribute(approval, key::APPROVAL_DECISION),
        Some(&"deny".into())
    );
    assert_eq!(
        attribute(approval, key::APPROVAL_SOURCE),
        Some(&"ada".into())
    );
    assert_eq!(
        attribute(approval, key::APPROVAL_FEEDBACK_CHARS),
        Some(&Value::I64(9))
    );
    replay.check();
}

#[test]
fn a_person_s_reason_is_on_the_span_only_where_everything_is_captured() {
    for (capture, text) in [
        (Capture::None, None),
        (Capture::Preview, None),
        (Capture::Full, Some("no thanks")),
    ] {
        let mut replay = Replay::new(SessionConfig {
            capture,
            ..config()
        });
        replay.line(10, INIT);
        replay.line(20, &tool_use("t1", "Bash"));
        let request = r#"{"type":"approval_request","data":{"id":"r1","tool_use_id":"t1","tool_name":"Bash"}}"#;
        let decision = r#"{"type":"approval_decision","data":{"id":"r1","decision":"deny","reason":"no thanks"}}"#;
        replay.line(35, request);
        replay.line(500, decision);
        let approval = replay.span("approval Bash");
        let content = approval.content.iter().map(|it| (it.key, it.text.as_str()));
        let expected = text.map(|text| (key::APPROVAL_FEEDBACK, text));
        assert!(content.eq(expected), "{capture:?}: {approval:?}");
        assert_eq!(
            attribute(approval, key::APPROVAL_FEEDBACK_CHARS),
            Some(&Value::I64(9))
        );
    }
}

#[test]
fn a_turn_says_how_long_the_session_waited_for_it() {
    let mut replay = Replay::spawned();
    replay.line(10, INIT);
    replay.line(20, &tool_use("t1", "Bash"));
    replay.line(100, RESULT);
    replay.line(110, &state("idle"));
    replay.line(4100, &state("running"));
    replay.line(4200, INIT);
    replay.line(4300, &tool_use("t2", "Bash"));
    // What was said meanwhile follows at once.
    replay.line(5000, RESULT);
    replay.line(5000, INIT);
    replay.line(5100, &tool_use("t3", "Bash"));
    replay.line(5200, RESULT);
    let turns = replay.closed.iter();
    let turns = turns.filter(|span| span.name.starts_with("invoke_agent"));
    let gaps: Vec<_> = turns
        .map(|turn| attribute(turn, key::TURN_GAP_MS).cloned())
        .collect();
    assert_eq!(
        gaps,
        [None, Some(Value::F64(4000.0)), Some(Value::F64(0.0))]
    );
}

#[test]
fn a_shell_in_the_background_outlives_its_turn() {
    let mut replay = Replay::spawned();
    replay.line(10, INIT);
    replay.line(20, &tool_use("t1", "Bash"));
    replay.line(
        100,
        r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"moved"}]},"tool_use_result":{"stdout":"","backgroundTaskId":"b1"}}"#,
    );
    assert_eq!(replay.session.state(), State::WaitingForModel);
    replay.line(200, RESULT);
    replay.line(
        900,
        r#"{"type":"system","subtype":"task_notification","task_id":"b1","tool_use_id":"t1","status":"completed"}"#,
    );
    replay.exit(1000, Termination::Exited(0));
    let tool = replay.span("execute_tool Bash");
    assert_eq!(attribute(tool, key::BACKGROUND), Some(&Value::Bool(true)));
    assert_eq!(tool.end, at(900).wall);
    assert_eq!(replay.span("invoke_agent claude").end, at(200).wall);
    assert_eq!(replay.failure(), "-");
    replay.check();
}

#[test]
fn the_boilerplates_events_make_a_tree_too() {
    let mut replay = Replay::spawned();
    for (millis, line) in [
        (10, r#"{"type":"start","data":{"prompt":"do it"}}"#),
        (20, r#"{"type":"text","data":{"text":"I will."}}"#),
        (
            30,
            r#"{"type":"tool_use","data":{"id":"t1","name":"Bash","input":{"command":"ls"}}}"#,
        ),
        (
            90,
            r#"{"type":"tool_result","data":{"tool_use_id":"t1","content":"a","is_error":null}}"#,
        ),
        (120, r#"{"type":"text","data":{"text":"Done."}}"#),
        (
            130,
            r#"{"type":"result","data":{"result":"Done.","duration_ms":120,"cost":0.5,"num_turns":2,"usage":{"input_tokens":7,"output_tokens":3}}}"#,
        ),
        (
            131,
            r#"{"type":"complete","data":{"status":"success","result":"Done."}}"#,
        ),
    ] {
        replay.line(millis, line);
    }
    replay.exit(140, Termination::Exited(0));
    replay.check();
    assert_eq!(replay.failure(), "-");
    insta::assert_snapshot!(replay.tree(), @r"
    agent.run 0..140 in=7 out=3 usd=0.5 by=agent retries=0 outcome=success
      invoke_agent claude 10..130 usd=0.5 by=agent
        chat 10..30
        execute_tool Bash 30..90 call=t1
        chat 90..120
    ");
    let turn = replay.span("invoke_agent claude");
    assert_eq!(content(turn, key::PROMPT_PREVIEW), Some("do it"));
    assert_eq!(content(turn, key::ANSWER_PREVIEW), Some("Done."));
}

#[test]
fn every_span_carries_the_users_attributes_and_the_conversation() {
    let mut replay = Replay::new(SessionConfig {
        attributes: vec![("tenant".into(), "acme".into())],
        user_id: Some("ada".to_owned()),
        ..config()
    });
    replay.line(10, INIT);
    replay.line(20, &tool_use("t1", "Bash"));
    replay.line(30, &tool_result("t1"));
    replay.line(40, RESULT);
    replay.exit(50, Termination::Exited(0));
    assert_eq!(replay.closed.len(), 4);
    for span in &replay.closed {
        assert_eq!(
            attribute(span, "tenant"),
            Some(&"acme".into()),
            "{}",
            span.name
        );
        assert_eq!(
            attribute(span, key::USER_ID),
            Some(&"ada".into()),
            "{}",
            span.name
        );
        assert_eq!(
            attribute(span, key::GEN_AI_CONVERSATION_ID),
            Some(&"s1".into()),
            "{}",
            span.name
        );
        assert_eq!(
            attribute(span, key::SESSION_ID),
            Some(&"s1".into()),
            "{}",
            span.name
        );
    }
}

#[test]
fn previews_have_a_hundred_characters_and_none_has_none() {
    let line = format!(
        r#"{{"type":"assistant","message":{{"id":"m1","model":"claude-opus-5-5","content":[{{"type":"text","text":"{}"}}]}}}}"#,
        "é".repeat(500)
    );
    for (capture, expected) in [
        (Capture::None, None),
        (Capture::Preview, Some((500, 100))),
        (Capture::Full, Some((500, 32 << 10))),
    ] {
        let mut replay = Replay::new(SessionConfig {
            capture,
            ..config()
        });
        replay.line(10, &line);
        replay.exit(50, Termination::Exited(0));
        let chat = replay.span("chat claude-opus-5-5");
        let mut contents = chat.content.iter();
        let answer = contents.find(|content| content.key == key::ANSWER_PREVIEW);
        let kept = answer.map(|answer| match answer.form {
            ContentForm::Text { chars } => (answer.text.chars().count(), chars),
            ContentForm::Json { .. } => panic!("{answer:?}"),
        });
        assert_eq!(kept, expected);
    }
}

#[test]
fn an_answer_whose_end_nobody_told_says_so_in_its_message() {
    let init = r#"{"type":"system","subtype":"init","session_id":"s1","model":"m"}"#;
    let text = r#"{"type":"assistant","message":{"id":"m1","model":"m","content":[{"type":"text","text":"One"}],"stop_reason":null}}"#;
    let begin = r#"{"type":"stream_event","event":{"type":"message_start","message":{"id":"m1","model":"m","usage":{"input_tokens":1,"output_tokens":1}}}}"#;
    let result = r#"{"type":"result","subtype":"success","is_error":false,"session_id":"s1"}"#;
    for (lines, expected) in [
        (vec![init, text, result], "unknown"),
        // Begun with stream events, and never ended with one.
        (vec![init, begin, text, result], "error"),
    ] {
        let mut replay = Replay::new(SessionConfig {
            capture: Capture::Full,
            ..config()
        });
        for (millis, line) in (10..).step_by(10).zip(lines) {
            replay.line(millis, line);
        }
        replay.exit(90, Termination::Exited(0));
        replay.check();
        let mut contents = replay.closed.iter().flat_map(|span| &span.content);
        let answer = contents.find(|content| content.key == key::GEN_AI_OUTPUT_MESSAGES);
        let answer: serde_json::Value = serde_json::from_str(&answer.unwrap().text).unwrap();
        assert_eq!(answer[0]["finish_reason"], expected);
    }
}

#[test]
fn whole_messages_are_kept_by_the_conventions_schema_and_only_if_wanted() {
    let lines = [
        r#"{"type":"system","subtype":"init","session_id":"s1","model":"claude-opus-5-5"}"#,
        r#"{"type":"assistant","message":{"id":"m1","model":"claude-opus-5-5","content":[{"type":"thinking","thinking":"h\u00e9"},{"type":"tool_use","id":"t1","name":"Bash","input":{"command":"ls"}}],"stop_reason":"tool_use"}}"#,
        r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":"a.txt"}]}]}}"#,
        r#"{"type":"assistant","message":{"id":"m2","model":"claude-opus-5-5","content":[{"type":"text","text":"One file."}],"stop_reason":"end_turn"}}"#,
        r#"{"type":"result","subtype":"success","is_error":false,"session_id":"s1"}"#,
    ];
    let play = |capture| {
        let mut replay = Replay::new(SessionConfig {
            capture,
            ..config()
        });
        replay.line(5, r#"{"type":"start","data":{"prompt":"What is here?"}}"#);
        for (millis, line) in (10..).step_by(10).zip(lines) {
            replay.line(millis, line);
        }
        replay.exit(90, Termination::Exited(0));
        replay.check();
        replay.closed
    };
    let messages = |spans: &[FinishedSpan], name: &str| {
        let contents = spans.iter().flat_map(|span| &span.content);
        let found = contents.filter(|content| content.key == name);
        found
            .map(|content| serde_json::from_str(&content.text).unwrap())
            .collect::<Vec<serde_json::Value>>()
    };
    let spans = play(Capture::Full);
    assert_eq!(
        messages(&spans, key::GEN_AI_INPUT_MESSAGES),
        [
            json!([{"role": "user", "parts": [{"type": "text", "content": "What is here?"}]}]),
            json!([{"role": "tool", "parts": [{"type": "tool_call_response", "id": "t1", "response": [{"type": "text", "text": "a.txt"}]}]}]),
        ]
    );
    assert_eq!(
        messages(&spans, key::GEN_AI_OUTPUT_MESSAGES),
        [
            json!([{"role": "assistant", "finish_reason": "tool_call", "parts": [
                {"type": "reasoning", "content": "hé"},
                {"type": "tool_call", "id": "t1", "name": "Bash", "arguments": {"command": "ls"}},
            ]}]),
            json!([{"role": "assistant", "finish_reason": "stop", "parts": [{"type": "text", "content": "One file."}]}]),
        ]
    );
    assert_eq!(
        messages(&spans, key::GEN_AI_TOOL_RESULT),
        [json!([{"type": "text", "text": "a.txt"}])]
    );
    for capture in [Capture::None, Capture::Preview] {
        let spans = play(capture);
        for name in [
            key::GEN_AI_INPUT_MESSAGES,
            key::GEN_AI_OUTPUT_MESSAGES,
            key::GEN_AI_TOOL_ARGUMENTS,
            key::GEN_AI_TOOL_RESULT,
        ] {
            assert!(messages(&spans, name).is_empty(), "{capture:?} {name}");
        }
    }
}

#[test]
fn phases_tell_when_things_happened() {
    let mut replay = Replay::spawned();
    replay.line(100, "starting");
    replay.line(200, INIT);
    replay.line(300, &tool_use("t1", "Bash"));
    replay.line(350, &tool_use("t2", "Bash"));
    replay.line(500, &tool_result("t1"));
    replay.line(700, &tool_result("t2"));
    replay.line(900, RESULT);
    replay.exit(1000, Termination::Exited(0));
    let phases = replay.finished().phases;
    assert_eq!(phases.spawn_ms, Some(1.0));
    assert_eq!(phases.first_line_ms, Some(100.0));
    assert_eq!(phases.first_token_ms, Some(300.0));
    assert_eq!(phases.tools_ms, Some(400.0), "overlapping tools count once");
    assert_eq!(phases.result_ms, Some(900.0));
    assert_eq!(phases.exit_ms, Some(1000.0));
}

#[test]
fn lines_belong_to_their_innermost_span() {
    let mut replay = Replay::spawned();
    replay.line(5, "banner");
    assert_eq!(replay.line_span, Some(replay.session.root()));
    replay.line(10, INIT);
    let turn = replay.opened.last().unwrap().span_id;
    assert_eq!(replay.line_span, Some(turn));
    replay.line(20, &tool_use("t1", "Bash"));
    let tool = replay.opened.last().unwrap().span_id;
    assert_eq!(replay.line_span, Some(tool));
    replay.line(30, &tool_result("t1"));
    assert_eq!(replay.line_span, Some(tool), "though this line closes it");
}

#[test]
fn hooks_before_the_first_init_belong_to_its_turn_and_those_after_the_last_result_to_the_run() {
    let hook = |subtype: &str, id: &str, event: &str, code: &str| {
        format!(
            r#"{{"type":"system","subtype":"{subtype}","hook_id":"{id}","hook_name":"{event}:x","hook_event":"{event}"{code}}}"#
        )
    };
    let mut replay = Replay::spawned();
    replay.line(10, &hook("hook_started", "h1", "SessionStart", ""));
    replay.line(
        30,
        &hook("hook_response", "h1", "SessionStart", r#","exit_code":0"#),
    );
    replay.line(40, INIT);
    replay.line(50, &hook("hook_started", "h2", "PreToolUse", ""));
    replay.line(
        60,
        &hook(
            "hook_response",
            "h2",
            "PreToolUse",
            r#","exit_code":2,"outcome":"error""#,
        ),
    );
    replay.line(70, RESULT);
    replay.line(80, &hook("hook_started", "h3", "SessionEnd", ""));
    replay.exit(100, Termination::Exited(0));
    replay.check();
    assert_eq!(
        replay.failure(),
        "-",
        "a hook after the result begins no turn"
    );
    insta::assert_snapshot!(replay.tree(), @r"
    agent.run 0..100 in=0 out=0 retries=0 outcome=success
      invoke_agent claude 10..70
        hook SessionStart 10..30
        hook PreToolUse 50..60 error=_OTHER
      hook SessionEnd 80..100 error=abandoned abandoned=true
    ");
}

#[test]
fn a_third_signal_leaves_with_its_own_code() {
    let mut replay = Replay::spawned();
    for millis in [10, 20, 30] {
        replay.input(millis, Input::StopSignal(TERM));
    }
    assert_eq!(replay.verdict().exit.as_ref().unwrap().reported_code, 143);
    assert_eq!(replay.failure(), "cancelled.host");
}
