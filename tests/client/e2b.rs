//! Runs in sandboxes of the fake, through the client: what is asked of E2B, and what comes of it.

use std::time::{Duration, SystemTime};

use sandtrace_client::e2b::{Client, Config, Error, Sandbox};
use sandtrace_client::live::LiveError;
use sandtrace_client::{Event, FailureKind, Launch, Outcome};

use crate::client::{async_test, everything, kinds, until};
use crate::fake_envd::{FakeEnvd, Options};

pub(crate) const SANDTRACE: &str = env!("CARGO_BIN_EXE_sandtrace");

pub(crate) fn config(fake: &FakeEnvd) -> Config {
    Config::default().api_key("fake-api-key").all_at(fake.url())
}

pub(crate) fn client(fake: &FakeEnvd) -> Client {
    Client::new(config(fake)).unwrap()
}

pub(crate) async fn sandbox(fake: &FakeEnvd) -> Sandbox {
    let create = client(fake).create("agents");
    create
        .timeout(Duration::from_secs(600))
        .send()
        .await
        .unwrap()
}

pub(crate) fn sh(script: &str) -> Launch {
    Launch::new(["sh", "-c", script])
        .program(SANDTRACE)
        .var("SANDTRACE_PROBE", "off")
}

/// Numbered lines.
pub(crate) fn counting(count: usize) -> Launch {
    sh(&format!(
        r#"n=0; while [ $n -lt {count} ]; do n=$((n+1)); echo "{{\"n\":$n}}"; done"#
    ))
}

/// The agent's lines as it printed them.
pub(crate) fn said(events: &[Event]) -> Vec<String> {
    events.iter().filter_map(Event::as_printed).collect()
}

pub(crate) fn numbers(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!(r#"{{"n":{n}}}"#)).collect()
}

pub(crate) async fn nothing_left(fake: &FakeEnvd) {
    until("the last processes in the sandbox", || {
        fake.processes().is_empty().then_some(())
    })
    .await;
}

#[test]
fn a_run_in_a_sandbox_gives_every_event_and_its_conclusion() {
    async_test(async {
        let fake = FakeEnvd::start();
        std::fs::write(
            fake.home().join(".profile"),
            "echo Welcome!\necho '{\"type\":\"start\"}'\n",
        )
        .unwrap();
        let sandbox = client(&fake)
            .create("agents")
            .timeout(Duration::from_secs(600))
            .env("TENANT", "acme")
            .metadata("run", "r1")
            .send()
            .await
            .unwrap();
        let launch = sh(r#"echo "{\"tenant\":\"$TENANT\",\"own\":\"$OWN\"}"; echo ahem >&2"#)
            .deadline(Duration::from_secs(120))
            .var("OWN", "it's mine");
        let mut live = sandbox.start(&launch).await.unwrap();
        let events = everything(&mut live).await;
        assert_eq!(said(&events), [r#"{"tenant":"acme","own":"it's mine"}"#]);
        assert_eq!(kinds(&events).first().unwrap(), "sandtrace.run.started");
        assert_eq!(kinds(&events).last().unwrap(), "sandtrace.run.finished");
        assert!(live.conclude().await.unwrap().finished.is_some());
        assert_eq!(live.breaks(), 0);
        assert_eq!(live.noise_tail(), "Welcome!\n{\"type\":\"start\"}\n");
        assert_eq!(live.stderr_tail().trim(), "ahem");

        // The run knows when its sandbox ends.
        let started = live.run().started().unwrap();
        assert_eq!(started.run_id, live.transport().run_id());
        let told = started.limits.sandbox_ends_at.as_deref().unwrap();
        let told: jiff::Timestamp = told.parse().unwrap();
        let told = SystemTime::from(told);
        let ends_at = sandbox.ends_at().unwrap();
        let off = ends_at
            .duration_since(told)
            .unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_millis(2), "{off:?}");

        let starts = fake.seen_at("/process.Process/Start");
        let [start] = starts.as_slice() else {
            panic!("{starts:?}")
        };
        assert!(
            !start.headers.contains_key("connect-timeout-ms"),
            "it would kill the run"
        );
        assert_eq!(start.headers["keepalive-ping-interval"], "15");
        assert_eq!(start.headers["e2b-sandbox-id"], sandbox.id());
        assert!(start.headers.contains_key("x-access-token"));
        assert_eq!(start.message["tag"], live.transport().run_id());
        assert_eq!(start.message["stdin"], true);

        sandbox.kill().await.unwrap();
        sandbox
            .kill()
            .await
            .expect("what is gone already is no error");
        nothing_left(&fake).await;
        assert_eq!(
            sandbox.kill_reason().await.unwrap().as_deref(),
            Some("request")
        );
    });
}

#[test]
fn in_debug_mode_there_is_one_sandbox_and_no_api() {
    async_test(async {
        let fake = FakeEnvd::start();
        let url = fake.url();
        let config = Config::from_variables(|name| match name {
            "E2B_DEBUG" => Some("true".to_owned()),
            "E2B_SANDBOX_URL" => Some(url.clone()),
            _ => None,
        });
        let sandbox = Client::new(config)
            .unwrap()
            .create("any")
            .send()
            .await
            .unwrap();
        assert_eq!(
            (sandbox.id(), sandbox.ends_at()),
            ("debug_sandbox_id", None)
        );
        sandbox.set_timeout(Duration::from_secs(1)).await.unwrap();
        let mut live = sandbox.start(&counting(3)).await.unwrap();
        assert_eq!(said(&everything(&mut live).await), numbers(3));
        sandbox.kill().await.unwrap();
        let paths = fake.seen().into_iter().map(|seen| seen.path);
        assert_eq!(paths.collect::<Vec<_>>(), ["/process.Process/Start"]);
    });
}

#[test]
fn what_is_said_to_a_run_is_in_its_stdin() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = sandbox(&fake).await;
        let echo = r#"while read -r line; do echo "$line"; done; echo '{"type":"over"}'"#;
        let mut live = sandbox.start(&sh(echo)).await.unwrap();
        let voice = live.voice().by("alice");
        voice.send_message("grüß dich").await.unwrap();
        voice.approve("a-1").await.unwrap();
        voice.end_input().await.unwrap();
        let lines = [
            r#"{"type":"user_message","text":"gr\u00fc\u00df dich"}"#,
            r#"{"type":"approve","id":"a-1","by":"alice"}"#,
            r#"{"type":"over"}"#,
        ];
        assert_eq!(said(&everything(&mut live).await), lines);
        until("the end of the process", || {
            (fake.processes().is_empty()).then_some(())
        })
        .await;
        let error = voice.interrupt().await.unwrap_err();
        assert!(matches!(error, Error::RunOver { .. }), "{error:?}");
    });
}

#[test]
fn cancelling_gives_the_verdict_though_envd_cuts_the_tail_of_what_it_signals() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = sandbox(&fake).await;
        let mut live = sandbox.start(&sh("sleep 1000 & wait")).await.unwrap();
        while live.run().started().is_none() {
            live.next().await.unwrap().unwrap();
        }
        // Longer than the supervisor lingers, so its last lines are cut off for certain.
        fake.faults(|faults| faults.read_delay = Duration::from_secs(2));
        live.voice().cancel().await.unwrap();
        let conclusion = live.conclude().await.unwrap();
        assert_eq!(conclusion.outcome, Outcome::Cancelled);
        assert_eq!(conclusion.failure.unwrap().kind, FailureKind::CancelledHost);
        assert!(conclusion.finished.is_some());
        assert_eq!(live.run().missing(), 0);
        nothing_left(&fake).await;
    });
}

#[test]
fn a_sandbox_that_ends_before_the_run_may_is_refused_before_anything_starts() {
    async_test(async {
        let fake = FakeEnvd::start();
        let create = client(&fake)
            .create("agents")
            .timeout(Duration::from_secs(100));
        let sandbox = create.send().await.unwrap();
        let launch = counting(1).deadline(Duration::from_secs(90));
        let error = sandbox.start(&launch).await.unwrap_err();
        assert!(matches!(error, Error::SandboxTooShort { .. }), "{error:?}");
        assert!(
            error.to_string().contains("it needs at least 150 s"),
            "{error}"
        );
        assert!(fake.seen_at("/process.Process/Start").is_empty());

        sandbox.set_timeout(Duration::from_secs(150)).await.unwrap();
        let mut live = sandbox.start(&launch).await.unwrap();
        assert_eq!(said(&everything(&mut live).await), numbers(1));

        let error = sandbox
            .start(&launch.option("--echo", "none"))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Unfollowable(_)), "{error:?}");
    });
}

#[test]
fn a_supervisor_that_is_not_there_or_refuses_its_options_says_so() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = sandbox(&fake).await;
        let missing = counting(1).program("/nowhere/sandtrace");
        let refused = counting(1).var("SANDTRACE_GRACE", "soon");
        for (launch, code, words) in [
            (missing, "127", "/nowhere/sandtrace"),
            (refused, "125", "SANDTRACE_GRACE"),
        ] {
            let mut live = sandbox.start(&launch).await.unwrap();
            match live.next().await.unwrap_err() {
                LiveError::NeverStarted { status, said } => {
                    assert_eq!(status.unwrap(), format!("exit status {code}"));
                    assert!(said.contains(words), "{said}");
                }
                other => panic!("{other:?}"),
            }
            assert!(live.next().await.unwrap().is_none());
        }
    });
}

#[test]
fn what_e2b_refuses_is_told_by_kind() {
    async_test(async {
        let fake = FakeEnvd::with(Options {
            api_key: "another".to_owned(),
            ..Options::default()
        });
        let error = client(&fake).create("agents").send().await.unwrap_err();
        assert!(matches!(error, Error::Unauthorised { .. }), "{error:?}");
        let error = Client::new(Config::default()).unwrap_err();
        assert!(error.to_string().contains("E2B_API_KEY"), "{error}");

        let fake = FakeEnvd::start();
        fake.faults(|faults| {
            faults.rate_limits = 1;
            faults.retry_after = Duration::from_secs(7);
        });
        match client(&fake).create("agents").send().await.unwrap_err() {
            Error::RateLimited { retry_after, .. } => {
                assert_eq!(retry_after, Some(Duration::from_secs(7)));
            }
            other => panic!("{other:?}"),
        }
        let error = client(&fake).connect("i-never-was").await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");

        let sandbox = sandbox(&fake).await;
        fake.kill_sandbox(sandbox.id(), "admin");
        match sandbox.start(&counting(1)).await.unwrap_err() {
            Error::SandboxGone { reason, .. } => assert_eq!(reason.as_deref(), Some("admin")),
            other => panic!("{other:?}"),
        }
        let url = fake.url();
        drop(fake);
        let mut config = Config::default().api_key("fake-api-key").all_at(url);
        config.connect_for = Duration::from_millis(300);
        let error = Client::new(config)
            .unwrap()
            .create("agents")
            .send()
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    });
}

#[test]
fn sandboxes_are_kept_measured_and_connected_to() {
    async_test(async {
        let fake = FakeEnvd::start();
        let made = sandbox(&fake).await;
        let before = made.ends_at().unwrap();
        made.set_timeout(Duration::from_secs(1200)).await.unwrap();
        assert!(made.ends_at().unwrap() > before + Duration::from_secs(500));
        let again = client(&fake).connect(made.id()).await.unwrap();
        assert_eq!(again.id(), made.id());
        let off = again
            .ends_at()
            .unwrap()
            .duration_since(made.ends_at().unwrap());
        let off = off.unwrap_or_else(|error| error.duration());
        assert!(
            off < Duration::from_secs(5),
            "it only ever extends, and says how long: {off:?}"
        );
        let metrics = made.metrics().await.unwrap();
        assert_eq!((metrics[0].cpu_count, metrics[0].mem_total), (2, 1 << 30));
        let mut live = again.start(&counting(2)).await.unwrap();
        assert_eq!(said(&everything(&mut live).await), numbers(2));
    });
}
