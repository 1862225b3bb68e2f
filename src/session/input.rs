//! What goes into a session, and what comes out: one thing that happened, and what follows from it.

use std::time::Duration;

use opentelemetry::trace::SpanId;
use sandtrace_client::wire::AgentExited;
use serde_json::{Map, Value as Json};

use super::{MemoryReading, Pause, Probed, SpanChanges, SpawnFailure, TroubledSocket};
use crate::agent::Decoded;
use crate::process::exit::Termination;
use crate::process::reaper::Reaped;
use crate::resources::{Sample, TreeSample};

/// One thing that happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The agent runs.
    Spawned {
        pid: u32,
    },
    /// It could not be started.
    SpawnFailed {
        failure: SpawnFailure,
        message: String,
    },
    /// A whole line of its stdout.
    Line(&'a Decoded<'a>),
    /// A fragment of a line that is too long to be understood.
    Fragment,
    /// A line of its stderr.
    Stderr(&'a [u8]),
    StdoutClosed,
    StderrClosed,
    /// The agent's wait status.
    Exited(Termination),
    /// No process of the run is left.
    TreeEmpty,
    /// The supervisor received a signal that asks it to stop.
    StopSignal(i32),
    /// A look at the sandbox, at the interval.
    Sampled(&'a Sample),
    /// A look at the agent's processes alone, when a tool begins or ends.
    Looked(&'a TreeSample),
    /// CPU time of the agent and all it started, and how many tasks want each core, where nothing is sampled.
    Worked {
        cpu: Duration,
        crowd: f64,
    },
    /// What came of [`Action::TellApart`], if it was one of them.
    ToldApart {
        pid: u32,
        tool_use_id: String,
    },
    /// The kernel's memory counters: first just before the spawn, last when the agent is gone.
    Memory(MemoryReading),
    /// An orphan of the run ended, and we are who was told.
    OrphanEnded(Reaped),
    /// What came of [`Action::LookAtSockets`].
    Sockets(Vec<TroubledSocket>),
    /// What came of [`Action::Probe`].
    Probed(Probed),
    /// Time passed without us.
    Paused(Pause),
    /// The agent was seen stopped by a signal, or by a debugger.
    AgentStopped,
    /// The deadline that [`super::Session::deadline`] named has come.
    Tick,
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Signal the agent's process alone.
    SignalAgent(i32),
    /// Signal every process of the run.
    SignalTree(i32),
    /// End every process of the run with KILL, and report [`Input::TreeEmpty`] when that is done.
    KillTree,
    /// Compare a process's command line with the commands of these tools, and report [`Input::ToldApart`].
    TellApart {
        pid: u32,
        start_ticks: u64,
        /// By `tool_use_id`.
        commands: Vec<(String, String)>,
    },
    /// Look which sockets of the run are in trouble, and report [`Input::Sockets`].
    LookAtSockets,
    /// Try once whether the API's host can be reached, and report [`Input::Probed`].
    Probe,
    /// Export what is finished now: there may be no later.
    Flush,
    /// Tell the host.
    Warn {
        code: &'static str,
        message: String,
        counts: Map<String, Json>,
    },
    /// The verdict is in: say so, then flush the telemetry and finish.
    Finish(Box<AgentExited>),
    /// A third signal: finish at once with what is there.
    Abort(Box<AgentExited>),
}

/// What follows from one input. The shell owns it and empties it after each use.
#[derive(Debug, Default)]
pub struct Effects {
    pub spans: SpanChanges,
    /// The innermost span that the line belongs to.
    pub line_span: Option<SpanId>,
    pub actions: Vec<Action>,
}

impl Effects {
    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.spans.opened.clear();
        self.spans.closed.clear();
        self.line_span = None;
        self.actions.clear();
    }
}

/// What the run is doing, for the heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Starting,
    WaitingForModel,
    InTool,
    WaitingForApproval,
    BetweenTurns,
    Stopping,
}

impl State {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::WaitingForModel => "waiting_for_model",
            Self::InTool => "in_tool",
            Self::WaitingForApproval => "waiting_for_approval",
            Self::BetweenTurns => "between_turns",
            Self::Stopping => "stopping",
        }
    }
}
