//! The run's directory: who may read it, who may not share it, and runs that cannot have one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::supervised::{Finished, python, sh, skipped};

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_journal_is_for_its_owner_alone() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().join("state/sandtrace");
    let run = sh("echo hi").journal(&root).run();
    assert_eq!(mode(&root), 0o700);
    let journal = run.journal();
    assert_eq!(mode(&journal), 0o700);
    let mut names: Vec<_> = fs::read_dir(&journal)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "events.ndjson",
        "logs.jsonl",
        "metrics.jsonl",
        "state.json",
        "traces.jsonl",
    ];
    assert_eq!(names, expected);
    for name in names {
        assert_eq!(mode(journal.join(&name)), 0o600, "{name}");
    }
    let transcript = run.transcript();
    assert_eq!(transcript.started()["journal"], journal.to_str().unwrap());
    assert_eq!(
        transcript.started()["run_id"],
        journal.file_name().unwrap().to_str().unwrap()
    );
    run.assert_sound();
}

#[test]
fn without_a_place_named_the_journal_stands_in_the_home() {
    let case = sh("");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandtrace"));
    command.args(["run", "--run-id", "at-home", "--", "true"]);
    let home = case.directory().join(".local/state/sandtrace");
    let run = case.journal(&home).start_as(command).wait();
    assert_eq!(run.code(), 0);
    assert_eq!(run.journal(), home.join("at-home"));
    run.assert_sound();
}

#[test]
fn a_run_id_that_is_taken_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let first = sh("echo first")
        .journal(root.path())
        .option("--run-id", "nightly")
        .run();
    assert_eq!(first.code(), 0);
    let second = sh(": > spawned")
        .journal(root.path())
        .option("--run-id", "nightly")
        .run();
    assert_eq!(second.code(), 125);
    assert_eq!(second.stdout, b"");
    assert_eq!(second.errors().matches('\n').count(), 1);
    assert!(second.errors().contains("nightly"), "{}", second.errors());
    assert!(!second.directory().join("spawned").exists());
    // The first run's journal is as it was.
    first.assert_sound();
}

#[test]
fn a_running_run_says_so() {
    let run = sh("echo '{\"ready\":1}'; read line")
        .option("--run-id", "now")
        .stdin_held()
        .start();
    run.ready();
    let state = fs::read(run.directory().join("journal/now/state.json")).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    assert_eq!(state["status"], "running");
    assert_eq!(state["outcome"], Value::Null);
    assert_eq!(state["supervisor_pid"], run.pid());
    assert!(
        run.processes()
            .contains(&i32::try_from(state["agent_pid"].as_i64().unwrap()).unwrap())
    );
    run.send(nix::sys::signal::Signal::SIGTERM);
    run.wait().assert_sound();
}

#[test]
fn a_run_without_a_journal_leaves_nothing() {
    let run = sh("echo '{\"a\":1}'; exit 3").without_journal().run();
    assert_eq!(run.code(), 3);
    let transcript = run.transcript();
    transcript.assert_whole();
    assert_eq!(transcript.started()["journal"], Value::Null);
    assert_eq!(transcript.warnings(), Vec::<&str>::new());
    assert_eq!(fs::read_dir(run.directory()).unwrap().count(), 0);
    run.assert_nothing_left();
}

#[test]
fn a_journal_that_cannot_be_made_is_a_warning_and_no_more() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for root in [
        file.path().join("below/a/file"),
        file.path().to_owned(),
        "/proc/sandtrace".into(),
    ] {
        let run = sh("echo '{\"a\":1}'; echo err >&2; exit 3")
            .journal(&root)
            .run();
        assert_eq!(run.code(), 3);
        assert_eq!(run.errors(), "err\n");
        let transcript = run.transcript();
        transcript.assert_whole();
        assert_eq!(transcript.warnings(), ["journal_unavailable"]);
        let message = transcript.all("sandtrace.warning")[0]["message"]
            .as_str()
            .unwrap();
        assert!(message.contains(root.to_str().unwrap()), "{message}");
        assert_eq!(transcript.started()["journal"], Value::Null);
        assert_eq!(transcript.stream("stdout"), b"{\"a\":1}\n");
        assert_eq!(transcript.stream("stderr"), b"err\n");
        run.assert_nothing_left();
    }
}

/// 4 MB of lines.
const TALKER: &str = r#"
import sys
for n in range(4000):
    sys.stdout.write('{"n":%d,"pad":"%s"}\n' % (n, 'x' * 1000))
sys.exit(9)
"#;

/// What a journal that broke on the way must come to: one warning, and an agent that did not notice.
fn assert_unharmed(run: &Finished) {
    assert_eq!(run.code(), 9, "{}", run.errors());
    let transcript = run.transcript();
    transcript.assert_whole();
    let warnings = transcript.warnings();
    let failures = warnings.iter().filter(|code| **code == "journal_failed");
    assert_eq!(failures.count(), 1, "{warnings:?}");
    assert_eq!(transcript.agent_lines().len(), 4000);
    assert_eq!(run.errors(), "");
    run.assert_nothing_left();
}

#[test]
fn a_full_disk_ends_the_journal_and_nothing_else() {
    let possible = Command::new("unshare")
        .args([
            "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt",
        ])
        .output();
    if !possible
        .as_ref()
        .is_ok_and(|output| output.status.success())
    {
        skipped(format_args!(
            "no file system of 1 MiB can be mounted here: {possible:?}"
        ));
        return;
    }
    let case = python(TALKER);
    let disk = case.directory().join("disk");
    fs::create_dir(&disk).unwrap();
    // The mount is the supervisor's own and goes with it; what stands in the journal is copied before.
    let script = r#"mount -t tmpfs -o size=1m none disk || exit 99
        "$@"; code=$?; cat disk/journal/*/events.ndjson > events
        cat disk/journal/*/state.json > state; exit $code"#;
    let mut command = Command::new("unshare");
    command
        .args([
            "-rm",
            "sh",
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_sandtrace"),
            "run",
        ])
        .args(["--journal", "disk/journal", "--", "python3", "-c", TALKER]);
    let run = case.start_as(command).wait();
    assert_unharmed(&run);
    // Up to where it broke, the journal is what the host read.
    let events = fs::read(run.directory().join("events")).unwrap();
    assert!(events.len() > 500_000, "{}", events.len());
    assert!(run.stdout.starts_with(&events));
    // How the run ended still stands there.
    let state = fs::read(run.directory().join("state")).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    assert_eq!(state["status"], "finished");
    assert_eq!(state["outcome"], "failure");
}

#[test]
fn a_limit_on_the_size_of_files_ends_the_journal_and_nothing_else() {
    let case = python(TALKER);
    // In blocks of 512 or 1024 bytes, as the shell has it.
    let script = "ulimit -f 2048; exec \"$@\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_sandtrace"), "run"])
        .args(["--journal", "journal", "--", "python3", "-c", TALKER]);
    let run = case.start_as(command).wait();
    assert_unharmed(&run);
    let state: Value = serde_json::from_slice(&run.journal_file("state.json")).unwrap();
    assert_eq!(state["status"], "finished");
}

#[test]
fn a_journal_that_broke_is_no_copy_of_stderr() {
    // Far beyond the limit, so that what a slow reader does not take has no other place any more.
    let agent = "yes a line of some length | head -c 4000000 >&2";
    let script = "ulimit -f 64; exec \"$@\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_sandtrace"), "run"])
        .args([
            "--echo",
            "raw",
            "--journal",
            "journal",
            "--",
            "sh",
            "-c",
            agent,
        ]);
    let run = sh(agent).unread_stderr().start_as(command);
    // The reader begins late, which a pipe bears with patience.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let run = run.wait();
    assert_eq!(run.code(), 0);
    assert_eq!(run.stderr.len(), 4_000_000);
}
