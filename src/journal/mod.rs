//! The run's directory: what was said, what was concluded, and how the run stands.
//!
//! ```text
//! ROOT/RUN_ID/  0700
//!   events.ndjson   every wire line, in order of `seq`
//!   traces.jsonl    finished spans as OTLP JSON lines (written by the exporter)
//!   metrics.jsonl   likewise metrics
//!   logs.jsonl      likewise log records
//!   state.json      who supervises the run, and how it ended
//!   spool/          requests that no backend has taken yet, 64 MiB at most (`telemetry::spool`)
//! ```
//!
//! A line stands here before the host gets it, so the journal is also what the echo falls back on. A journal that
//! cannot be made or written to is a warning, never the end of a run. One run keeps at most [`CAP_BYTES`]; above that
//! the oldest resource samples and span copies go, then the oldest output of the agent, never a lifecycle line; each
//! is counted. Runs older than a week are removed when the next one starts.
//!
//! A journal that is made smaller is written anew, for which the disk briefly holds half a cap more. The file before it
//! goes once its readers let go of it; the echo holds at most one such file while a host stands still, so a run takes
//! no more of the disk than its cap and one old file of events.

mod compaction;
mod locate;
mod retention;
mod root;
mod state;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::compaction::{Dropped, Moved};
pub use self::locate::{LocateError, Located, locate};
pub use self::retention::remove_old_runs;
pub use self::state::{RunState, Status};

/// Bytes of one run's journal, span copies included (DESIGN §3).
pub const CAP_BYTES: u64 = 256 << 20;
/// The share of the cap that span copies may take.
const TRACES_CAP_BYTES: u64 = 64 << 20;
/// The share that copies of metrics may take, and those of logs.
const SIGNAL_CAP_BYTES: u64 = 16 << 20;
/// The share that events may take.
const EVENTS_CAP_BYTES: u64 = CAP_BYTES - TRACES_CAP_BYTES - 2 * SIGNAL_CAP_BYTES;

pub(crate) const EVENTS: &str = "events.ndjson";
pub(crate) const STATE: &str = "state.json";

/// The exporter's own copies of what it sends, as OTLP JSON lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    Traces,
    Metrics,
    Logs,
}

impl Copies {
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Traces => "traces.jsonl",
            Self::Metrics => "metrics.jsonl",
            Self::Logs => "logs.jsonl",
        }
    }

    /// The most bytes that they may take.
    #[must_use]
    pub fn cap_bytes(self) -> u64 {
        match self {
            Self::Traces => TRACES_CAP_BYTES,
            Self::Metrics | Self::Logs => SIGNAL_CAP_BYTES,
        }
    }
}

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
        root::make(root).map_err(not_created(root))?;
        Self::create_in(root, run_id)
    }

    /// As [`Self::create`], in a root that nobody chose: it must be a directory that only we can write to.
    ///
    /// # Errors
    ///
    /// Those of [`Self::create`].
    pub fn create_private(root: &Path, run_id: &str) -> Result<Self, JournalError> {
        root::make(root)
            .and_then(|()| root::require_private(root))
            .map_err(not_created(root))?;
        Self::create_in(root, run_id)
    }

    /// Makes the run's directory below a root that is there. Made by us, it is ours, whoever owns the root.
    fn create_in(root: &Path, run_id: &str) -> Result<Self, JournalError> {
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
        let events = new_file(&path).map_err(not_created(&path))?;
        Ok(Self {
            directory,
            events: Arc::new(events),
            length: 0,
            cap: EVENTS_CAP_BYTES,
            broken: false,
        })
    }

    /// As if events had this share of the disk.
    #[cfg(test)]
    pub(crate) fn with_cap(mut self, cap: u64) -> Self {
        self.cap = cap;
        self
    }

    /// The run's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Moves the run's directory to the name of another run; the open files move with it.
    ///
    /// # Errors
    ///
    /// The error of rename(2); the directory keeps its name.
    pub fn rename(&mut self, run_id: &str) -> io::Result<()> {
        let directory = self.directory.with_file_name(run_id);
        fs::rename(&self.directory, &directory)?;
        self.directory = directory;
        Ok(())
    }

    /// A file for the exporter's copies of what it sends.
    ///
    /// # Errors
    ///
    /// The error of open(2).
    pub fn telemetry_file(&self, copies: Copies) -> io::Result<File> {
        new_file(&self.directory.join(copies.file_name()))
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

    /// Whether a write has failed, after which nothing is written any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether the events have reached their share of the cap.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.broken && self.length >= self.cap
    }

    /// The file that the next batch goes to.
    #[must_use]
    pub fn events(&self) -> &Arc<File> {
        &self.events
    }

    /// Makes room. The file is replaced; who still reads the old one keeps it. `marks` are places between lines of the
    /// old file, in ascending order; [`Moved`] says where they are in the new one.
    ///
    /// # Errors
    ///
    /// The error of reading, writing or renaming, or that there is nothing to drop. The journal is broken then: to go on
    /// would be to grow without bound.
    pub fn compact(&mut self, marks: &[u64]) -> io::Result<Moved> {
        let fresh = self.directory.join("events.ndjson.new");
        let compacted = self.compact_into(&fresh, marks);
        if compacted.is_err() {
            self.broken = true;
            // It may never have been made.
            fs::remove_file(&fresh).ok();
        }
        compacted
    }

    fn compact_into(&mut self, fresh: &Path, marks: &[u64]) -> io::Result<Moved> {
        let target = new_file(fresh)?;
        let compacted = compaction::compact(&self.events, &target, self.cap / 2, marks)?;
        if compacted.length >= self.cap {
            return Err(io::Error::other("nothing in it may be dropped"));
        }
        fs::rename(fresh, self.directory.join(EVENTS))?;
        let to = Arc::new(target);
        let from = std::mem::replace(&mut self.events, Arc::clone(&to));
        self.length = compacted.length;
        Ok(Moved {
            from,
            to,
            places: compacted.places,
            dropped: compacted.dropped,
        })
    }

    /// Writes how the run stands, all or nothing; on a full disk over the state before.
    ///
    /// # Errors
    ///
    /// The error of writing or renaming.
    pub fn write_state(&self, state: &RunState) -> io::Result<()> {
        state.write(&self.directory.join(STATE))
    }
}

fn not_created(path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Create { path, source }
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
        journal.telemetry_file(Copies::Traces).unwrap();
        assert_eq!(mode(journal.directory()), 0o700);
        assert_eq!(mode(&journal.directory().join(EVENTS)), 0o600);
        assert_eq!(mode(&journal.directory().join("traces.jsonl")), 0o600);
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
        assert!(journal.is_full());
        let dropped = journal.compact(&[]).unwrap().dropped;
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

    #[test]
    fn a_journal_that_cannot_be_made_smaller_is_left() {
        let root = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(root.path(), "run-1").unwrap();
        journal.cap = 100;
        journal.append(&b"{}\n".repeat(50)).unwrap();
        // Somebody's directory is in the way, and stays.
        fs::create_dir(journal.directory().join("events.ndjson.new")).unwrap();
        journal.compact(&[]).unwrap_err();
        assert!(!journal.is_full(), "there is no second attempt");
        assert!(journal.append(b"{}\n").unwrap().is_none());

        let mut journal = Journal::create(root.path(), "run-2").unwrap();
        journal.cap = 100;
        let lifecycle = b"{\"type\":\"sandtrace.warning\",\"data\":{}}\n";
        journal.append(&lifecycle.repeat(10)).unwrap();
        journal.compact(&[]).unwrap_err();
        assert!(journal.is_broken());
        assert!(!journal.directory().join("events.ndjson.new").exists());
    }

    #[test]
    fn a_place_between_lines_moves_with_what_follows_it() {
        let root = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(root.path(), "run-1").unwrap();
        journal.cap = 40;
        // Ten lines of ten bytes, of which two fit.
        for n in 0..10 {
            journal
                .append(format!("{{\"n\":{n:03}}}\n").as_bytes())
                .unwrap();
        }
        let moved = journal.compact(&[0, 30, 80, 90, 100]).unwrap();
        let places = [0, 30, 80, 90, 100].map(|place| moved.place(place).unwrap());
        assert_eq!(places, [0, 0, 0, 10, 20]);
        assert_eq!(moved.place(1), None);
    }

    #[test]
    fn a_state_follows_no_link() {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::create(root.path(), "run-1").unwrap();
        let precious = root.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        let fresh = journal.directory().join("state.json.new");
        std::os::unix::fs::symlink(&precious, &fresh).unwrap();
        journal
            .write_state(&RunState::new(Status::Running))
            .unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert!(journal.directory().join(STATE).is_file());
    }
}
