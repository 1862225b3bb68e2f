//! `sandtrace stop RUN`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::elsewhere::as_lonely_user;
use crate::supervised::{Running, poll, sh};

fn stop(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandtrace"));
    let output = command.arg("stop").args(arguments).output().unwrap();
    assert_eq!(output.stdout, b"");
    output
}

fn said(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("sandtrace: "), "{text}");
    text
}

/// A run with a name, and the directory it is kept in.
fn started(id: &str, script: &str) -> (Running, String) {
    let case = sh(script).option("--run-id", id);
    let root = case.directory().join("journal");
    let run = case.start();
    run.ready();
    (run, root.to_str().unwrap().to_owned())
}

const WAITS: &str = "echo '{\"ready\":1}'; exec sleep 300";

fn state(root: &str, id: &str) -> Value {
    let text = fs::read(Path::new(root).join(id).join("state.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn rewrite(root: &str, id: &str, change: impl Fn(&mut Value)) {
    let mut state = state(root, id);
    change(&mut state);
    let path = Path::new(root).join(id).join("state.json");
    fs::write(path, serde_json::to_vec(&state).unwrap()).unwrap();
}

#[test]
fn a_run_is_stopped_by_its_id_and_by_its_directory() {
    for by_directory in [false, true] {
        let (run, root) = started("nightly-7", WAITS);
        let directory = format!("{root}/nightly-7");
        let output = if by_directory {
            stop(&[&directory])
        } else {
            stop(&["nightly-7", "--journal", &root])
        };
        assert_eq!(output.status.code(), Some(0));
        let expected = format!(
            "sandtrace: asked run nightly-7 to stop: SIGTERM to its supervisor, pid {}\n",
            run.pid()
        );
        assert_eq!(said(&output), expected);
        let run = run.wait();
        assert_eq!(run.code(), 128 + 15);
        assert_eq!(run.transcript().verdict(), "cancelled.host");
        run.assert_sound();
    }
}

#[test]
fn a_second_stop_does_not_wait_for_the_grace() {
    let deaf = "trap 'echo heard' TERM; echo '{\"ready\":1}'; while :; do sleep 0.05; done";
    let (run, root) = started("deaf", deaf);
    let directory = format!("{root}/deaf");
    assert!(stop(&[&directory]).status.success());
    run.line("the first request", |line| line["data"]["text"] == "heard");
    assert!(stop(&[&directory]).status.success());
    let run = run.wait();
    assert_eq!(run.code(), 128 + 9);
    assert!(run.took.as_secs() < 9, "{:?}", run.took);
    run.assert_sound();
}

#[test]
fn a_run_that_has_finished_is_no_error() {
    let kept = tempfile::tempdir().unwrap();
    let root = kept.path().to_str().unwrap();
    sh("exit 3").option("--run-id", "over").journal(root).run();
    let output = stop(&["over", "--journal", root]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        said(&output),
        "sandtrace: run over has finished before (failure), so there is nothing to stop\n"
    );
}

#[test]
fn a_run_whose_supervisor_is_gone_is_told_apart() {
    let kept = tempfile::tempdir().unwrap();
    let root = kept.path().to_str().unwrap();
    let run = sh(WAITS).option("--run-id", "lost").journal(root).start();
    run.ready();
    let pid = run.pid();
    run.send(Signal::SIGKILL);
    drop(run);
    let output = stop(&["lost", "--journal", root]);
    assert_eq!(output.status.code(), Some(3));
    let text = said(&output);
    assert!(
        text.contains(&format!("the supervisor of run lost, pid {pid}, is gone")),
        "{text}"
    );
    assert!(text.contains("sandtrace report lost"), "{text}");
}

#[test]
fn another_process_with_the_pid_of_a_supervisor_gets_no_signal() {
    let kept = tempfile::tempdir().unwrap();
    let root = kept.path().to_str().unwrap();
    sh("exit 0")
        .option("--run-id", "former")
        .journal(root)
        .run();
    let mut stranger = Command::new("sleep").arg("300").spawn().unwrap();
    rewrite(root, "former", |state| {
        state["status"] = "running".into();
        state["supervisor_pid"] = stranger.id().into();
    });
    let output = stop(&["former", "--journal", root]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    rewrite(root, "former", |state| {
        state["supervisor_start_ticks"] = 0.into()
    });
    let output = stop(&["former", "--journal", root]);
    assert_eq!(output.status.code(), Some(125));
    assert!(said(&output).contains("if you are sure that it is, kill -TERM"));
    // Nor does the whole system get one.
    rewrite(root, "former", |state| {
        state["supervisor_pid"] = u32::MAX.into()
    });
    rewrite(root, "former", |state| {
        state["supervisor_start_ticks"] = 7.into()
    });
    assert_eq!(stop(&["former", "--journal", root]).status.code(), Some(3));
    assert_eq!(stranger.try_wait().unwrap(), None);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn what_cannot_be_stopped_is_said_in_one_sentence() {
    let kept = tempfile::tempdir().unwrap();
    let root = kept.path().to_str().unwrap();
    sh("exit 0").option("--run-id", "known").journal(root).run();
    fs::create_dir(kept.path().join("empty")).unwrap();
    fs::create_dir(kept.path().join("torn")).unwrap();
    fs::write(kept.path().join("torn/state.json"), "{\"run_id\":").unwrap();
    let events = format!("{root}/known/events.ndjson");
    for (run, sentence) in [
        ("unknown", "there is no run \"unknown\": looked for"),
        ("unknown", "the only run there is known"),
        ("empty", "empty/state.json: No such file"),
        ("torn", "torn/state.json is no state of a run"),
        (
            &events,
            "is a file, name the run by its id or its directory",
        ),
    ] {
        let output = stop(&[run, "--journal", root]);
        assert_eq!(output.status.code(), Some(125), "{run}");
        let text = said(&output);
        assert!(text.contains(sentence), "{text}");
    }
}

#[test]
fn another_user_s_run_is_refused() {
    let (run, root) = started("root-s", WAITS);
    // As the other user, who sees the journal but not the supervisor's owner.
    let Some(mut wrapper) = as_lonely_user(100) else {
        run.send(Signal::SIGTERM);
        run.wait().assert_sound();
        return;
    };
    let copy = tempfile::tempdir().unwrap();
    let state = fs::read(Path::new(&root).join("root-s/state.json")).unwrap();
    fs::write(copy.path().join("state.json"), state).unwrap();
    let program = wrapper.remove(0);
    let output = Command::new(program)
        .args(wrapper)
        .arg(env!("CARGO_BIN_EXE_sandtrace"))
        .args(["stop", copy.path().to_str().unwrap()])
        .env("DIR", copy.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    let text = said(&output);
    assert!(text.contains("Operation not permitted"), "{text}");
    assert!(text.contains("try again as its user or as root"), "{text}");
    assert!(!run.processes().is_empty());
    kill(Pid::from_raw(run.pid().cast_signed()), Signal::SIGTERM).unwrap();
    let run = run.wait();
    poll("the end", || run.processes().is_empty().then_some(()));
    run.assert_sound();
}
