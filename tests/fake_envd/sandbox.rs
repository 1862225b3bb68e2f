//! A "sandbox": the processes that were started in it, and whether it is still there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::process::Process;
use super::{DEBUG_SANDBOX, World};

/// What every process of a sandbox inherits besides E2B's own variables, so that none is overlooked at its end.
const MARK: &str = "FAKE_ENVD_SANDBOX";

/// What E2B stands at today.
pub(super) const ENVD_VERSION: &str = "0.6.13";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    Paused,
    Killed,
}

pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) template: String,
    /// What `X-Access-Token` must be, if anything.
    pub(super) token: Option<String>,
    pub(super) metadata: Value,
    pub(super) started: Timestamp,
    envs: BTreeMap<String, String>,
    mark: String,
    phase: watch::Sender<Phase>,
    /// When it ends by itself; None for never.
    ends: watch::Sender<Option<Timestamp>>,
    /// The living, and those whose exit is remembered.
    processes: Mutex<BTreeMap<i32, Arc<Process>>>,
    events: Mutex<Vec<Value>>,
}

/// What a sandbox is made with.
pub(super) struct New {
    pub(super) template: String,
    pub(super) timeout: Duration,
    pub(super) metadata: Value,
    pub(super) envs: BTreeMap<String, String>,
    pub(super) secure: bool,
}

impl Sandbox {
    /// The one that the SDKs assume in debug mode.
    pub(super) fn debug(world: &World) -> Arc<Self> {
        let new = New {
            template: "base".to_owned(),
            timeout: Duration::ZERO,
            metadata: Value::Null,
            envs: BTreeMap::new(),
            secure: false,
        };
        Self::make(world, DEBUG_SANDBOX.to_owned(), new, None)
    }

    pub(super) fn create(world: &World, new: New) -> Arc<Self> {
        let id = format!("i{}", &random_word()[..19]);
        let ends = Timestamp::now() + new.timeout;
        let sandbox = Self::make(world, id, new, Some(ends));
        world.runtime.spawn(Arc::clone(&sandbox).expire());
        sandbox
    }

    fn make(world: &World, id: String, new: New, ends: Option<Timestamp>) -> Arc<Self> {
        let sandbox = Arc::new(Self {
            id: id.clone(),
            template: new.template,
            token: new.secure.then(random_word),
            metadata: new.metadata,
            started: Timestamp::now(),
            envs: new.envs,
            mark: random_word(),
            phase: watch::Sender::new(Phase::Running),
            ends: watch::Sender::new(ends),
            processes: Mutex::default(),
            events: Mutex::default(),
        });
        sandbox.note("created", Value::Null);
        let mut sandboxes = world.sandboxes.lock().unwrap();
        sandboxes.insert(id, Arc::clone(&sandbox));
        sandbox
    }

    /// Ends it when its time has come.
    async fn expire(self: Arc<Self>) {
        let mut ends = self.ends.subscribe();
        let mut phase = self.phase.subscribe();
        loop {
            let now = *phase.borrow_and_update();
            let end = *ends.borrow_and_update();
            if now == Phase::Killed {
                return;
            }
            let left = end.filter(|_| now == Phase::Running).map(|end| {
                let left = Timestamp::now().until(end).unwrap();
                left.total(jiff::Unit::Second).unwrap()
            });
            let sleep = async {
                match left {
                    None => std::future::pending().await,
                    Some(left) => {
                        tokio::time::sleep(Duration::from_secs_f64(left.max(0.0))).await;
                    }
                }
            };
            tokio::select! {
                changed = ends.changed() => if changed.is_err() { return },
                changed = phase.changed() => if changed.is_err() { return },
                () = sleep => self.kill("timeout"),
            }
        }
    }

    /// What each of its processes finds in its environment.
    pub(super) fn environment(&self) -> BTreeMap<String, String> {
        let own = [
            ("E2B_SANDBOX", "true"),
            ("E2B_SANDBOX_ID", &self.id),
            ("E2B_TEMPLATE_ID", &self.template),
            (MARK, &self.mark),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        own.into_iter().chain(self.envs.clone()).collect()
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(super) fn is(&self, phase: Phase) -> bool {
        *self.phase.borrow() == phase
    }

    pub(super) fn ends(&self) -> Option<Timestamp> {
        *self.ends.borrow()
    }

    pub(super) fn end_at(&self, end: Timestamp) {
        if self.ends().is_some() {
            self.ends.send_replace(Some(end));
            self.note("updated", json!({"set_timeout": end.to_string()}));
        }
    }

    pub(super) fn remember(&self, process: &Arc<Process>) {
        let mut processes = self.processes.lock().unwrap();
        processes.insert(process.pid, Arc::clone(process));
    }

    /// Unless the pid means another one by now.
    pub(super) fn forget(&self, process: &Arc<Process>) {
        let mut processes = self.processes.lock().unwrap();
        if processes
            .get(&process.pid)
            .is_some_and(|known| Arc::ptr_eq(known, process))
        {
            processes.remove(&process.pid);
        }
    }

    pub(super) fn processes(&self) -> Vec<Arc<Process>> {
        self.processes.lock().unwrap().values().cloned().collect()
    }

    /// Ends it without a word: nothing inside sees it coming, and its connections are gone (§0.9).
    pub(super) fn kill(&self, reason: &str) {
        let before = self.phase.send_replace(Phase::Killed);
        if before == Phase::Killed {
            return;
        }
        self.kill_processes();
        let ran = Timestamp::now().duration_since(self.started).as_millis();
        let execution = json!({
            "started_at": self.started.to_string(),
            "vcpu_count": 2,
            "memory_mb": 1024,
            "execution_time": i64::try_from(ran).unwrap_or(i64::MAX),
        });
        self.note(
            "killed",
            json!({"kill_reason": reason, "execution": execution}),
        );
    }

    /// Stops it as it is, or, without its memory, kills what runs in it and keeps the disk.
    pub(super) fn pause(&self, memory: bool) {
        self.phase.send_replace(Phase::Paused);
        match memory {
            true => self.signal_all(Signal::SIGSTOP),
            false => self.kill_processes(),
        }
        self.note("paused", Value::Null);
    }

    pub(super) fn resume(&self) {
        self.signal_all(Signal::SIGCONT);
        self.phase.send_replace(Phase::Running);
        self.note("resumed", Value::Null);
    }

    fn kill_processes(&self) {
        for process in self.processes() {
            process.kill(Signal::SIGKILL);
        }
        // What a killed process was about to start carries the mark as well.
        loop {
            let alive = self.alive();
            if alive.is_empty() {
                return;
            }
            for pid in alive {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn signal_all(&self, signal: Signal) {
        for pid in self.alive() {
            kill(Pid::from_raw(pid), signal).ok();
        }
    }

    /// Everything that runs in it: by the mark, and by descent from what carries it, for not every process shows its
    /// environment.
    pub(super) fn alive(&self) -> BTreeSet<i32> {
        let mark = format!("{MARK}={}", self.mark).into_bytes();
        let mut parents = BTreeMap::new();
        let mut alive = BTreeSet::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let Some((state, parent)) = state_and_parent(pid) else {
                continue;
            };
            if matches!(state, 'Z' | 'X') {
                continue;
            }
            parents.insert(pid, parent);
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|one| one == mark) {
                alive.insert(pid);
            }
        }
        let started = self.processes();
        let running = started.iter().filter(|process| !process.is_over());
        alive.extend(
            running
                .map(|process| process.pid)
                .filter(|pid| parents.contains_key(pid)),
        );
        loop {
            let children = parents
                .iter()
                .filter(|(pid, parent)| alive.contains(parent) && !alive.contains(pid));
            let children: Vec<i32> = children.map(|(pid, _)| *pid).collect();
            if children.is_empty() {
                return alive;
            }
            alive.extend(children);
        }
    }

    fn note(&self, what: &str, data: Value) {
        self.events.lock().unwrap().push(json!({
            "version": "v2",
            "id": uuid::Uuid::now_v7().to_string(),
            "type": format!("sandbox.lifecycle.{what}"),
            "eventData": data,
            "sandboxBuildId": "00000000-0000-0000-0000-000000000000",
            "sandboxExecutionId": self.mark,
            "sandboxId": self.id,
            "sandboxTeamId": "00000000-0000-0000-0000-000000000000",
            "sandboxTemplateId": self.template,
            "timestamp": Timestamp::now().to_string(),
        }));
    }

    /// What happened to it, the newest first.
    pub(super) fn events(&self) -> Vec<Value> {
        let events = self.events.lock().unwrap();
        events.iter().rev().cloned().collect()
    }
}

/// Returns when a sandbox no longer answers.
pub(super) async fn ended(phase: &mut watch::Receiver<Phase>) {
    let gone = phase.wait_for(|phase| *phase != Phase::Running).await;
    gone.map(drop).unwrap_or(());
}

fn random_word() -> String {
    uuid::Uuid::now_v7()
        .as_simple()
        .to_string()
        .chars()
        .rev()
        .collect()
}

/// From `/proc/PID/stat`; the name in it may hold anything.
fn state_and_parent(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}
