//! Journals that have outlived their use.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{EVENTS, STATE};

/// Journals older than this are removed (DESIGN §3).
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Removes the journals below `root` in which nothing was written for a week, and returns how many. Only directories
/// that are plainly journals are touched.
///
/// # Errors
///
/// The error of reading `root`; what cannot be removed is left.
pub fn remove_old_runs(root: &Path, now: SystemTime) -> io::Result<u64> {
    let mut removed = 0;
    for entry in fs::read_dir(root)? {
        let directory = entry?.path();
        let is_journal = directory.join(EVENTS).is_file() && directory.join(STATE).is_file();
        let is_own = fs::symlink_metadata(&directory).is_ok_and(|metadata| metadata.is_dir());
        if is_journal && is_own && is_old(&directory, now) && fs::remove_dir_all(&directory).is_ok()
        {
            removed += 1;
        }
    }
    Ok(removed)
}

/// A run that is alive writes at least a heartbeat every 20 seconds, so the age of its files tells enough.
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
    use crate::journal::state::{RunState, Status};

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
}
