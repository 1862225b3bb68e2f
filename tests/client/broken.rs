//! Runs in sandboxes whose connections break: each event once, in order, and one run.

use std::time::{Duration, Instant};

use sandtrace_client::e2b::{Client, Error, Sandbox, Stream};
use sandtrace_client::live::{Live, LiveError};
use sandtrace_client::run::LossReason;
use sandtrace_client::{Event, FailureKind, Launch, Outcome};

use crate::client::{async_test, everything, until};
use crate::e2b::{client, config, counting, nothing_left, numbers, said, sandbox, sh};
use crate::fake_envd::{Cuts, Edge, Ending, FakeEnvd};

/// How many runs were started in the sandbox: each leaves a directory.
fn runs(fake: &FakeEnvd) -> usize {
    let journal = fake.home().join(".local/state/sandtrace");
    std::fs::read_dir(journal).map_or(0, Iterator::count)
}

async fn impatient(fake: &FakeEnvd) -> Sandbox {
    let mut config = config(fake);
    config.keepalive = Duration::from_secs(1);
    let create = Client::new(config).unwrap().create("agents");
    create
        .timeout(Duration::from_secs(600))
        .send()
        .await
        .unwrap()
}

async fn next_said(live: &mut Live<Stream>) -> Event {
    loop {
        let event = live.next().await.unwrap().unwrap();
        if event.as_printed().is_some() {
            return event;
        }
    }
}

fn failure(live: &Live<Stream>) -> FailureKind {
    let conclusion = live.run().conclusion().unwrap();
    conclusion.failure.clone().unwrap().kind
}

#[test]
fn wherever_streams_are_cut_each_event_comes_once_and_in_order() {
    let seeds = std::env::var("SANDTRACE_TEST_SEEDS").map_or(6, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        async_test(async move {
            let fake = FakeEnvd::start();
            let sandbox = sandbox(&fake).await;
            fake.faults(|faults| {
                faults.pieces = Some(seed);
                faults.cuts = Cuts::Random {
                    seed,
                    limit: 60_000,
                };
                faults.ending = match seed % 2 {
                    0 => Ending::Closed,
                    _ => Ending::Reset,
                };
            });
            let mut live = sandbox.start(&counting(300)).await.unwrap();
            let events = everything(&mut live).await;
            assert_eq!(said(&events), numbers(300), "seed {seed}");
            assert!(live.breaks() > 0, "seed {seed}");
            assert_eq!(live.conclude().await.unwrap().exit.unwrap().code, Some(0));
            assert_eq!(runs(&fake), 1, "seed {seed}");
            nothing_left(&fake).await;
        });
    }
}

#[test]
fn a_run_is_answered_and_concludes_though_its_stream_was_cut_twice() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = sandbox(&fake).await;
        // After its first lines, and within the first that is told anew.
        fake.faults(|faults| faults.cuts = Cuts::next([6000, 900]));
        let ask = r#"echo '{"ask":1}'; read -r line; echo "$line"; sleep 0.2; echo '{"end":1}'"#;
        let mut live = sandbox.start(&sh(ask)).await.unwrap();
        assert_eq!(
            next_said(&mut live).await.as_printed().unwrap(),
            r#"{"ask":1}"#
        );
        // The edge refuses it first, so that it reached nobody, and is said again.
        fake.faults(|faults| faults.proxy_errors = 1);
        live.voice().approve("a-1").await.unwrap();
        let rest = everything(&mut live).await;
        assert_eq!(
            said(&rest),
            [r#"{"type":"approve","id":"a-1"}"#, r#"{"end":1}"#]
        );
        assert_eq!(live.breaks(), 2);
        assert_eq!(runs(&fake), 1);
        for attach in &fake.seen_at("/process.Process/Start")[1..] {
            let command = attach.message["process"]["args"][2].as_str().unwrap();
            let (_, after) = command.split_once(" --after ").unwrap();
            let (after, _) = after.split_once(' ').unwrap();
            assert!(
                after.parse::<u64>().unwrap() > 0,
                "not from the begin: {command}"
            );
        }
        nothing_left(&fake).await;
    });
}

#[test]
fn a_run_is_found_when_the_answer_to_its_start_is_lost() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = sandbox(&fake).await;
        for script in ["read -r line; echo '{\"n\":1}'", "echo '{\"n\":1}'"] {
            let before = runs(&fake);
            fake.faults(|faults| faults.lose_starts = 1);
            let mut live = sandbox.start(&sh(script)).await.unwrap();
            if script.starts_with("read") {
                live.voice().interrupt().await.unwrap();
            }
            assert_eq!(said(&everything(&mut live).await), numbers(1));
            assert_eq!(runs(&fake), before + 1, "it was started once");
        }
        nothing_left(&fake).await;
    });
}

#[test]
fn a_start_without_answer_and_without_trace_is_an_error_that_says_so() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = sandbox(&fake).await;
        fake.faults(|faults| faults.lose_starts = 1);
        // Soon gone, and without a journal: as if it had never been.
        let launch = counting(1).program("/nowhere/sandtrace").run_id("r-1");
        match sandbox.start(&launch).await {
            Err(error) => {
                assert!(matches!(error, Error::NeverStarted { .. }), "{error:?}");
                assert!(error.to_string().contains("r-1"), "{error}");
            }
            // Or its login shell was seen.
            Ok(mut live) => match live.conclude().await.unwrap_err() {
                LiveError::NeverStarted { .. } => {}
                other => panic!("{other:?}"),
            },
        }
        let starts = fake.seen_at("/process.Process/Start");
        let tagged = starts.iter().filter(|start| start.message["tag"] == "r-1");
        assert_eq!(tagged.count(), 1, "it was not started again");
    });
}

/// Loses the answer to a start, and then every request until `open`.
async fn start_into_silence(fake: &FakeEnvd, launch: Launch, open: Duration) -> Live<Stream> {
    let mut config = config(fake);
    config.reconnect_for = Duration::from_secs(2);
    let create = Client::new(config).unwrap().create("agents");
    let create = create.timeout(Duration::from_secs(600));
    let sandbox = create.send().await.unwrap();
    fake.faults(|faults| faults.lose_starts = 1);
    let begun = Instant::now();
    let silence = async {
        until("the start", || {
            (!fake.seen_at("/process.Process/Start").is_empty()).then_some(())
        })
        .await;
        fake.faults(|faults| faults.proxy_errors = usize::MAX);
        tokio::time::sleep_until((begun + open).into()).await;
        fake.faults(|faults| faults.proxy_errors = 0);
    };
    let start = async {
        let live = sandbox.start(&launch).await.unwrap();
        fake.faults(|faults| faults.proxy_errors = 0);
        live
    };
    tokio::pin!(silence);
    tokio::pin!(start);
    tokio::select! {
        live = &mut start => live,
        () = &mut silence => start.await,
    }
}

#[test]
fn a_run_that_cannot_be_looked_for_is_given_to_be_followed_later() {
    async_test(async {
        let fake = FakeEnvd::start();
        let launch = sh("sleep 1; echo '{\"n\":1}'").run_id("r-1");
        let mut live = start_into_silence(&fake, launch, Duration::from_secs(60)).await;
        assert_eq!(live.transport().run_id(), "r-1");
        assert_eq!(said(&everything(&mut live).await), numbers(1));
        assert_eq!(runs(&fake), 1, "it was started once");
        nothing_left(&fake).await;
    });
}

#[test]
fn a_run_without_a_journal_that_is_found_late_says_what_is_lost() {
    async_test(async {
        let fake = FakeEnvd::start();
        let launch = sh("read -r line; echo '{\"n\":2}'").option("--journal", "off");
        // Longer than it is looked for among the processes.
        let mut live = start_into_silence(&fake, launch, Duration::from_millis(4500)).await;
        let error = live.next().await.unwrap_err();
        assert!(matches!(error, LiveError::Unreplayed { .. }), "{error:?}");
        live.voice().interrupt().await.unwrap();
        live.conclude().await.unwrap();
        nothing_left(&fake).await;
    });
}

#[test]
fn a_start_that_nobody_reads_is_not_sent_again() {
    async_test(async {
        let fake = FakeEnvd::start();
        let mut config = config(&fake);
        config.request_timeout = Duration::from_secs(1);
        let create = Client::new(config).unwrap().create("agents");
        let sandbox = create
            .timeout(Duration::from_secs(600))
            .send()
            .await
            .unwrap();
        fake.faults(|faults| faults.black_holes = 1);
        let error = sandbox.start(&counting(1).run_id("r-1")).await.unwrap_err();
        assert!(matches!(error, Error::NeverStarted { .. }), "{error:?}");
        assert_eq!(runs(&fake), 0);
        let starts = fake.seen_at("/process.Process/Start");
        assert!(starts.iter().all(|start| start.message["tag"] != "r-1"));
    });
}

#[test]
fn a_start_that_reached_nobody_is_tried_again() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = sandbox(&fake).await;
        fake.faults(|faults| faults.proxy_errors = 2);
        let mut live = sandbox.start(&counting(3)).await.unwrap();
        assert_eq!(said(&everything(&mut live).await), numbers(3));
        assert_eq!(runs(&fake), 1);
    });
}

#[test]
fn the_way_back_may_be_rough() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = sandbox(&fake).await;
        let gate = fake.home().join("gate");
        let script = format!(
            r#"echo '{{"n":1}}'; until [ -e {} ]; do sleep 0.02; done; echo '{{"n":2}}'"#,
            gate.display()
        );
        fake.faults(|faults| faults.cuts = Cuts::next([2500]));
        let mut live = sandbox.start(&sh(&script)).await.unwrap();
        fake.faults(|faults| {
            faults.refuse_connections = 2;
            faults.proxy_errors = 2;
            faults.rate_limits = 1;
        });
        std::fs::write(gate, "").unwrap();
        assert_eq!(said(&everything(&mut live).await), numbers(2));
        assert_eq!(live.breaks(), 1);
        nothing_left(&fake).await;
    });
}

#[test]
fn of_broken_streams_no_process_stays_in_the_sandbox() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = sandbox(&fake).await;
        let ask = r#"echo '{"n":1}'; read -r line; echo '{"n":2}'"#;
        fake.faults(|faults| faults.cuts = Cuts::next([2500, 900, 900, 900]));
        let mut live = sandbox.start(&sh(ask)).await.unwrap();
        next_said(&mut live).await;
        let attaches = || {
            let processes = fake.processes().into_iter();
            let commands =
                processes.map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")));
            let attaches = commands
                .flatten()
                .filter(|command| command.contains("\0attach\0"));
            attaches.count()
        };
        loop {
            tokio::select! {
                event = live.next() => drop(event.unwrap().unwrap()),
                () = tokio::time::sleep(Duration::from_millis(50)) => {
                    if live.breaks() == 4 && attaches() == 1 {
                        break;
                    }
                }
            }
        }
        live.voice().interrupt().await.unwrap();
        assert_eq!(said(&everything(&mut live).await), [r#"{"n":2}"#]);
        nothing_left(&fake).await;
    });
}

#[test]
fn connections_that_never_let_a_line_through_are_given_up_in_the_end() {
    async_test(async {
        let fake = FakeEnvd::start();
        let mut config = config(&fake);
        config.reconnect_for = Duration::from_secs(2);
        let create = Client::new(config).unwrap().create("agents");
        let sandbox = create
            .timeout(Duration::from_secs(600))
            .send()
            .await
            .unwrap();
        fake.faults(|faults| faults.cuts = Cuts::Every(300));
        let mut live = sandbox.start(&sh("sleep 1000")).await.unwrap();
        let conclusion = live.conclude().await.unwrap();
        assert_eq!(conclusion.lost.unwrap().reason, LossReason::Unreachable);
        assert!(live.breaks() > 2, "{}", live.breaks());
    });
}

#[test]
fn a_sandbox_that_is_killed_ends_the_run_with_e2bs_reason() {
    for (reason, edge, kind, loss) in [
        (
            "admin",
            Edge::Silent,
            FailureKind::LostSandbox,
            LossReason::SandboxGone,
        ),
        (
            "request",
            Edge::Unavailable,
            FailureKind::LostSandbox,
            LossReason::SandboxGone,
        ),
        (
            "timeout",
            Edge::Unavailable,
            FailureKind::TimeoutSandboxEnd,
            LossReason::SandboxTimeout,
        ),
    ] {
        async_test(async move {
            let fake = FakeEnvd::start();
            fake.faults(|faults| faults.edge = edge);
            let sandbox = sandbox(&fake).await;
            let mut live = sandbox.start(&sh("echo '{}'; sleep 1000")).await.unwrap();
            let seen = next_said(&mut live).await;
            fake.kill_sandbox(sandbox.id(), reason);
            while live.next().await.unwrap().is_some() {}
            assert!(live.run().last_seq() >= seen.seq());
            assert_eq!(failure(&live), kind);
            let conclusion = live.run().conclusion().unwrap();
            let lost = conclusion.lost.as_ref().unwrap();
            assert_eq!(lost.reason, loss);
            assert_eq!(lost.provider_says.as_deref(), Some(reason));
            match live.voice().cancel().await.unwrap_err() {
                Error::SandboxGone { reason: told, .. } => {
                    assert_eq!(told.as_deref(), Some(reason))
                }
                other => panic!("{other:?}"),
            }
        });
    }
}

#[test]
fn a_sandbox_whose_time_is_over_is_no_sandbox_that_was_killed() {
    async_test(async {
        let fake = FakeEnvd::start();
        let create = client(&fake)
            .create("agents")
            .timeout(Duration::from_secs(3));
        let sandbox = create.send().await.unwrap();
        let mut live = sandbox.start(&sh("sleep 1000")).await.unwrap();
        let conclusion = live.conclude().await.unwrap();
        assert_eq!(conclusion.outcome, Outcome::Failure);
        assert_eq!(failure(&live), FailureKind::TimeoutSandboxEnd);
    });
}

#[test]
fn a_supervisor_that_is_killed_is_told_from_a_sandbox_that_is() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = sandbox(&fake).await;
        let mut live = sandbox
            .start(&sh("echo '{}'; exec sleep 1000"))
            .await
            .unwrap();
        next_said(&mut live).await;
        live.voice().kill().await.unwrap();
        let conclusion = live.conclude().await.unwrap();
        assert_eq!(failure(&live), FailureKind::LostSupervisor);
        let status = Some("signal: killed".to_owned());
        assert_eq!(
            conclusion.lost.unwrap().reason,
            LossReason::SupervisorGone { status }
        );
        nothing_left(&fake).await;
    });
}

#[test]
fn a_stream_that_falls_silent_is_made_anew_and_a_slow_reader_is_none() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = impatient(&fake).await;
        fake.faults(|faults| faults.stall_next_after = Some(3000));
        let mut live = sandbox.start(&counting(100)).await.unwrap();
        let begun = Instant::now();
        let events = everything(&mut live).await;
        assert!(begun.elapsed() > Duration::from_secs(3));
        assert_eq!(said(&events), numbers(100));
        assert_eq!(live.breaks(), 1);

        let mut live = sandbox.start(&counting(20_000)).await.unwrap();
        let first = live.next().await.unwrap().unwrap();
        assert_eq!(first.seq(), 1);
        // Longer than a silent stream may be.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let events = everything(&mut live).await;
        assert_eq!(said(&events), numbers(20_000));
        assert_eq!(live.breaks(), 0);
        nothing_left(&fake).await;
    });
}

#[test]
fn a_quiet_run_keeps_its_stream() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = impatient(&fake).await;
        let mut live = sandbox
            .start(&sh("sleep 5; echo '{\"n\":1}'"))
            .await
            .unwrap();
        assert_eq!(said(&everything(&mut live).await), numbers(1));
        assert_eq!(live.breaks(), 0, "envd's signs of life are enough");
    });
}

#[test]
fn without_a_journal_a_broken_stream_is_told_and_the_rest_still_comes() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = sandbox(&fake).await;
        let ask = r#"echo '{"n":1}'; read -r line; echo '{"n":2}'"#;
        fake.faults(|faults| faults.cuts = Cuts::next([1500]));
        let launch = sh(ask).option("--journal", "off");
        let mut live = sandbox.start(&launch).await.unwrap();
        let error = loop {
            match live.next().await {
                Ok(event) => assert!(event.is_some()),
                Err(error) => break error,
            }
        };
        match &error {
            LiveError::Unreplayed { after, .. } => assert_eq!(*after, live.run().last_seq()),
            other => panic!("{other:?}"),
        }
        assert!(
            error.to_string().contains("lost: it keeps no journal"),
            "{error}"
        );
        live.voice().interrupt().await.unwrap();
        let mut rest = Vec::new();
        while let Some(event) = live.next().await.unwrap() {
            rest.push(event);
        }
        assert_eq!(said(&rest).last().unwrap(), r#"{"n":2}"#);
        assert!(live.run().conclusion().unwrap().finished.is_some());
        nothing_left(&fake).await;
    });
}

#[test]
fn a_paused_sandbox_is_an_error_that_resuming_it_mends() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = sandbox(&fake).await;
        let ask = r#"echo '{"n":1}'; read -r line; echo '{"n":2}'"#;
        let mut live = sandbox.start(&sh(ask)).await.unwrap();
        next_said(&mut live).await;
        sandbox.pause().await.unwrap();
        match live.next().await.unwrap_err() {
            LiveError::Transport(Error::SandboxPaused { sandbox: id }) => {
                assert_eq!(id, sandbox.id())
            }
            other => panic!("{other:?}"),
        }
        sandbox.resume(Duration::from_secs(600)).await.unwrap();
        live.voice().interrupt().await.unwrap();
        assert_eq!(said(&everything(&mut live).await), [r#"{"n":2}"#]);
        nothing_left(&fake).await;
    });
}

#[test]
fn another_process_can_follow_a_run_from_its_begin() {
    async_test(async {
        let fake = FakeEnvd::start();
        let mine = sandbox(&fake).await;
        let ask = r#"echo '{"n":1}'; read -r line; echo '{"n":2}'"#;
        let launch = sh(ask)
            .run_id("r-7")
            .var("PATH", path_with_sandtrace(&fake));
        let mut live = mine.start(&launch).await.unwrap();
        next_said(&mut live).await;
        drop(live);

        let again = client(&fake).connect(mine.id()).await.unwrap();
        let mut live = again.follow("r-7");
        assert_eq!(
            next_said(&mut live).await.as_printed().unwrap(),
            r#"{"n":1}"#
        );
        live.voice().interrupt().await.unwrap();
        assert_eq!(said(&everything(&mut live).await), [r#"{"n":2}"#]);
        let mut live = again.follow("r-8");
        let error = live.next().await.unwrap_err();
        assert!(matches!(error, LiveError::NeverStarted { .. }), "{error:?}");
        nothing_left(&fake).await;
    });
}

/// As a template has it: what runs in the sandbox finds `sandtrace`.
fn path_with_sandtrace(fake: &FakeEnvd) -> String {
    let bin = fake.home().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(crate::e2b::SANDTRACE, bin.join("sandtrace")).unwrap();
    let path = format!("PATH={}:$PATH\n", bin.display());
    std::fs::write(fake.home().join(".profile"), path).unwrap();
    std::env::var("PATH").unwrap()
}

#[test]
fn next_may_be_dropped_while_the_run_is_looked_for() {
    async_test(async {
        let fake = FakeEnvd::start();
        let sandbox = sandbox(&fake).await;
        fake.faults(|faults| {
            // Of an envelope that is cut nothing is heard, so they must be small.
            faults.pieces = Some(5);
            faults.cuts = Cuts::Random {
                seed: 5,
                limit: 20_000,
            };
        });
        let mut live = sandbox.start(&counting(200)).await.unwrap();
        let mut seen = Vec::new();
        loop {
            tokio::select! {
                biased;
                event = live.next() => match event.unwrap() {
                    Some(event) => seen.push(event),
                    None => break,
                },
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        assert_eq!(said(&seen), numbers(200));
        assert!(live.breaks() > 1);
        until("the ends of the broken streams' processes", || {
            fake.processes().is_empty().then_some(())
        })
        .await;
    });
}
