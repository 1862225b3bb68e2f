//! What the run means: a pure machine from inputs to spans, actions and a verdict.
//!
//! [`Session::handle`] takes one [`Input`] with its [`Now`] and writes what follows from it into [`Effects`]: spans
//! that opened and closed, the span the current line belongs to, and [`Action`]s for the shell to carry out. There is
//! no clock, process, file or environment in here; the shell calls [`Session::deadline`] to know when to send
//! [`Input::Tick`].
//!
//! A stream is a set of *lanes*: the main thread, and one per subagent, keyed by the tool call that started it. Within
//! a lane one chat is open at a time; tools, subagents and approvals are keyed by `tool_use_id`, because the order of
//! lines is not causal. Turns are a queue: Claude Code may begin a turn before it reports the last one's result.
//! `tree` keeps the rules that hold for every span, `ledger` the tokens and dollars, `stop` the way from the first
//! signal to the last process, and `failure` the verdict.

mod api_error;
mod approvals;
mod chats;
mod config;
mod ending;
mod exception;
pub mod failure;
mod fork;
pub mod id;
mod input;
mod lane;
mod ledger;
mod life;
mod memory;
mod messages;
mod network;
pub mod price;
mod rate_limit;
mod sandbox_end;
pub mod semconv;
pub mod span;
mod stop;
mod subagents;
mod tool_usage;
mod tools;
mod tree;
mod turns;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use opentelemetry::Key;
use opentelemetry::trace::SpanId;
use sandtrace_client::FailureKind;
use sandtrace_client::wire::{AgentExited, Counts, Exit, Phases, ResourcePeaks};

pub use self::config::{Capture, SessionConfig};
pub use self::failure::{Intent, SpawnFailure};
pub use self::fork::Forked;
pub use self::input::{Action, Effects, Input, State};
pub use self::life::Pause;
pub use self::memory::{MemoryReading, wants_reading};
pub use self::network::{
    Probe, ProbeOutcome, ProbePolicy, Probed, Route, SocketOwner, Trouble, TroubledSocket,
};
pub use self::span::{Attribute, FinishedSpan, SpanEvent, SpanLink, SpanStatus, TraceContext};
pub use self::stop::SurvivorPolicy;
pub use self::tree::{OpenedSpan, SpanChanges};

use self::api_error::ApiError;
use self::approvals::Approvals;
use self::exception::StderrTail;
use self::failure::LastResult;
use self::id::SpanKey;
use self::lane::Lanes;
use self::ledger::Ledger;
use self::life::{Life, Loops};
use self::memory::Memory;
use self::network::Network;
use self::sandbox_end::SandboxEnd;
use self::semconv::{key, span as span_name};
use self::stop::Stop;
use self::tool_usage::ToolUsage;
use self::tools::Tools;
use self::tree::SpanTree;
use self::turns::Turn;
use crate::agent::{AgentEvent, Decoded};
use crate::resources::{Sample, crowd};
use crate::time::{Now, UnixNanos};

/// The machine.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    root: SpanId,
    tree: SpanTree,
    turns: VecDeque<Turn>,
    turn_count: u64,
    lanes: Lanes,
    tools: Tools,
    approvals: Approvals,
    ledger: Ledger,
    tool_usage: ToolUsage,
    memory: Memory,
    network: Network,
    stop: Stop,
    /// The run is over, but for what the verdict still waits for.
    over: bool,
    stderr: StderrTail,
    /// The model that `init` named: what a failed call had asked for.
    model: Option<String>,
    last_result: Option<LastResult>,
    /// The error line the CLI made up in the turn in progress.
    api_error: Option<ApiError>,
    /// The same of the turn that the last result ended.
    result_error: Option<ApiError>,
    /// The main thread's calls of this turn.
    turn_calls: ledger::TurnCalls,
    /// When the session began to run again after a result: the start of the next turn.
    expected_turn: Option<UnixNanos>,
    /// When the last turn ended.
    turn_ended: Option<UnixNanos>,
    conversation: Option<String>,
    agent_error: Option<String>,
    spawn_failure: Option<(SpawnFailure, String)>,
    hooks: BTreeMap<String, SpanId>,
    compaction: Option<turns::Compaction>,
    counts: Counts,
    phases: Phases,
    peaks: ResourcePeaks,
    exit: Option<Exit>,
    verdict: Option<AgentExited>,
    started: UnixNanos,
    ended: UnixNanos,
    exit_uptime: Option<Duration>,
    life: Life,
    loops: Loops,
    sandbox_end: SandboxEnd,
    /// Asked for by a part that has no effects at hand.
    pending: Vec<Action>,
}

impl Session {
    /// Starts a run: opens its span.
    pub fn new(config: SessionConfig, now: Now, effects: &mut Effects) -> Self {
        let root = id::span_id(&config.run_id, SpanKey::Run, &[""]);
        let mut common = config.attributes.clone();
        common.push((
            Key::from_static_str(key::RUN_ID),
            config.run_id.clone().into(),
        ));
        common.push((
            Key::from_static_str(key::GEN_AI_AGENT_NAME),
            config.agent_name.clone().into(),
        ));
        common.push((
            Key::from_static_str(key::RUN_AGENT),
            config.agent_name.clone().into(),
        ));
        if let Some(session) = &config.session_id {
            common.push((
                Key::from_static_str(key::SESSION_ID),
                session.clone().into(),
            ));
        }
        if let Some(user) = &config.user_id {
            common.push((Key::from_static_str(key::USER_ID), user.clone().into()));
        }
        let mut tree = SpanTree::new(config.context.clone(), root, common);
        // The run begins with the supervisor, as its deadline and its phases do.
        let started = now.wall.minus(now.uptime);
        tree.open_root(span_name::RUN, started, &mut effects.spans);
        if let Some(span) = tree.get_mut(root) {
            span.set(key::PROCESS_EXECUTABLE_NAME, config.executable.clone());
        }
        let life = Life::new(config.idle_timeout, now.uptime);
        Self {
            stop: Stop::new(
                config.deadline,
                config.idle_timeout,
                config.grace,
                config.survivors,
            ),
            ledger: Ledger::new(config.resumed),
            sandbox_end: SandboxEnd::new(config.sandbox_ends_at, now),
            tool_usage: ToolUsage::default(),
            memory: Memory::default(),
            network: Network::default(),
            config,
            root,
            tree,
            turns: VecDeque::new(),
            turn_count: 0,
            lanes: Lanes::default(),
            tools: Tools::default(),
            approvals: Approvals::default(),
            over: false,
            stderr: StderrTail::default(),
            model: None,
            last_result: None,
            api_error: None,
            result_error: None,
            turn_calls: ledger::TurnCalls::default(),
            expected_turn: None,
            turn_ended: None,
            conversation: None,
            agent_error: None,
            spawn_failure: None,
            hooks: BTreeMap::new(),
            compaction: None,
            counts: Counts::default(),
            phases: Phases::default(),
            peaks: ResourcePeaks::default(),
            exit: None,
            verdict: None,
            started,
            ended: started,
            exit_uptime: None,
            life,
            loops: Loops::default(),
            pending: Vec::new(),
        }
    }

    /// The run's own span.
    #[must_use]
    pub fn root(&self) -> SpanId {
        self.tree.told(self.root)
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Now, input: Input<'_>, effects: &mut Effects) {
        self.sandbox_end.plan(now);
        match input {
            Input::Spawned { pid } => {
                self.phases.spawn_ms = Some(millis(now.uptime));
                self.tool_usage.spawned(pid);
                self.memory.spawned(pid);
                if let Some(span) = self.tree.get_mut(self.root) {
                    span.set(key::PROCESS_PID, i64::from(pid));
                }
            }
            Input::SpawnFailed { failure, message } => {
                self.spawn_failure = Some((failure, message));
                self.finish(now, effects);
            }
            Input::Line(decoded) => {
                self.sign_of_life(now);
                self.phases
                    .first_line_ms
                    .get_or_insert_with(|| millis(now.uptime));
                self.network.line(now.uptime);
                effects.line_span = Some(self.line(now, decoded, effects));
            }
            Input::Fragment => {
                self.sign_of_life(now);
                effects.line_span = Some(self.current_span());
            }
            Input::Stderr(line) => {
                self.sign_of_life(now);
                self.stderr.push(line);
                effects.line_span = Some(self.current_span());
            }
            Input::Sampled(sample) => self.sampled(now, sample, effects),
            Input::Looked(tree) if self.tool_usage.is_late(tree) => {}
            Input::Looked(tree) => {
                self.memory.looked(now.uptime, tree);
                self.looked(tree, effects);
            }
            Input::Worked { cpu, crowd } => self.worked(now, cpu, crowd),
            Input::ToldApart { pid, tool_use_id } => self.told_apart(pid, &tool_use_id),
            Input::Memory(reading) if self.phases.spawn_ms.is_none() => {
                self.memory.baseline(reading)
            }
            Input::Memory(reading) => {
                self.memory_read(now, reading, effects);
                // Readings come every second or more often, whether or not anything is sampled.
                self.look_if_kept_waiting(now, &mut effects.actions);
            }
            Input::OrphanEnded(reaped) => {
                let ours = self.stop.is_stopping();
                self.memory.orphan_ended(now.uptime, reaped, ours);
            }
            Input::Sockets(sockets) => self.network.looked(sockets),
            Input::Probed(probed) => self.network.probed(probed),
            Input::Paused(pause) => self.paused(now, pause, effects),
            // Who is stopped cannot give a sign of life.
            Input::AgentStopped => self.life.sign(now.uptime),
            Input::StdoutClosed => self.stop.stdout_closed(),
            Input::StderrClosed => self.stop.stderr_closed(),
            Input::Exited(termination) => {
                self.phases.exit_ms = Some(millis(now.uptime));
                self.memory.exited(now.uptime);
                self.ended = now.wall;
                self.exit_uptime = Some(now.uptime);
                self.stop
                    .exited(now.uptime, termination, &mut effects.actions);
            }
            Input::TreeEmpty => self.stop.tree_empty(),
            Input::StopSignal(signal) => {
                if self.stop.signal(now.uptime, signal, &mut effects.actions)
                    == stop::Patience::Lost
                {
                    let verdict = self.finish_spans(now, effects);
                    effects.actions.push(Action::Abort(Box::new(verdict)));
                    return;
                }
            }
            Input::Tick => {
                let activity = self.activity();
                self.stop.tick(now.uptime, activity, &mut effects.actions);
                self.check_stall(now, effects);
                self.check_sandbox_end(now, effects);
            }
        }
        if !self.pending.is_empty() {
            effects.actions.append(&mut self.pending);
        }
        effects.line_span = effects.line_span.map(|span| self.tree.told(span));
        self.over |= self.stop.take_ended();
        if self.over && self.verdict.is_none() && self.is_evidence_in(now, &mut effects.actions) {
            self.finish(now, effects);
        }
    }

    /// When the next [`Input::Tick`] is due, as time since the start.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let awaits_probe = self.over && self.verdict.is_none();
        let probe_due = self.network.probe_due().filter(|_| awaits_probe);
        probe_due.or_else(|| {
            let stop = self.stop.deadline(self.activity());
            let told = stop::earliest(self.stall_deadline(), self.sandbox_end.due());
            stop::earliest(stop, told)
        })
    }

    /// When the pipes of an agent that is gone need no longer be read, though somebody holds them; `None` while it
    /// lives, and once both are closed.
    #[must_use]
    pub fn drain_ends(&self) -> Option<Duration> {
        self.stop.drained_at()
    }

    /// What the run is doing.
    #[must_use]
    pub fn state(&self) -> State {
        if self.stop.is_stopping() {
            State::Stopping
        } else if self.approvals.waiting() {
            State::WaitingForApproval
        } else if self.tools.any_awaited() {
            State::InTool
        } else if !self.turns.is_empty() {
            State::WaitingForModel
        } else if self.turn_count == 0 {
            State::Starting
        } else {
            State::BetweenTurns
        }
    }

    /// Whether a tool runs, awaited or in the background: its processes are worth watching.
    #[must_use]
    pub fn any_tool_runs(&self) -> bool {
        !self.tools.open.is_empty()
    }

    fn sampled(&mut self, now: Now, sample: &Sample, effects: &mut Effects) {
        let sandbox = &sample.resources.sandbox;
        let peaks = &mut self.peaks;
        peaks.samples += 1;
        peaks.cpu_utilization_max = peaks.cpu_utilization_max.max(sandbox.cpu_utilization);
        peaks.memory_used_bytes_max = peaks.memory_used_bytes_max.max(sandbox.memory_used_bytes);
        let tree = sample.tree.as_ref();
        if let Some(tree) = tree.filter(|tree| !self.tool_usage.is_late(tree)) {
            self.memory.looked(now.uptime, tree);
            self.looked(tree, effects);
            self.worked(now, tree.cpu, crowd(sandbox.load_1m, sandbox.cpus));
        }
    }

    /// Carries one line into the spans and says which span it belongs to.
    fn line(&mut self, now: Now, decoded: &Decoded<'_>, effects: &mut Effects) -> SpanId {
        let event = match decoded {
            Decoded::Event(event) => event,
            Decoded::Unrecognised => {
                self.counts.unrecognised += 1;
                return self.current_span();
            }
            Decoded::Text | Decoded::Forged => return self.current_span(),
        };
        self.counts.events += 1;
        let changes = &mut effects.spans;
        match event {
            AgentEvent::Stream(stream) => self.on_stream(now, stream, changes),
            AgentEvent::Assistant(assistant) => self.on_assistant(now, assistant, changes),
            AgentEvent::User(user) => self.on_user(now, user, changes),
            AgentEvent::Init(init) => self.on_init(now, init, changes),
            AgentEvent::Start { prompt } => self.on_start(now, prompt.as_deref(), changes),
            AgentEvent::Result(result) => {
                let span = self.on_result(now, result, changes);
                self.look_at_result(now, &mut effects.actions);
                span
            }
            AgentEvent::Complete { success } => self.on_complete(now, *success, changes),
            AgentEvent::Status(status) => self.on_status(now, status, changes),
            AgentEvent::CompactBoundary(boundary) => {
                self.on_compact_boundary(now, boundary, changes)
            }
            AgentEvent::ApiRetry(retry) => {
                self.look_at_retry(now, retry, &mut effects.actions);
                self.on_retry(now, retry)
            }
            AgentEvent::SessionState(state) => self.on_session_state(now, *state, changes),
            AgentEvent::TaskStarted(task) => self.on_task_started(now, task, changes),
            AgentEvent::TaskEnded(task) => self.on_task_ended(now, task, changes),
            AgentEvent::HookStarted(hook) => self.on_hook_started(now, hook, changes),
            AgentEvent::HookResponse(hook) => self.on_hook_response(now, hook, changes),
            AgentEvent::PermissionDenied { tool_use_id } => {
                self.tools.deny(tool_use_id);
                self.tools
                    .span_of(tool_use_id)
                    .unwrap_or_else(|| self.current_span())
            }
            AgentEvent::ApprovalRequest(request) => self.on_approval_request(now, request, changes),
            AgentEvent::ApprovalDecision(decision) => {
                self.on_approval_decision(now, decision, changes)
            }
            AgentEvent::RateLimit(limit) => {
                self.note_rate_limit(now, limit, &mut effects.actions);
                self.on_rate_limit(now, limit)
            }
            AgentEvent::Error { message } => {
                self.agent_error = Some(message.chars().take(1000).collect());
                self.current_span()
            }
            AgentEvent::Note { tool_use_id, .. } => self.lane_span(tool_use_id.as_deref()),
        }
    }

    /// Words for a span's status: what the agent or the CLI said, as far as `--capture` allows, else the kind alone.
    fn words_for_span(&self, kind: &FailureKind, words: &str) -> String {
        self.config
            .capture
            .clip(words)
            .unwrap_or_else(|| kind.to_string())
    }

    /// The turn in progress, else the run.
    fn current_span(&self) -> SpanId {
        self.turns.back().map_or(self.root, |turn| turn.span_id)
    }

    fn id(&self, kind: SpanKey, key: &[&str]) -> SpanId {
        id::span_id(&self.config.run_id, kind, key)
    }
}

/// Milliseconds with fractions.
fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A word that somebody else chose, as far as a name may go.
fn clipped(text: &str) -> &str {
    let end = text
        .char_indices()
        .nth(128)
        .map_or(text.len(), |(end, _)| end);
    &text[..end]
}

/// Counts on the wire are integers of 64 bits with a sign, as OTLP's are.
fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
