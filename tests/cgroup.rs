//! The agent's own cgroup: there, used, and gone again, or not there and not missed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::elsewhere::{
    as_lonely_user, own_cgroup, with_cgroups_read_only, with_foreign_proc, without_proc,
};
use crate::supervised::{Finished, Running, poll, python, sh};

/// Puts the path of the agent's cgroup, below the mount point, into the file `cgroup`.
const NOTE_CGROUP: &str = "sed -n 's/^0::\\///p' /proc/self/cgroup > cgroup;";

/// The agent's cgroup.
fn cgroup(run: &Running, own: &Path) -> PathBuf {
    let name = run.file("cgroup");
    let leaf = own.join(Path::new(&name).file_name().unwrap());
    assert!(leaf.join("cgroup.procs").exists(), "{leaf:?}");
    leaf
}

fn child_of(parent: u32) -> i32 {
    poll("the supervisor", || {
        let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        list.split_whitespace().next()?.parse().ok()
    })
}

fn assert_refused(run: &Finished, why: &str) {
    let transcript = run.transcript();
    let abilities = &transcript.started()["abilities"];
    assert_eq!(abilities["own_cgroup"], false);
    let refused = abilities["own_cgroup_refused"].as_str().unwrap();
    assert!(refused.contains(why), "{refused}");
    assert_eq!(transcript.warnings(), Vec::<&str>::new());
}

#[test]
fn the_agent_has_a_cgroup_of_its_own_which_goes_with_the_run() {
    let Some(own) = own_cgroup() else { return };
    let script = format!("{NOTE_CGROUP} cat /proc/self/cgroup; echo '{{\"ready\":1}}'; read line");
    let run = sh(&script).stdin_held().start();
    run.ready();
    let leaf = cgroup(&run, &own);
    assert_eq!(leaf.parent(), Some(own.as_path()));
    assert!(
        leaf.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("sandtrace-")
    );
    // Nothing is counted or limited otherwise than before: in version 2 nothing at all, in version 1 where we are.
    let controllers = fs::read_to_string(leaf.join("cgroup.controllers")).unwrap();
    assert_eq!(controllers.trim(), "");
    run.send(Signal::SIGTERM);
    let run = run.wait();
    assert_eq!(run.code(), 128 + 15);
    let ours = fs::read_to_string("/proc/self/cgroup").unwrap();
    let stdout = String::from_utf8(run.transcript().stream("stdout")).unwrap();
    for line in ours.lines().filter(|line| !line.starts_with("0::")) {
        assert!(stdout.contains(line), "{line}\n{stdout}");
    }
    let transcript = run.transcript();
    let abilities = &transcript.started()["abilities"];
    assert_eq!(abilities["own_cgroup"], true);
    assert_eq!(abilities["own_cgroup_refused"], serde_json::Value::Null);
    assert!(!leaf.exists());
    run.assert_sound();
}

#[test]
fn a_command_that_is_not_found_leaves_no_cgroup_behind() {
    let Some(own) = own_cgroup() else { return };
    let run = crate::supervised::agent(["no-such-command"]).start();
    let name = format!("sandtrace-{}-", run.pid());
    let run = run.wait();
    assert_eq!(run.code(), 127);
    let mut left = fs::read_dir(&own).unwrap().flatten();
    assert!(!left.any(|entry| entry.file_name().to_string_lossy().starts_with(&name)));
}

#[test]
fn who_is_left_behind_goes_back_to_our_cgroup() {
    let Some(own) = own_cgroup() else { return };
    let script = format!(
        "{NOTE_CGROUP} mkdir \"{}/$(cat cgroup)/empty\"
         setsid sleep 300 </dev/null >/dev/null 2>&1 & echo $! > daemon",
        own.display()
    );
    let run = sh(&script).start();
    let leaf = run.file("cgroup");
    let leaf = own.join(Path::new(&leaf).file_name().unwrap());
    let run = run.wait();
    assert_eq!(run.code(), 0);
    let daemon = run.daemon();
    assert_eq!(run.transcript().finished()["survivors"][0]["pid"], daemon);
    let theirs = fs::read_to_string(format!("/proc/{daemon}/cgroup")).unwrap();
    assert_eq!(theirs, fs::read_to_string("/proc/self/cgroup").unwrap());
    assert!(
        !leaf.exists(),
        "with the empty cgroup that the agent made in it"
    );
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    run.assert_nothing_left();
    run.assert_complete();
}

#[test]
fn a_frozen_family_dies_too() {
    let Some(own) = own_cgroup() else { return };
    // A TERM that nobody handles would end it, frost or not.
    let script = format!(
        "{NOTE_CGROUP} trap 'exit 7' TERM; setsid sleep 300 &
         echo '{{\"ready\":1}}'; while :; do sleep 300; done"
    );
    let run = sh(&script).option("--grace", "300ms").start();
    run.ready();
    let leaf = cgroup(&run, &own);
    fs::write(leaf.join("cgroup.freeze"), "1").unwrap();
    poll("the frost", || {
        let events = fs::read_to_string(leaf.join("cgroup.events")).unwrap();
        events.contains("frozen 1").then_some(())
    });
    run.send(Signal::SIGTERM);
    let run = run.wait();
    assert_eq!(run.code(), 128 + 9);
    assert_eq!(run.transcript().verdict(), "cancelled.host");
    assert!(!leaf.exists());
    run.assert_sound();
}

#[test]
fn who_was_moved_out_of_the_cgroup_is_ended_by_the_sweep() {
    let Some(own) = own_cgroup() else { return };
    let script = format!(
        "trap '' TERM; setsid sleep 300 & echo $! > \"{}/cgroup.procs\"
         echo $! > daemon; echo '{{\"ready\":1}}'; while :; do sleep 300; done",
        own.display()
    );
    let run = sh(&script).option("--grace", "200ms").start();
    run.ready();
    run.send(Signal::SIGTERM);
    let run = run.wait();
    assert_eq!(run.code(), 128 + 9);
    run.assert_sound();
}

/// Two who take no TERM: the second in a session of its own, where no signal to the agent's group reaches it.
const DEAF: &str = "
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    os.close(1)
    os.close(2)
    while True:
        time.sleep(300)
os.wait()
print('{\"ready\":1}')
while True:
    time.sleep(300)
";

#[test]
fn where_no_process_can_be_seen_the_cgroup_ends_them_all() {
    let (Some(_), Some(wrapper)) = (own_cgroup(), with_foreign_proc()) else {
        return;
    };
    let run = python(DEAF)
        .option("--grace", "300ms")
        .start_under(&wrapper);
    run.ready();
    kill(Pid::from_raw(child_of(run.pid())), Signal::SIGTERM).unwrap();
    let run = run.wait();
    assert_eq!(run.code(), 128 + 9);
    let transcript = run.transcript();
    assert_eq!(transcript.verdict(), "cancelled.host");
    let abilities = &transcript.started()["abilities"];
    assert_eq!(abilities["proc"], false);
    assert_eq!(abilities["own_cgroup"], true);
    assert_eq!(abilities["agent_oom_score_adj"], serde_json::Value::Null);
    // The end of process 1 ends the namespace anyway; but nobody was left for it to end.
    assert_eq!(transcript.finished()["survivors"], serde_json::json!([]));
    run.assert_sound();
}

#[test]
fn without_proc_a_run_goes_on_and_can_be_stopped() {
    let Some(wrapper) = without_proc() else {
        return;
    };
    let run = sh("echo '{\"a\":1}'; sh -c 'sleep 0.1 & exit 4'; exit 5")
        .start_under(&wrapper)
        .wait();
    assert_eq!(run.code(), 5);
    assert_eq!(run.transcript().started()["abilities"]["proc"], false);
    assert_refused(&run, "no cgroup2");
    run.assert_sound();

    // Its whole group takes no TERM.
    let script = "trap '' TERM; sleep 300 & echo '{\"ready\":1}'; while :; do sleep 300; done";
    let run = sh(script).option("--grace", "300ms").start_under(&wrapper);
    run.ready();
    run.send(Signal::SIGTERM);
    let run = run.wait();
    assert_eq!(run.code(), 128 + 9);
    assert_eq!(run.transcript().verdict(), "cancelled.host");
    assert!(run.took < Duration::from_secs(10), "{:?}", run.took);
    run.assert_sound();

    // The agent is gone, reaped, and its group lives on.
    let script = "trap '' TERM; sleep 300 & kill -9 $$";
    let run = sh(script).start_under(&wrapper).wait();
    assert_eq!(run.code(), 128 + 9);
    run.assert_sound();
}

#[test]
fn without_proc_what_left_the_group_is_left_alone_and_holds_nobody_up() {
    let Some(wrapper) = without_proc() else {
        return;
    };
    // Its own session before the agent's group is ended.
    let script = "setsid sh -c 'echo $$ > daemon; exec sleep 300' </dev/null >/dev/null 2>&1 &
        until [ -s daemon ]; do :; done; kill -9 $$";
    let run = sh(script).start_under(&wrapper).wait();
    assert_eq!(run.code(), 128 + 9);
    assert!(run.took < Duration::from_secs(10), "{:?}", run.took);
    assert_eq!(Vec::from_iter(run.processes()), [run.daemon()]);
    kill(Pid::from_raw(run.daemon()), Signal::SIGKILL).unwrap();
    run.assert_sound();
}

#[test]
fn an_ordinary_user_and_a_read_only_hierarchy_cost_the_cgroup_and_nothing_else() {
    let script = "setsid sleep 300 & kill -9 $$";
    if let Some(wrapper) = as_lonely_user(100) {
        let run = sh(script).start_under(&wrapper).wait();
        assert_eq!(run.code(), 128 + 9);
        assert_refused(&run, "cannot make a cgroup: Permission denied");
        run.assert_sound();
    }
    if let Some(wrapper) = with_cgroups_read_only() {
        let run = sh(script).start_under(&wrapper).wait();
        assert_eq!(run.code(), 128 + 9);
        assert_refused(&run, "cannot make a cgroup: Read-only file system");
        run.assert_sound();
    }
}

#[test]
fn what_a_killed_supervisor_left_is_cleared_away() {
    let Some(own) = own_cgroup() else { return };
    let script = format!("{NOTE_CGROUP} echo '{{\"ready\":1}}'; exec sleep 300");
    let run = sh(&script).start();
    run.ready();
    let leaf = cgroup(&run, &own);
    run.send(Signal::SIGKILL);
    drop(run);
    // Another test's run may be the one that does it.
    sh("exit 0").run().assert_sound();
    assert!(!leaf.exists());
}
