//! What other runs have left in their spools.
//!
//! A spool is anybody's once its lock is free: its supervisor is gone then, whatever `state.json` says. Only directories
//! of our own user are looked at, for what is found is sent with our credentials.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::{BLOCK_BYTES, DIRECTORY, Damage, ENDING, Header, LARGEST_FILE, LOCK, decode, line};

/// The most files of one spool: more than its cap has room for.
const MOST_FILES: usize = 20_000;
/// Enough of a file for its first line.
const FIRST_LINE: u64 = 8 << 10;

/// A spool that is ours alone until this is dropped; if nothing is in it then, it is removed.
#[derive(Debug)]
pub(crate) struct Taken {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let only_lock = fs::read_dir(&self.directory)
            .is_ok_and(|entries| entries.flatten().all(|entry| entry.file_name() == LOCK));
        if only_lock {
            // What cannot be removed is tried again by the next run.
            fs::remove_file(self.directory.join(LOCK)).ok();
            fs::remove_dir(&self.directory).ok();
        }
    }
}

/// A request that a run has left.
#[derive(Debug)]
pub(crate) struct Found {
    path: PathBuf,
    /// Of the file.
    pub(crate) bytes: u64,
    pub(crate) written: SystemTime,
    /// Keeps everybody else out.
    _spool: Option<Arc<Taken>>,
}

/// Why a request cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FoundError {
    /// It is gone, or the disk fails. Nothing is known of it.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// It must never be sent, or not by us.
    #[error(transparent)]
    Damage(#[from] Damage),
}

impl Found {
    /// What it takes of the disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.bytes.next_multiple_of(BLOCK_BYTES)
    }

    /// What its first line says.
    pub(crate) fn header(&self) -> Result<Header, FoundError> {
        let mut start = Vec::new();
        open(&self.path)?.take(FIRST_LINE).read_to_end(&mut start)?;
        let (header, _) = line(&start)?;
        Ok(header)
    }

    /// The whole of it, verified.
    pub(crate) fn read(&self) -> Result<(Header, Bytes), FoundError> {
        let mut bytes = Vec::new();
        open(&self.path)?
            .take(LARGEST_FILE)
            .read_to_end(&mut bytes)?;
        Ok(decode(bytes)?)
    }

    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Who may go on while we look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nobody else, as long as the spool or any of its requests is held.
    Alone,
    /// Everybody; nothing may be sent or removed.
    Look,
}

/// What became of asking for a spool.
#[derive(Debug)]
pub(crate) enum Asked {
    Free(FreeSpool),
    /// Somebody is using it.
    InUse,
    /// There is none any more.
    Gone,
}

/// A spool that no run is using, and its requests in the order in which they were made.
#[derive(Debug)]
pub(crate) struct FreeSpool {
    directory: PathBuf,
    names: std::vec::IntoIter<String>,
    taken: Option<Arc<Taken>>,
    /// Where others may look too.
    _look: Option<Flock<File>>,
}

impl FreeSpool {
    /// Asks for the spool in a directory of [`spools`].
    pub(crate) fn ask(directory: &Path, access: Access) -> Asked {
        let Ok(lock) = open(&directory.join(LOCK)) else {
            return Asked::Gone;
        };
        let how = match access {
            Access::Alone => FlockArg::LockExclusiveNonblock,
            Access::Look => FlockArg::LockSharedNonblock,
        };
        let Ok(lock) = Flock::lock(lock, how) else {
            return Asked::InUse;
        };
        // Whoever had it before may have emptied and removed it.
        if !lock.metadata().is_ok_and(|metadata| metadata.nlink() > 0) {
            return Asked::Gone;
        }
        let mut names = files(directory);
        names.sort_unstable();
        let directory = directory.to_owned();
        let (taken, look) = match access {
            Access::Alone => {
                let directory = directory.clone();
                let taken = Taken {
                    directory,
                    _lock: lock,
                };
                (Some(Arc::new(taken)), None)
            }
            Access::Look => (None, Some(lock)),
        };
        Asked::Free(Self {
            directory,
            names: names.into_iter(),
            taken,
            _look: look,
        })
    }
}

impl Iterator for FreeSpool {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            let path = self.directory.join(self.names.next()?);
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            return Some(Found {
                path,
                bytes: metadata.len(),
                written: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                _spool: self.taken.clone(),
            });
        }
    }
}

/// The directories of all spools below a root, by the start of their runs.
pub(crate) fn spools(root: &Path) -> Vec<PathBuf> {
    let Ok(runs) = fs::read_dir(root) else {
        return Vec::new();
    };
    let mut spools: Vec<_> = runs
        .flatten()
        .filter_map(|run| {
            let directory = run.path().join(DIRECTORY);
            let is_ours = is_own(&run.path()) && is_own(&directory);
            let lock = fs::symlink_metadata(directory.join(LOCK)).ok()?;
            let began = lock.modified().ok()?;
            (is_ours && lock.is_file()).then_some((began, directory))
        })
        .collect();
    spools.sort_unstable();
    spools.into_iter().map(|(_, directory)| directory).collect()
}

fn is_own(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|metadata| {
        metadata.is_dir() && metadata.uid() == nix::unistd::geteuid().as_raw()
    })
}

/// The names of the requests in a spool.
fn files(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name.ends_with(ENDING))
        .take(MOST_FILES)
        .collect()
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        // A pipe that somebody put there must not hold us.
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
}
