//! What the host says to an interactive agent: one JSON object a line on its stdin (DESIGN §4).

use serde::{Deserialize, Serialize};

/// A line for the agent's stdin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Input {
    /// The user says something: a turn begins, or waits until the one that runs is over.
    UserMessage {
        /// What the user says.
        text: String,
    },
    /// A tool may run.
    Approve {
        /// The id of the approval's request.
        id: String,
        /// Who says so, for the trace.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A tool may not run.
    Deny {
        /// The id of the approval's request.
        id: String,
        /// Why; the model reads it.
        reason: String,
        /// Who says so, for the trace.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// The turn that runs shall end.
    Interrupt,
    /// The session shall end after the turn that runs.
    Close,
}

impl Input {
    /// The line, with its newline, in ASCII: a transport may cut it anywhere.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        let json = serde_json::to_string(self).unwrap_or_default();
        let mut line = Vec::with_capacity(json.len() + 1);
        for char in json.chars() {
            if char.is_ascii() {
                line.push(char as u8);
            } else {
                let mut units = [0; 2];
                for unit in char.encode_utf16(&mut units) {
                    line.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
            }
        }
        line.push(b'\n');
        line
    }
}
