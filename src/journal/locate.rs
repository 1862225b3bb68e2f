//! From what the user typed to a run that is kept here.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::{Copies, EVENTS};
use crate::cli::is_run_id;

/// How many runs to name when the one that was asked for is not there.
const SUGGESTIONS: usize = 5;

/// What a run's name led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// A directory, of a run as it seems.
    Directory(PathBuf),
    /// A file; it may have been copied out of a sandbox, so nothing is known of its neighbours.
    File(PathBuf),
}

/// Why a name led to nothing.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    #[error(
        "there is no run {run:?}: looked for {}; {}",
        List(looked),
        Newest(newest)
    )]
    NoSuchRun {
        run: String,
        looked: Vec<PathBuf>,
        /// Ids, the newest first.
        newest: Vec<String>,
    },
    #[error("cannot look into {}: {source}", path.display())]
    Forbidden { path: PathBuf, source: io::Error },
}

/// Finds a run: its id below the journals' root comes first, then a path.
///
/// # Errors
///
/// [`LocateError::NoSuchRun`] if neither is there, [`LocateError::Forbidden`] if that cannot be told.
pub fn locate(run: &OsStr, root: Option<&Path>) -> Result<Located, LocateError> {
    let mut looked = Vec::new();
    if let (Some(root), Some(id)) = (root, run.to_str().filter(|id| is_run_id(id))) {
        let directory = root.join(id);
        if look(&directory)?.is_some_and(|metadata| metadata.is_dir()) {
            return Ok(Located::Directory(directory));
        }
        looked.push(directory);
    }
    let path = PathBuf::from(run);
    match look(&path)? {
        Some(metadata) if metadata.is_dir() => return Ok(Located::Directory(path)),
        Some(metadata) if metadata.is_file() => return Ok(Located::File(path)),
        _ => looked.push(path),
    }
    Err(LocateError::NoSuchRun {
        run: run.to_string_lossy().into_owned(),
        looked,
        newest: root.map(newest_runs).unwrap_or_default(),
    })
}

fn look(path: &Path) -> Result<Option<Metadata>, LocateError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(LocateError::Forbidden {
                path: path.to_owned(),
                source,
            })
        }
        Err(_) => Ok(None),
    }
}

/// The ids of the runs that were written to last, the newest first.
fn newest_runs(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root) else {
        return Vec::new();
    };
    let mut runs: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let id = entry
                .file_name()
                .into_string()
                .ok()
                .filter(|id| is_run_id(id))?;
            let directory = entry.path();
            let written = |name| fs::metadata(directory.join(name)).ok()?.modified().ok();
            Some((
                written(EVENTS).or_else(|| written(Copies::Traces.file_name()))?,
                id,
            ))
        })
        .collect();
    runs.sort_unstable_by(|a, b| b.cmp(a));
    runs.into_iter()
        .take(SUGGESTIONS)
        .map(|(_, id)| id)
        .collect()
}

struct List<'a>(&'a [PathBuf]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, path) in self.0.iter().enumerate() {
            let between = if at == 0 { "" } else { " and " };
            write!(f, "{between}{}", path.display())?;
        }
        Ok(())
    }
}

struct Newest<'a>(&'a [String]);

impl fmt::Display for Newest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("no run is kept there"),
            [only] => write!(f, "the only run there is {only}"),
            ids => write!(f, "the newest runs there are {}", ids.join(", ")),
        }
    }
}
