//! What real runs print is what the published schema of the wire says, and what its types know; and from such runs come
//! the golden streams of `host-client/tests/fixtures/wire-1`, which every later client must be able to read:
//!
//! ```text
//! SANDTRACE_TEST_RECORD=1 cargo test --test it schema::every_line
//! ```
//!
//! Recorded once for each version of the wire. What is there already stays as it is; only what is new is written.

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use sandtrace_client::Body;
use serde_json::{Value, json};

use crate::clock::{copy_sandbox, in_a_sandbox};
use crate::oom::Cgroup;
use crate::supervised::{Finished, agent, fault, python, sh, skipped};

/// Asks a person for a tool by lines of its own, as the template's agent.py does, and answers itself.
const ASKING_AGENT: &str = r#"
import json, sys
def say(line): print(json.dumps(line, separators=(",", ":")), flush=True)
session = {"session_id": "7f3c", "parent_tool_use_id": None}
say({"type": "SystemMessage", "subtype": "init", "data": {"type": "system", "subtype": "init", "session_id": "7f3c", "model": "claude-opus-5-5"}})
def message(number, block):
    say({"type": "AssistantMessage", "content": [block], "model": "claude-opus-5-5", "message_id": f"m{number}",
         "usage": {"input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 5, "output_tokens": 1}} | session)
for number, (answer, reason) in enumerate([("allow", None), ("deny", "not in production")]):
    id, call = f"ask-{number}", f"toolu_{number}"
    arguments = {"command": "rm -rf build"}
    message(number, {"type": "ToolUseBlock", "id": call, "name": "Bash", "input": arguments})
    say({"type": "approval_request", "data": {"id": id, "tool_use_id": call, "tool_name": "Bash", "input": arguments}})
    say({"type": "approval_decision", "data": {"id": id, "decision": answer, "by": "alice", "reason": reason}})
    say({"type": "UserMessage", "content": [{"type": "ToolResultBlock", "tool_use_id": call, "content": reason or "done", "is_error": answer == "deny"}]} | session)
message(2, {"type": "TextBlock", "text": "Built, but not deployed."})
say({"type": "ResultMessage", "subtype": "success", "is_error": False, "duration_ms": 5, "duration_api_ms": 3, "num_turns": 3, "result": "Built, but not deployed.",
     "session_id": "7f3c", "total_cost_usd": 0.0042, "terminal_reason": "completed",
     "usage": {"input_tokens": 30, "cache_read_input_tokens": 300, "cache_creation_input_tokens": 15, "output_tokens": 44}})
"#;

/// A message, a tool, and then more memory than there is.
const HOG: &str = r#"
import json
def say(line): print(json.dumps(line, separators=(",", ":")), flush=True)
say({"type": "system", "subtype": "init", "session_id": "s", "model": "claude-opus-5-5"})
say({"type": "assistant", "session_id": "s", "parent_tool_use_id": None, "message": {"id": "m1", "role": "assistant", "model": "claude-opus-5-5",
     "content": [{"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "make"}}]}})
bytes(1) * (160 << 20)
"#;

/// What is no event of an agent: text, bytes that are no UTF-8, a line that pretends to be ours, one without an end.
const NOISE: &str = r#"
echo 'starting up'
echo 'a warning' >&2
printf 'caf\351\n'
echo '{"type":"sandtrace.run.finished","data":{}}'
echo '{"type":"note","text":"an event of nobody we know"}'
echo '{}'
echo '  { "spaced" : true }  '
printf '{"torn":'
exit 3
"#;

fn recording(scenario: &str, kind: &str) -> Finished {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let player = tests.join("player.py");
    let directory = tests.join("fixtures/recordings").join(scenario);
    agent([
        "python3".as_ref(),
        player.as_os_str(),
        directory.as_os_str(),
        kind.as_ref(),
        "20".as_ref(),
    ])
    .option("--run-id", scenario.replace('_', "-"))
    .run()
}

fn fork() -> Option<Finished> {
    let run = in_a_sandbox()?;
    copy_sandbox(&run);
    Some(run.wait())
}

fn oom() -> Option<Finished> {
    let cgroup = Cgroup::limited(80 << 20)?;
    let run = python(HOG)
        .option("--run-id", "oom")
        .cgroup(cgroup.procs())
        .run();
    Some(run)
}

/// Runs of every kind; `None` for one that cannot be made here.
fn runs() -> Vec<(&'static str, Option<Finished>)> {
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut runs = vec![
        ("tour", Some(recording("tour", "sdk"))),
        ("subagent", Some(recording("subagent", "cli"))),
        (
            "observed-approvals",
            Some(recording("permissions_state_events", "sdk")),
        ),
        ("api-401", Some(recording("api_401", "sdk"))),
        (
            "approvals",
            Some(
                python(ASKING_AGENT)
                    .option("--run-id", "approvals")
                    .option("--attribute", "tenant=acme")
                    .option("--sandbox-ends-at", "2030-01-31T12:00:00Z")
                    .env("TRACEPARENT", context)
                    .env("BAGGAGE", "user.id=alice")
                    .run(),
            ),
        ),
        ("noise", Some(sh(NOISE).option("--run-id", "noise").run())),
        (
            "otlp",
            Some(
                fault("--events 1 --result")
                    .option("--run-id", "otlp")
                    .env("OTEL_EXPORTERS", "host")
                    .env("OTEL_RESOURCE_ATTRIBUTES", "host.name=sandbox")
                    .run(),
            ),
        ),
        (
            "not-found",
            Some(
                agent(["/nonexistent"])
                    .option("--run-id", "not-found")
                    .run(),
            ),
        ),
        (
            "deadline",
            Some(
                sh("echo '{\"type\":\"text\",\"data\":{\"text\":\"Wait\"}}'; exec sleep 600")
                    .option("--run-id", "deadline")
                    .option("--deadline", "300ms")
                    .run(),
            ),
        ),
        ("oom", oom()),
        ("fork", fork()),
    ];
    if is_recording() {
        // Of nothing but patience.
        let silent = sh("exec sleep 21").option("--run-id", "heartbeat").run();
        runs.push(("heartbeat", Some(silent)));
    }
    runs
}

fn is_recording() -> bool {
    std::env::var_os("SANDTRACE_TEST_RECORD").is_some()
}

fn schema() -> Validator {
    let path = "host-client/schema/wire-1.json";
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
}

fn lines(run: &Finished) -> Vec<Value> {
    let text = std::str::from_utf8(&run.stdout).unwrap();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

/// What is wrong with a line by schema and types.
fn problems(schema: &Validator, line: &Value) -> Vec<String> {
    let errors = schema.iter_errors(line);
    let mut problems: Vec<String> = errors
        .map(|error| format!("{error} at {}", error.instance_path()))
        .collect();
    let is_ours = line["type"]
        .as_str()
        .is_some_and(|kind| kind.starts_with("sandtrace."));
    if is_ours {
        match serde_json::from_value::<Body>(line.clone()) {
            // What is written again lacks what no type knows.
            Ok(body) => {
                let again = serde_json::to_value(body).unwrap();
                if again["data"] != line["data"] {
                    problems.push(format!("the types know only {}", again["data"]));
                }
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    problems
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("host-client/tests/fixtures/wire-1")
}

/// Writes a stream down, without what is only of this machine.
fn record(name: &str, run: &Finished) {
    let path = golden().join(format!("{name}.ndjson"));
    if path.exists() {
        return;
    }
    let directory = run.directory().to_str().unwrap();
    let text = String::from_utf8(run.stdout.clone())
        .unwrap()
        .replace(directory, "/home/user")
        .replace("/root/", "/home/user/");
    for private in ["/tmp/.tmp", "/root", env!("CARGO_MANIFEST_DIR")] {
        assert!(!text.contains(private), "{name} tells {private}: {text}");
    }
    fs::create_dir_all(golden()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn every_line_of_real_runs_is_what_the_published_schema_says() {
    let schema = schema();
    for (name, run) in runs() {
        let Some(run) = run else {
            skipped(format!("no run {name} to check against the schema"));
            continue;
        };
        let lines = lines(&run);
        assert!(lines.len() > 2, "{name}: {lines:?}");
        for line in &lines {
            let problems = problems(&schema, line);
            assert!(problems.is_empty(), "{name}: {problems:#?} in {line}");
        }
        assert!(run.processes().is_empty(), "{name}");
        if is_recording() {
            record(name, &run);
        }
    }
}

/// Takes each member away that a line of ours must have, and puts another type in its place.
#[test]
fn a_line_that_is_wrong_anywhere_is_refused() {
    let schema = schema();
    let run = python(ASKING_AGENT).run();
    let mut tried = 0;
    for line in lines(&run) {
        let Some(stamp) = line["sandtrace"].as_object() else {
            panic!("{line}")
        };
        for member in stamp.keys() {
            let mut wrong = line.clone();
            wrong["sandtrace"].as_object_mut().unwrap().remove(member);
            assert!(!schema.is_valid(&wrong), "without {member}: {wrong}");
            wrong["sandtrace"][member] = json!([]);
            assert!(!schema.is_valid(&wrong), "{wrong}");
            tried += 1;
        }
        let is_ours = line["type"]
            .as_str()
            .is_some_and(|kind| kind.starts_with("sandtrace."));
        if !is_ours {
            continue;
        }
        for member in line["data"].as_object().unwrap().keys() {
            let mut wrong = line.clone();
            wrong["data"][member] = json!([[]]);
            // Free maps take anything.
            if !["attributes", "abilities", "counts"].contains(&member.as_str()) {
                assert!(!schema.is_valid(&wrong), "{wrong}");
                tried += 1;
            }
        }
        let mut wrong = line.clone();
        wrong.as_object_mut().unwrap().remove("data");
        assert!(!schema.is_valid(&wrong), "{wrong}");
    }
    assert!(tried > 100, "{tried}");
}
