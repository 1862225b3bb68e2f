//! A run that goes on.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::{Finished, MARK, poll};

/// Collects a stream on a thread of its own.
#[derive(Default)]
struct Reader {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn read(&mut self, mut stream: impl Read + Send + 'static) {
        let bytes = Arc::clone(&self.bytes);
        self.thread = Some(thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            while let Ok(length @ 1..) = stream.read(&mut chunk) {
                bytes.lock().unwrap().extend_from_slice(&chunk[..length]);
            }
        }));
    }

    fn finish(&mut self) -> Vec<u8> {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        std::mem::take(&mut *self.bytes.lock().unwrap())
    }
}

/// A run that goes on. Dropped, it leaves nothing behind.
pub(crate) struct Running {
    child: Child,
    unread_stdout: Option<ChildStdout>,
    unread_stderr: Option<ChildStderr>,
    stdout: Reader,
    stderr: Reader,
    pub(super) journal: Option<PathBuf>,
    mark: String,
    directory: TempDir,
    started: Instant,
}

impl Running {
    pub(super) fn new(
        mut child: Child,
        journal: Option<PathBuf>,
        mark: String,
        directory: TempDir,
        started: Instant,
    ) -> Self {
        Self {
            unread_stdout: child.stdout.take(),
            unread_stderr: child.stderr.take(),
            child,
            stdout: Reader::default(),
            stderr: Reader::default(),
            journal,
            mark,
            directory,
            started,
        }
    }

    /// Begins to read what was left alone.
    pub(crate) fn read(&mut self) {
        self.read_stdout();
        self.read_stderr();
    }

    pub(super) fn read_stdout(&mut self) {
        if let Some(stdout) = self.unread_stdout.take() {
            self.stdout.read(stdout);
        }
    }

    pub(super) fn read_stderr(&mut self) {
        if let Some(stderr) = self.unread_stderr.take() {
            self.stderr.read(stderr);
        }
    }

    /// Hangs up: from here on stdout has no reader.
    pub(crate) fn close_stdout(&mut self) {
        drop(self.unread_stdout.take().unwrap());
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The supervisor's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A file in `$DIR`, once it holds a whole line.
    pub(crate) fn file(&self, name: &str) -> String {
        let path = self.directory().join(name);
        poll(name, || {
            let content = fs::read_to_string(&path).ok()?;
            content.ends_with('\n').then(|| content.trim().to_owned())
        })
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for a line on stdout.
    pub(crate) fn line(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        poll(what, || {
            let bytes = self.stdout.bytes.lock().unwrap();
            bytes
                .split(|byte| *byte == b'\n')
                .filter_map(|line| serde_json::from_slice(line).ok())
                .find(&wanted)
        })
    }

    /// Waits until the agent has printed `{"ready":…}`.
    pub(crate) fn ready(&self) {
        self.line("the agent is ready", |line| line.get("ready").is_some());
    }

    /// A line of the supervisor's own `/proc/PID/status`, in KiB.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let value = line.split_whitespace().nth(1).unwrap();
        value.parse().unwrap()
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The processes of the run, without the supervisor.
    pub(crate) fn processes(&self) -> BTreeSet<i32> {
        let mut processes = marked(&self.mark);
        processes.remove(&self.child.id().try_into().unwrap());
        processes
    }

    pub(crate) fn wait(mut self) -> Finished {
        self.read();
        let status = poll("the end of the run", || self.child.try_wait().unwrap());
        let took = self.started.elapsed();
        let (stdout, stderr) = (self.stdout.finish(), self.stderr.finish());
        Finished::new(self, status, took, stdout, stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
        // What a killed process was about to start carries the mark as well.
        while let left @ 1.. = kill_all(&marked(&self.mark)) {
            assert!(left < 10_000, "a fork bomb");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn kill_all(processes: &BTreeSet<i32>) -> usize {
    for pid in processes {
        kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
    }
    processes.len()
}

/// Every process with the mark in its environment; a zombie has none.
fn marked(mark: &str) -> BTreeSet<i32> {
    let entry = format!("{MARK}={mark}").into_bytes();
    let numbers = fs::read_dir("/proc").unwrap().filter_map(|process| {
        let pid = process.ok()?.file_name().to_str()?.parse().ok()?;
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == entry)
            .then_some(pid)
    });
    numbers.collect()
}
