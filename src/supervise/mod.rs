//! The loop: one thing happens, the session says what follows, the loop carries it out.
//!
//! A turn has three phases. `select!` only names what happened (`Happening`); `Supervisor::take` hands it to the
//! session; `Supervisor::carry_out` does what the session asked for. The loop runs on the main thread, which also
//! spawns and reaps. Three threads serve it: the echo's writer, the sampler and the exporter; none of them can stop it.
//!
//! `prepare` comes before the spawn and `ending` after the verdict. Order of the end: the agent is gone and its output
//! drained → verdict, `sandtrace.agent.exited` → telemetry flushed, bounded → `sandtrace.run.finished`, the last line →
//! the host has it, bounded → exit code.

mod clock;
mod ending;
mod exports;
mod fork;
mod memory;
mod network;
mod prepare;
mod processes;
mod streams;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use sandtrace_client::wire::{
    AgentExited, Body, Heartbeat, Resources, RunFinished, RunStarted, Stream, Survivor,
};
use serde_json::Map;
use tokio::sync::mpsc;

use self::clock::Clock;
use self::memory::MemoryWatch;
use self::network::NetworkWatch;
use self::prepare::{Prepared, executable_name, system};
use self::streams::{last_words, read};
use crate::agent::Lines;
use crate::cli::{EchoMode, RunConfig, Settings};
use crate::clock::TICK;
use crate::echo::{Delivery, Echo};
use crate::journal::RunState;
use crate::process::{
    Group, Launched, Pipe, Protection, Signalled, Signals, SpawnError, Spawned, Stderr, Tree,
    become_subreaper, launch, unblock_signals,
};
use crate::resources::sampler::Pace;
use crate::resources::{Finding, Occasion, ReapedCpu, Sampler, TreeWatch};
use crate::session::semconv::span as span_name;
use crate::session::{Action, Effects, Input, Session, SpawnFailure};
use crate::telemetry::{HostRequest, Redactor, Telemetry};
use crate::time::Now;
use crate::transcript::Transcript;

pub use self::exports::Exports;
pub use self::prepare::{SuperviseError, resource_of, resumes};

/// Read from a pipe at a time.
const CHUNK: usize = 128 << 10;
/// Silence after which a heartbeat says that the run goes on.
const HEARTBEAT_AFTER: Duration = Duration::from_secs(20);
/// Children are looked for that a lost SIGCHLD would have announced, and the heartbeat is considered, once in so many
/// looks at the clocks.
const BEAT_TICKS: u32 = 4;
/// What may still be read, room or not, once the agent is gone: all that its stdout can hold.
const LEFTOVER: usize = 256 << 10;
/// How often stderr is tried again while its reader is behind.
const STDERR_RETRY: Duration = Duration::from_millis(20);
/// What asks a run to stop. Every other signal is the agent's business.
const STOP_SIGNALS: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

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
    /// The run's directory, if its journal got every line.
    pub journal: Option<PathBuf>,
}

/// What the `select!` names.
enum Happening {
    Stdout(io::Result<usize>),
    Stderr(io::Result<usize>),
    Signal(Signalled),
    Finding(Finding),
    Network(network::News),
    /// The host is to export something.
    Telemetry(HostRequest),
    Room,
    StderrRetry,
    Due,
    KernelLog,
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
    unblock_signals().map_err(|errno| system("unblock signals")(errno.into()))?;
    let prepared = Prepared::new(&config, environment)?;
    let redactor = Arc::clone(&prepared.telemetry.redactor);
    let mut telemetry = Telemetry::start(prepared.telemetry)?;
    let host_requests = telemetry.host_requests();
    // What can fail comes before the spawn: afterwards there is an agent to see to, and a verdict to give.
    let stderr = Stderr::open().map_err(system("open stderr"))?;
    let echo = match config.echo {
        EchoMode::Off => None,
        EchoMode::Enriched | EchoMode::Raw => {
            Some(Echo::start(stdout).map_err(system("start the echo"))?)
        }
    };
    become_subreaper()
        .map_err(|errno| system("become the reaper of the agent's orphans")(errno.into()))?;
    let mut signals = Signals::install().map_err(system("listen for signals"))?;

    let mut effects = Effects::default();
    let started = clock.now().wall;
    let mut session = Session::new(prepared.session, clock.now(), &mut effects);
    let root = session.root();
    let command = prepared.command.with_parent(&prepared.context, root);
    let mut memory = MemoryWatch::begin();
    let baseline = Input::Memory(memory.baseline());
    session.handle(clock.now(), baseline, &mut effects);
    let Launched {
        spawned,
        tree,
        own_cgroup,
    } = launch(&command);
    let (network, mut news) = NetworkWatch::new(&command.env);
    let agent = spawned.as_ref().ok().map(|spawned| spawned.pid);
    let mut abilities = protection.complete(agent);
    abilities.own_cgroup = own_cgroup.map_err(|why| why.to_string());
    let export_troubles = telemetry.troubles().to_vec();

    let trace_id = prepared.context.trace_id;
    let first_line = prepare::run_started(
        &config,
        &prepared.run_id,
        &prepared.context,
        root,
        prepared.journal.as_ref(),
        agent,
        &abilities,
    );
    let mut supervisor = Supervisor {
        clock,
        session,
        effects,
        started: first_line,
        sandbox_id: clock::sandbox_id(),
        settings: config.settings.clone(),
        transcript: Transcript::new(trace_id, root, prepared.journal, echo, config.echo)
            .with_log(trace_id, config.capture)
            .redacting(Arc::clone(&redactor)),
        host_requests,
        redactor: Arc::clone(&redactor),
        telemetry: Some(telemetry),
        stderr,
        echo: config.echo,
        agent: None,
        group: Group::Own,
        tree,
        memory,
        actions: VecDeque::new(),
        verdict: None,
        stop_signals: 0,
        beats: 0,
        survivors: BTreeMap::new(),
        stopped_looks: 0,
        sampler: None,
        watch: None,
        last_look: None,
        reaped_cpu: ReapedCpu::default(),
        last_sample: None,
        last_resources: None,
        network,
        state: prepare::run_state(&prepared.run_id, trace_id, started),
        held: Vec::new(),
    };
    supervisor.announce();
    for (code, message) in &prepared.warnings {
        supervisor.warn(code, message);
    }
    for trouble in &export_troubles {
        supervisor.warn("export_unavailable", trouble);
    }
    prepare::prune(&config.journal);
    let spawn_error = match spawned {
        Ok(spawned) => {
            supervisor
                .run(spawned, &mut signals, &mut news, config.sample_interval)
                .await;
            None
        }
        Err(error) => {
            let error = supervisor.not_spawned(&config, error);
            Some(redactor.text(&error).into_owned())
        }
    };
    // A fork has changed it.
    let run_id = supervisor.state.run_id.clone();
    let (finished, delivery, journal) = supervisor
        .finish(config.flush_timeout, &mut signals)
        .await?;
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
        journal,
    })
}

struct Supervisor {
    clock: Clock,
    session: Session,
    effects: Effects,
    transcript: Transcript,
    /// For words of others in the verdict.
    redactor: Arc<Redactor>,
    telemetry: Option<Telemetry>,
    /// What the host is to export; `None` if it is no destination, and once nothing more will come.
    host_requests: Option<mpsc::UnboundedReceiver<HostRequest>>,
    stderr: Stderr,
    echo: EchoMode,
    /// The agent, until it is reaped: afterwards its pid may be anybody's.
    agent: Option<Pid>,
    group: Group,
    tree: Tree,
    memory: MemoryWatch,
    actions: VecDeque<Action>,
    verdict: Option<Box<AgentExited>>,
    /// How often somebody asked us to stop.
    stop_signals: u32,
    /// Looks at the clocks so far.
    beats: u32,
    /// What the agent left running, by pid, and whether we ended it.
    survivors: BTreeMap<u32, Survivor>,
    /// At how many looks in a row the agent stood still.
    stopped_looks: u32,
    sampler: Option<Sampler>,
    /// The loop's own eye for the tree; `None` if nothing can be seen.
    watch: Option<TreeWatch>,
    /// When it last looked, since the start.
    last_look: Option<Duration>,
    /// CPU time of the processes that we reaped.
    reaped_cpu: ReapedCpu,
    last_sample: Option<Resources>,
    last_resources: Option<Duration>,
    network: NetworkWatch,
    state: RunState,
    /// The first line's data, which changes when the sandbox is forked.
    started: RunStarted,
    /// What the sandbox said that it is.
    sandbox_id: Option<String>,
    settings: Settings,
    /// Pipes that somebody besides the agent holds, kept until we leave.
    held: Vec<Pipe>,
}

impl Supervisor {
    /// The first lines: who we are, and the run's span.
    fn announce(&mut self) {
        let now = self.clock.now();
        let started = Body::RunStarted(Box::new(self.started.clone()));
        self.transcript.body(now, None, &started);
        for span in std::mem::take(&mut self.effects.spans.opened) {
            self.transcript.opened(now, &span);
        }
        self.transcript.commit(now);
        // At once, for a run that never ends must be seen too.
        self.tell_log();
        if let Some(telemetry) = &self.telemetry {
            telemetry.flush_soon();
        }
        self.state.agent_pid = self.started.pid;
        self.write_state();
    }

    fn journal_directory(&self) -> Option<String> {
        let journal = self.transcript.journal();
        journal.map(|journal| journal.directory().display().to_string())
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
        // The wire has the file's name alone; whoever typed a path sees it whole on stderr.
        let why = error.why();
        let message = format!(
            "cannot {error} '{}': {why}",
            executable_name(&config.command)
        );
        self.take(Input::SpawnFailed { failure, message });
        self.carry_out();
        let typed = config
            .command
            .first()
            .map(|program| program.to_string_lossy());
        format!("cannot {error} '{}': {why}", typed.unwrap_or_default())
    }

    /// The loop, until the verdict is in.
    async fn run(
        &mut self,
        spawned: Spawned,
        signals: &mut Signals,
        news: &mut mpsc::Receiver<network::News>,
        sample_interval: Option<Duration>,
    ) {
        let Spawned {
            pid,
            group,
            stdout,
            stderr,
            ..
        } = spawned;
        self.clock.find_witnesses();
        self.agent = Some(pid);
        self.memory.follow(pid);
        self.group = group;
        self.take(Input::Spawned {
            pid: u32::try_from(pid.as_raw()).unwrap_or(0),
        });
        let (mut stdout, mut stderr) = self.watch(stdout, stderr);
        let mut out_lines = Lines::default();
        let mut err_lines = Lines::default();
        let mut out_chunk = vec![0; CHUNK];
        let mut err_chunk = vec![0; CHUNK / 4];
        let mut findings = self.start_sampling(pid, sample_interval);
        let mut beat = tokio::time::interval(TICK);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stderr_retry = tokio::time::interval(STDERR_RETRY);
        stderr_retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut leftover = LEFTOVER;
        while self.verdict.is_none() {
            let due = self
                .session
                .deadline()
                .map(|uptime| self.clock.instant(uptime));
            // A host that stands still must not cost what the agent wrote last: the drain's clock runs.
            let is_leftover = self.agent.is_none() && leftover > 0;
            let out_room = self.transcript.has_room_for(Stream::Stdout) || is_leftover;
            let err_room = self.transcript.has_room_for(Stream::Stderr);
            // Without a copy elsewhere a slow reader of stderr holds the agent back, as it would without us.
            let is_taken = !self.stderr_is_only_copy() || self.stderr.has_room_for(err_chunk.len());
            let out_size = self.transcript.read_size(out_chunk.len());
            let err_size = self.transcript.read_size(err_chunk.len());
            let happening = tokio::select! {
                signal = signals.recv() => Happening::Signal(signal),
                read = read(&mut stdout, &mut out_chunk[..out_size]), if stdout.is_some() && out_room => Happening::Stdout(read),
                read = read(&mut stderr, &mut err_chunk[..err_size]), if stderr.is_some() && err_room && is_taken => Happening::Stderr(read),
                () = self.transcript.room(), if !(out_room && err_room) => Happening::Room,
                Some(finding) = findings.recv() => Happening::Finding(finding),
                Some(news) = news.recv() => Happening::Network(news),
                // Without a journal they would fill the ring while nobody reads; where they wait they are bounded.
                Some(request) = next(&mut self.host_requests), if err_room => Happening::Telemetry(request),
                () = until(due) => Happening::Due,
                () = self.memory.log_grew() => Happening::KernelLog,
                _ = stderr_retry.tick(), if self.stderr.has_backlog() => Happening::StderrRetry,
                _ = beat.tick() => Happening::Beat,
            };
            for signal in self.look_at_clocks(&happening, signals).await {
                self.heard(signal);
            }
            // The time of a tick: the drain must not come to its end between the look at the clock and the tick.
            let now = self.clock.now();
            match happening {
                Happening::Stdout(Ok(length)) if length > 0 => {
                    let chunk = &out_chunk[..length];
                    if self.agent.is_none() {
                        leftover = leftover.saturating_sub(length);
                    }
                    self.stdout_chunk(&mut out_lines, chunk);
                }
                Happening::Stdout(_) => {
                    stdout = None;
                    let now = self.clock.now();
                    out_lines.finish(&mut |fragment| self.stdout_fragment(now, &fragment));
                    self.take(Input::StdoutClosed);
                }
                Happening::Stderr(Ok(length)) if length > 0 => {
                    let chunk = &err_chunk[..length];
                    self.stderr.write(chunk);
                    let now = self.clock.now();
                    err_lines.push(chunk, &mut |fragment| self.stderr_fragment(now, &fragment));
                }
                Happening::Stderr(_) => {
                    stderr = None;
                    let now = self.clock.now();
                    err_lines.finish(&mut |fragment| self.stderr_fragment(now, &fragment));
                    self.take(Input::StderrClosed);
                }
                Happening::Signal(signal) => self.heard(signal),
                Happening::Finding(Finding::Sample(sample)) => self.sampled(*sample),
                Happening::Finding(Finding::Tree(tree)) => self.take(Input::Looked(&tree)),
                Happening::Finding(Finding::ToldApart { pid, tool_use_id }) => {
                    self.take(Input::ToldApart { pid, tool_use_id });
                }
                Happening::Network(news) => self.network_news(news),
                Happening::Telemetry(request) => self.pass_to_host(request),
                Happening::Due if self.drain_is_over(now) => {
                    // Somebody holds the pipes whom nobody waits for. What is left of a line is the last of it.
                    for chunk in last_words(stdout.as_mut(), &mut out_chunk) {
                        self.stdout_chunk(&mut out_lines, &chunk);
                    }
                    for chunk in last_words(stderr.as_mut(), &mut err_chunk) {
                        if self.stderr_is_only_copy() {
                            self.stderr.write_last(&chunk);
                        } else {
                            self.stderr.write(&chunk);
                        }
                        let now = self.clock.now();
                        err_lines
                            .push(&chunk, &mut |fragment| self.stderr_fragment(now, &fragment));
                    }
                    let now = self.clock.now();
                    out_lines.finish(&mut |fragment| self.stdout_fragment(now, &fragment));
                    err_lines.finish(&mut |fragment| self.stderr_fragment(now, &fragment));
                    // Whoever writes there still must not die of it before we say who is left.
                    self.held
                        .extend([stdout.take(), stderr.take()].into_iter().flatten());
                    self.take(Input::StdoutClosed);
                    self.take(Input::StderrClosed);
                }
                Happening::Due => self.take_at(now, Input::Tick),
                Happening::Beat => self.beat(),
                Happening::KernelLog => self.hear_of_kills(),
                Happening::StderrRetry => {
                    self.stderr.flush(Duration::ZERO);
                }
                Happening::Room => {}
            }
            self.carry_out();
            self.tell_log();
            self.keep_pace();
        }
        self.sampler = None;
        self.held.extend([stdout, stderr].into_iter().flatten());
    }

    /// Hands the exporter what the transcript has for the log.
    fn tell_log(&mut self) {
        let logged = self.transcript.logged();
        let Some(telemetry) = &self.telemetry else {
            return;
        };
        for entry in logged.entries {
            telemetry.log(entry);
        }
        if logged.left_out > 0 {
            telemetry.logs_dropped(logged.left_out);
        }
    }

    fn pass_to_host(&mut self, request: HostRequest) {
        let now = self.clock.now();
        let line = Body::Otlp(request.into_line());
        self.transcript.body(now, None, &line);
        self.transcript.commit(now);
    }

    fn heard(&mut self, signal: Signalled) {
        match signal {
            Signalled::Child => self.reap(),
            Signalled::Forward(signal) => self.signalled(signal),
        }
    }

    /// Hands an input without a line to the session.
    fn take(&mut self, input: Input<'_>) {
        self.take_at(self.clock.now(), input);
    }

    fn take_at(&mut self, now: Now, input: Input<'_>) {
        self.effects.clear();
        self.session.handle(now, input, &mut self.effects);
        for span in self.effects.spans.opened.drain(..) {
            self.transcript.opened(now, &span);
        }
        self.settle(now);
    }

    /// Passes on what the last input closed and asked for.
    fn settle(&mut self, now: Now) {
        // Most lines change nothing.
        if self.effects.spans.closed.is_empty() && self.effects.actions.is_empty() {
            return;
        }
        let mut tool_ended = false;
        for span in self.effects.spans.closed.drain(..) {
            tool_ended |= span.name.starts_with(span_name::EXECUTE_TOOL);
            self.transcript.closed(now, &span);
            if let Some(telemetry) = &self.telemetry {
                telemetry.record(span);
            }
        }
        if tool_ended {
            match &self.sampler {
                Some(sampler) => sampler.want(Occasion::ToolEnded),
                None => self.echo_resources(now),
            }
        }
        self.actions.extend(self.effects.actions.drain(..));
    }

    /// Has the agent's processes looked at more often while a tool runs.
    fn keep_pace(&mut self) {
        let pace = if self.session.any_tool_runs() {
            Pace::Tool
        } else {
            Pace::Idle
        };
        if let Some(sampler) = &mut self.sampler {
            sampler.pace(pace);
        }
    }

    fn beat(&mut self) {
        self.look_for_a_stop();
        self.beats = self.beats.wrapping_add(1);
        if !self.beats.is_multiple_of(BEAT_TICKS) {
            return;
        }
        self.tree.learn_foreign();
        self.reap();
        self.read_memory_if_old();
        if self.sandbox_id.is_some() {
            // A copy that is made within the two seconds from which on a pause is told looks like none.
            self.check_identity();
        }
        self.look_for_life();
        // What a slow reader of stderr has yet to get.
        self.stderr.flush(Duration::ZERO);
        let now = self.clock.now();
        if now.uptime.saturating_sub(self.transcript.last_line()) >= HEARTBEAT_AFTER {
            let heartbeat = Heartbeat {
                uptime_ms: u64::try_from(now.uptime.as_millis()).unwrap_or(u64::MAX),
                state: self.session.state().as_str().to_owned(),
            };
            self.transcript.passing(now, &Body::Heartbeat(heartbeat));
        }
    }
}

async fn next(requests: &mut Option<mpsc::UnboundedReceiver<HostRequest>>) -> Option<HostRequest> {
    match requests {
        Some(requests) => requests.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
