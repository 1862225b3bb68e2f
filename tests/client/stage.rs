//! The real agent in a fake sandbox: its HOME as the template lays it out, and the scripted API that it talks to.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use crate::fake_envd::{FakeEnvd, Options};
use crate::raw::poll;

/// What a login shell finds there: the sandbox's own `bin`, as if it were `/usr/bin`, and something to say.
const PROFILE: &str = "PATH=$HOME/bin:$PATH\necho 'Welcome to the sandbox.'\n";

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Python that has the Claude Agent SDK.
pub(crate) fn agent_python() -> Option<PathBuf> {
    env::var_os("SANDTRACE_TEST_PYTHON").map(PathBuf::from)
}

/// A sandbox with an agent in it.
pub(crate) struct Stage {
    pub(crate) fake: FakeEnvd,
    home: TempDir,
    _api: Api,
    _slot: Slot,
}

impl Stage {
    /// Plays a scenario of tests/scripted_api/scenarios.py to agents that run on this Python.
    pub(crate) fn playing(scenario: &str, python: &Path) -> Self {
        let slot = Slot::take();
        let home = tempfile::tempdir().unwrap();
        let api = Api::start(scenario, python, home.path());
        let prefix = home.path().join("opt/sandtrace");
        fs::create_dir_all(&prefix).unwrap();
        fs::create_dir(home.path().join("bin")).unwrap();
        // PREFIX/bin/python of PREFIX, by whatever links.
        let venv = python.parent().unwrap().parent().unwrap();
        symlink(venv, prefix.join("venv")).unwrap();
        symlink(
            repository().join("template/agent.py"),
            prefix.join("agent.py"),
        )
        .unwrap();
        let sandtrace = home.path().join("bin/sandtrace");
        symlink(env!("CARGO_BIN_EXE_sandtrace"), sandtrace).unwrap();
        fs::write(home.path().join(".profile"), PROFILE).unwrap();
        let base_url = format!("http://127.0.0.1:{}", api.port);
        let envs = [
            ("ANTHROPIC_BASE_URL", base_url.as_str()),
            ("NO_PROXY", "127.0.0.1"),
            ("CLAUDE_CODE_MAX_RETRIES", "1"),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
            ("DISABLE_TELEMETRY", "1"),
            ("DISABLE_ERROR_REPORTING", "1"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("SANDTRACE_PROBE", "off"),
        ];
        let envs = envs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let fake = FakeEnvd::with(Options {
            home: Some(home.path().to_owned()),
            envs: envs.to_vec(),
            ..Options::default()
        });
        Self {
            fake,
            home,
            _api: api,
            _slot: slot,
        }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where the template's files are.
    pub(crate) fn prefix(&self) -> String {
        self.home().join("opt/sandtrace").display().to_string()
    }

    /// The lines in the journal of the only run.
    pub(crate) fn journaled(&self) -> Vec<Value> {
        let runs = self.home().join(".local/state/sandtrace");
        let runs = fs::read_dir(runs).unwrap().map(|run| run.unwrap().path());
        let mut events = runs
            .map(|run| run.join("events.ndjson"))
            .filter(|file| file.exists());
        let text = fs::read_to_string(events.next().unwrap()).unwrap();
        assert_eq!(events.next(), None, "one run, one directory");
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    }

    pub(crate) fn assert_nothing_left(&self) {
        poll("the last processes in the sandbox", || {
            self.fake.processes().is_empty().then_some(())
        });
    }
}

/// The scripted Messages API.
struct Api {
    child: Child,
    port: u16,
}

impl Api {
    fn start(scenario: &str, python: &Path, home: &Path) -> Self {
        let port_file = home.join("api.port");
        let out = File::create(home.join("api.out")).unwrap();
        let child = Command::new(python)
            .arg(repository().join("tests/scripted_api/messages_api.py"))
            .args(["--scenario", scenario, "--port", "0", "--port-file"])
            .arg(&port_file)
            .arg("--cwd")
            .arg(home)
            .arg("--log")
            .arg(home.join("api.log"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        // From here on a panic ends it.
        let mut api = Self { child, port: 0 };
        api.port = poll("the scripted API's port", || {
            let ended = api.child.try_wait().unwrap();
            let said = || fs::read_to_string(home.join("api.out")).unwrap_or_default();
            assert_eq!(ended, None, "the scripted API ended: {}", said());
            fs::read_to_string(&port_file).ok()?.trim().parse().ok()
        });
        api
    }
}

impl Drop for Api {
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
        let free = FREE.lock().unwrap();
        *FREED.wait_while(free, |free| *free == 0).unwrap() -= 1;
        Self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *FREE.lock().unwrap() += 1;
        FREED.notify_one();
    }
}
