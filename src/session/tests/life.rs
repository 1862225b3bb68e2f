//! Signs of life and the lack of them.

use super::*;
use crate::clock::PauseCause;
use crate::resources::TreeSample;
use crate::session::semconv::event;

const INIT: &str =
    r#"{"type":"system","subtype":"init","session_id":"s","model":"claude-x","tools":[]}"#;

/// In a turn, with an idle timeout of a minute.
fn in_turn(idle_timeout: Option<Duration>) -> Replay {
    let mut replay = Replay::new(SessionConfig {
        idle_timeout,
        ..config()
    });
    replay.input(1, Input::Spawned { pid: 42 });
    replay.line(10, INIT);
    replay
}

const MINUTE: Option<Duration> = Some(Duration::from_secs(60));

fn warnings(replay: &Replay) -> Vec<(&'static str, String)> {
    let warnings = replay.actions.iter().filter_map(|action| match action {
        Action::Warn { code, message, .. } => Some((*code, message.clone())),
        _ => None,
    });
    warnings.collect()
}

fn codes(replay: &Replay) -> Vec<&'static str> {
    warnings(replay).into_iter().map(|(code, _)| code).collect()
}

fn is_stopped(replay: &Replay) -> bool {
    replay.session.state() == State::Stopping
}

fn pause(seconds: u64) -> Pause {
    Pause {
        cause: PauseCause::VmRestore,
        length: Duration::from_secs(seconds),
        gap: Duration::from_secs(seconds),
        step_ms: 0,
    }
}

fn sample(replay: &mut Replay, millis: u64, cpu_millis: u64) {
    let sample = Sample {
        tree: Some(TreeSample {
            ticks: millis / 10,
            cpu: Duration::from_millis(cpu_millis),
            processes: Vec::new(),
        }),
        ..Sample::default()
    };
    replay.input(millis, Input::Sampled(&sample));
}

/// Case 33, `idle_deadline`, CPU-busy: 5 percent of a core is life, 4 percent is not.
#[test]
fn work_in_the_tree_is_a_sign_of_life() {
    for (percent, alive) in [(5, true), (4, false), (0, false)] {
        let mut replay = in_turn(MINUTE);
        for second in 1..=70 {
            sample(&mut replay, 1000 * second, 10 * percent * second);
            replay.input(1000 * second, Input::Tick);
        }
        assert_eq!(is_stopped(&replay), !alive, "{percent} percent");
        assert_eq!(codes(&replay).contains(&"stalled"), !alive);
    }
}

/// Case 32, starved: where twenty tasks want a core, a busy agent gets a twentieth of it.
#[test]
fn on_a_crowded_machine_less_work_is_a_sign_of_life() {
    for (load, alive) in [(1.0, false), (40.0, true)] {
        let mut replay = in_turn(MINUTE);
        for second in 1..=70 {
            let mut sample = Sample {
                tree: Some(TreeSample {
                    cpu: Duration::from_millis(10 * second),
                    ..TreeSample::default()
                }),
                ..Sample::default()
            };
            sample.resources.sandbox.load_1m = load;
            sample.resources.sandbox.cpus = 2;
            replay.input(1000 * second, Input::Sampled(&sample));
            replay.input(1000 * second, Input::Tick);
        }
        assert_eq!(is_stopped(&replay), !alive, "load {load}");
    }
}

#[test]
fn a_stall_is_told_once_a_silence() {
    let mut replay = in_turn(None);
    assert_eq!(
        replay.session.deadline(),
        Some(Duration::from_millis(300_010))
    );
    replay.input(300_009, Input::Tick);
    assert_eq!(codes(&replay), Vec::<&str>::new());
    replay.input(300_010, Input::Tick);
    assert_eq!(replay.session.deadline(), None);
    replay.input(400_000, Input::Tick);
    assert_eq!(codes(&replay), ["stalled"]);
    let (_, message) = &warnings(&replay)[0];
    assert!(message.contains("for 5 min"), "{message}");
    assert!(message.ends_with("waiting for the model"), "{message}");

    replay.input(500_000, Input::Stderr(b"still here"));
    replay.input(800_000, Input::Tick);
    assert_eq!(codes(&replay), ["stalled", "stalled"]);
    replay.exit(800_001, Termination::Exited(0));
    let event = |name: &str| {
        let turn = replay.span("invoke_agent claude");
        turn.events
            .iter()
            .filter(|event| event.name == name)
            .count()
    };
    assert_eq!(event("sandtrace.stalled"), 2);
}

#[test]
fn a_stall_in_a_tool_names_the_tool() {
    let mut replay = in_turn(MINUTE);
    replay.line(20, r#"{"type":"assistant","message":{"id":"m","role":"assistant","model":"claude-x","content":[{"type":"tool_use","id":"t","name":"Bash","input":{}}]},"parent_tool_use_id":null,"session_id":"s"}"#);
    replay.input(30_019, Input::Tick);
    assert_eq!(codes(&replay), Vec::<&str>::new());
    replay.input(30_020, Input::Tick);
    let (_, message) = &warnings(&replay)[0];
    assert!(message.ends_with("in the tool Bash"), "{message}");
}

#[test]
fn between_turns_and_before_the_spawn_nothing_stalls() {
    let mut replay = in_turn(None);
    replay.line(20, r#"{"type":"result","subtype":"success","is_error":false,"result":"done","session_id":"s","num_turns":1,"total_cost_usd":0.01,"usage":{"input_tokens":1,"output_tokens":1}}"#);
    assert_eq!(replay.session.deadline(), None);
    assert_eq!(Replay::new(config()).session.deadline(), None);
}

#[test]
fn a_retry_s_announced_wait_is_no_silence() {
    let mut replay = in_turn(MINUTE);
    replay.line(1000, r#"{"type":"system","subtype":"api_retry","attempt":1,"max_retries":10,"retry_delay_ms":180000,"error_status":529,"error":"overloaded","session_id":"s"}"#);
    replay.input(240_999, Input::Tick);
    assert!(!is_stopped(&replay));
    replay.input(241_000, Input::Tick);
    assert!(is_stopped(&replay));
}

#[test]
fn after_a_pause_silence_is_judged_a_minute_later() {
    let mut replay = in_turn(Some(Duration::from_secs(10)));
    replay.input(9_000, Input::Paused(pause(31)));
    replay.input(68_999, Input::Tick);
    assert!(!is_stopped(&replay));
    replay.input(69_000, Input::Tick);
    assert!(is_stopped(&replay));
    replay.exit(69_001, Termination::Exited(0));
    assert_eq!(codes(&replay), ["paused", "stalled"]);
    let (_, message) = &warnings(&replay)[0];
    assert!(message.contains("paused for 31 s"), "{message}");
    assert_eq!(replay.span("agent.run").events[0].name, "sandtrace.paused");
    assert_eq!(replay.finished().phases.paused_ms, Some(31_000.0));
}

#[test]
fn a_stepped_clock_is_told_and_is_no_pause() {
    let mut replay = in_turn(MINUTE);
    let step = Pause {
        cause: PauseCause::ClockStepped,
        length: Duration::ZERO,
        gap: Duration::ZERO,
        step_ms: -86_400_000,
    };
    replay.input(20, Input::Paused(step));
    replay.exit(30, Termination::Exited(0));
    assert_eq!(codes(&replay), ["clock_stepped"]);
    assert_eq!(replay.finished().phases.paused_ms, None);
}

#[test]
fn a_network_failure_after_a_pause_recalls_it() {
    for (after, recalled) in [(4_000, true), (61_000, false)] {
        let mut replay = in_turn(None);
        replay.input(1000, Input::Paused(pause(31)));
        let end = 1000 + after;
        replay.line(end, r#"{"type":"assistant","error":"server_error","message":{"id":"m","role":"assistant","model":"<synthetic>","content":[{"type":"text","text":"API Error: Connection error. (ECONNRESET)"}]},"parent_tool_use_id":null,"session_id":"s"}"#);
        replay.line(end, r#"{"type":"result","subtype":"success","is_error":true,"terminal_reason":"api_error","result":"API Error: Connection error. (ECONNRESET)","session_id":"s","num_turns":1,"total_cost_usd":0.0,"usage":{"input_tokens":0,"output_tokens":0}}"#);
        replay.exit(end, Termination::Exited(1));
        assert!(
            replay.failure().starts_with("network."),
            "{}",
            replay.failure()
        );
        let failure = replay.verdict().failure.clone().unwrap();
        let facts: Vec<_> = failure
            .evidence
            .iter()
            .filter(|item| item.source == "clock")
            .map(|item| item.fact.as_str())
            .collect();
        let expected = "the run was paused for 31 s, 4 s before its end";
        assert_eq!(facts == [expected], recalled, "{facts:?}");
        assert_eq!(facts.is_empty(), !recalled);
    }
}

#[test]
fn a_loop_is_told_after_5_10_20_and_40_calls_of_its_lane() {
    let mut loops = Loops::default();
    let mut told = Vec::new();
    for n in 0..50 {
        told.extend(loops.called(None, "Bash", "{}"));
        // Neither another lane nor the same input to another tool there is part of it.
        loops.called(Some("sub"), if n % 2 == 0 { "Read" } else { "Bash" }, "{}");
    }
    assert_eq!(told, [5, 10, 20, 40]);
    for _ in 0..4 {
        assert_eq!(loops.called(None, "Bash", "{\"a\":1}"), None);
    }
    assert_eq!(
        loops.called(None, "Bash", "{}"),
        None,
        "something came between"
    );
    for _ in 0..3 {
        assert_eq!(loops.called(None, "Bash", "{}"), None);
    }
    assert_eq!(loops.called(None, "Bash", "{}"), Some(5));
}

/// The original closes its spans; the copy has them all anew, in a trace that is linked to the old one.
#[test]
fn a_fork_carries_what_is_open_into_a_trace_of_its_own() {
    let mut replay = in_turn(None);
    let call = |n| {
        format!(
            r#"{{"type":"assistant","message":{{"id":"m{n}","role":"assistant","model":"claude-x","content":[{{"type":"tool_use","id":"t{n}","name":"Bash","input":{{}}}}]}},"parent_tool_use_id":null,"session_id":"s"}}"#
        )
    };
    let answer = |n| {
        format!(
            r#"{{"type":"user","message":{{"role":"user","content":[{{"type":"tool_result","tool_use_id":"t{n}","content":"ok"}}]}},"session_id":"s"}}"#
        )
    };
    replay.line(20, &call(1));
    replay.line(30, &answer(1));
    replay.line(40, &call(2));
    let old_root = replay.session.root();
    let old: Vec<_> = replay.opened.drain(..).map(|span| span.span_id).collect();
    let closed_before = replay.closed.len();

    let forked = replay.session.fork(at(50), "run-2", &mut replay.effects);
    replay.collect();
    assert_eq!(forked.from_root, old_root);
    assert_eq!(forked.from_trace_id, TraceId::from_bytes([7; 16]));
    assert_eq!(forked.trace_id, id::trace_id("run-2"));
    assert_eq!(forked.root, replay.session.root());
    let names: Vec<_> = replay
        .opened
        .iter()
        .map(|span| span.name.as_ref())
        .collect();
    assert_eq!(names[..2], ["agent.run", "invoke_agent claude"]);
    assert!(names.contains(&"execute_tool Bash"), "{names:?}");
    assert_eq!(replay.opened[0].parent_span_id, None);

    replay.line(60, &answer(2));
    assert_eq!(
        replay.line_span,
        replay
            .opened
            .iter()
            .find(|span| span.name == "execute_tool Bash")
            .map(|span| span.span_id)
    );
    // A straggler of what was over before the fork opens nothing.
    replay.line(65, &call(1));
    replay.line(70, &call(3));
    replay.line(80, &answer(3));
    replay.exit(90, Termination::Exited(0));
    let new = replay.closed.split_off(closed_before);
    assert_eq!(new.len(), replay.opened.len());
    for span in &new {
        assert_eq!(span.trace_id, forked.trace_id, "{}", span.name);
        assert!(!old.contains(&span.span_id), "{} has its old id", span.name);
        assert!(
            span.start >= at(50).wall,
            "{} began before the fork",
            span.name
        );
        let parent = span.parent_span_id;
        assert!(
            parent.is_none_or(|id| new.iter().any(|span| span.span_id == id)),
            "{}",
            span.name
        );
        assert_eq!(attribute(span, key::RUN_ID), Some(&Value::from("run-2")));
        let link = (span.name == "agent.run").then_some(SpanLink {
            trace_id: forked.from_trace_id,
            span_id: old_root,
        });
        assert_eq!(span.link, link, "{}", span.name);
    }
    let tools = new
        .iter()
        .filter(|span| span.name == "execute_tool Bash")
        .count();
    assert_eq!(tools, 2);
    for span in &replay.closed {
        assert_eq!(span.trace_id, forked.from_trace_id);
    }
}

/// Whoever ends the sandbox does not warn; and whoever extends it does not tell.
#[test]
fn around_the_end_of_the_sandbox_everything_is_sent_each_second() {
    let mut replay = Replay::new(SessionConfig {
        sandbox_ends_at: Some(at(100_000).wall),
        ..config()
    });
    replay.input(1, Input::Spawned { pid: 42 });
    let mut flushes = Vec::new();
    // An agent that says nothing is told later.
    while let Some(due) = replay.session.deadline() {
        let due = u64::try_from(due.as_millis()).unwrap();
        if due >= 300_000 {
            break;
        }
        assert!(due > replay.now, "the same deadline twice");
        replay.input(due, Input::Tick);
        if replay.actions.contains(&Action::Flush) {
            flushes.push(due / 1000);
            replay.actions.retain(|action| *action != Action::Flush);
        }
    }
    assert_eq!(flushes, Vec::from_iter(70..=130));
    let [(code, message)] = &warnings(&replay)[..] else {
        panic!("{:?}", warnings(&replay))
    };
    assert_eq!(*code, "sandbox_ending");
    assert!(
        message.starts_with("the sandbox ends in 30 s, at "),
        "{message}"
    );
    assert!(!is_stopped(&replay));
    replay.exit(131_000, Termination::Exited(0));
    assert_eq!(replay.failure(), "-");
    let run = replay.span("agent.run");
    assert_eq!(run.events[0].name, event::SANDBOX_ENDING);
}

/// The wall clock of the run goes on with a pause, its time does not.
#[test]
fn a_pause_brings_the_end_of_the_sandbox_nearer() {
    let mut replay = Replay::new(SessionConfig {
        sandbox_ends_at: Some(at(100_000).wall),
        ..config()
    });
    replay.input(1, Input::Spawned { pid: 42 });
    let mut now = at(2000);
    now.wall = at(62_000).wall;
    let paused = Input::Paused(pause(60));
    replay.session.handle(now, paused, &mut replay.effects);
    let due = replay.session.deadline();
    assert_eq!(due, Some(Duration::from_secs(10)));
}

#[test]
fn an_end_that_has_passed_is_told_and_then_forgotten() {
    let mut replay = Replay::new(SessionConfig {
        sandbox_ends_at: Some(UnixNanos(START.0 - 3_600_000_000_000)),
        ..config()
    });
    replay.input(1, Input::Spawned { pid: 42 });
    replay.input(2, Input::Tick);
    let (_, message) = &warnings(&replay)[0];
    assert!(message.contains("which is past"), "{message}");
    assert!(replay.actions.contains(&Action::Flush));
    // What is left is the stall of an agent that says nothing.
    replay.input(3000, Input::Tick);
    assert_eq!(codes(&replay), ["sandbox_ending"]);
    assert_eq!(replay.session.deadline(), Some(Duration::from_secs(300)));
}
