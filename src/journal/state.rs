//! `state.json`: how a run stands, for whoever comes by later.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;
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

    /// Replaces the file at `path`, all or nothing. A disk that has no room for a second file gets the text written over
    /// the first: a state that may be torn by a crash is worth more than one that says `running` for ever.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        let fresh = path.with_extension("json.new");
        match replace(&fresh, path, &text) {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded
                ) =>
            {
                fs::remove_file(&fresh).ok();
                overwrite(path, &text)
            }
            outcome => outcome,
        }
    }
}

fn replace(fresh: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    // One that a crash left, or a link that somebody put there, is not written through.
    match fs::remove_file(fresh) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(fresh)?;
    file.write_all(text)?;
    fs::rename(fresh, path)
}

fn overwrite(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)?;
    // The blocks it has are used before they are given back.
    file.write_all(text)?;
    file.set_len(text.len() as u64)
}
