//! Everything that is decided before the agent is started, so that bad input costs no agent its life.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::unistd::Pid;
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry::{Key, Value};
use sandtrace_client::wire::{Limits, RunStarted, Versions, WIRE_VERSION};

use super::exports::Exports;
use crate::agent::MAX_LINE;
use crate::cli::{Journal as JournalPlace, RunConfig, Settings, homeless_journal};
use crate::journal::{self, Copies, Journal, JournalError, RunState, Status};
use crate::process::{Abilities, Command, own_start_ticks};
use crate::session::{SessionConfig, TraceContext, id};
use crate::telemetry::context::{Extracted, ParentContext, extract, inject};
use crate::telemetry::resource::{self, Host};
use crate::telemetry::secrets::is_exporter_secret;
use crate::telemetry::{
    self, Destination, JournalFile, JournalPaths, Propagators, Redactor, Sampling, SpoolPlace,
    TelemetryConfig,
};
use crate::time::UnixNanos;

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

pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> SuperviseError {
    move |source| SuperviseError::System { what, source }
}

/// A run that is ready to begin.
pub(super) struct Prepared {
    pub(super) run_id: String,
    pub(super) context: TraceContext,
    pub(super) session: SessionConfig,
    pub(super) telemetry: TelemetryConfig,
    pub(super) journal: Option<Journal>,
    pub(super) command: AgentCommand,
    /// Code and sentence of what the host should hear first.
    pub(super) warnings: Vec<(&'static str, String)>,
}

impl Prepared {
    pub(super) fn new(
        config: &RunConfig,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Self, SuperviseError> {
        let run_id = config
            .run_id
            .clone()
            .unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let lookup = |name: &str| config.settings.get(name).map(str::to_owned);
        let mut warnings = Vec::new();
        let propagators = telemetry::propagators(&lookup);
        let Extracted { context, baggage } = extract(&lookup, &propagators);
        if context == ParentContext::Invalid {
            let message =
                "TRACEPARENT is not a W3C trace context, so this run starts a trace of its own";
            warnings.push(("traceparent_invalid", message.to_owned()));
        }
        let (caller_samples, mut context) = match context {
            ParentContext::Present(context) => (Some(context.sampled), context),
            ParentContext::Absent | ParentContext::Invalid => {
                let own = TraceContext {
                    trace_id: id::trace_id(&run_id),
                    parent_span_id: None,
                    sampled: true,
                    trace_state: String::new(),
                };
                (None, own)
            }
        };
        warnings.extend(
            config
                .notices
                .iter()
                .map(|notice| (notice.code(), notice.to_string())),
        );
        let exports = Exports::read(&lookup, caller_samples, config.echo)?;
        // What the agent traces itself is kept or not as the run is.
        context.sampled = exports.sampling.sampled;
        warnings.extend(exports.warnings);
        let mut destinations = exports.destinations;
        for destination in &mut destinations {
            if let Destination::Otlp(backend) = destination {
                backend.dialect = backend.dialect.under(context.trace_id, &baggage);
            }
        }
        let mut telemetry = TelemetryConfig {
            destinations,
            proxies: exports.proxies,
            resource: resource_of(&config.settings, &run_id)?,
            limits: exports.limits,
            batching: exports.batching,
            metric_interval: exports.metric_interval,
            sampled: context.sampled,
            sampling: Sampling {
                rate: exports.sampling.rate,
                slow: config.slow,
            },
            trace_state: context.trace_state.clone(),
            messages: config.messages,
            redactor: Arc::new(redactor(config, &environment)),
            ..TelemetryConfig::default()
        };
        let journal = match open_journal(config, &run_id)? {
            Ok(journal) => journal,
            Err(why) => {
                warnings.push((
                    "journal_unavailable",
                    format!("there is no journal for this run: {why}"),
                ));
                None
            }
        };
        if let Some(journal) = &journal {
            let mut open = |copies: Copies, code| match journal.telemetry_file(copies) {
                Ok(file) => Some(JournalFile {
                    file,
                    cap: copies.cap_bytes(),
                }),
                Err(error) => {
                    let name = copies.file_name();
                    warnings.push((code, format!("{name} cannot be made: {error}")));
                    None
                }
            };
            telemetry.journal = JournalPaths {
                traces: open(Copies::Traces, "traces_unavailable"),
                metrics: open(Copies::Metrics, "metrics_unavailable"),
                logs: open(Copies::Logs, "logs_unavailable"),
            };
            telemetry.spool = Some(SpoolPlace {
                run: journal.directory().to_owned(),
                root: config.journal.root().map(Path::to_owned),
            });
        }
        Ok(Self {
            session: session_config(config, &run_id, &context, &baggage),
            command: AgentCommand::new(config, environment, &propagators),
            run_id,
            context,
            telemetry,
            journal,
            warnings,
        })
    }
}

/// It knows the secrets of our own settings, which hold our environment, and those that only the agent has.
fn redactor(config: &RunConfig, environment: &[(OsString, OsString)]) -> Redactor {
    let agents = environment.iter();
    let agents = agents.map(|(name, value)| (name.as_os_str(), value.as_os_str()));
    Redactor::new(config.settings.all().chain(agents), config.redact.clone())
}

/// The agent's command, still without the trace context that only the run's span gives it.
pub(super) struct AgentCommand {
    command: Command,
    /// It is given one at all.
    is_told_parent: bool,
}

impl AgentCommand {
    /// The agent finds our environment, without the exporters' secrets.
    fn new(
        config: &RunConfig,
        environment: Vec<(OsString, OsString)>,
        propagators: &Propagators,
    ) -> Self {
        let is_told_parent = propagators.trace_context;
        let replaced = |name: &str| match name {
            "TRACEPARENT" | "TRACESTATE" => is_told_parent,
            name => name == "PYTHONUNBUFFERED",
        };
        let secret = |name: &str| {
            is_exporter_secret(name) && !config.pass_env.iter().any(|kept| kept == name)
        };
        let stays = |name: &OsString| {
            name.to_str()
                .is_none_or(|name| !replaced(name) && !secret(name))
        };
        let mut env: Vec<_> = environment
            .into_iter()
            .filter(|(name, _)| stays(name))
            .collect();
        // Python on a pipe writes in blocks: without this, lines come minutes late, and those of a killed agent never.
        env.push(("PYTHONUNBUFFERED".into(), "1".into()));
        Self {
            command: Command {
                argv: config.command.clone(),
                env,
            },
            is_told_parent,
        }
    }

    /// Makes `span` the parent of whatever the agent traces itself.
    pub(super) fn with_parent(self, context: &TraceContext, span: SpanId) -> Command {
        let mut command = self.command;
        if !self.is_told_parent {
            return command;
        }
        let parent = inject(context, span);
        command.env.extend(
            parent
                .into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        command
    }
}

/// A run id that is taken is refused; any other trouble costs the journal, not the run, and is told.
fn open_journal(
    config: &RunConfig,
    run_id: &str,
) -> Result<Result<Option<Journal>, String>, SuperviseError> {
    let JournalPlace::Directory(root) = &config.journal else {
        return Ok(Ok(None));
    };
    let created = if *root == homeless_journal() {
        Journal::create_private(root, run_id)
    } else {
        Journal::create(root, run_id)
    };
    match created {
        Ok(journal) => Ok(Ok(Some(journal))),
        Err(error @ JournalError::RunExists { .. }) => Err(SuperviseError::Journal(error)),
        Err(JournalError::Create { path, source }) => Ok(Err(format!(
            "failed to create {}: {source}",
            path.display()
        ))),
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
        sandbox_ends_at: config.sandbox_ends_at,
        grace: config.grace,
        survivors: config.survivors,
        probe: config.probe,
        executable: executable_name(&config.command),
        resumed: resumes(&config.command),
    }
}

/// The file name of the command; its arguments hold the prompt and are never told.
pub(super) fn executable_name(command: &[OsString]) -> String {
    let program = command.first().map(Path::new).and_then(Path::file_name);
    program
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Whether the command goes on with an earlier conversation, whose cost then counts on in the totals of this one.
#[must_use]
pub fn resumes(command: &[OsString]) -> bool {
    // The letters are the CLI's own; another program may mean anything by them.
    let is_cli = executable_name(command) == "claude";
    command.iter().skip(1).any(|argument| {
        let Some(argument) = argument.to_str() else {
            return false;
        };
        match argument {
            "--resume" | "--continue" | "--fork-session" => true,
            "-r" | "-c" => is_cli,
            other => other.starts_with("--resume="),
        }
    })
}

/// The resource of a run.
pub fn resource_of(
    settings: &Settings,
    run_id: &str,
) -> Result<Vec<(Key, Value)>, resource::ResourceError> {
    let lookup = |name: &str| settings.get(name).map(str::to_owned);
    resource::attributes(&lookup, &read_text, &host(), run_id)
}

/// As [`resource_of`], where the sandbox's variables speak of the sandbox that this one was copied from.
pub(super) fn forked_resource_of(
    settings: &Settings,
    run_id: &str,
) -> Result<Vec<(Key, Value)>, resource::ResourceError> {
    let lookup = |name: &str| {
        let is_stale = name == "E2B_SANDBOX_ID";
        let value = settings.get(name).filter(|_| !is_stale);
        value.map(str::to_owned)
    };
    resource::attributes(&lookup, &read_text, &host(), run_id)
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

/// The data of the first line.
pub(super) fn run_started(
    config: &RunConfig,
    run_id: &str,
    context: &TraceContext,
    root: SpanId,
    journal: Option<&Journal>,
    agent: Option<Pid>,
    abilities: &Abilities,
) -> RunStarted {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    RunStarted {
        wire: WIRE_VERSION,
        run_id: run_id.to_owned(),
        pid: agent.and_then(|pid| u32::try_from(pid.as_raw()).ok()),
        executable: executable_name(&config.command),
        trace_id: context.trace_id.to_string(),
        root_span_id: root.to_string(),
        parent_span_id: context.parent_span_id.map(|id| id.to_string()),
        versions: Versions {
            sandtrace: env!("CARGO_PKG_VERSION").to_owned(),
        },
        journal: journal.map(|journal| journal.directory().display().to_string()),
        limits: Limits {
            line_bytes: MAX_LINE as u64,
            deadline_ms: config.deadline.map(millis),
            idle_timeout_ms: config.idle_timeout.map(millis),
            sandbox_ends_at: config.sandbox_ends_at.map(|time| time.to_string()),
            grace_ms: millis(config.grace),
            flush_timeout_ms: millis(config.flush_timeout),
            journal_bytes: journal::CAP_BYTES,
        },
        abilities: abilities.to_map(),
        forked_from: None,
    }
}

pub(super) fn run_state(run_id: &str, trace_id: TraceId, started: UnixNanos) -> RunState {
    RunState {
        run_id: run_id.to_owned(),
        supervisor_pid: std::process::id(),
        supervisor_start_ticks: own_start_ticks().unwrap_or(0),
        trace_id: trace_id.to_string(),
        started: started.to_string(),
        ..RunState::new(Status::Running)
    }
}

/// Old journals go on a thread of their own: a directory of a thousand runs must not delay this one.
pub(super) fn prune(place: &JournalPlace) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_resumes_is_known_by_its_arguments() {
        for (command, expected) in [
            ("python3 agent.py --resume 0b5d", true),
            ("python3 agent.py --resume=0b5d", true),
            ("python3 agent.py --continue", true),
            ("node cli.js --fork-session", true),
            ("/usr/bin/claude -r 0b5d", true),
            ("claude -c", true),
            ("sh -c true", false),
            ("python3 -c pass", false),
            ("claude --resumed -p hi", false),
            ("--resume", false),
            ("", false),
        ] {
            let command: Vec<OsString> = command.split_whitespace().map(OsString::from).collect();
            assert_eq!(resumes(&command), expected, "{command:?}");
        }
    }
}
