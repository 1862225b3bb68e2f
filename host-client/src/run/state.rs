//! The parts of a run's state.

use serde_json::{Map, Value};

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Nothing was heard yet.
    Starting,
    /// The model thinks.
    WaitingForModel,
    /// A tool runs.
    InTool,
    /// A person is asked.
    WaitingForApproval,
    /// The session waits for its next message.
    BetweenTurns,
    /// The agent is gone, or was asked to go; the last lines are on their way.
    Stopping,
    /// There is a conclusion.
    Finished,
}

/// One user message and all that the agent does about it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Turn {
    /// Its span `invoke_agent`.
    pub span_id: String,
    /// From 1.
    pub ordinal: u64,
    /// When it began, RFC 3339.
    pub started: String,
    /// Milliseconds; `None` while it goes on.
    pub duration_ms: Option<f64>,
    /// Whether it failed; `None` while it goes on.
    pub failed: Option<bool>,
}

/// A tool that runs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Tool {
    /// Claude's id of the call.
    pub tool_use_id: String,
    /// Its span `execute_tool`.
    pub span_id: String,
    /// For instance `Bash`.
    pub name: String,
    /// When it began, RFC 3339.
    pub started: String,
}

/// A question that waits for a person.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PendingApproval {
    /// What to answer to.
    pub id: String,
    /// Claude's id of the call that is asked about.
    pub tool_use_id: Option<String>,
    /// For instance `Bash`.
    pub tool_name: String,
    /// What the tool would be called with.
    pub input: Value,
}

/// A span that has begun and not ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OpenSpan {
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits; `None` for a run without a caller.
    pub parent_span_id: Option<String>,
    /// Its name.
    pub name: String,
    /// `internal` or `client`.
    pub kind: String,
    /// RFC 3339.
    pub start_time: String,
    /// What was known at its start.
    pub attributes: Map<String, Value>,
}
