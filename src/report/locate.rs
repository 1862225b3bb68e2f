//! From what the user typed to the files of a run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::ReportError;
use crate::cli::Journal;
use crate::journal;

/// The names of the files in a run's directory, as the report lists them.
const FILES: [&str; 5] = [EVENTS, TRACES, "metrics.jsonl", "logs.jsonl", "state.json"];
const EVENTS: &str = "events.ndjson";
const TRACES: &str = "traces.jsonl";

/// The files to read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) events: Option<PathBuf>,
    pub(super) traces: Option<PathBuf>,
    /// All files that are there, for the reader to know.
    pub(super) files: Vec<PathBuf>,
}

/// Finds a run's files, or takes the one that was named.
pub(super) fn locate(run: &OsStr, journal: &Journal) -> Result<Located, ReportError> {
    match journal::locate(run, journal.root())? {
        journal::Located::Directory(directory) => in_directory(&directory),
        journal::Located::File(path) => of_file(path),
    }
}

fn in_directory(directory: &Path) -> Result<Located, ReportError> {
    let existing = |name: &str| Some(directory.join(name)).filter(|path| path.is_file());
    let located = Located {
        events: existing(EVENTS),
        traces: existing(TRACES),
        files: FILES.into_iter().filter_map(existing).collect(),
    };
    if located.events.is_none() && located.traces.is_none() {
        return Err(ReportError::NoJournal {
            directory: directory.to_owned(),
        });
    }
    Ok(located)
}

/// A single file may have been copied out of a sandbox, so nothing is assumed about its neighbours.
fn of_file(path: PathBuf) -> Result<Located, ReportError> {
    let mut located = Located {
        files: vec![path.clone()],
        ..Located::default()
    };
    match path.extension().and_then(OsStr::to_str) {
        Some("ndjson") => located.events = Some(path),
        Some("jsonl") => located.traces = Some(path),
        _ => return Err(ReportError::UnknownFile { path }),
    }
    Ok(located)
}
