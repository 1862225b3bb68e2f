//! A run and its agent: exit codes, what is refused, what the agent finds in its environment, the sums at the end.

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::supervised::{Running, Supervised, agent, poll, python, sh, skipped};

#[test]
fn exit_codes_are_mirrored() {
    for code in [0, 1, 3, 255] {
        let run = sh(&format!("exit {code}")).run();
        assert_eq!(run.code(), code);
        let transcript = run.transcript();
        let exit = &transcript.finished()["exit"];
        assert_eq!(exit["code"], code);
        assert_eq!(exit["signal"], Value::Null);
        let verdict = if code == 0 {
            "success"
        } else {
            "crash.exit_code"
        };
        assert_eq!(transcript.verdict(), verdict);
        run.assert_sound();
    }
}

#[test]
fn an_agent_that_dies_of_a_signal_gives_128_and_its_number() {
    for (number, name) in [(15, "SIGTERM"), (9, "SIGKILL"), (11, "SIGSEGV")] {
        let run = sh(&format!("ulimit -c 0; kill -{number} $$")).run();
        assert_eq!(run.code(), 128 + number);
        let transcript = run.transcript();
        let exit = &transcript.finished()["exit"];
        assert_eq!(exit["code"], Value::Null);
        assert_eq!(exit["signal"], name);
        assert_eq!(transcript.verdict(), "crash.signal");
        run.assert_sound();
    }
}

#[test]
fn a_command_that_cannot_run_gives_127_or_126_and_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    let cases = [
        ("no-such-command-anywhere", 127, "spawn.not_found"),
        (plain.to_str().unwrap(), 126, "spawn.not_executable"),
    ];
    for (command, code, verdict) in cases {
        let run = agent([command, "a secret prompt"]).run();
        assert_eq!(run.code(), code);
        let transcript = run.transcript();
        assert_eq!(transcript.started()["pid"], Value::Null);
        assert_eq!(transcript.verdict(), verdict);
        assert_one_sentence(&run.errors());
        let name = command.rsplit('/').next().unwrap();
        assert!(run.errors().contains(name), "{}", run.errors());
        let said = [run.stdout.as_slice(), &run.stderr].concat();
        assert!(!String::from_utf8(said).unwrap().contains("a secret prompt"));
        run.assert_sound();
    }
}

fn assert_one_sentence(errors: &str) {
    assert!(errors.starts_with("sandtrace: "), "{errors:?}");
    assert_eq!(errors.matches('\n').count(), 1, "{errors:?}");
    assert!(errors.ends_with('\n'), "{errors:?}");
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_starts() {
    let touch = || sh(": > spawned");
    let cases = [
        touch().flag("--no-such-flag"),
        touch().option("--deadline", "soon"),
        touch().option("--grace", "-1s"),
        touch().option("--echo", "loudly"),
        touch().option("--run-id", "a/b"),
        touch().option("--attribute", "no-value"),
        touch().env("SANDTRACE_IDLE_TIMEOUT", "10 parsecs"),
        touch().env("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        touch().env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"),
        agent::<&str>([]),
    ];
    for (number, case) in cases.into_iter().enumerate() {
        let run = case.run();
        assert_eq!(run.code(), 125, "case {number}");
        assert_eq!(run.stdout, b"", "case {number}");
        assert_one_sentence(&run.errors());
        let names: Vec<_> = fs::read_dir(run.directory())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(
            names,
            Vec::<&str>::new(),
            "case {number}: no agent, no journal"
        );
        run.assert_nothing_left();
    }
}

#[test]
fn the_agent_finds_its_trace_parent_and_no_exporter_s_secrets() {
    let secrets = [
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "LANGFUSE_SECRET_KEY",
        "LANGFUSE_PUBLIC_KEY",
        "HONEYCOMB_API_KEY",
        "DD_API_KEY",
    ];
    let print = "import json, os; print(json.dumps({'environment': dict(os.environ)}))";
    let mut case = python(print)
        .env(
            "TRACEPARENT",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .env("TRACESTATE", "vendor=1")
        .env("BAGGAGE", "user.id=alice")
        .env("ANTHROPIC_API_KEY", "the agent's own")
        .env("ODD", "a=b\nc")
        .option("--pass-env", "DD_API_KEY");
    for secret in secrets {
        case = case.env(secret, "x-team=hunter2");
    }
    let run = case.run();
    assert_eq!(run.code(), 0);
    let transcript = run.transcript();
    let started = transcript.started();
    assert_eq!(started["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(started["parent_span_id"], "b7ad6b7169203331");
    let line = transcript
        .lines
        .iter()
        .find(|line| !line.is_ours())
        .unwrap();
    let environment = &line.json["environment"];
    let span = started["root_span_id"].as_str().unwrap();
    assert_eq!(
        environment["TRACEPARENT"],
        format!("00-0af7651916cd43dd8448eb211c80319c-{span}-01")
    );
    assert_eq!(environment["TRACESTATE"], "vendor=1");
    assert_eq!(environment["BAGGAGE"], "user.id=alice");
    assert_eq!(environment["PYTHONUNBUFFERED"], "1");
    assert_eq!(environment["ANTHROPIC_API_KEY"], "the agent's own");
    assert_eq!(environment["ODD"], "a=b\nc");
    assert_eq!(environment["DD_API_KEY"], "x-team=hunter2", "--pass-env");
    for secret in &secrets[..5] {
        assert_eq!(environment[secret], Value::Null, "{secret}");
    }
    let user = &transcript.all("sandtrace.span.ended")[0]["attributes"]["user.id"];
    assert_eq!(user, "alice");
    run.assert_sound();
}

#[test]
fn without_a_parent_the_agent_finds_the_run_s_own_trace() {
    let run = sh(r#"printf '{"parent":"%s"}\n' "$TRACEPARENT""#)
        .option("--run-id", "nightly-7")
        .run();
    let transcript = run.transcript();
    let (trace, root) = (
        transcript.started()["trace_id"].as_str().unwrap(),
        transcript.started()["root_span_id"].as_str().unwrap(),
    );
    // printf nightly-7 | sha256sum; printf 'nightly-7\0run\0' | sha256sum
    assert_eq!(trace, "3a2d5ab7d95cddbf95688789cae8bfef");
    assert_eq!(root, "7d32568dc497e728");
    assert_eq!(transcript.started()["parent_span_id"], Value::Null);
    let expected = format!(r#"{{"parent":"00-{trace}-{root}-01"}}"#);
    assert_eq!(transcript.agent_lines(), [expected.as_bytes()]);
    run.assert_sound();
}

#[test]
fn a_malformed_trace_parent_is_a_warning_and_no_more() {
    for parent in [
        "nonsense",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
    ] {
        let run = sh(r#"printf '{"parent":"%s"}\n' "$TRACEPARENT"; exit 4"#)
            .env("TRACEPARENT", parent)
            .run();
        assert_eq!(run.code(), 4);
        let transcript = run.transcript();
        assert_eq!(transcript.warnings(), ["traceparent_invalid"]);
        assert_eq!(transcript.started()["parent_span_id"], Value::Null);
        let trace = transcript.started()["trace_id"].as_str().unwrap();
        let line = String::from_utf8(transcript.agent_lines().remove(0)).unwrap();
        assert!(
            line.starts_with(&format!(r#"{{"parent":"00-{trace}-"#)),
            "{line}"
        );
        run.assert_sound();
    }
}

#[test]
fn a_caller_s_context_that_nobody_asked_for_is_left_as_it_is() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    for (propagators, joins, user) in [
        ("none", false, Value::Null),
        ("baggage", false, "alice".into()),
        ("tracecontext", true, Value::Null),
    ] {
        let run = sh(r#"printf '{"parent":"%s","baggage":"%s"}\n' "$TRACEPARENT" "$BAGGAGE""#)
            .env("OTEL_PROPAGATORS", propagators)
            .env("TRACEPARENT", PARENT)
            .env("BAGGAGE", "user.id=alice")
            .run();
        assert_eq!(run.code(), 0);
        let transcript = run.transcript();
        assert_eq!(transcript.warnings(), [] as [&str; 0]);
        let started = transcript.started();
        assert_eq!(started["parent_span_id"] == "b7ad6b7169203331", joins);
        let line: Value = serde_json::from_slice(&transcript.agent_lines()[0]).unwrap();
        // Without us the agent would have found the same.
        assert_eq!(line["parent"] == PARENT, !joins, "{propagators}: {line}");
        assert_eq!(line["baggage"], "user.id=alice");
        let ended = &transcript.all("sandtrace.span.ended")[0]["attributes"];
        assert_eq!(ended["user.id"], user, "{propagators}");
        run.assert_sound();
    }
}

#[test]
fn the_agent_reads_the_supervisor_s_stdin() {
    let message = "{\"type\":\"user_message\",\"text\":\"hi\"}\nno newline at the end";
    let run = sh("cat").stdin(message).run();
    assert_eq!(run.transcript().stream("stdout"), message.as_bytes());
    run.assert_sound();
}

#[test]
fn the_end_tells_phases_resources_and_counts() {
    let run = sh(
        r#"echo '{"type":"system","subtype":"init","session_id":"s"}'; sleep 1.2; echo '{"x":1}'"#,
    )
    .option("--sample-interval", "200ms")
    .run();
    let transcript = run.transcript();
    let finished = transcript.finished();
    let phase = |name: &str| finished["phases"][name].as_f64().unwrap();
    assert!(phase("spawn_ms") > 0.0);
    assert!(phase("spawn_ms") <= phase("first_line_ms"));
    assert!(phase("first_line_ms") <= phase("exit_ms"));
    assert!(phase("exit_ms") >= 1200.0);
    assert!(finished["duration_ms"].as_f64().unwrap() >= 1200.0);
    assert_eq!(finished["counts"]["events"], 1);
    assert_eq!(finished["counts"]["unrecognised"], 1);
    assert_eq!(finished["counts"]["turns"], 1);
    assert!(finished["resources"]["samples"].as_u64().unwrap() >= 3);
    let samples = transcript.all("sandtrace.resources");
    assert!(!samples.is_empty());
    for sample in samples {
        let memory = sample["sandbox"]["memory_used_bytes"].as_u64().unwrap();
        assert!(memory > 0);
        assert!(memory <= sample["sandbox"]["memory_total_bytes"].as_u64().unwrap());
    }
    run.assert_sound();
}

#[test]
fn twenty_silent_seconds_are_broken_by_a_heartbeat() {
    let run = sh("sleep 21.5; exit 9")
        .option("--sample-interval", "off")
        .run();
    assert_eq!(run.code(), 9);
    let transcript = run.transcript();
    let heartbeats = transcript.all("sandtrace.heartbeat");
    assert_eq!(heartbeats.len(), 1);
    let uptime = heartbeats[0]["uptime_ms"].as_u64().unwrap();
    assert!((20_000..21_500).contains(&uptime), "{uptime}");
    assert_eq!(heartbeats[0]["state"], "starting");
    run.assert_sound();
}

#[test]
fn a_person_reads_a_summary_only_when_asked() {
    let quiet = sh("exit 3").run();
    assert_eq!(quiet.errors(), "");
    let verbose = sh("exit 3")
        .flag("--verbose")
        .option("--run-id", "said")
        .run();
    assert_eq!(verbose.code(), 3);
    assert!(verbose.errors().contains("said"), "{}", verbose.errors());
    verbose.assert_sound();
}

#[test]
fn the_agent_dies_with_its_supervisor() {
    let run = sh(r#"echo $$ > pid; echo '{"ready":1}'; exec sleep 300"#).start();
    run.ready();
    let agent: i32 = run.file("pid").parse().unwrap();
    // While it executes another program it has no environment to be known by.
    poll("the agent", || {
        run.processes().contains(&agent).then_some(())
    });
    run.send(nix::sys::signal::Signal::SIGKILL);
    poll("the death of the agent", || {
        (!run.processes().contains(&agent)).then_some(())
    });
}

#[test]
fn orphans_are_reaped_while_the_run_goes_on() {
    let program = "
import os, time
for n in range(200):
    if os.fork() == 0:
        if os.fork() != 0:
            os._exit(0)
        os._exit(n % 3)
    os.wait()
def zombies():
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/stat') as file:
                state, parent = file.read().rsplit(')', 1)[1].split()[:2]
        except OSError:
            continue
        if state == 'Z' and int(parent) == os.getppid():
            return True
    return False
until = time.monotonic() + 20
while zombies() and time.monotonic() < until:
    time.sleep(0.01)
print('{\"zombies\":%d}' % zombies())
";
    let run = python(program).run();
    assert_eq!(run.code(), 0);
    assert_eq!(run.transcript().agent_lines(), [b"{\"zombies\":0}"]);
    run.assert_sound();
}

#[test]
fn a_backend_that_is_gone_or_silent_costs_the_flush_and_no_more() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoints =
        [&silent, &gone].map(|backend| format!("http://{}", backend.local_addr().unwrap()));
    drop(gone);
    for endpoint in endpoints {
        let run = sh("echo '{\"a\":1}'; exit 3")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
            .option("--flush-timeout", "500ms")
            .run();
        assert_eq!(run.code(), 3);
        assert_eq!(run.errors(), "");
        let transcript = run.transcript();
        let told = transcript.line("sandtrace.agent.exited").time();
        let flush = transcript.line("sandtrace.run.finished").time() - told;
        let flush = flush.total(jiff::Unit::Millisecond).unwrap();
        assert!(flush < 2500.0, "{flush} ms");
        let destinations = transcript.finished()["telemetry"]["destinations"]
            .as_array()
            .unwrap();
        let otlp = destinations
            .iter()
            .find(|counts| counts["name"] == "otlp")
            .unwrap();
        assert_eq!(otlp["exported"], 0);
        assert_eq!(
            otlp["queued"].as_u64().unwrap() + otlp["dropped"].as_u64().unwrap(),
            1,
            "{otlp}"
        );
        run.assert_sound();
    }
}

#[test]
fn the_agent_has_the_files_it_would_have_alone() {
    // Bash keeps files of its own open in places, hence the numbers.
    let script = r#"exec 7</dev/null 9>"$DIR/given"; exec "$@""#;
    let list =
        "import json, os; os.write(9, json.dumps(sorted(os.listdir('/proc/self/fd'))).encode())";
    let files = |supervised: bool| {
        // Whatever the supervisor may open is in use.
        let case = sh("")
            .env("OTEL_EXPORTERS", "otlp,console")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
        let mut command = std::process::Command::new("bash");
        command.args(["-c", script, "bash"]);
        if supervised {
            command.arg(env!("CARGO_BIN_EXE_sandtrace"));
            command
                .args(["run", "--journal"])
                .arg(case.directory().join("journal"));
            command.args(["--flush-timeout", "100ms", "--"]);
        }
        command.args(["python3", "-c", list]);
        let run = case.start_as(command).wait();
        assert_eq!(run.code(), 0, "{}", run.errors());
        fs::read_to_string(run.directory().join("given")).unwrap()
    };
    let alone = files(false);
    assert!(
        alone.contains("\"7\"") && alone.contains("\"9\""),
        "{alone}"
    );
    assert_eq!(files(true), alone);
}

#[test]
fn a_process_substitution_works_as_it_does_alone() {
    let script = r#"exec "$0" run --journal "$DIR/journal" --echo raw -- cat <(echo hi)"#;
    let mut command = std::process::Command::new("bash");
    command.args(["-c", script, env!("CARGO_BIN_EXE_sandtrace")]);
    let run = sh("").start_as(command).wait();
    assert_eq!(run.code(), 0, "{}", run.errors());
    assert_eq!(run.stdout, b"hi\n");
}

#[test]
fn telemetry_meant_for_another_exporter_is_a_warning_and_no_more() {
    for (name, value, code) in [
        ("OTEL_TRACES_EXPORTER", "zipkin", "destination_unsupported"),
        (
            "OTEL_METRICS_EXPORTER",
            "langfuse",
            "destination_unsupported",
        ),
        ("OTEL_LOGS_EXPORTER", "mine", "destination_unsupported"),
        ("OTEL_PROPAGATORS", "b3,jaeger", "propagator_unsupported"),
        (
            "OTEL_TRACES_SAMPLER",
            "jaeger_remote",
            "sampler_unsupported",
        ),
    ] {
        let run = sh("exit 4").env(name, value).run();
        assert_eq!(run.code(), 4);
        let transcript = run.transcript();
        assert_eq!(transcript.warnings(), [code]);
        let message = transcript.line("sandtrace.warning").json["data"]["message"].clone();
        assert!(message.as_str().unwrap().contains(name), "{message}");
        run.assert_sound();
    }
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "thrift"),
        ("OTEL_EXPORTERS", "otlp,zipkin"),
        ("OTEL_EXPORTERS", "otlp,langfuse"),
        ("OTEL_SAMPLING_RATE", "10%"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "few"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1m"),
    ] {
        let run = sh("exit 4")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317")
            .env(name, value)
            .run();
        assert_eq!(run.code(), 125);
        assert_one_sentence(&run.errors());
    }
}

#[test]
fn a_slow_host_gets_all_that_the_agent_wrote_last() {
    // More than our ring and the usual pipe hold, so the agent is gone while much of it still sits in the pipe.
    let last_words = "
import fcntl, os
fcntl.fcntl(1, 1031, 1 << 20)
left = 9_300_000
while left:
    left -= os.write(1, bytes(min(left, 1 << 16)))
";
    let many_lines = "
for number in range(8100):
    print('{\"a\":\"%s\"}' % ('x' * 1014))
";
    let raw = |case: Supervised| case.option("--echo", "raw").unread();
    let mut runs = [
        raw(python(last_words)).start(),
        raw(sh("head -c 8600000 /dev/zero")).start(),
        python(many_lines).without_journal().unread().start(),
    ];
    thread::sleep(Duration::from_secs(4));
    // All at once: a host that comes back more than five seconds late is not waited for.
    runs.iter_mut().for_each(Running::read);
    let [words, zeros, lines] = runs.map(Running::wait);
    assert_eq!(words.stdout.len(), 9_300_000);
    assert_eq!(zeros.stdout.len(), 8_600_000);
    assert_eq!(lines.transcript().agent_lines().len(), 8100);
    lines.transcript().assert_whole();
}

#[test]
fn a_slow_reader_of_stderr_without_another_copy_loses_nothing() {
    for mode in ["raw", "none"] {
        let run = sh("head -c 2000000 /dev/zero >&2")
            .option("--echo", mode)
            .without_journal()
            .unread_stderr()
            .start();
        thread::sleep(Duration::from_millis(1500));
        let run = run.wait();
        assert_eq!(run.code(), 0);
        assert_eq!(run.stderr.len(), 2_000_000, "{mode}");
        // As fast as a pipe, not a piece a second.
        assert!(run.took < Duration::from_secs(8), "{:?}", run.took);
    }
}

#[test]
fn without_a_thread_the_run_ends_orderly() {
    // A limit on processes counts those of a user, so it takes one who has no others and is not root.
    let limited = |echo: &str| {
        let case = sh("true").in_directory("/");
        let script = r#"ulimit -u 1; exec "$0" run --journal off --echo "$1" --verbose -- true"#;
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=60123", "--clear-groups", "bash", "-c", script]);
        command.args([env!("CARGO_BIN_EXE_sandtrace"), echo]);
        case.start_as(command).wait()
    };
    let run = limited("none");
    if !run.errors().contains("sandtrace:") {
        skipped(format_args!("no other user to be: {}", run.errors()));
        return;
    }
    // No export, and then no agent either: that there is no process to be had is the run's own misfortune.
    assert_eq!(run.code(), 125);
    assert!(
        run.errors().contains("cannot start a process"),
        "{}",
        run.errors()
    );
    assert!(!run.errors().contains("panicked"), "{}", run.errors());
    let run = limited("enriched");
    assert_eq!(run.code(), 125);
    assert_eq!(run.stdout, b"");
    assert_one_sentence(&run.errors());
}
