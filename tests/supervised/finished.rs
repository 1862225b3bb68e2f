//! A run that is over, and what holds for each.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use super::transcript::otlp_spans;
use super::{Running, Transcript, poll};

/// A run that is over.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) took: Duration,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    running: Running,
}

impl Finished {
    pub(super) fn new(
        running: Running,
        status: ExitStatus,
        took: Duration,
        stdout: Vec<u8>,
        stderr: Vec<u8>,
    ) -> Self {
        Self {
            status,
            took,
            stdout,
            stderr,
            running,
        }
    }

    /// The supervisor's exit code; it never dies of a signal.
    pub(crate) fn code(&self) -> i32 {
        let signal = self.status.signal();
        self.status
            .code()
            .unwrap_or_else(|| panic!("sandtrace died of signal {signal:?}: {}", self.errors()))
    }

    /// What stands on stderr.
    pub(crate) fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    pub(crate) fn directory(&self) -> &Path {
        self.running.directory()
    }

    /// The lines on stdout, enriched.
    pub(crate) fn transcript(&self) -> Transcript {
        Transcript::parse(&self.stdout)
    }

    /// The lines in the journal.
    pub(crate) fn journaled(&self) -> Transcript {
        Transcript::parse(&self.journal_file("events.ndjson"))
    }

    /// The one run's directory in the journal.
    pub(crate) fn journal(&self) -> PathBuf {
        let root = self.running.journal.as_ref().unwrap();
        let mut runs = fs::read_dir(root).unwrap();
        let run = runs.next().unwrap().unwrap().path();
        assert!(runs.next().is_none(), "one run, one directory");
        run
    }

    pub(crate) fn journal_file(&self, name: &str) -> Vec<u8> {
        fs::read(self.journal().join(name)).unwrap()
    }

    /// What is left of the run.
    pub(crate) fn processes(&self) -> BTreeSet<i32> {
        self.running.processes()
    }

    /// Everything that holds for every run with enriched echo, a journal, and no survivors.
    pub(crate) fn assert_sound(&self) {
        self.assert_complete();
        self.assert_nothing_left();
    }

    /// The transcript is whole, and the journal has the same.
    pub(crate) fn assert_complete(&self) {
        let journal = self.journal_file("events.ndjson");
        assert!(
            journal == self.stdout,
            "journal ({} bytes) and stdout ({} bytes) differ",
            journal.len(),
            self.stdout.len()
        );
        self.assert_journal_whole();
    }

    /// The journal alone tells the whole run.
    pub(crate) fn assert_journal_whole(&self) {
        let transcript = self.journaled();
        transcript.assert_whole();
        let finished = transcript.finished();
        assert_eq!(finished["exit"]["reported_code"], self.code());

        let state: Value = serde_json::from_slice(&self.journal_file("state.json")).unwrap();
        assert_eq!(state["status"], "finished");
        assert_eq!(state["run_id"], transcript.started()["run_id"]);
        assert_eq!(state["trace_id"], transcript.started()["trace_id"]);
        assert_eq!(state["outcome"], finished["outcome"]);
        assert_eq!(state["last_seq"], transcript.lines.len());

        let exported = otlp_spans(&self.journal_file("traces.jsonl"));
        assert_eq!(exported, transcript.span_ids(), "spans in traces.jsonl");
    }

    /// The process that the agent noted in the file `daemon`.
    pub(crate) fn daemon(&self) -> i32 {
        self.running.file("daemon").parse().unwrap()
    }

    /// No process of the run is alive.
    pub(crate) fn assert_nothing_left(&self) {
        poll("the last processes of the run", || {
            self.processes().is_empty().then_some(())
        });
    }
}
