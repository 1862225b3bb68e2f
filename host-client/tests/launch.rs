//! What a run is started with.
#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, its functions included"
)]

use std::time::Duration;

use proptest::prelude::*;
use sandtrace_client::launch::{Capture, Echo, Survivors, shell_line};
use sandtrace_client::{Launch, LaunchError};

fn words(launch: &Launch) -> Vec<String> {
    let argv = launch.argv();
    let end = argv.iter().position(|word| word == "--").unwrap();
    argv[2..end].to_vec()
}

#[test]
fn every_option_has_its_words() {
    let agent = || Launch::new(["agent"]);
    let second = Duration::from_secs(1);
    for (launch, expected) in [
        (agent(), ""),
        (agent().run_id("a.b_C-1"), "--run-id a.b_C-1"),
        (agent().run_id("-a"), "--run-id=-a"),
        (agent().deadline(second * 90), "--deadline 90s"),
        (agent().deadline(second / 1000 * 1500), "--deadline 1500ms"),
        (agent().deadline(Duration::from_nanos(1)), "--deadline 1ms"),
        (agent().deadline(Duration::MAX), "--deadline 3153600000s"),
        (agent().idle_timeout(Some(second)), "--idle-timeout 1s"),
        (agent().idle_timeout(None), "--idle-timeout off"),
        (
            agent().sandbox_ends_at("2026-01-31T12:00:00Z"),
            "--sandbox-ends-at 2026-01-31T12:00:00Z",
        ),
        (agent().grace(second * 5), "--grace 5s"),
        (agent().flush_timeout(second * 2), "--flush-timeout 2s"),
        (agent().survivors(Survivors::Kill), "--survivors kill"),
        (agent().survivors(Survivors::Leave), "--survivors leave"),
        (agent().echo(Echo::Raw), "--echo raw"),
        (agent().echo(Echo::None), "--echo none"),
        (agent().echo(Echo::Enriched), "--echo enriched"),
        (agent().capture(Capture::Full), "--capture full"),
        (agent().capture(Capture::None), "--capture none"),
        (agent().capture(Capture::Preview), "--capture preview"),
        (agent().slow(second * 60), "--slow 60s"),
        (
            agent().sample_interval(Some(second * 3)),
            "--sample-interval 3s",
        ),
        (agent().sample_interval(None), "--sample-interval off"),
        (agent().journal("/var/j"), "--journal /var/j"),
        (agent().no_journal(), "--journal off"),
        (
            agent().agent_name("coder").session_id("s").user_id("u"),
            "--agent-name coder --session-id s --user-id u",
        ),
        (agent().user_id("-1"), "--user-id=-1"),
        (
            agent()
                .attribute("tenant", "acme")
                .attribute("tier", "a=b")
                .pass_env("ONE")
                .pass_env("TWO"),
            "--attribute tenant=acme --attribute tier=a=b --pass-env ONE --pass-env TWO",
        ),
        // Of those that do not add up, the last counts: the supervisor takes them once.
        (
            agent().deadline(second).grace(second).deadline(second * 2),
            "--grace 1s --deadline 2s",
        ),
    ] {
        assert_eq!(words(&launch).join(" "), expected);
        assert_eq!(launch.check(), Ok(()), "{expected}");
    }
}

#[test]
fn context_and_secrets_go_by_the_environment() {
    let launch = Launch::new(["agent", "--flag"])
        .traceparent("00-a-b-01")
        .tracestate("v=1")
        .baggage("user.id=alice")
        .var("KEY", "old")
        .var("KEY", "s3cret")
        .redact("one.*")
        .redact("two");
    let env: Vec<_> = launch
        .env()
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    assert_eq!(
        env,
        [
            ("TRACEPARENT", "00-a-b-01"),
            ("TRACESTATE", "v=1"),
            ("BAGGAGE", "user.id=alice"),
            ("KEY", "s3cret"),
            ("SANDTRACE_REDACT", "one.*\ntwo"),
        ]
    );
    assert_eq!(launch.argv(), ["sandtrace", "run", "--", "agent", "--flag"]);
}

#[test]
fn a_run_is_read_again_and_stopped_by_the_supervisor_that_started_it() {
    let launch = Launch::new(["agent"]).program("/opt/sandtrace").run_id("r");
    assert_eq!(
        launch.attach_argv("r", 17),
        ["/opt/sandtrace", "attach", "--after", "17", "--", "r"]
    );
    assert_eq!(
        launch.stop_argv("-r"),
        ["/opt/sandtrace", "stop", "--", "-r"]
    );
    let launch = launch.journal("/j j");
    assert_eq!(
        launch.stop_argv("r"),
        ["/opt/sandtrace", "stop", "--journal", "/j j", "--", "r"]
    );
    assert_eq!(
        shell_line(&launch.stop_argv("r")),
        "/opt/sandtrace stop --journal '/j j' -- r"
    );
}

#[test]
fn what_cannot_start_is_refused_before_anything_starts() {
    let agent = || Launch::new(["agent"]);
    for (launch, expected) in [
        (
            Launch::new([""; 0]),
            "the command is empty: name the agent's program, for instance python3",
        ),
        (
            Launch::new([""]),
            "the command is empty: name the agent's program, for instance python3",
        ),
        (
            agent().run_id("a/b"),
            "\"a/b\" is no run id: it takes 1 to 64 of the characters A-Z a-z 0-9 . _ - and may not be `.` or `..`",
        ),
        (
            agent().var("A=B", "c"),
            "\"A=B\" is no name of a variable: it may not be empty or hold `=`",
        ),
        (
            agent().var("A", "c\0"),
            "the variable A holds a NUL character, which no process can be given",
        ),
        (
            Launch::new(["agent", "a\0b"]),
            "argument 4 holds a NUL character, which no process can be given",
        ),
        (
            agent().attribute("", "x"),
            "--attribute cannot be \"=x\": it has no key before `=`",
        ),
        (
            agent().agent_name(" "),
            "--agent-name cannot be \" \": it is empty",
        ),
        (
            agent().user_id("a\nb"),
            "--user-id cannot be \"a\\nb\": it holds a control character",
        ),
    ] {
        assert_eq!(launch.check().unwrap_err().to_string(), expected);
    }
    for id in ["", ".", "..", "ü", "a b", &"x".repeat(65)] {
        let refused = agent().run_id(id).check();
        assert_eq!(refused, Err(LaunchError::RunId { id: id.to_owned() }));
    }
    assert_eq!(agent().run_id("x".repeat(64)).check(), Ok(()));
}

#[test]
fn a_first_word_is_never_taken_for_anything_but_a_program() {
    for (program, expected) in [
        ("A=b", "'A=b' run -- x"),
        ("if", "'if' run -- x"),
        ("", "'' run -- x"),
        ("~/x", "'~/x' run -- x"),
    ] {
        assert_eq!(Launch::new(["x"]).program(program).command_line(), expected);
    }
}

#[cfg(unix)]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// By a real shell.
    #[test]
    fn a_shell_gives_every_word_back(words in prop::collection::vec("([^\\x00]|[ '\"$`\\\\!*?~#&|;<>(){}=%\n\t\r]){0,12}", 1..6)) {
        let line = shell_line(&[vec!["printf".to_owned(), "%s\\n".to_owned()], words.clone()].concat());
        let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
        prop_assert!(output.status.success(), "{line}");
        let expected = words.join("\n") + "\n";
        prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}

/// Each character that may mean something to a shell, wherever it stands in a word.
#[cfg(unix)]
#[test]
fn no_character_of_a_word_means_anything_to_a_shell() {
    let mut words = vec!["printf".to_owned(), "%s\\n".to_owned()];
    for char in (1..128).map(char::from) {
        words.extend([format!("{char}"), format!("{char}a"), format!("a{char}a")]);
    }
    let output = std::process::Command::new("sh")
        .args(["-c", &shell_line(&words)])
        .output()
        .unwrap();
    assert!(output.status.success());
    let given = String::from_utf8(output.stdout).unwrap();
    assert_eq!(given, words[2..].join("\n") + "\n");
}
