//! Runs without a sandbox: the supervisor as a child process, for development and tests.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sandtrace_client::{Launch, local};
//!
//! let launch = Launch::new(["python3", "agent.py"]).program("target/debug/sandtrace");
//! let mut live = local::start(&launch).await?;
//! while let Some(event) = live.next().await? {
//!     println!("{}", event.raw());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! It is the same [`Live`] as that of a sandbox, but that its stream cannot break: an end without the run's last line
//! means that the supervisor is gone. The child has this process's environment and working directory, and gets what the
//! terminal sends to the foreground, Ctrl-C for instance. Dropping the [`Live`] and all of its voices closes the child's
//! stdin, which ends an interactive session. It must be started on a tokio runtime with its I/O driver on.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};

use bytes::{Bytes, BytesMut};
use nix::sys::signal::{self, kill};
use nix::unistd::Pid;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};

use crate::launch::{Launch, LaunchError};
use crate::live::{Asked, Channel, Live, Piece, Resumed, Signal, Transport, Unfollowable};
use crate::run::{Loss, LossReason, Run};

/// The most that one read takes, bytes: as much as a pipe holds.
const READ_BYTES: usize = 64 << 10;

/// Writes and signals that may wait for their turn. Whoever wants more waits.
const WAITING: usize = 8;

/// Why a child process could not be started, followed or spoken to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The launch is not one that could start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The launch asks for something that leaves nothing to follow.
    #[error(transparent)]
    Unfollowable(#[from] Unfollowable),
    /// The supervisor could not be executed.
    #[error(
        "cannot execute {program:?}: {source}; install sandtrace, or name it with Launch::program"
    )]
    Spawn {
        /// What was to be executed.
        program: String,
        /// Why it was not.
        source: io::Error,
    },
    /// Its output could not be read.
    #[error("cannot read what the supervisor prints: {0}")]
    Read(#[source] io::Error),
    /// Its input could not be written.
    #[error("cannot write to the agent's stdin: {0}")]
    Write(#[source] io::Error),
    /// It could not be sent a signal.
    #[error("cannot send a signal to the supervisor: {0}")]
    Signal(#[source] io::Error),
    /// The run is over, or its stdin is closed.
    #[error("the run no longer listens")]
    Over,
}

/// Starts a run as a child process.
///
/// # Errors
///
/// [`Error::Spawn`] when the supervisor cannot be executed, [`Error::Launch`] when the launch is none,
/// [`Error::Unfollowable`] when it hides the events.
#[expect(
    clippy::unused_async,
    reason = "as the other transports, and it needs a runtime"
)]
pub async fn start(launch: &Launch) -> Result<Live<Process>, Error> {
    launch.check()?;
    Asked::of(launch)?;
    let argv = launch.argv();
    let (program, arguments) = argv.split_first().ok_or(Error::Over)?;
    let spawned = Command::new(program)
        .args(arguments)
        .envs(launch.env().iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let spawned = spawned.map_err(|source| Error::Spawn {
        program: program.clone(),
        source,
    });
    Ok(Live::new(Process::new(spawned?)))
}

/// A supervisor that is a child of this process.
#[derive(Debug)]
pub struct Process {
    stdout: Source<ChildStdout>,
    stderr: Source<ChildStderr>,
    exit: oneshot::Receiver<String>,
    /// How it ended, once that is known.
    status: Option<String>,
    line: Line,
}

/// One of its streams.
#[derive(Debug)]
struct Source<R> {
    /// `None` once it has ended.
    pipe: Option<R>,
    buffer: BytesMut,
}

/// The way to a child's ears.
#[derive(Debug, Clone)]
pub struct Line {
    stdin: mpsc::Sender<(Say, Answer)>,
    signals: mpsc::Sender<(Signal, Answer)>,
}

type Answer = oneshot::Sender<Result<(), Error>>;

#[derive(Debug)]
enum Say {
    Bytes(Vec<u8>),
    End,
}

impl Process {
    fn new(mut child: Child) -> Self {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (say, said) = mpsc::channel(WAITING);
        let (send, sent) = mpsc::channel(WAITING);
        let (exited, exit) = oneshot::channel();
        tokio::spawn(speak(child.stdin.take(), said));
        tokio::spawn(wait(child, sent, exited));
        Self {
            stdout: Source::new(stdout),
            stderr: Source::new(stderr),
            exit,
            status: None,
            line: Line {
                stdin: say,
                signals: send,
            },
        }
    }
}

/// Owns the stdin. A write is carried out whole, even if whoever asked for it is gone by then.
async fn speak(mut stdin: Option<ChildStdin>, mut said: mpsc::Receiver<(Say, Answer)>) {
    while let Some((say, answer)) = said.recv().await {
        let result = match (say, &mut stdin) {
            (Say::Bytes(bytes), Some(open)) => match open.write_all(&bytes).await {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::Over),
                result => result.map_err(Error::Write),
            },
            (Say::Bytes(_), None) => Err(Error::Over),
            (Say::End, _) => {
                stdin = None;
                Ok(())
            }
        };
        // Nobody waits for the answer to a call that was dropped.
        answer.send(result).unwrap_or_default();
    }
}

/// Owns the child: as it alone reaps it, no signal can reach a stranger with the same pid.
async fn wait(
    mut child: Child,
    mut signals: mpsc::Receiver<(Signal, Answer)>,
    exited: oneshot::Sender<String>,
) {
    let status = loop {
        let (signal, answer) = tokio::select! {
            status = child.wait() => break status,
            Some(asked) = signals.recv() => asked,
        };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let result = pid.ok_or(Error::Over).and_then(|pid| {
            let signal = match signal {
                Signal::Terminate => signal::SIGTERM,
                Signal::Kill => signal::SIGKILL,
            };
            kill(Pid::from_raw(pid), signal).map_err(|errno| Error::Signal(errno.into()))
        });
        answer.send(result).unwrap_or_default();
    };
    let status = match status {
        Ok(status) => described(status),
        Err(error) => format!("unknown: {error}"),
    };
    exited.send(status).unwrap_or_default();
}

/// In the words of E2B's envd, which are those of Go.
fn described(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(9)) => "signal: killed".to_owned(),
        (None, Some(15)) => "signal: terminated".to_owned(),
        (None, Some(number)) => format!("signal: {number}"),
        (None, None) => status.to_string(),
    }
}

impl<R: AsyncRead + Unpin> Source<R> {
    fn new(pipe: Option<R>) -> Self {
        Self {
            pipe,
            buffer: BytesMut::new(),
        }
    }

    /// The next bytes; none at the end. Pending once that was told. Cancel safe, for the buffer outlives the future.
    async fn read(&mut self) -> Result<Bytes, Error> {
        let Some(pipe) = &mut self.pipe else {
            return std::future::pending().await;
        };
        self.buffer.reserve(READ_BYTES);
        let count = pipe.read_buf(&mut self.buffer).await;
        if count.map_err(Error::Read)? == 0 {
            self.pipe = None;
        }
        Ok(self.buffer.split().freeze())
    }
}

impl Transport for Process {
    type Error = Error;
    type Channel = Line;

    async fn read(&mut self) -> Result<Piece, Error> {
        loop {
            if self.stdout.pipe.is_none() && self.stderr.pipe.is_none() {
                let status = match &self.status {
                    Some(status) => status.clone(),
                    None => {
                        let status = (&mut self.exit).await;
                        status.unwrap_or_else(|_| "unknown: the runtime is gone".to_owned())
                    }
                };
                self.status = Some(status.clone());
                return Ok(Piece::Ended { status });
            }
            let piece = tokio::select! {
                bytes = self.stdout.read() => Piece::Stdout(bytes?),
                bytes = self.stderr.read() => Piece::Stderr(bytes?),
            };
            match &piece {
                Piece::Stdout(bytes) | Piece::Stderr(bytes) if bytes.is_empty() => {}
                _ => return Ok(piece),
            }
        }
    }

    async fn resume(&mut self, _: &Run) -> Result<Resumed, Error> {
        let status = self.status.clone();
        let loss = Loss::new(LossReason::SupervisorGone { status });
        Ok(Resumed::Lost(Box::new(loss)))
    }

    fn channel(&self) -> Line {
        self.line.clone()
    }
}

impl Line {
    async fn say(&self, say: Say) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let sent = self.stdin.send((say, answer)).await;
        sent.map_err(|_| Error::Over)?;
        answered.await.map_err(|_| Error::Over)?
    }
}

impl Channel for Line {
    type Error = Error;

    async fn write(&self, bytes: Vec<u8>) -> Result<(), Error> {
        self.say(Say::Bytes(bytes)).await
    }

    async fn close(&self) -> Result<(), Error> {
        self.say(Say::End).await
    }

    async fn signal(&self, signal: Signal) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let sent = self.signals.send((signal, answer)).await;
        sent.map_err(|_| Error::Over)?;
        answered.await.map_err(|_| Error::Over)?
    }
}
