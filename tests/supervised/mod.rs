//! `sandtrace run`, from the outside: the real binary with an agent of the test's choice, in an environment, a journal
//! and a directory of its own.
//!
//! ```ignore
//! let run = sh("echo '{}'; exit 3").option("--echo", "none").run();
//! assert_eq!(run.code(), 3);
//! run.assert_sound();
//! ```

mod finished;
mod running;
mod transcript;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) use self::finished::Finished;
pub(crate) use self::running::Running;
pub(crate) use self::transcript::Transcript;

/// Every process of a run inherits this variable, by which the test finds what is left of it.
const MARK: &str = "SANDTRACE_TEST_MARK";

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Calls `ready` until it gives something.
pub(crate) fn poll<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "still waiting: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Says why a test, or a part of it, cannot run here. Past libtest, which would swallow it.
pub(crate) fn skipped(why: impl Display) {
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "skipped: {why}").unwrap();
}

/// An agent that is a shell script.
pub(crate) fn sh(script: &str) -> Supervised {
    agent(["sh", "-c", script])
}

/// An agent that is a Python program.
pub(crate) fn python(program: &str) -> Supervised {
    agent(["python3", "-c", program])
}

/// The agent that misbehaves on demand; `fault-agent --help` has the steps.
pub(crate) fn fault(script: &str) -> Supervised {
    agent(
        [env!("CARGO_BIN_EXE_fault-agent")]
            .into_iter()
            .chain(script.split_whitespace()),
    )
}

/// How often something is tried: as the variable says, else `usually`.
pub(crate) fn times(variable: &str, usually: usize) -> usize {
    std::env::var(variable).map_or(usually, |value| value.parse().unwrap())
}

pub(crate) fn agent<T: AsRef<OsStr>>(command: impl IntoIterator<Item = T>) -> Supervised {
    let directory = tempfile::tempdir().unwrap();
    let mark = uuid::Uuid::now_v7().to_string();
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    Supervised {
        options: Vec::new(),
        env: vec![
            ("PATH".into(), path),
            ("HOME".into(), directory.path().into()),
            ("DIR".into(), directory.path().into()),
            // No test may knock at the real API's door, which an agent without a base URL talks to.
            ("SANDTRACE_PROBE".into(), "off".into()),
            (MARK.into(), mark.clone().into()),
        ],
        command: command
            .into_iter()
            .map(|word| word.as_ref().to_owned())
            .collect(),
        stdin: Some(Vec::new()),
        read_stdout: true,
        read_stderr: true,
        journal: Some(directory.path().join("journal")),
        mark,
        cgroup: None,
        working_directory: directory.path().to_owned(),
        directory,
    }
}

/// What is to be run. Nothing of this process's environment gets there but PATH.
pub(crate) struct Supervised {
    options: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    command: Vec<OsString>,
    stdin: Option<Vec<u8>>,
    read_stdout: bool,
    read_stderr: bool,
    journal: Option<PathBuf>,
    mark: String,
    cgroup: Option<PathBuf>,
    working_directory: PathBuf,
    directory: TempDir,
}

impl Supervised {
    pub(crate) fn flag(mut self, flag: &str) -> Self {
        self.options.push(flag.into());
        self
    }

    pub(crate) fn option(mut self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        self.options.push(flag.into());
        self.options.push(value.as_ref().to_owned());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = Some(bytes.as_ref().to_owned());
        self
    }

    /// stdin stays open and says nothing.
    pub(crate) fn stdin_held(mut self) -> Self {
        self.stdin = None;
        self
    }

    /// The journal's root, instead of one in the run's own directory.
    pub(crate) fn journal(mut self, root: impl AsRef<Path>) -> Self {
        self.journal = Some(root.as_ref().to_owned());
        self
    }

    pub(crate) fn without_journal(mut self) -> Self {
        self.journal = None;
        self
    }

    /// Nobody reads stdout until [`Running::read`].
    pub(crate) fn unread(mut self) -> Self {
        self.read_stdout = false;
        self
    }

    /// Nobody reads stderr until [`Running::read`].
    pub(crate) fn unread_stderr(mut self) -> Self {
        self.read_stderr = false;
        self
    }

    /// The run, its supervisor included, is put into the cgroup of this `cgroup.procs`.
    pub(crate) fn cgroup(mut self, procs: impl Into<PathBuf>) -> Self {
        self.cgroup = Some(procs.into());
        self
    }

    /// Where it works, instead of `$DIR`.
    pub(crate) fn in_directory(mut self, directory: &str) -> Self {
        self.working_directory = directory.into();
        self
    }

    /// A directory of the run's own, `$DIR` to the agent.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Gives the agent a file to read in `$DIR`.
    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.directory().join(name), content).unwrap();
        self
    }

    pub(crate) fn start(self) -> Running {
        self.start_under::<&str>(&[])
    }

    /// As an argument of `wrapper`, which must end by executing what follows it.
    pub(crate) fn start_under<T: AsRef<OsStr>>(self, wrapper: &[T]) -> Running {
        let journal = self
            .journal
            .as_deref()
            .map_or("off".as_ref(), Path::as_os_str);
        let mut words: Vec<&OsStr> = Vec::new();
        if let Some(procs) = &self.cgroup {
            words.extend(["sh", "-c", "echo $$ > \"$0\" && exec \"$@\""].map(OsStr::new));
            words.push(procs.as_os_str());
        }
        words.extend(wrapper.iter().map(AsRef::as_ref));
        words.push(env!("CARGO_BIN_EXE_sandtrace").as_ref());
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(["run", "--journal"])
            .arg(journal)
            .args(&self.options)
            .arg("--")
            .args(&self.command);
        self.start_as(command)
    }

    /// The agent alone, with nobody above it.
    pub(crate) fn start_alone(self) -> Running {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        self.start_as(command)
    }

    pub(crate) fn start_as(self, mut command: Command) -> Running {
        let started = Instant::now();
        let mut child = command
            .env_clear()
            .envs(self.env)
            .current_dir(self.working_directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if let Some(bytes) = self.stdin {
            let mut stdin = child.stdin.take().unwrap();
            // An agent need not read it.
            thread::spawn(move || stdin.write_all(&bytes).ok());
        }
        let mut running = Running::new(child, self.journal, self.mark, self.directory, started);
        if self.read_stdout {
            running.read_stdout();
        }
        if self.read_stderr {
            running.read_stderr();
        }
        running
    }

    pub(crate) fn run(self) -> Finished {
        self.start().wait()
    }
}
