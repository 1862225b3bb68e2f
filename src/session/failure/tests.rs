//! The truth table: evidence on the left, verdict on the right.

mod memory;
mod network;

use super::exit_code::process_error_code;
use super::*;

/// Facts in short: what is not named is not so.
struct Case {
    intent: Option<Intent>,
    ending: Ending,
    result: Option<LastResult>,
    stderr: &'static str,
    agent_error: Option<&'static str>,
    events: bool,
    turn_open: bool,
    memory: Memory,
}

fn exit(code: i32) -> Case {
    Case {
        intent: None,
        ending: Ending::Terminated(Termination::Exited(code)),
        result: None,
        stderr: "",
        agent_error: None,
        events: true,
        turn_open: false,
        memory: Memory::default(),
    }
}

fn killed(signal: i32) -> Case {
    Case {
        ending: Ending::Terminated(Termination::Signaled {
            signal,
            core_dumped: false,
        }),
        ..exit(0)
    }
}

fn not_spawned(failure: SpawnFailure) -> Case {
    Case {
        ending: Ending::NotSpawned {
            failure,
            message: "no such file".to_owned(),
        },
        events: false,
        ..exit(0)
    }
}

impl Case {
    fn meant(self, intent: Intent) -> Self {
        Self {
            intent: Some(intent),
            ..self
        }
    }

    fn said(self, stderr: &'static str) -> Self {
        Self { stderr, ..self }
    }

    fn result(self, subtype: &str, is_error: bool, reason: Option<&str>) -> Self {
        let result = LastResult {
            subtype: subtype.to_owned(),
            is_error,
            terminal_reason: reason.map(str::to_owned),
            ..LastResult::default()
        };
        Self {
            result: Some(result),
            ..self
        }
    }

    fn well(self) -> Self {
        self.result("success", false, Some("completed"))
    }

    fn denied(mut self) -> Self {
        if let Some(result) = &mut self.result {
            result.denied_permission = true;
        }
        self
    }

    fn text(mut self, text: &str) -> Self {
        if let Some(result) = &mut self.result {
            text.clone_into(&mut result.text);
        }
        self
    }

    fn status(mut self, status: u16) -> Self {
        if let Some(result) = &mut self.result {
            result.api_error_status = Some(status);
        }
        self
    }

    fn open(self) -> Self {
        Self {
            turn_open: true,
            ..self
        }
    }

    fn silent(self) -> Self {
        Self {
            events: false,
            ..self
        }
    }

    fn error(self, message: &'static str) -> Self {
        Self {
            agent_error: Some(message),
            ..self
        }
    }

    fn verdict(&self) -> (Outcome, Option<Failure>) {
        let mut stderr = StderrTail::default();
        self.stderr
            .lines()
            .for_each(|line| stderr.push(line.as_bytes()));
        classify(&Facts {
            intent: self.intent,
            ending: &self.ending,
            result: self.result.as_ref(),
            api_error: None,
            stderr: &stderr,
            memory: &self.memory,
            network: &Network::default(),
            agent_error: self.agent_error,
            saw_event: self.events,
            turn_open: self.turn_open,
        })
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const PROCESS_ERROR: &str = "claude_agent_sdk._errors.ProcessError: Command failed with exit code";

#[test]
fn every_line_of_the_truth_table_holds() {
    let error = |subtype, reason| exit(1).result(subtype, true, reason);
    let cli_killed = "claude_agent_sdk._errors.ProcessError: Command failed with exit code -9 (exit code: -9)\n\
                      Error output: Check stderr output for details";
    let table: Vec<(Case, &str)> = vec![
        // It never ran.
        (not_spawned(SpawnFailure::NotFound), "spawn.not_found"),
        (
            not_spawned(SpawnFailure::NotExecutable),
            "spawn.not_executable",
        ),
        (not_spawned(SpawnFailure::Failed), "spawn.failed"),
        // We meant it.
        (
            killed(15).meant(Intent::Deadline(MINUTE)),
            "timeout.deadline",
        ),
        (
            exit(0).well().meant(Intent::Deadline(MINUTE)),
            "timeout.deadline",
        ),
        (killed(9).meant(Intent::Idle(MINUTE)), "timeout.idle"),
        (killed(15).well().meant(Intent::SessionIdle(MINUTE)), "-"),
        (killed(15).meant(Intent::Stop(15)), "cancelled.host"),
        (exit(143).meant(Intent::Stop(15)), "cancelled.host"),
        (
            exit(1)
                .result("success", true, Some("api_error"))
                .status(500)
                .meant(Intent::Stop(2)),
            "cancelled.host",
        ),
        (exit(0).well().meant(Intent::Stop(15)), "-"),
        (
            exit(0).well().open().meant(Intent::Stop(15)),
            "cancelled.host",
        ),
        // A signal.
        (killed(9), "crash.signal"),
        (killed(9).well(), "crash.signal"),
        (killed(11), "crash.signal"),
        (killed(15), "crash.signal"),
        (
            killed(6).said("FATAL ERROR: Reached heap limit - JavaScript heap out of memory"),
            "oom.heap",
        ),
        // Words that a heap of somebody's left on stderr explain no signal from outside.
        (
            killed(9).said("FATAL ERROR: JavaScript heap out of memory"),
            "crash.signal",
        ),
        (
            killed(15).said("FATAL ERROR: JavaScript heap out of memory"),
            "crash.signal",
        ),
        // The last result.
        (exit(0).well(), "-"),
        (error("error_max_turns", None), "limit.turns"),
        (
            error("error_max_budget_usd", Some("budget_exhausted")),
            "limit.budget",
        ),
        (
            error("error_max_structured_output_retries", None),
            "limit.structured_output",
        ),
        (
            exit(0).result("error_during_execution", true, Some("aborted_streaming")),
            "cancelled.user",
        ),
        (
            exit(0)
                .result("error_during_execution", true, Some("aborted_tools"))
                .denied(),
            "cancelled.permission",
        ),
        (
            error("success", Some("prompt_too_long")).status(400),
            "api.context_too_long",
        ),
        (error("success", Some("api_error")).status(401), "api.auth"),
        (
            error("success", Some("api_error")).status(429),
            "api.rate_limit",
        ),
        (
            error("success", Some("api_error")).status(529),
            "api.overloaded",
        ),
        (
            error("success", Some("api_error")).text("refused (ECONNREFUSED)"),
            "network.connect",
        ),
        (
            error("success", Some("api_error")).text("Request timed out"),
            "timeout.api",
        ),
        (
            error("error_during_execution", None).text("No conversation found with session ID"),
            "crash.bad_session",
        ),
        (
            error("error_during_execution", None).text("the tool runner broke"),
            "crash.exception",
        ),
        (
            exit(0)
                .result("success", true, Some("api_error"))
                .status(500),
            "api.server_error",
        ),
        // An error of an earlier turn is history once the next one has begun.
        (
            exit(0)
                .result("success", true, Some("api_error"))
                .status(500)
                .open(),
            "crash.no_result",
        ),
        // The exception on stderr.
        (exit(1).said("ValueError: bad"), "crash.exception"),
        (
            exit(1).well().said("ValueError: after the result"),
            "crash.exception",
        ),
        (exit(1).well().said("MemoryError"), "oom.heap"),
        (
            exit(1)
                .said("ModuleNotFoundError: No module named 'claude_agent_sdk'")
                .silent(),
            "crash.exception",
        ),
        (
            exit(1).said("OSError: [Errno 28] No space left on device"),
            "crash.disk_full",
        ),
        (
            exit(1).said("OSError: [Errno 12] Cannot allocate memory"),
            "oom.heap",
        ),
        (exit(130).said("KeyboardInterrupt"), "cancelled.user"),
        // A disk is full in whatever language.
        (
            exit(1).said("Error: ENOSPC: no space left on device, write"),
            "crash.disk_full",
        ),
        (
            exit(1).said("sh: 1: echo: I/O error\ncp: error writing 'b': No space left on device"),
            "crash.disk_full",
        ),
        (
            exit(137).said("cp: error writing 'b': No space left on device"),
            "crash.signal",
        ),
        // The CLI reports its own end by a signal as 128 + n, under the SDK as well.
        (
            exit(1).said("a.ProcessError: Command failed with exit code 143 (exit code: 143)"),
            "crash.signal",
        ),
        (exit(1).said(cli_killed), "crash.signal"),
        (
            exit(1).said("claude_agent_sdk._errors.ProcessError: Command failed with exit code 1"),
            "crash.exit_code",
        ),
        (
            exit(1).said(
                "a.ResultError: Claude Code returned an error result: no route (ECONNREFUSED)",
            ),
            "network.connect",
        ),
        // The exit code.
        (
            exit(1)
                .said("error: unknown option '--no-such-flag'")
                .silent(),
            "crash.exit_code",
        ),
        (exit(1).silent(), "crash.exit_code"),
        (
            exit(1)
                .said("No conversation found with session ID: x")
                .silent(),
            "crash.bad_session",
        ),
        (exit(137), "crash.signal"),
        (exit(143), "crash.signal"),
        (exit(200), "crash.exit_code"),
        (exit(1).error("it broke"), "crash.exception"),
        // Exit 0 is not enough.
        (exit(0), "crash.no_result"),
        (exit(0).well().open(), "crash.no_result"),
        (exit(0).error("it broke"), "crash.exception"),
        (exit(0).silent(), "-"),
    ];
    let wrong: Vec<_> = table
        .iter()
        .enumerate()
        .filter_map(|(row, (case, expected))| {
            let (outcome, failure) = case.verdict();
            let found = failure
                .as_ref()
                .map_or("-".to_owned(), |failure| failure.kind.to_string());
            let fits = match found.split('.').next() {
                Some("-") => outcome == Outcome::Success,
                Some("cancelled") => outcome == Outcome::Cancelled,
                _ => outcome == Outcome::Failure,
            };
            (found != *expected || !fits)
                .then(|| format!("row {row}: {found} ({outcome:?}), not {expected}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_verdict_rests_on_evidence_and_says_so_in_a_sentence() {
    for case in [
        killed(9),
        exit(1),
        exit(0),
        exit(1).said("ValueError: bad"),
        not_spawned(SpawnFailure::NotFound),
    ] {
        let failure = case.verdict().1.unwrap();
        assert!(!failure.evidence.is_empty(), "{failure:?}");
        assert!(
            failure.evidence.iter().all(|item| !item.fact.is_empty()),
            "{failure:?}"
        );
        assert!((0.0..=1.0).contains(&failure.confidence), "{failure:?}");
        assert!(
            failure.message.ends_with(['.', ')', '…']),
            "{}",
            failure.message
        );
    }
}

#[test]
fn exit_by_kill_alone_is_no_oom_but_may_have_been_one() {
    let failure = killed(9).verdict().1.unwrap();
    assert_eq!(failure.kind, FailureKind::CrashSignal);
    assert!(
        failure
            .alternatives
            .iter()
            .any(|other| other.kind == FailureKind::OomAgent)
    );
    assert!(
        failure
            .alternatives
            .iter()
            .all(|other| other.confidence < failure.confidence)
    );
}

#[test]
fn the_code_of_the_cli_is_read_from_the_sdks_words() {
    for (text, code) in [
        (" 1 (exit code: 1)", Some(1)),
        (" -9 (exit code: -9)", Some(-9)),
        ("", None),
    ] {
        assert_eq!(process_error_code(&format!("{PROCESS_ERROR}{text}")), code);
    }
}
