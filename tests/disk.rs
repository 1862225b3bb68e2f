//! Disks that fail: the cases 50 to 53 of `reference/supervision.md` §5.
//!
//! | case | where |
//! |---|---|
//! | 50 collector_down, slow, 500, hang | `run::a_backend_that_is_gone_or_silent_costs_the_flush_and_no_more`, `export::a_backend_that_never_answers_delays_the_exit_by_no_more_than_its_bound`, `telemetry`, and every kind in `scripts/chaos` |
//! | 51 spool_enospc | `journal::a_full_disk_ends_the_journal_and_nothing_else`, `telemetry::a_full_disk_costs_only_the_file`, `host::files_that_are_closed_or_full_change_nothing_for_the_agent` |
//! | 51 erofs | [`a_read_only_disk_costs_the_journal_and_nothing_else`] |
//! | 51 dir_deleted | [`a_journal_that_is_deleted_in_flight_costs_nobody_anything`] |
//! | 52 telemetry_task_panic | no input provokes one; that the run does not wait for a thread that is gone or stuck: `telemetry::a_stuck_export_thread_cannot_hold_up_the_shutdown`, `run::without_a_thread_the_run_ends_orderly` |

use std::fs;
use std::process::Command;

use crate::supervised::{fault, poll, skipped};

const LINES: &str = "--line-length 1000 --lines";

#[test]
fn a_read_only_disk_costs_the_journal_and_nothing_else() {
    let case = fault("");
    let script = "mount -t tmpfs -o ro none \"$DIR\"/disk || exit 99; exec \"$@\"";
    fs::create_dir(case.directory().join("disk")).unwrap();
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
        .args([
            "--journal",
            "disk/journal",
            "--",
            env!("CARGO_BIN_EXE_fault-agent"),
        ])
        .args(format!("{LINES} 300 --to stderr --lines 1 --exit 9").split(' '));
    let run = case.start_as(command).wait();
    if run.status.code() != Some(9) && !run.errors().contains("sandtrace") {
        skipped(format_args!(
            "no file system can be mounted here: {}",
            run.errors()
        ));
        return;
    }
    assert_eq!(run.code(), 9, "{}", run.errors());
    let transcript = run.transcript();
    transcript.assert_whole();
    assert_eq!(transcript.agent_lines().len(), 300);
    assert_eq!(transcript.warnings(), ["journal_unavailable"]);
    assert_eq!(transcript.started()["journal"], serde_json::Value::Null);
    assert_eq!(run.stderr.len(), 1000, "{}", run.errors());
    run.assert_nothing_left();
}

#[test]
fn a_journal_that_is_deleted_in_flight_costs_nobody_anything() {
    for is_read in [true, false] {
        let script = format!(
            "{LINES} 5000 --touch half --wait-for go {LINES} 9000 --to stderr --lines 3 --touch end --exit 8"
        );
        let mut case = fault(&script);
        if !is_read {
            case = case.unread();
        }
        let mut run = case.start();
        let half = run.directory().join("half");
        poll("the middle", || half.exists().then_some(()));
        fs::remove_dir_all(run.directory().join("journal")).unwrap();
        fs::write(run.directory().join("go"), "").unwrap();
        // The agent is done whether or not the host reads: what waits for the host has no name any more, but a place.
        let end = run.directory().join("end");
        poll("the end of the agent", || end.exists().then_some(()));
        run.read();
        let run = run.wait();
        assert_eq!(run.code(), 8);
        let transcript = run.transcript();
        transcript.assert_whole();
        assert_eq!(transcript.agent_lines().len(), 14_000);
        assert_eq!(run.stderr.len(), 3000, "{}", run.errors());
        run.assert_nothing_left();
    }
}
