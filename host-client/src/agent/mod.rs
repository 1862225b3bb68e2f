//! What the agent itself says, as far as applications want to know it.
//!
//! The supervisor passes every line of the agent on as it is, so a host may read whatever its own agent prints
//! ([`AgentLine::json`]). What agents commonly say (text, tools, results, questions) is here in one vocabulary,
//! [`Said`], whatever dialect they say it in:
//!
//! - the messages of the Python SDK printed as JSON, with or without the names of their classes, as the template's
//!   `agent.py` does;
//! - the stream of `claude --output-format stream-json`;
//! - the events of E2B's boilerplate, `{"type":"text","data":{…}}`, and the approvals of `agent.py`.
//!
//! ```
//! use sandtrace_client::agent::Said;
//! use sandtrace_client::{Content, Event};
//!
//! let line = r#"{"type":"AssistantMessage","content":[{"type":"TextBlock","text":"Hello"}],"parent_tool_use_id":null,
//!     "sandtrace":{"seq":5,"time":"2026-01-31T12:00:00.000000Z","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736",
//!     "span_id":"00f067aa0ba902b7"}}"#;
//! let event = Event::parse(line)?;
//! if let Content::Agent(line) = event.content() {
//!     assert_eq!(line.said(), [Said::Text("Hello")]);
//! }
//! # Ok::<(), sandtrace_client::NotAnEvent>(())
//! ```

mod dialect;
mod said;

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

pub use said::{
    ApprovalDecision, ApprovalRequest, Decision, Init, Said, ToolResult, ToolUse, TurnResult,
};

/// A line of the agent.
#[derive(Clone)]
pub struct AgentLine {
    kind: Option<Box<str>>,
    raw: Arc<str>,
    /// Read when it is first asked for: most lines are only passed on.
    value: OnceLock<Value>,
}

impl AgentLine {
    pub(crate) fn new(kind: Option<Box<str>>, raw: Arc<str>) -> Self {
        Self {
            kind,
            raw,
            value: OnceLock::new(),
        }
    }

    /// The line's `type`, when it has one.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// The whole line, with our member. `null` for one that no JSON library reads though its brackets match: nested more
    /// than 128 deep, or with half of a UTF-16 pair in a string. [`Event::raw`](crate::Event::raw) has it all the same.
    #[must_use]
    pub fn json(&self) -> &Value {
        self.value
            .get_or_init(|| serde_json::from_str(&self.raw).unwrap_or_default())
    }

    /// What the line says, in its order; empty for a line in none of the dialects, and for one that says nothing an
    /// application shows.
    #[must_use]
    pub fn said(&self) -> Vec<Said<'_>> {
        dialect::said(self.kind(), self.json())
    }

    /// The call of the tool that started the subagent who speaks; `None` for the agent itself.
    #[must_use]
    pub fn parent_tool_use_id(&self) -> Option<&str> {
        // A heartbeat of a long tool has the tool's own id there.
        if self.kind() == Some("tool_progress") {
            return None;
        }
        self.json()["parent_tool_use_id"].as_str()
    }

    pub(crate) fn concerns_run(&self) -> bool {
        dialect::concerns_run(self.kind())
    }

    pub(crate) fn brings_result(&self) -> bool {
        dialect::brings_result(self.kind())
    }
}

impl PartialEq for AgentLine {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl fmt::Debug for AgentLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AgentLine").field(&self.raw).finish()
    }
}
