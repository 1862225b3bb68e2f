//! A run's state, from lines as the supervisor writes them.
#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, its functions included"
)]

use sandtrace_client::run::{ApprovalSource, Loss, LossReason, State};
use sandtrace_client::{Admission, Decoded, Decoder, Event, FailureKind, Outcome, Run};
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Makes lines with numbers that go on.
#[derive(Default)]
struct Lines {
    seq: u64,
    run: Run,
}

impl Lines {
    fn line(&mut self, mut line: Value, span_id: &str) {
        self.seq += 1;
        let time = format!("2026-01-31T12:00:{:02}.000000Z", self.seq % 60);
        line["sandtrace"] =
            json!({"seq": self.seq, "time": time, "trace_id": TRACE, "span_id": span_id});
        let event = Event::parse(&line.to_string()).unwrap();
        assert_eq!(self.run.apply(&event), Admission::Next);
    }

    fn ours(&mut self, kind: &str, data: Value) {
        self.line(
            json!({"type": format!("sandtrace.{kind}"), "data": data}),
            "root",
        );
    }

    fn started(&mut self, limits: Value) {
        let mut all = json!({"line_bytes": 4194304, "deadline_ms": null, "idle_timeout_ms": null, "grace_ms": 1,
            "flush_timeout_ms": 1, "journal_bytes": 1});
        all.as_object_mut()
            .unwrap()
            .extend(limits.as_object().unwrap().clone());
        self.ours("run.started", json!({"wire": 1, "run_id": "r", "pid": 1, "executable": "python3", "trace_id": TRACE,
            "root_span_id": "root", "parent_span_id": null, "versions": {"sandtrace": "0.1.0"}, "journal": null,
            "limits": all, "abilities": {}}));
    }

    fn open(&mut self, id: &str, parent: &str, name: &str, attributes: Value) {
        self.ours(
            "span.started",
            json!({"span_id": id, "parent_span_id": parent, "name": name, "kind": "internal",
            "start_time": "2026-01-31T12:00:00.000000Z", "attributes": attributes}),
        );
    }

    fn close(&mut self, id: &str, name: &str, attributes: Value) {
        self.ours(
            "span.ended",
            json!({"span_id": id, "parent_span_id": null, "name": name, "status": "unset",
            "duration_ms": 5.5, "attributes": attributes}),
        );
    }

    fn turn(&mut self, ordinal: u64) {
        let id = format!("turn{ordinal}");
        self.open(
            &id,
            "root",
            "invoke_agent claude",
            json!({"sandtrace.turn": ordinal}),
        );
    }

    fn tool(&mut self, id: &str) {
        let attributes =
            json!({"gen_ai.tool.name": "Bash", "gen_ai.tool.call.id": format!("toolu_{id}")});
        self.open(id, "turn1", "execute_tool Bash", attributes);
    }

    fn memory(&mut self, used: u64, total: u64) {
        self.ours(
            "resources",
            json!({"sandbox": {"cpu_utilization": 0.5, "cpus": 2, "memory_total_bytes": total,
            "memory_used_bytes": used, "swap_used_bytes": 0, "load_1m": 1.0}}),
        );
    }

    fn heartbeat(&mut self, state: &str) {
        self.ours("heartbeat", json!({"uptime_ms": 20_000, "state": state}));
    }

    fn says(&mut self, text: &str, parent: Option<&str>) {
        self.line(json!({"type": "AssistantMessage", "content": [{"type": "TextBlock", "text": text}], "parent_tool_use_id": parent}), "turn1");
    }

    fn streams(&mut self, text: &str) {
        let delta =
            json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}});
        self.line(
            json!({"type": "StreamEvent", "event": delta, "parent_tool_use_id": null}),
            "turn1",
        );
    }

    fn state(&self) -> State {
        self.run.state()
    }
}

#[test]
fn a_run_goes_through_its_states() {
    let mut lines = Lines::default();
    assert_eq!(lines.state(), State::Starting);
    lines.started(json!({}));
    assert_eq!(lines.state(), State::Starting);
    lines.turn(1);
    assert_eq!(lines.state(), State::WaitingForModel);
    lines.tool("a");
    lines.tool("b");
    assert_eq!(lines.state(), State::InTool);
    lines.open(
        "ask",
        "a",
        "approval Bash",
        json!({"sandtrace.approval.source": "agent"}),
    );
    lines.line(json!({"type": "approval_request", "data": {"id": "q", "tool_use_id": "toolu_a", "tool_name": "Bash", "input": {}}}), "ask");
    assert_eq!(lines.state(), State::WaitingForApproval);
    lines.line(
        json!({"type": "approval_decision", "data": {"id": "q", "decision": "allow"}}),
        "ask",
    );
    assert_eq!(lines.state(), State::InTool);
    lines.close("ask", "approval Bash", json!({}));
    assert_eq!(lines.state(), State::InTool);
    lines.close("a", "execute_tool Bash", json!({}));
    lines.close("b", "execute_tool Bash", json!({}));
    assert_eq!(lines.state(), State::WaitingForModel);
    lines.close("turn1", "invoke_agent claude", json!({"sandtrace.turn": 1}));
    assert_eq!(lines.state(), State::BetweenTurns);
    lines.turn(2);
    assert_eq!(lines.state(), State::WaitingForModel);
    lines.ours(
        "agent.exited",
        json!({"outcome": "success", "failure": null, "exit": null}),
    );
    assert_eq!(lines.state(), State::Stopping);
    lines.run.lose(Loss::new(LossReason::SandboxGone));
    assert_eq!(lines.state(), State::Finished);
    assert_eq!(lines.run.turn_count(), 2);
    assert_eq!(lines.run.turns()[0].duration_ms, Some(5.5));
    assert_eq!(lines.run.turns()[0].failed, Some(false));
    assert_eq!(lines.run.turns()[1].duration_ms, None);
}

#[test]
fn a_heartbeat_knows_better_until_something_else_is_heard() {
    let mut lines = Lines::default();
    lines.turn(1);
    lines.tool("a");
    lines.heartbeat("waiting_for_model");
    assert_eq!(lines.state(), State::WaitingForModel);
    lines.heartbeat("a word of tomorrow");
    assert_eq!(lines.state(), State::InTool);
    lines.heartbeat("waiting_for_approval");
    lines.says("on", None);
    assert_eq!(lines.state(), State::InTool);
    // But it stays asked to stop.
    lines.heartbeat("stopping");
    lines.says("on", None);
    assert_eq!(lines.state(), State::Stopping);
}

#[test]
fn a_tool_whose_call_has_returned_is_not_waited_for() {
    let mut lines = Lines::default();
    lines.turn(1);
    lines.tool("a");
    lines.line(json!({"type": "UserMessage", "content": []}), "a");
    // Its end may be the next line.
    assert_eq!(lines.state(), State::InTool);
    lines.says("It goes on behind me", None);
    assert_eq!(lines.state(), State::WaitingForModel);
    let tool = lines.run.open_tools().next().unwrap();
    assert!(tool.in_background);
    assert_eq!((&*tool.tool_use_id, &*tool.name), ("toolu_a", "Bash"));
}

#[test]
fn a_wait_for_a_person_that_no_tool_explains_is_a_state_all_the_same() {
    let mut lines = Lines::default();
    let session_state =
        |state: &str| json!({"type": "system", "subtype": "session_state_changed", "state": state});
    lines.turn(1);
    lines.tool("a");
    lines.tool("b");
    lines.line(session_state("requires_action"), "turn1");
    assert_eq!(lines.state(), State::WaitingForApproval);
    assert_eq!(lines.run.pending_approvals(), []);
    lines.line(session_state("running"), "turn1");
    assert_eq!(lines.state(), State::InTool);
    // Where one tool explains it, the span does.
    lines.open(
        "ask",
        "a",
        "approval Bash",
        json!({"sandtrace.approval.source": "session_state"}),
    );
    lines.line(session_state("requires_action"), "ask");
    let [pending] = lines.run.pending_approvals() else {
        panic!()
    };
    assert_eq!(pending.source, ApprovalSource::Observed);
    assert_eq!(pending.tool_use_id.as_deref(), Some("toolu_a"));
    // It is over when Claude Code runs on, though its span ends with the tool.
    lines.line(session_state("running"), "ask");
    assert_eq!(lines.state(), State::InTool);
}

#[test]
fn a_question_goes_with_the_call_it_was_about() {
    let mut lines = Lines::default();
    lines.turn(1);
    lines.tool("a");
    lines.line(json!({"type": "approval_request", "data": {"id": "q", "tool_use_id": "toolu_a", "tool_name": "Bash", "input": {}}}), "turn1");
    assert_eq!(lines.run.pending_approvals().len(), 1);
    // Interrupted: there is no decision.
    lines.close("a", "execute_tool Bash", json!({}));
    assert_eq!(lines.run.pending_approvals(), []);
}

#[test]
fn the_answer_grows_and_is_not_said_twice() {
    let mut lines = Lines::default();
    lines.turn(1);
    lines.streams("Hel");
    lines.streams("lo");
    assert_eq!(lines.run.answer(), "Hello");
    lines.says("Hello", None);
    assert_eq!(lines.run.answer(), "Hello");
    lines.says("I am a subagent", Some("toolu_a"));
    lines.streams("Wor");
    assert_eq!(lines.run.answer(), "Hello\n\nWor");
    lines.says("World", None);
    assert_eq!(lines.run.answer(), "Hello\n\nWorld");
    lines.line(
        json!({"type": "ResultMessage", "result": "World", "num_turns": 1}),
        "turn1",
    );
    assert_eq!(lines.run.answer(), "Hello\n\nWorld");
    lines.turn(2);
    assert_eq!(lines.run.answer(), "");
    lines.line(
        json!({"type": "ResultMessage", "result": "Only this", "num_turns": 1}),
        "turn2",
    );
    assert_eq!(lines.run.answer(), "Only this");
}

#[test]
fn of_what_grows_only_so_much_is_kept() {
    let mut lines = Lines::default();
    lines.turn(1);
    for n in 0..5_000 {
        lines.streams("é 20 bytes of text ");
        lines.ours("warning", json!({"code": format!("w{n}"), "message": "m"}));
        lines.turn(n + 2);
        lines.streams("and of a late turn ");
        lines.tool(&format!("t{n}"));
    }
    let run = &lines.run;
    assert_eq!(run.turns().len(), 1_000);
    assert_eq!(run.turns().last().unwrap().ordinal, 5_001);
    assert_eq!(run.turn_count(), 5_001);
    assert_eq!(run.warnings().len(), 256);
    assert_eq!(run.warning_count(), 5_000);
    assert_eq!(run.warnings().last().unwrap().code, "w4999");
    assert_eq!(run.open_spans().len(), 4_096);
    assert_eq!(run.untracked_spans(), 10_001 - 4_096);
    assert!(run.open_tools().count() <= 4_096);
    for _ in 0..10_000 {
        lines.streams("é 20 bytes of text ");
    }
    let answer = lines.run.answer();
    assert!(answer.len() <= 64 << 10, "{}", answer.len());
    assert!(answer.len() > 32 << 10, "{}", answer.len());
    assert!(answer.ends_with("of text "));
}

#[test]
fn tokens_and_cost_add_up_and_a_turn_s_own_cost_counts() {
    let mut lines = Lines::default();
    let call = |input: u64, output: Option<u64>, usd: f64| {
        let mut attributes = json!({"gen_ai.usage.input_tokens": input, "gen_ai.usage.cache_read.input_tokens": 3,
            "sandtrace.cost.usd": usd, "sandtrace.cost.source": "table@2026-01-01"});
        if let Some(output) = output {
            attributes["gen_ai.usage.output_tokens"] = output.into();
        }
        attributes
    };
    lines.turn(1);
    assert_eq!(lines.run.cost(), None);
    lines.close("c1", "chat m", call(10, Some(5), 0.5));
    lines.close("c2", "chat m", call(20, None, 0.25));
    // A refused one.
    lines.close("c3", "chat m", json!({"error.type": "api.auth"}));
    let usage = lines.run.usage();
    assert_eq!(
        (
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_input_tokens,
            usage.incomplete_calls
        ),
        (30, 5, 6, 1)
    );
    let cost = lines.run.cost().unwrap();
    assert_eq!((cost.usd, &*cost.source), (0.75, "table@2026-01-01"));
    lines.close(
        "turn1",
        "invoke_agent claude",
        json!({"sandtrace.turn": 1, "sandtrace.cost.usd": 1.0, "sandtrace.cost.source": "agent"}),
    );
    assert_eq!(lines.run.turns()[0].cost_usd, Some(1.0));
    lines.close("c4", "chat m", call(1, Some(1), 0.125));
    let cost = lines.run.cost().unwrap();
    assert_eq!((cost.usd, &*cost.source), (1.125, "agent+table@2026-01-01"));
    // A subagent is no turn.
    lines.close(
        "s",
        "invoke_agent general-purpose",
        json!({"sandtrace.cost.usd": 9.0}),
    );
    assert_eq!(lines.run.cost().unwrap().usd, 1.125);
}

#[test]
fn samples_give_the_last_and_the_peaks() {
    let mut lines = Lines::default();
    lines.memory(700, 1000);
    lines.memory(600, 1000);
    assert_eq!(
        lines.run.resources().unwrap().sandbox.memory_used_bytes,
        600
    );
    let peaks = lines.run.peaks().unwrap();
    assert_eq!((peaks.samples, peaks.memory_used_bytes_max), (2, 700));
    assert_eq!(lines.run.last_activity(), None, "a sample is no activity");
}

fn lost(lines: &mut Lines, loss: Loss) -> sandtrace_client::Failure {
    let conclusion = lines.run.lose(loss);
    assert_eq!(conclusion.outcome, Outcome::Failure);
    assert!(conclusion.is_lost());
    conclusion.failure.clone().unwrap()
}

fn facts(failure: &sandtrace_client::Failure) -> Vec<String> {
    let facts = failure
        .evidence
        .iter()
        .map(|evidence| format!("{}: {}", evidence.source, evidence.fact));
    facts.collect()
}

fn alternatives(failure: &sandtrace_client::Failure) -> Vec<String> {
    failure
        .alternatives
        .iter()
        .map(|alternative| alternative.kind.to_string())
        .collect()
}

#[test]
fn a_lost_run_says_what_is_known() {
    let mut lines = Lines::default();
    lines.started(json!({}));
    lines.turn(1);
    lines.tool("a");
    lines.tool("b");
    lines.memory(970, 1000);
    let loss = Loss::new(LossReason::SupervisorGone {
        status: Some("signal: killed".to_owned()),
    });
    let failure = lost(&mut lines, loss.provider_says("process exited"));
    assert_eq!(failure.kind, FailureKind::LostSupervisor);
    assert!(failure.recoverable);
    assert_eq!(
        failure.message,
        "the supervisor is gone, though the sandbox is there; the last line (sandtrace.resources, number 5) is of \
         2026-01-31T12:00:05.000000Z; Bash was running; memory was 97 % full"
    );
    assert_eq!(
        facts(&failure),
        [
            "provider: process exited",
            "process: the supervisor ended: signal: killed",
            "events: the last was sandtrace.resources, number 5, at 2026-01-31T12:00:05.000000Z",
            "events: tools that ran: Bash (toolu_a) since 2026-01-31T12:00:00.000000Z, Bash (toolu_b) since \
             2026-01-31T12:00:00.000000Z",
            "samples: the sandbox's memory was 97 % full at the last sample: 970 of 1000 bytes",
        ]
    );
    assert_eq!(alternatives(&failure), ["oom.agent"]);
    // It stays what it was called first.
    let again = lines.run.lose(Loss::new(LossReason::Unreachable));
    assert_eq!(again.failure, Some(failure));
}

#[test]
fn each_way_to_be_lost_has_its_name() {
    let cases = [
        (LossReason::SandboxGone, "lost.sandbox", 0.9),
        (LossReason::SandboxTimeout, "timeout.sandbox_end", 0.95),
        (
            LossReason::SupervisorGone { status: None },
            "lost.supervisor",
            0.8,
        ),
        (LossReason::Unreachable, "lost.sandbox", 0.5),
    ];
    for (reason, kind, confidence) in cases {
        let mut lines = Lines::default();
        lines.memory(940, 1000);
        let failure = lost(&mut lines, Loss::new(reason.clone()));
        assert_eq!(failure.kind.to_string(), kind, "{reason:?}");
        assert_eq!(failure.confidence, confidence, "{reason:?}");
        assert!(
            !alternatives(&failure).contains(&"oom.agent".to_owned()),
            "{reason:?}"
        );
    }
}

#[test]
fn a_sandbox_that_is_gone_near_its_known_end_was_ended() {
    for (end, expected) in [
        ("2026-01-31T12:00:30.000000Z", "timeout.sandbox_end"),
        ("2026-01-31T13:00:00.000000Z", "lost.sandbox"),
        ("2026-01-31T11:00:00.000000Z", "lost.sandbox"),
        ("some day", "lost.sandbox"),
    ] {
        let mut lines = Lines::default();
        lines.started(json!({"sandbox_ends_at": end}));
        let failure = lost(&mut lines, Loss::new(LossReason::SandboxGone));
        assert_eq!(failure.kind.to_string(), expected, "{end}");
        assert!(facts(&failure).contains(&format!("clock: the sandbox was to end at {end}")));
    }
}

#[test]
fn a_run_of_which_nothing_was_seen_is_lost_too() {
    let mut run = Run::new();
    let conclusion = run.lose(Loss::new(LossReason::Unreachable));
    let failure = conclusion.failure.as_ref().unwrap();
    assert!(
        failure.message.ends_with("not a line of the run was seen"),
        "{}",
        failure.message
    );
    assert_eq!(conclusion.lost.as_ref().unwrap().last_event, None);
}

#[test]
fn a_verdict_that_came_before_the_stream_was_lost_stands() {
    let mut lines = Lines::default();
    lines.started(json!({}));
    let failure = json!({"class": "oom", "reason": "agent", "message": "m", "confidence": 0.9, "recoverable": false, "evidence": [], "alternatives": []});
    lines.ours("agent.exited", json!({"outcome": "failure", "failure": failure, "exit": {"code": null, "signal": "SIGKILL", "core_dumped": false, "reported_code": 137}}));
    let conclusion = lines.run.lose(Loss::new(LossReason::SandboxGone));
    assert_eq!(
        conclusion.failure.as_ref().unwrap().kind,
        FailureKind::OomAgent
    );
    assert_eq!(conclusion.exit.as_ref().unwrap().reported_code, 137);
    assert!(conclusion.is_lost());
}

#[test]
fn what_a_newer_supervisor_says_is_kept_and_the_rest_still_read() {
    let stamp =
        |seq: u64| json!({"seq": seq, "time": "t", "trace_id": "a", "span_id": "b", "host": "new"});
    let lines = [
        json!({"type": "sandtrace.novelty", "data": {"deep": [1]}, "sandtrace": stamp(1)}),
        // A known type in a shape that cannot be read.
        json!({"type": "sandtrace.heartbeat", "data": {"uptime": "long"}, "sandtrace": stamp(2)}),
        // Known types with words that are new.
        json!({"type": "sandtrace.output", "data": {"stream": "fd3", "text": "x", "newline": true, "colour": 1}, "sandtrace": stamp(3)}),
        json!({"type": "sandtrace.agent.exited", "data": {"outcome": "paused", "failure": {"class": "quantum", "reason": "noise", "message": "m",
            "confidence": 1.0, "recoverable": true}, "exit": null}, "sandtrace": stamp(4)}),
    ];
    let mut run = Run::new();
    for line in &lines {
        let text = format!("{line}\n");
        let [Decoded::Event(event)] = &Decoder::new().feed(text.as_bytes())[..] else {
            panic!("{line}")
        };
        assert_eq!(event.json(), *line);
        run.apply(event);
    }
    assert_eq!(run.unknown(), 2);
    let exited = run.exited().unwrap();
    assert_eq!(exited.outcome, Outcome::Unknown);
    assert_eq!(
        exited.failure.as_ref().unwrap().kind.to_string(),
        "quantum.noise"
    );
}

#[test]
fn an_event_counts_once_and_missing_ones_are_told() {
    let event = |seq: u64| {
        let stamp = json!({"seq": seq, "time": "t", "trace_id": "a", "span_id": "b"});
        Event::parse(&json!({"type": "sandtrace.warning", "data": {"code": "c", "message": "m"}, "sandtrace": stamp}).to_string()).unwrap()
    };
    let mut run = Run::new();
    assert_eq!(run.apply(&event(1)), Admission::Next);
    assert_eq!(run.apply(&event(1)), Admission::Repeated);
    assert_eq!(run.apply(&event(4)), Admission::After { missing: 2 });
    assert_eq!(run.apply(&event(3)), Admission::Repeated);
    assert_eq!(
        (run.last_seq(), run.missing(), run.warning_count()),
        (4, 2, 2)
    );
}
