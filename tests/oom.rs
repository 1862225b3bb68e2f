//! Death for want of memory, with a real kernel: who was killed, and what must not be taken for it
//! (`reference/supervision.md` §5, cases 39 to 46; those of version 2 are recordings of a guest, in the pure tests).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::supervised::{Finished, Supervised, Transcript, poll, python, sh, skipped};

/// Twice what a [`Cgroup`] allows.
const HOG: &str = "bytes(1) * (160 << 20)";
const LIMIT: u64 = 80 << 20;

/// A memory cgroup with a limit, gone after the test.
pub(crate) struct Cgroup {
    directory: PathBuf,
}

impl Cgroup {
    /// `None`, with the reason printed, where none can be made.
    pub(crate) fn limited(bytes: u64) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("sandtrace-test-{}-{number}", std::process::id());
        let places = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
            ("/sys/fs/cgroup/unified", "memory.max"),
        ];
        for (root, limit) in places {
            let directory = Path::new(root).join(&name);
            if fs::create_dir(&directory).is_err() {
                continue;
            }
            let cgroup = Self { directory };
            if fs::write(cgroup.directory.join(limit), bytes.to_string()).is_ok() {
                // Swap would only make the end come later; where there is none, there is no limit for it.
                for (file, value) in [
                    ("memory.memsw.limit_in_bytes", bytes.to_string()),
                    ("memory.swap.max", "0".to_owned()),
                ] {
                    fs::write(cgroup.directory.join(file), value).ok();
                }
                return Some(cgroup);
            }
        }
        skipped("no memory cgroup can be made here");
        None
    }

    pub(crate) fn procs(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// Another command of this cgroup, killed for memory.
    fn foreign_oom(&self) {
        let status = Command::new("sh")
            .args(["-c", "echo $$ > \"$0\" && exec python3 -c \"$1\""])
            .arg(self.procs())
            .arg(HOG)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(!status.success(), "{status}");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The dead are charged for a moment longer.
        let gone = (0..2000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            fs::remove_dir(&self.directory).is_ok()
        });
        assert!(gone || std::thread::panicking(), "a cgroup is left");
    }
}

fn failure(transcript: &Transcript) -> &Value {
    &transcript.finished()["failure"]
}

fn confidence(transcript: &Transcript) -> f64 {
    failure(transcript)["confidence"].as_f64().unwrap()
}

fn sources(transcript: &Transcript) -> Vec<&str> {
    let evidence = failure(transcript)["evidence"].as_array().unwrap();
    evidence
        .iter()
        .map(|item| item["source"].as_str().unwrap())
        .collect()
}

/// How strongly anything of class oom is claimed, as the verdict or beside it.
fn claim(transcript: &Transcript) -> f64 {
    let failure = failure(transcript);
    let others = failure["alternatives"].as_array().unwrap().iter();
    others
        .chain([failure])
        .filter(|claim| claim["class"] == "oom")
        .map(|claim| claim["confidence"].as_f64().unwrap())
        .fold(0.0, f64::max)
}

fn reads_log(transcript: &Transcript) -> bool {
    transcript.started()["abilities"]["kernel_log"] == true
}

/// The evidence has the counter, and the kernel's words where we may read them.
#[track_caller]
fn assert_kernel_evidence(transcript: &Transcript) {
    let sources = sources(transcript);
    assert!(sources.contains(&"cgroup"), "{}", failure(transcript));
    assert_eq!(
        sources.contains(&"kernel_log"),
        reads_log(transcript),
        "{}",
        failure(transcript)
    );
}

#[track_caller]
fn assert_verdict(run: &Finished, expected: &str, least: f64) -> Transcript {
    let transcript = run.transcript();
    assert_eq!(transcript.verdict(), expected, "{}", failure(&transcript));
    let confidence = confidence(&transcript);
    assert!(
        (least..=0.99).contains(&confidence),
        "{}",
        failure(&transcript)
    );
    run.assert_sound();
    transcript
}

/// The agent uses a tool that the kernel kills.
fn agent_with_tool(after: &str) -> Supervised {
    python(&format!(
        r#"
import json, subprocess, sys
def say(kind, **data): print(json.dumps({{'type': kind, 'data': data}}), flush=True)
say('start', prompt='x')
say('tool_use', id='t1', name='Bash', input={{'command': 'x'}})
tool = subprocess.run(['bash', '-c', 'python3 -c "{HOG}"; exit $?'], start_new_session=True)
say('tool_result', tool_use_id='t1', content=f'Exit code {{tool.returncode}}\nKilled', is_error=True)
{after}
"#
    ))
}

#[test]
fn v1_agent() {
    let Some(cgroup) = Cgroup::limited(LIMIT) else {
        return;
    };
    let run = python(HOG).cgroup(cgroup.procs()).run();
    assert_eq!(run.code(), 137);
    let transcript = assert_verdict(&run, "oom.agent", 0.7);
    assert_kernel_evidence(&transcript);
    assert!(!reads_log(&transcript) || confidence(&transcript) == 0.99);
    let message = failure(&transcript)["message"].as_str().unwrap();
    assert!(
        message.starts_with("The kernel killed the agent for memory"),
        "{message}"
    );
    assert!(message.contains("the limit is 80 MiB"), "{message}");
    assert!(transcript.warnings().contains(&"oom_kill"));
    assert!(transcript.span_ids().len() == 1);
}

#[test]
fn a_tool_that_the_kernel_kills_is_the_tool_s_failure_and_not_the_run_s() {
    let Some(cgroup) = Cgroup::limited(LIMIT) else {
        return;
    };
    let end =
        "say('result', result='done', cost=0.0, num_turns=1)\nsay('complete', status='success')";
    let run = agent_with_tool(end).cgroup(cgroup.procs()).run();
    let transcript = run.transcript();
    assert_eq!(transcript.verdict(), "success");
    let tool = transcript.span("execute_tool Bash");
    assert_eq!(tool["attributes"]["error.type"], "oom", "{tool}");
    let evidence = tool["attributes"]["sandtrace.failure.evidence"].to_string();
    assert!(evidence.contains("oom_kill rose by 1"), "{evidence}");
    assert_eq!(
        evidence.contains("kernel_log: killed process"),
        reads_log(&transcript)
    );
    let warnings = transcript.all("sandtrace.warning");
    let warning = warnings
        .iter()
        .find(|warning| warning["code"] == "oom_kill")
        .unwrap();
    assert_eq!(warning["counts"]["tool"], "Bash", "{warning}");
    run.assert_sound();
}

#[test]
fn a_shell_that_shrugs_off_its_child_s_death_has_succeeded() {
    let Some(cgroup) = Cgroup::limited(LIMIT) else {
        return;
    };
    let run = sh(&format!("python3 -c \"{HOG}\"; echo $? >&2; exit 0"))
        .cgroup(cgroup.procs())
        .run();
    assert_eq!(run.code(), 0);
    assert!(run.errors().contains("137"), "{}", run.errors());
    assert_eq!(run.transcript().verdict(), "success");
    assert!(run.transcript().warnings().contains(&"oom_kill"));
    run.assert_sound();
}

#[test]
fn a_run_that_ends_on_its_tool_s_death_says_so() {
    let Some(cgroup) = Cgroup::limited(LIMIT) else {
        return;
    };
    let run = python(&format!(
        "import subprocess, sys\nsys.exit(3 if subprocess.run(['python3', '-c', \"{HOG}\"]).returncode else 0)"
    ))
    .cgroup(cgroup.procs())
    .run();
    assert_eq!(run.code(), 3);
    let transcript = assert_verdict(&run, "oom.descendant_fatal", 0.7);
    assert_kernel_evidence(&transcript);
}

#[test]
fn an_agent_that_was_told_of_its_tool_s_death_has_reasons_of_its_own() {
    let Some(cgroup) = Cgroup::limited(LIMIT) else {
        return;
    };
    let run = agent_with_tool("raise ValueError('x')")
        .cgroup(cgroup.procs())
        .run();
    let transcript = assert_verdict(&run, "crash.exception", 0.6);
    assert!(confidence(&transcript) <= 0.7);
    assert!(claim(&transcript) > 0.0, "{}", failure(&transcript));
    assert_kernel_evidence(&transcript);
}

#[test]
fn js_heap() {
    if Command::new("node").arg("--version").output().is_err() {
        return skipped("there is no node here");
    }
    let grow = "let a = []; for (;;) a.push(new Array(1e5).fill(1.5))";
    let run = sh(&format!("exec node --max-old-space-size=40 -e '{grow}'")).run();
    assert_eq!(run.code(), 134);
    let transcript = assert_verdict(&run, "oom.heap", 0.97);
    assert!(sources(&transcript).contains(&"stderr"));
}

#[test]
fn memoryerror() {
    let run = sh("ulimit -v 400000; exec python3 -c \"b'x' * (2 << 30)\"").run();
    assert_eq!(run.code(), 1);
    let transcript = assert_verdict(&run, "oom.heap", 0.85);
    assert!(sources(&transcript).contains(&"stderr"));
}

#[test]
fn kill9_control() {
    let Some(cgroup) = Cgroup::limited(LIMIT) else {
        return;
    };
    // Large enough to be suspected.
    let run = python("import os\nx = b'x' * (40 << 20)\nos.kill(os.getpid(), 9)")
        .cgroup(cgroup.procs())
        .run();
    assert_eq!(run.code(), 137);
    let transcript = assert_verdict(&run, "crash.signal", 0.9);
    assert_eq!(claim(&transcript), 0.0, "{}", failure(&transcript));
    assert_eq!(sources(&transcript), ["wait_status"]);
    assert!(!transcript.warnings().contains(&"oom_kill"));
}

#[test]
fn oom_then_sigterm() {
    let Some(cgroup) = Cgroup::limited(LIMIT) else {
        return;
    };
    let run = sh(&format!("python3 -c \"{HOG}\"; sleep 6.5; kill -TERM $$"))
        .cgroup(cgroup.procs())
        .run();
    assert_eq!(run.code(), 143);
    let transcript = assert_verdict(&run, "crash.signal", 0.95);
    assert_eq!(claim(&transcript), 0.0, "{}", failure(&transcript));
    assert!(transcript.warnings().contains(&"oom_kill"));
}

#[test]
fn foreign_oom_same_cgroup() {
    let Some(cgroup) = Cgroup::limited(LIMIT) else {
        return;
    };
    let run = sh("echo $$ > daemon; echo '{\"ready\":1}'; exec sleep 300")
        .cgroup(cgroup.procs())
        .start();
    run.ready();
    cgroup.foreign_oom();
    let agent: i32 = run.file("daemon").parse().unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(agent),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let run = run.wait();
    assert_eq!(run.code(), 137);
    let transcript = run.transcript();
    assert!(claim(&transcript) <= 0.5, "{}", failure(&transcript));
    if reads_log(&transcript) {
        assert_eq!(
            transcript.verdict(),
            "crash.signal",
            "{}",
            failure(&transcript)
        );
    }
    run.assert_sound();
}

#[test]
fn counts_from_before_the_run_are_no_evidence() {
    let Some(cgroup) = Cgroup::limited(LIMIT) else {
        return;
    };
    cgroup.foreign_oom();
    let run = sh("kill -KILL $$").cgroup(cgroup.procs()).run();
    let transcript = assert_verdict(&run, "crash.signal", 0.9);
    assert_eq!(claim(&transcript), 0.0, "{}", failure(&transcript));
    assert_eq!(sources(&transcript), ["wait_status"]);
}

/// As the SDK does when its CLI is gone.
fn agent_with_cli(cli: &str) -> Supervised {
    python(&format!(
        r#"
import os, subprocess, sys
os.symlink(os.path.realpath(sys.executable), 'claude')
code = subprocess.run(['./claude', '-c', "{cli}"]).returncode
sys.exit(f'claude_agent_sdk._errors.ProcessError: Command failed with exit code {{code}} (exit code: {{code}})')
"#
    ))
}

#[test]
fn the_cli_s_death_under_an_agent_is_told_from_the_agent_s() {
    let Some(cgroup) = Cgroup::limited(LIMIT) else {
        return;
    };
    let run = agent_with_cli(HOG).cgroup(cgroup.procs()).run();
    assert_eq!(run.code(), 1);
    let transcript = assert_verdict(&run, "oom.cli", 0.7);
    assert_kernel_evidence(&transcript);
    drop(cgroup);

    let Some(cgroup) = Cgroup::limited(LIMIT) else {
        return;
    };
    let run = agent_with_cli("import os; os.kill(os.getpid(), 9)")
        .cgroup(cgroup.procs())
        .run();
    let transcript = assert_verdict(&run, "crash.signal", 0.9);
    assert_eq!(claim(&transcript), 0.0, "{}", failure(&transcript));
}

#[test]
fn the_agent_is_followed_into_a_cgroup_of_its_own() {
    let Some(cgroup) = Cgroup::limited(LIMIT) else {
        return;
    };
    // The look that finds it there comes within a second; the verdict must not depend on it where the log is read.
    let run = sh(&format!(
        "echo $$ > {}; sleep 2.5; exec python3 -c \"{HOG}\"",
        cgroup.procs().display()
    ))
    .run();
    assert_eq!(run.code(), 137);
    let transcript = assert_verdict(&run, "oom.agent", 0.7);
    assert_kernel_evidence(&transcript);
    poll("the cgroup is empty", || {
        fs::read_to_string(cgroup.procs())
            .unwrap()
            .is_empty()
            .then_some(())
    });
}
