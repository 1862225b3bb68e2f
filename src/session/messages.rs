//! What the model was told and what it answered, as the GenAI conventions' JSON: with `--capture full` only.
//!
//! `[{"role":"user","parts":[{"type":"text","content":"…"}]}]`, by the message schemas of semantic conventions 1.41
//! (`reference/observability.md` §1.1). The input is what is new since the last answer, not the whole history, which the
//! stream does not show.

use serde_json::{Map, Value as Json, json};

use super::config::{FULL_CHARS, first_chars};
use super::span::{Content, ContentForm, REDACTION_SLACK};
use crate::agent::event::{Block, ToolResult};

/// The most bytes of one chat's messages, each way.
const MOST_BYTES: usize = 256 << 10;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    User,
    Assistant,
    Tool,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// Messages in the order in which they were said; consecutive parts of one role are one message.
#[derive(Debug, Default)]
pub(super) struct Messages {
    messages: Vec<(Role, Vec<Json>)>,
    bytes: usize,
}

impl Messages {
    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    pub(super) fn text(&mut self, role: Role, text: &str) {
        self.part(role, json!({"type": "text", "content": bounded(text)}));
    }

    /// A block of the model's answer.
    pub(super) fn block(&mut self, block: &Block<'_>) {
        let part = match block {
            Block::Text(text) => json!({"type": "text", "content": bounded(text)}),
            Block::Thinking { json: text, .. } => {
                json!({"type": "reasoning", "content": value(text)})
            }
            Block::ToolUse(tool) => json!({
                "type": "tool_call",
                "id": tool.id,
                "name": tool.name,
                "arguments": value(tool.input),
            }),
            Block::Other { .. } => return,
        };
        self.part(Role::Assistant, part);
    }

    /// What a tool returned to the model.
    pub(super) fn result(&mut self, result: &ToolResult<'_>) {
        let part = json!({
            "type": "tool_call_response",
            "id": result.tool_use_id,
            "response": value(result.content),
        });
        self.part(Role::Tool, part);
    }

    /// Beyond the bound, parts are left out.
    fn part(&mut self, role: Role, part: Json) {
        let bytes = part.to_string().len();
        if self.bytes + bytes > MOST_BYTES {
            return;
        }
        self.bytes += bytes;
        match self.messages.last_mut() {
            Some((last, parts)) if *last == role => parts.push(part),
            _ => self.messages.push((role, vec![part])),
        }
    }

    /// What the model heard, for the attribute `key`; `None` if that is nothing.
    pub(super) fn input(self, key: &'static str) -> Option<Content> {
        self.content(key, None)
    }

    /// What it answered, and how that ended.
    pub(super) fn output(self, key: &'static str, ending: Ending<'_>) -> Option<Content> {
        self.content(key, Some(ending.finish_reason()))
    }

    fn content(self, key: &'static str, finish_reason: Option<&str>) -> Option<Content> {
        if self.messages.is_empty() {
            return None;
        }
        let messages = self.messages.into_iter().map(|(role, parts)| {
            let mut message = Map::new();
            message.insert("role".to_owned(), role.as_str().into());
            message.insert("parts".to_owned(), parts.into());
            if let Some(reason) = finish_reason {
                message.insert("finish_reason".to_owned(), reason.into());
            }
            Json::Object(message)
        });
        Some(Content {
            key,
            text: Json::Array(messages.collect()).to_string(),
            form: ContentForm::Json { chars: FULL_CHARS },
        })
    }
}

/// A JSON document of the agent's as an attribute; `None` if there is none.
pub(super) fn document(key: &'static str, json: &str) -> Option<Content> {
    (!json.is_empty()).then(|| Content {
        key,
        text: first_chars(json, FULL_CHARS + REDACTION_SLACK).to_owned(),
        form: ContentForm::Json { chars: FULL_CHARS },
    })
}

fn bounded(text: &str) -> &str {
    first_chars(text, FULL_CHARS + REDACTION_SLACK)
}

/// A value as it stands in the line; one that is too long is text.
fn value(json: &str) -> Json {
    let kept = bounded(json);
    let parsed = if kept.len() == json.len() {
        serde_json::from_str(json).ok()
    } else {
        None
    };
    parsed.unwrap_or_else(|| kept.into())
}

/// How an answer ended, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending<'a> {
    /// With a stop reason of the Messages API.
    Stopped(&'a str),
    /// It broke off.
    Failed,
    /// Nobody said: without stream events the CLI prints no stop reason (`reference/agent-streams.md` §0).
    Unknown,
}

impl<'a> Ending<'a> {
    /// The conventions' word. Every output message must have one (`gen-ai-output-messages.json` of 1.41: `finish_reason`
    /// is required, and is one of five words or any other string), so what is not known is said to be so.
    fn finish_reason(self) -> &'a str {
        match self {
            Self::Stopped("end_turn" | "stop_sequence") => "stop",
            Self::Stopped("max_tokens") => "length",
            Self::Stopped("tool_use") => "tool_call",
            Self::Stopped("refusal") => "content_filter",
            Self::Stopped(other) => other,
            Self::Failed => "error",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_one_role_in_a_row_are_one_message_and_their_bytes_are_bounded() {
        let mut messages = Messages::default();
        messages.text(Role::User, "a");
        messages.text(Role::User, "b");
        messages.text(Role::Assistant, "c");
        for _ in 0..100 {
            messages.text(Role::User, &"x".repeat(10_000));
        }
        let content = messages.input("k").unwrap();
        assert!(content.text.len() <= MOST_BYTES + 1_000);
        let json: Json = serde_json::from_str(&content.text).unwrap();
        let roles = json.as_array().unwrap().iter();
        let roles: Vec<_> = roles
            .map(|message| message["role"].as_str().unwrap())
            .collect();
        assert_eq!(roles, ["user", "assistant", "user"]);
        assert_eq!(json[0]["parts"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_value_that_is_too_long_or_no_json_is_text() {
        assert_eq!(value("{\"a\":1}"), json!({"a": 1}));
        assert_eq!(value("nonsense"), json!("nonsense"));
        let long = format!("[\"{}\"]", "y".repeat(FULL_CHARS + REDACTION_SLACK));
        let text = value(&long);
        assert_eq!(
            text.as_str().map(str::len),
            Some(FULL_CHARS + REDACTION_SLACK)
        );
    }

    #[test]
    fn every_message_of_an_answer_says_how_it_ended_and_none_of_a_question_does() {
        for (ending, expected) in [
            (Ending::Stopped("end_turn"), "stop"),
            (Ending::Stopped("stop_sequence"), "stop"),
            (Ending::Stopped("tool_use"), "tool_call"),
            (Ending::Stopped("max_tokens"), "length"),
            (Ending::Stopped("refusal"), "content_filter"),
            (Ending::Stopped("pause_turn"), "pause_turn"),
            (Ending::Failed, "error"),
            (Ending::Unknown, "unknown"),
        ] {
            let mut answer = Messages::default();
            answer.text(Role::Assistant, "a");
            let content = answer.output("k", ending).unwrap();
            let json: Json = serde_json::from_str(&content.text).unwrap();
            assert_eq!(json[0]["finish_reason"], expected, "{ending:?}");
        }
        let mut question = Messages::default();
        question.text(Role::User, "a");
        let json: Json = serde_json::from_str(&question.input("k").unwrap().text).unwrap();
        assert_eq!(json[0].get("finish_reason"), None);
    }
}
