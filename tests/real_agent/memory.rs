//! The real agent and the kernel's OOM killer: who was killed, and what came of it.

use nix::sys::signal::{Signal, kill};
use sandtrace_client::wire::Outcome;
use sandtrace_client::{Failure, FailureKind};

use super::record::Run;
use super::stage::{Caller, Stage};
use crate::oom::Cgroup;

const MIB: u64 = 1 << 20;

fn failure(run: &Run) -> &Failure {
    run.finished.failure.as_ref().unwrap()
}

#[track_caller]
fn assert_verdict(run: &Run, kind: FailureKind, least: f64) {
    let failure = failure(run);
    assert_eq!(failure.kind, kind, "{failure:?}\n{}", run.stderr);
    assert!(failure.confidence >= least, "{failure:?}");
}

fn has_evidence(run: &Run, source: &str) -> bool {
    failure(run)
        .evidence
        .iter()
        .any(|item| item.source == source)
}

#[test]
fn a_tool_that_the_kernel_kills_is_an_oom_of_the_tool_alone() {
    let Some(cgroup) = Cgroup::limited(1024 * MIB) else {
        return;
    };
    let stage = Stage::playing("tool_oom").within(cgroup.procs());
    let run = stage.run("Bash");
    assert_eq!(run.finished.outcome, Outcome::Success, "{}", run.tree());
    let tool = run.spans("execute_tool").next().unwrap();
    assert_eq!(tool.text("error.type"), Some("oom"), "{}", run.tree());
    let warned = run.lines.iter().any(|line| {
        line["type"] == "sandtrace.warning"
            && line["data"]["code"] == "oom_kill"
            && line["data"]["counts"]["tool"] == "Bash"
    });
    assert!(warned, "{}", run.tree());
}

#[test]
fn an_agent_that_the_kernel_kills_is_an_oom_of_the_agent() {
    // Too little for Python to load the SDK.
    let Some(cgroup) = Cgroup::limited(30 * MIB) else {
        return;
    };
    let stage = Stage::playing("plain_text").within(cgroup.procs());
    let run = stage.run("Bash");
    assert_verdict(&run, FailureKind::OomAgent, 0.7);
    assert!(has_evidence(&run, "cgroup"), "{:?}", failure(&run));
    assert_eq!(run.status.code(), Some(137));
}

#[test]
fn a_cli_that_the_kernel_kills_is_an_oom_of_the_cli() {
    // Enough for the agent's Python, too little for its CLI.
    let Some(cgroup) = Cgroup::limited(130 * MIB) else {
        return;
    };
    let stage = Stage::playing("plain_text").within(cgroup.procs());
    let run = stage.run("Bash");
    assert_verdict(&run, FailureKind::OomCli, 0.7);
    assert!(has_evidence(&run, "cgroup"), "{:?}", failure(&run));
    assert_eq!(run.status.code(), Some(1));
}

#[test]
fn a_cli_that_somebody_kills_is_no_oom() {
    let Some(cgroup) = Cgroup::limited(4096 * MIB) else {
        return;
    };
    let stage = Stage::playing("long_tool").within(cgroup.procs());
    let running = stage.start("Bash", Caller::Traces);
    let tool = running.await_command("import time; time.sleep(20); print(1)");
    kill(running.cli(), Signal::SIGKILL).unwrap();
    // What the agent leaves when it ends by itself, we leave too.
    kill(tool, Signal::SIGKILL).unwrap();
    let run = running.finish();
    assert_verdict(&run, FailureKind::CrashSignal, 0.85);
    let failure = failure(&run);
    assert!(
        failure.message.contains("CLI was ended by SIGKILL"),
        "{failure:?}"
    );
    let claims = failure.alternatives.iter();
    assert!(
        claims
            .filter(|other| other.kind.class() == "oom")
            .all(|other| other.confidence <= 0.5),
        "{failure:?}"
    );
    assert_eq!(run.status.code(), Some(1));
}
