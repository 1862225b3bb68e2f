//! Time and its absence: limits, pauses, silence, and calls that go in circles.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::supervised::{Finished, Running, Transcript, poll, python, sh, skipped};
use crate::support::receiver::Receiver;

const INIT: &str =
    r#"{"type":"system","subtype":"init","session_id":"s","model":"claude-x","tools":[]}"#;
const RESULT: &str = r#"{"type":"result","subtype":"success","is_error":false,"result":"done","session_id":"s","num_turns":1,"total_cost_usd":0.01,"usage":{"input_tokens":1,"output_tokens":1}}"#;

/// Says that it is ready, and later what time it is by its own clock, until it has counted to its argument.
const COUNTER: &str =
    "echo '{\"ready\":1}'; for n in $(seq 30); do sleep 0.1; echo \"{\\\"n\\\":$n}\"; done";

fn warning<'a>(transcript: &'a Transcript, code: &str) -> &'a Value {
    let warnings = transcript.all("sandtrace.warning");
    let mut found = warnings.into_iter().filter(|data| data["code"] == code);
    let warning = found
        .next()
        .unwrap_or_else(|| panic!("no {code} among {:?}", transcript.warnings()));
    assert_eq!(found.next(), None, "more than one {code}");
    warning
}

/// The one pause of the run, in milliseconds.
fn assert_paused(run: &Finished, millis: std::ops::Range<u64>, cause: &str) {
    let transcript = run.transcript();
    let counts = &warning(&transcript, "paused")["counts"];
    assert_eq!(counts["cause"], cause);
    let gap = counts["gap_ms"].as_u64().unwrap();
    assert!(millis.contains(&gap), "a gap of {gap} ms");
    let told = transcript.finished()["phases"]["paused_ms"].as_f64();
    assert!(
        told.is_some_and(|told| (told - gap as f64).abs() < 1.0),
        "{told:?}"
    );
}

/// Waits as long as the test needs; the test is about time.
fn for_a_while(seconds: u64) {
    thread::sleep(Duration::from_secs(seconds));
}

fn pid(run: &Running) -> Pid {
    Pid::from_raw(run.pid().try_into().unwrap())
}

fn agent(run: &Running) -> Pid {
    let line = run.line("the start", |line| line["type"] == "sandtrace.run.started");
    Pid::from_raw(line["data"]["pid"].as_i64().unwrap().try_into().unwrap())
}

#[test]
fn total_deadline_ends_a_run_that_is_busy() {
    let run = sh("while :; do echo '{\"n\":1}'; sleep 0.05; done")
        .option("--deadline", "1s")
        .run();
    assert_eq!(run.code(), 124);
    assert_eq!(run.transcript().verdict(), "timeout.deadline");
    assert!(run.took >= Duration::from_secs(1), "{:?}", run.took);
    run.assert_sound();
}

/// Asks for no more than a test needs: a turn begins, and nothing comes of it.
#[test]
fn idle_deadline_ends_a_silent_turn_and_its_stall_was_told() {
    let run = sh("cat lines; exec sleep 300")
        .file("lines", format!("{INIT}\n"))
        .option("--idle-timeout", "2s")
        .run();
    assert_eq!(run.code(), 124);
    let transcript = run.transcript();
    assert_eq!(transcript.verdict(), "timeout.idle");
    let stall = warning(&transcript, "stalled");
    assert_eq!(stall["counts"]["state"], "waiting_for_model");
    let silent = stall["counts"]["silent_ms"].as_u64().unwrap();
    assert!((1000..2000).contains(&silent), "{silent} ms");
    run.assert_sound();
}

/// Case 33, `idle_deadline`, CPU-busy: a look at the processes is a sign of life, with samples and without.
#[test]
fn an_agent_that_works_in_silence_is_not_idle() {
    for samples in ["500ms", "off"] {
        let run = python(
            r#"
import time
print(open("lines").read(), flush=True)
until = time.monotonic() + 6
while time.monotonic() < until:
    pass
print(open("result").read())
"#,
        )
        .file("lines", INIT)
        .file("result", RESULT)
        .option("--idle-timeout", "3s")
        .option("--sample-interval", samples)
        .run();
        assert_eq!(run.code(), 0, "samples {samples}");
        assert_eq!(run.transcript().verdict(), "success");
        run.assert_sound();
    }
}

/// Nobody warns before a sandbox is ended; so what is done is sent while there still is one.
#[test]
fn the_end_of_the_sandbox_stops_nobody_and_finds_everything_sent() {
    let receiver = Receiver::healthy();
    let ends = jiff::Timestamp::now() + Duration::from_secs(20);
    let run = sh("cat lines; while [ ! -e go ]; do sleep 0.05; done; exit 3")
        .file("lines", format!("{INIT}\n{RESULT}\n"))
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://127.0.0.1:{}", receiver.port()),
        )
        // Of itself a batch would wait for far longer than this test.
        .env("OTEL_BSP_SCHEDULE_DELAY", "600000")
        .env("SANDTRACE_SANDBOX_ENDS_AT", ends.to_string())
        .start();
    poll("the turn at the backend", || {
        let names = receiver.span_names();
        names
            .contains(&"invoke_agent claude".to_owned())
            .then_some(())
    });
    fs::write(run.directory().join("go"), "").unwrap();
    let run = run.wait();
    assert_eq!(run.code(), 3, "it was not stopped");
    let transcript = run.transcript();
    let counts = &warning(&transcript, "sandbox_ending")["counts"];
    assert!(counts["left_ms"].as_u64().unwrap() <= 20_000, "{counts}");
    let limit = transcript.started()["limits"]["sandbox_ends_at"].as_str();
    let limit: jiff::Timestamp = limit.unwrap().parse().unwrap();
    assert_eq!(limit.as_microsecond(), ends.as_microsecond());
    run.assert_sound();
}

/// Case 12: whoever is stopped is not idle.
#[test]
fn an_agent_that_is_stopped_is_not_idle() {
    let run = sh("cat lines; echo '{\"ready\":1}'; sleep 0.1; cat result")
        .file("lines", format!("{INIT}\n"))
        .file("result", format!("{RESULT}\n"))
        .option("--idle-timeout", "1500ms")
        .start();
    run.ready();
    kill(agent(&run), Signal::SIGSTOP).unwrap();
    for_a_while(4);
    kill(agent(&run), Signal::SIGCONT).unwrap();
    let run = run.wait();
    assert_eq!(run.code(), 0);
    assert_eq!(run.transcript().verdict(), "success");
    assert!(!run.transcript().warnings().contains(&"stalled"));
    assert!(!run.transcript().warnings().contains(&"paused"));
    run.assert_sound();
}

/// As a machine that is paused: supervisor and agent stand still together, for longer than the deadline.
#[test]
fn vm_stop_fires_no_deadline_and_is_told_with_its_length() {
    let run = sh(COUNTER)
        .option("--deadline", "6s")
        .option("--idle-timeout", "3s")
        .start();
    run.ready();
    let agent = agent(&run);
    kill(agent, Signal::SIGSTOP).unwrap();
    kill(pid(&run), Signal::SIGSTOP).unwrap();
    for_a_while(7);
    kill(agent, Signal::SIGCONT).unwrap();
    kill(pid(&run), Signal::SIGCONT).unwrap();
    let run = run.wait();
    assert_eq!(run.code(), 0, "{:?}", run.transcript().verdict());
    assert_paused(&run, 6000..8000, "stopped");
    assert_eq!(run.transcript().agent_lines().len(), 31);
    run.assert_sound();

    // The pause stands in the trace, and the run is as long as it took.
    let finished = run.transcript();
    let finished = finished.finished();
    assert!(finished["duration_ms"].as_f64().unwrap() > 9000.0);
    assert!(finished["phases"]["exit_ms"].as_f64().unwrap() < 6000.0);
    let spans = String::from_utf8(run.journal_file("traces.jsonl")).unwrap();
    assert!(spans.contains("\"sandtrace.paused\""), "{spans}");
}

/// After the pause the deadline has what was left of it, not more.
#[test]
fn a_deadline_goes_on_after_a_pause() {
    let began = Instant::now();
    let run = sh("echo '{\"ready\":1}'; exec sleep 300")
        .option("--deadline", "5s")
        .start();
    run.ready();
    let before = began.elapsed();
    kill(pid(&run), Signal::SIGSTOP).unwrap();
    for_a_while(6);
    kill(pid(&run), Signal::SIGCONT).unwrap();
    let resumed = Instant::now();
    let run = run.wait();
    let after = resumed.elapsed();
    assert_eq!(run.code(), 124);
    assert_paused(&run, 5000..7500, "stopped");
    // Of the pause itself, one second counts.
    let had = before + after + Duration::from_secs(1);
    assert!(had >= Duration::from_secs(5), "{before:?} and {after:?}");
    assert!(after < Duration::from_secs(15), "{after:?}");
    run.assert_sound();
}

/// A group of the first version's freezer, removed with the test.
struct Freezer(PathBuf);

impl Freezer {
    fn new() -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup/freezer");
        let path = root.join(format!("sandtrace-test-{}", uuid::Uuid::now_v7()));
        fs::create_dir(&path).ok()?;
        path.join("freezer.state").exists().then_some(Self(path))
    }

    /// Not until it says FROZEN, for a process in the middle of a vfork(2) never is; it stands still all the same.
    fn freeze(&self) -> Thaw<'_> {
        fs::write(self.0.join("freezer.state"), "FROZEN").unwrap();
        Thaw(self)
    }

    fn thaw(&self) {
        fs::write(self.0.join("freezer.state"), "THAWED").ok();
    }
}

/// Thaws before anybody tries to end what is frozen, which nobody can.
struct Thaw<'a>(&'a Freezer);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.thaw();
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn freeze_thaw_fires_no_deadline_and_is_told_with_its_length() {
    let Some(freezer) = Freezer::new() else {
        return skipped("no freezer of cgroup v1, or not root");
    };
    let supervised = sh(COUNTER).option("--deadline", "6s");
    let journal = supervised.directory().join("journal");
    let mut command = Command::new("sh");
    let join = "echo $$ > \"$0/cgroup.procs\"; exec \"$@\"";
    command.args(["-c", join]).arg(&freezer.0);
    command
        .arg(env!("CARGO_BIN_EXE_sandtrace"))
        .args(["run", "--deadline", "6s", "--journal"])
        .arg(journal)
        .args(["--", "sh", "-c", COUNTER]);
    let run = supervised.start_as(command);
    run.ready();
    let frozen = freezer.freeze();
    for_a_while(4);
    drop(frozen);
    let run = run.wait();
    assert_eq!(run.code(), 0, "{}", run.transcript().verdict());
    assert_paused(&run, 3000..5500, "frozen");
    assert_eq!(run.transcript().agent_lines().len(), 31);
    run.assert_sound();
}

/// Processes that take all the CPU there is.
struct Hogs(Vec<Child>);

impl Hogs {
    fn new(count: usize) -> Self {
        let hog = |_| {
            // The other tests go on meanwhile.
            let mut command = Command::new("nice");
            command.args(["-n", "10", "sh", "-c", "while :; do :; done"]);
            command.stdin(Stdio::null()).spawn().unwrap()
        };
        Self((0..count).map(hog).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            hog.kill().ok();
            hog.wait().ok();
        }
    }
}

#[test]
fn cpu_starved_is_no_pause() {
    let supervised = sh(COUNTER).option("--deadline", "120s");
    let journal = supervised.directory().join("journal");
    let mut command = Command::new("nice");
    command
        .args(["-n", "19", env!("CARGO_BIN_EXE_sandtrace")])
        .args(["run", "--idle-timeout", "60s", "--journal"])
        .arg(journal)
        .args(["--", "sh", "-c", COUNTER]);
    let run = supervised.start_as(command);
    run.ready();
    let hogs = Hogs::new(30);
    for_a_while(5);
    drop(hogs);
    let run = run.wait();
    assert_eq!(run.code(), 0);
    assert_eq!(run.transcript().warnings(), Vec::<&str>::new());
    run.assert_sound();
}

#[test]
fn the_same_call_again_and_again_is_told() {
    let run = python(
        r#"
import json
print(json.dumps({"type":"system","subtype":"init","session_id":"s","model":"claude-x","tools":[]}))
for n in range(12):
    tool = {"type":"tool_use","id":f"t{n}","name":"Bash","input":{"command":"make"}}
    message = {"id":f"m{n}","role":"assistant","model":"claude-x","content":[tool]}
    print(json.dumps({"type":"assistant","message":message,"parent_tool_use_id":None,"session_id":"s"}))
    result = {"type":"tool_result","tool_use_id":f"t{n}","content":"no","is_error":True}
    print(json.dumps({"type":"user","message":{"role":"user","content":[result]},"session_id":"s"}))
"#,
    )
    .run();
    let transcript = run.transcript();
    let told = transcript.all("sandtrace.warning");
    let told: Vec<_> = told
        .iter()
        .filter(|data| data["code"] == "loop")
        .map(|data| {
            (
                &data["counts"]["tool"],
                data["counts"]["times"].as_u64().unwrap(),
            )
        })
        .collect();
    let bash = Value::from("Bash");
    assert_eq!(told, [(&bash, 5), (&bash, 10)]);
    run.assert_sound();
}

/// A sandbox says who it is in a file that only its host writes; here the file is in a mount namespace of the run's own.
pub(crate) fn in_a_sandbox() -> Option<Running> {
    let lines = format!("echo '{INIT}'; {COUNTER}; echo '{RESULT}'");
    let supervised = sh(&lines).env("E2B_SANDBOX_ID", "first");
    let journal = supervised.directory().join("journal");
    let enter = "mount -t tmpfs none /run && mkdir /run/e2b && echo first > /run/e2b/.E2B_SANDBOX_ID || exit 99; exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args([
            "-m",
            "sh",
            "-c",
            enter,
            "sh",
            env!("CARGO_BIN_EXE_sandtrace"),
        ])
        .args(["run", "--journal"])
        .arg(journal)
        .args(["--", "sh", "-c", &lines]);
    let probe = Command::new("unshare")
        .args(["-m", "mount", "-t", "tmpfs", "none", "/run"])
        .output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        skipped("no mount namespace to be had");
        return None;
    }
    let run = supervised.start_as(command);
    run.ready();
    Some(run)
}

pub(crate) fn copy_sandbox(run: &Running) {
    let id = format!("/proc/{}/root/run/e2b/.E2B_SANDBOX_ID", run.pid());
    fs::write(id, "second\n").unwrap();
}

#[test]
fn a_copy_that_was_made_too_quickly_to_be_a_pause_is_noticed() {
    let Some(run) = in_a_sandbox() else { return };
    copy_sandbox(&run);
    let run = run.wait();
    assert_eq!(run.code(), 0);
    let transcript = run.transcript();
    let runs = transcript.all("sandtrace.run.started");
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[1]["forked_from"]["run_id"], runs[0]["run_id"]);
    assert_eq!(transcript.warnings(), Vec::<&str>::new());
    run.assert_sound();
}

#[test]
fn a_sandbox_that_was_forked_goes_on_as_another_run() {
    let Some(run) = in_a_sandbox() else { return };
    kill(pid(&run), Signal::SIGSTOP).unwrap();
    copy_sandbox(&run);
    for_a_while(3);
    kill(pid(&run), Signal::SIGCONT).unwrap();
    let run = run.wait();
    assert_eq!(run.code(), 0);
    run.assert_sound();

    let transcript = run.transcript();
    let runs = transcript.all("sandtrace.run.started");
    let [first, second] = runs[..] else {
        panic!("{} runs", runs.len())
    };
    for id in ["run_id", "trace_id", "root_span_id"] {
        assert_eq!(second["forked_from"][id], first[id], "{id}");
        assert_ne!(second[id], first[id], "{id}");
    }
    assert_eq!(second["forked_from"]["sandbox_id"], "first");
    assert_eq!(second["pid"], first["pid"]);
    let directory = run.journal();
    assert_eq!(
        directory.file_name().unwrap().to_str(),
        second["run_id"].as_str()
    );
    assert_eq!(second["journal"].as_str(), directory.to_str());
    // It is told what happened before it is told what follows from it.
    let kinds: Vec<_> = transcript.lines.iter().map(|line| line.kind()).collect();
    let place = |kind| kinds.iter().rposition(|known| *known == kind).unwrap();
    assert!(place("sandtrace.warning") < place("sandtrace.run.started"));

    let spans = String::from_utf8(run.journal_file("traces.jsonl")).unwrap();
    let requests: Vec<Value> = spans
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = requests.last().unwrap().to_string();
    let trace = second["trace_id"].as_str().unwrap();
    let old_root = first["root_span_id"].as_str().unwrap();
    assert!(
        last.contains(r#""second""#) && !last.contains(r#""first""#),
        "the sandbox's id: {last}"
    );
    assert!(last.contains(second["run_id"].as_str().unwrap()), "{last}");
    assert!(
        last.contains(trace) && last.contains(old_root),
        "no link: {last}"
    );
    let report = Command::new(env!("CARGO_BIN_EXE_sandtrace"))
        .arg("report")
        .arg(&directory)
        .output()
        .unwrap();
    let report = String::from_utf8(report.stdout).unwrap();
    assert!(
        report.contains(second["run_id"].as_str().unwrap()),
        "{report}"
    );
    assert_eq!(report.matches("agent.run").count(), 1, "{report}");
}
