//! `sandtrace attach`: a run's lines once more, from its journal, and then as they come.
//!
//! For a host whose connection broke: the journal has every line under its `seq`, so whoever knows the last one that it
//! got asks for what follows, and has missed nothing and gets nothing twice.
//!
//! The follower shares nothing with the run but its files, and is never waited for. It looks again every 20 ms, which
//! costs next to nothing, works on every file system, and needs no watch that could be refused. The directory is held
//! open, because a copy of the sandbox gives it another name; the events file is exchanged when a full journal drops its
//! oldest lines, after which the old one is final: it is read to its end before the new one is opened.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use thiserror::Error;

use crate::cli::{AttachConfig, Journal};
use crate::echo::Stdout;
use crate::envelope::seq_of;
use crate::journal::{self, EVENTS, LocateError, Located, RunState, STATE, Status};
use crate::process::{Presence, presence};

/// Exit code for a run whose supervisor is gone without having finished it (DESIGN §3).
const GONE: u8 = 3;
const FAILED: u8 = 125;

/// How the last line begins. An agent cannot forge it: what it prints under such a type is told as output.
const LAST_LINE: &[u8] = b"{\"type\":\"sandtrace.run.finished\"";

/// How often the journal is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How often the supervisor is, in looks.
const SUPERVISOR_LOOKS: u32 = 10;
/// A run that has just begun has yet to write its state. One that has lines goes on, whatever became of its state.
const STATE_PATIENCE: Duration = Duration::from_secs(2);
/// A supervisor that cannot be seen is taken for gone after so long without a line: three of its heartbeats.
const SILENCE: Duration = Duration::from_secs(60);

/// Bytes read and written at a time.
const CHUNK: usize = 64 << 10;

/// Why the lines ended before the run's last one, or did not begin.
#[derive(Debug, Error)]
pub enum AttachError {
    #[error(transparent)]
    Locate(#[from] LocateError),
    #[error(
        "the journal is off here, so no run is kept that {run:?} could name; name its directory, or give --journal DIR"
    )]
    NoJournal { run: String },
    #[error("{} is a file, name the run by its id or its directory", .0.display())]
    File(PathBuf),
    #[error("cannot read {}: {source}; name a run by its id or its directory", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}, so nobody knows whether the run goes on", path.display())]
    NoState { path: PathBuf, source: io::Error },
    #[error("cannot write to stdout: {0}")]
    Write(#[source] io::Error),
    #[error(
        "the supervisor of run {run_id}, pid {pid}, is gone without having finished the run; `sandtrace report {run_id}` shows how far it got"
    )]
    Gone { run_id: String, pid: u32 },
    #[error(
        "run {run_id} has finished ({outcome}), but its journal could not be written to the end"
    )]
    CutShort {
        run_id: String,
        outcome: &'static str,
    },
}

impl AttachError {
    /// The code to exit with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Gone { .. } | Self::CutShort { .. } => GONE,
            _ => FAILED,
        }
    }
}

/// Writes the lines after `config.after` to stdout until the run has finished, or until nobody reads them any more.
pub fn attach(config: &AttachConfig, stdout: File) -> Result<(), AttachError> {
    let mut run = Followed::open(config)?;
    let mut stdout = BufWriter::with_capacity(CHUNK, Stdout::new(stdout));
    let end = run.follow(&mut stdout);
    stdout.get_ref().linger();
    match end {
        // A reader that has left wants no more.
        Err(AttachError::Write(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        end => end,
    }
}

/// A run that is followed.
struct Followed {
    path: PathBuf,
    directory: File,
    events: BufReader<File>,
    /// What there is of a line whose end is not written yet.
    line: Vec<u8>,
    /// The number of the last line that the reader has.
    seq: u64,
    state: Option<RunState>,
    /// When the last line was found, or when we began.
    heard: Instant,
    /// How long a run without a state may be silent: long once it has said something.
    patience: Duration,
    over: bool,
}

impl Followed {
    fn open(config: &AttachConfig) -> Result<Self, AttachError> {
        let path = find(&config.run, &config.journal)?;
        let unreadable = |name: &str, source| AttachError::Unreadable {
            path: path.join(name),
            source,
        };
        let directory = File::open(&path).map_err(|source| unreadable("", source))?;
        let events = open_in(&directory, EVENTS).map_err(|source| unreadable(EVENTS, source))?;
        Ok(Self {
            path,
            directory,
            events: BufReader::with_capacity(CHUNK, events),
            line: Vec::new(),
            seq: config.after,
            state: None,
            heard: Instant::now(),
            patience: STATE_PATIENCE,
            over: false,
        })
    }

    fn follow(&mut self, stdout: &mut BufWriter<Stdout>) -> Result<(), AttachError> {
        for look in 0_u32.. {
            // Before the lines are read: whatever a dead supervisor has written is among them then.
            let gone = if look.is_multiple_of(SUPERVISOR_LOOKS) {
                self.supervisor_s_end()?
            } else {
                None
            };
            self.read_lines(stdout)?;
            while !self.over && self.is_replaced()? {
                self.turn_to_new_file(stdout)?;
            }
            stdout.flush().map_err(AttachError::Write)?;
            if self.over {
                break;
            }
            if let Some(end) = gone {
                return Err(end);
            }
            if !stdout.get_ref().is_read_after(LOOK) {
                break;
            }
        }
        Ok(())
    }

    /// Passes on all whole lines that are there and were not yet.
    fn read_lines(&mut self, stdout: &mut BufWriter<Stdout>) -> Result<(), AttachError> {
        while !self.over {
            let read = self.events.read_until(b'\n', &mut self.line);
            read.map_err(|source| self.unreadable(EVENTS, source))?;
            if !self.line.ends_with(b"\n") {
                break;
            }
            self.heard = Instant::now();
            self.patience = SILENCE;
            self.over = self.line.starts_with(LAST_LINE);
            if let Some(seq) = seq_of(&self.line).filter(|seq| *seq > self.seq) {
                stdout.write_all(&self.line).map_err(AttachError::Write)?;
                self.seq = seq;
            }
            self.line.clear();
            self.line.shrink_to(CHUNK);
        }
        Ok(())
    }

    /// Whether another file has taken the place of ours, which nothing is written to any more.
    fn is_replaced(&self) -> Result<bool, AttachError> {
        let ours = self.events.get_ref().metadata();
        let ours = ours.map_err(|source| self.unreadable(EVENTS, source))?;
        // If somebody has removed the journal, the run goes on in the file that we hold.
        let there = fstatat(&self.directory, EVENTS, AtFlags::empty());
        Ok(there.is_ok_and(|there| (there.st_dev, there.st_ino) != (ours.dev(), ours.ino())))
    }

    /// Ends our file with what it got between our last look and its replacement, and goes on with the new one. That
    /// begins with lines that the reader has, which their numbers tell.
    fn turn_to_new_file(&mut self, stdout: &mut BufWriter<Stdout>) -> Result<(), AttachError> {
        self.read_lines(stdout)?;
        let events = open_in(&self.directory, EVENTS);
        let events = events.map_err(|source| self.unreadable(EVENTS, source))?;
        self.events = BufReader::with_capacity(CHUNK, events);
        self.line.clear();
        self.read_lines(stdout)
    }

    /// Why no more lines will come, if that is so.
    fn supervisor_s_end(&mut self) -> Result<Option<AttachError>, AttachError> {
        let silent = self.heard.elapsed();
        let state = match &self.state {
            Some(state) => state,
            None => match self.read_state() {
                Ok(state) => self.state.insert(state),
                Err(source) if silent > self.patience => {
                    let path = self.path.join(STATE);
                    return Ok(Some(AttachError::NoState { path, source }));
                }
                Err(_) => return Ok(None),
            },
        };
        let (pid, start_ticks) = (state.supervisor_pid, state.supervisor_start_ticks);
        let gone = match presence(pid, start_ticks) {
            Presence::Alive => false,
            Presence::Gone => true,
            Presence::Hidden => silent > SILENCE,
        };
        if !gone {
            return Ok(None);
        }
        // How it stood when it went; a copy of the sandbox has a name of its own by now.
        let state = self.read_state().ok().or(self.state.take());
        Ok(state.map(|state| match state {
            RunState {
                status: Status::Finished,
                run_id,
                outcome,
                ..
            } => AttachError::CutShort {
                run_id,
                outcome: outcome.map_or("its outcome is not known", |outcome| outcome.as_str()),
            },
            RunState { run_id, .. } => AttachError::Gone { run_id, pid },
        }))
    }

    fn read_state(&self) -> io::Result<RunState> {
        let mut text = Vec::new();
        open_in(&self.directory, STATE)?.read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    fn unreadable(&self, name: &str, source: io::Error) -> AttachError {
        AttachError::Unreadable {
            path: self.path.join(name),
            source,
        }
    }
}

fn find(run: &OsStr, journal: &Journal) -> Result<PathBuf, AttachError> {
    match journal::locate(run, journal.root()) {
        Ok(Located::Directory(directory)) => Ok(directory),
        Ok(Located::File(path)) => Err(AttachError::File(path)),
        Err(LocateError::NoSuchRun { run, .. }) if journal.root().is_none() => {
            Err(AttachError::NoJournal { run })
        }
        Err(error) => Err(error.into()),
    }
}

fn open_in(directory: &File, name: &str) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    Ok(openat(directory, name, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn line(seq: u64) -> String {
        format!(
            "{{\"n\":{seq},\"sandtrace\":{{\"seq\":{seq},\"time\":\"\",\"trace_id\":\"\",\"span_id\":\"\"}}}}\n"
        )
    }

    #[test]
    fn what_comes_between_the_last_look_and_the_replacement_is_not_lost() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::write(path(EVENTS), line(1) + &line(2)).unwrap();
        let config = AttachConfig {
            run: root.path().into(),
            after: 1,
            journal: Journal::Off,
        };
        let mut run = Followed::open(&config).unwrap();
        let told = File::create(path("told")).unwrap();
        let mut stdout = BufWriter::new(Stdout::new(told));
        run.read_lines(&mut stdout).unwrap();
        assert!(!run.is_replaced().unwrap());
        // The new file has nothing of what the old one got last.
        fs::write(path("fresh"), line(1) + &line(2) + &line(5)).unwrap();
        let mut old = fs::OpenOptions::new()
            .append(true)
            .open(path(EVENTS))
            .unwrap();
        old.write_all((line(3) + &line(4)).as_bytes()).unwrap();
        fs::rename(path("fresh"), path(EVENTS)).unwrap();
        assert!(run.is_replaced().unwrap());
        run.turn_to_new_file(&mut stdout).unwrap();
        assert!(!run.is_replaced().unwrap());
        stdout.flush().unwrap();
        let told = fs::read_to_string(path("told")).unwrap();
        assert_eq!(told, (2..=5).map(line).collect::<String>());
    }

    #[test]
    fn a_run_whose_state_cannot_be_read_is_given_up_soon_only_if_it_never_said_anything() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(EVENTS), "").unwrap();
        let config = AttachConfig {
            run: root.path().into(),
            after: 0,
            journal: Journal::Off,
        };
        let mut run = Followed::open(&config).unwrap();
        let told = File::create(root.path().join("told")).unwrap();
        let mut stdout = BufWriter::new(Stdout::new(told));
        let mut end_after = |run: &mut Followed, silence: Duration| {
            run.read_lines(&mut stdout).unwrap();
            run.heard = Instant::now().checked_sub(silence).unwrap();
            run.supervisor_s_end().unwrap()
        };
        let soon = STATE_PATIENCE + LOOK;
        let end = end_after(&mut run, soon);
        assert!(matches!(end, Some(AttachError::NoState { .. })), "{end:?}");
        fs::write(root.path().join(EVENTS), line(1)).unwrap();
        assert!(end_after(&mut run, soon).is_none());
        let end = end_after(&mut run, SILENCE + LOOK);
        assert!(matches!(end, Some(AttachError::NoState { .. })), "{end:?}");
    }
}
