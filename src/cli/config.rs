//! What the flags and settings mean: every option is looked up in its layers, read, checked and given its default.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{CliError, UsageError, ValueProblem};
use super::flags::{AttachFlags, DoctorFlags, ReportFlags, RunFlags, StopFlags};
use super::settings::{Origin, Settings};
use super::values::{
    attribute, capture, echo, length, limit, moment, pattern, plain, probe, run_id, seq, survivors,
    switch, variable_name,
};

use crate::telemetry::MessagePlace;
use crate::telemetry::redaction::Pattern;
use crate::time::UnixNanos;

pub use crate::session::{Capture, ProbePolicy, SurvivorPolicy};

/// Where journals go when neither HOME nor XDG_STATE_HOME says where: in a place that all users share, so each has a
/// directory of its own.
#[must_use]
pub fn homeless_journal() -> PathBuf {
    PathBuf::from(format!(
        "/var/tmp/sandtrace-{}",
        nix::unistd::geteuid().as_raw()
    ))
}

/// All that `sandtrace run` was told.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// The agent and its arguments; never empty.
    pub command: Vec<OsString>,
    /// `None` for no limit.
    pub deadline: Option<Duration>,
    /// `None` for no limit.
    pub idle_timeout: Option<Duration>,
    /// `None` if nobody knows.
    pub sandbox_ends_at: Option<UnixNanos>,
    pub grace: Duration,
    pub flush_timeout: Duration,
    pub echo: EchoMode,
    pub capture: Capture,
    /// Where whole messages go, if they are captured.
    pub messages: MessagePlace,
    /// From this length on sampling keeps no run back; `None` for no such length.
    pub slow: Option<Duration>,
    /// `None` for no samples.
    pub sample_interval: Option<Duration>,
    pub journal: Journal,
    /// `None`: left after the agent's own exit, killed after a signal or a stop.
    pub survivors: Option<SurvivorPolicy>,
    pub probe: ProbePolicy,
    /// In order of first mention; each key once.
    pub attributes: Vec<(String, String)>,
    pub pass_env: Vec<String>,
    /// What is taken out of telemetry besides known secrets.
    pub redact: Vec<Pattern>,
    pub verbose: bool,
    /// `None` for a new one.
    pub run_id: Option<String>,
    pub agent_name: String,
    /// `None` for the agent's own.
    pub session_id: Option<String>,
    /// `None` for `user.id` of BAGGAGE.
    pub user_id: Option<String>,
    /// What the user should hear about how this came about.
    pub notices: Vec<Notice>,
    /// Every other variable: OTEL_*, LANGFUSE_*, TRACEPARENT, …
    pub settings: Settings,
}

/// All that `sandtrace attach` was told.
#[derive(Debug, Clone)]
pub struct AttachConfig {
    /// A run id or a path.
    pub run: OsString,
    /// The number of the last line that the reader has; lines count from 1.
    pub after: u64,
    pub journal: Journal,
}

/// All that `sandtrace report` was told.
#[derive(Debug, Clone)]
pub struct ReportConfig {
    /// A run id or a path.
    pub run: OsString,
    pub journal: Journal,
    pub settings: Settings,
}

/// All that `sandtrace stop` was told.
#[derive(Debug, Clone)]
pub struct StopConfig {
    /// A run id or a path.
    pub run: OsString,
    pub journal: Journal,
}

/// All that `sandtrace doctor` was told.
#[derive(Debug, Clone)]
pub struct DoctorConfig {
    /// Send what earlier runs left.
    pub resend: bool,
    /// What a run would be told here, all its variables checked.
    pub run: Box<RunConfig>,
}

/// What appears on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoMode {
    /// The agent's lines with a stamp, and ours between them.
    Enriched,
    /// The agent's bytes, untouched.
    Raw,
    /// Nothing.
    Off,
}

/// Where runs are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Journal {
    /// The directory that holds one directory a run.
    Directory(PathBuf),
    Off,
}

impl Journal {
    /// The directory, if there is one.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        match self {
            Self::Directory(root) => Some(root),
            Self::Off => None,
        }
    }
}

/// Something the configuration had to make up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Neither HOME nor XDG_STATE_HOME is an absolute path.
    NoHome,
    /// OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT has a value that it cannot have.
    CaptureUnclear,
}

impl Notice {
    /// The stable word of a `sandtrace.warning`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoHome => "no_home",
            Self::CaptureUnclear => "capture_unclear",
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHome => write!(
                f,
                "neither HOME nor XDG_STATE_HOME is an absolute path, so the journal is in {}",
                homeless_journal().display()
            ),
            Self::CaptureUnclear => write!(
                f,
                "{CONTENT_VARIABLE} is none of NO_CONTENT, SPAN_ONLY, EVENT_ONLY and SPAN_AND_EVENT, so the default holds"
            ),
        }
    }
}

/// An option's two names.
#[derive(Clone, Copy)]
struct Name {
    flag: &'static str,
    variable: &'static str,
}

const fn name(flag: &'static str, variable: &'static str) -> Name {
    Name { flag, variable }
}

const JOURNAL: Name = name("--journal", "SANDTRACE_JOURNAL");

pub(super) fn run(flags: RunFlags, settings: Settings) -> Result<RunConfig, CliError> {
    let from = Source {
        settings: &settings,
    };
    let mut notices = Vec::new();
    let config = RunConfig {
        deadline: from
            .read(
                name("--deadline", "SANDTRACE_DEADLINE"),
                &flags.deadline,
                limit,
            )?
            .flatten(),
        idle_timeout: from
            .read(
                name("--idle-timeout", "SANDTRACE_IDLE_TIMEOUT"),
                &flags.idle_timeout,
                limit,
            )?
            .unwrap_or(Some(Duration::from_secs(30 * 60))),
        sandbox_ends_at: from.read(
            name("--sandbox-ends-at", "SANDTRACE_SANDBOX_ENDS_AT"),
            &flags.sandbox_ends_at,
            moment,
        )?,
        grace: from
            .read(name("--grace", "SANDTRACE_GRACE"), &flags.grace, length)?
            .unwrap_or(Duration::from_secs(10)),
        flush_timeout: from
            .read(
                name("--flush-timeout", "SANDTRACE_FLUSH_TIMEOUT"),
                &flags.flush_timeout,
                length,
            )?
            .unwrap_or(Duration::from_secs(5)),
        echo: from
            .read(name("--echo", "SANDTRACE_ECHO"), &flags.echo, echo)?
            .unwrap_or(EchoMode::Enriched),
        capture: from
            .read(
                name("--capture", "SANDTRACE_CAPTURE"),
                &flags.capture,
                capture,
            )?
            .unwrap_or_else(|| {
                let wanted = wanted_content(&settings, &mut notices);
                wanted.map_or(Capture::Preview, |(capture, _)| capture)
            }),
        messages: wanted_content(&settings, &mut Vec::new())
            .map_or_else(MessagePlace::default, |(_, place)| place),
        slow: from
            .read(name("--slow", "SANDTRACE_SLOW"), &flags.slow, limit)?
            .flatten(),
        sample_interval: from
            .read(
                name("--sample-interval", "SANDTRACE_SAMPLE_INTERVAL"),
                &flags.sample_interval,
                limit,
            )?
            .unwrap_or(Some(Duration::from_secs(1))),
        journal: from.journal(&flags.journal, &mut notices)?,
        survivors: from.read(
            name("--survivors", "SANDTRACE_SURVIVORS"),
            &flags.survivors,
            survivors,
        )?,
        probe: from
            .read(name("--probe", "SANDTRACE_PROBE"), &flags.probe, probe)?
            .unwrap_or_default(),
        attributes: from.attributes(&flags.attribute)?,
        pass_env: from.pass_env(&flags.pass_env)?,
        redact: from.read_lists(
            name("--redact", "SANDTRACE_REDACT"),
            '\n',
            &flags.redact,
            pattern,
        )?,
        verbose: flags.verbose
            || from
                .read(name("--verbose", "SANDTRACE_VERBOSE"), &None, switch)?
                .unwrap_or(false),
        run_id: from.read(name("--run-id", "SANDTRACE_RUN_ID"), &flags.run_id, run_id)?,
        agent_name: from
            .read(
                name("--agent-name", "SANDTRACE_AGENT_NAME"),
                &flags.agent_name,
                plain,
            )?
            .unwrap_or_else(|| "claude".to_owned()),
        session_id: from.read(
            name("--session-id", "SANDTRACE_SESSION_ID"),
            &flags.session_id,
            plain,
        )?,
        user_id: from.read(
            name("--user-id", "SANDTRACE_USER_ID"),
            &flags.user_id,
            plain,
        )?,
        command: flags.command,
        notices,
        settings: Settings::default(),
    };
    match config.command.first() {
        Some(program) if !program.is_empty() => Ok(RunConfig { settings, ..config }),
        _ => Err(UsageError::NoCommand.into()),
    }
}

pub(super) fn attach(flags: AttachFlags, settings: &Settings) -> Result<AttachConfig, CliError> {
    let (run, journal) = kept_run(flags.run, &flags.journal, settings, "attach")?;
    let after = flags.after.as_deref();
    let after = after.map(|after| checked(Origin::Flag("--after"), after, seq));
    Ok(AttachConfig {
        run,
        after: after.transpose()?.unwrap_or(0),
        journal,
    })
}

pub(super) fn report(flags: ReportFlags, settings: Settings) -> Result<ReportConfig, CliError> {
    let (run, journal) = kept_run(flags.run, &flags.journal, &settings, "report")?;
    Ok(ReportConfig {
        run,
        journal,
        settings,
    })
}

pub(super) fn stop(flags: StopFlags, settings: &Settings) -> Result<StopConfig, CliError> {
    let (run, journal) = kept_run(flags.run, &flags.journal, settings, "stop")?;
    Ok(StopConfig { run, journal })
}

pub(super) fn doctor(flags: DoctorFlags, settings: Settings) -> Result<DoctorConfig, CliError> {
    let as_run = RunFlags {
        command: vec!["agent".into()],
        journal: flags.journal,
        ..RunFlags::default()
    };
    Ok(DoctorConfig {
        resend: flags.resend,
        run: Box::new(run(as_run, settings)?),
    })
}

/// The run that a subcommand is about, and where runs are kept.
fn kept_run(
    run: Option<OsString>,
    journal: &Option<OsString>,
    settings: &Settings,
    subcommand: &'static str,
) -> Result<(OsString, Journal), CliError> {
    // That HOME is missing matters here only if no run is found, and then it is said where it was looked for.
    let journal = Source { settings }.journal(journal, &mut Vec::new())?;
    let run = run.filter(|run| !run.is_empty());
    Ok((run.ok_or(UsageError::NoRun { subcommand })?, journal))
}

/// How OpenTelemetry's GenAI instrumentations are told what content to capture.
const CONTENT_VARIABLE: &str = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT";

/// What [`CONTENT_VARIABLE`] asks for; `None` if it says nothing. It is often meant for the agent's own telemetry, so
/// that a bad value is no reason to stop (`reference/observability.md` §8).
fn wanted_content(
    settings: &Settings,
    notices: &mut Vec<Notice>,
) -> Option<(Capture, MessagePlace)> {
    let value = settings.get(CONTENT_VARIABLE)?.trim().to_ascii_lowercase();
    match value.as_str() {
        "no_content" | "false" => Some((Capture::None, MessagePlace::Spans)),
        // The older boolean means the span.
        "span_only" | "true" => Some((Capture::Full, MessagePlace::Spans)),
        "event_only" => Some((Capture::Full, MessagePlace::Events)),
        "span_and_event" => Some((Capture::Full, MessagePlace::Both)),
        _ => {
            notices.push(Notice::CaptureUnclear);
            None
        }
    }
}

/// Looks options up below the flags.
struct Source<'a> {
    settings: &'a Settings,
}

impl Source<'_> {
    /// The strongest value of an option, read; `None` if nobody gave one.
    fn read<T>(
        &self,
        name: Name,
        flag: &Option<OsString>,
        read: impl FnOnce(&str) -> Result<T, ValueProblem>,
    ) -> Result<Option<T>, CliError> {
        let given = match flag {
            Some(value) => Some((Origin::Flag(name.flag), value.as_os_str())),
            None => self.settings.layers(name.variable).last(),
        };
        given
            .map(|(origin, value)| checked(origin, value, read))
            .transpose()
    }

    /// Every value of a repeatable option, the weakest first: variables hold lists with commas, a flag holds one.
    fn read_all<T>(
        &self,
        name: Name,
        flags: &[OsString],
        read: impl Fn(&str) -> Result<T, ValueProblem>,
    ) -> Result<Vec<T>, CliError> {
        self.read_lists(name, ',', flags, read)
    }

    /// As [`Self::read_all`], with another separator in the lists.
    fn read_lists<T>(
        &self,
        name: Name,
        separator: char,
        flags: &[OsString],
        read: impl Fn(&str) -> Result<T, ValueProblem>,
    ) -> Result<Vec<T>, CliError> {
        let mut all = Vec::new();
        for (origin, list) in self.settings.layers(name.variable) {
            let list = checked(origin.clone(), list, |list| Ok(list.to_owned()))?;
            let items = list
                .split(separator)
                .map(str::trim)
                .filter(|item| !item.is_empty());
            for item in items {
                all.push(checked(origin.clone(), OsStr::new(item), &read)?);
            }
        }
        for flag in flags {
            all.push(checked(Origin::Flag(name.flag), flag, &read)?);
        }
        Ok(all)
    }

    fn attributes(&self, flags: &[OsString]) -> Result<Vec<(String, String)>, CliError> {
        let name = name("--attribute", "SANDTRACE_ATTRIBUTE");
        let mut attributes: Vec<(String, String)> = Vec::new();
        for (key, value) in self.read_all(name, flags, attribute)? {
            match attributes.iter_mut().find(|(known, _)| *known == key) {
                Some((_, weaker)) => *weaker = value,
                None => attributes.push((key, value)),
            }
        }
        Ok(attributes)
    }

    fn pass_env(&self, flags: &[OsString]) -> Result<Vec<String>, CliError> {
        let name = name("--pass-env", "SANDTRACE_PASS_ENV");
        let mut names = Vec::new();
        for variable in self.read_all(name, flags, variable_name)? {
            if !names.contains(&variable) {
                names.push(variable);
            }
        }
        Ok(names)
    }

    /// The journal is read apart from the others, for a path need not be UTF-8.
    fn journal(
        &self,
        flag: &Option<OsString>,
        notices: &mut Vec<Notice>,
    ) -> Result<Journal, CliError> {
        let given = match flag {
            Some(value) => Some((Origin::Flag(JOURNAL.flag), value.as_os_str())),
            None => self.settings.layers(JOURNAL.variable).last(),
        };
        match given {
            Some((_, value)) if value == "off" => Ok(Journal::Off),
            Some((origin, value)) if value.is_empty() => Err(CliError::Value {
                origin,
                value: String::new(),
                problem: ValueProblem::Empty,
            }),
            Some((_, value)) => Ok(Journal::Directory(PathBuf::from(value))),
            None => Ok(Journal::Directory(self.state_home().unwrap_or_else(|| {
                notices.push(Notice::NoHome);
                homeless_journal()
            }))),
        }
    }

    /// The XDG specification has relative paths ignored.
    fn state_home(&self) -> Option<PathBuf> {
        let absolute = |name| {
            let path = PathBuf::from(self.settings.get_os(name)?);
            path.is_absolute().then_some(path)
        };
        absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
            .map(|state| state.join("sandtrace"))
    }
}

fn checked<T>(
    origin: Origin,
    value: &OsStr,
    read: impl FnOnce(&str) -> Result<T, ValueProblem>,
) -> Result<T, CliError> {
    let text = value.to_str().ok_or(ValueProblem::NotUtf8);
    text.and_then(read).map_err(|problem| CliError::Value {
        origin,
        value: value.to_string_lossy().into_owned(),
        problem,
    })
}
