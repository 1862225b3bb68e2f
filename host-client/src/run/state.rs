//! The parts of a run's state.

use std::fmt;

use serde_json::{Map, Value};

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// The agent starts: it has not said anything of a turn yet.
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

impl State {
    /// The word on the wire (`state` of a heartbeat); `finished` is not among these.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::WaitingForModel => "waiting_for_model",
            Self::InTool => "in_tool",
            Self::WaitingForApproval => "waiting_for_approval",
            Self::BetweenTurns => "between_turns",
            Self::Stopping => "stopping",
            Self::Finished => "finished",
        }
    }

    /// The state that a heartbeat tells.
    pub(super) fn from_wire(word: &str) -> Option<Self> {
        [
            Self::Starting,
            Self::WaitingForModel,
            Self::InTool,
            Self::WaitingForApproval,
            Self::BetweenTurns,
            Self::Stopping,
        ]
        .into_iter()
        .find(|state| state.as_str() == word)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
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
    /// Why it failed, for instance `api.overloaded`.
    pub error_type: Option<String>,
    /// US dollars; `None` while it goes on, and where nobody knows.
    pub cost_usd: Option<f64>,
}

/// A tool that runs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Tool {
    /// Claude's id of the call; its span's, where the agent's dialect has none.
    pub tool_use_id: String,
    /// Its span `execute_tool`.
    pub span_id: String,
    /// For instance `Bash`.
    pub name: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// The subagent that called it; `None` for the agent itself.
    pub subagent: Option<String>,
    /// The call has returned, and its work goes on: a shell that was moved to the background.
    pub in_background: bool,
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
    /// What the tool would be called with; `null` where nobody says.
    pub input: Value,
    /// How it came to be known.
    pub source: ApprovalSource,
    /// When it was asked, RFC 3339.
    pub asked: String,
    /// Its span `approval`, where there is one.
    pub span_id: Option<String>,
}

impl PendingApproval {
    /// Whether [`Input::Approve`](crate::Input::Approve) and [`Input::Deny`](crate::Input::Deny) answer it.
    #[must_use]
    pub fn is_answerable(&self) -> bool {
        self.source == ApprovalSource::Agent
    }
}

/// How an approval came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ApprovalSource {
    /// The agent asks, and waits for an answer on its stdin.
    Agent,
    /// It was only seen that somebody is asked. The agent has ways of its own to be answered, and `id` is the span's.
    Observed,
}

/// A span that has begun and not ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OpenSpan {
    /// 32 hex digits.
    pub trace_id: String,
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

impl OpenSpan {
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.attributes.get(key)?.as_str()
    }
}
