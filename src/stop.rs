//! `sandtrace stop`: asks a run to stop, as SIGTERM does, from another terminal or by whoever knows only its id.
//!
//! `state.json` names the supervisor by pid and start time. A pid alone may be anybody's by now, so nobody is signalled
//! but the process that was started at that time.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use thiserror::Error;

use crate::cli::StopConfig;
use crate::journal::{self, LocateError, Located, RunState, STATE, Status};
use crate::process::{Sent, sees_processes, signal_exactly};

/// Exit code for a run whose supervisor is gone without having finished it (DESIGN §3, as `attach` has it).
const GONE: u8 = 3;
const FAILED: u8 = 125;

/// What came of the request.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// The supervisor has the signal. Its agent may take the time of the grace to end.
    Asked { run_id: String, pid: u32 },
    /// There was nothing to stop.
    FinishedBefore {
        run_id: String,
        outcome: Option<&'static str>,
    },
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked { run_id, pid } => {
                write!(
                    f,
                    "asked run {run_id} to stop: SIGTERM to its supervisor, pid {pid}"
                )
            }
            Self::FinishedBefore { run_id, outcome } => write!(
                f,
                "run {run_id} has finished before ({}), so there is nothing to stop",
                outcome.unwrap_or("its outcome is not known")
            ),
        }
    }
}

/// Why nobody was asked.
#[derive(Debug, Error)]
pub enum StopError {
    #[error(transparent)]
    Locate(#[from] LocateError),
    #[error("{} is a file, name the run by its id or its directory", .0.display())]
    File(PathBuf),
    #[error("cannot read {}: {source}; name a run by its id or its directory", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is no state of a run ({source}), so nobody knows whom to ask; look for the supervisor with `ps`", path.display())]
    NotAState {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(
        "pid {pid} cannot be told to be the supervisor of run {run_id}, for {why}; if you are sure that it is, kill -TERM {pid}"
    )]
    Unverifiable {
        run_id: String,
        pid: u32,
        why: &'static str,
    },
    #[error(
        "the supervisor of run {run_id}, pid {pid}, is gone without having finished the run; `sandtrace report {run_id}` shows how far it got"
    )]
    Gone { run_id: String, pid: u32 },
    #[error(
        "cannot signal the supervisor of run {run_id}, pid {pid}: {}; try again as its user or as root",
        errno.desc()
    )]
    Refused {
        run_id: String,
        pid: u32,
        errno: Errno,
    },
}

impl StopError {
    /// The code to exit with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Gone { .. } => GONE,
            _ => FAILED,
        }
    }
}

/// Asks the run that the user named to stop, and does not wait for its end.
pub fn stop(config: &StopConfig) -> Result<Stopped, StopError> {
    let directory = find(&config.run, config.journal.root())?;
    let state = read(&directory)?;
    let (run_id, pid) = (state.run_id.clone(), state.supervisor_pid);
    if state.status == Status::Finished {
        return Ok(finished(state));
    }
    let unverifiable = |why| StopError::Unverifiable {
        run_id: run_id.clone(),
        pid,
        why,
    };
    if state.supervisor_start_ticks == 0 {
        return Err(unverifiable("its start time was not to be had"));
    }
    if !sees_processes() {
        return Err(unverifiable("there is no /proc of this pid namespace"));
    }
    // A pid that does not fit is no process's.
    let sent = i32::try_from(pid).map_or(Sent::Gone, |number| {
        let pid = Pid::from_raw(number);
        signal_exactly(pid, state.supervisor_start_ticks, Signal::SIGTERM)
    });
    match sent {
        Sent::Yes => Ok(Stopped::Asked { run_id, pid }),
        Sent::Refused(errno) => Err(StopError::Refused { run_id, pid, errno }),
        // It may have finished since its state was read.
        Sent::Gone => match read(&directory) {
            Ok(state) if state.status == Status::Finished => Ok(finished(state)),
            _ => Err(StopError::Gone { run_id, pid }),
        },
    }
}

fn find(run: &OsStr, root: Option<&Path>) -> Result<PathBuf, StopError> {
    match journal::locate(run, root)? {
        Located::Directory(directory) => Ok(directory),
        Located::File(path) => Err(StopError::File(path)),
    }
}

fn read(directory: &Path) -> Result<RunState, StopError> {
    let path = directory.join(STATE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(source) => return Err(StopError::Unreadable { path, source }),
    };
    serde_json::from_slice(&text).map_err(|source| StopError::NotAState { path, source })
}

fn finished(state: RunState) -> Stopped {
    Stopped::FinishedBefore {
        run_id: state.run_id,
        outcome: state.outcome.map(|outcome| outcome.as_str()),
    }
}
