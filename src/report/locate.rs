//! From what the user typed to the files of a run.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::ReportError;
use crate::cli::{Journal, is_run_id};

/// The names of the files in a run's directory, as the report lists them.
const FILES: [&str; 5] = [EVENTS, TRACES, "metrics.jsonl", "logs.jsonl", "state.json"];
const EVENTS: &str = "events.ndjson";
const TRACES: &str = "traces.jsonl";

/// How many runs to name when the one that was asked for is not there.
const SUGGESTIONS: usize = 5;

/// The files to read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) events: Option<PathBuf>,
    pub(super) traces: Option<PathBuf>,
    /// All files that are there, for the reader to know.
    pub(super) files: Vec<PathBuf>,
}

/// Finds a run: its id below the journal's directory comes first, then a path.
pub(super) fn locate(run: &OsStr, journal: &Journal) -> Result<Located, ReportError> {
    let mut looked = Vec::new();
    if let (Journal::Directory(root), Some(id)) = (journal, run.to_str().filter(|id| is_run_id(id)))
    {
        let directory = root.join(id);
        if directory.is_dir() {
            return in_directory(&directory);
        }
        looked.push(directory);
    }
    let path = PathBuf::from(run);
    if path.is_dir() {
        return in_directory(&path);
    }
    if path.is_file() {
        return of_file(path);
    }
    looked.push(path);
    let newest = match journal {
        Journal::Directory(root) => newest_runs(root),
        Journal::Off => Vec::new(),
    };
    Err(ReportError::NoSuchRun {
        run: run.to_string_lossy().into_owned(),
        looked,
        newest,
    })
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
            Some((written(EVENTS).or_else(|| written(TRACES))?, id))
        })
        .collect();
    runs.sort_unstable_by(|a, b| b.cmp(a));
    runs.into_iter()
        .take(SUGGESTIONS)
        .map(|(_, id)| id)
        .collect()
}
