//! What the supervisor does for its own safety, and what this sandbox lets it do.
//!
//! The agent runs commands that a language model chose, as the same user. [`Protection::begin`] closes our memory and
//! environment to them. [`Protection::complete`] makes us the last victim of the OOM killer and the agent a likelier one.
//! That must wait until the agent runs: it would inherit our score, and with it every process it starts, and a sandbox in
//! which nobody may be killed hangs. But a process that hides its memory may no longer open its own score, so the file is
//! opened before that.

use std::fs::{self, File, OpenOptions};
use std::io::Write;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};

use super::pidfd::open_pidfd;
use super::stat::sees_processes;
use crate::resources::{CgroupVersion, MemoryCgroup, kernel_log};

/// From -1000, never killed, to 1000. Not -1000 for ourselves: a supervisor that leaks must still be killed in the end.
const OWN_SCORE: i32 = -900;
/// Added to the agent's score: the sandbox's other processes should outlive it.
const AGENT_SCORE_ABOVE_ENTRY: i32 = 100;

/// Protection that has begun, and is completed once the agent runs.
#[derive(Debug)]
pub struct Protection {
    /// Our oom_score_adj, open for writing.
    score: Option<File>,
    score_at_entry: Option<i32>,
}

impl Protection {
    /// Hides memory, environment and files from other processes of the same user. Nothing here can fail the run.
    ///
    /// As early as possible: until then the environment is readable.
    pub fn begin() -> Self {
        let protection = Self {
            score: OpenOptions::new()
                .write(true)
                .open("/proc/self/oom_score_adj")
                .ok(),
            score_at_entry: score("self"),
        };
        // Whether it worked is asked of the kernel, in `Abilities::observe`.
        prctl::set_dumpable(false).ok();
        ignore_file_size_signal();
        protection
    }

    /// Finishes what the agent must not inherit. `None` if there is no agent.
    pub fn complete(mut self, agent: Option<Pid>) -> Abilities {
        if let (Some(agent), Some(entry)) = (agent, self.score_at_entry)
            && sees_processes()
        {
            let score = (entry + AGENT_SCORE_ABOVE_ENTRY).min(1000);
            // Refused for a setuid program; then it keeps the score of our entry.
            fs::write(format!("/proc/{agent}/oom_score_adj"), score.to_string()).ok();
        }
        self.lower_own_score();
        // Hidden processes dump no core. This is for a kernel that would not hide us.
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_CORE) {
            setrlimit(Resource::RLIMIT_CORE, 0, hard).ok();
        }
        Abilities::observe(agent)
    }

    /// A user may go as low as the lowest score that a privileged ancestor has had, which cannot be asked.
    fn lower_own_score(&mut self) {
        let (Some(file), Some(entry)) = (&mut self.score, self.score_at_entry) else {
            return;
        };
        for score in [OWN_SCORE, OWN_SCORE / 2, 0] {
            if score < entry && file.write_all(score.to_string().as_bytes()).is_ok() {
                return;
            }
        }
    }
}

/// Makes a limit on the size of files an error of write(2): the journal then ends, and not the run. The agent gets the
/// disposition that we were started with.
#[expect(unsafe_code, reason = "a handler could be unsound; this is none")]
fn ignore_file_size_signal() {
    // SAFETY: ignoring a signal runs no code in a handler.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.ok();
}

/// What is so, whatever was asked for: facts for `sandtrace.run.started`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// Orphans come to us.
    pub subreaper: bool,
    /// Other processes of this user may read our memory.
    pub dumpable: bool,
    pub oom_score_adj: Option<i32>,
    pub agent_oom_score_adj: Option<i32>,
    /// The cgroup whose counters we can read.
    pub cgroup: Option<CgroupVersion>,
    /// We can read in the kernel's log whom it killed.
    pub kernel_log: bool,
    /// Signals go to processes, not to pids.
    pub pidfd: bool,
    /// Processes can be seen.
    pub proc: bool,
    /// Whether the agent has a cgroup of its own, or why not: a sentence without an end.
    pub own_cgroup: Result<(), String>,
}

impl Abilities {
    /// Asks the kernel.
    #[must_use]
    pub fn observe(agent: Option<Pid>) -> Self {
        Self {
            subreaper: prctl::get_child_subreaper().unwrap_or(false),
            dumpable: prctl::get_dumpable().unwrap_or(true),
            oom_score_adj: score("self"),
            agent_oom_score_adj: agent
                .filter(|_| sees_processes())
                .and_then(|agent| score(&agent.to_string())),
            cgroup: MemoryCgroup::of_this_process().map(|cgroup| cgroup.version()),
            kernel_log: kernel_log::is_readable(),
            pidfd: open_pidfd(Pid::this()).is_ok(),
            proc: sees_processes(),
            own_cgroup: Err("none was asked for".to_owned()),
        }
    }

    /// As the wire has them.
    #[must_use]
    pub fn to_map(&self) -> Map<String, Value> {
        let cgroup = self.cgroup.map(CgroupVersion::as_str);
        [
            ("subreaper", json!(self.subreaper)),
            ("dumpable", json!(self.dumpable)),
            ("oom_score_adj", json!(self.oom_score_adj)),
            ("agent_oom_score_adj", json!(self.agent_oom_score_adj)),
            ("cgroup", json!(cgroup)),
            ("kernel_log", json!(self.kernel_log)),
            ("pidfd", json!(self.pidfd)),
            ("proc", json!(self.proc)),
            ("own_cgroup", json!(self.own_cgroup.is_ok())),
            ("own_cgroup_refused", json!(self.own_cgroup.as_ref().err())),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }
}

fn score(process: &str) -> Option<i32> {
    fs::read_to_string(format!("/proc/{process}/oom_score_adj"))
        .ok()?
        .trim()
        .parse()
        .ok()
}
