//! Hosts that misbehave: one that does not read, one that is gone. The agent must not notice.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::supervised::{Running, Supervised, poll, python, sh};

/// The most memory the supervisor may ever use, in KiB (DESIGN §10).
const MEMORY: u64 = 32 << 10;

/// Prints 64 MB of lines, keeps count in a file, and notes the longest write.
const FLOOD: &str = r#"
import os, time
count = os.open('count', os.O_CREAT | os.O_WRONLY)
pad = 'x' * 4000
for n in range(16_000):
    line = b'{"n":%d,"pad":"%s"}\n' % (n, pad.encode())
    while line:
        line = line[os.write(1, line):]
    os.pwrite(count, b'%d\n' % n, 0)
os.replace('count', 'done')
"#;

const LINES: usize = 16_000;

fn assert_every_line(bytes: &[u8]) {
    let mut expected = 0;
    for line in bytes.split(|byte| *byte == b'\n') {
        if line.starts_with(b"{\"n\":") {
            let number = format!("{{\"n\":{expected},");
            assert!(
                line.starts_with(number.as_bytes()),
                "line {expected} is not there"
            );
            expected += 1;
        }
    }
    assert_eq!(expected, LINES);
}

#[test]
fn a_host_that_does_not_read_holds_nobody_back_and_then_gets_everything() {
    let mut run = python(FLOOD).unread().start();
    assert_eq!(run.file("done"), (LINES - 1).to_string());
    assert!(run.memory("VmHWM") < MEMORY, "{} KiB", run.memory("VmHWM"));
    run.read();
    let run = run.wait();
    assert_eq!(run.code(), 0);
    assert_every_line(&run.stdout);
    run.assert_sound();
}

#[test]
fn a_host_that_never_reads_again_is_left_after_a_while() {
    let mut run = python(FLOOD).unread().start();
    poll("the end of the run", || run.is_over().then_some(()));
    let run = run.wait();
    assert_eq!(run.code(), 0);
    assert_every_line(&run.journal_file("events.ndjson"));
    run.assert_journal_whole();
    assert!(run.took >= Duration::from_secs(5), "{:?}", run.took);
    run.assert_nothing_left();
}

/// Waits until the agent writes no more, because it cannot.
fn await_standstill(run: &Running) -> u64 {
    let count = || {
        let count = fs::read_to_string(run.directory().join("count")).unwrap_or_default();
        count.trim().parse::<u64>().unwrap_or(0)
    };
    let mut last = (count(), std::time::Instant::now());
    poll("a standstill", || {
        let now = count();
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
        // The writer can be hungry for a processor, but hardly for so long.
        (now > 0 && last.1.elapsed() > Duration::from_secs(2)).then_some(now)
    })
}

#[test]
fn without_a_copy_in_a_journal_a_host_that_does_not_read_holds_the_agent_back() {
    for (echo, journal) in [("enriched", false), ("raw", true), ("raw", false)] {
        let mut case = python(FLOOD).unread().option("--echo", echo);
        if !journal {
            case = case.without_journal();
        }
        let mut run = case.start();
        let written = await_standstill(&run);
        assert!(!run.directory().join("done").exists());
        assert!(
            written < 4_000,
            "{written} lines fit between agent and host"
        );
        assert!(run.memory("VmHWM") < MEMORY, "{} KiB", run.memory("VmHWM"));
        run.read();
        assert_eq!(run.file("done"), (LINES - 1).to_string());
        let run = run.wait();
        assert_eq!(run.code(), 0);
        assert_every_line(&run.stdout);
        run.assert_nothing_left();
    }
}

#[test]
fn what_waits_in_the_pipe_when_the_agent_ends_is_not_lost_to_a_slow_host() {
    // More than the ring takes, so that the rest stays in the agent's pipe; the agent is gone before anyone reads.
    let program = "
import os
line = b'x' * 65535 + b'\\n'
os.set_blocking(1, False)
total = 0
import time
still = time.monotonic()
while time.monotonic() < still + 1.5:
    try:
        total += os.write(1, line)
        still = time.monotonic()
    except BlockingIOError:
        time.sleep(0.01)
with open('total', 'w') as file:
    print(total, file=file)
";
    for echo in ["raw", "enriched"] {
        let mut run = python(program)
            .unread()
            .without_journal()
            .option("--echo", echo)
            .start();
        let total: usize = run.file("total").parse().unwrap();
        poll("the end of the agent", || {
            run.processes().is_empty().then_some(())
        });
        // Slower than the drain, faster than the supervisor's patience.
        let agent_ended = std::time::Instant::now();
        poll("a slow host", || {
            (agent_ended.elapsed() > Duration::from_secs(3)).then_some(())
        });
        run.read();
        let run = run.wait();
        let read = match echo {
            "raw" => run.stdout.len(),
            _ => run.transcript().stream("stdout").len(),
        };
        assert_eq!(read, total, "{echo}");
        assert_eq!(run.code(), 0);
    }
}

#[test]
fn a_host_that_is_gone_changes_nothing_for_the_agent() {
    for echo in ["enriched", "raw"] {
        let mut run = python(FLOOD).unread().option("--echo", echo).start();
        run.close_stdout();
        let run = run.wait();
        assert_eq!(run.code(), 0);
        assert!(run.directory().join("done").exists());
        assert_every_line(&run.journal_file("events.ndjson"));
        run.assert_journal_whole();
        run.assert_nothing_left();
    }
}

#[test]
fn without_a_journal_a_host_that_is_gone_is_told_to_people() {
    let mut run = python(FLOOD).unread().without_journal().start();
    run.close_stdout();
    let run = run.wait();
    assert_eq!(run.code(), 0);
    let errors = run.errors();
    assert!(errors.contains("left early"), "{errors}");
    assert!(errors.contains("lost"), "{errors}");
    assert_eq!(errors.matches('\n').count(), 1, "{errors}");
}

#[test]
fn the_summary_leads_to_a_journal_only_if_there_is_one() {
    let run = sh("true").flag("--verbose").run();
    let report = format!("sandtrace report {}\n", run.journal().display());
    assert!(run.errors().contains(&report), "{}", run.errors());
    let run = sh("true").flag("--verbose").without_journal().run();
    assert!(!run.errors().contains("report"), "{}", run.errors());
    assert!(!run.errors().contains("journal"), "{}", run.errors());
}

#[test]
fn short_lines_and_no_journal_take_no_more_memory() {
    // An empty line is told in more than two hundred bytes.
    let program = "
import os
os.write(1, b'\\n' * 4_000_000)
open('done', 'w').write('done\\n')
";
    for redirection in ["", "os.dup2(2, 1)\n"] {
        let program = program.replace("import os\n", &format!("import os\n{redirection}"));
        let run = python(&program).unread().without_journal().start();
        // It fills what it can and stands still.
        let mut last = (0, std::time::Instant::now());
        poll("a standstill", || {
            let now = run.memory("VmHWM");
            if now != last.0 {
                last = (now, std::time::Instant::now());
            }
            (last.1.elapsed() > Duration::from_secs(3)).then_some(())
        });
        assert!(run.memory("VmHWM") < MEMORY, "{} KiB", run.memory("VmHWM"));
        assert!(!run.directory().join("done").exists());
        drop(run);
    }
}

#[test]
fn a_host_that_does_not_read_stderr_holds_nobody_back() {
    let script = "head -c 16000000 /dev/zero | tr '\\0' e >&2; echo >&2; echo done > done";
    let mut run = sh(script).unread_stderr().start();
    assert_eq!(run.file("done"), "done");
    assert!(run.memory("VmHWM") < MEMORY, "{} KiB", run.memory("VmHWM"));
    // It leaves without a reader of stderr, too.
    poll("the end of the run", || run.is_over().then_some(()));
    let run = run.wait();
    assert_eq!(run.code(), 0);
    run.assert_sound();
    let told = run.transcript().stream("stderr");
    assert_eq!(told.len(), 16_000_001);
    // What never came out on stderr is counted.
    let dropped = told.len() - run.stderr.len();
    assert!(dropped > 0);
    let transcript = run.transcript();
    assert_eq!(transcript.warnings(), ["stderr_dropped"]);
    let warning = transcript.all("sandtrace.warning")[0];
    assert_eq!(warning["counts"]["bytes"], dropped);
}

/// The supervisor, run by a shell or a Python that prepares its files; the agent is the test's.
fn prepared(preparation: &[&str], agent: &str) -> (Supervised, Command) {
    let case = sh(agent);
    let mut command = Command::new(preparation[0]);
    command.args(&preparation[1..]);
    command.args([
        env!("CARGO_BIN_EXE_sandtrace"),
        "run",
        "--journal",
        "journal",
        "--",
    ]);
    command.args(["sh", "-c", agent]);
    (case, command)
}

#[test]
fn files_that_are_closed_or_full_change_nothing_for_the_agent() {
    for redirections in [
        ">&-",
        "2>&-",
        "<&- >&- 2>&-",
        ">/dev/full",
        ">/dev/full 2>/dev/full",
    ] {
        let script = format!("exec \"$@\" {redirections}");
        let agent = "for n in $(seq 2000); do echo \"{\\\"n\\\":$n}\"; done; echo err >&2; echo $n > last; exit 4";
        let (case, command) = prepared(&["sh", "-c", &script, "sh"], agent);
        let run = case.start_as(command).wait();
        assert_eq!(run.code(), 4, "{redirections}");
        assert_eq!(
            fs::read_to_string(run.directory().join("last")).unwrap(),
            "2000\n"
        );
        assert_eq!(run.journaled().agent_lines().len(), 2000, "{redirections}");
        assert_eq!(run.journaled().stream("stderr"), b"err\n");
        run.assert_journal_whole();
        run.assert_nothing_left();
    }
}

#[test]
fn files_that_somebody_made_non_blocking_lose_nothing() {
    let preparation = "import os, sys
os.set_blocking(1, False)
os.set_blocking(2, False)
os.execv(sys.argv[1], sys.argv[1:])";
    let agent = "for n in $(seq 2000); do echo \"{\\\"n\\\":$n}\"; echo $n >&2; done; head -c 3000000 /dev/zero; echo";
    let (case, command) = prepared(&["python3", "-c", preparation], agent);
    let run = case.start_as(command).wait();
    assert_eq!(run.code(), 0);
    assert_eq!(run.errors().lines().count(), 2000);
    assert_eq!(run.transcript().agent_lines().len(), 2000);
    assert!(
        run.transcript()
            .stream("stdout")
            .ends_with(&[b"\0".repeat(3_000_000), b"\n".to_vec()].concat())
    );
    run.assert_sound();
}

#[test]
fn a_host_that_does_not_read_delays_no_deadline() {
    let mut run = python(FLOOD)
        .unread()
        .option("--echo", "raw")
        .option("--deadline", "1s")
        .option("--grace", "200ms")
        .start();
    poll("the end of the run", || run.is_over().then_some(()));
    assert!(!run.directory().join("done").exists());
    let run = run.wait();
    assert_eq!(run.code(), 124);
    let transcript = run.journaled();
    assert_eq!(transcript.verdict(), "timeout.deadline");
    let duration = transcript.finished()["duration_ms"].as_f64().unwrap();
    assert!((1000.0..10_000.0).contains(&duration), "{duration}");
    run.assert_journal_whole();
    run.assert_nothing_left();
}
