//! `state.json`: how a run stands, for whoever comes by later.

use sandtrace_client::wire::Outcome;
use serde::{Deserialize, Serialize};

/// Whether the run goes on. A supervisor that was killed leaves `running` behind; its pid and start time tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Running,
    Finished,
}

/// The content of `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub run_id: String,
    pub status: Status,
    /// The supervisor's process id and its start time in clock ticks since boot, which together name one process.
    pub supervisor_pid: u32,
    pub supervisor_start_ticks: u64,
    /// The agent's process id, once it runs.
    #[serde(default)]
    pub agent_pid: Option<u32>,
    pub trace_id: String,
    /// RFC 3339.
    pub started: String,
    #[serde(default)]
    pub ended: Option<String>,
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// The last sequence number, once the run has finished.
    #[serde(default)]
    pub last_seq: Option<u64>,
}

impl RunState {
    /// A state with nothing in it but its status.
    #[must_use]
    pub fn new(status: Status) -> Self {
        Self {
            run_id: String::new(),
            status,
            supervisor_pid: 0,
            supervisor_start_ticks: 0,
            agent_pid: None,
            trace_id: String::new(),
            started: String::new(),
            ended: None,
            outcome: None,
            last_seq: None,
        }
    }
}
