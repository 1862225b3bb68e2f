//! The same agent twice, alone and supervised: nobody but the host may see a difference.

use sha2::{Digest as _, Sha256};

use crate::supervised::{Finished, Supervised, fault, python, sh};

/// Scripts of the agent that misbehaves: what happens to it must be its own doing.
const FAULTS: &[&str] = &[
    "--events 5",
    "--events 2 --tool 0.05 --result --exit 3",
    "--lines 5000 --line-length 300",
    "--chunk random --seed 9 --random-bytes 300000",
    "--chunk 1 --lines 40",
    "--line-bytes 6000000",
    "--all-bytes --bad-utf8 --ansi --forge",
    "--no-newline",
    "--stderr-bytes 200000 --exit 1",
    "--to stderr --lines 50 --bad-utf8 --no-newline",
    "--lines 3 --close-stdout --to stderr --lines 3 --exit 4",
    "--lines 3 --close-stderr --lines 3 --exit 5",
    "--close-stdout --lines 1",
    "--nonblock --lines 2000 --line-bytes 300000",
    "--read-stdin --close-stdin --exit 2",
    "--orphans 50 --exit 6",
    "--burn-cpu 0.1 --lines 1",
    "--eat-memory 40000000 --lines 1",
    "--connect 127.0.0.1:1 --exit 7",
    "--memory-error",
    "--heap-error",
    "--signal KILL",
    "--lines 2 --signal SEGV",
    "--signal PIPE",
    "--ignore-term --signal INT",
    "--last-words --signal HUP",
    "--child --lines=5 --exit 9",
];

fn agents() -> Vec<(&'static str, Supervised)> {
    vec![
        ("says nothing", sh("exit 0")),
        ("fails", sh("echo out; echo err >&2; exit 42")),
        (
            "dies of a signal",
            sh("echo out; ulimit -c 0; kill -ABRT $$"),
        ),
        (
            "echoes stdin",
            sh("cat").stdin("line\n\0\u{fffd}last".repeat(100_000)),
        ),
        (
            "sees the end of stdin",
            sh("read line; echo \"$line $?\"").stdin(""),
        ),
        (
            "finds its standard files",
            sh("for fd in 0 1 2; do [ -p /dev/fd/$fd ]; echo $?; done"),
        ),
        (
            "has no signal blocked or ignored",
            // But for 32 and 33, the C library's own: whether they are ignored depends on how it starts a process.
            sh(
                "grep ^SigBlk /proc/self/status; ignored=$(sed -n 's/^SigIgn:.//p' /proc/self/status); echo $((0x$ignored & ~0x180000000))",
            ),
        ),
        (
            "keeps its limits",
            sh("ulimit -S -a; ulimit -H -a; umask; pwd"),
        ),
        (
            "shares stdin with its children",
            sh("head -c 5; echo; head -c 5 | cat; echo; wc -c").stdin("a".repeat(70_000)),
        ),
        (
            "leaves a pipe early",
            sh("yes | head -100000; for n in $(seq 300); do printf '%d\\r\\n' $n; done"),
        ),
        (
            "writes both streams in large blocks",
            python(
                "import os, sys\nfor n in range(300):\n  os.write(1, bytes([n % 256]) * 50000)\n  os.write(2, bytes([n % 251]) * 997)\nsys.exit(17)",
            ),
        ),
        (
            "raises an exception",
            python(
                "import sys\nprint('{\"type\":\"start\"}', flush=True)\nraise RuntimeError('boom')",
            ),
        ),
        (
            "forks",
            python(
                "import os\nif os.fork() == 0:\n  print('child', flush=True)\n  os._exit(3)\nprint('status', os.wait()[1], flush=True)",
            ),
        ),
        (
            "reads its own arguments",
            sh("tr '\\0' '\\n' < /proc/self/cmdline; echo $PPID | wc -l"),
        ),
    ]
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn assert_twins(name: &str, alone: &Finished, supervised: &Finished, stdout: &[u8]) {
    // The supervisor lives on where its agent died of a signal, and says so as a shell does.
    let code = alone.status.code().unwrap_or_else(|| {
        use std::os::unix::process::ExitStatusExt as _;
        128 + alone.status.signal().unwrap()
    });
    assert_eq!(supervised.code(), code, "{name}: exit code");
    assert!(
        hash(&alone.stdout) == hash(stdout),
        "{name}: stdout\n{}\n{}",
        String::from_utf8_lossy(&alone.stdout[..alone.stdout.len().min(2000)]),
        String::from_utf8_lossy(&stdout[..stdout.len().min(2000)]),
    );
    assert!(
        hash(&alone.stderr) == hash(&supervised.stderr),
        "{name}: stderr"
    );
    supervised.assert_nothing_left();
}

#[test]
fn a_supervised_agent_is_the_twin_of_one_alone() {
    for ((name, alone), (_, raw)) in agents().into_iter().zip(agents()) {
        let alone = alone.in_directory("/").start_alone().wait();
        let raw = raw.in_directory("/").option("--echo", "raw").run();
        assert_twins(name, &alone, &raw, &raw.stdout);
    }
}

#[test]
fn an_agent_that_misbehaves_is_the_twin_of_one_alone() {
    for script in FAULTS {
        let agent = || {
            fault(script)
                .stdin("typed\n".repeat(1000))
                .in_directory("/")
        };
        let alone = agent().start_alone().wait();
        let raw = agent().option("--echo", "raw").run();
        assert_twins(script, &alone, &raw, &raw.stdout);
        raw.assert_journal_whole();
        let enriched = agent().run();
        assert_twins(
            script,
            &alone,
            &enriched,
            &enriched.transcript().stream("stdout"),
        );
        enriched.assert_sound();
    }
}

#[test]
fn the_enriched_stream_tells_the_same_bytes() {
    for ((name, alone), (_, enriched)) in agents().into_iter().zip(agents()) {
        let alone = alone.in_directory("/").start_alone().wait();
        let enriched = enriched.in_directory("/").run();
        let stdout = enriched.transcript().stream("stdout");
        assert_twins(name, &alone, &enriched, &stdout);
        enriched.assert_sound();
    }
}
