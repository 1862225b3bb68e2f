//! The JSON Schema of the wire: the committed files are what the types say, and the golden streams are what they say.
//!
//! `SANDTRACE_TEST_RECORD=1 cargo test -p sandtrace-client --features schema --test schema` writes the files anew.
#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, its functions included"
)]

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use sandtrace_client::Input;
use serde_json::{Value, json};

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn committed(name: &str) -> Validator {
    let text = fs::read_to_string(directory("schema").join(name)).unwrap();
    jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
}

#[cfg(feature = "schema")]
#[test]
fn the_committed_schemas_are_what_the_types_say() {
    use sandtrace_client::schema;

    for (name, schema) in [
        ("wire-1.json", schema::wire()),
        ("stdin-1.json", schema::stdin()),
    ] {
        let path = directory("schema").join(name);
        if std::env::var_os("SANDTRACE_TEST_RECORD").is_some() {
            fs::write(&path, format!("{schema:#}\n")).unwrap();
        }
        let committed: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert!(
            committed == schema,
            "{name} is not what the types say: see this file's head"
        );
    }
}

#[test]
fn every_line_of_the_golden_streams_is_valid() {
    let schema = committed("wire-1.json");
    let mut lines = 0;
    for entry in fs::read_dir(directory("tests/fixtures/wire-1")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_none_or(|extension| extension != "ndjson")
        {
            continue;
        }
        for line in fs::read_to_string(&path).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let errors: Vec<_> = schema.iter_errors(&line).map(|e| e.to_string()).collect();
            assert!(
                errors.is_empty(),
                "{}: {errors:?} in {line}",
                path.display()
            );
            lines += 1;
        }
    }
    assert!(lines > 300, "{lines}");
}

#[test]
fn every_line_that_the_host_can_write_to_an_agent_is_valid_and_others_are_not() {
    let schema = committed("stdin-1.json");
    let id = "ask-1".to_owned();
    let text = "Grüße 😀\n".to_owned();
    let by = Some("alice".to_owned());
    for input in [
        Input::UserMessage { text: text.clone() },
        Input::Approve {
            id: id.clone(),
            by: None,
        },
        Input::Approve {
            id: id.clone(),
            by: by.clone(),
        },
        Input::Deny {
            id,
            reason: text,
            by,
        },
        Input::Interrupt,
        Input::Close,
    ] {
        let line: Value = serde_json::from_slice(&input.to_line()).unwrap();
        assert!(schema.is_valid(&line), "{line}");
    }
    for wrong in [
        json!({}),
        json!([]),
        json!({"type": "approve"}),
        json!({"type": "deny", "id": 7, "reason": ""}),
        json!({"type": "user_message", "text": null}),
        json!({"type": "shout", "text": "hey"}),
    ] {
        assert!(!schema.is_valid(&wrong), "{wrong}");
    }
}

#[test]
fn a_line_that_a_newer_supervisor_has_added_members_to_is_still_valid() {
    let schema = committed("wire-1.json");
    let stamp = json!({"seq": 1, "time": "2026-01-31T12:00:00.000000Z", "trace_id": "a", "span_id": "b", "new": 1});
    let heartbeat = json!({"uptime_ms": 5, "state": "dreaming", "new": {}});
    let line = json!({"type": "sandtrace.heartbeat", "data": heartbeat, "sandtrace": stamp});
    assert!(schema.is_valid(&line), "{line}");
    let line = json!({"type": "sandtrace.novelty", "data": 7, "sandtrace": stamp});
    assert!(schema.is_valid(&line), "{line}");
    // An agent may print what it likes.
    let line = json!({"type": ["sandtrace."], "data": 7, "sandtrace": stamp});
    assert!(schema.is_valid(&line), "{line}");
    assert!(!schema.is_valid(&json!({"type": "text"})), "no stamp");
}
