//! Streams that a fresh reader thought of: several sessions in one process, stragglers, subagents that end badly, words
//! that must not reach a backend. Each of these once gave a wrong answer.

use super::*;

fn init(s: &str) -> String {
    format!(r#"{{"type":"system","subtype":"init","session_id":"{s}","model":"claude-opus-5-5"}}"#)
}
fn asst(s: &str, id: &str, text: &str) -> String {
    format!(
        r#"{{"type":"assistant","session_id":"{s}","message":{{"id":"{id}","model":"claude-opus-5-5","content":[{{"type":"text","text":"{text}"}}],"usage":{{"input_tokens":12,"output_tokens":1,"cache_read_input_tokens":4000,"cache_creation_input_tokens":300}}}}}}"#
    )
}
fn tool(lane: Option<&str>, id: &str, name: &str, input: &str) -> String {
    let lane = lane.map_or("null".to_owned(), |l| format!("\"{l}\""));
    format!(
        r#"{{"type":"assistant","parent_tool_use_id":{lane},"message":{{"id":"msg_{id}","model":"claude-opus-5-5","content":[{{"type":"tool_use","id":"{id}","name":"{name}","input":{input}}}],"usage":{{"input_tokens":12,"output_tokens":1,"cache_read_input_tokens":4000,"cache_creation_input_tokens":300}}}}}}"#
    )
}
fn done(lane: Option<&str>, id: &str) -> String {
    let lane = lane.map_or("null".to_owned(), |l| format!("\"{l}\""));
    format!(
        r#"{{"type":"user","parent_tool_use_id":{lane},"message":{{"content":[{{"type":"tool_result","tool_use_id":"{id}","content":"ok"}}]}}}}"#
    )
}
/// n calls in the turn, m in the session
fn result(s: &str, n: u64, m: u64) -> String {
    format!(
        r#"{{"type":"ResultMessage","subtype":"success","is_error":false,"num_turns":1,"session_id":"{s}","total_cost_usd":{},"usage":{{"input_tokens":{},"output_tokens":{},"cache_read_input_tokens":{},"cache_creation_input_tokens":{}}},"model_usage":{{"claude-opus-5-5":{{"inputTokens":{},"outputTokens":{},"cacheReadInputTokens":{},"cacheCreationInputTokens":{},"costUSD":{}}}}}}}"#,
        0.003548 * m as f64,
        12 * n,
        60 * n,
        4000 * n,
        300 * n,
        12 * m,
        60 * m,
        4000 * m,
        300 * m,
        0.003548 * m as f64
    )
}
fn state(state: &str) -> String {
    format!(r#"{{"type":"system","subtype":"session_state_changed","state":"{state}"}}"#)
}
const TERM: i32 = nix::libc::SIGTERM;

#[test]
fn two_query_calls_in_one_process_cost_their_sum() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(20, &asst("a", "m1", "x"));
    r.line(30, &result("a", 1, 1));
    r.line(40, &init("b"));
    r.line(50, &asst("b", "m2", "x"));
    r.line(55, &asst("b", "m3", "x"));
    r.line(60, &result("b", 2, 2));
    r.exit(100, Termination::Exited(0));
    let f = r.finished();
    assert_eq!(
        (f.usage.input_tokens, f.cost.map(|c| (c.usd * 1e6).round())),
        (3 * 4312, Some(10644.0))
    );
}

#[test]
fn a_retried_query_after_a_dead_cli_is_a_success() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(20, &asst("a", "m1", "x")); // CLI dies; the agent catches ProcessError and starts another
    r.line(40, &init("b"));
    r.line(50, &asst("b", "m2", "x"));
    r.line(60, &result("b", 1, 1));
    r.exit(100, Termination::Exited(0));
    assert_eq!(r.failure(), "-");
}

#[test]
fn a_helper_models_unseen_calls_do_not_make_a_session_look_resumed() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(20, &tool(None, "t1", "WebFetch", "{}"));
    r.line(30, &done(None, "t1"));
    r.line(40, &asst("a", "m2", "x"));
    r.line(50, r#"{"type":"ResultMessage","subtype":"success","is_error":false,"num_turns":2,"session_id":"a","total_cost_usd":0.057096,"usage":{"input_tokens":24,"output_tokens":120,"cache_read_input_tokens":8000,"cache_creation_input_tokens":600},"model_usage":{"claude-opus-5-5":{"inputTokens":24,"outputTokens":120,"cacheReadInputTokens":8000,"cacheCreationInputTokens":600,"costUSD":0.007096},"claude-haiku-4-5":{"inputTokens":45000,"outputTokens":1000,"cacheReadInputTokens":0,"cacheCreationInputTokens":0,"costUSD":0.05}}}"#);
    r.exit(100, Termination::Exited(0));
    let f = r.finished();
    assert_eq!(
        f.cost.map(|c| (c.usd, c.source)),
        Some((0.057096, "agent".to_owned()))
    );
}

#[test]
fn killed_while_several_tools_may_wait_shows_the_wait() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(20, &tool(None, "t1", "Bash", "{}"));
    r.line(21, &tool(None, "t2", "Write", "{}"));
    r.line(30, &state("requires_action"));
    r.input(60_000, Input::StopSignal(TERM));
    r.exit(
        60_010,
        Termination::Signaled {
            signal: TERM,
            core_dumped: false,
        },
    );
    assert!(r.closed.iter().any(|s| s.name.starts_with("approval")));
}

#[test]
fn a_wait_ends_with_its_turn() {
    let mut r = Replay::new(SessionConfig {
        idle_timeout: Some(Duration::from_secs(60)),
        ..config()
    });
    r.line(10, &init("a"));
    r.line(20, &tool(None, "t1", "Bash", "{}"));
    r.line(21, &tool(None, "t2", "Write", "{}"));
    r.line(30, &state("requires_action"));
    r.line(40, r#"{"type":"result","subtype":"error_during_execution","is_error":true,"terminal_reason":"aborted_tools","session_id":"a"}"#);
    r.line(41, &state("idle"));
    assert_eq!(r.session.state(), State::BetweenTurns);
    assert!(r.session.deadline().is_some());
}

#[test]
fn idle_forgets_the_start_of_a_turn_that_never_was() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(20, &asst("a", "m1", "x"));
    r.line(30, &result("a", 1, 1));
    r.line(40, &state("running"));
    r.line(50, &state("idle"));
    r.line(600_000, &state("running"));
    r.line(600_010, &init("a"));
    r.line(600_020, &asst("a", "m2", "x"));
    r.line(600_030, &result("a", 1, 2));
    r.exit(600_100, Termination::Exited(0));
    let turns: Vec<_> = r
        .closed
        .iter()
        .filter(|s| s.name == "invoke_agent claude")
        .collect();
    assert_eq!(turns[1].start, at(600_000).wall);
}

#[test]
fn tools_that_their_turn_ended_do_not_run_on_in_the_phases() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(1000, &tool(None, "t1", "Bash", "{}"));
    r.line(
        2000,
        r#"{"type":"result","subtype":"error_max_budget_usd","is_error":true,"session_id":"a"}"#,
    );
    r.line(100_000, &init("a"));
    r.line(100_010, &asst("a", "m2", "x"));
    r.line(100_020, &result("a", 1, 2));
    r.exit(100_100, Termination::Exited(0));
    assert_eq!(r.finished().phases.tools_ms, Some(1000.0));
}

#[test]
fn late_lines_of_a_finished_subagent() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(
        20,
        &tool(
            None,
            "t1",
            "Agent",
            r#"{"subagent_type":"general-purpose","description":"d"}"#,
        ),
    );
    r.line(30, &tool(Some("t1"), "t2", "Bash", "{}"));
    r.line(40, r#"{"type":"system","subtype":"task_notification","task_id":"b1","tool_use_id":"t1","status":"killed"}"#);
    r.line(50, &done(Some("t1"), "t2"));
    r.line(60, &tool(Some("t1"), "t3", "Bash", "{}"));
    r.line(70, &done(None, "t1"));
    r.line(80, &result("a", 1, 1));
    let leaked = r.session.lanes.keys().len();
    r.exit(100, Termination::Exited(0));
    assert_eq!(leaked, 1);
}

#[test]
fn every_span_has_the_conversation() {
    let mut r = Replay::spawned();
    r.line(10, r#"{"type":"system","subtype":"hook_started","hook_id":"h1","hook_name":"SessionStart:startup","hook_event":"SessionStart","session_id":"a"}"#);
    r.line(20, r#"{"type":"system","subtype":"hook_response","hook_id":"h1","hook_name":"SessionStart:startup","hook_event":"SessionStart","exit_code":0,"session_id":"a"}"#);
    r.line(30, &init("a"));
    r.line(40, &result("a", 0, 0));
    r.exit(100, Termination::Exited(0));
    for s in &r.closed {
        assert!(
            attribute(s, key::GEN_AI_CONVERSATION_ID).is_some(),
            "{}",
            s.name
        );
    }
}

#[test]
fn a_later_success_outranks_an_error_event() {
    let mut r = Replay::spawned();
    r.line(
        10,
        r#"{"type":"error","message":"rate limited, trying again"}"#,
    );
    r.line(20, &init("a"));
    r.line(30, &asst("a", "m1", "x"));
    r.line(40, &result("a", 1, 1));
    r.exit(100, Termination::Exited(0));
    assert_eq!(r.failure(), "-");
}

#[test]
fn an_unknown_ending_is_unknown_and_its_text_stays_home() {
    let answer = "s".repeat(180);
    let mut r = Replay::new(SessionConfig {
        capture: Capture::None,
        ..config()
    });
    r.line(10, &init("a"));
    r.line(20, &asst("a", "m1", &answer));
    r.line(30, &format!(r#"{{"type":"result","subtype":"success","is_error":true,"terminal_reason":"hook_stopped","result":"{answer}","session_id":"a"}}"#));
    r.exit(100, Termination::Exited(1));
    let text = format!("{:?}", r.closed);
    assert!(!text.contains(&"s".repeat(101)), "leak of {}", r.failure());
}

#[test]
fn argv_leak() {
    let secret = format!("SECRET{}", "p".repeat(120));
    let mut r = Replay::new(SessionConfig {
        capture: Capture::None,
        ..config()
    });
    r.input(
        10,
        Input::Stderr(format!("agent.py: error: unrecognized arguments: {secret}").as_bytes()),
    );
    r.exit(100, Termination::Exited(2));
    let text = format!("{:?}", r.closed);
    assert!(!text.contains("SECRET"), "{:?}", r.span("agent.run").status);
}

#[test]
fn a_wait_status_that_never_was_is_no_evidence() {
    let mut r = Replay::spawned();
    for m in [10, 20, 30] {
        r.input(m, Input::StopSignal(TERM));
    }
    assert!(
        r.verdict()
            .failure
            .as_ref()
            .unwrap()
            .evidence
            .iter()
            .all(|e| e.source != "wait_status")
    );
}

#[test]
fn a_resumed_turn_of_two_calls_is_priced_by_the_table() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(20, &tool(None, "t1", "Bash", "{}"));
    r.line(30, &done(None, "t1"));
    r.line(40, &asst("a", "m2", "x"));
    r.line(50, &result("a", 2, 12));
    r.exit(100, Termination::Exited(0));
    assert!(r.finished().cost.is_some());
}

#[test]
fn a_resumed_turn_with_a_subagent_says_that_output_is_missing() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(
        20,
        &tool(
            None,
            "t1",
            "Agent",
            r#"{"subagent_type":"general-purpose","description":"d"}"#,
        ),
    );
    r.line(30, &tool(Some("t1"), "t2", "Bash", "{}"));
    r.line(40, &done(Some("t1"), "t2"));
    r.line(50, &done(None, "t1"));
    r.line(60, &asst("a", "m2", "x"));
    r.line(70, &result("a", 2, 100));
    r.exit(100, Termination::Exited(0));
    let u = r.finished().usage;
    assert!(u.incomplete_calls > 0);
}

#[test]
fn messages_from_the_stream_are_bounded() {
    let mut r = Replay::new(SessionConfig {
        capture: Capture::None,
        ..config()
    });
    r.line(10, &init("a"));
    r.line(
        20,
        r#"{"type":"system","subtype":"status","status":"compacting","uuid":"u"}"#,
    );
    r.line(30, &format!(r#"{{"type":"system","subtype":"status","status":null,"compact_result":"failed","compact_error":"{}"}}"#, "e".repeat(100_000)));
    r.line(40, &tool(None, "t1", &"N".repeat(100_000), "{}"));
    r.line(
        50,
        &tool(
            None,
            "t2",
            "Agent",
            &format!(r#"{{"subagent_type":"{}"}}"#, "S".repeat(100_000)),
        ),
    );
    r.exit(500, Termination::Exited(0));
    for s in &r.closed {
        let n = format!("{s:?}").len();
        assert!(n < 5000, "{} {n}", &s.name[..30.min(s.name.len())]);
    }
}

#[test]
fn a_subagents_calls_carry_its_name() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(
        20,
        &tool(
            None,
            "t1",
            "Agent",
            r#"{"subagent_type":"auditor","description":"d"}"#,
        ),
    );
    r.line(30, &tool(Some("t1"), "t2", "Bash", "{}"));
    r.line(40, &done(Some("t1"), "t2"));
    r.line(50, &done(None, "t1"));
    r.line(70, &result("a", 2, 3));
    r.exit(100, Termination::Exited(0));
    assert_eq!(
        attribute(r.span("execute_tool Bash"), key::GEN_AI_AGENT_NAME),
        Some(&"auditor".into())
    );
}

#[test]
fn a_background_subagents_call_does_not_make_the_next_init_a_new_turn() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(
        20,
        &tool(
            None,
            "t1",
            "Agent",
            r#"{"subagent_type":"auditor","description":"d"}"#,
        ),
    );
    r.line(25, r#"{"type":"system","subtype":"task_started","task_id":"b1","tool_use_id":"t1","task_type":"local_agent","subagent_type":"auditor","is_backgrounded":true}"#);
    r.line(26, r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"launched"}]},"tool_use_result":{"isAsync":true,"status":"async_launched"}}"#);
    r.line(30, &result("a", 1, 1));
    r.line(40, &init("a")); // /compact …
    r.line(45, &tool(Some("t1"), "t2", "Bash", "{}")); // … while the background agent works
    r.line(
        46,
        r#"{"type":"system","subtype":"status","status":"compacting","uuid":"u"}"#,
    );
    r.line(50, &init("a")); // the second init of /compact
    r.line(
        51,
        r#"{"type":"system","subtype":"compact_boundary","compact_metadata":{"trigger":"manual"}}"#,
    );
    r.line(
        60,
        r#"{"type":"result","subtype":"success","is_error":false,"num_turns":0,"session_id":"a"}"#,
    );
    r.line(70, &done(Some("t1"), "t2"));
    r.line(80, r#"{"type":"system","subtype":"task_notification","task_id":"b1","tool_use_id":"t1","status":"completed"}"#);
    r.exit(100, Termination::Exited(0));
    assert_eq!(r.failure(), "-");
}

#[test]
fn a_failed_subagents_retries_are_kept() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(
        20,
        &tool(
            None,
            "t1",
            "Agent",
            r#"{"subagent_type":"auditor","description":"d"}"#,
        ),
    );
    for n in 1..3 {
        r.line(20+n, &format!(r#"{{"type":"tool_progress","tool_use_id":"x","parent_tool_use_id":"t1","subagent_retry":{{"agent_id":"g","attempt":{n},"max_retries":10,"retry_delay_ms":500,"error_status":529,"error_category":"overloaded"}}}}"#));
    }
    r.line(40, r#"{"type":"system","subtype":"task_notification","task_id":"b1","tool_use_id":"t1","status":"failed"}"#);
    r.line(50, &done(None, "t1"));
    r.line(70, &result("a", 2, 3));
    r.exit(100, Termination::Exited(0));
    assert!(r.closed.iter().map(|s| s.events.len()).sum::<usize>() == 2);
}

#[test]
fn a_heartbeat_belongs_to_its_tool() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(20, &tool(None, "t1", "Bash", "{}"));
    let t = r.opened.last().unwrap().span_id;
    r.line(30_020, r#"{"type":"tool_progress","tool_use_id":"t1-heartbeat-0","tool_name":"Bash","parent_tool_use_id":"t1","elapsed_time_seconds":30,"heartbeat":true}"#);
    assert_eq!(r.line_span, Some(t));
}

#[test]
fn an_agent_that_stops_at_its_first_result_succeeded() {
    let text =
        std::fs::read_to_string("tests/fixtures/recordings/subagent_background/sdk.jsonl").unwrap();
    let lines: Vec<_> = text.lines().collect();
    let mut r = Replay::spawned();
    for (n, l) in lines[..lines.len() - 1].iter().enumerate() {
        r.line(10 + n as u64, l);
    }
    r.exit(1000, Termination::Exited(0));
    assert_eq!(r.failure(), "-");
}

#[test]
fn a_file_called_certificate_is_no_network() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(20, &tool(None, "t1", "Bash", "{}"));
    r.line(30, r#"{"type":"user","message":{"content":[{"type":"tool_result","is_error":true,"tool_use_id":"t1","content":"Exit code 1\ncat: certificate.pem: No such file or directory"}]}}"#);
    r.exit(100, Termination::Exited(0));
    assert_eq!(
        attribute(r.span("execute_tool Bash"), key::ERROR_TYPE),
        Some(&"tool_error".into())
    );
}

#[test]
fn an_interrupted_answer_has_no_exact_output() {
    let text = std::fs::read_to_string("tests/fixtures/recordings/cli_sigint/cli.jsonl").unwrap();
    let mut r = Replay::spawned();
    for (n, l) in text.lines().enumerate() {
        r.line(10 + n as u64, l);
    }
    r.exit(1000, Termination::Exited(0));
    let c: Vec<_> = r
        .closed
        .iter()
        .filter(|s| s.name.starts_with("chat"))
        .collect();
    assert_eq!(attribute(c[1], key::GEN_AI_OUTPUT_TOKENS), None);
}

#[test]
fn chat_error_messages_respect_capture() {
    let mut r = Replay::new(SessionConfig {
        capture: Capture::None,
        ..config()
    });
    r.line(10, &init("a"));
    let answer = "s".repeat(400);
    r.line(20, &format!(r#"{{"type":"assistant","error":"max_output_tokens","message":{{"id":"m1","model":"claude-opus-5-5","content":[{{"type":"text","text":"{answer}"}}],"usage":{{"input_tokens":1,"output_tokens":1}}}}}}"#));
    r.exit(100, Termination::Exited(1));
    let c = r.span("chat claude-opus-5-5");
    assert!(!format!("{c:?}").contains("sss"));
}

#[test]
fn a_call_that_the_result_has_counted_is_not_counted_again() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    r.line(
        20,
        &tool(
            None,
            "t1",
            "Agent",
            r#"{"subagent_type":"auditor","description":"d"}"#,
        ),
    );
    r.line(26, r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"launched"}]},"tool_use_result":{"isAsync":true,"status":"async_launched"}}"#);
    r.line(30, &tool(Some("t1"), "t2", "Bash", "{}"));
    r.line(40, &asst("a", "m2", "x"));
    r.line(50, &result("a", 2, 3)); // two of the main thread, one of the subagent
    r.exit(100, Termination::Exited(0));
    assert_eq!(r.finished().usage.input_tokens, 3 * 4312);
    assert_eq!(r.finished().cost.unwrap().source, "agent");
}

#[test]
fn a_short_past_that_the_command_names_is_not_billed_again() {
    let mut r = Replay::new(SessionConfig {
        resumed: true,
        ..config()
    });
    r.line(10, &init("a"));
    r.line(20, &asst("a", "m1", "x"));
    r.line(30, &result("a", 1, 2));
    r.exit(100, Termination::Exited(0));
    let cost = r.finished().cost.unwrap();
    assert!(cost.source.starts_with("table@"), "{cost:?}");
    assert!((cost.usd - 0.003_548).abs() < 1e-9, "{cost:?}");
}

#[test]
fn events_beyond_the_limit_are_counted() {
    let mut r = Replay::spawned();
    r.line(10, &init("a"));
    for n in 0..300 {
        r.line(
            20 + n,
            r#"{"type":"rate_limit_event","rate_limit_info":{"status":"allowed"}}"#,
        );
    }
    r.line(400, &result("a", 0, 0));
    r.exit(500, Termination::Exited(0));
    let turn = r.span("invoke_agent claude");
    assert_eq!((turn.events.len(), turn.dropped_events), (128, 172));
}

#[test]
fn a_straggler_after_the_last_result_does_not_undo_the_success() {
    for line in [
        r#"{"type":"user","message":{"content":[{"type":"text","text":"[Request interrupted by user]"}]}}"#.to_owned(),
        r#"{"type":"user","isSynthetic":true,"message":{"content":"This session is being continued"}}"#.to_owned(),
        r#"{"type":"system","subtype":"status","status":"requesting"}"#.to_owned(),
        r#"{"type":"system","subtype":"api_retry","attempt":1}"#.to_owned(),
        r#"{"type":"system","subtype":"compact_boundary","compact_metadata":{"trigger":"manual"}}"#.to_owned(),
        done(None, "zz"),
        result("a", 1, 1),
    ] {
        let mut r = Replay::spawned();
        r.line(10, &init("a")); r.line(20, &asst("a","m1","x")); r.line(30, &result("a",1,1));
        r.line(40, &line);
        r.exit(100, Termination::Exited(0));
        assert_eq!(r.failure(), "-", "{line}");
        r.check();
    }
}
