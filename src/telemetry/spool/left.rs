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

use super::{DIRECTORY, Damage, ENDING, Header, LARGEST_FILE, LOCK, decode, line};

/// The most spools that are looked at, each of which takes a file descriptor.
const MOST_SPOOLS: usize = 256;
/// The most requests that are looked at.
pub(crate) const MOST_REQUESTS: usize = 10_000;
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
    /// It must never be sent.
    #[error(transparent)]
    Damage(#[from] Damage),
}

impl Found {
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

/// What is below a root, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) requests: Vec<Found>,
    /// Spools that somebody is using.
    pub(crate) in_use: u64,
}

/// Who may go on while we look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nobody else, as long as any of the requests is held.
    Alone,
    /// Everybody; nothing may be sent or removed.
    Look,
}

/// Finds what runs below `root` have left, and keeps it from everybody else if that is asked for.
pub(crate) fn find(root: &Path, access: Access) -> Left {
    let mut left = Left::default();
    for directory in spools(root).into_iter().take(MOST_SPOOLS) {
        let Ok(lock) = open(&directory.join(LOCK)) else {
            continue;
        };
        let how = match access {
            Access::Alone => FlockArg::LockExclusiveNonblock,
            Access::Look => FlockArg::LockSharedNonblock,
        };
        let Ok(lock) = Flock::lock(lock, how) else {
            left.in_use += 1;
            continue;
        };
        // Whoever had it before may have emptied and removed it.
        if !lock.metadata().is_ok_and(|metadata| metadata.nlink() > 0) {
            continue;
        }
        let mut names = files(&directory);
        names.sort_unstable();
        let spool = (access == Access::Alone).then(|| {
            Arc::new(Taken {
                directory: directory.clone(),
                _lock: lock,
            })
        });
        for name in names {
            if left.requests.len() >= MOST_REQUESTS {
                return left;
            }
            let path = directory.join(name);
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            left.requests.push(Found {
                path,
                bytes: metadata.len(),
                written: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                _spool: spool.clone(),
            });
        }
    }
    left
}

/// The spools below a root, by the start of their runs.
fn spools(root: &Path) -> Vec<PathBuf> {
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
        .take(MOST_REQUESTS)
        .collect()
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        // A pipe that somebody put there must not hold us.
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
}
