//! Death for want of memory: the truth table, what a real kernel recorded, and what neither of them shows.

mod recorded;
mod story;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::Pid;
use sandtrace_client::failure::{Alternative, FailureKind as K};

use self::story::{AGENT, CLI, MIB, STRANGER, Story, TOOL, at, process, story};
use super::*;
use crate::process::reaper::{Reaped, Usage};
use crate::resources::kernel_log::news_of;
use crate::resources::memory_events::reading_of;
use crate::resources::{
    CgroupMemory, Constraint, Kinship, ProcessUse, TreeSample, UserspaceKill, Victim,
};
use crate::session::memory::MemoryReading;

const CLI_KILLED: &str =
    "claude_agent_sdk._errors.ProcessError: Command failed with exit code -9 (exit code: -9)";
const SUBPROCESS: &str =
    "subprocess.CalledProcessError: Command '['hog']' died with <Signals.SIGKILL: 9>.";

fn alternative(failure: &Failure, kind: &K) -> f64 {
    let find = |other: &&Alternative| other.kind == *kind;
    failure
        .alternatives
        .iter()
        .find(find)
        .map_or(0.0, |other| other.confidence)
}

/// No claim about memory is stronger than the half of what is known, where others may have been meant.
#[test]
fn without_a_name_a_shared_cgroup_proves_nothing() {
    for ending in [killed(9), exit(3), exit(137), exit(1).said(CLI_KILLED)] {
        let failure = story().shared(60).oom(9.9).end(ending).verdict().1.unwrap();
        let claims = K::ALL.iter().filter(|kind| kind.class() == "oom");
        let strongest = claims
            .map(|kind| alternative(&failure, kind))
            .chain((failure.kind.class() == "oom").then_some(failure.confidence))
            .fold(0.0, f64::max);
        assert!(0.0 < strongest && strongest <= 0.5, "{failure:?}");
    }
}

fn row(story: Story, ending: Case) -> (String, f64) {
    let failure = story.end(ending).verdict().1.unwrap();
    (failure.kind.to_string(), failure.confidence)
}

/// It may have come and gone between two looks that saw nobody, and nothing of the run's has its size.
#[test]
fn a_stranger_s_death_is_never_the_reason_for_the_end() {
    type Row = (&'static str, fn() -> Story);
    let strangers: [Row; 5] = [
        ("unseen", || {
            story().of_stranger(9.9, Kinship::Gone).reaped(8)
        }),
        ("unseen, and nothing was reaped", || {
            story().of_stranger(9.9, Kinship::Gone)
        }),
        ("seen", || {
            story().shared(40).of_stranger(9.9, Kinship::Elsewhere)
        }),
        ("among others", || {
            story().shared(5).of_stranger(9.9, Kinship::Gone).reaped(8)
        }),
        ("without a log", || {
            story().looked(9.0, &[(AGENT, 8)]).oom(9.9).reaped(8)
        }),
    ];
    for (what, of) in strangers {
        let (kind, _) = row(of(), killed(9));
        assert_eq!(kind, "crash.signal", "{what}");
        for ending in [exit(3), exit(1).said(CLI_KILLED)] {
            let (kind, confidence) = row(of(), ending);
            let is_oom = kind.starts_with("oom.") && confidence > 0.5;
            // Two deaths at once, of the CLI by somebody and of a stranger by the kernel, look like one.
            assert!(!is_oom || kind == "oom.cli", "{what}: {kind} {confidence}");
        }
    }
}

#[test]
fn a_process_nobody_saw_is_the_run_s_if_what_the_run_says_of_itself_fits() {
    let unseen = || story().announced(555, "hog", 40).oom(9.9);
    let shared = || story().shared(5).announced(555, "hog", 40).oom(9.9);
    // Of its size was one that the agent had waited for.
    assert_eq!(
        row(unseen().reaped(44), exit(3)),
        ("oom.descendant_fatal".into(), 0.7)
    );
    assert_eq!(
        row(shared().reaped(44), exit(3)),
        ("oom.descendant_fatal".into(), 0.7)
    );
    // A shell that says so, where nobody else was.
    assert_eq!(
        row(unseen(), exit(137)),
        ("oom.descendant_fatal".into(), 0.8)
    );
    assert_eq!(
        row(shared(), exit(137)),
        ("oom.descendant_fatal".into(), 0.5)
    );
    // Another size, or none.
    for other in [
        unseen().reaped(20),
        unseen().reaped(200),
        shared(),
        unseen(),
    ] {
        assert_eq!(row(other, exit(3)).0, "crash.exit_code");
    }
    // But who killed the agent itself, that does not tell.
    assert_eq!(row(unseen().reaped(44), killed(9)).0, "crash.signal");
    // The tool's result does, for the tool.
    assert!(
        shared()
            .memory
            .blame_for_tool(at(9.0), "Exit code 137\nKilled")
            .is_some()
    );
    assert!(
        shared()
            .memory
            .blame_for_tool(at(9.0), "Exit code 1")
            .is_none()
    );
}

#[test]
fn an_agent_that_became_another_program_is_still_the_agent() {
    let before = || story().looked(9.0, &[(AGENT, 2)]);
    let of = |kinship| before().oom_of_kin(9.9, AGENT, "other", kinship);
    assert_eq!(
        row(of(Kinship::BelowUs), killed(9)),
        ("oom.agent".into(), 0.99)
    );
    assert_eq!(row(of(Kinship::Gone), killed(9)), ("oom.agent".into(), 0.9));
    assert_eq!(row(of(Kinship::Elsewhere), killed(9)).0, "crash.signal");
    let tool = before().oom_of_kin(9.9, TOOL, "other", Kinship::BelowUs);
    assert_eq!(row(tool, exit(3)), ("oom.descendant_fatal".into(), 0.7));
}

/// The log announces a victim before it is killed, and the counter may be read in between.
#[test]
fn one_kill_is_told_once_however_it_is_heard_of() {
    let mut announced = story().announced(AGENT, "python3", 0);
    announced.read(9.8);
    announced = announced.announced(AGENT, "python3", 62).oom(9.9);
    let mut counted = story().oom(9.8).announced(AGENT, "python3", 62);
    counted.read(9.9);
    for story in [announced, counted] {
        assert_eq!(story.memory.kills().len(), 1, "{:?}", story.memory.kills());
        let failure = story.end(killed(9)).verdict().1.unwrap();
        assert_eq!(failure.confidence, 0.99, "{failure:?}");
        assert!(
            failure.message.contains("python3 had 62 MiB"),
            "{failure:?}"
        );
    }
}

/// Nobody is named, but how much the run held is known.
#[test]
fn an_agent_that_held_little_was_not_what_the_kernel_looked_for() {
    let of = |mib| {
        row(
            story()
                .looked(9.0, &[(AGENT, 20)])
                .oom(9.9)
                .reaped(mib)
                .looked(9.95, &[]),
            killed(9),
        )
    };
    assert_eq!(of(60), ("oom.agent".into(), 0.9));
    assert_eq!(of(40), ("oom.agent".into(), 0.5));
    assert_eq!(of(20), ("crash.signal".into(), 0.6));
}

#[test]
fn a_verdict_about_memory_says_who_how_much_and_where() {
    let failure = story()
        .looked(9.0, &[(AGENT, 50)])
        .oom_of(9.9, AGENT, "python3")
        .end(killed(9))
        .verdict()
        .1
        .unwrap();
    assert_eq!(
        failure.message,
        "The kernel killed the agent for memory: python3 had 62 MiB resident, the limit is 64 MiB."
    );
    let facts: Vec<(&str, &str)> = failure
        .evidence
        .iter()
        .map(|item| (&*item.source, &*item.fact))
        .collect();
    assert_eq!(
        facts,
        [
            (
                "kernel_log",
                "killed process 100 (python3), 62 MiB resident, limit of memory cgroup /run"
            ),
            (
                "cgroup",
                "oom_kill rose by 1 in /run (limit 64 MiB) while the agent ran"
            ),
            ("wait_status", "ended by SIGKILL"),
        ]
    );
    let failure = story()
        .looked(9.6, &[(AGENT, 60)])
        .oom(10.0)
        .end(killed(9))
        .verdict()
        .1
        .unwrap();
    assert_eq!(
        failure.evidence[0].fact,
        "python3 (100) was the largest process of the run, 60 MiB of 64 MiB, 0.4 s before"
    );
}

#[test]
fn a_livelock_is_told_beside_what_we_did_about_it() {
    let stuck = || {
        story()
            .ooms(5.0, 60, 10.0)
            .ooms(6.0, 60, 10.0)
            .ooms(9.9, 60, 40.0)
    };
    let stopped = killed(9).meant(Intent::Deadline(MINUTE));
    let mut stuck_at_end = stuck();
    stuck_at_end.memory.exited(at(10.0));
    let failure = Case {
        memory: stuck_at_end.memory,
        ..stopped
    }
    .verdict()
    .1
    .unwrap();
    assert_eq!(failure.kind, K::TimeoutDeadline);
    assert!(alternative(&failure, &K::OomLivelock) >= 0.8, "{failure:?}");
    let running = Case {
        ending: Ending::StillRunning { signal: 15 },
        memory: stuck().memory,
        ..exit(0)
    };
    let failure = running.verdict().1.unwrap();
    assert_eq!(failure.kind, K::OomLivelock);
    assert_eq!(failure.confidence, 0.8);

    // Few of them, and everybody goes on; or pressure alone; or they are over; or each had its victim.
    let healthy = [
        story().ooms(9.0, 5, 10.0),
        story().ooms(9.0, 0, 90.0),
        stuck().ooms(9.95, 0, 0.0),
        stuck().oom(9.95),
    ];
    for (row, story) in healthy.into_iter().enumerate() {
        assert_eq!(story.memory.livelock(), None, "row {row}");
    }
    assert!(story().ooms(9.0, 5, 60.0).memory.livelock().is_some());
}

#[test]
fn what_oomd_killed_explains_a_kill_only_if_it_was_our_cgroup_and_just_now() {
    let of = |seconds, cgroup| row(story().oomd_killed(seconds, cgroup), killed(9));
    // Ours, one above it, and ours as it is called outside the container.
    for ours in ["/run", "/", "/host/docker/run"] {
        assert_eq!(of(9.5, ours), ("oom.userspace".into(), 0.8), "{ours}");
    }
    for other in ["/ru", "/run/below", "/user.slice", "/other-run"] {
        assert_eq!(of(9.5, other), ("crash.signal".into(), 0.9), "{other}");
    }
    assert_eq!(of(4.0, "/run"), ("crash.signal".into(), 0.9));
    let mut nameless = story().userspace(None);
    nameless.read(4.0);
    assert_eq!(row(nameless, killed(9)).0, "crash.signal");
    assert_eq!(row(story().userspace(None), killed(9)).0, "oom.userspace");
    // It does not ask first.
    let story = story().oomd_killed(9.5, "/run");
    assert_eq!(row(story, killed(15)).0, "crash.signal");
}

#[test]
fn a_term_is_earlyoom_s_if_it_has_just_named_the_agent() {
    let before = || story().looked(9.0, &[(AGENT, 20)]);
    for signal in [15, 9] {
        let of = |story: Story| row(story, killed(signal));
        let sure = before().earlyoom(9.9, AGENT, "python3");
        assert_eq!(of(sure), ("oom.userspace".into(), 0.8));
        let unseen = story().earlyoom(9.9, AGENT, "agent");
        assert_eq!(of(unseen), ("oom.userspace".into(), 0.8));
        // A pid or a name alone may be another's.
        for hint in [(STRANGER, "python3"), (AGENT, "nginx")] {
            let hinted = before().earlyoom(9.9, hint.0, hint.1);
            assert_eq!(of(hinted), ("oom.userspace".into(), 0.5), "{hint:?}");
        }
        let mut namesake = story();
        let tool = ProcessUse {
            command: Arc::from("python3"),
            ..process(TOOL, 5)
        };
        let tree = TreeSample {
            processes: vec![process(AGENT, 20), tool],
            ..TreeSample::default()
        };
        namesake.memory.looked(at(9.0), &tree);
        let others = [
            before().earlyoom(4.0, AGENT, "python3"),
            before().earlyoom(9.9, STRANGER, "nginx"),
            namesake.earlyoom(9.9, TOOL, "python3"),
        ];
        for (number, story) in others.into_iter().enumerate() {
            assert_eq!(of(story).0, "crash.signal", "row {number}, signal {signal}");
        }
    }
    // What we passed on is ours.
    let passed_on = killed(15).meant(Intent::Stop(15));
    let story = before().earlyoom(9.9, AGENT, "python3");
    assert_eq!(row(story, passed_on).0, "cancelled.host");
}

#[test]
fn many_lines_of_others_do_not_hide_the_last_one() {
    let mut crowded = story();
    for _ in 0..200 {
        crowded = crowded.earlyoom(9.0, STRANGER, "nginx");
    }
    let crowded = crowded.earlyoom(9.9, AGENT, "python3");
    assert_eq!(row(crowded, killed(15)).0, "oom.userspace");
}

#[test]
fn many_orphans_do_not_hide_the_last_one() {
    for earlier in [2.0, 9.7] {
        let mut story = story().shared(60).looked(8.0, &[(AGENT, 20), (TOOL, 30)]);
        for pid in 1000..1200 {
            story = story.orphan_killed(earlier, pid, false);
        }
        let story = story
            .orphan_killed(9.8, TOOL, false)
            .announced(TOOL, "sleep", 30);
        let (kind, confidence) = row(story.oom(9.9), exit(3));
        assert_eq!(
            (kind.as_str(), confidence),
            ("oom.descendant_fatal", 0.7),
            "{earlier}"
        );
    }
}

/// The samples have the living by pid, whatever order they came and went in.
#[test]
fn of_many_the_largest_is_blamed_if_it_vanished_and_only_then() {
    let largest = |pid: u32, and_then: &[u32]| {
        let all = |with: &[u32]| {
            let others = (200..900).filter(|other| *other != pid);
            let others = others.map(|other| (other, 1));
            let large = with.iter().map(|with| (*with, 40));
            let mut all: Vec<(u32, u64)> = others.chain(large).chain([(AGENT, 2)]).collect();
            all.sort_unstable();
            all
        };
        let story = story()
            .shared(10)
            .looked(8.0, &all(&[pid]))
            .oom(9.0)
            .looked(9.1, &all(and_then));
        let blamed = story.memory.kills()[0].process.as_ref();
        blamed.map(|process| process.pid)
    };
    for pid in [101, 200, 201, 555, 898, 899, 5000] {
        assert_eq!(largest(pid, &[]), Some(pid));
        assert_eq!(largest(pid, &[pid]), None, "{pid} lives");
    }
}

#[test]
fn a_kill_in_the_run_stands_in_the_evidence_of_every_end() {
    let ends = [
        exit(0),
        exit(0).open(),
        exit(0).error("it broke"),
        exit(1).result("error_during_execution", true, None),
        exit(1).said("No conversation found"),
        exit(1).said("ValueError: x"),
        exit(3),
        killed(15),
        killed(9),
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let failure = story()
            .looked(1.0, &[(AGENT, 20), (TOOL, 30)])
            .oom_of(2.0, TOOL, "hog")
            .end(end)
            .verdict()
            .1
            .unwrap();
        assert_ne!(failure.kind.class(), "oom", "row {number}: {failure:?}");
        for fact in [
            "killed process 102 (hog)",
            "8.0 s before the end",
            "oom_kill rose by 1",
        ] {
            let told = failure.evidence.iter();
            let told = told.filter(|item| item.fact.contains(fact)).count();
            assert_eq!(told, 1, "row {number}, {fact}: {failure:?}");
        }
    }
}

#[test]
fn a_full_heap_is_the_reason_unless_something_else_came_after_it() {
    let said = |stderr| story().end(exit(1).said(stderr)).verdict().1.unwrap();
    let later = said(
        "FATAL ERROR: JavaScript heap out of memory\nTraceback (most recent call last):\n  File \"a\"\nValueError: x",
    );
    assert_eq!(
        (later.kind.clone(), later.confidence),
        (K::CrashException, 0.9)
    );
    assert_eq!(alternative(&later, &K::OomHeap), 0.5, "{later:?}");
    let told = later.evidence.iter();
    assert!(
        told.clone()
            .any(|item| item.fact.contains("heap out of memory")),
        "{later:?}"
    );
    let reasons = [
        // Before it, or of the CLI whose heap it was.
        "ValueError: x\nFATAL ERROR: JavaScript heap out of memory",
        "FATAL ERROR: JavaScript heap out of memory\n\
         claude_agent_sdk._errors.ProcessError: Command failed with exit code -6 (exit code: -6)",
        "FATAL ERROR: JavaScript heap out of memory\n",
        "RuntimeError: it said JavaScript heap out of memory",
    ];
    for stderr in reasons {
        let failure = said(stderr);
        let found = (failure.kind.clone(), failure.confidence);
        assert_eq!(found, (K::OomHeap, 0.97), "{stderr}: {failure:?}");
    }
    // Both are of memory.
    let python = said("FATAL ERROR: JavaScript heap out of memory\nMemoryError");
    assert_eq!((python.kind.clone(), python.confidence), (K::OomHeap, 0.85));
    assert!(python.alternatives.is_empty(), "{python:?}");
}
