//! A double of what an application meets at E2B: envd's process service, the edge in front of it, and the part of the
//! REST API that starts and ends sandboxes. It runs real processes; a "sandbox" is the set of those that it started.
//!
//! It is built from documented behaviour, and where something is known to be a trap it falls into it as the original
//! does. Each trap with its source, sections of `reference/e2b.md`:
//!
//! | trap | source | where |
//! |---|---|---|
//! | `Connect-Timeout-Ms` of a Start kills the process, of a Connect only ends the stream | §0.1, §3 | `process.rs`, `stream.rs` |
//! | a process outlives the connection that started it; without a subscriber its output is discarded | §0.2 | `process.rs` |
//! | an exit is remembered for 30 s, and then the pid is unknown | §0.2 | `process.rs` |
//! | a subscriber that does not read holds the process back, for the fan-out waits for each | §0.3 | `process.rs` |
//! | after SendSignal the read ends close right at the exit, whatever is still in the pipes | §0.4 | `process.rs` |
//! | the end is reported only after EOF on stdout and on stderr, grandchildren included | §0.5 | `process.rs` |
//! | `/bin/sh` wrapper around `/bin/bash -l -c`; signals go to the one pid | §0.6 | `process.rs` |
//! | a sandbox ends without a word inside: its processes are killed at once, its connections cut | §0.9 | `sandbox.rs` |
//! | 32 KiB reads with boundaries anywhere, base64 in JSON; keepalives; −1 and `signal: killed`; zero values omitted | §3 | `process.rs`, `stream.rs` |
//! | what a killed sandbox died of stands in the events alone; the edge answers 502 with an integer code | §4, §6 | `rest.rs`, `service.rs` |
//! | envelopes, one message a request, errors at the end of a stream with HTTP 200 | §6 | `connect.rs` |
//!
//! Not here: PTYs, files, HTTP/2, protobuf, gzip, users (all runs as whoever runs the test), cgroups, forks. A paused
//! sandbox is one whose processes are stopped by SIGSTOP. That an exited process is not listed is a guess.
//!
//! Nothing here is authoritative: when the original is seen to do otherwise, this is what must change.

mod connect;
mod faults;
mod http;
mod process;
mod rest;
mod sandbox;
mod service;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

pub(crate) use self::faults::{Cuts, Edge, Ending, Faults};
use self::sandbox::Sandbox;

/// What the SDKs call their sandbox in debug mode. It is always there, has no token, and never ends.
pub(crate) const DEBUG_SANDBOX: &str = "debug_sandbox_id";

/// How a fake is set up.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// 0 for any.
    pub(crate) port: u16,
    /// What `X-API-Key` must be.
    pub(crate) api_key: String,
    /// HOME and working directory of the commands, instead of an empty directory of the fake's own.
    pub(crate) home: Option<PathBuf>,
    /// What every sandbox has in its environment, besides what it was created with.
    pub(crate) envs: Vec<(String, String)>,
    /// How long an exit is remembered.
    pub(crate) exit_retention: Duration,
    pub(crate) faults: Faults,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            api_key: "fake-api-key".to_owned(),
            home: None,
            envs: Vec::new(),
            exit_retention: Duration::from_secs(30),
            faults: Faults::default(),
        }
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// The message, where the request was one.
    pub(crate) message: Value,
}

/// What all connections share.
struct World {
    options: Options,
    home: PathBuf,
    user: String,
    faults: Mutex<Faults>,
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    seen: Mutex<Vec<Seen>>,
    stopped: watch::Sender<bool>,
    runtime: tokio::runtime::Handle,
}

/// A running fake. Dropped, it leaves no process behind.
pub(crate) struct FakeEnvd {
    address: SocketAddr,
    world: Arc<World>,
    thread: Option<JoinHandle<()>>,
    /// HOME, where the test named none.
    _home: Option<tempfile::TempDir>,
}

impl FakeEnvd {
    pub(crate) fn start() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let made = match options.home {
            None => Some(tempfile::tempdir().unwrap()),
            Some(_) => None,
        };
        let home = made.as_ref().map(|home| home.path().to_owned());
        let home = options.home.clone().or(home).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let user = nix::unistd::User::from_uid(nix::unistd::getuid());
        let world = Arc::new(World {
            home,
            user: user.unwrap().map_or("user".to_owned(), |user| user.name),
            faults: Mutex::new(options.faults.clone()),
            sandboxes: Mutex::default(),
            seen: Mutex::default(),
            stopped: watch::Sender::new(false),
            runtime: runtime.handle().clone(),
            options,
        });
        Sandbox::debug(&world);
        let serving = Arc::clone(&world);
        let thread = thread::spawn(move || {
            runtime.block_on(http::serve(listener, serving));
            // Blocked writers and waiters are abandoned.
            runtime.shutdown_background();
        });
        Self {
            address,
            world,
            thread: Some(thread),
            _home: made,
        }
    }

    /// `http://127.0.0.1:PORT`: of the REST API, and of every sandbox's envd.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// HOME of the commands, where they start.
    pub(crate) fn home(&self) -> &Path {
        &self.world.home
    }

    /// Changes what goes wrong from here on.
    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.world.faults.lock().unwrap());
    }

    /// Every request so far, in order of arrival.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.world.seen.lock().unwrap().clone()
    }

    /// The requests for a path.
    pub(crate) fn seen_at(&self, path: &str) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|request| request.path == path);
        seen
    }

    /// Ends a sandbox as E2B does: no signal that could be caught, no last word on any connection. `reason` is one of
    /// E2B's words: request, timeout, admin, orphaned, base_template_missing, unknown.
    pub(crate) fn kill_sandbox(&self, id: &str, reason: &str) {
        let sandbox = self.world.sandbox(id).unwrap();
        sandbox.kill(reason);
    }

    /// The ids of the sandboxes that were created, the dead included.
    pub(crate) fn sandboxes(&self) -> Vec<String> {
        let sandboxes = self.world.sandboxes.lock().unwrap();
        let ids = sandboxes.keys().filter(|id| *id != DEBUG_SANDBOX);
        ids.cloned().collect()
    }

    /// The living processes of all sandboxes, by what they inherited: what they started is among them.
    pub(crate) fn processes(&self) -> BTreeSet<i32> {
        let sandboxes = self.world.sandboxes.lock().unwrap();
        let sandboxes: Vec<_> = sandboxes.values().cloned().collect();
        sandboxes.iter().flat_map(|one| one.alive()).collect()
    }
}

impl Drop for FakeEnvd {
    fn drop(&mut self) {
        let sandboxes: Vec<_> = {
            let sandboxes = self.world.sandboxes.lock().unwrap();
            sandboxes.values().cloned().collect()
        };
        for sandbox in sandboxes {
            sandbox.kill("admin");
        }
        self.world.stopped.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_default();
        }
    }
}

impl World {
    fn sandbox(&self, id: &str) -> Option<Arc<Sandbox>> {
        self.sandboxes.lock().unwrap().get(id).cloned()
    }

    /// Takes one of a number of faults, as long as there are any.
    fn take(&self, count: impl FnOnce(&mut Faults) -> &mut usize) -> bool {
        let mut faults = self.faults.lock().unwrap();
        let count = count(&mut faults);
        let taken = *count > 0;
        *count = count.saturating_sub(1);
        taken
    }
}
