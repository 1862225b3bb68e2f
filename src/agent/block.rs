//! The content blocks of messages.
//!
//! A block says what it is by the API's name (`tool_use`), by the SDK's class (`ToolUseBlock`) or, printed by
//! `dataclasses.asdict`, only by its keys.

use super::event::{Block as Content, Text, ToolResult, ToolUse};
use super::json::{Json, fields};

/// Enough of a tool's answer to tell why it failed.
const RESULT_CHARS: usize = 400;

/// Server tools run at the API; nothing in the sandbox executes them.
const SERVER_TOOL_USE: &str = "server_tool_use";
const SERVER_TOOL_ID: &str = "srvtoolu_";

fields! {
    Block {
        kind: "type",
        text: "text",
        thinking: "thinking",
        id: "id",
        name: "name",
        input: "input",
        tool_use_id: "tool_use_id",
        content: "content",
        is_error: "is_error",
    }
}

fields! {
    Input {
        subagent_type: "subagent_type",
        description: "description",
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Text,
    Thinking,
    ToolUse,
    ToolResult,
    Other(Text<'a>),
}

/// The blocks of an assistant message; a plain string is one of text.
pub(super) fn blocks(content: Json<'_>) -> Vec<Content<'_>> {
    if let Some(text) = content.text() {
        return vec![Content::Text(text)];
    }
    let mut blocks = Vec::new();
    each(content, &mut |kind, fields| {
        blocks.push(block(kind, fields))
    });
    blocks
}

/// Calls `sink` for every object in the array.
pub(super) fn each<'a>(content: Json<'a>, sink: &mut dyn FnMut(Kind<'a>, &Block<'a>)) {
    content.elements(&mut |element| {
        if element.is_object() {
            let fields: Block<'_> = element.fields();
            sink(kind(&fields), &fields);
        }
    });
}

pub(super) fn block<'a>(kind: Kind<'a>, fields: &Block<'a>) -> Content<'a> {
    match kind {
        Kind::Text => Content::Text(fields.text.text_or_empty()),
        Kind::Thinking => Content::Thinking {
            chars: fields.thinking.char_count(),
            json: fields.thinking.raw(),
        },
        Kind::ToolUse => {
            let input: Input<'_> = fields.input.fields();
            Content::ToolUse(ToolUse {
                id: fields.id.text_or_empty(),
                name: fields.name.text_or_empty(),
                input: fields.input.raw(),
                subagent_type: input.subagent_type.text(),
                description: input.description.text(),
            })
        }
        Kind::ToolResult => Content::Other {
            kind: "tool_result".into(),
        },
        Kind::Other(kind) => Content::Other { kind },
    }
}

/// A result as far as its own block tells.
pub(super) fn tool_result<'a>(fields: &Block<'a>) -> ToolResult<'a> {
    ToolResult {
        tool_use_id: fields.tool_use_id.text_or_empty(),
        is_error: fields.is_error.is_true(),
        text: result_text(fields.content),
        content: fields.content.raw(),
        ..ToolResult::default()
    }
}

/// The start of the answer: of the string, or of the first text among its blocks.
fn result_text(content: Json<'_>) -> Text<'_> {
    let mut text = content.text_start(RESULT_CHARS);
    content.elements(&mut |element| {
        if text.is_none() {
            let fields: Block<'_> = element.fields();
            text = fields.text.text_start(RESULT_CHARS);
        }
    });
    text.unwrap_or_default()
}

fn kind<'a>(fields: &Block<'a>) -> Kind<'a> {
    let Some(name) = fields.kind.text() else {
        return sniff(fields);
    };
    match name.as_ref() {
        "text" | "TextBlock" => Kind::Text,
        "thinking" | "ThinkingBlock" => Kind::Thinking,
        "tool_use" | "ToolUseBlock" => Kind::ToolUse,
        "tool_result" | "ToolResultBlock" => Kind::ToolResult,
        "ServerToolUseBlock" => Kind::Other(SERVER_TOOL_USE.into()),
        "ServerToolResultBlock" => Kind::Other("server_tool_result".into()),
        _ => Kind::Other(name),
    }
}

fn sniff<'a>(fields: &Block<'a>) -> Kind<'a> {
    if fields.tool_use_id.is_present() {
        Kind::ToolResult
    } else if fields.name.is_present() && fields.input.is_present() {
        let id = fields.id.text_or_empty();
        if id.starts_with(SERVER_TOOL_ID) {
            Kind::Other(SERVER_TOOL_USE.into())
        } else {
            Kind::ToolUse
        }
    } else if fields.thinking.is_present() {
        Kind::Thinking
    } else if fields.text.is_present() {
        Kind::Text
    } else {
        Kind::Other(Text::default())
    }
}
