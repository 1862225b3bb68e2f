//! Runs without a sandbox, through the client: the real supervisor as a child process.

use std::path::Path;
use std::time::Duration;

use sandtrace_client::live::{Live, LiveError};
use sandtrace_client::local::{self, Error, Process};
use sandtrace_client::{Content, Event, FailureKind, Launch, Outcome};
use tempfile::TempDir;

use crate::client::{async_test, everything, kinds, pid_is_gone};

const SANDTRACE: &str = env!("CARGO_BIN_EXE_sandtrace");

fn sh(home: &TempDir, script: &str) -> Launch {
    Launch::new(["sh", "-c", script])
        .program(SANDTRACE)
        .option("--journal", home.path().to_str().unwrap())
        .var("SANDTRACE_PROBE", "off")
}

async fn started(launch: &Launch) -> Live<Process> {
    local::start(launch).await.unwrap()
}

/// The agent's pid, once it runs.
async fn agent(live: &mut Live<Process>) -> u32 {
    while live.run().started().is_none() {
        live.next().await.unwrap().unwrap();
    }
    live.run().started().unwrap().pid.unwrap()
}

fn is_empty(directory: &Path) -> bool {
    directory.read_dir().unwrap().next().is_none()
}

#[test]
fn a_local_run_gives_every_event_and_its_conclusion() {
    async_test(async {
        let home = tempfile::tempdir().unwrap();
        let script =
            r#"for n in 1 2 3; do echo "{\"type\":\"text\",\"data\":$n}"; done; echo oh dear >&2"#;
        let mut live = started(&sh(&home, script).run_id("three")).await;
        let events = everything(&mut live).await;
        let said: Vec<String> = events.iter().filter_map(Event::as_printed).collect();
        let lines = [1, 2, 3].map(|n| format!(r#"{{"type":"text","data":{n}}}"#));
        assert_eq!(said, lines, "the agent's lines as it printed them");
        assert_eq!(kinds(&events).first().unwrap(), "sandtrace.run.started");
        assert_eq!(kinds(&events).last().unwrap(), "sandtrace.run.finished");
        let conclusion = live.conclude().await.unwrap();
        assert_eq!(conclusion.exit.unwrap().code, Some(0));
        assert_eq!(live.run().started().unwrap().run_id, "three");
        assert!(events.iter().any(|event| event.raw().contains("oh dear")));
        assert_eq!(live.stderr_tail().trim(), "oh dear");
        assert_eq!(live.breaks(), 0);
        assert!(live.next().await.unwrap().is_none(), "and it stays over");
    });
}

#[test]
fn what_the_voice_says_is_in_the_agents_stdin_until_the_input_ends() {
    async_test(async {
        let home = tempfile::tempdir().unwrap();
        let script = r#"while read -r line; do echo "$line"; done; echo '{"type":"over"}'"#;
        let mut live = started(&sh(&home, script)).await;
        let voice = live.voice().by("alice");
        // From another task, as a web application would.
        let other = tokio::spawn(async move {
            voice.send_message("grüß dich").await.unwrap();
            voice.approve("a-1").await.unwrap();
            voice.deny("a-2", "not today").await.unwrap();
            voice.interrupt().await.unwrap();
            voice.close().await.unwrap();
            voice.end_input().await.unwrap();
            voice
        });
        let events = everything(&mut live).await;
        let said: Vec<String> = events.iter().filter_map(Event::as_printed).collect();
        assert_eq!(
            said,
            [
                r#"{"type":"user_message","text":"gr\u00fc\u00df dich"}"#,
                r#"{"type":"approve","id":"a-1","by":"alice"}"#,
                r#"{"type":"deny","id":"a-2","reason":"not today","by":"alice"}"#,
                r#"{"type":"interrupt"}"#,
                r#"{"type":"close"}"#,
                r#"{"type":"over"}"#,
            ]
        );
        let voice = other.await.unwrap();
        assert!(matches!(voice.interrupt().await, Err(Error::Over)));
    });
}

#[test]
fn cancelling_ends_the_run_and_keeps_its_last_line() {
    async_test(async {
        let home = tempfile::tempdir().unwrap();
        let mut live = started(&sh(&home, "sleep 1000 & wait")).await;
        let agent = agent(&mut live).await;
        live.voice().cancel().await.unwrap();
        let conclusion = live.conclude().await.unwrap();
        assert_eq!(conclusion.outcome, Outcome::Cancelled);
        assert_eq!(conclusion.failure.unwrap().kind, FailureKind::CancelledHost);
        assert!(conclusion.finished.is_some());
        pid_is_gone(agent).await;
    });
}

#[test]
fn a_supervisor_that_is_killed_leaves_a_lost_run_and_no_agent() {
    async_test(async {
        let home = tempfile::tempdir().unwrap();
        let mut live = started(&sh(&home, "exec sleep 1000")).await;
        let agent = agent(&mut live).await;
        live.voice().kill().await.unwrap();
        let conclusion = live.conclude().await.unwrap();
        assert_eq!(
            conclusion.failure.unwrap().kind,
            FailureKind::LostSupervisor
        );
        assert!(conclusion.lost.is_some());
        pid_is_gone(agent).await;
        assert!(matches!(live.voice().cancel().await, Err(Error::Over)));
    });
}

#[test]
fn a_run_goes_on_when_its_follower_is_dropped() {
    async_test(async {
        let home = tempfile::tempdir().unwrap();
        let done = home.path().join("done");
        let script = format!(
            "echo '{{}}'; read -r line; sleep 0.3; touch {}",
            done.display()
        );
        let mut live = started(&sh(&home, &script)).await;
        let agent = agent(&mut live).await;
        drop(live);
        pid_is_gone(agent).await;
        assert!(done.exists());
    });
}

#[test]
fn slow_readers_lose_nothing() {
    async_test(async {
        let home = tempfile::tempdir().unwrap();
        let script = r#"i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo "{\"n\":$i}"; done"#;
        let mut live = started(&sh(&home, script)).await;
        let agent = agent(&mut live).await;
        // Nothing is read until the agent is gone, whose output is far more than pipes hold.
        pid_is_gone(agent).await;
        let events = everything(&mut live).await;
        let said = events
            .iter()
            .filter(|event| matches!(event.content(), Content::Agent(_)));
        assert_eq!(said.count(), 20_000);
        assert_eq!(live.run().missing(), 0);
    });
}

#[test]
fn next_may_be_dropped_at_any_time() {
    async_test(async {
        let home = tempfile::tempdir().unwrap();
        let script = "for n in 1 2 3 4 5 6; do echo '{}'; sleep 0.05; done";
        let mut live = started(&sh(&home, script)).await;
        let mut seen = Vec::new();
        let mut dropped = 0;
        loop {
            tokio::select! {
                biased;
                event = live.next() => match event.unwrap() {
                    Some(event) => seen.push(event.seq()),
                    None => break,
                },
                () = tokio::time::sleep(Duration::from_millis(3)) => dropped += 1,
            }
        }
        let all: Vec<u64> = (1..=seen.len() as u64).collect();
        assert_eq!(seen, all);
        assert!(dropped > 10, "{dropped}");
    });
}

#[test]
fn what_cannot_be_started_or_followed_says_why() {
    async_test(async {
        let home = tempfile::tempdir().unwrap();
        let missing = Launch::new(["true"]).program("/nowhere/sandtrace");
        let error = local::start(&missing).await.unwrap_err();
        assert!(matches!(error, Error::Spawn { .. }));
        assert!(error.to_string().contains("/nowhere/sandtrace"), "{error}");

        let raw = sh(&home, "true").option("--echo", "raw");
        let error = local::start(&raw).await.unwrap_err();
        assert!(matches!(error, Error::Unfollowable(_)));
        assert!(is_empty(home.path()), "nothing was started");

        let mut live = started(&sh(&home, "true").var("SANDTRACE_GRACE", "soon")).await;
        let error = live.next().await.unwrap_err();
        match &error {
            LiveError::NeverStarted { status, said } => {
                assert_eq!(status.as_deref(), Some("exit status 125"));
                assert!(said.contains("SANDTRACE_GRACE"), "{said}");
            }
            other => panic!("{other:?}"),
        }
        assert!(live.next().await.unwrap().is_none());
    });
}
