//! Journals that have outlived their use.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{EVENTS, RunState, STATE, Status};
use crate::process::start_ticks;

/// Journals older than this are removed (DESIGN §3).
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What a journal is called while it is removed. No run can be called so: `@` may not stand in a run id.
const REMOVING: &str = ".removing@";

/// Removes the journals below `root` in which nothing was written for a week, and returns how many. Only directories of
/// ours that are plainly journals are touched, and no run that still goes on: a stopped sandbox can sleep for longer
/// than a week.
///
/// This thread dies with the process at any moment, so a journal loses its name first; what an earlier start left of
/// one is removed as well.
///
/// # Errors
///
/// The error of reading `root`; what cannot be removed is left.
pub fn remove_old_runs(root: &Path, now: SystemTime) -> io::Result<u64> {
    let mut removed = 0;
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let directory = entry.path();
        if !is_own(&directory) {
            continue;
        }
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(REMOVING.as_bytes()) {
            fs::remove_dir_all(&directory).ok();
            continue;
        }
        let is_journal = directory.join(EVENTS).is_file() && directory.join(STATE).is_file();
        if !is_journal || !is_old(&directory, now) || is_alive(&directory) {
            continue;
        }
        let mut doomed = OsString::from(REMOVING);
        doomed.push(name);
        let doomed = root.join(doomed);
        if fs::rename(&directory, &doomed).is_ok() {
            fs::remove_dir_all(&doomed).ok();
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_own(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|metadata| {
        metadata.is_dir() && metadata.uid() == nix::unistd::geteuid().as_raw()
    })
}

/// Whether its supervisor is there. Without a journal to write to, or while the sandbox is paused, it writes nothing.
fn is_alive(directory: &Path) -> bool {
    let state = fs::read(directory.join(STATE)).ok();
    let state = state.and_then(|bytes| serde_json::from_slice::<RunState>(&bytes).ok());
    state.is_some_and(|state| {
        state.status == Status::Running
            && start_ticks(state.supervisor_pid) == Some(state.supervisor_start_ticks)
    })
}

/// Nothing was written to it for long.
fn is_old(directory: &Path, now: SystemTime) -> bool {
    let newest = [EVENTS, STATE]
        .iter()
        .filter_map(|name| fs::metadata(directory.join(name)).ok()?.modified().ok())
        .max();
    newest.is_some_and(|newest| now.duration_since(newest).is_ok_and(|age| age > KEPT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;
    use crate::process::own_start_ticks;

    #[test]
    fn only_journals_older_than_a_week_are_removed() {
        let root = tempfile::tempdir().unwrap();
        for run in ["one", "two"] {
            let journal = Journal::create(root.path(), run).unwrap();
            let state = RunState {
                run_id: run.to_owned(),
                ..RunState::new(Status::Finished)
            };
            journal.write_state(&state).unwrap();
        }
        fs::create_dir(root.path().join("somebody-elses")).unwrap();
        fs::write(root.path().join("somebody-elses/notes"), "x").unwrap();
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(
            remove_old_runs(root.path(), SystemTime::now() + 6 * day).unwrap(),
            0
        );
        assert_eq!(
            remove_old_runs(root.path(), SystemTime::now() + 8 * day).unwrap(),
            2
        );
        assert!(root.path().join("somebody-elses/notes").exists());
        assert!(!root.path().join("one").exists());
    }

    #[test]
    fn a_run_that_goes_on_is_never_removed() {
        let root = tempfile::tempdir().unwrap();
        let ticks = own_start_ticks().unwrap();
        for (run, ticks) in [("alive", ticks), ("dead", ticks + 1)] {
            let journal = Journal::create(root.path(), run).unwrap();
            let state = RunState {
                supervisor_pid: std::process::id(),
                supervisor_start_ticks: ticks,
                ..RunState::new(Status::Running)
            };
            journal.write_state(&state).unwrap();
        }
        let later = SystemTime::now() + 2 * KEPT;
        assert_eq!(remove_old_runs(root.path(), later).unwrap(), 1);
        assert!(root.path().join("alive").exists());
        assert!(!root.path().join("dead").exists());
    }

    #[test]
    fn what_an_interrupted_removal_left_goes_at_the_next_start() {
        let root = tempfile::tempdir().unwrap();
        let half = root.path().join(".removing@one");
        fs::create_dir(&half).unwrap();
        fs::write(half.join(EVENTS), "x").unwrap();
        assert_eq!(remove_old_runs(root.path(), SystemTime::now()).unwrap(), 0);
        assert!(!half.exists());
    }
}
