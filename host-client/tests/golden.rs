//! The golden streams: what supervisors of each released version of the wire have really printed must be read for ever.
//!
//! `fixtures/wire-1` is made by `tests/schema.rs` of the supervisor, which says how. A stream that was committed is never
//! changed; a test that fails on one is right.
#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, its functions included"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use sandtrace_client::run::{Loss, LossReason, State};
use sandtrace_client::{Admission, Content, Decoded, Decoder, Event, FailureKind, Run};

fn streams() -> Vec<(String, Vec<u8>)> {
    let directory: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wire-1");
    let mut streams: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "ndjson")
        })
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    streams.sort();
    assert!(streams.len() >= 10, "{}", streams.len());
    streams
}

fn stream(name: &str) -> Vec<Event> {
    let (_, bytes) = streams().into_iter().find(|(it, _)| it == name).unwrap();
    events(&bytes)
}

fn events(bytes: &[u8]) -> Vec<Event> {
    let decoded = Decoder::new().feed(bytes);
    decoded
        .into_iter()
        .map(|decoded| match decoded {
            Decoded::Event(event) => *event,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn folded(events: &[Event]) -> Run {
    let mut run = Run::new();
    for event in events {
        run.apply(event);
    }
    run
}

#[test]
fn every_golden_stream_is_read_to_its_known_end() {
    let mut summary = String::new();
    for (name, bytes) in streams() {
        let events = events(&bytes);
        let mut run = Run::new();
        for event in &events {
            assert!(
                !matches!(event.content(), Content::Unknown { .. }),
                "{name}: {}",
                event.raw()
            );
            assert_eq!(run.apply(event), Admission::Next, "{name}: {}", event.raw());
        }
        assert_eq!(run.state(), State::Finished, "{name}");
        assert_eq!(run.open_tools().count(), 0, "{name}");
        assert_eq!(run.pending_approvals(), [], "{name}");
        assert_eq!(run.open_spans(), [], "{name}");
        let conclusion = run.conclusion().unwrap();
        let failure = conclusion.failure.as_ref();
        let failure = failure.map_or_else(|| "-".to_owned(), |failure| failure.kind.to_string());
        let usage = conclusion.usage;
        let cost = conclusion.cost.as_ref().map_or(0.0, |cost| cost.usd);
        writeln!(
            summary,
            "{name}: {} events, {} {failure}, {} turns, {} warnings, {} in, {} out, ${cost:.6}, {:?}",
            events.len(),
            conclusion.outcome.as_str(),
            run.turn_count(),
            run.warning_count(),
            usage.input_tokens,
            usage.output_tokens,
            run.answer().chars().take(60).collect::<String>(),
        )
        .unwrap();
    }
    insta::assert_snapshot!("conclusions", summary);
}

/// What is known while a run goes on is what its last line says in the end.
#[test]
fn what_is_counted_on_the_way_is_what_the_last_line_says() {
    for (name, bytes) in streams() {
        let mut events = events(&bytes);
        let whole = folded(&events);
        events.pop();
        let cut = folded(&events);
        assert_eq!(cut.turn_count(), whole.turn_count(), "{name}");
        let (so_far, exact) = (cut.usage(), whole.usage());
        // A subagent's last call may be missing in a stream; only the result knows of it.
        assert!(so_far.input_tokens <= exact.input_tokens, "{name}");
        if ["tour", "approvals", "observed-approvals"].contains(&name.as_str()) {
            assert_eq!(so_far.input_tokens, exact.input_tokens, "{name}");
            assert!(so_far.input_tokens > 0, "{name}");
        }
        assert!(so_far.output_tokens <= exact.output_tokens, "{name}");
        let is_bound = so_far.incomplete_calls > 0 || so_far.input_tokens < exact.input_tokens;
        assert!(
            is_bound || so_far.output_tokens == exact.output_tokens,
            "{name}: {so_far:?}"
        );
        let usd = |run: &Run| run.cost().map_or(0.0, |cost| cost.usd);
        assert!(
            (usd(&cut) - usd(&whole)).abs() < 1e-9,
            "{name}: {:?} {:?}",
            cut.cost(),
            whole.cost()
        );
    }
}

#[test]
fn a_run_that_is_cut_anywhere_is_lost_with_what_was_known() {
    for (name, bytes) in streams() {
        let events = events(&bytes);
        for cut in 0..events.len() {
            let mut run = folded(&events[..cut]);
            let exited = run.exited().cloned();
            let tools = run.open_tools().count();
            let conclusion = run.lose(Loss::new(LossReason::SandboxGone)).clone();
            let lost = conclusion.lost.as_ref().unwrap();
            assert_eq!(
                lost.last_event.as_ref().map_or(0, |last| last.seq),
                cut as u64
            );
            assert_eq!(lost.open_tools.len(), tools, "{name}");
            match exited {
                Some(exited) => assert_eq!(conclusion.failure, exited.failure, "{name}"),
                None => {
                    let failure = conclusion.failure.unwrap();
                    assert_eq!(failure.kind, FailureKind::LostSandbox, "{name}");
                    assert!(!failure.evidence.is_empty());
                }
            }
            assert_eq!(run.state(), State::Finished);
        }
    }
}

#[test]
fn a_forked_run_is_followed_under_its_new_name() {
    let events = stream("fork");
    let run = folded(&events);
    let from = run.forked_from().unwrap();
    assert_ne!(run.run_id(), Some(from.run_id.as_str()));
    assert_eq!(run.turns().len(), 1);
    assert_eq!(
        run.trace_id(),
        Some(events.last().unwrap().stamp().trace_id.as_str())
    );
    // Between the fork and the end only what was announced anew is open.
    let second = |event: &Event| event.stamp().trace_id == run.trace_id().unwrap();
    let first_of_second = events.iter().position(second).unwrap();
    let run = folded(&events[..first_of_second + 1]);
    assert_eq!(run.open_spans(), []);
    let run = folded(&events[..events.len() - 3]);
    for open in run.open_spans() {
        assert_eq!(Some(open.trace_id.as_str()), run.trace_id());
    }
}

#[test]
fn questions_are_pending_from_the_request_to_the_decision() {
    let events = stream("approvals");
    let mut run = Run::new();
    let mut asked = Vec::new();
    for event in &events {
        run.apply(event);
        if let [pending] = run.pending_approvals() {
            assert_eq!(run.state(), State::WaitingForApproval);
            assert!(pending.is_answerable());
            if asked.last() != Some(&pending.id) {
                asked.push(pending.id.clone());
                assert_eq!(pending.tool_name, "Bash");
                assert_eq!(pending.input["command"], "rm -rf build");
                assert!(pending.tool_use_id.as_ref().unwrap().starts_with("toolu_"));
            }
        }
    }
    assert_eq!(asked, ["ask-0", "ask-1"]);
}

#[test]
fn a_question_that_only_claude_code_tells_of_is_seen_and_cannot_be_answered() {
    let events = stream("observed-approvals");
    let mut run = Run::new();
    let mut seen = Vec::new();
    for event in &events {
        run.apply(event);
        if let [pending] = run.pending_approvals() {
            assert_eq!(run.state(), State::WaitingForApproval);
            assert!(!pending.is_answerable());
            assert!(pending.tool_use_id.is_some());
            if seen.last() != Some(&pending.id) {
                seen.push(pending.id.clone());
            }
        } else {
            assert_ne!(run.state(), State::WaitingForApproval);
        }
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn a_subagent_s_tools_are_told_from_the_agent_s() {
    let events = stream("subagent");
    let mut run = Run::new();
    let mut tools = std::collections::BTreeSet::new();
    for event in &events {
        run.apply(event);
        for tool in run.open_tools() {
            tools.insert((tool.name.clone(), tool.subagent.clone()));
            assert_ne!(run.state(), State::WaitingForModel);
        }
    }
    let of = |name: &str, subagent: Option<&str>| (name.to_owned(), subagent.map(str::to_owned));
    assert!(tools.contains(&of("Agent", None)), "{tools:?}");
    assert!(
        tools.contains(&of("Bash", Some("general-purpose"))),
        "{tools:?}"
    );
    assert_eq!(run.answer().matches("general-purpose").count(), 0);
}

#[test]
fn each_line_of_an_agent_can_be_had_as_it_was_printed() {
    let printed: Vec<String> = stream("noise")
        .iter()
        .filter_map(Event::as_printed)
        .collect();
    assert_eq!(
        printed,
        [
            r#"{"type":"note","text":"an event of nobody we know"}"#,
            "{}",
            r#"  { "spaced" : true }  "#,
        ]
    );
}
