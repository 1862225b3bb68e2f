use proptest::prelude::*;
use serde_json::{Map, Value};

use super::super::*;
use super::kind;

const KEYS: &[&str] = &[
    "type",
    "type",
    "type",
    "subtype",
    "data",
    "event",
    "message",
    "content",
    "model",
    "usage",
    "id",
    "name",
    "input",
    "tool_use_id",
    "parent_tool_use_id",
    "is_error",
    "num_turns",
    "errors",
    "modelUsage",
    "model_usage",
    "permission_denials",
    "tool_use_result",
    "tool_result_meta",
    "permission_decision",
    "decision",
    "subagent_retry",
    "rate_limit_info",
    "request",
    "response",
    "patch",
    "status",
    "mcp_servers",
    "compact_metadata",
    "result",
    "text",
    "thinking",
    "delta",
    "isSynthetic",
    "origin",
    "session_id",
    "cost",
    "error",
    "sandtrace",
];

const WORDS: &[&str] = &[
    "system",
    "assistant",
    "user",
    "result",
    "stream_event",
    "rate_limit_event",
    "tool_progress",
    "control_request",
    "control_response",
    "AssistantMessage",
    "UserMessage",
    "SystemMessage",
    "ResultMessage",
    "StreamEvent",
    "RateLimitEvent",
    "TaskUpdatedMessage",
    "HookEventMessage",
    "init",
    "status",
    "task_updated",
    "task_notification",
    "api_retry",
    "compact_boundary",
    "text",
    "thinking",
    "tool_use",
    "tool_result",
    "TextBlock",
    "ToolUseBlock",
    "error",
    "complete",
    "start",
    "approval_request",
    "approval_decision",
    "can_use_tool",
    "message_start",
    "allow",
    "message_delta",
    "content_block_delta",
    "completed",
    "success",
    "sandtrace.x",
    "[Request interrupted by user]",
    "caf\u{e9}\n\u{1f600}",
];

/// Any JSON, made of our own words as often as not.
fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        4 => proptest::sample::select(WORDS).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let leaf = prop_oneof![
        4 => text.prop_map(Value::from),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            3 => object(inner.clone()).prop_map(Value::Object),
            1 => proptest::collection::vec(inner, 0..4).prop_map(Value::from),
        ]
    })
}

fn object(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let key = prop_oneof![
        8 => proptest::sample::select(KEYS).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    proptest::collection::vec((key, value), 0..8).prop_map(|members| members.into_iter().collect())
}

/// An object whose kind is always one of ours, so that the events' own members are reached.
fn line() -> impl Strategy<Value = Value> {
    let kind = proptest::sample::select(WORDS);
    (kind.clone(), kind, object(value()), any::<bool>()).prop_map(
        |(kind, subtype, mut members, typed)| {
            if typed {
                members.insert("type".into(), kind.into());
                members.insert("subtype".into(), subtype.into());
            }
            Value::Object(members)
        },
    )
}

fn is_forged(line: &Value) -> bool {
    line.get("sandtrace").is_some()
        || line["type"]
            .as_str()
            .is_some_and(|kind| kind.starts_with("sandtrace."))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn no_bytes_are_too_strange(bytes: Vec<u8>) {
        let expected = serde_json::from_slice::<Map<String, Value>>(&bytes).is_ok();
        prop_assert_eq!(decode(&bytes) != Decoded::Text, expected);
    }

    #[test]
    fn no_object_is_too_strange(line in line()) {
        let text = line.to_string();
        let decoded = decode(text.as_bytes());
        prop_assert_ne!(&decoded, &Decoded::Text);
        prop_assert_eq!(decoded == Decoded::Forged, is_forged(&line));
    }

    #[test]
    fn spelling_does_not_matter(line in line()) {
        let text = line.to_string();
        let mut spelt = escaped(&text);
        spelt.insert_str(0, " \t");
        spelt.push('\r');
        // The events borrow from their lines, and lengths of raw JSON are members of some; so kinds are compared.
        prop_assert_eq!(kind(&decode(text.as_bytes())), kind(&decode(spelt.as_bytes())));
    }

    #[test]
    fn any_cut_of_an_object_is_text(line in line(), keep in any::<proptest::sample::Index>()) {
        let text = line.to_string();
        let cut = &text.as_bytes()[..keep.index(text.len())];
        prop_assert_eq!(decode(cut), Decoded::Text);
    }

    #[test]
    fn an_array_of_anything_is_text(value in value()) {
        let text = Value::from(vec![value]).to_string();
        prop_assert_eq!(decode(text.as_bytes()), Decoded::Text);
    }
}

/// The same JSON with every letter in strings written as an escape.
fn escaped(json: &str) -> String {
    let mut out = String::new();
    let mut in_string = false;
    let mut letters = json.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                in_string = !in_string;
                out.push(letter);
            }
            '\\' => {
                out.push(letter);
                // The hexadecimal digits of an escape must stay.
                let kind = letters.next();
                out.extend(kind);
                if kind == Some('u') {
                    out.extend(letters.by_ref().take(4));
                }
            }
            letter if in_string && letter.is_ascii_alphabetic() => {
                out.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            letter => out.push(letter),
        }
    }
    out
}
