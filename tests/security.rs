//! What the agent may not learn, and what it may not make others see: the cases 54 to 57 of
//! `reference/supervision.md` §5.
//!
//! | case | where |
//! |---|---|
//! | 54 secrets_absent | [`an_exporter_s_secret_is_nowhere_that_the_agent_or_a_reader_looks`], `run::the_agent_finds_its_trace_parent_and_no_exporter_s_secrets` |
//! | no core of ours | [`a_supervisor_that_crashes_leaves_no_core`] |
//! | 55 forged_reserved_record | [`a_forged_line_never_passes_for_ours`], `echo::what_is_no_json_object_or_a_forgery_is_told_as_output` |
//! | 56 receiver_abuse | there is no receiver in the supervisor |
//! | 57 ansi_osc_in_line | [`escape_sequences_reach_no_terminal_of_ours`] |

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use memchr::memmem;
use nix::sys::signal::Signal;
use nix::unistd::Uid;

use crate::executable::copy_executable;
use crate::supervised::{Supervised, fault, poll, sh, skipped};
use crate::support::receiver::Receiver;

/// Somebody who may do nothing in particular.
const ORDINARY: u32 = 60_123;

/// A command that runs `sandtrace run` with these arguments as an ordinary user: the one we are, or one that root makes
/// itself. `None` if there is none to be.
fn as_ordinary_user(case: &Supervised, arguments: &[&str]) -> Option<Command> {
    let directory = case.directory();
    let binary = directory.join("sandtrace");
    // Where an ordinary user can reach it.
    copy_executable(Path::new(env!("CARGO_BIN_EXE_sandtrace")), &binary);
    let mut command = if Uid::effective().is_root() {
        let user = format!("--reuid={ORDINARY}");
        let setpriv = ["--regid=60123", "--clear-groups", user.as_str()];
        let can = Command::new("setpriv").args(setpriv).arg("true").output();
        if !can.is_ok_and(|output| output.status.success()) {
            return None;
        }
        chown(directory, Some(ORDINARY), Some(ORDINARY)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(setpriv).arg(&binary);
        command
    } else {
        Command::new(&binary)
    };
    command
        .args(["run", "--journal", "journal"])
        .args(arguments);
    Some(command)
}

fn assert_absent(secret: &str, path: &Path) {
    let metadata = fs::metadata(path).unwrap();
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            assert_absent(secret, &entry.unwrap().path());
        }
    } else {
        let bytes = fs::read(path).unwrap();
        assert!(
            memmem::find(&bytes, secret.as_bytes()).is_none(),
            "{secret} stands in {}",
            path.display()
        );
    }
}

#[test]
fn an_exporter_s_secret_is_nowhere_that_the_agent_or_a_reader_looks() {
    let receiver = Receiver::healthy();
    let script = r#"
        mkdir seen
        cat /proc/$$/environ > seen/environ; env > seen/env
        cat /proc/$$/cmdline /proc/$PPID/cmdline > seen/cmdline
        cat /proc/$PPID/limits > limits
        for file in environ mem maps auxv fd/0 fd/1 exe; do
            # Not cat's word for it: the shell opens the file.
            { head -c 1 < /proc/$PPID/$file; } >/dev/null 2>&1 && echo "$file" >> readable
        done
        ls /proc/$PPID/fd >/dev/null 2>&1 && echo fd >> readable
        echo '{"done":1}'; exit 5"#;
    let case = sh(script)
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://127.0.0.1:{}", receiver.port()),
        )
        .env(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20hunter2-otlp,x-team=hunter2-team",
        )
        .env("LANGFUSE_SECRET_KEY", "sk-lf-hunter2-langfuse")
        .env("SIGNOZ_INGESTION_KEY", "hunter2-signoz")
        .env("HONEYCOMB_API_KEY", "hunter2-honeycomb")
        .env("OTEL_EXPORTERS", "otlp");
    let Some(command) = as_ordinary_user(&case, &["--verbose", "--", "sh", "-c", script]) else {
        skipped("there is no ordinary user to be");
        return;
    };
    let run = case.start_as(command).wait();
    assert_eq!(run.code(), 5, "{}", run.errors());
    // It is the real secret, for it was used.
    assert_eq!(
        receiver.received()[0].header("authorization"),
        Some("Bearer hunter2-otlp")
    );
    fs::write(run.directory().join("seen/stdout"), &run.stdout).unwrap();
    fs::write(run.directory().join("seen/stderr"), &run.stderr).unwrap();
    assert!(
        fs::metadata(run.directory().join("seen/environ"))
            .unwrap()
            .len()
            > 0
    );
    for place in ["seen", "journal"] {
        assert_absent("hunter2", &run.directory().join(place));
    }
    let readable = fs::read_to_string(run.directory().join("readable")).unwrap_or_default();
    assert_eq!(readable, "", "the agent reads the supervisor's files");
    let limits = fs::read_to_string(run.directory().join("limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let transcript = run.transcript();
    assert_eq!(transcript.started()["abilities"]["dumpable"], false);
    run.assert_sound();
}

#[test]
fn a_supervisor_that_crashes_leaves_no_core() {
    let unlimited = "ulimit -c unlimited && exec \"$@\"";
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let control = sh("");
    let mut command = Command::new("sh");
    command.args(["-c", unlimited, "sh", "sh", "-c", "kill -SEGV $$"]);
    let control = control.start_as(command).wait();
    if !control.status.core_dumped() {
        skipped(format_args!(
            "nobody leaves a core here, core_pattern is {}",
            pattern.trim()
        ));
        return;
    }
    let case = fault("");
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            unlimited,
            "sh",
            env!("CARGO_BIN_EXE_sandtrace"),
            "run",
            "--journal",
            "journal",
            "--",
        ])
        .args([
            env!("CARGO_BIN_EXE_fault-agent"),
            "--touch",
            "ready",
            "--sleep",
            "60",
        ]);
    let run = case.start_as(command);
    let ready = run.directory().join("ready");
    poll("the agent", || ready.exists().then_some(()));
    run.send(Signal::SIGABRT);
    let run = run.wait();
    assert_eq!(run.status.signal(), Some(Signal::SIGABRT as i32));
    assert!(!run.status.core_dumped());
    // The agent goes with its supervisor.
    run.assert_nothing_left();
}

#[test]
fn a_forged_line_never_passes_for_ours() {
    let run = fault("--forge --events 1 --exit 3").run();
    let transcript = run.transcript();
    assert_eq!(
        transcript.outputs("stdout").len(),
        3,
        "told as what the agent printed"
    );
    assert_eq!(transcript.finished()["outcome"], "failure");
    assert_eq!(transcript.all("sandtrace.run.finished").len(), 1);
    run.assert_sound();
}

#[test]
fn escape_sequences_reach_no_terminal_of_ours() {
    let run = fault("--init --ansi --no-newline --exit 1")
        .option("--run-id", "painted")
        .run();
    // On the wire they are escaped, as JSON has it.
    let raw = run
        .stdout
        .iter()
        .find(|byte| **byte < b' ' && **byte != b'\n');
    assert_eq!(raw, None);
    let told = run.transcript().stream("stdout");
    assert!(
        memmem::find(&told, b"\x1b]0;owned\x07").is_some(),
        "and come out of it as they were"
    );
    let report = Command::new(env!("CARGO_BIN_EXE_sandtrace"))
        .arg("report")
        .arg(run.journal())
        .env("NO_COLOR", "1")
        // Where everything can be shown, nothing is left out for other reasons.
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let text = String::from_utf8(report.stdout).unwrap();
    assert!(text.contains("Bash"), "{text}");
    let dangerous = |found: char| {
        (found.is_control() && found != '\n')
            || matches!(found, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let found: Vec<char> = text.chars().filter(|found| dangerous(*found)).collect();
    assert!(found.is_empty(), "{found:?} in {text:?}");
    run.assert_sound();
}
