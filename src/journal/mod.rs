//! The run's directory: what was said, what was concluded, and how the run stands.
//!
//! ```text
//! ROOT/RUN_ID/  0700
//!   events.ndjson   every wire line, in order of `seq`
//!   traces.jsonl    finished spans as OTLP JSON lines (written by the exporter)
//!   state.json      who supervises the run, and how it ended
//! ```
//!
//! A line stands here before the host gets it, so the journal is also what the echo falls back on. A journal that
//! cannot be made or written to is a warning, never the end of a run. One run keeps at most [`CAP_BYTES`]; above that
//! the oldest resource samples and span copies go, then the oldest output of the agent, never a lifecycle line; each
//! is counted. Runs older than a week are removed when the next one starts.

mod compaction;
mod retention;
mod state;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::compaction::Dropped;
pub use self::retention::remove_old_runs;
pub use self::state::{RunState, Status};

/// Bytes of one run's journal, span copies included (DESIGN §3).
pub const CAP_BYTES: u64 = 256 << 20;
/// The share of the cap that span copies may take.
pub const TRACES_CAP_BYTES: u64 = 64 << 20;
/// The share that events may take.
const EVENTS_CAP_BYTES: u64 = CAP_BYTES - TRACES_CAP_BYTES;

const EVENTS: &str = "events.ndjson";
const TRACES: &str = "traces.jsonl";
const STATE: &str = "state.json";

/// Why a journal could not be made.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The run id is taken. Two runs must not write into one journal.
    #[error("a run with the id '{run_id}' exists already in {root}")]
    RunExists { run_id: String, root: PathBuf },
    /// The directory or a file in it could not be made.
    #[error("failed to create {path}")]
    Create { path: PathBuf, source: io::Error },
}

/// The journal of one run, open for writing.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    events: Arc<File>,
    length: u64,
    cap: u64,
    /// Set by the first write that failed; nothing is written after it.
    broken: bool,
}

/// Where a batch stands in the events file.
#[derive(Debug, Clone)]
pub struct Written {
    pub file: Arc<File>,
    pub from: u64,
}

impl Journal {
    /// Makes the run's directory, readable by its owner alone.
    ///
    /// # Errors
    ///
    /// [`JournalError::RunExists`] if the run id is taken, else [`JournalError::Create`].
    pub fn create(root: &Path, run_id: &str) -> Result<Self, JournalError> {
        let create = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Create { path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(create(root))?;
        let directory = root.join(run_id);
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(JournalError::RunExists {
                    run_id: run_id.to_owned(),
                    root: root.to_owned(),
                });
            }
            Err(source) => {
                return Err(JournalError::Create {
                    path: directory,
                    source,
                });
            }
        }
        let path = directory.join(EVENTS);
        let events = new_file(&path).map_err(create(&path))?;
        Ok(Self {
            directory,
            events: Arc::new(events),
            length: 0,
            cap: EVENTS_CAP_BYTES,
            broken: false,
        })
    }

    /// The run's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file for the exporter's span copies.
    ///
    /// # Errors
    ///
    /// The error of open(2).
    pub fn traces_file(&self) -> io::Result<File> {
        new_file(&self.directory.join(TRACES))
    }

    /// Appends whole lines and says where they stand; `None` once the journal is broken.
    ///
    /// # Errors
    ///
    /// The first write that fails; after it every call gives `Ok(None)`.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<Option<Written>> {
        if self.broken {
            return Ok(None);
        }
        let from = self.length;
        if let Err(error) = (&*self.events).write_all(lines) {
            self.broken = true;
            return Err(error);
        }
        self.length += lines.len() as u64;
        Ok(Some(Written {
            file: Arc::clone(&self.events),
            from,
        }))
    }

    /// Makes room if the journal has reached its cap. The file is replaced; who still reads the old one keeps it.
    ///
    /// # Errors
    ///
    /// The error of reading, writing or renaming; the journal goes on unchanged.
    pub fn compact_if_full(&mut self) -> io::Result<Option<Dropped>> {
        if self.broken || self.length < self.cap {
            return Ok(None);
        }
        let path = self.directory.join(EVENTS);
        let fresh = self.directory.join("events.ndjson.new");
        // A fresh file of an attempt that failed is in nobody's use.
        match fs::remove_file(&fresh) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let target = new_file(&fresh)?;
        let outcome = compaction::compact(&self.events, &target, self.cap / 2);
        match outcome {
            Ok((length, dropped)) => {
                fs::rename(&fresh, &path)?;
                self.events = Arc::new(target);
                self.length = length;
                Ok(Some(dropped))
            }
            Err(error) => {
                // Trying again with every line would cost more than a file above its cap.
                self.cap = u64::MAX;
                fs::remove_file(&fresh)?;
                Err(error)
            }
        }
    }

    /// Writes how the run stands, all or nothing.
    ///
    /// # Errors
    ///
    /// The error of writing or renaming.
    pub fn write_state(&self, state: &RunState) -> io::Result<()> {
        let path = self.directory.join(STATE);
        let fresh = self.directory.join("state.json.new");
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(state)?)?;
        fs::rename(fresh, path)
    }
}

/// A new file for appending, readable by its owner alone. `O_EXCL` follows no link that somebody left there.
fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_journal_is_its_owners_alone() {
        let root = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(&root.path().join("a/b"), "run-1").unwrap();
        journal.append(b"{}\n").unwrap();
        journal.traces_file().unwrap();
        assert_eq!(mode(journal.directory()), 0o700);
        assert_eq!(mode(&journal.directory().join(EVENTS)), 0o600);
        assert_eq!(mode(&journal.directory().join(TRACES)), 0o600);
    }

    #[test]
    fn a_run_id_is_used_once() {
        let root = tempfile::tempdir().unwrap();
        Journal::create(root.path(), "run-1").unwrap();
        assert!(matches!(
            Journal::create(root.path(), "run-1"),
            Err(JournalError::RunExists { .. })
        ));
    }

    #[test]
    fn a_batch_says_where_it_stands() {
        let root = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(root.path(), "run-1").unwrap();
        journal.append(b"12345\n").unwrap();
        let written = journal.append(b"678\n").unwrap().unwrap();
        assert_eq!(written.from, 6);
    }

    #[test]
    fn a_full_journal_drops_the_least_of_it_first_and_counts() {
        let root = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(root.path(), "run-1").unwrap();
        journal.cap = 40_000;
        let old = Arc::clone(&journal.events);
        journal
            .append(b"{\"type\":\"sandtrace.run.started\",\"data\":{}}\n")
            .unwrap();
        for n in 0..200 {
            let sample = format!(
                "{{\"type\":\"sandtrace.resources\",\"data\":{{\"n\":{n},\"pad\":\"{:0>100}\"}}}}\n",
                0
            );
            let line = format!(
                "{{\"type\":\"assistant\",\"n\":{n},\"pad\":\"{:0>100}\"}}\n",
                0
            );
            journal.append(sample.as_bytes()).unwrap();
            journal.append(line.as_bytes()).unwrap();
        }
        let dropped = journal.compact_if_full().unwrap().unwrap();
        let text = fs::read_to_string(journal.directory().join(EVENTS)).unwrap();
        assert_eq!(text.len() as u64, journal.length);
        assert!(journal.length <= 20_000, "{}", journal.length);
        assert!(text.starts_with("{\"type\":\"sandtrace.run.started\""));
        assert_eq!(dropped.resources, 200);
        assert!(dropped.output > 0);
        assert_eq!(
            text.lines().count() as u64,
            401 - dropped.resources - dropped.spans - dropped.output
        );
        assert!(text.contains("\"n\":199"), "the newest output stays");
        assert!(
            old.metadata().unwrap().len() > 40_000,
            "a reader of the old file keeps it"
        );
        journal.append(b"{\"later\":1}\n").unwrap();
        assert!(
            fs::read_to_string(journal.directory().join(EVENTS))
                .unwrap()
                .ends_with("{\"later\":1}\n")
        );
    }
}
