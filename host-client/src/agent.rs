//! What the agent itself says, as far as applications want to know it.
//!
//! The supervisor passes every line of the agent on as it is, so a host may read whatever its own agent prints. What
//! agents commonly say (text, tools, results, questions) is here in one vocabulary.

use serde_json::Value;

/// A line of the agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentLine {
    kind: Option<String>,
    value: Value,
}

impl AgentLine {
    pub(crate) fn new(kind: Option<String>, line: &str) -> Self {
        Self {
            kind,
            value: serde_json::from_str(line).unwrap_or_default(),
        }
    }

    /// The line's `type`, when it has one.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// The whole line, with our member.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.value
    }
}
