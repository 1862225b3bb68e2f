use super::*;
use crate::telemetry::redaction::Pattern;

const FILE: &str = "/etc/sandtrace/env";

fn words(line: &[&str]) -> Vec<OsString> {
    ["sandtrace"]
        .iter()
        .chain(line)
        .map(OsString::from)
        .collect()
}

fn settings(environment: &[(&str, &str)], file: &str) -> Result<Settings, SettingsError> {
    let environment = environment.iter().map(|(k, v)| (k.into(), v.into()));
    Settings::merge(environment, FILE, Ok(file.as_bytes().to_vec()))
}

fn run(flags: &[&str], environment: &[(&str, &str)], file: &str) -> Result<RunConfig, CliError> {
    let line = [&["run"], flags, &["--", "agent"]].concat();
    match parse(words(&line), settings(environment, file))? {
        Command::Run(config) => Ok(*config),
        other => panic!("no run: {other:?}"),
    }
}

/// An option, three values for its three places, and how to see which one won.
struct Case {
    flag: &'static str,
    values: [&'static str; 3],
    shown: [&'static str; 3],
    default: &'static str,
    show: fn(&RunConfig) -> String,
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    let case = |flag, values, shown, default, show| Case { flag, values, shown, default, show };
    vec![
        case("deadline", ["1s", "2m", "off"], ["Some(1s)", "Some(120s)", "None"], "None", |c| format!("{:?}", c.deadline)),
        case("idle-timeout", ["1s", "off", "0"], ["Some(1s)", "None", "None"], "Some(1800s)", |c| format!("{:?}", c.idle_timeout)),
        case("sandbox-ends-at", ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00+01:00", "1970-01-01T00:00:01.5Z"], ["2026-01-31T12:00:00.000000Z", "2026-01-31T11:00:00.000000Z", "1970-01-01T00:00:01.500000Z"], "none", |c| c.sandbox_ends_at.map_or_else(|| "none".into(), |time| time.to_string())),
        case("grace", ["0", "2s", "3s"], ["0ns", "2s", "3s"], "10s", |c| format!("{:?}", c.grace)),
        case("flush-timeout", ["1s", "2s", "3s"], ["1s", "2s", "3s"], "5s", |c| format!("{:?}", c.flush_timeout)),
        case("echo", ["raw", "none", "enriched"], ["Raw", "Off", "Enriched"], "Enriched", |c| format!("{:?}", c.echo)),
        case("capture", ["full", "none", "preview"], ["Full", "None", "Preview"], "Preview", |c| format!("{:?}", c.capture)),
        case("slow", ["90s", "off", "0"], ["Some(90s)", "None", "None"], "None", |c| format!("{:?}", c.slow)),
        case("sample-interval", ["250ms", "off", "3s"], ["Some(250ms)", "None", "Some(3s)"], "Some(1s)", |c| format!("{:?}", c.sample_interval)),
        case("journal", ["/a", "off", "c/d"], ["Directory(\"/a\")", "Off", "Directory(\"c/d\")"], "the homeless", |c| if c.journal == Journal::Directory(homeless_journal()) { "the homeless".into() } else { format!("{:?}", c.journal) }),
        case("survivors", ["leave", "kill", "leave"], ["Some(Leave)", "Some(Kill)", "Some(Leave)"], "None", |c| format!("{:?}", c.survivors)),
        case("probe", ["off", "on", "off"], ["Off", "On", "Off"], "On", |c| format!("{:?}", c.probe)),
        case("attribute", ["k=1", "k=2", "k=3"], ["k=1", "k=2", "k=3"], "", |c| c.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")),
        case("run-id", ["a", "B-2", "c.3_"], ["Some(\"a\")", "Some(\"B-2\")", "Some(\"c.3_\")"], "None", |c| format!("{:?}", c.run_id)),
        case("agent-name", ["a", "b", "c"], ["a", "b", "c"], "claude", |c| c.agent_name.clone()),
        case("session-id", ["a", "b", "c"], ["Some(\"a\")", "Some(\"b\")", "Some(\"c\")"], "None", |c| format!("{:?}", c.session_id)),
        case("user-id", ["a", "b", "c"], ["Some(\"a\")", "Some(\"b\")", "Some(\"c\")"], "None", |c| format!("{:?}", c.user_id)),
    ]
}

#[test]
fn a_flag_beats_the_environment_the_file_and_the_default_in_this_order() {
    for case in cases() {
        let flag = format!("--{}", case.flag);
        let variable = variable(case.flag);
        let [in_flag, in_environment, in_file] = case.values;
        let file = format!("{variable}={in_file}\n");
        type Layers<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str, &'a str);
        let table: [Layers<'_>; 5] = [
            (
                &[&flag, in_flag],
                &[(&variable, in_environment)],
                &file,
                case.shown[0],
            ),
            (&[], &[(&variable, in_environment)], &file, case.shown[1]),
            (&[], &[(&variable, "")], &file, case.shown[2]),
            (&[], &[], &file, case.shown[2]),
            (&[], &[(&variable, "")], "", case.default),
        ];
        for (flags, environment, file, shown) in table {
            let config = run(flags, environment, file).unwrap();
            assert_eq!(
                (case.show)(&config),
                shown,
                "{flag} {environment:?} {file:?}"
            );
        }
    }
}

fn variable(flag: &str) -> String {
    format!("SANDTRACE_{}", flag.replace('-', "_").to_uppercase())
}

#[test]
fn a_flag_value_may_follow_an_equals_sign() {
    assert_eq!(
        run(&["--run-id=x"], &[], "").unwrap().run_id.as_deref(),
        Some("x")
    );
}

#[test]
fn verbose_is_a_switch_that_the_environment_can_turn_off() {
    let verbose = |flags: &[&str], environment: &[(&str, &str)], file| {
        run(flags, environment, file).unwrap().verbose
    };
    assert!(!verbose(&[], &[], ""));
    assert!(verbose(&["--verbose"], &[], "SANDTRACE_VERBOSE=0"));
    assert!(verbose(&[], &[], "SANDTRACE_VERBOSE=1"));
    assert!(!verbose(
        &[],
        &[("SANDTRACE_VERBOSE", "False")],
        "SANDTRACE_VERBOSE=1"
    ));
}

#[test]
fn lists_add_up_over_the_places_and_the_stronger_place_wins_by_key() {
    let config = run(
        &[
            "--attribute",
            "tenant=acme,inc",
            "--attribute",
            "b=",
            "--pass-env",
            "THREE",
        ],
        &[
            ("SANDTRACE_ATTRIBUTE", " a = 2 , b=2,, c=x=y"),
            ("SANDTRACE_PASS_ENV", "ONE,TWO"),
        ],
        "SANDTRACE_ATTRIBUTE=a=1,z=1\nSANDTRACE_PASS_ENV=ONE",
    )
    .unwrap();
    let attributes: Vec<String> = config
        .attributes
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(attributes, ["a=2", "z=1", "b=", "c=x=y", "tenant=acme,inc"]);
    assert_eq!(config.pass_env, ["ONE", "TWO", "THREE"]);
}

#[test]
fn patterns_add_up_and_a_variable_has_one_a_line() {
    let config = run(
        &["--redact", "a{1,2}", "--redact", "b"],
        &[("SANDTRACE_REDACT", "c,d\n\n e \n")],
        "SANDTRACE_REDACT=f",
    )
    .unwrap();
    let expected = ["f", "c,d", "e", "a{1,2}", "b"].map(|text| Pattern::new(text).unwrap());
    assert_eq!(config.redact, expected);
}

#[test]
fn the_command_is_taken_as_it_stands() {
    let line = [
        "run", "--grace", "1s", "--", "python3", "-u", "--grace", "--", "a b",
    ];
    let Ok(Command::Run(config)) = parse(words(&line), settings(&[], "")) else {
        panic!("no run");
    };
    assert_eq!(config.command, ["python3", "-u", "--grace", "--", "a b"]);
}

#[test]
fn the_journal_follows_the_xdg_specification() {
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, bool);
    let homeless = homeless_journal();
    let homeless = homeless.to_str().unwrap();
    let table: [Row<'_>; 6] = [
        (
            &[("XDG_STATE_HOME", "/s"), ("HOME", "/h")],
            "/s/sandtrace",
            false,
        ),
        (&[("HOME", "/h")], "/h/.local/state/sandtrace", false),
        (
            &[("XDG_STATE_HOME", "s"), ("HOME", "/h")],
            "/h/.local/state/sandtrace",
            false,
        ),
        (&[("HOME", "h")], homeless, true),
        (&[("HOME", "")], homeless, true),
        (&[("SANDTRACE_JOURNAL", "/j")], "/j", false),
    ];
    for (environment, path, noticed) in table {
        let config = run(&[], environment, "").unwrap();
        assert_eq!(
            config.journal,
            Journal::Directory(path.into()),
            "{environment:?}"
        );
        let notices: &[Notice] = if noticed { &[Notice::NoHome] } else { &[] };
        assert_eq!(config.notices, notices, "{environment:?}");
    }
}

#[test]
fn other_variables_are_found_through_the_settings() {
    let config = run(
        &[],
        &[("OTEL_SERVICE_NAME", "env")],
        "OTEL_SERVICE_NAME=f\nX=y",
    )
    .unwrap();
    assert_eq!(config.settings.get("OTEL_SERVICE_NAME"), Some("env"));
    assert_eq!(config.settings.get("X"), Some("y"));
}

#[test]
fn a_bad_value_is_one_sentence_that_names_its_place_and_the_value() {
    let table = [
        (
            "deadline",
            "5 parsecs",
            r#""5 parsecs" is not a duration, write one such as 500ms, 10s, 1m30s or 2h"#,
        ),
        (
            "deadline",
            "-5s",
            r#""-5s" is negative, write a duration such as 500ms, 10s, 1m30s or 2h"#,
        ),
        (
            "deadline",
            "--grace",
            r#""--grace" is not a duration, write one such as 500ms, 10s, 1m30s or 2h"#,
        ),
        (
            "idle-timeout",
            "never",
            r#""never" is not a duration, write one such as 500ms, 10s, 1m30s or 2h"#,
        ),
        (
            "sandbox-ends-at",
            "2026-01-31T12:00:00",
            r#""2026-01-31T12:00:00" is no moment of RFC 3339, write one such as 2026-01-31T12:00:00Z"#,
        ),
        (
            "sandbox-ends-at",
            "1969-12-31T23:59:59Z",
            r#""1969-12-31T23:59:59Z" is no moment of RFC 3339, write one such as 2026-01-31T12:00:00Z"#,
        ),
        (
            "grace",
            "off",
            r#""off" is not a duration, write one such as 500ms, 10s, 1m30s or 2h"#,
        ),
        (
            "flush-timeout",
            "99999999999h",
            r#""99999999999h" is longer than 100 years, write a shorter duration such as 2h"#,
        ),
        (
            "sample-interval",
            "1x",
            r#""1x" is not a duration, write one such as 500ms, 10s, 1m30s or 2h"#,
        ),
        (
            "echo",
            "Loud",
            r#""Loud" is none of the choices, write enriched, raw or none"#,
        ),
        (
            "capture",
            "all",
            r#""all" is none of the choices, write none, preview or full"#,
        ),
        (
            "survivors",
            "maim",
            r#""maim" is none of the choices, write leave or kill"#,
        ),
        (
            "probe",
            "yes",
            r#""yes" is none of the choices, write on or off"#,
        ),
        (
            "run-id",
            "..",
            r#"".." is no run id, use 1 to 64 of A-Z a-z 0-9 . _ - but neither . nor .."#,
        ),
        (
            "run-id",
            "a/b",
            r#""a/b" is no run id, use 1 to 64 of A-Z a-z 0-9 . _ - but neither . nor .."#,
        ),
        (
            "agent-name",
            " ",
            r#"" " is empty, give a value or leave it out"#,
        ),
        (
            "session-id",
            "a\x1b[2J",
            r#""a\u{1b}[2J" has a control character, write plain text"#,
        ),
        (
            "user-id",
            "a\nb",
            r#""a\nb" has a control character, write plain text"#,
        ),
        (
            "attribute",
            "novalue",
            r#""novalue" is no attribute, write KEY=VALUE with a key"#,
        ),
        (
            "attribute",
            "=v",
            r#""=v" is no attribute, write KEY=VALUE with a key"#,
        ),
        (
            "pass-env",
            "A=B",
            r#""A=B" is no variable's name, write the name alone with A-Z a-z 0-9 _"#,
        ),
        (
            "redact",
            "a(b",
            r#""a(b" is no regular expression from character 2 on (found open group without closing ')'), mend it there"#,
        ),
        (
            "redact",
            "x*",
            r#""x*" matches the empty text and so every place of every text, make it match something"#,
        ),
    ];
    for (flag, value, sentence) in table {
        let dashed = format!("--{flag}");
        let error = run(&[&dashed, value], &[], "").unwrap_err();
        assert_eq!(error.to_string(), format!("{dashed}: {sentence}"));
        assert_eq!(error.exit_code(), 125);

        let error = run(&[], &[(&variable(flag), value)], "").unwrap_err();
        assert_eq!(error.to_string(), format!("{}: {sentence}", variable(flag)));

        if !value.contains('\n') {
            let file = format!("# first\n{}='{value}'", variable(flag));
            let error = run(&[], &[], &file).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{} ({FILE}:2): {sentence}", variable(flag))
            );
        }
    }
}

#[test]
fn an_empty_flag_is_an_error_though_an_empty_variable_is_none() {
    for flag in [
        "--journal",
        "--run-id",
        "--agent-name",
        "--deadline",
        "--echo",
    ] {
        let sentence = run(&[flag, ""], &[], "").unwrap_err().to_string();
        assert!(
            sentence.starts_with(&format!("{flag}: \"\" is ")),
            "{sentence}"
        );
    }
}

#[test]
fn a_long_value_is_cut_in_the_sentence() {
    let error = run(&["--run-id", &"x".repeat(5000)], &[], "").unwrap_err();
    assert!(error.to_string().len() < 200, "{error}");
}

#[test]
fn values_that_are_no_text_are_named_too() {
    use std::os::unix::ffi::OsStringExt;
    let mut line = words(&["run", "--run-id"]);
    line.extend([
        OsString::from_vec(b"a\xff".to_vec()),
        "--".into(),
        "agent".into(),
    ]);
    let error = parse(line, settings(&[], "")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--run-id: \"a\u{fffd}\" is not UTF-8 text, write it in UTF-8"
    );
}

#[test]
fn a_wrong_command_line_is_one_sentence_and_125() {
    let table: [(&[&str], &str); 22] = [
        (&[], "no subcommand was given, see `sandtrace --help`"),
        (
            &["walk"],
            r#""walk" is no subcommand, see `sandtrace --help`"#,
        ),
        (
            &["--deadline", "5s"],
            r#""--deadline" is no option here, see `sandtrace run --help`, and put the command after --"#,
        ),
        (
            &["run"],
            "there is no command to run, put one after --: sandtrace run [OPTIONS] -- COMMAND",
        ),
        (
            &["run", "--"],
            "there is no command to run, put one after --: sandtrace run [OPTIONS] -- COMMAND",
        ),
        (
            &["run", "--", ""],
            "there is no command to run, put one after --: sandtrace run [OPTIONS] -- COMMAND",
        ),
        (
            &["run", "agent"],
            r#""agent" stands before --, put the command after it: sandtrace run [OPTIONS] -- COMMAND"#,
        ),
        (
            &["run", "--dedline", "5s", "--", "a"],
            r#""--dedline" is no option here, did you mean --deadline?"#,
        ),
        (
            &["run", "-x", "--", "a"],
            r#""-x" is no option here, see `sandtrace run --help`, and put the command after --"#,
        ),
        (
            &["run", "--grace"],
            "--grace was given without a value, write --grace VALUE",
        ),
        (
            &["run", "--run-id", "--", "a"],
            "--run-id was given without a value, write --run-id VALUE",
        ),
        (
            &["run", "--verbose=yes", "--", "a"],
            "--verbose was given a value but takes none, write --verbose alone",
        ),
        (
            &["run", "--echo", "raw", "--echo", "none", "--", "a"],
            "--echo was given more than once, keep one",
        ),
        (
            &["report"],
            "report: no run was given, name one by its id or its directory: sandtrace report RUN",
        ),
        (
            &["report", ""],
            "report: no run was given, name one by its id or its directory: sandtrace report RUN",
        ),
        (
            &["stop"],
            "stop: no run was given, name one by its id or its directory: sandtrace stop RUN",
        ),
        (
            &["stop", ""],
            "stop: no run was given, name one by its id or its directory: sandtrace stop RUN",
        ),
        (
            &["attach"],
            "attach: no run was given, name one by its id or its directory: sandtrace attach RUN",
        ),
        (
            &["attach", "r1", "--after", "all"],
            "--after: \"all\" is no line's number, write the seq of the last line that you have, or 0 for all",
        ),
        (
            &["attach", "r1", "--after", "-1"],
            "--after: \"-1\" is no line's number, write the seq of the last line that you have, or 0 for all",
        ),
        (
            &["attach", "r1", "--after"],
            "--after was given without a value, write --after VALUE",
        ),
        (
            &["report", "a", "b"],
            r#""b" is one argument too many, see `sandtrace --help`"#,
        ),
    ];
    for (line, sentence) in table {
        let error = parse(words(line), settings(&[], "")).unwrap_err();
        assert_eq!(error.to_string(), sentence, "{line:?}");
        assert_eq!(error.exit_code(), 125);
    }
}

#[test]
fn a_broken_settings_file_stops_a_run_but_not_the_help() {
    let broken = || settings(&[], "oops");
    let error = parse(words(&["run", "--", "agent"]), broken()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/etc/sandtrace/env:1: the line is no KEY=VALUE, write one or put a # before it"
    );
    assert_eq!(error.exit_code(), 125);
    assert!(matches!(
        parse(words(&["run", "--help"]), broken()),
        Err(CliError::Help(_))
    ));
}

#[test]
fn a_report_takes_a_run_and_the_journal_of_the_settings() {
    let Ok(Command::Report(config)) = parse(
        words(&["report", "r1"]),
        settings(&[("SANDTRACE_JOURNAL", "/j")], ""),
    ) else {
        panic!("no report");
    };
    assert_eq!(config.run, "r1");
    assert_eq!(config.journal, Journal::Directory("/j".into()));
}

#[test]
fn a_stop_takes_a_run_and_the_journal_of_the_settings() {
    for (line, journal) in [
        (&["stop", "r1"][..], Journal::Directory("/j".into())),
        (
            &["stop", "r1", "--journal", "/k"],
            Journal::Directory("/k".into()),
        ),
        (&["stop", "./r1", "--journal", "off"], Journal::Off),
    ] {
        let Ok(Command::Stop(config)) =
            parse(words(line), settings(&[("SANDTRACE_JOURNAL", "/j")], ""))
        else {
            panic!("no stop");
        };
        assert_eq!(config.run, line[1]);
        assert_eq!(config.journal, journal);
    }
}

#[test]
fn an_attach_takes_a_run_and_the_number_of_its_last_line() {
    for (line, after) in [
        (&["attach", "r1"][..], 0),
        (&["attach", "r1", "--after", "0"], 0),
        (&["attach", "--after=18446744073709551615", "r1"], u64::MAX),
    ] {
        let journal = [("SANDTRACE_JOURNAL", "/j")];
        let Ok(Command::Attach(config)) = parse(words(line), settings(&journal, "")) else {
            panic!("no attach");
        };
        assert_eq!(config.run, "r1");
        assert_eq!(config.after, after);
        assert_eq!(config.journal, Journal::Directory("/j".into()));
    }
}

fn help(line: &[&str]) -> String {
    let error = parse(words(line), settings(&[], "")).unwrap_err();
    assert_eq!(error.exit_code(), 0);
    let CliError::Help(text) = error else {
        panic!("no help: {error}");
    };
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "wider than 80 columns: {line}");
        assert_eq!(line, line.trim_end(), "trailing space");
    }
    text
}

#[test]
fn help_of_sandtrace() {
    insta::assert_snapshot!(help(&["--help"]));
}

#[test]
fn help_of_run() {
    let text = help(&["run", "--help"]);
    for case in cases() {
        assert!(text.contains(&format!("--{} ", case.flag)), "{}", case.flag);
    }
    insta::assert_snapshot!(text);
}

#[test]
fn help_of_report() {
    insta::assert_snapshot!(help(&["report", "-h"]));
}

#[test]
fn help_of_attach() {
    insta::assert_snapshot!(help(&["attach", "--help"]));
}

#[test]
fn help_of_stop() {
    insta::assert_snapshot!(help(&["stop", "--help"]));
}

#[test]
fn help_of_doctor() {
    insta::assert_snapshot!(help(&["doctor", "--help"]));
}

#[test]
fn the_version_is_one_line() {
    let error = parse(words(&["--version"]), settings(&[], "")).unwrap_err();
    assert_eq!(error.exit_code(), 0);
    assert!(matches!(error, CliError::Version(_)));
    assert!(error.to_string().starts_with("sandtrace "), "{error}");
}
