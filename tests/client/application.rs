//! Applications of the client, with the real agent in a fake sandbox.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use sandtrace_client::agent::Said;
use sandtrace_client::{Content, FailureKind, Launch, Outcome};
use serde_json::Value;

use crate::client::{async_test, skipped};
use crate::e2b::sandbox;
use crate::fake_envd::Cuts;
use crate::stage::{Stage, agent_python, repository};

/// An agent that asks before each of its calls in the scenario `permissions`: two of Bash, one of Write.
fn asking(stage: &Stage) -> Vec<String> {
    let prefix = stage.prefix();
    let (python, agent) = (
        format!("{prefix}/venv/bin/python"),
        format!("{prefix}/agent.py"),
    );
    let options = ["--interactive", "--approve", "Bash,Write"];
    let options = options.map(str::to_owned);
    [python, agent].into_iter().chain(options).collect()
}

/// Builds an example as `cargo test` does, so that after it there is nothing to build.
fn example(name: &str) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(repository()).args([
        "build",
        "--quiet",
        "--message-format",
        "json",
        "--example",
        name,
    ]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let built = cargo.output().unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    let lines = String::from_utf8(built.stdout).unwrap();
    let mut lines = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let built = lines.find(|line| line["target"]["name"] == name && line["executable"].is_string());
    built.unwrap()["executable"].as_str().unwrap().into()
}

#[test]
fn the_readmes_application_approves_tools_loses_its_connection_twice_and_prints_the_outcome() {
    let Some(python) = agent_python() else {
        return skipped("SANDTRACE_TEST_PYTHON is not set");
    };
    let stage = Stage::playing("permissions", &python);
    stage
        .fake
        .faults(|faults| faults.cuts = Cuts::next([9_000, 9_000]));
    let run = Command::new(example("e2b"))
        .env_clear()
        .env("E2B_API_KEY", "fake-api-key")
        .env("E2B_API_URL", stage.fake.url())
        .env("E2B_SANDBOX_URL", stage.fake.url())
        .env("ANTHROPIC_API_KEY", "fake-key")
        .env("AGENT", asking(&stage).join(" "))
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
    assert!(run.status.success(), "{out}{err}");
    assert!(
        out.contains("One was denied."),
        "the agent's last words: {out}"
    );
    assert!(
        out.contains("outcome: Success") && out.contains("finished: Some("),
        "{out}"
    );

    let starts = stage.fake.seen_at("/process.Process/Start");
    let command = |at: usize| starts[at].message["process"]["args"][2].to_string();
    assert_eq!(starts.len(), 3, "one run, and two attaches");
    assert!(command(0).contains(" run "), "{}", command(0));
    assert!(
        (1..3).all(|at| command(at).contains(" attach ")),
        "{starts:?}"
    );
    let lines = stage.journaled();
    let decided = lines
        .iter()
        .filter(|line| line["type"] == "approval_decision");
    let decided: Vec<_> = decided
        .map(|line| (&line["data"]["decision"], &line["data"]["by"]))
        .collect();
    assert_eq!(decided, [(&"approve".into(), &"alice".into()); 3]);
    stage.assert_nothing_left();
}

#[test]
fn a_real_session_is_answered_after_its_connection_was_lost_and_nothing_of_it_is_missing() {
    let Some(python) = agent_python() else {
        return skipped("SANDTRACE_TEST_PYTHON is not set");
    };
    let stage = Stage::playing("permissions", &python);
    async_test(async {
        let sandbox = sandbox(&stage.fake).await;
        stage.fake.faults(|faults| {
            faults.pieces = Some(3);
            faults.cuts = Cuts::Random {
                seed: 3,
                limit: 40_000,
            };
        });
        let launch = Launch::new(asking(&stage).into_iter().chain(["Try it.".to_owned()]))
            .var("ANTHROPIC_API_KEY", "fake-key");
        let mut live = sandbox.start(&launch).await.unwrap();
        let voice = live.voice().by("alice");
        let mut events = Vec::new();
        let mut answers = 0;
        while let Some(event) = live.next().await.unwrap() {
            if let Content::Agent(line) = event.content() {
                for said in line.said() {
                    match said {
                        Said::ApprovalRequest(asked) => {
                            assert_eq!(live.run().pending_approvals()[0].id, asked.id);
                            answers += 1;
                            match answers {
                                2 => voice.deny(asked.id, "not this one").await.unwrap(),
                                _ => voice.approve(asked.id).await.unwrap(),
                            }
                        }
                        Said::Result(_) => voice.close().await.unwrap(),
                        _ => {}
                    }
                }
            }
            events.push(event.json());
        }
        assert!(live.breaks() >= 2, "{}", live.breaks());
        assert_eq!(answers, 3);
        assert_eq!(events, stage.journaled(), "what was heard is what was kept");
        let conclusion = live.conclude().await.unwrap();
        assert_eq!(conclusion.outcome, Outcome::Success, "{conclusion:?}");
        assert!(conclusion.usage.output_tokens > 0);
        assert!(
            stage.home().join("allowed.txt").exists(),
            "what was approved was done"
        );
    });
    stage.assert_nothing_left();
}

#[test]
fn a_real_agent_that_is_cancelled_says_who_ended_it() {
    let Some(python) = agent_python() else {
        return skipped("SANDTRACE_TEST_PYTHON is not set");
    };
    let stage = Stage::playing("interrupt", &python);
    async_test(async {
        let sandbox = sandbox(&stage.fake).await;
        let prefix = stage.prefix();
        let launch = Launch::new([
            format!("{prefix}/venv/bin/python"),
            format!("{prefix}/agent.py"),
            "Work for long.".to_owned(),
        ]);
        let launch = launch.var("ANTHROPIC_API_KEY", "fake-key");
        let mut live = sandbox
            .start(&launch.deadline(Duration::from_secs(120)))
            .await
            .unwrap();
        live.voice().end_input().await.unwrap();
        while live.run().open_tools().next().is_none() {
            live.next().await.unwrap().unwrap();
        }
        live.voice().cancel().await.unwrap();
        let conclusion = live.conclude().await.unwrap();
        assert_eq!(conclusion.outcome, Outcome::Cancelled);
        assert_eq!(conclusion.failure.unwrap().kind, FailureKind::CancelledHost);
    });
    stage.assert_nothing_left();
}
