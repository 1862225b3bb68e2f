//! `reference/supervision.md` §3.2, line by line.

use super::*;

/// A row: what happened, and the verdict with its confidence, at least and at most.
type Row = (&'static str, Case, &'static str, f64, f64);

#[expect(clippy::too_many_lines, reason = "a table")]
fn table() -> Vec<Row> {
    let small = [(AGENT, 20), (CLI, 10)];
    let large = [(AGENT, 50), (CLI, 10)];
    let tool = [(AGENT, 20), (CLI, 10), (TOOL, 30)];
    let cli = [(AGENT, 20), (CLI, 40)];
    vec![
        // SIGKILL, counter up.
        (
            "the log names the agent",
            story()
                .looked(9.0, &small)
                .oom_of(9.9, AGENT, "python3")
                .end(killed(9)),
            "oom.agent",
            0.99,
            0.99,
        ),
        (
            "the log names the agent, which no sample saw",
            story().oom_of(9.9, AGENT, "agent").end(killed(9)),
            "oom.agent",
            0.99,
            0.99,
        ),
        (
            "the log is not ours to read, the agent was the largest",
            story().looked(9.0, &large).oom(10.0).end(killed(9)),
            "oom.agent",
            0.9,
            0.9,
        ),
        (
            "the same among others who are smaller",
            story()
                .shared(30)
                .looked(9.0, &large)
                .oom(10.0)
                .end(killed(9)),
            "oom.agent",
            0.9,
            0.9,
        ),
        (
            "nobody looked, but nobody else is there",
            story().oom(10.0).end(killed(9)),
            "oom.agent",
            0.7,
            0.7,
        ),
        (
            "a tool was larger",
            story().looked(9.0, &tool).oom(10.0).end(killed(9)),
            "oom.descendant_fatal",
            0.5,
            0.5,
        ),
        (
            "a larger tool vanished in the same tick",
            story()
                .looked(8.0, &tool)
                .oom(9.0)
                .looked(9.0, &small)
                .end(killed(9)),
            "oom.descendant_fatal",
            0.5,
            0.5,
        ),
        (
            "the log names a tool just before",
            story()
                .looked(8.0, &tool)
                .oom_of(9.5, TOOL, "hog")
                .end(killed(9)),
            "oom.descendant_fatal",
            0.5,
            0.5,
        ),
        // SIGKILL, counter still.
        (
            "kill -9",
            story().looked(9.0, &large).end(killed(9)),
            "crash.signal",
            0.9,
            0.9,
        ),
        (
            "earlyoom took the agent",
            story().userspace(Some(AGENT)).end(killed(9)),
            "oom.userspace",
            0.8,
            0.8,
        ),
        (
            "earlyoom took somebody else",
            story().userspace(Some(STRANGER)).end(killed(9)),
            "crash.signal",
            0.9,
            0.9,
        ),
        (
            "oomd's mark moved",
            story().oomd().end(killed(9)),
            "oom.userspace",
            0.8,
            0.8,
        ),
        // Exit 137.
        (
            "a shell reports a kill, and the log says whose",
            story()
                .looked(8.0, &tool)
                .oom_of(9.9, TOOL, "hog")
                .end(exit(137)),
            "oom.descendant_fatal",
            0.8,
            0.8,
        ),
        (
            "a shell reports a kill",
            story().oom(9.9).end(exit(137)),
            "oom.descendant_fatal",
            0.8,
            0.8,
        ),
        (
            "a shell reports a kill of no kernel",
            story().end(exit(137)),
            "crash.signal",
            0.8,
            0.8,
        ),
        (
            "a shell reports a kill, and others are there",
            story().shared(5).oom(9.9).end(exit(137)),
            "oom.descendant_fatal",
            0.5,
            0.5,
        ),
        // Another code.
        (
            "it was told of the tool, and had its own reasons",
            story()
                .looked(6.0, &tool)
                .oom_of(7.0, TOOL, "hog")
                .told()
                .end(exit(1).said("ValueError: x")),
            "crash.exception",
            0.7,
            0.7,
        ),
        (
            "it ended on it",
            story()
                .looked(8.0, &tool)
                .oom_of(9.9, TOOL, "hog")
                .end(exit(3)),
            "oom.descendant_fatal",
            0.7,
            0.7,
        ),
        (
            "it ended on it and says so",
            story()
                .looked(8.0, &tool)
                .oom_of(9.9, TOOL, "hog")
                .end(exit(1).said(SUBPROCESS)),
            "oom.descendant_fatal",
            0.8,
            0.8,
        ),
        (
            "a long time after",
            story()
                .looked(1.0, &tool)
                .oom_of(2.0, TOOL, "hog")
                .end(exit(3)),
            "crash.exit_code",
            0.8,
            0.8,
        ),
        // Exit 0.
        (
            "all was well",
            story().oom_of(9.9, TOOL, "hog").end(exit(0).well()),
            "-",
            0.0,
            0.0,
        ),
        // TERM.
        (
            "TERM long after",
            story()
                .looked(1.0, &tool)
                .oom_of(2.0, TOOL, "hog")
                .end(killed(15)),
            "crash.signal",
            0.95,
            0.95,
        ),
        (
            "143 long after",
            story()
                .looked(1.0, &tool)
                .oom_of(2.0, TOOL, "hog")
                .end(exit(143)),
            "crash.signal",
            0.6,
            0.95,
        ),
        // Runtimes.
        (
            "V8",
            story().end(killed(6).said("FATAL ERROR: JavaScript heap out of memory")),
            "oom.heap",
            0.97,
            0.97,
        ),
        (
            "Bun says so",
            story().end(killed(5).said("bun: out of memory")),
            "crash.signal",
            0.5,
            0.5,
        ),
        (
            "Bun says nothing",
            story().full().end(killed(4)),
            "crash.signal",
            0.5,
            0.5,
        ),
        (
            "a fault with room left",
            story().end(killed(11)),
            "crash.signal",
            0.85,
            0.85,
        ),
        (
            "Bun under a shell",
            story().full().end(exit(134)),
            "crash.signal",
            0.5,
            0.5,
        ),
        (
            "Python",
            story().end(exit(1).said("MemoryError")),
            "oom.heap",
            0.85,
            0.85,
        ),
        (
            "a program of C",
            story().end(exit(1).said("fork: Cannot allocate memory")),
            "oom.heap",
            0.85,
            0.85,
        ),
        // The CLI.
        (
            "the log names the CLI",
            story()
                .looked(9.0, &cli)
                .oom_of(9.9, CLI, "2.1.37")
                .end(exit(1).said(CLI_KILLED)),
            "oom.cli",
            0.97,
            0.97,
        ),
        (
            "the log has the name of its file",
            story()
                .looked(9.0, &cli)
                .oom_of(9.9, CLI, "claude")
                .end(exit(1).said(CLI_KILLED)),
            "oom.cli",
            0.97,
            0.97,
        ),
        (
            "the log has a name that nobody saw",
            story()
                .oom_of(9.9, CLI, "claude")
                .end(exit(1).said(CLI_KILLED)),
            "oom.cli",
            0.97,
            0.97,
        ),
        (
            "the log has the name of a thread",
            story()
                .oom_of(9.9, CLI, "HeapHelper")
                .end(exit(1).said(CLI_KILLED)),
            "oom.cli",
            0.8,
            0.8,
        ),
        (
            "the log names the CLI, or another command's",
            story()
                .shared(60)
                .looked(9.0, &small)
                .oom_of(9.9, 77, "claude")
                .end(exit(1).said(CLI_KILLED)),
            "oom.cli",
            0.8,
            0.8,
        ),
        (
            "the agent does not say so",
            story()
                .looked(9.0, &cli)
                .oom_of(9.9, CLI, "claude")
                .end(exit(1)),
            "oom.cli",
            0.97,
            0.97,
        ),
        (
            "nor does its code",
            story()
                .looked(9.0, &cli)
                .oom_of(9.9, CLI, "claude")
                .end(exit(0).open()),
            "oom.cli",
            0.97,
            0.97,
        ),
        (
            "the CLI was the largest",
            story()
                .looked(9.0, &cli)
                .oom(9.9)
                .end(exit(1).said(CLI_KILLED)),
            "oom.cli",
            0.9,
            0.9,
        ),
        (
            "the CLI was killed among others",
            story()
                .shared(60)
                .looked(9.0, &cli)
                .oom(9.9)
                .end(exit(1).said(CLI_KILLED)),
            "oom.cli",
            0.5,
            0.5,
        ),
        (
            "somebody killed the CLI",
            story().looked(9.0, &cli).end(exit(1).said(CLI_KILLED)),
            "crash.signal",
            0.9,
            0.9,
        ),
        (
            "somebody killed the CLI, says an event",
            story().end(exit(1).error("Command failed with exit code -9 (exit code: -9)")),
            "crash.exception",
            0.85,
            0.9,
        ),
        // Controls: another command of this cgroup.
        (
            "the log names a stranger",
            story()
                .shared(40)
                .looked(8.0, &large)
                .of_stranger(9.5, Kinship::Elsewhere)
                .end(killed(9)),
            "crash.signal",
            0.9,
            0.9,
        ),
        (
            "the log names somebody who was seen to be a stranger",
            story().of_stranger(9.5, Kinship::Elsewhere).end(exit(3)),
            "crash.exit_code",
            0.8,
            0.8,
        ),
        (
            "somebody who was gone at once, and not the agent",
            story()
                .shared(40)
                .looked(8.0, &large)
                .of_stranger(9.5, Kinship::Gone)
                .end(killed(9)),
            "crash.signal",
            0.9,
            0.9,
        ),
        (
            "a larger stranger, and no log",
            story()
                .shared(60)
                .looked(9.0, &small)
                .oom(9.9)
                .end(killed(9)),
            "crash.signal",
            0.5,
            0.6,
        ),
        (
            "nobody looked, others are there",
            story().shared(5).oom(9.9).end(killed(9)),
            "oom.agent",
            0.5,
            0.5,
        ),
        (
            "the whole sandbox counts, nobody looked",
            story().without_cgroup().oom(9.9).end(killed(9)),
            "oom.agent",
            0.5,
            0.5,
        ),
        (
            "a stranger's death and an exit code",
            story().shared(60).oom(9.9).end(exit(3)),
            "crash.exit_code",
            0.5,
            0.6,
        ),
        (
            "the agent lived on for long",
            story()
                .looked(3.0, &large)
                .oom(4.0)
                .looked(5.0, &large)
                .end(killed(9)),
            "crash.signal",
            0.9,
            0.9,
        ),
        (
            "a pid like the tool's with another name",
            story()
                .shared(40)
                .looked(8.0, &tool)
                .oom_of(9.5, TOOL, "nginx")
                .end(exit(3)),
            "crash.exit_code",
            0.5,
            0.6,
        ),
        // Evidence of pids without the log.
        (
            "an orphan's wait status",
            story()
                .shared(60)
                .looked(8.0, &tool)
                .orphan_killed(9.8, TOOL, false)
                .oom(9.9)
                .end(exit(3)),
            "oom.descendant_fatal",
            0.7,
            0.7,
        ),
        (
            "an orphan's wait status, just after the counter",
            story()
                .shared(60)
                .looked(8.0, &tool)
                .oom(9.8)
                .orphan_killed(9.9, TOOL, false)
                .end(exit(3)),
            "oom.descendant_fatal",
            0.7,
            0.7,
        ),
        (
            "an orphan that we ended",
            story()
                .shared(60)
                .looked(8.0, &small)
                .orphan_killed(9.8, TOOL, true)
                .oom(9.9)
                .end(exit(3)),
            "crash.exit_code",
            0.5,
            0.6,
        ),
        (
            "the largest vanished in that tick",
            story()
                .shared(10)
                .looked(8.0, &tool)
                .oom(9.0)
                .looked(9.1, &small)
                .end(exit(3)),
            "oom.descendant_fatal",
            0.7,
            0.7,
        ),
        (
            "a small one vanished in that tick",
            story()
                .shared(60)
                .looked(8.0, &tool)
                .oom(9.0)
                .looked(9.1, &small)
                .end(exit(3)),
            "crash.exit_code",
            0.5,
            0.6,
        ),
        // We meant it.
        (
            "our own kill comes first",
            story()
                .looked(9.0, &large)
                .oom_of(9.9, AGENT, "python3")
                .end(killed(9).meant(Intent::Idle(MINUTE))),
            "timeout.idle",
            0.95,
            0.95,
        ),
    ]
}

#[test]
fn every_line_of_the_truth_table_about_memory_holds() {
    let wrong: Vec<String> = table()
        .into_iter()
        .filter_map(|(what, case, expected, least, most)| {
            let failure = case.verdict().1;
            let found = failure
                .as_ref()
                .map_or("-".to_owned(), |failure| failure.kind.to_string());
            let confidence = failure.as_ref().map_or(0.0, |failure| failure.confidence);
            let fits = found == expected && (least..=most).contains(&confidence);
            (!fits).then(|| {
                format!(
                    "{what}: {found} {confidence}, not {expected} {least}-{most}\n  {failure:?}"
                )
            })
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
