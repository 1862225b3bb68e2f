//! The agent's streams under stress: the cases 18 to 31 of `reference/supervision.md` §5.
//!
//! | case | where |
//! |---|---|
//! | 18 bytes_exact_random | [`random_bytes_in_writes_of_any_size_stay_what_they_are`], `echo::writes_of_any_size_make_the_same_lines` |
//! | 19 line_100MB | [`a_line_of_100_mb_takes_no_memory`], `echo::a_line_of_10_mb_comes_in_fragments_that_are_the_line` |
//! | 20 bad_utf8_nul_crlf | `echo::raw_is_the_agent_s_output_byte_for_byte`, `echo::what_is_no_json_object_or_a_forgery_is_told_as_output` |
//! | 21 partial_last_line | `echo::a_partial_last_line_is_told_as_it_is` |
//! | 22, 23 leak_quiet_pipe, leak_chatty_pipe | [`a_pipe_that_somebody_holds_delays_the_exit_for_moments`], `stop::a_grandchild_that_holds_the_pipe_delays_the_end_for_moments_only` |
//! | 24 stdout_closed_alive | `stop::an_agent_that_closes_its_output_is_waited_for` |
//! | 25 host_not_reading | [`an_agent_never_waits_for_a_host_that_does_not_read`], `host::a_host_that_does_not_read_holds_nobody_back_and_then_gets_everything` |
//! | 26 host_gone_EPIPE | `host::a_host_that_is_gone_changes_nothing_for_the_agent` |
//! | 27 flood_1GB_stderr | [`a_flood_on_stderr_is_bounded_and_what_is_dropped_is_counted`]; the whole gigabyte with `SANDTRACE_TEST_FLOOD_MIB=1024` |
//! | 28 stdin_eof, stdin_never_closes | [`a_stdin_that_never_closes_delays_no_exit`], `twin` |
//! | 29 nonblock_set_by_child | [`an_agent_that_makes_its_pipes_non_blocking_loses_nothing`], `host::files_that_somebody_made_non_blocking_lose_nothing` |
//! | 30 last_line_on_exit | `echo::the_last_line_before_an_exit_is_never_lost`, 1000 times with `SANDTRACE_TEST_LAST_LINES=1000`; [`the_last_line_survives_a_supervisor_that_was_asleep`] |
//! | 31 fd_hygiene | `run::the_agent_has_the_files_it_would_have_alone`, `process::the_agent_has_files_0_1_and_2_and_what_we_were_given` |

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::supervised::{fault, poll, times};

/// The most memory the supervisor may ever use, in KiB (DESIGN §10).
const MEMORY: u64 = 32 << 10;

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// For whoever wants the figure; past libtest, which would swallow it.
fn measured(what: &str) {
    writeln!(std::io::stderr().lock(), "measured: {what}").unwrap();
}

#[test]
fn random_bytes_in_writes_of_any_size_stay_what_they_are() {
    for seed in 0..times("SANDTRACE_TEST_SEEDS", 12) {
        let script = format!(
            "--seed {seed} --chunk random --random-bytes {} --lines {} --all-bytes --bad-utf8 --no-newline",
            seed * 7919,
            seed * 31
        );
        let alone = fault(&script).start_alone().wait();
        let raw = fault(&script).option("--echo", "raw").run();
        assert_eq!(raw.code(), 0);
        assert!(
            raw.stdout == alone.stdout,
            "seed {seed}: other bytes in raw mode"
        );
        assert!(
            raw.journaled().stream("stdout") == alone.stdout,
            "seed {seed}: other bytes in the journal"
        );
        raw.assert_journal_whole();
        let enriched = fault(&script).run();
        assert!(
            enriched.transcript().stream("stdout") == alone.stdout,
            "seed {seed}: other bytes on the wire"
        );
        enriched.assert_sound();
    }
}

#[test]
fn a_line_of_100_mb_takes_no_memory() {
    let script = "--line-bytes 100000000 --lines 1 --touch done --wait-for go";
    let alone = fault("--line-bytes 100000000 --lines 1")
        .start_alone()
        .wait();
    for echo in ["raw", "enriched"] {
        let run = fault(script).option("--echo", echo).start();
        let done = run.directory().join("done");
        poll("the whole line", || done.exists().then_some(()));
        let peak = run.memory("VmHWM");
        fs::write(run.directory().join("go"), "").unwrap();
        let run = run.wait();
        measured(&format!(
            "peak of {peak} KiB for a line of 100 MB, echo {echo}"
        ));
        assert!(peak < MEMORY, "{peak} KiB");
        assert_eq!(run.code(), 0);
        let stdout = match echo {
            "raw" => run.stdout.clone(),
            _ => run.transcript().stream("stdout"),
        };
        assert!(hash(&stdout) == hash(&alone.stdout), "{echo}: other bytes");
        assert!(hash(&run.journaled().stream("stdout")) == hash(&alone.stdout));
        run.assert_journal_whole();
        run.assert_nothing_left();
    }
}

#[test]
fn a_pipe_that_somebody_holds_delays_the_exit_for_moments() {
    // On a busy machine a chatterer may be silent for 300 ms, which then is what ends the drain.
    for (leak, least, most) in [("quiet", 300, 2000), ("chatty", 300, 4000)] {
        let mut run = fault(&format!(
            "--lines 3 --leak-pipe {leak} --touch end --exit 6"
        ))
        .start();
        let end = run.directory().join("end");
        poll("the agent's end", || end.exists().then_some(()));
        let ended = Instant::now();
        poll("the supervisor's end", || run.is_over().then_some(()));
        let delay = ended.elapsed().as_millis();
        measured(&format!(
            "exit {delay} ms after an agent with a {leak} leak"
        ));
        assert!(delay + 50 >= least, "{leak}: {delay} ms");
        assert!(delay < most, "{leak}: {delay} ms");
        let run = run.wait();
        assert_eq!(run.code(), 6);
        let transcript = run.transcript();
        assert_eq!(
            transcript
                .agent_lines()
                .iter()
                .filter(|line| line.starts_with(b"{\"n\":"))
                .count(),
            3
        );
        let survivors = transcript.finished()["survivors"].as_array().unwrap();
        assert_eq!(survivors.len(), 1, "{survivors:?}");
        assert_eq!(survivors[0]["killed"], false);
        run.assert_complete();
    }
}

#[test]
fn an_agent_never_waits_for_a_host_that_does_not_read() {
    let asleep = Duration::from_secs(3);
    let script = "--line-length 2000 --every 0.0003 --lines 7000 --measure worst";
    let mut run = fault(script).unread().start();
    let worst: f64 = run.file("worst").parse().unwrap();
    measured(&format!(
        "the agent's longest write to a host that sleeps took {worst} ms"
    ));
    // It would be the whole sleep if somebody held it back; less than that is the machine.
    assert!(worst < 1000.0, "{worst} ms");
    let since = Instant::now();
    poll("a long sleep", || (since.elapsed() > asleep).then_some(()));
    run.read();
    let run = run.wait();
    assert_eq!(run.code(), 0);
    assert_eq!(run.transcript().agent_lines().len(), 7000);
    run.assert_sound();
}

#[test]
fn a_flood_on_stderr_is_bounded_and_what_is_dropped_is_counted() {
    let mib = times("SANDTRACE_TEST_FLOOD_MIB", 32);
    let bytes = mib << 20;
    let script = format!("--stderr-bytes {bytes} --touch done --wait-for go");
    let mut run = fault(&script).unread_stderr().start();
    let done = run.directory().join("done");
    // A gigabyte takes a while.
    for _ in 0..30 {
        let since = Instant::now();
        while !done.exists() && since.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(done.exists(), "somebody holds the agent back");
    let peak = run.memory("VmHWM");
    measured(&format!("peak of {peak} KiB for {mib} MiB on stderr"));
    assert!(peak < MEMORY, "{peak} KiB");
    run.read();
    fs::write(run.directory().join("go"), "").unwrap();
    let run = run.wait();
    assert_eq!(run.code(), 0);
    let transcript = run.transcript();
    let warning = |code: &str| {
        let warnings = transcript.all("sandtrace.warning").into_iter();
        let found = warnings.filter(|warning| warning["code"] == code);
        found.cloned().collect::<Vec<Value>>()
    };
    let dropped = warning("stderr_dropped")[0]["counts"]["bytes"]
        .as_u64()
        .unwrap();
    assert_eq!(usize::try_from(dropped).unwrap() + run.stderr.len(), bytes);
    let full = warning("journal_full");
    if full.is_empty() {
        assert_eq!(transcript.stream("stderr").len(), bytes);
        run.assert_sound();
    } else {
        // Beyond the cap the oldest output goes, counted, and never a line about the run itself.
        let went: u64 = full
            .iter()
            .map(|warning| warning["counts"]["output"].as_u64().unwrap())
            .sum();
        assert!(went > 0);
        let journaled = run.journaled();
        assert_eq!(journaled.lines[0].kind(), "sandtrace.run.started");
        assert_eq!(
            journaled.lines.last().unwrap().kind(),
            "sandtrace.run.finished"
        );
        let last = journaled.lines.last().unwrap().stamp["seq"]
            .as_u64()
            .unwrap();
        let kept = journaled.lines.len() as u64;
        let lost = full.iter().flat_map(|warning| {
            ["output", "spans", "resources"].map(|kind| warning["counts"][kind].as_u64().unwrap())
        });
        assert_eq!(kept + lost.sum::<u64>(), last, "a line is kept or counted");
    }
}

#[test]
fn a_stdin_that_never_closes_delays_no_exit() {
    for echo in ["enriched", "raw", "none"] {
        let mut run = fault("--lines 2 --touch end --exit 3")
            .option("--echo", echo)
            .stdin_held()
            .start();
        let end = run.directory().join("end");
        poll("the agent's end", || end.exists().then_some(()));
        let ended = Instant::now();
        poll("the supervisor's end", || run.is_over().then_some(()));
        let delay = ended.elapsed();
        assert!(delay < Duration::from_secs(1), "{echo}: {delay:?}");
        let run = run.wait();
        assert_eq!(run.code(), 3);
        run.assert_journal_whole();
        run.assert_nothing_left();
    }
    let run = fault("--read-stdin").stdin("x".repeat(200_000)).run();
    assert_eq!(
        run.transcript().agent_lines(),
        [b"{\"stdin_bytes\":200000}"]
    );
    run.assert_sound();
}

#[test]
fn an_agent_that_makes_its_pipes_non_blocking_loses_nothing() {
    // More than pipes and ring hold, so that it meets EAGAIN while the host sleeps.
    let script =
        "--nonblock --line-length 5000 --lines 3000 --to stderr --lines 20 --measure worst";
    let mut run = fault(script).unread().option("--echo", "raw").start();
    let since = Instant::now();
    poll("a sleep", || {
        (since.elapsed() > Duration::from_secs(1)).then_some(())
    });
    run.read();
    let run = run.wait();
    assert_eq!(run.code(), 0);
    assert_eq!(run.stdout.len(), 15_000_000);
    assert_eq!(run.stderr.len(), 100_000);
    assert_eq!(run.journaled().agent_lines().len(), 3000);
    run.assert_journal_whole();
    run.assert_nothing_left();
}

#[test]
fn the_last_line_survives_a_supervisor_that_was_asleep() {
    // Longer than the drain lasts: its time is over before anyone can have looked into the pipes.
    for ending in ["--exit 9", "--signal KILL"] {
        for survivors in ["leave", "kill"] {
            let script =
                format!("--touch half --wait-for go --lines 50 --to stderr --lines 2 {ending}");
            let run = fault(&script).option("--survivors", survivors).start();
            let half = run.directory().join("half");
            poll("the agent at work", || half.exists().then_some(()));
            run.send(Signal::SIGSTOP);
            fs::write(run.directory().join("go"), "").unwrap();
            poll("the agent's end", || {
                run.processes().is_empty().then_some(())
            });
            let since = Instant::now();
            poll("more than a drain", || {
                (since.elapsed() > Duration::from_millis(2500)).then_some(())
            });
            run.send(Signal::SIGCONT);
            let run = run.wait();
            let transcript = run.transcript();
            assert_eq!(transcript.agent_lines().len(), 50, "{ending}, {survivors}");
            assert_eq!(
                transcript.outputs("stderr").len(),
                2,
                "{ending}, {survivors}"
            );
            run.assert_sound();
        }
    }
}
