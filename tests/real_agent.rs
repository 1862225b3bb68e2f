//! The real Claude Agent SDK with its CLI, under the real binary, against a scripted Messages API on loopback.
//!
//! Every run, whatever it is about, is held to what must be true of any: see [`record::Run::check`].

mod memory;
mod record;
mod sessions;
mod stage;

use nix::sys::signal::Signal;
use sandtrace_client::FailureKind;
use sandtrace_client::wire::Outcome;

use record::{Run, Span};
use stage::{Caller, Stage};

/// Compares a tree with one that is written where the indentation of the code has it.
#[track_caller]
fn assert_tree(run: &Run, expected: &str) {
    let lines = || expected.lines().filter(|line| !line.trim().is_empty());
    let margin = lines()
        .map(|line| line.len() - line.trim_start().len())
        .min()
        .unwrap();
    let expected: String = lines()
        .map(|line| format!("{}\n", &line[margin..]))
        .collect();
    let tree = run.tree();
    assert!(
        tree == expected,
        "the tree is\n{tree}\nand not\n{expected}\nstderr: {}",
        run.stderr
    );
}

#[test]
fn a_text_is_one_chat() {
    let stage = Stage::playing("plain_text");
    let run = stage.run("Bash");
    assert_tree(
        &run,
        r#"
        agent.run outcome=success exit=0 in=4312 out=60 chats=1 tools=0
          invoke_agent claude turn=1 terminal=completed
            chat claude-sonnet-5 in=4312 read=4000 write=300 out=60 finish=["end_turn"]
        "#,
    );
    let chat = run.spans("chat").next().unwrap();
    assert_eq!(
        chat.text("sandtrace.answer"),
        Some("Hello! The answer is 42.")
    );
    assert_eq!(run.finished.outcome, Outcome::Success);
    assert_eq!(run.finished.failure, None);
    assert_eq!(run.stderr, "");
}

#[test]
fn without_a_caller_the_run_is_the_root_of_a_trace_of_its_own() {
    let stage = Stage::playing("plain_text");
    let run = stage.start("Bash", Caller::DoesNot).finish();
    assert_eq!(run.root().parent, None);
    // The first half of the SHA-256 of the run's id.
    let trace = &run.lines[0]["sandtrace"]["trace_id"];
    assert_eq!(trace, "aa33996d60e89311b4d1a920dae03c6d");
}

#[test]
fn tools_in_parallel_overlap_under_the_turn() {
    let stage = Stage::playing("parallel_tools");
    let run = stage.run("Bash,Read");
    assert_tree(
        &run,
        r#"
        agent.run outcome=success exit=0 in=3826 out=155 chats=2 tools=3
          invoke_agent claude turn=1 terminal=completed
            chat claude-sonnet-5 in=1809 read=0 write=1800 out=131 finish=["tool_use"]
            execute_tool Bash call=toolu_fake_0001_1
            execute_tool Bash call=toolu_fake_0001_2
            execute_tool Read call=toolu_fake_0001_3
            chat claude-sonnet-5 in=2017 read=1800 write=210 out=24 finish=["end_turn"]
        "#,
    );
    let last_start = run.spans("execute_tool").map(|tool| tool.start).max();
    let first_end = run.spans("execute_tool").map(|tool| tool.end).min();
    assert!(last_start < first_end, "{:?}", run.spans);
    // The first one sleeps for a second.
    let longest = run
        .spans("execute_tool")
        .map(Span::duration)
        .fold(0.0, f64::max);
    assert!(longest >= 1.0, "{longest} s");
}

#[test]
fn a_tool_has_the_cpu_time_and_the_memory_of_its_own_processes() {
    let stage = Stage::playing("tool_cpu");
    let run = stage.run("Bash");
    let tools: Vec<&Span> = run.spans("execute_tool").collect();
    assert_eq!(tools.len(), 3, "{:?}", run.spans);
    let mut waiting = 0;
    for tool in tools {
        assert_eq!(
            tool.text("sandtrace.tool.resources"),
            Some("own"),
            "{tool:?}"
        );
        let cpu = tool.seconds("sandtrace.tool.cpu_seconds");
        let memory = tool.count("sandtrace.tool.memory_peak_bytes");
        if memory < 60 << 20 {
            assert!(cpu < 0.6, "{tool:?}");
            waiting += 1;
        } else {
            assert!((0.9..2.0).contains(&cpu), "{tool:?}");
            assert!((80 << 20..160 << 20).contains(&memory), "{tool:?}");
        }
    }
    assert_eq!(waiting, 1);
    let used = run.finished.resources.as_ref().unwrap();
    // The CLI alone takes more to start.
    assert!(used.tree_cpu_seconds > 2.5, "{used:?}");
    assert_eq!(used.largest_tool.as_ref().unwrap().name, "Bash");
}

#[test]
fn tools_that_fail_do_not_fail_the_run() {
    let stage = Stage::playing("tool_error");
    let run = stage.run("Bash,Read");
    assert_tree(
        &run,
        r#"
        agent.run outcome=success exit=0 in=21560 out=300 chats=5 tools=4
          invoke_agent claude turn=1 terminal=completed
            chat claude-sonnet-5 in=4312 read=4000 write=300 out=60 finish=["tool_use"]
            execute_tool Bash ERROR error=tool_error call=toolu_fake_0001_0
            chat claude-sonnet-5 in=4312 read=4000 write=300 out=60 finish=["tool_use"]
            execute_tool Read ERROR error=tool_error call=toolu_fake_0002_0
            chat claude-sonnet-5 in=4312 read=4000 write=300 out=60 finish=["tool_use"]
            execute_tool NoSuchTool ERROR error=tool_error call=toolu_fake_0003_0
            chat claude-sonnet-5 in=4312 read=4000 write=300 out=60 finish=["tool_use"]
            execute_tool Bash ERROR error=tool_error call=toolu_fake_0004_0
            chat claude-sonnet-5 in=4312 read=4000 write=300 out=60 finish=["end_turn"]
        "#,
    );
    assert_eq!(run.finished.failure, None);
}

#[test]
fn a_subagent_hangs_under_the_tool_call_that_started_it() {
    let stage = Stage::playing("subagent");
    let run = stage.run("Bash,Read,Agent");
    // The stream never tells a subagent's true output; a number there would be the API's placeholder.
    assert_tree(
        &run,
        r#"
        agent.run outcome=success exit=0 in=21471 out=271 chats=5 tools=3
          invoke_agent claude turn=1 terminal=completed
            chat claude-sonnet-5 in=3020 read=0 write=3000 out=90 finish=["tool_use"]
            execute_tool Agent call=toolu_fake_0001_1
              invoke_agent general-purpose status=completed
                chat claude-sonnet-5 in=5003 read=0 write=5000
                execute_tool Bash call=toolu_fake_0002_1
                chat claude-sonnet-5 in=5105 read=5000 write=100
                execute_tool Read call=toolu_fake_0003_1
                chat claude-sonnet-5 in=5186 read=5100 write=80
            chat claude-sonnet-5 in=3157 read=3000 write=150 out=25 finish=["end_turn"]
        "#,
    );
    let answers: Vec<_> = run
        .spans("chat")
        .filter_map(|chat| chat.text("sandtrace.answer"))
        .collect();
    // That of its last call is in the stream only because agent.py asks for a subagent's text.
    assert!(
        answers.contains(&"Subagent report: the seed file has one line."),
        "{answers:?}"
    );
}

#[test]
fn partial_messages_tell_the_exact_output_and_the_first_token() {
    let stage = Stage::playing("thinking");
    let run = stage.run("Bash");
    assert_tree(
        &run,
        r#"
        agent.run outcome=success exit=0 in=4134 out=110 chats=2 tools=1
          invoke_agent claude turn=1 terminal=completed
            chat claude-sonnet-5 in=2010 read=0 write=2000 out=77 finish=["tool_use"]
            execute_tool Bash call=toolu_fake_0001_2
            chat claude-sonnet-5 in=2124 read=2000 write=120 out=33 finish=["end_turn"]
        "#,
    );
    // Times are those of receipt, and a busy machine delays one line more than another, so only their order is certain.
    for chat in run.spans("chat") {
        let first = chat.seconds("gen_ai.response.time_to_first_chunk");
        assert!(0.0 < first && first < chat.duration(), "{chat:?}");
        assert!(chat.count("sandtrace.thinking.chars") > 0, "{chat:?}");
    }
    let first_token = run.finished.phases.first_token_ms;
    assert!(first_token > run.finished.phases.first_line_ms);
}

#[test]
fn an_invalid_key_fails_the_run() {
    let stage = Stage::playing("api_401");
    let run = stage.run("Bash");
    assert_tree(
        &run,
        "
        agent.run ERROR outcome=failure exit=1 error=api.auth in=0 out=0 chats=1 tools=0
          invoke_agent claude ERROR error=api.auth turn=1 terminal=api_error
            chat claude-sonnet-5 ERROR error=api.auth synthetic +sandtrace.retry
        ",
    );
    let failure = run.finished.failure.as_ref().unwrap();
    assert_eq!(failure.kind, FailureKind::ApiAuth);
    assert!(!failure.recoverable);
    let facts: Vec<&str> = failure
        .evidence
        .iter()
        .map(|item| item.fact.as_str())
        .collect();
    assert!(facts.contains(&"HTTP status 401"), "{facts:?}");
    assert_eq!(run.status.code(), Some(1));
    assert!(run.stderr.contains("Invalid API key"), "{}", run.stderr);
    // What the CLI says about the error is not an answer of the model.
    assert_eq!(run.finished.phases.first_token_ms, None);
}

#[test]
fn a_rate_limit_is_an_event_of_the_chat_that_it_delays() {
    let stage = Stage::playing("api_429_then_ok");
    let run = stage.run("Bash");
    assert_tree(
        &run,
        r#"
        agent.run outcome=success exit=0 in=4312 out=60 chats=1 tools=0
          invoke_agent claude turn=1 terminal=completed
            chat claude-sonnet-5 in=4312 read=4000 write=300 out=60 finish=["end_turn"] +sandtrace.retry
        "#,
    );
    let chat = run.spans("chat").next().unwrap();
    let retry = &chat.events[0].attributes;
    assert_eq!(retry["error.type"], "api.rate_limit");
    assert_eq!(retry["http.response.status_code"], 429);
    assert_eq!(retry["sandtrace.retry.attempt"], 1);
    // As the API asks for.
    assert!(retry["sandtrace.retry.delay_ms"].as_f64().unwrap() >= 1000.0);
    assert!(chat.duration() >= 1.0, "{chat:?}");
    assert_eq!(run.finished.counts.retries, 1);
}

#[test]
fn a_refused_connection_is_tried_again_and_then_fails_the_run() {
    let stage = Stage::deserted();
    let run = stage.run("Bash");
    assert_tree(
        &run,
        "
        agent.run ERROR outcome=failure exit=1 error=network.connect in=0 out=0 chats=1 tools=0
          invoke_agent claude ERROR error=network.connect turn=1 terminal=api_error
            chat claude-sonnet-5 ERROR error=network.connect synthetic +sandtrace.retry
        ",
    );
    let retry = &run.spans("chat").next().unwrap().events[0].attributes;
    assert_eq!(retry["error.type"], "network.connect");
    assert_eq!(retry["sandtrace.retry.max"], 1);
    let failure = run.finished.failure.as_ref().unwrap();
    assert_eq!(failure.kind, FailureKind::NetworkConnect);
    assert!(failure.recoverable);
    assert!(failure.confidence > 0.95, "{failure:?}");
    assert_fact(&run, "probe", "refuses connections");
    assert_fact(&run, "retry", "1 retry");
    assert_eq!(run.status.code(), Some(1));
}

/// Evidence of this source says so.
#[track_caller]
fn assert_fact(run: &Run, source: &str, words: &str) {
    let failure = run.finished.failure.as_ref().unwrap();
    let mut facts = failure.evidence.iter();
    assert!(
        facts.any(|item| item.source == source && item.fact.contains(words)),
        "no {source} says {words:?}: {failure:?}"
    );
}

#[test]
fn a_name_that_cannot_be_resolved_fails_the_run_as_dns() {
    let run = Stage::nameless().run("Bash");
    let failure = run.finished.failure.as_ref().unwrap();
    assert_eq!(failure.kind, FailureKind::NetworkDns, "{failure:?}");
    assert!(failure.confidence > 0.9, "{failure:?}");
    assert_fact(&run, "probe", "api.sandtrace.test:80");
}

#[test]
fn answers_that_are_reset_for_ever_fail_the_run_on_the_network() {
    let run = Stage::playing("reset_mid_stream_persistent").run("Bash");
    let failure = run.finished.failure.as_ref().unwrap();
    let kinds = [FailureKind::NetworkReset, FailureKind::NetworkConnect];
    assert!(kinds.contains(&failure.kind), "{failure:?}");
    // The host takes connections, so the trouble may pass.
    assert!(failure.confidence <= 0.5, "{failure:?}");
    assert_fact(&run, "probe", "takes connections now");
}

#[test]
fn a_certificate_that_nobody_vouches_for_fails_the_run_without_a_probe() {
    let run = Stage::untrusted().run("Bash");
    let failure = run.finished.failure.as_ref().unwrap();
    assert_eq!(failure.kind, FailureKind::NetworkTls, "{failure:?}");
    assert!(failure.confidence > 0.9, "{failure:?}");
    assert!(failure.evidence.iter().all(|item| item.source != "probe"));
}

#[test]
fn an_api_that_never_answers_times_out_and_is_not_blamed_on_the_network() {
    let stage = Stage::playing("api_hang").with("API_TIMEOUT_MS", "3000");
    let run = stage.run("Bash");
    let failure = run.finished.failure.as_ref().unwrap();
    assert_eq!(failure.kind, FailureKind::TimeoutApi, "{failure:?}");
    assert_fact(&run, "probe", "takes connections now");
    let network = failure
        .alternatives
        .iter()
        .find(|other| other.kind == FailureKind::NetworkTimeout);
    assert!(
        network.is_none_or(|other| other.confidence <= 0.25),
        "{failure:?}"
    );
}

#[test]
fn a_rate_limit_for_ever_fails_the_run_with_its_retries_told() {
    let run = Stage::playing("api_429_persistent").run("Bash");
    let failure = run.finished.failure.as_ref().unwrap();
    assert_eq!(failure.kind, FailureKind::ApiRateLimit, "{failure:?}");
    assert_fact(&run, "retry", "last HTTP 429");
    assert!(failure.evidence.iter().all(|item| item.source != "probe"));
}

#[test]
fn an_overloaded_api_fails_the_run_with_its_retries_told() {
    let run = Stage::playing("api_529_persistent").run("Bash");
    let failure = run.finished.failure.as_ref().unwrap();
    assert_eq!(failure.kind, FailureKind::ApiOverloaded, "{failure:?}");
    assert_fact(&run, "retry", "last HTTP 529");
    assert_fact(&run, "result", "HTTP status 529");
}

#[test]
fn a_run_that_is_stopped_while_a_tool_runs_leaves_nothing_behind() {
    let stage = Stage::playing("long_tool");
    let running = stage.start("Bash", Caller::Traces);
    running.await_command("import time; time.sleep(20); print(1)");
    running.signal(Signal::SIGTERM);
    // That no process is left is asserted in there.
    let run = running.finish();

    // How far the agent gets with its farewell depends on the machine's speed: the turn and the tool end either by the
    // CLI's word or, without one, by ours.
    let tree = run.tree();
    let lines: Vec<&str> = tree.lines().collect();
    let [root, turn, chat, tool] = lines[..] else {
        panic!("{tree}");
    };
    assert_eq!(
        root,
        "agent.run outcome=cancelled signal=SIGTERM error=cancelled.host in=4312 out=60 chats=1 tools=1"
    );
    let turns = [
        "  invoke_agent claude ERROR error=cancelled.host turn=1 terminal=aborted_tools",
        "  invoke_agent claude ERROR error=abandoned abandoned turn=1",
    ];
    assert!(turns.contains(&turn), "{tree}");
    assert_eq!(
        chat,
        r#"    chat claude-sonnet-5 in=4312 read=4000 write=300 out=60 finish=["tool_use"]"#
    );
    let tools = [
        "    execute_tool Bash ERROR error=tool_error call=toolu_fake_0001_0",
        "    execute_tool Bash ERROR error=abandoned abandoned call=toolu_fake_0001_0",
    ];
    assert!(tools.contains(&tool), "{tree}");
    assert_eq!(run.finished.outcome, Outcome::Cancelled);
    let failure = run.finished.failure.as_ref().unwrap();
    assert_eq!(failure.kind, FailureKind::CancelledHost);
    assert_eq!(
        run.finished.exit.as_ref().unwrap().signal.as_deref(),
        Some("SIGTERM")
    );
    assert_eq!(run.status.code(), Some(143));
    // What the agent did not end itself, we did.
    let survivors = &run.finished.survivors;
    assert!(
        survivors.iter().all(|process| process.killed),
        "{survivors:?}"
    );
}
