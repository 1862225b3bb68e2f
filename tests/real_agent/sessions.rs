//! Sessions over stdin, in which a person sends messages and answers Claude's requests for permission.

use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use sandtrace_client::FailureKind;
use sandtrace_client::wire::Outcome;
use serde_json::{Value, json};

use super::assert_tree;
use super::record::{Run, Span};
use super::stage::{Running, Stage};

/// What the protocol's description shows.
const DESCRIPTION: &str = include_str!("../../docs/sessions.md");

/// What the agent makes of lines that it cannot follow.
const INPUT_ERROR: &str = "input_error";

fn message(text: &str) -> Value {
    json!({"type": "user_message", "text": text})
}

/// Waits for a request for permission, and gives its id.
fn asked(session: &Running<'_>, number: usize) -> String {
    let request = session.line("approval_request", number);
    request["data"]["id"].as_str().unwrap().to_owned()
}

fn gap(run: &Run, turn: usize) -> Option<f64> {
    let turn = run.spans("invoke_agent").nth(turn - 1).unwrap();
    turn.number("sandtrace.turn.gap_ms")
}

/// The agent ended by itself and well, though nobody but the last result says that the run did.
fn assert_closed(run: &Run) {
    assert_ended_well(run);
    assert_eq!(run.stderr, "");
}

fn assert_ended_well(run: &Run) {
    assert_eq!(run.finished.outcome, Outcome::Success);
    assert_eq!(run.finished.failure, None);
    assert_eq!(run.status.code(), Some(0));
    let exit = run.finished.exit.as_ref().unwrap();
    assert_eq!((exit.code, exit.signal.as_deref()), (Some(0), None));
}

#[test]
fn a_person_allows_one_call_denies_another_and_changes_a_third() {
    let stage = Stage::playing("permissions");
    let mut session = stage.session(&["--tools", "Bash,Write", "--approve", "Bash,Write", "Go."]);
    let id = asked(&session, 1);
    // As long as a person takes, at the least.
    thread::sleep(Duration::from_millis(400));
    session.say(json!({"type": "approve", "id": id, "by": "ada"}));
    let id = asked(&session, 2);
    session.say(json!({"type": "deny", "id": id, "reason": "Leave the seed alone.", "by": "ada"}));
    let id = asked(&session, 3);
    let other = json!({"file_path": stage.path("work/other.txt"), "content": "changed\n"});
    session.say(json!({"type": "approve", "id": id, "updated_input": other}));
    session.say(json!({"type": "approve", "id": id}));
    session.line(INPUT_ERROR, 1);
    session.say(json!({"type": "close"}));
    let run = session.finish();
    assert_tree(
        &run,
        r#"
        agent.run outcome=success exit=0 in=17248 out=240 chats=4 tools=3
          invoke_agent claude turn=1 terminal=completed
            chat claude-sonnet-5 in=4312 read=4000 write=300 out=60 finish=["tool_use"]
            execute_tool Bash call=toolu_fake_0001_0
              approval Bash decision=allow by=ada feedback=0
            chat claude-sonnet-5 in=4312 read=4000 write=300 out=60 finish=["tool_use"]
            execute_tool Bash ERROR error=denied call=toolu_fake_0002_0
              approval Bash decision=deny by=ada feedback=21
            chat claude-sonnet-5 in=4312 read=4000 write=300 out=60 finish=["tool_use"]
            execute_tool Write call=toolu_fake_0003_0
              approval Write decision=allow by=human feedback=0
            chat claude-sonnet-5 in=4312 read=4000 write=300 out=60 finish=["end_turn"]
        "#,
    );
    let waits: Vec<f64> = run
        .spans("approval")
        .map(|wait| wait.number("sandtrace.approval.wait_ms").unwrap())
        .collect();
    assert!(waits[0] >= 400.0, "{waits:?}");
    let exact = run.spans("approval").map(|wait| wait.duration() * 1e3);
    for (exact, told) in exact.zip(waits) {
        assert!((exact - told).abs() < 1.0, "{exact} is not {told}");
    }
    // Claude did what was allowed, as it was allowed, and heard why not.
    assert!(stage.path("work/allowed.txt").exists());
    assert!(stage.path("work/seed.txt").exists());
    assert!(!stage.path("work/slow.txt").exists());
    let written = fs::read_to_string(stage.path("work/other.txt")).unwrap();
    assert_eq!(written, "changed\n");
    let stdout = fs::read_to_string(stage.path("stdout")).unwrap();
    assert!(stdout.contains("\"content\":\"Leave the seed alone.\""));
    let traces = fs::read_to_string(stage.path("journal/real/traces.jsonl")).unwrap();
    assert!(!traces.contains("Leave the seed alone."));
    assert_closed(&run);
}

#[test]
fn two_messages_are_two_turns_and_the_end_of_stdin_is_the_end_of_the_session() {
    let stage = Stage::playing("multi_turn");
    let mut session = stage.session(&["--tools", "Bash"]);
    session.say(message("One."));
    session.line("ResultMessage", 1);
    thread::sleep(Duration::from_millis(400));
    session.say(message("Two."));
    // While it is at work.
    session.line("ResultMessage", 2);
    session.say(message("Three."));
    session.hang_up();
    let run = session.finish();
    let turn = |run: &Run, number: u64| {
        let mut turns = run.spans("invoke_agent");
        turns.any(|turn| turn.count("sandtrace.turn") == number)
    };
    assert!(turn(&run, 1) && turn(&run, 2) && turn(&run, 3) && !turn(&run, 4));
    assert_eq!(gap(&run, 1), None);
    assert!(gap(&run, 2).unwrap() >= 400.0, "{:?}", gap(&run, 2));
    assert!(gap(&run, 3).unwrap() < 5000.0, "{:?}", gap(&run, 3));
    assert_eq!(run.finished.counts.turns, 3);
    assert_closed(&run);
}

#[test]
fn an_interrupt_ends_the_turn_and_not_the_session() {
    let stage = Stage::playing("interrupt");
    let mut session = stage.session(&["--tools", "Bash", "Start."]);
    session.await_command("import time; time.sleep(30); print(1)");
    session.say(json!({"type": "interrupt"}));
    session.line("ResultMessage", 1);
    session.say(message("And now?"));
    session.line("ResultMessage", 2);
    // Between turns there is nothing to interrupt.
    session.say(json!({"type": "interrupt"}));
    session.say(json!({"type": "close"}));
    let run = session.finish();
    let turns: Vec<_> = run.spans("invoke_agent").collect();
    assert_eq!(turns.len(), 2);
    let reason = "sandtrace.result.terminal_reason";
    assert_eq!(turns[0].text(reason), Some("aborted_tools"));
    assert_eq!(turns[0].text("error.type"), Some("cancelled.user"));
    assert_eq!(turns[1].text(reason), Some("completed"));
    assert_closed(&run);
}

#[test]
fn an_interrupt_denies_what_waits_and_a_session_that_ends_so_was_cancelled() {
    let stage = Stage::playing("permissions");
    let mut session = stage.session(&["--approve", "Bash"]);
    session.say(message("Go."));
    asked(&session, 1);
    session.say(json!({"type": "interrupt", "by": "ada"}));
    session.line("ResultMessage", 1);
    session.hang_up();
    let run = session.finish();
    let wait = run.spans("approval").next().unwrap();
    assert_eq!(wait.text("sandtrace.approval.decision"), Some("deny"));
    assert_eq!(wait.text("sandtrace.approval.source"), Some("ada"));
    assert!(!stage.path("work/allowed.txt").exists());
    assert_eq!(run.finished.outcome, Outcome::Cancelled);
    let failure = run.finished.failure.as_ref().unwrap();
    assert_eq!(failure.kind, FailureKind::CancelledPermission);
    assert_eq!((run.status.code(), run.stderr.as_str()), (Some(0), ""));
}

#[test]
fn what_waits_when_stdin_ends_is_denied_and_the_turn_goes_on() {
    let stage = Stage::playing("permissions");
    let mut session = stage.session(&["--approve", "Bash,Write", "Go."]);
    asked(&session, 1);
    session.hang_up();
    let run = session.finish();
    let waits: Vec<_> = run.spans("approval").collect();
    assert_eq!(waits.len(), 3);
    for wait in waits {
        assert_eq!(wait.text("sandtrace.approval.decision"), Some("deny"));
        assert_eq!(wait.text("sandtrace.approval.source"), Some("agent"));
    }
    let denied = run.spans("execute_tool");
    assert!(
        denied
            .into_iter()
            .all(|tool| tool.text("error.type") == Some("denied"))
    );
    assert_closed(&run);
}

#[test]
fn a_session_in_which_nothing_is_said_any_more_is_closed_by_the_idle_timeout() {
    let stage = Stage::playing("multi_turn").option("--idle-timeout", "2s");
    let mut session = stage.session(&["--tools", "Bash"]);
    session.say(message("One."));
    // It is the supervisor that has enough.
    let run = session.finish();
    assert_eq!(run.finished.counts.turns, 1);
    assert!(run.finished.duration_ms >= 2000.0);
    assert_closed(&run);
}

#[test]
fn a_session_that_is_stopped_between_turns_is_closed() {
    let stage = Stage::playing("multi_turn");
    let mut session = stage.session(&["--tools", "Bash"]);
    session.say(message("One."));
    session.line("ResultMessage", 1);
    session.signal(Signal::SIGTERM);
    let run = session.finish();
    assert_eq!(run.finished.counts.turns, 1);
    assert_closed(&run);
}

#[test]
fn work_in_the_background_does_not_keep_a_session_from_being_closed() {
    let stage = Stage::playing("background_work");
    let mut session = stage.session(&["--tools", "Bash"]);
    session.say(message("Start the server."));
    session.line("ResultMessage", 1);
    session.signal(Signal::SIGTERM);
    let run = session.finish();
    assert_eq!(run.finished.counts.turns, 1);
    // Not silently: the SDK logs that its CLI was ended by TERM.
    assert_ended_well(&run);
}

#[test]
fn a_session_in_which_nobody_asked_for_anything_is_no_failure() {
    let stage = Stage::playing("multi_turn");
    let mut session = stage.session(&["--tools", "Bash"]);
    session.hang_up();
    let run = session.finish();
    assert_eq!(run.finished.counts.turns, 0);
    assert_closed(&run);
}

#[test]
fn a_session_that_is_stopped_while_a_person_is_asked_was_cancelled_by_the_host() {
    let stage = Stage::playing("permissions");
    let session = stage.session(&["--approve", "Bash", "Go."]);
    asked(&session, 1);
    session.signal(Signal::SIGTERM);
    let run = session.finish();
    assert_eq!(run.finished.outcome, Outcome::Cancelled);
    let failure = run.finished.failure.as_ref().unwrap();
    assert_eq!(failure.kind, FailureKind::CancelledHost);
    assert_eq!(run.status.code(), Some(143));
    let wait = run.spans("approval").next().unwrap();
    assert_eq!(wait.text("sandtrace.approval.decision"), Some("deny"));
    assert_eq!(wait.text("sandtrace.approval.source"), Some("agent"));
    assert!(!stage.path("work/allowed.txt").exists());
}

#[test]
fn a_line_that_cannot_be_followed_is_told_and_the_session_goes_on() {
    let stage = Stage::playing("plain_text");
    let mut session = stage.session(&["--tools", "Bash"]);
    let wrong = [
        (json!("close"), "not one of the lines"),
        (
            json!({"type": "approve", "id": "approval-7"}),
            "no approval waits under the id 'approval-7'",
        ),
        (
            json!({"type": "user_message", "text": ""}),
            "text is missing or empty",
        ),
        (
            json!({"type": "deny", "id": "x", "reason": 7}),
            "reason is no string",
        ),
    ];
    for (number, (line, why)) in wrong.into_iter().enumerate() {
        session.say(line);
        let told = session.line(INPUT_ERROR, number + 1);
        assert_eq!(told["data"]["line"], number + 1);
        let message = told["data"]["message"].as_str().unwrap();
        assert!(message.contains(why), "{message}");
    }
    session.say(message("Hello."));
    session.hang_up();
    let run = session.finish();
    assert_eq!(run.finished.counts.turns, 1);
    assert_closed(&run);
}

/// Whether a line has all that the example shows of it. The API's own ids are other ones.
fn shows(line: &Value, example: &Value) -> bool {
    match (line, example) {
        (Value::Object(line), Value::Object(example)) => example.iter().all(|(key, example)| {
            let is_shown = |line| shows(line, example);
            line.get(key).is_some_and(is_shown)
        }),
        (Value::Array(line), Value::Array(example)) => {
            line.len() == example.len() && line.iter().zip(example).all(|(a, b)| shows(a, b))
        }
        (Value::String(line), Value::String(example)) if example.starts_with("toolu_") => {
            line.starts_with("toolu_")
        }
        _ => line == example,
    }
}

#[test]
fn the_example_of_the_description_is_played_to_the_letter() {
    let example = DESCRIPTION.split("```text\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let stage = Stage::playing("session");
    let mut session = stage.session(&["--approve", "Bash,Write"]);
    let mut seen = 0;
    for line in example.lines() {
        let (direction, line) = line.split_once(' ').unwrap();
        let line: Value = serde_json::from_str(line).unwrap();
        match direction {
            ">" => session.say(line),
            "<" => seen = session.any_line(seen, &line.to_string(), |told| shows(told, &line)),
            other => panic!("no direction: {other}"),
        }
    }
    let run = session.finish();
    assert_eq!(run.finished.counts.turns, 2);
    assert!(stage.path("work/build/app").exists());
    assert!(!stage.path("work/build/make.log").exists());
    assert_closed(&run);
    let described = DESCRIPTION.split("## In the trace").nth(1).unwrap();
    for span in run.spans("approval").chain(run.spans("invoke_agent")) {
        let ours = span.keys().filter(|key| {
            key.starts_with("sandtrace.approval.") || *key == "sandtrace.turn.gap_ms"
        });
        for key in ours {
            assert!(described.contains(&format!("`{key}`")), "{key}");
        }
    }
}

#[test]
fn inside_e2b_a_session_asks_as_anywhere_or_only_for_what_is_named() {
    for (options, expected) in [
        (&[][..], &["Bash", "Bash", "Write"][..]),
        (&["--approve", "Write"], &["Write"]),
        (&["--approve", "Bash(rm:*)"], &["Bash"]),
    ] {
        let stage = Stage::playing("permissions").with("E2B_SANDBOX", "true");
        let mut session = stage.session(&[&["Go."], options].concat());
        for number in 1..=expected.len() {
            let id = asked(&session, number);
            session.say(json!({"type": "approve", "id": id}));
        }
        session.say(json!({"type": "close"}));
        let run = session.finish();
        let asked: Vec<_> = run.spans("approval").map(Span::tool).collect();
        assert_eq!(asked, expected, "{options:?}");
        assert!(!stage.path("work/seed.txt").exists());
        assert!(stage.path("work/slow.txt").exists());
        assert_closed(&run);
    }
}
