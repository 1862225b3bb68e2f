//! The directory that holds every run's journal, where nobody chose it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

/// Who else may write into a directory: its group and everybody.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Makes the directory, and those above it, unless it is there.
pub(super) fn make(root: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(root)
}

/// Refuses a directory that somebody else has made or may write to: in a place that everybody shares, a stranger can be
/// there first.
pub(super) fn require_private(root: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(root)?;
    let problem = if !metadata.is_dir() {
        "it is a link or a file, not a directory"
    } else if metadata.uid() != nix::unistd::geteuid().as_raw() {
        "it belongs to another user"
    } else if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        "others may write to it"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;
    use crate::journal::{Journal, JournalError};

    fn refusal(root: &Path) -> String {
        match Journal::create_private(root, "run-1") {
            Err(JournalError::Create { source, .. }) => source.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_root_that_is_not_ours_alone_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let ours = place.path().join("ours");
        Journal::create_private(&ours, "run-1").unwrap();

        let shared = place.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refusal(&shared).contains("others may write"));
        // Whoever names a shared directory gets it; the run's own directory is private in any case.
        Journal::create(&shared, "run-1").unwrap();

        let link = place.path().join("link");
        symlink(&ours, &link).unwrap();
        assert!(refusal(&link).contains("a link"));

        let foreign = place.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        // Only root may give a directory away.
        if chown(&foreign, Some(1), Some(1)).is_ok() {
            assert!(refusal(&foreign).contains("another user"));
            assert_eq!(fs::read_dir(&foreign).unwrap().count(), 0);
        }
    }
}
