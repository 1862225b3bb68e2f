//! The fake envd speaks Connect as the original does.

use std::time::Instant;

use serde_json::{Value, json};

use crate::fake_envd::{FakeEnvd, Options};
use crate::raw::{Request, STREAM, UNARY, envelope, run};

#[test]
fn a_stream_is_one_envelope_a_message_and_one_end() {
    let fake = FakeEnvd::start();
    let whole = Request::start("echo hello").whole(&fake);
    assert_eq!(whole.status, 200);
    assert_eq!(whole.headers["content-type"], STREAM);
    let envelopes = whole.envelopes();
    let flags: Vec<u8> = envelopes.iter().map(|(flags, _)| *flags).collect();
    assert_eq!(flags, [0, 0, 0, 2], "{envelopes:?}");
    let pid = &envelopes[0].1["event"]["start"]["pid"];
    assert!(pid.as_i64().unwrap() > 1, "{pid}");
    assert_eq!(
        envelopes[1].1,
        json!({"event": {"data": {"stdout": "aGVsbG8K"}}})
    );
    assert_eq!(envelopes[3].1, json!({}));
}

#[test]
fn an_end_leaves_out_what_is_zero() {
    let fake = FakeEnvd::start();
    let cases = [
        ("true", json!({"exited": true, "status": "exit status 0"})),
        (
            "exit 3",
            json!({"exitCode": 3, "exited": true, "status": "exit status 3", "error": "exit status 3"}),
        ),
        (
            "kill -KILL $$",
            json!({"exitCode": -1, "status": "signal: killed", "error": "signal: killed"}),
        ),
        (
            "kill -TERM $$",
            json!({"exitCode": -1, "status": "signal: terminated", "error": "signal: terminated"}),
        ),
    ];
    for (command, expected) in cases {
        let output = run(&fake, command);
        assert_eq!(output.end, Some(expected), "{command}");
        assert_eq!(output.error, None);
    }
}

#[test]
fn a_request_for_a_stream_is_refused_at_the_end_of_the_stream_with_200() {
    let fake = FakeEnvd::start();
    let start = json!({"process": {"cmd": "/bin/bash", "args": ["-c", "true"]}}).to_string();
    let good = envelope(0, start.as_bytes());
    let cases: [(&str, Vec<u8>, &str, &str); 8] = [
        (
            "compressed",
            envelope(1, start.as_bytes()),
            "internal",
            "compress",
        ),
        ("an end", envelope(2, b"{}"), "internal", "flags"),
        ("unknown flags", envelope(0x80, b"{}"), "internal", "flags"),
        ("no message", Vec::new(), "unimplemented", "zero messages"),
        (
            "two messages",
            good.repeat(2),
            "unimplemented",
            "multiple messages",
        ),
        (
            "half a head",
            good[..3].to_vec(),
            "invalid_argument",
            "incomplete",
        ),
        (
            "half a message",
            good[..20].to_vec(),
            "invalid_argument",
            "incomplete",
        ),
        (
            "no JSON",
            envelope(0, b"{\"process\""),
            "invalid_argument",
            "unmarshal",
        ),
    ];
    for (what, body, code, message) in cases {
        let whole = Request::call("Start", STREAM, body).whole(&fake);
        assert_eq!(whole.status, 200, "{what}");
        let error = whole.error();
        assert_eq!(error["code"], code, "{what}: {error}");
        assert!(
            error["message"].as_str().unwrap().contains(message),
            "{what}: {error}"
        );
    }
    let announced = Request::call("Start", STREAM, envelope(1, b"\x1f\x8b"))
        .header("connect-content-encoding", "gzip")
        .whole(&fake);
    assert_eq!(announced.error()["code"], "internal");
    let announced = Request::call("Start", STREAM, good)
        .header("connect-content-encoding", "gzip")
        .whole(&fake);
    assert_eq!(announced.error()["code"], "unimplemented");
    assert!(
        fake.processes().is_empty(),
        "none of these started anything"
    );
}

#[test]
fn what_cannot_be_started_or_found_is_said_by_connects_codes() {
    let fake = FakeEnvd::start();
    let cases = [
        (
            "Connect",
            json!({"process": {"pid": 4_194_304}}),
            "not_found",
        ),
        (
            "Connect",
            json!({"process": {"tag": "nobody"}}),
            "not_found",
        ),
        ("Connect", json!({}), "unimplemented"),
        ("Start", json!({"process": {}}), "invalid_argument"),
        (
            "Start",
            json!({"process": {"cmd": "true", "cwd": "/does/not/exist"}}),
            "invalid_argument",
        ),
        (
            "Start",
            json!({"process": {"cmd": "sh"}, "pty": {}}),
            "unimplemented",
        ),
    ];
    for (procedure, message, code) in cases {
        let whole = Request::streaming(procedure, &message).whole(&fake);
        assert_eq!(whole.status, 200, "{message}");
        assert_eq!(whole.error()["code"], code, "{message}");
    }
    let bad_timeout = Request::start("true")
        .header("connect-timeout-ms", "soon")
        .whole(&fake);
    assert_eq!(bad_timeout.error()["code"], "invalid_argument");
}

#[test]
fn a_unary_call_answers_with_a_status() {
    let fake = FakeEnvd::start();
    let nobody = json!({"process": {"pid": 4_194_304}});
    let mut signal = nobody.clone();
    signal["signal"] = "SIGNAL_SIGTERM".into();
    let cases: [(&str, &Value, u16, &str); 5] = [
        ("SendSignal", &signal, 404, "not_found"),
        ("SendInput", &nobody, 404, "not_found"),
        ("CloseStdin", &nobody, 404, "not_found"),
        ("Update", &nobody, 404, "not_found"),
        ("SendInput", &Value::Null, 400, "invalid_argument"),
    ];
    for (procedure, message, status, code) in cases {
        let whole = Request::unary(procedure, message).whole(&fake);
        assert_eq!(whole.status, status, "{procedure}");
        assert_eq!(whole.headers["content-type"], UNARY);
        assert_eq!(whole.json()["code"], code, "{procedure}");
    }
    let empty = Request::unary("List", &json!({})).whole(&fake);
    assert_eq!((empty.status, empty.json()), (200, json!({})));
}

#[test]
fn what_is_no_call_is_refused_before_connect_comes_into_it() {
    let fake = FakeEnvd::start();
    let status = |request: Request| request.whole(&fake).status;
    assert_eq!(status(Request::new("GET", "/process.Process/Start")), 405);
    assert_eq!(status(Request::call("Start", UNARY, "{}")), 415);
    assert_eq!(status(Request::call("List", STREAM, "")), 415);
    assert_eq!(status(Request::call("List", "application/proto", "")), 415);
    assert_eq!(status(Request::call("Nothing", UNARY, "{}")), 404);
    assert_eq!(status(Request::new("GET", "/health")), 204);
    let metrics = Request::new("GET", "/metrics").whole(&fake).json();
    assert!(metrics["mem_total"].as_u64().unwrap() > 0, "{metrics}");
}

#[test]
fn the_edge_answers_for_a_sandbox_that_is_not_there_with_a_number_for_a_code() {
    let fake = FakeEnvd::with(Options::default());
    for path in ["/health", "/process.Process/List"] {
        let whole = Request::new("POST", path)
            .header("e2b-sandbox-id", "ighost")
            .whole(&fake);
        assert_eq!(whole.status, 502);
        let expected = json!({
            "sandboxId": "ighost",
            "message": "The sandbox was not found",
            "code": 502,
        });
        assert_eq!(whole.json(), expected);
    }
    let by_name = Request::new("GET", "/health").whole(&fake);
    assert_eq!(by_name.status, 204);
}

#[test]
fn keepalives_come_as_often_as_asked_for_and_only_in_silence() {
    let fake = FakeEnvd::start();
    let began = Instant::now();
    let start = Request::start("sleep 2.5; echo done").header("keepalive-ping-interval", 1);
    let mut answer = start.send(&fake).unwrap();
    answer.pid();
    let output = answer.output();
    assert_eq!(output.stdout, "done\n");
    let most = usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!((1..=most).contains(&output.keepalives), "{output:?}");
    // A word every 50 ms leaves no second of silence, unless this machine is very busy.
    let start = Request::start("for i in $(seq 50); do echo; sleep 0.05; done")
        .header("keepalive-ping-interval", 1);
    let mut answer = start.send(&fake).unwrap();
    answer.pid();
    assert!(answer.output().keepalives <= 1);
}
