//! The real agent, its HOME, and the API that it talks to.

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::record::Run;

/// The caller's span in every run but one.
pub(super) const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
pub(super) const PARENT: &str = "b7ad6b7169203331";

/// Longer than any run takes; the CLI alone takes ten seconds to start when the machine is busy.
const DEADLINE: Duration = Duration::from_secs(120);

/// What is killed may still be on its way out, but nothing is left that would end by itself.
const GONE: Duration = Duration::from_secs(5);

/// Every process of a run has this in its environment, with the run's own value.
const MARK: &str = "REAL_AGENT_TEST";

/// The agent's stage: a HOME and a working directory of its own, and the API it talks to.
pub(super) struct Stage {
    /// Dropped before the directory that its log is in.
    _api: Option<Server>,
    base_url: String,
    /// What the agent's environment has besides.
    env: Vec<(&'static str, String)>,
    /// Options of `sandtrace run`.
    options: Vec<&'static str>,
    python: PathBuf,
    directory: TempDir,
    /// The `cgroup.procs` that the run puts itself into.
    cgroup: Option<PathBuf>,
    _slot: Slot,
}

impl Stage {
    /// Plays a scenario of tests/scripted_api/scenarios.py.
    pub(super) fn playing(scenario: &str) -> Self {
        let slot = Slot::take();
        let directory = tempfile::tempdir().unwrap();
        let python = python();
        let api = Server::start(&python, scenario, directory.path());
        Self {
            base_url: format!("http://127.0.0.1:{}", api.port),
            env: Vec::new(),
            options: Vec::new(),
            _api: Some(api),
            python,
            directory,
            cgroup: None,
            _slot: slot,
        }
    }

    /// Where nobody listens.
    pub(super) fn deserted() -> Self {
        let slot = Slot::take();
        // An address apart: the port may be given out again, but on 127.0.0.1, which is where the others listen.
        let port = TcpListener::bind("127.0.0.77:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("work")).unwrap();
        Self {
            base_url: format!("http://127.0.0.77:{port}"),
            env: Vec::new(),
            options: Vec::new(),
            _api: None,
            python: python(),
            directory,
            cgroup: None,
            _slot: slot,
        }
    }

    /// Where the API's name is none.
    pub(super) fn nameless() -> Self {
        Self {
            base_url: "http://api.sandtrace.test:80".to_owned(),
            ..Self::deserted()
        }
    }

    /// Where the API shows a certificate that nobody vouches for.
    pub(super) fn untrusted() -> Self {
        let stage = Self::deserted();
        let port = serve_untrusted();
        Self {
            base_url: format!("https://127.0.0.1:{port}"),
            ..stage
        }
    }

    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }

    /// With this option of `sandtrace run`.
    pub(super) fn option(mut self, name: &'static str, value: &'static str) -> Self {
        self.options.extend([name, value]);
        self
    }

    /// The run, its supervisor included, is put into the cgroup of this `cgroup.procs`.
    pub(super) fn within(mut self, cgroup: PathBuf) -> Self {
        self.cgroup = Some(cgroup);
        self
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs one prompt.
    pub(super) fn start(&self, tools: &str, caller: Caller) -> Running<'_> {
        let agent = ["--tools", tools, "Do the thing."];
        self.start_agent(&agent, Stdio::null(), caller)
    }

    /// Keeps a session, in which nothing is said yet.
    pub(super) fn session(&self, options: &[&str]) -> Running<'_> {
        let agent = [&["--interactive"], options].concat();
        self.start_agent(&agent, Stdio::piped(), Caller::Traces)
    }

    /// As `use_scripted_api` in scripts/lib.sh, but from an empty environment.
    fn start_agent(&self, agent: &[&str], stdin: Stdio, caller: Caller) -> Running<'_> {
        fs::create_dir(self.path("home")).unwrap();
        let mark = self.directory.path().display().to_string();
        let mut command = match &self.cgroup {
            None => Command::new(env!("CARGO_BIN_EXE_sandtrace")),
            Some(procs) => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
                    .args([procs.as_os_str(), env!("CARGO_BIN_EXE_sandtrace").as_ref()]);
                shell
            }
        };
        command
            .args(["run", "--run-id", "real", "--journal"])
            .arg(self.path("journal"))
            .args(&self.options)
            .arg("--")
            .arg(&self.python)
            .arg(repository().join("template/agent.py"))
            .args(["--model", "claude-sonnet-5", "--cwd"])
            .arg(self.path("work"))
            .args(agent)
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env(MARK, &mark)
            .env("ANTHROPIC_BASE_URL", &self.base_url)
            .env("ANTHROPIC_API_KEY", "fake-key")
            .env("NO_PROXY", "127.0.0.1,127.0.0.77")
            .env("CLAUDE_CODE_MAX_RETRIES", "1")
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .env("DISABLE_AUTOUPDATER", "1")
            .env("DISABLE_TELEMETRY", "1")
            .env("DISABLE_ERROR_REPORTING", "1")
            .envs(self.env.iter().map(|(name, value)| (*name, value)))
            .stdin(stdin)
            .stdout(File::create(self.path("stdout")).unwrap())
            .stderr(File::create(self.path("stderr")).unwrap());
        if caller == Caller::Traces {
            command.env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-01"));
        }
        let mut child = command.spawn().unwrap();
        Running {
            caller,
            stdin: child.stdin.take(),
            child,
            mark: format!("{MARK}={mark}"),
            stage: self,
        }
    }

    /// Runs it to its end, under the caller's trace.
    pub(super) fn run(&self, tools: &str) -> Run {
        self.start(tools, Caller::Traces).finish()
    }
}

/// Whether the run has a TRACEPARENT.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    Traces,
    DoesNot,
}

/// A run in progress. One that is dropped, because its test failed, is ended with all its processes.
pub(super) struct Running<'a> {
    child: Child,
    stdin: Option<ChildStdin>,
    caller: Caller,
    mark: String,
    stage: &'a Stage,
}

impl Running<'_> {
    /// The processes of the run, ours included as long as it lives.
    fn processes(&self) -> Vec<Pid> {
        marked(&self.mark)
    }

    /// Waits until a process of the run has this among its arguments, and tells which.
    pub(super) fn await_command(&self, argument: &str) -> Pid {
        poll(DEADLINE, argument, || {
            self.processes().into_iter().find(|pid| {
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                command
                    .split(|byte| *byte == 0)
                    .any(|found| found == argument.as_bytes())
            })
        })
    }

    /// Claude Code's own process.
    pub(super) fn cli(&self) -> Pid {
        poll(DEADLINE, "the CLI", || {
            self.processes().into_iter().find(|pid| {
                let file = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                file.file_name() == Some("claude".as_ref())
            })
        })
    }

    /// Says a line to the agent.
    pub(super) fn say(&mut self, line: Value) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    /// Has nothing more to say.
    pub(super) fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// The whole lines that the host has so far.
    fn lines(&self) -> Vec<Value> {
        let stdout = fs::read_to_string(self.stage.path("stdout")).unwrap();
        let whole = stdout
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits for the line of this type that is the `number`th, from 1.
    pub(super) fn line(&self, kind: &str, number: usize) -> Value {
        poll(DEADLINE, &format!("{kind} {number}"), || {
            let mut lines = self.lines().into_iter();
            lines
                .by_ref()
                .filter(|line| line["type"] == kind)
                .nth(number - 1)
        })
    }

    /// Waits for such a line after the first `seen`, and counts it in.
    pub(super) fn any_line(
        &self,
        seen: usize,
        what: &str,
        is_it: impl Fn(&Value) -> bool,
    ) -> usize {
        poll(DEADLINE, what, || {
            let lines = self.lines();
            let at = lines.iter().skip(seen).position(&is_it)?;
            Some(seen + at + 1)
        })
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    pub(super) fn finish(mut self) -> Run {
        let status = poll(DEADLINE, "the end of the run", || {
            self.child.try_wait().unwrap()
        });
        poll(GONE, "the end of every process of the run", || {
            self.processes().is_empty().then_some(())
        });
        let run = Run::read(self.stage, status);
        run.check(self.stage, self.caller);
        run
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        for pid in self.processes() {
            kill(pid, Signal::SIGKILL).ok();
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The processes that have an entry in their environment.
fn marked(entry: &str) -> Vec<Pid> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|process| process.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            // Those that are gone meanwhile, or are somebody else's, are not ours.
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|found| found == entry.as_bytes())
        })
        .map(Pid::from_raw)
        .collect()
}

/// A TLS server on loopback whose certificate is its own word, until the test process ends.
fn serve_untrusted() -> u16 {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            // The client leaves in the middle of the greeting.
            thread::spawn(move || {
                while connection.is_handshaking() && connection.complete_io(&mut stream).is_ok() {}
            });
        }
    });
    port
}

/// The scripted API.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(python: &Path, scenario: &str, directory: &Path) -> Self {
        let port_file = directory.join("port");
        let log = File::create(directory.join("api.out")).unwrap();
        let child = Command::new(python)
            .arg(repository().join("tests/scripted_api/messages_api.py"))
            .args(["--scenario", scenario, "--port", "0", "--port-file"])
            .arg(&port_file)
            .arg("--cwd")
            .arg(directory.join("work"))
            .arg("--log")
            .arg(directory.join("api.log"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        // From here on a panic ends it.
        let mut server = Self { child, port: 0 };
        server.port = poll(DEADLINE, "the scripted API's port", || {
            let ended = server.child.try_wait().unwrap();
            let said = || fs::read_to_string(directory.join("api.out")).unwrap_or_default();
            assert_eq!(ended, None, "the scripted API ended: {}", said());
            fs::read_to_string(&port_file).ok()?.trim().parse().ok()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// At most two agents at a time: each takes 300 MB, and two cores' worth to start.
struct Slot;

static FREE: Mutex<u32> = Mutex::new(2);
static FREED: Condvar = Condvar::new();

impl Slot {
    fn take() -> Self {
        let mut free = FREED
            .wait_while(FREE.lock().unwrap(), |free| *free == 0)
            .unwrap();
        *free -= 1;
        Self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *FREE.lock().unwrap() += 1;
        FREED.notify_one();
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn python() -> PathBuf {
    let python = env::var_os("SANDTRACE_TEST_PYTHON").map(PathBuf::from);
    python.unwrap_or_else(|| {
        panic!("SANDTRACE_TEST_PYTHON names no Python with the Claude Agent SDK; scripts/test makes one and names it")
    })
}

fn poll<T>(limit: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "still waiting: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
