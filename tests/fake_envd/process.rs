//! One process, from the wrapper shell to the remembered exit.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::World;
use super::connect::{Code, Error, Result};
use super::faults::Random;
use super::sandbox::Sandbox;

/// The longest read of a pipe (§3).
const READ: usize = 32 << 10;

/// Chunks between the pipes and the fan-out (§0.3).
const CHUNKS: usize = 64;

/// The shell around every command (§0.6). Where the score cannot be raised, because it is higher already, the original
/// would refuse to run; that is no trouble of E2B's, only of the machine this runs on.
const WRAPPER: &str = "echo 100 2>/dev/null >/proc/$$/oom_score_adj; exec \"$@\"";

/// What a Start asks for.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) cmd: String,
    pub(super) args: Vec<String>,
    pub(super) envs: BTreeMap<String, String>,
    pub(super) cwd: Option<String>,
    pub(super) tag: Option<String>,
    pub(super) stdin: bool,
    /// From `Connect-Timeout-Ms`.
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pipe {
    Stdout,
    Stderr,
}

/// What one read gave.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) pipe: Pipe,
    pub(super) bytes: Arc<[u8]>,
}

enum Stdin {
    /// /dev/null, or closed since.
    None,
    Open(pipe::Sender),
}

/// A process that was started, until its exit is forgotten.
pub(super) struct Process {
    pub(super) pid: i32,
    request: Request,
    stdin: tokio::sync::Mutex<Stdin>,
    /// None once there will be no more output.
    subscribers: Mutex<Option<Vec<mpsc::Sender<Chunk>>>>,
    /// Nobody waits for the output any more: it ended, or a signal was sent.
    output_over: watch::Sender<bool>,
    end: watch::Sender<Option<Value>>,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Starts it, with a first subscriber.
    pub(super) fn start(
        world: &Arc<World>,
        sandbox: &Arc<Sandbox>,
        request: Request,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Chunk>)> {
        let directory = request.cwd.as_ref().map(PathBuf::from);
        let directory = directory.unwrap_or_else(|| world.home.clone());
        if !directory.exists() {
            let message = format!("cwd '{}' does not exist", directory.display());
            return Err(Error::invalid(message));
        }
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", WRAPPER, "--", &request.cmd])
            .args(&request.args)
            .current_dir(directory)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &world.home)
            .env("USER", &world.user)
            .env("LOGNAME", &world.user)
            .envs(world.options.envs.clone())
            .envs(sandbox.environment())
            .envs(&request.envs)
            .stdin(match request.stdin {
                true => Stdio::piped(),
                false => Stdio::null(),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Its own session: what a test's terminal sends its foreground group is not for sandboxes.
        #[expect(unsafe_code, reason = "a session can only be made in the child")]
        // SAFETY: setsid is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
        }
        let child = command.spawn();
        let mut child = child.map_err(|error| {
            Error::invalid(format!("error starting process '{}': {error}", request.cmd))
        })?;
        let stdout = receiver(child.stdout.take().unwrap().into());
        let stderr = receiver(child.stderr.take().unwrap().into());
        let stdin = child.stdin.take().map_or(Stdin::None, |stdin| {
            Stdin::Open(pipe::Sender::from_owned_fd(stdin.into()).unwrap())
        });
        let (subscriber, chunks) = mpsc::channel(1);
        let process = Arc::new(Self {
            pid: child.id().try_into().unwrap(),
            request,
            stdin: tokio::sync::Mutex::new(stdin),
            subscribers: Mutex::new(Some(vec![subscriber])),
            output_over: watch::Sender::new(false),
            end: watch::Sender::new(None),
            child: Mutex::new(Some(child)),
        });
        sandbox.remember(&process);
        process.carry_out(world, sandbox, stdout, stderr);
        Ok((process, chunks))
    }

    fn carry_out(
        self: &Arc<Self>,
        world: &Arc<World>,
        sandbox: &Arc<Sandbox>,
        stdout: pipe::Receiver,
        stderr: pipe::Receiver,
    ) {
        let (source, chunks) = mpsc::channel(CHUNKS);
        let exited = watch::Sender::new(false);
        let read = |pipe, receiver| {
            let (source, exited) = (source.clone(), exited.subscribe());
            tokio::spawn(read(Arc::clone(world), pipe, receiver, source, exited))
        };
        let readers = [read(Pipe::Stdout, stdout), read(Pipe::Stderr, stderr)];
        drop(source);
        tokio::spawn(Arc::clone(self).fan_out(chunks));
        tokio::spawn(Arc::clone(self).conclude_output(readers));
        if let Some(timeout) = self.request.timeout {
            tokio::spawn(Arc::clone(self).limit(timeout));
        }
        let (process, world) = (Arc::clone(self), Arc::clone(world));
        let sandbox = Arc::clone(sandbox);
        tokio::spawn(async move {
            process.wait(exited).await;
            tokio::time::sleep(world.options.exit_retention).await;
            sandbox.forget(&process);
        });
    }

    /// Hands each chunk to each subscriber, and waits for each: one that does not take it holds all back (§0.3). Without
    /// any, chunks are discarded (§0.2).
    async fn fan_out(self: Arc<Self>, mut chunks: mpsc::Receiver<Chunk>) {
        while let Some(chunk) = chunks.recv().await {
            let subscribers = self.subscribers.lock().unwrap().clone();
            for subscriber in subscribers.into_iter().flatten() {
                // A subscriber that is gone takes nothing.
                subscriber.send(chunk.clone()).await.ok();
            }
            if let Some(subscribers) = &mut *self.subscribers.lock().unwrap() {
                subscribers.retain(|subscriber| !subscriber.is_closed());
            }
        }
        *self.subscribers.lock().unwrap() = None;
    }

    async fn conclude_output(self: Arc<Self>, readers: [JoinHandle<()>; 2]) {
        for reader in readers {
            reader.await.unwrap_or_default();
        }
        self.output_over.send_replace(true);
    }

    /// A Start's timeout kills (§0.1).
    async fn limit(self: Arc<Self>, timeout: Duration) {
        let mut end = self.end.subscribe();
        tokio::select! {
            _ = end.wait_for(Option::is_some) => {}
            () = tokio::time::sleep(timeout) => {
                self.output_over.send_replace(true);
                self.kill(Signal::SIGKILL);
            }
        }
    }

    /// The exit is not asked for before the output is over (§0.5), and then closes the pipes with all that is in them
    /// (§0.4).
    async fn wait(&self, exited: watch::Sender<bool>) {
        let mut over = self.output_over.subscribe();
        over.wait_for(|over| *over).await.map(drop).unwrap_or(());
        let pid = Id::Pid(Pid::from_raw(self.pid));
        let gone = tokio::task::spawn_blocking(move || {
            // Not reaped yet, so that no signal can meet a stranger.
            waitid(pid, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
        });
        gone.await.map(drop).unwrap_or(());
        let status = {
            let mut child = self.child.lock().unwrap();
            child.take().map(|mut child| child.wait().unwrap())
        };
        exited.send_replace(true);
        *self.stdin.lock().await = Stdin::None;
        self.end.send_replace(status.map(ended));
    }

    /// A subscriber from now on. Its channel is at its end if there will be no more output.
    pub(super) fn subscribe(&self) -> mpsc::Receiver<Chunk> {
        let (subscriber, chunks) = mpsc::channel(1);
        if let Some(subscribers) = &mut *self.subscribers.lock().unwrap() {
            subscribers.push(subscriber);
        }
        chunks
    }

    /// How it ended, once it has.
    pub(super) fn end(&self) -> watch::Receiver<Option<Value>> {
        self.end.subscribe()
    }

    pub(super) fn is_over(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Sends a signal to this one process, and gives its output up (§0.4).
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        self.output_over.send_replace(true);
        match self.kill(signal) {
            true => Ok(()),
            false => Err(Error::internal(
                "error sending signal: os: process already finished",
            )),
        }
    }

    /// Whether there was a process to send it to.
    pub(super) fn kill(&self, signal: Signal) -> bool {
        // Whoever holds the child can be sure that it is not reaped.
        let child = self.child.lock().unwrap();
        child.is_some() && kill(Pid::from_raw(self.pid), signal).is_ok()
    }

    pub(super) async fn write(&self, bytes: &[u8]) -> Result<()> {
        match &mut *self.stdin.lock().await {
            Stdin::None => Err(Error::internal(
                "error writing to stdin: stdin not enabled or closed",
            )),
            Stdin::Open(pipe) => pipe
                .write_all(bytes)
                .await
                .map_err(|error| Error::internal(format!("error writing to stdin: {error}"))),
        }
    }

    pub(super) async fn close_stdin(&self) {
        *self.stdin.lock().await = Stdin::None;
    }

    /// Whether a selector means it.
    pub(super) fn is_tagged(&self, tag: &str) -> bool {
        self.request.tag.as_deref() == Some(tag)
    }

    /// Its entry in a list.
    pub(super) fn info(&self) -> Value {
        let request = &self.request;
        let mut config = json!({"cmd": request.cmd, "args": request.args, "envs": request.envs});
        if let Some(cwd) = &request.cwd {
            config["cwd"] = cwd.as_str().into();
        }
        let mut info = json!({"config": config, "pid": self.pid});
        if let Some(tag) = &request.tag {
            info["tag"] = tag.as_str().into();
        }
        info
    }
}

fn receiver(pipe: OwnedFd) -> pipe::Receiver {
    pipe::Receiver::from_owned_fd(pipe).unwrap()
}

async fn read(
    world: Arc<World>,
    pipe: Pipe,
    mut receiver: pipe::Receiver,
    source: mpsc::Sender<Chunk>,
    mut exited: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; READ];
    let mut random = world.faults.lock().unwrap().pieces.map(Random);
    loop {
        let delay = world.faults.lock().unwrap().read_delay;
        let size = random.as_mut().map_or(READ, |random| random.size(READ));
        let piece = &mut buffer[..size];
        let count = tokio::select! {
            biased;
            _ = exited.wait_for(|exited| *exited) => return,
            count = async {
                receiver.readable().await?;
                tokio::time::sleep(delay).await;
                receiver.read(piece).await
            } => count,
        };
        let Ok(count @ 1..) = count else { return };
        let bytes = buffer[..count].into();
        if source.send(Chunk { pipe, bytes }).await.is_err() {
            return;
        }
    }
}

/// An end event as Go's ProcessState tells it, in proto3 JSON: what is zero is not there (§3).
fn ended(status: ExitStatus) -> Value {
    let mut end = Map::new();
    let text = match (status.code(), status.signal()) {
        (Some(code), _) => {
            if code != 0 {
                end.insert("exitCode".into(), code.into());
            }
            end.insert("exited".into(), true.into());
            format!("exit status {code}")
        }
        (None, signal) => {
            end.insert("exitCode".into(), (-1).into());
            let core = match status.core_dumped() {
                true => " (core dumped)",
                false => "",
            };
            format!("signal: {}{core}", signal_name(signal.unwrap_or_default()))
        }
    };
    if !status.success() {
        end.insert("error".into(), text.as_str().into());
    }
    end.insert("status".into(), text.into());
    Value::Object(end)
}

/// Go's names of signals.
fn signal_name(signal: i32) -> String {
    let name = match Signal::try_from(signal) {
        Ok(Signal::SIGHUP) => "hangup",
        Ok(Signal::SIGINT) => "interrupt",
        Ok(Signal::SIGQUIT) => "quit",
        Ok(Signal::SIGILL) => "illegal instruction",
        Ok(Signal::SIGTRAP) => "trace/breakpoint trap",
        Ok(Signal::SIGABRT) => "aborted",
        Ok(Signal::SIGBUS) => "bus error",
        Ok(Signal::SIGFPE) => "floating point exception",
        Ok(Signal::SIGKILL) => "killed",
        Ok(Signal::SIGUSR1) => "user defined signal 1",
        Ok(Signal::SIGSEGV) => "segmentation fault",
        Ok(Signal::SIGUSR2) => "user defined signal 2",
        Ok(Signal::SIGPIPE) => "broken pipe",
        Ok(Signal::SIGALRM) => "alarm clock",
        Ok(Signal::SIGTERM) => "terminated",
        _ => return format!("signal {signal}"),
    };
    name.to_owned()
}

/// What a SendSignal may ask for.
pub(super) fn requested(signal: &Value) -> Result<Signal> {
    match signal {
        Value::String(name) if name == "SIGNAL_SIGTERM" => Ok(Signal::SIGTERM),
        Value::String(name) if name == "SIGNAL_SIGKILL" => Ok(Signal::SIGKILL),
        Value::Number(number) if number.as_i64() == Some(15) => Ok(Signal::SIGTERM),
        Value::Number(number) if number.as_i64() == Some(9) => Ok(Signal::SIGKILL),
        other => Err(Error::new(
            Code::Unimplemented,
            format!("invalid signal: {other}"),
        )),
    }
}
