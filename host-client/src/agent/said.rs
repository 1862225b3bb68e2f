//! One vocabulary for what agents say.

use std::borrow::Cow;

use serde_json::Value;

/// A thing that the agent says. It borrows from the line.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Said<'a> {
    /// A user turn begins; said again with every turn.
    Init(Init<'a>),
    /// A block of text of the model's, whole. Of an agent that streams, its pieces came before.
    Text(&'a str),
    /// The next piece of a block of text, of an agent that streams (`include_partial_messages`).
    TextDelta(&'a str),
    /// A block of the model's thinking, whole.
    Thinking(&'a str),
    /// The next piece of a block of thinking.
    ThinkingDelta(&'a str),
    /// The model calls a tool.
    ToolUse(ToolUse<'a>),
    /// A tool's answer to the model.
    ToolResult(ToolResult<'a>),
    /// What somebody but the model says: a subagent's prompt, a nudge by Claude Code, a summary after compaction, an
    /// interruption. An ordinary prompt is not repeated in the stream.
    UserText(&'a str),
    /// A turn is over. A session has one for each.
    Result(Box<TurnResult<'a>>),
    /// A person is asked whether a tool may run.
    ApprovalRequest(ApprovalRequest<'a>),
    /// The person has answered.
    ApprovalDecision(ApprovalDecision<'a>),
    /// What Claude Code does: `running`, `requires_action` (a person is asked), `idle`.
    SessionState(&'a str),
    /// The agent reports an error in words of its own.
    Error(&'a str),
    /// A block or message of a kind that has no variant yet: an image, a search by the API, a note of Claude Code's.
    Other(&'a str),
}

/// See [`Said::Init`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Init<'a> {
    /// Claude Code's session, to resume it by.
    pub session_id: Option<&'a str>,
    /// The model that was asked for.
    pub model: Option<&'a str>,
}

/// See [`Said::ToolUse`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ToolUse<'a> {
    /// Claude's id of the call; empty where the dialect has none.
    pub id: &'a str,
    /// For instance `Bash`.
    pub name: &'a str,
    /// What it is called with.
    pub input: &'a Value,
}

/// See [`Said::ToolResult`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ToolResult<'a> {
    /// Claude's id of the call; empty where the dialect has none.
    pub tool_use_id: &'a str,
    /// The answer's text, its blocks one under the other.
    pub text: Cow<'a, str>,
    /// Whether the tool failed, or was not allowed.
    pub is_error: bool,
}

/// See [`Said::Result`].
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct TurnResult<'a> {
    /// The answer, or the words of the error.
    pub text: Option<&'a str>,
    /// Whether the turn failed. `subtype` says `success` of many a failure; this is what counts.
    pub is_error: bool,
    /// For instance `success`, `error_max_turns`.
    pub subtype: Option<&'a str>,
    /// Why it ended, for instance `completed`, `api_error`.
    pub terminal_reason: Option<&'a str>,
    /// Errors beside the text.
    pub errors: Vec<&'a str>,
    /// Claude Code's session, to resume it by.
    pub session_id: Option<&'a str>,
    /// US dollars of the session so far, not of the turn alone, where Claude Code says so.
    pub total_cost_usd: Option<f64>,
    /// Claude Code's own count of steps, which is neither of turns nor of calls.
    pub num_turns: Option<u64>,
    /// Milliseconds.
    pub duration_ms: Option<u64>,
    /// The answer in the shape that was asked for, if one was.
    pub structured_output: Option<&'a Value>,
}

/// See [`Said::ApprovalRequest`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ApprovalRequest<'a> {
    /// What to answer to.
    pub id: &'a str,
    /// Claude's id of the call.
    pub tool_use_id: Option<&'a str>,
    /// For instance `Bash`.
    pub tool_name: Option<&'a str>,
    /// What the tool would be called with.
    pub input: &'a Value,
    /// Whether [`Input::Approve`](crate::Input) and `Deny` answer it. Claude Code's own `control_request` is answered
    /// by whoever drives Claude Code.
    pub is_answerable: bool,
}

/// See [`Said::ApprovalDecision`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApprovalDecision<'a> {
    /// The request's id.
    pub id: &'a str,
    /// What was decided.
    pub decision: Decision,
    /// Who decided, where the agent says.
    pub by: Option<&'a str>,
    /// Why.
    pub reason: Option<&'a str>,
}

/// A person's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// The tool may run.
    Allow,
    /// It may not.
    Deny,
}
