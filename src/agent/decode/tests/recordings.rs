//! Real streams of the SDK and the CLI; see `tests/fixtures/recordings`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::*;
use super::kind;
use crate::agent::event::*;
use crate::agent::line::{Fragment, Lines};

/// Types that are known and yet must not be recognised: an agent's own words.
const OWN_TYPES: &[&str] = &["agent_note"];

/// Scenarios whose streams are no JSON on purpose.
const NOT_JSON: &[&str] = &["agent_noise", "agent_partial_line", "plain_text_repr"];

/// Scenarios whose two recordings differ in what happened: here in how often the API was tried.
const DIFFERENT: &[&str] = &["reset_mid_stream_persistent"];

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recordings")
}

fn scenarios() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(recordings())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The lines of a stream; none if the scenario has no such stream.
fn lines(scenario: &str, stream: &str) -> Vec<Vec<u8>> {
    let path = recordings().join(scenario).join(format!("{stream}.jsonl"));
    let bytes = fs::read(path).unwrap_or_default();
    let mut lines = Vec::new();
    let mut cutter = Lines::default();
    let mut sink = |fragment: Fragment<'_>| lines.push(fragment.bytes.to_vec());
    cutter.push(&bytes, &mut sink);
    cutter.finish(&mut sink);
    lines
}

/// An event as far as the dialects agree on it.
fn outline(decoded: &Decoded<'_>) -> String {
    let mut words = vec![kind(decoded).to_owned()];
    let Decoded::Event(event) = decoded else {
        return words.concat();
    };
    let mut say = |word: &dyn std::fmt::Debug| words.push(format!("{word:?}"));
    match event {
        AgentEvent::Assistant(assistant) => {
            // A synthetic message has a random id.
            if assistant.model.as_deref() != Some("<synthetic>") {
                say(&assistant.message_id);
            }
            say(&assistant.parent_tool_use_id);
            say(&assistant.usage);
            for block in &assistant.blocks {
                match block {
                    Block::ToolUse(tool) => {
                        say(&(&tool.id, &tool.name, &tool.subagent_type, &tool.description));
                    }
                    // Texts name the recording's own ports.
                    Block::Text(_) => say(&"text"),
                    block => say(block),
                }
            }
        }
        AgentEvent::User(user) => {
            say(&user.parent_tool_use_id);
            say(&user.interrupted);
            for result in &user.results {
                say(&(&result.tool_use_id, result.is_error, result.background));
            }
        }
        AgentEvent::Stream(stream) => say(stream),
        AgentEvent::Result(result) => {
            say(&(&result.subtype, result.is_error, &result.terminal_reason));
            say(&(result.num_turns, result.usage, &result.permission_denials));
        }
        AgentEvent::Status(status) => say(&status.status),
        AgentEvent::ApiRetry(retry) => say(&(retry.attempt, retry.error_status)),
        AgentEvent::TaskStarted(task) => say(&(&task.tool_use_id, &task.subagent_type)),
        AgentEvent::TaskEnded(task) => say(&(&task.tool_use_id, &task.status)),
        AgentEvent::Note { kind, .. } => say(kind),
        _ => {}
    }
    words.join(" ")
}

fn outlines(scenario: &str, stream: &str) -> Vec<String> {
    lines(scenario, stream)
        .iter()
        .map(|line| outline(&decode(line)))
        .collect()
}

#[test]
fn every_line_of_a_known_type_is_recognised() {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for scenario in scenarios() {
        for stream in ["cli", "sdk"] {
            for line in lines(&scenario, stream) {
                let decoded = decode(&line);
                *counts.entry(kind(&decoded)).or_default() += 1;
                let line = String::from_utf8_lossy(&line);
                match decoded {
                    Decoded::Event(_) => {}
                    Decoded::Unrecognised => {
                        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
                        let own = match value["type"].as_str() {
                            Some(kind) => OWN_TYPES.contains(&kind),
                            None => value["level"].is_string(),
                        };
                        assert!(own, "{scenario}/{stream}: {line}");
                    }
                    Decoded::Text => assert!(
                        NOT_JSON.contains(&scenario.as_str()),
                        "{scenario}/{stream}: {line}"
                    ),
                    Decoded::Forged => panic!("{scenario}/{stream}: {line}"),
                }
            }
        }
    }
    let expected = BTreeMap::from([
        ("api_retry", 37),
        ("assistant", 258),
        ("compact_boundary", 2),
        ("init", 105),
        ("note", 58),
        ("result", 95),
        ("session_state", 11),
        ("status", 29),
        ("stream", 817),
        ("task_ended", 10),
        ("task_started", 5),
        ("text", 21),
        ("unrecognised", 14),
        ("user", 127),
    ]);
    assert_eq!(counts, expected);
}

#[test]
fn the_sdk_says_what_the_cli_says() {
    let mut compared = Vec::new();
    for scenario in scenarios() {
        let (cli, sdk) = (outlines(&scenario, "cli"), outlines(&scenario, "sdk"));
        // Some scenarios exist in one form only.
        if cli.is_empty() || sdk.is_empty() || DIFFERENT.contains(&scenario.as_str()) {
            continue;
        }
        assert_eq!(cli, sdk, "{scenario}");
        compared.push(scenario);
    }
    assert_eq!(compared.len(), 37, "{compared:?}");
}

#[test]
fn asdict_says_what_the_class_names_say() {
    for (plain, named) in [
        ("bash_tool_asdict", "bash_tool"),
        ("plain_text_asdict", "plain_text"),
    ] {
        assert_eq!(outlines(plain, "sdk"), outlines(named, "sdk"), "{plain}");
    }
}
