//! The loop: one thing happens, the session says what follows, the loop carries it out.
//!
//! A turn has three phases. `select!` only names what happened ([`Happening`]); [`Supervisor::take`] hands it to the
//! session; [`Supervisor::carry_out`] does what the session asked for. The loop runs on the main thread, which also
//! spawns and reaps. Three threads serve it: the echo's writer, the sampler and the exporter; none of them can stop it.
//!
//! Order of the end: the agent is gone and its output drained → verdict, `sandtrace.agent.exited` → telemetry flushed,
//! bounded → `sandtrace.run.finished`, the last line → the host has it, bounded → exit code.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use sandtrace_client::wire::{
    AgentExited, Body, Heartbeat, Limits, Resources, RunFinished, RunStarted, SandboxResources,
    Stream, Survivor, Telemetry as TelemetryCounts, Versions, WIRE_VERSION,
};
use serde_json::Map;
use tokio::sync::mpsc;

use crate::agent::{Decoded, Fragment, Lines, MAX_LINE, decode};
use crate::cli::{EchoMode, Journal as JournalPlace, RunConfig};
use crate::echo::{Delivery, Echo};
use crate::journal::{self, Journal, JournalError, RunState, Status, TRACES_CAP_BYTES};
use crate::process::{
    Abilities, Command, Group, Pipe, Protection, Signalled, Signals, SpawnError, Spawned, Stderr,
    Tree, become_subreaper, reap, signal, spawn,
};
use crate::resources::Sampler;
use crate::session::semconv::span as span_name;
use crate::session::{
    Action, Effects, Input, Session, SessionConfig, SpawnFailure, TraceContext, id,
};
use crate::telemetry::context::{Extracted, ParentContext, extract, inject};
use crate::telemetry::resource::{self, Host};
use crate::telemetry::secrets::is_exporter_secret;
use crate::telemetry::{self, Telemetry, TelemetryConfig};
use crate::time::{Now, UnixNanos};
use crate::transcript::Transcript;

/// Read from a pipe at a time.
const CHUNK: usize = 128 << 10;
/// A resource event comes at most this often, and at each end of a tool.
const RESOURCES_EVERY: Duration = Duration::from_secs(5);
/// Silence after which a heartbeat says that the run goes on.
const HEARTBEAT_AFTER: Duration = Duration::from_secs(20);
/// How often children are looked for that a lost SIGCHLD would have announced, and the heartbeat is considered.
const BEAT: Duration = Duration::from_secs(1);
/// How long KILL may take on the loop's own time.
const KILL_BOUND: Duration = Duration::from_secs(1);
/// What a third signal leaves for the flush.
const HASTE: Duration = Duration::from_millis(500);

/// Why a run could not begin. Every one of these comes before the agent is started.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    #[error(transparent)]
    Journal(JournalError),
    #[error(transparent)]
    Destination(#[from] telemetry::DestinationError),
    #[error(transparent)]
    Resource(#[from] resource::ResourceError),
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    #[error("failed to {what}")]
    System {
        what: &'static str,
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl Fn(io::Error) -> SuperviseError {
    move |source| SuperviseError::System { what, source }
}

/// What became of a run.
#[derive(Debug)]
pub struct Ended {
    /// The code to exit with (DESIGN §3).
    pub code: u8,
    pub run_id: String,
    /// A sentence about what kept the agent from starting.
    pub spawn_error: Option<String>,
    pub finished: RunFinished,
    pub delivery: Delivery,
}

/// The clocks, read in one place.
#[derive(Debug, Clone, Copy)]
struct Clock {
    started: Instant,
    wall: UnixNanos,
}

impl Clock {
    fn start() -> Self {
        Self {
            started: Instant::now(),
            wall: SystemTime::now().into(),
        }
    }

    fn now(&self) -> Now {
        let uptime = self.started.elapsed();
        Now {
            wall: self.wall.plus(uptime),
            uptime,
        }
    }
}

/// What the `select!` names.
enum Happening {
    Stdout(io::Result<usize>),
    Stderr(io::Result<usize>),
    Signal(Signalled),
    Sample(SandboxResources),
    Room,
    Due,
    Beat,
}

/// Supervises one run, from before the spawn to after the last line.
///
/// # Errors
///
/// What keeps the run from beginning; afterwards nothing is an error, only a verdict.
pub async fn supervise(
    config: RunConfig,
    environment: Vec<(OsString, OsString)>,
    stdout: File,
    protection: Protection,
) -> Result<Ended, SuperviseError> {
    let clock = Clock::start();
    let run_id = config
        .run_id
        .clone()
        .unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let lookup = |name: &str| config.settings.get(name).map(str::to_owned);
    let Extracted { context, baggage } = extract(&lookup);
    let bad_traceparent = context == ParentContext::Invalid;
    let context = match context {
        ParentContext::Present(context) => context,
        ParentContext::Absent | ParentContext::Invalid => TraceContext {
            trace_id: id::trace_id(&run_id),
            parent_span_id: None,
            sampled: true,
            trace_state: String::new(),
        },
    };
    let mut telemetry = TelemetryConfig {
        destinations: telemetry::destination::from_env(&lookup)?,
        resource: resource::attributes(&lookup, &read_text, &host(), &run_id)?,
        batching: telemetry::batching(&lookup)?,
        traces_file: None,
        traces_file_cap: TRACES_CAP_BYTES,
        sampled: context.sampled,
        trace_state: context.trace_state.clone(),
    };
    let opened = open_journal(&config, &run_id)?;
    if let Some(journal) = &opened.journal {
        telemetry.traces_file = journal.traces_file().ok();
    }
    let telemetry = Telemetry::start(telemetry)?;
    become_subreaper()
        .map_err(|errno| system("become the reaper of the agent's orphans")(errno.into()))?;
    let signals = Signals::install().map_err(system("listen for signals"))?;

    let session_config = session_config(&config, &run_id, &context, &baggage);
    let mut effects = Effects::default();
    let session = Session::new(session_config, clock.now(), &mut effects);
    let root = session.root();
    let command = Command {
        argv: config.command.clone(),
        env: agent_environment(environment, &config.pass_env, inject(&context, root)),
    };
    let spawned = spawn(&command);
    let agent = spawned.as_ref().ok().map(|spawned| spawned.pid);
    let abilities = protection.complete(agent);

    let echo = match config.echo {
        EchoMode::Off => None,
        EchoMode::Enriched | EchoMode::Raw => {
            Some(Echo::start(stdout).map_err(system("start the echo"))?)
        }
    };
    let transcript = Transcript::new(context.trace_id, root, opened.journal, echo, config.echo);
    let mut supervisor = Supervisor {
        clock,
        session,
        effects,
        transcript,
        telemetry: Some(telemetry),
        stderr: Stderr::open().map_err(system("open stderr"))?,
        agent: None,
        group: Group::Own,
        tree: Tree::new(),
        actions: VecDeque::new(),
        verdict: None,
        survivors: BTreeMap::new(),
        last_sample: None,
        last_resources: None,
        state: run_state(&run_id, &context, clock),
    };
    supervisor.announce(&config, &run_id, &context, agent, &abilities);
    if bad_traceparent {
        let message =
            "TRACEPARENT is not a W3C trace context, so this run starts a trace of its own";
        supervisor.warn("traceparent_invalid", message);
    }
    for notice in &config.notices {
        supervisor.warn(notice.code(), &notice.to_string());
    }
    if let Some(error) = &opened.error {
        supervisor.warn(
            "journal_unavailable",
            &format!("there is no journal for this run: {error}"),
        );
    }
    prune(&config.journal);
    let spawn_error = match spawned {
        Ok(spawned) => {
            supervisor
                .run(spawned, signals, config.sample_interval)
                .await?;
            None
        }
        Err(error) => Some(supervisor.not_spawned(&config, error)),
    };
    let (finished, delivery) = supervisor.finish(config.flush_timeout).await?;
    let code = finished
        .exit
        .as_ref()
        .map_or(125, |exit| exit.reported_code);
    Ok(Ended {
        code,
        run_id,
        spawn_error,
        finished,
        delivery,
    })
}

struct OpenedJournal {
    journal: Option<Journal>,
    error: Option<String>,
}

/// A run id that is taken is refused; any other trouble costs the journal, not the run.
fn open_journal(config: &RunConfig, run_id: &str) -> Result<OpenedJournal, SuperviseError> {
    let JournalPlace::Directory(root) = &config.journal else {
        return Ok(OpenedJournal {
            journal: None,
            error: None,
        });
    };
    match Journal::create(root, run_id) {
        Ok(journal) => Ok(OpenedJournal {
            journal: Some(journal),
            error: None,
        }),
        Err(error @ JournalError::RunExists { .. }) => Err(SuperviseError::Journal(error)),
        Err(JournalError::Create { path, source }) => {
            let error = format!("failed to create {}: {source}", path.display());
            Ok(OpenedJournal {
                journal: None,
                error: Some(error),
            })
        }
    }
}

fn session_config(
    config: &RunConfig,
    run_id: &str,
    context: &TraceContext,
    baggage: &[(String, String)],
) -> SessionConfig {
    let from_baggage = |name: &str| {
        baggage
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    SessionConfig {
        run_id: run_id.to_owned(),
        context: context.clone(),
        agent_name: config.agent_name.clone(),
        session_id: config
            .session_id
            .clone()
            .or_else(|| from_baggage("session.id")),
        user_id: config.user_id.clone().or_else(|| from_baggage("user.id")),
        attributes: config
            .attributes
            .iter()
            .map(|(key, value)| (key.clone().into(), value.clone().into()))
            .collect(),
        capture: config.capture,
        deadline: config.deadline,
        idle_timeout: config.idle_timeout,
        grace: config.grace,
        survivors: config.survivors,
        executable: executable_name(&config.command),
    }
}

/// The file name of the command; its arguments hold the prompt and are never told.
fn executable_name(command: &[OsString]) -> String {
    let program = command.first().map(Path::new).and_then(Path::file_name);
    program
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// What the agent finds in its environment: ours, without the exporters' secrets, with the run as its trace parent.
fn agent_environment(
    environment: Vec<(OsString, OsString)>,
    keep: &[String],
    context: Vec<(String, String)>,
) -> Vec<(OsString, OsString)> {
    let replaced = |name: &str| matches!(name, "TRACEPARENT" | "TRACESTATE" | "PYTHONUNBUFFERED");
    let stays = |name: &OsString| {
        name.to_str().is_none_or(|name| {
            !replaced(name) && (!is_exporter_secret(name) || keep.iter().any(|kept| kept == name))
        })
    };
    let mut kept: Vec<_> = environment
        .into_iter()
        .filter(|(name, _)| stays(name))
        .collect();
    kept.extend(
        context
            .into_iter()
            .map(|(name, value)| (name.into(), value.into())),
    );
    // Python on a pipe writes in blocks: without this, lines come minutes late, and those of a killed agent never.
    kept.push(("PYTHONUNBUFFERED".into(), "1".into()));
    kept
}

fn host() -> Host {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    Host {
        name,
        arch: std::env::consts::ARCH,
    }
}

/// A small file's text, for the ids that E2B keeps under `/run/e2b`.
fn read_text(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn run_state(run_id: &str, context: &TraceContext, clock: Clock) -> RunState {
    RunState {
        run_id: run_id.to_owned(),
        supervisor_pid: std::process::id(),
        supervisor_start_ticks: crate::process::own_start_ticks().unwrap_or(0),
        trace_id: context.trace_id.to_string(),
        started: clock.wall.to_string(),
        ..RunState::new(Status::Running)
    }
}

/// Old journals go on a thread of their own: a directory of a thousand runs must not delay this one.
fn prune(place: &JournalPlace) {
    let JournalPlace::Directory(root) = place else {
        return;
    };
    let root = root.clone();
    let remove =
        move || journal::remove_old_runs(&root, SystemTime::now()).map_or(0, |removed| removed);
    // Without a thread the old runs stay until the next one starts.
    drop(
        std::thread::Builder::new()
            .name("prune".to_owned())
            .spawn(remove),
    );
}

struct Supervisor {
    clock: Clock,
    session: Session,
    effects: Effects,
    transcript: Transcript,
    telemetry: Option<Telemetry>,
    stderr: Stderr,
    /// The agent, until it is reaped: afterwards its pid may be anybody's.
    agent: Option<Pid>,
    group: Group,
    tree: Tree,
    actions: VecDeque<Action>,
    verdict: Option<Box<AgentExited>>,
    /// What the agent left running, by pid, and whether we ended it.
    survivors: BTreeMap<u32, Survivor>,
    last_sample: Option<SandboxResources>,
    last_resources: Option<Duration>,
    state: RunState,
}

impl Supervisor {
    /// The first lines: who we are, and the run's span.
    fn announce(
        &mut self,
        config: &RunConfig,
        run_id: &str,
        context: &TraceContext,
        agent: Option<Pid>,
        abilities: &Abilities,
    ) {
        let now = self.clock.now();
        let pid = agent.and_then(|pid| u32::try_from(pid.as_raw()).ok());
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let started = RunStarted {
            wire: WIRE_VERSION,
            run_id: run_id.to_owned(),
            pid,
            executable: executable_name(&config.command),
            trace_id: context.trace_id.to_string(),
            root_span_id: self.session.root().to_string(),
            parent_span_id: context.parent_span_id.map(|id| id.to_string()),
            versions: Versions {
                sandtrace: env!("CARGO_PKG_VERSION").to_owned(),
            },
            journal: self
                .transcript
                .journal()
                .map(|journal| journal.directory().display().to_string()),
            limits: Limits {
                line_bytes: MAX_LINE as u64,
                deadline_ms: config.deadline.map(millis),
                idle_timeout_ms: config.idle_timeout.map(millis),
                grace_ms: millis(config.grace),
                flush_timeout_ms: millis(config.flush_timeout),
                journal_bytes: journal::CAP_BYTES,
            },
            abilities: abilities.to_map(),
        };
        self.transcript
            .body(now, None, &Body::RunStarted(Box::new(started)));
        for span in std::mem::take(&mut self.effects.spans.opened) {
            self.transcript.opened(now, &span);
        }
        self.transcript.commit(now);
        self.state.agent_pid = pid;
        self.write_state();
    }

    fn write_state(&mut self) {
        let written = self
            .transcript
            .journal()
            .map(|journal| journal.write_state(&self.state));
        if let Some(Err(error)) = written {
            self.warn(
                "state_unwritable",
                &format!("state.json cannot be written: {error}"),
            );
        }
    }

    fn warn(&mut self, code: &str, message: &str) {
        let now = self.clock.now();
        self.transcript.warning(now, code, message, Map::new());
        self.transcript.commit(now);
    }

    fn not_spawned(&mut self, config: &RunConfig, error: SpawnError) -> String {
        let failure = match error {
            SpawnError::NotFound(_) => SpawnFailure::NotFound,
            SpawnError::NotExecutable(_) => SpawnFailure::NotExecutable,
            SpawnError::Failed(_) => SpawnFailure::Failed,
        };
        let what = format!(
            "cannot {error} '{}': {}",
            executable_name(&config.command),
            error.errno().desc()
        );
        self.take(Input::SpawnFailed {
            failure,
            message: what.clone(),
        });
        self.carry_out();
        what
    }

    /// The loop, until the verdict is in.
    async fn run(
        &mut self,
        spawned: Spawned,
        mut signals: Signals,
        sample_interval: Option<Duration>,
    ) -> Result<(), SuperviseError> {
        let Spawned {
            pid,
            group,
            stdout,
            stderr,
            ..
        } = spawned;
        self.agent = Some(pid);
        self.group = group;
        self.take(Input::Spawned {
            pid: u32::try_from(pid.as_raw()).unwrap_or(0),
        });
        let mut stdout = Some(Pipe::new(stdout).map_err(system("watch the agent's stdout"))?);
        let mut stderr = Some(Pipe::new(stderr).map_err(system("watch the agent's stderr"))?);
        let mut out_lines = Lines::default();
        let mut err_lines = Lines::default();
        let mut out_chunk = vec![0; CHUNK];
        let mut err_chunk = vec![0; CHUNK / 4];
        let (sender, mut samples) = mpsc::channel(4);
        let sampler = sample_interval.and_then(|interval| Sampler::start(interval, sender).ok());
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.verdict.is_none() {
            let due = self
                .session
                .deadline()
                .map(|uptime| tokio::time::Instant::from_std(self.clock.started + uptime));
            let has_room = self.transcript.has_room();
            let happening = tokio::select! {
                signal = signals.recv() => Happening::Signal(signal),
                read = read(&mut stdout, &mut out_chunk), if stdout.is_some() && has_room => Happening::Stdout(read),
                read = read(&mut stderr, &mut err_chunk), if stderr.is_some() => Happening::Stderr(read),
                () = self.transcript.room(), if !has_room => Happening::Room,
                Some(sample) = samples.recv() => Happening::Sample(sample),
                () = until(due) => Happening::Due,
                _ = beat.tick() => Happening::Beat,
            };
            match happening {
                Happening::Stdout(Ok(length)) if length > 0 => {
                    let chunk = &out_chunk[..length];
                    self.transcript.raw(chunk);
                    out_lines.push(chunk, &mut |fragment| self.stdout_fragment(&fragment));
                }
                Happening::Stdout(_) => {
                    stdout = None;
                    out_lines.finish(&mut |fragment| self.stdout_fragment(&fragment));
                    self.take(Input::StdoutClosed);
                }
                Happening::Stderr(Ok(length)) if length > 0 => {
                    let chunk = &err_chunk[..length];
                    self.stderr.write(chunk);
                    err_lines.push(chunk, &mut |fragment| self.stderr_fragment(&fragment));
                }
                Happening::Stderr(_) => {
                    stderr = None;
                    err_lines.finish(&mut |fragment| self.stderr_fragment(&fragment));
                    self.take(Input::StderrClosed);
                }
                Happening::Signal(Signalled::Child) => self.reap(),
                Happening::Signal(Signalled::Forward(signal)) => self.signalled(signal),
                Happening::Sample(sample) => self.sampled(sample),
                Happening::Due => self.take(Input::Tick),
                Happening::Beat => self.beat(),
                Happening::Room => {}
            }
            self.carry_out();
        }
        drop(sampler);
        self.signals_in_flush(signals);
        Ok(())
    }

    /// A line, or a fragment of one, of the agent's stdout.
    fn stdout_fragment(&mut self, fragment: &Fragment<'_>) {
        let now = self.clock.now();
        self.effects.clear();
        if fragment.part.is_some() {
            self.session.handle(now, Input::Fragment, &mut self.effects);
            self.echo_line(now, |transcript, span| {
                transcript.output(now, span, Stream::Stdout, fragment)
            });
            return;
        }
        let decoded = decode(fragment.bytes);
        self.session
            .handle(now, Input::Line(&decoded), &mut self.effects);
        match decoded {
            Decoded::Event(_) | Decoded::Unrecognised => {
                self.echo_line(now, |transcript, span| {
                    transcript.agent_line(now, span, fragment.bytes)
                });
            }
            Decoded::Text | Decoded::Forged => {
                self.echo_line(now, |transcript, span| {
                    transcript.output(now, span, Stream::Stdout, fragment)
                });
            }
        }
    }

    fn stderr_fragment(&mut self, fragment: &Fragment<'_>) {
        let now = self.clock.now();
        self.effects.clear();
        self.session
            .handle(now, Input::Stderr(fragment.bytes), &mut self.effects);
        self.echo_line(now, |transcript, span| {
            transcript.output(now, span, Stream::Stderr, fragment)
        });
    }

    /// Spans that a line opened stand before it, those it closed after it.
    fn echo_line(
        &mut self,
        now: Now,
        line: impl FnOnce(&mut Transcript, opentelemetry::trace::SpanId),
    ) {
        for span in self.effects.spans.opened.drain(..) {
            self.transcript.opened(now, &span);
        }
        line(
            &mut self.transcript,
            self.effects
                .line_span
                .unwrap_or_else(|| self.session.root()),
        );
        self.settle(now);
    }

    /// Hands an input without a line to the session.
    fn take(&mut self, input: Input<'_>) {
        let now = self.clock.now();
        self.effects.clear();
        self.session.handle(now, input, &mut self.effects);
        for span in self.effects.spans.opened.drain(..) {
            self.transcript.opened(now, &span);
        }
        self.settle(now);
    }

    /// Passes on what the last input closed and asked for.
    fn settle(&mut self, now: Now) {
        let mut tool_ended = false;
        for span in self.effects.spans.closed.drain(..) {
            tool_ended |= span.name.starts_with(span_name::EXECUTE_TOOL);
            self.transcript.closed(now, &span);
            if let Some(telemetry) = &self.telemetry {
                telemetry.record(span);
            }
        }
        if tool_ended {
            self.echo_resources(now);
        }
        self.actions.extend(self.effects.actions.drain(..));
    }

    fn echo_resources(&mut self, now: Now) {
        if let Some(sample) = &self.last_sample {
            let body = Body::Resources(Box::new(Resources {
                sandbox: sample.clone(),
            }));
            self.transcript.body(now, None, &body);
            self.last_resources = Some(now.uptime);
        }
    }

    fn sampled(&mut self, sample: SandboxResources) {
        let now = self.clock.now();
        self.take(Input::Sampled(&sample));
        self.last_sample = Some(sample);
        if self
            .last_resources
            .is_none_or(|last| now.uptime.saturating_sub(last) >= RESOURCES_EVERY)
        {
            self.echo_resources(now);
        }
    }

    fn beat(&mut self) {
        self.reap();
        // What a slow reader of stderr has yet to get.
        self.stderr.flush(Duration::ZERO);
        let now = self.clock.now();
        if now.uptime.saturating_sub(self.transcript.last_line()) >= HEARTBEAT_AFTER {
            let heartbeat = Heartbeat {
                uptime_ms: u64::try_from(now.uptime.as_millis()).unwrap_or(u64::MAX),
                state: self.session.state().as_str().to_owned(),
            };
            self.transcript.body(now, None, &Body::Heartbeat(heartbeat));
        }
    }

    fn reap(&mut self) {
        for reaped in reap() {
            self.reaped(reaped.pid, reaped.termination);
        }
        if self.agent.is_none()
            && self
                .tree
                .descendants()
                .is_ok_and(|processes| processes.is_empty())
        {
            self.take(Input::TreeEmpty);
        }
    }

    fn reaped(&mut self, pid: Pid, termination: crate::process::Termination) {
        if self.agent == Some(pid) {
            self.agent = None;
            self.take(Input::Exited(termination));
        }
    }

    fn signalled(&mut self, signal: Signal) {
        match signal {
            Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP | Signal::SIGQUIT => {
                self.take(Input::StopSignal(signal as i32));
            }
            Signal::SIGTSTP => {
                // Stopped from the terminal: the agent first, unless the terminal has told it already; then we. Whoever
                // continues us sends CONT, which is forwarded like any other signal.
                if self.group == Group::Own {
                    self.to_agent(Signal::SIGSTOP);
                }
                if let Err(errno) = signal::raise_stop() {
                    self.warn(
                        "stop_failed",
                        &format!("the supervisor could not stop itself: {}", errno.desc()),
                    );
                }
            }
            other if self.group.hears_from_terminal(other) => {}
            other => self.to_agent(other),
        }
    }

    fn to_agent(&self, signal: Signal) {
        if let Some(agent) = self.agent {
            // It may have died a moment ago; its wait status will tell.
            signal::send(agent, signal).ok();
        }
    }

    /// Does what the session asked for.
    fn carry_out(&mut self) {
        while let Some(action) = self.actions.pop_front() {
            match action {
                Action::SignalAgent(number) => {
                    if let Ok(signal) = Signal::try_from(number) {
                        self.to_agent(signal);
                    }
                }
                Action::SignalTree(number) => {
                    self.note_survivors();
                    if let Ok(signal) = Signal::try_from(number) {
                        // Without /proc there is no tree to see; the sweep after it ends what it can.
                        self.tree.kill(signal).ok();
                    }
                    self.reap();
                }
                Action::KillTree => self.kill_tree(),
                Action::Finish(verdict) | Action::Abort(verdict) => self.verdict = Some(verdict),
            }
        }
        self.transcript.commit(self.clock.now());
    }

    /// What is still there once the agent is gone outlived it; we end it.
    fn note_survivors(&mut self) {
        if self.agent.is_some() {
            return;
        }
        for process in self.tree.descendants().unwrap_or_default() {
            let Ok(pid) = u32::try_from(process.pid.as_raw()) else {
                continue;
            };
            self.survivors.entry(pid).or_insert(Survivor {
                pid,
                command: process.command,
                killed: true,
            });
        }
    }

    fn kill_tree(&mut self) {
        self.note_survivors();
        let sweep = self.tree.sweep_kill(KILL_BOUND);
        for reaped in sweep.reaped {
            self.reaped(reaped.pid, reaped.termination);
        }
        for process in sweep.survivors {
            let Ok(pid) = u32::try_from(process.pid.as_raw()) else {
                continue;
            };
            self.survivors.insert(
                pid,
                Survivor {
                    pid,
                    command: process.command,
                    killed: false,
                },
            );
        }
        self.reap();
    }

    /// Signals that come from now on would find nobody listening; the flush is bounded anyway.
    fn signals_in_flush(&self, signals: Signals) {
        drop(signals);
    }

    /// Says the verdict, flushes the telemetry, says the last line, and sees the host off.
    async fn finish(
        mut self,
        flush_timeout: Duration,
    ) -> Result<(RunFinished, Delivery), SuperviseError> {
        let now = self.clock.now();
        let Some(verdict) = self.verdict.take() else {
            return Err(system("reach a verdict")(io::ErrorKind::Other.into()));
        };
        self.transcript
            .body(now, None, &Body::AgentExited(verdict.clone()));
        self.transcript.commit(now);
        for process in self.tree.descendants().unwrap_or_default() {
            let Ok(pid) = u32::try_from(process.pid.as_raw()) else {
                continue;
            };
            self.survivors.entry(pid).or_insert(Survivor {
                pid,
                command: process.command,
                killed: false,
            });
        }
        let counts = self.flush(flush_timeout).await;
        let now = self.clock.now();
        let survivors = std::mem::take(&mut self.survivors).into_values().collect();
        let Some(finished) = self.session.run_finished(counts, survivors) else {
            return Err(system("sum the run up")(io::ErrorKind::Other.into()));
        };
        self.transcript
            .body(now, None, &Body::RunFinished(Box::new(finished.clone())));
        self.transcript.commit(now);
        self.state.status = Status::Finished;
        self.state.ended = Some(now.wall.to_string());
        self.state.outcome = Some(finished.outcome);
        self.state.last_seq = Some(self.transcript.seq());
        if let Some(journal) = self.transcript.journal() {
            // The last line is written; a state that says `running` is corrected by whoever finds no such process.
            journal.write_state(&self.state).ok();
        }
        self.stderr.flush(HASTE);
        Ok((finished, self.transcript.finish(now).await))
    }

    async fn flush(&mut self, timeout: Duration) -> TelemetryCounts {
        let Some(telemetry) = self.telemetry.take() else {
            return TelemetryCounts::default();
        };
        let before = telemetry.counts();
        // The exporter answers in time by itself; this bound is for the case that its threads are gone.
        let answer = tokio::time::timeout(timeout + HASTE, telemetry.shutdown(timeout)).await;
        answer.ok().and_then(Result::ok).unwrap_or(before)
    }
}

async fn read(pipe: &mut Option<Pipe>, chunk: &mut [u8]) -> io::Result<usize> {
    match pipe {
        Some(pipe) => pipe.read(chunk).await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
