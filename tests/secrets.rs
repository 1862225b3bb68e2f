//! Secrets of ten kinds in everything that an agent says, reads and is given; none of it may leave in what we make.
//! The agent's own bytes stay as they are: on stdout, on stderr, and in `events.ndjson`.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::supervised::{Finished, Supervised, sh};
use crate::support::receiver::{Answer, Received, Receiver};

/// What nobody may read. Made up of pieces, so that no scanner takes this file for a leak.
struct Secret {
    kind: &'static str,
    /// A text with the secret, as an agent would come across it.
    told: String,
    /// What must not be there any more.
    secret: String,
    /// The variable that gives it away, if it is not its form.
    variable: Option<(&'static str, String)>,
}

fn secrets() -> Vec<Secret> {
    let by_form = |kind, parts: &[&str]| {
        let secret = parts.concat();
        Secret {
            kind,
            told: secret.clone(),
            secret,
            variable: None,
        }
    };
    let by_name = |kind, name, value: &str, told: &str, secret: &str| Secret {
        kind,
        told: told.to_owned(),
        secret: secret.to_owned(),
        variable: Some((name, value.to_owned())),
    };
    let twisted = "tw1sted \"quote\\ö";
    vec![
        by_form("an Anthropic key", &["sk-", "ant-api03-", "Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4"]),
        by_form("a GitHub token", &["gh", "p_", "1234567890abcdefghijABCDEFGHIJ123456"]),
        by_form("an AWS key", &["AK", "IA", "QX3PLTZ5WM27RJVK"]),
        by_form("a Slack token", &["xo", "xb-123456789012-", "abcdefGHIJKL1234567890mn"]),
        by_form("a Stripe key", &["sk", "_live_", "4eC39HqLyjWDarjtT1zdp7dc"]),
        by_form("a web token", &["ey", "JhbGciOiJIUzI1NiJ9.ey", "JzdWIiOiIxMjM0In0.", "dozjgNryP4J3jVmNHl0w5N"]),
        Secret {
            kind: "a private key",
            told: ["-----BEGIN RSA PRI", "VATE KEY-----\nMIIEpAIBAAKCAQEA0Z3VS5JJcds3xfnygWyF8Pbn\nGy0AHB7MhgHcTz6sE2I2yPBaaaabbbbccccddd\n-----END RSA PRI", "VATE KEY-----"].concat(),
            secret: "MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfnygWyF8Pbn".to_owned(),
            variable: None,
        },
        by_name("a variable's value", "SERVICE_PASSWORD", "plain-words-only", "it is plain-words-only here", "plain-words-only"),
        by_name("a variable's value, in base64", "BACKUP_TOKEN", "grey-horse-battery", &STANDARD.encode("x grey-horse-battery y"), "cmV5LWhvcnNlLWJhdHRlc"),
        by_name("a variable's value with quotes", "TWISTED_SECRET", twisted, twisted, twisted),
        by_name("a URL's password", "DATABASE_URL", "postgres://me:blue-green-red@db/x", "password blue-green-red then", "blue-green-red"),
        by_name("an exporter's header", "OTEL_EXPORTER_OTLP_HEADERS", "x-acme-team=seldom-seen-team", "header seldom-seen-team sent", "seldom-seen-team"),
        Secret {
            kind: "what the user named",
            told: "account ACME-4711-OMEGA".to_owned(),
            secret: "ACME-4711-OMEGA".to_owned(),
            variable: None,
        },
    ]
}

/// Everything a place of the conversation says: all the secrets, and what is none.
fn speech(place: &str, secrets: &[Secret]) -> String {
    let told = secrets.iter().map(|secret| secret.told.as_str());
    let mut lines = vec![format!("This is the {place}, which is harmless.")];
    lines.extend(told.map(str::to_owned));
    lines.join("\n")
}

/// The conversation, with secrets wherever somebody says something.
fn conversation(secrets: &[Secret]) -> Vec<String> {
    let said = |place: &str| speech(place, secrets);
    let lines = [
        json!({"type": "start", "data": {"prompt": said("prompt")}}),
        json!({"type": "system", "subtype": "init", "session_id": "s1", "model": "claude-opus-5-5"}),
        json!({"type": "user", "message": {"role": "user", "content": said("prompt")}, "session_id": "s1"}),
        json!({"type": "assistant", "message": {"id": "m1", "model": "claude-opus-5-5", "content": [
            {"type": "thinking", "thinking": said("thought"), "signature": "x"},
            {"type": "text", "text": said("answer")},
            {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": said("command"), "description": said("description")}},
        ], "usage": {"input_tokens": 12, "output_tokens": 1}}}),
        json!({"type": "user", "message": {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": said("output"), "is_error": true},
        ]}, "tool_use_result": {"stdout": said("stdout"), "stderr": ""}}),
        json!({"type": "assistant", "message": {"id": "m2", "model": "claude-opus-5-5", "content": [
            {"type": "text", "text": said("end")},
        ], "usage": {"input_tokens": 12, "output_tokens": 1}}}),
        json!({"type": "result", "subtype": "error_during_execution", "is_error": true, "session_id": "s1",
            "result": format!("API Error: 401 {}", said("result").replace(char::from(10), " ")), "errors": [said("error")],
            "total_cost_usd": 0.01, "usage": {"input_tokens": 24, "output_tokens": 2}}),
    ];
    lines.iter().map(Value::to_string).collect()
}

/// They stand in what the user says of the sandbox, too.
fn resource(secrets: &[Secret]) -> String {
    let members = secrets.iter().enumerate().map(|(number, secret)| {
        let bytes = secret.told.bytes();
        let value: String = bytes.map(|byte| format!("%{byte:02X}")).collect();
        format!("team.note.{number}={value}")
    });
    members.collect::<Vec<_>>().join(",")
}

/// An agent that says all of it, writes it to stderr, and fails in its words.
fn talkative(secrets: &[Secret]) -> Supervised {
    let stdout = conversation(secrets).join("\n") + "\n";
    let last = secrets.iter().map(|secret| secret.told.replace('\n', " "));
    let stderr = format!(
        "{}\nTraceback (most recent call last):\n  File \"a.py\", line 1, in <module>\nValueError: {}\n",
        speech("stderr", secrets),
        last.collect::<Vec<_>>().join(" ")
    );
    let agent = sh("cat \"$DIR/said\"; cat \"$DIR/complaint\" >&2; exit 1")
        .file("said", stdout)
        .file("complaint", stderr)
        .flag("--verbose")
        .option("--redact", r"ACME-\d+-[A-Z]+")
        .env("OTEL_RESOURCE_ATTRIBUTES", resource(secrets))
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "none");
    let variables = secrets.iter().filter_map(|secret| secret.variable.as_ref());
    variables.fold(agent, |agent, (name, value)| agent.env(name, value))
}

/// Every file of a run but the transcript.
fn files(directory: &Path, all: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, all);
        } else if path.file_name().unwrap() != "events.ndjson" {
            all.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

fn body(request: &Received) -> Vec<u8> {
    let mut body = Vec::new();
    match request.header("content-encoding") {
        Some("gzip") => {
            GzDecoder::new(request.body.as_slice())
                .read_to_end(&mut body)
                .unwrap();
            body
        }
        _ => request.body.clone(),
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

/// All that we made of a run, by its place.
fn made(run: &Finished, requests: &[Received]) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    files(&run.journal(), &mut all);
    for line in &run.transcript().lines {
        if line.is_ours() && line.kind() != "sandtrace.output" {
            all.push((line.kind().to_owned(), line.json.to_string().into_bytes()));
        }
    }
    for request in requests {
        all.push((format!("request {}", request.path), body(request)));
    }
    let complaint = fs::read(run.directory().join("complaint")).unwrap();
    let said = run.stderr.strip_prefix(complaint.as_slice());
    // The agent's stderr is relayed as it is, and ours follows.
    let ours = said.unwrap();
    all.push(("stderr".to_owned(), ours.to_vec()));
    all
}

#[track_caller]
fn assert_secret_free(made: &[(String, Vec<u8>)], secrets: &[Secret]) {
    for (place, bytes) in made {
        for Secret { kind, secret, .. } in secrets {
            let spelled = Value::from(secret.as_str()).to_string();
            for form in [secret.as_str(), &spelled[1..spelled.len() - 1]] {
                assert!(
                    !contains(bytes, form),
                    "{kind} in {place}: {}",
                    String::from_utf8_lossy(bytes)
                );
            }
        }
    }
}

/// The agent's bytes are its own, wherever they are handed on.
#[track_caller]
fn assert_exact(run: &Finished) {
    let said = fs::read(run.directory().join("said")).unwrap();
    let lines: Vec<Vec<u8>> = said
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    assert_eq!(run.transcript().agent_lines(), lines);
    assert_eq!(run.journaled().agent_lines(), lines);
    let complaint = fs::read(run.directory().join("complaint")).unwrap();
    assert_eq!(run.transcript().stream("stderr"), complaint);
    assert_eq!(run.journaled().stream("stderr"), complaint);
}

#[track_caller]
fn assert_told(made: &[(String, Vec<u8>)], place: &str, texts: &[&str]) {
    let there: Vec<u8> = made
        .iter()
        .filter(|(name, _)| name.contains(place))
        .flat_map(|(_, bytes)| bytes.clone())
        .collect();
    for text in texts {
        assert!(
            contains(&there, text),
            "{text} is not in {place}: {}",
            String::from_utf8_lossy(&there)
        );
    }
}

#[test]
fn no_secret_is_in_anything_that_we_make() {
    let secrets = secrets();
    for capture in ["preview", "full"] {
        let receiver = Receiver::healthy();
        let run = talkative(&secrets)
            .option("--capture", capture)
            .option("--flush-timeout", "5s")
            .env(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                receiver.traces_url().replace("/v1/traces", ""),
            )
            .run();
        assert_eq!(run.code(), 1);
        let requests = receiver.received();
        assert!(!requests.is_empty());
        let made = made(&run, &requests);
        assert_secret_free(&made, &secrets);
        assert_exact(&run);
        run.assert_sound();
        // They were there, and what is none still is.
        assert_told(
            &made,
            "traces.jsonl",
            &[
                "This is the prompt, which is harmless.",
                "<redacted:",
                "sandtrace.redactions",
            ],
        );
        assert_told(
            &made,
            "request",
            &["This is the prompt, which is harmless.", "<redacted:"],
        );
        // A metric has nothing of the agent's words; this is the resource.
        for place in ["metrics.jsonl", "logs.jsonl", "request /v1/metrics"] {
            assert_told(
                &made,
                place,
                &["team.note.7", "it is <redacted:SERVICE_PASSWORD> here"],
            );
        }
        assert_told(&made, "sandtrace.run.finished", &["<redacted:"]);
        assert_told(&made, "stderr", &["sandtrace: failure", "<redacted:"]);
        if capture == "full" {
            let names = [
                "SERVICE_PASSWORD",
                "BACKUP_TOKEN",
                "TWISTED_SECRET",
                "DATABASE_URL",
                "OTEL_EXPORTER_OTLP_HEADERS",
                "anthropic-key",
                "github-token",
                "aws-access-key",
                "slack-token",
                "stripe-key",
                "json-web-token",
                "private-key",
                "user-pattern",
            ];
            let markers: Vec<String> = names
                .iter()
                .map(|name| format!("<redacted:{name}>"))
                .collect();
            let markers: Vec<&str> = markers.iter().map(String::as_str).collect();
            assert_told(&made, "traces.jsonl", &markers);
            assert_told(&made, "request", &markers);
        }
    }
}

#[test]
fn no_secret_is_in_what_waits_to_be_sent() {
    let secrets = secrets();
    let receiver = Receiver::scripted(|_, _| Answer::status(503));
    let run = talkative(&secrets)
        .option("--capture", "full")
        .option("--flush-timeout", "500ms")
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            receiver.traces_url().replace("/v1/traces", ""),
        )
        .run();
    assert_eq!(run.code(), 1);
    let made = made(&run, &receiver.received());
    assert_secret_free(&made, &secrets);
    assert_exact(&run);
    for place in ["request", "/spool/"] {
        assert_told(&made, place, &["<redacted:SERVICE_PASSWORD>"]);
    }
    run.assert_sound();
}

#[test]
fn a_bad_pattern_keeps_the_run_from_beginning() {
    for (option, origin) in [(true, "--redact"), (false, "SANDTRACE_REDACT")] {
        let agent = sh("touch \"$DIR/began\"");
        let began = agent.directory().join("began");
        let run = if option {
            agent
                .option("--redact", "fine")
                .option("--redact", "ACME-(")
        } else {
            agent.env("SANDTRACE_REDACT", "fine\nACME-(")
        }
        .run();
        assert_eq!(run.code(), 125);
        assert!(!began.exists());
        let errors = run.errors();
        let expected =
            format!("sandtrace: {origin}: \"ACME-(\" is no regular expression from character 6 on");
        assert!(errors.starts_with(&expected), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}
