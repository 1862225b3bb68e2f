//! From the facts of a run's end to a verdict.
//!
//! Precedence (DESIGN §6): what we did ourselves and wrote down before doing it, then the signal that ended the agent,
//! then its last result, the exception on its stderr, its exit code, and a result that never came. Neither exit code 0
//! nor `subtype: "success"` is success by itself (`reference/agent-streams.md` §0).

use std::time::Duration;

use sandtrace_client::failure::{Alternative, Evidence, Failure, FailureKind};
use sandtrace_client::wire::Outcome;

use super::api_error::{ApiError, contains_any, network_words};
use super::exception::{Exception, StderrTail};
use crate::process::exit::{Termination, signal_name};

/// What the supervisor decided to do to the agent, recorded before it did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// The run's deadline passed.
    Deadline(Duration),
    /// No sign of life within a turn.
    Idle(Duration),
    /// The session was idle between turns and is closed: no failure.
    SessionIdle(Duration),
    /// The supervisor was asked to stop by this signal number.
    Stop(i32),
}

impl Intent {
    /// What a turn that it cut short failed by; `None` where no turn was.
    pub(super) fn kind(self) -> Option<FailureKind> {
        match self {
            Self::Deadline(_) => Some(FailureKind::TimeoutDeadline),
            Self::Idle(_) => Some(FailureKind::TimeoutIdle),
            Self::Stop(_) => Some(FailureKind::CancelledHost),
            Self::SessionIdle(_) => None,
        }
    }
}

/// Why the agent could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpawnFailure {
    NotFound,
    NotExecutable,
    Failed,
}

/// How the agent's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// It never ran.
    NotSpawned {
        failure: SpawnFailure,
        message: String,
    },
    Terminated(Termination),
    /// The supervisor leaves while the agent is still there; the signal is the last that asked for it.
    StillRunning {
        signal: i32,
    },
}

/// The last `result` of the stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct LastResult {
    pub(super) subtype: String,
    pub(super) is_error: bool,
    pub(super) terminal_reason: Option<String>,
    pub(super) stop_reason: Option<String>,
    pub(super) api_error_status: Option<u16>,
    pub(super) text: String,
    pub(super) denied_permission: bool,
}

/// Everything a verdict may rest on.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) intent: Option<Intent>,
    pub(super) ending: &'a Ending,
    pub(super) result: Option<&'a LastResult>,
    /// The last error line the CLI made up, if it belongs to the last result.
    pub(super) api_error: Option<&'a ApiError>,
    pub(super) stderr: &'a StderrTail,
    /// An `error` event of the agent's own.
    pub(super) agent_error: Option<&'a str>,
    /// At least one agent event was seen.
    pub(super) saw_event: bool,
    /// A turn had begun and its result had not come.
    pub(super) turn_open: bool,
}

/// The verdict: how the run ended, and why if it did not succeed.
pub(super) fn classify(facts: &Facts<'_>) -> (Outcome, Option<Failure>) {
    let failure = by_spawn(facts)
        .or_else(|| by_intent(facts))
        .unwrap_or_else(|| match facts.ending {
            Ending::NotSpawned { .. } => None,
            Ending::StillRunning { .. } => Some(
                verdict(
                    FailureKind::Unknown,
                    0.3,
                    "The agent did not end.".to_owned(),
                )
                .because("wait_status", ending_fact(facts.ending)),
            ),
            Ending::Terminated(Termination::Signaled {
                signal,
                core_dumped,
            }) => Some(by_signal(facts, *signal, *core_dumped)),
            Ending::Terminated(Termination::Exited(code)) => by_exit(facts, *code),
        });
    let outcome = match &failure {
        None => Outcome::Success,
        Some(failure) if failure.kind.class() == "cancelled" => Outcome::Cancelled,
        Some(_) => Outcome::Failure,
    };
    (outcome, failure)
}

fn by_spawn(facts: &Facts<'_>) -> Option<Option<Failure>> {
    let Ending::NotSpawned { failure, message } = facts.ending else {
        return None;
    };
    let kind = match failure {
        SpawnFailure::NotFound => FailureKind::SpawnNotFound,
        SpawnFailure::NotExecutable => FailureKind::SpawnNotExecutable,
        SpawnFailure::Failed => FailureKind::SpawnFailed,
    };
    Some(Some(
        verdict(
            kind,
            1.0,
            format!("The agent could not be started: {message}."),
        )
        .because("spawn", message.clone()),
    ))
}

/// What we did ourselves outranks every trace it left. `Some(None)` is a success.
fn by_intent(facts: &Facts<'_>) -> Option<Option<Failure>> {
    let finished_well = matches!(facts.ending, Ending::Terminated(Termination::Exited(0)))
        && !facts.turn_open
        && facts.result.is_some_and(|result| !result.is_error);
    let failure = match facts.intent? {
        Intent::SessionIdle(_) => return Some(None),
        Intent::Stop(_) if finished_well => return Some(None),
        Intent::Deadline(after) => verdict(
            FailureKind::TimeoutDeadline,
            0.99,
            format!(
                "The run passed its deadline of {} and was stopped.",
                seconds(after)
            ),
        )
        .because(
            "intent",
            format!(
                "deadline of {} reached; the supervisor stopped the agent",
                seconds(after)
            ),
        ),
        Intent::Idle(after) => verdict(
            FailureKind::TimeoutIdle,
            0.95,
            format!(
                "The agent showed no sign of life for {} within a turn and was stopped.",
                seconds(after)
            ),
        )
        .because(
            "intent",
            format!(
                "no sign of life for {}; the supervisor stopped the agent",
                seconds(after)
            ),
        ),
        Intent::Stop(signal) => verdict(
            FailureKind::CancelledHost,
            0.97,
            format!("The run was asked to stop by {}.", signal_name(signal)),
        )
        .because(
            "intent",
            format!(
                "the supervisor received {} and passed it on",
                signal_name(signal)
            ),
        ),
    };
    // Who did not end has no wait status.
    let source = match facts.ending {
        Ending::StillRunning { .. } => "intent",
        Ending::NotSpawned { .. } | Ending::Terminated(_) => "wait_status",
    };
    Some(Some(failure.because(source, ending_fact(facts.ending))))
}

fn by_signal(facts: &Facts<'_>, signal: i32, core_dumped: bool) -> Failure {
    let name = signal_name(signal);
    if facts
        .stderr
        .find(&["JavaScript heap out of memory", "Ineffective mark-compacts"])
        .is_some()
    {
        return verdict(
            FailureKind::OomHeap,
            0.97,
            "The agent's JavaScript heap ran out of memory.".to_owned(),
        )
        .because("stderr", "JavaScript heap out of memory".to_owned())
        .because("wait_status", ending_fact(facts.ending));
    }
    let mut failure = verdict(
        FailureKind::CrashSignal,
        0.85,
        format!("The agent was ended by {name}, which the supervisor did not send."),
    )
    .because("wait_status", ending_fact(facts.ending));
    if core_dumped {
        failure = failure.because("wait_status", "a core was dumped".to_owned());
    }
    match signal {
        nix::libc::SIGKILL => failure
            .or(FailureKind::OomAgent, 0.3)
            .or(FailureKind::CancelledHost, 0.2),
        nix::libc::SIGTERM | nix::libc::SIGHUP => failure.or(FailureKind::CancelledHost, 0.5),
        nix::libc::SIGINT => failure.or(FailureKind::CancelledUser, 0.5),
        _ => failure,
    }
}

fn by_exit(facts: &Facts<'_>, code: i32) -> Option<Failure> {
    // A turn that is still open makes an earlier turn's error history.
    if let Some(result) = facts
        .result
        .filter(|result| result.is_error && !facts.turn_open)
    {
        return Some(
            by_result(result, facts.api_error, facts.stderr)
                .because("wait_status", ending_fact(facts.ending)),
        );
    }
    if code != 0 {
        return Some(by_exit_code(facts, code));
    }
    let answered = facts.result.is_some_and(|result| !result.is_error) && !facts.turn_open;
    if let Some(message) = facts.agent_error.filter(|_| !answered) {
        return Some(
            verdict(
                FailureKind::CrashException,
                0.8,
                format!("The agent reported an error: {}", sentence(message)),
            )
            .because("stream", format!("error event: {}", clip(message))),
        );
    }
    (facts.saw_event && (facts.turn_open || facts.result.is_none())).then(|| {
        verdict(
            FailureKind::CrashNoResult,
            0.9,
            "The agent exited with code 0 but its result never came.".to_owned(),
        )
        .because(
            "stream",
            "agent events were seen, but no result of the last turn".to_owned(),
        )
        .because("wait_status", ending_fact(facts.ending))
    })
}

/// What a result that is an error says went wrong.
pub(super) fn by_result(
    result: &LastResult,
    api_error: Option<&ApiError>,
    stderr: &StderrTail,
) -> Failure {
    use FailureKind as K;
    let subtype = format!("result: subtype {}, is_error true", result.subtype);
    let reason = result.terminal_reason.as_deref();
    let limit = match (result.subtype.as_str(), reason) {
        ("error_max_turns", _) | (_, Some("max_turns")) => Some(K::LimitTurns),
        ("error_max_budget_usd", _) | (_, Some("budget_exhausted")) => Some(K::LimitBudget),
        ("error_max_structured_output_retries", _)
        | (_, Some("structured_output_retry_exhausted")) => Some(K::LimitStructuredOutput),
        (_, Some("aborted_tools")) if result.denied_permission => Some(K::CancelledPermission),
        (_, Some("aborted_tools" | "aborted_streaming")) => Some(K::CancelledUser),
        _ => None,
    };
    if let Some(kind) = limit {
        let message = match kind {
            K::CancelledUser => "The turn was interrupted.".to_owned(),
            K::CancelledPermission => "A denied permission ended the run.".to_owned(),
            _ => sentence(&result.text),
        };
        return verdict(kind, 0.97, message)
            .because("result", subtype)
            .because_some("result", reason, "terminal_reason");
    }
    let text = if result.text.is_empty() {
        stderr.last_line().unwrap_or_default()
    } else {
        &result.text
    };
    if contains_any(text, &["No conversation found"]) {
        return verdict(
            K::CrashBadSession,
            0.95,
            "The session to resume does not exist.".to_owned(),
        )
        .because("message", clip(text));
    }
    let mut error = api_error.cloned().unwrap_or_default();
    error.status = error.status.or(result.api_error_status);
    error.stop_reason = result.stop_reason.clone().or(error.stop_reason);
    error.terminal_reason.clone_from(&result.terminal_reason);
    if error.text.is_empty() {
        text.clone_into(&mut error.text);
    }
    if result.subtype == "error_during_execution" && api_error.is_none() && error.status.is_none() {
        return verdict(
            K::CrashException,
            0.6,
            format!("The turn failed while it ran: {}", sentence(text)),
        )
        .because("result", subtype)
        .because("message", clip(text));
    }
    let (kind, confidence) = error.kind();
    let alternative = match kind {
        K::TimeoutApi => Some((K::NetworkTimeout, 0.4)),
        K::NetworkTimeout => Some((K::TimeoutApi, 0.3)),
        K::NetworkReset => Some((K::ApiRateLimit, 0.1)),
        K::ApiServerError if error.status.is_none() => Some((K::NetworkConnect, 0.3)),
        _ => None,
    };
    let mut failure = verdict(kind, confidence, sentence(text)).because("result", subtype);
    if let Some(status) = error.status {
        failure = failure.because("result", format!("HTTP status {status}"));
    }
    failure = failure
        .because_some("result", error.api_error_type.as_deref(), "API error type")
        .because_some("result", error.api_error.as_deref(), "api_error")
        .because_some("result", error.error.as_deref(), "error")
        .because_some("result", error.stop_reason.as_deref(), "stop_reason")
        .because("message", clip(text));
    match alternative {
        Some((kind, confidence)) => failure.or(kind, confidence),
        None => failure,
    }
}

fn by_exit_code(facts: &Facts<'_>, code: i32) -> Failure {
    let exit = ending_fact(facts.ending);
    if let Some(line) = facts
        .stderr
        .find(&["JavaScript heap out of memory", "Ineffective mark-compacts"])
    {
        return verdict(
            FailureKind::OomHeap,
            0.97,
            "A JavaScript heap ran out of memory.".to_owned(),
        )
        .because("stderr", clip(line))
        .because("wait_status", exit);
    }
    if let Some(line) = facts.stderr.find(&["No conversation found"]) {
        return verdict(
            FailureKind::CrashBadSession,
            0.9,
            "The session to resume does not exist.".to_owned(),
        )
        .because("stderr", clip(line))
        .because("wait_status", exit);
    }
    if let Some(exception) = facts.stderr.exception() {
        return by_exception(&exception).because("wait_status", exit);
    }
    if let Some(message) = facts.agent_error {
        return verdict(
            FailureKind::CrashException,
            0.85,
            format!("The agent reported an error: {}", sentence(message)),
        )
        .because("stream", format!("error event: {}", clip(message)))
        .because("wait_status", exit);
    }
    let last = facts.stderr.last_line();
    let said = last.map_or_else(String::new, |line| {
        format!(" Its last words: {}", sentence(line))
    });
    // A shell and the CLI itself report a signal n as exit code 128 + n.
    if let Some(signal) = (129..=159).contains(&code).then(|| code - 128) {
        let name = signal_name(signal);
        let failure = verdict(
            FailureKind::CrashSignal,
            0.6,
            format!("The agent exited with code {code}, as after {name}.{said}"),
        )
        .because("wait_status", exit)
        .because_some("stderr", last, "last line")
        .or(FailureKind::CrashExitCode, 0.3);
        return if signal == nix::libc::SIGTERM {
            failure.or(FailureKind::CancelledHost, 0.4)
        } else {
            failure
        };
    }
    verdict(
        FailureKind::CrashExitCode,
        0.8,
        format!("The agent exited with code {code}.{said}"),
    )
    .because("wait_status", exit)
    .because_some("stderr", last, "last line")
}

fn by_exception(exception: &Exception) -> Failure {
    use FailureKind as K;
    let fact = if exception.message.is_empty() {
        exception.class.clone()
    } else {
        format!("{}: {}", exception.class, clip(&exception.message))
    };
    let message = format!("The agent died of an uncaught {}", sentence(&fact));
    let text = exception.message.as_str();
    let failure = match exception.short_class() {
        "MemoryError" => verdict(
            K::OomHeap,
            0.85,
            "The agent's Python ran out of memory (MemoryError).".to_owned(),
        ),
        "KeyboardInterrupt" => verdict(
            K::CancelledUser,
            0.7,
            "The agent was interrupted from the keyboard.".to_owned(),
        ),
        "OSError" | "IOError" if contains_any(text, &["No space left on device", "ENOSPC"]) => {
            verdict(K::CrashDiskFull, 0.9, "The disk was full.".to_owned())
        }
        "OSError" if contains_any(text, &["Cannot allocate memory"]) => verdict(
            K::OomHeap,
            0.85,
            "The agent could not allocate memory.".to_owned(),
        ),
        // The SDK's report of the CLI's own end: a negative code is a signal.
        "ProcessError" => match process_error_code(text) {
            Some(code) if code < 0 => {
                let name = signal_name(-code);
                let failure = verdict(
                    K::CrashSignal,
                    0.85,
                    format!("The Claude Code CLI was ended by {name}."),
                );
                if -code == nix::libc::SIGKILL {
                    failure.or(K::OomCli, 0.4)
                } else {
                    failure
                }
            }
            Some(code) => verdict(
                K::CrashExitCode,
                0.8,
                format!("The Claude Code CLI exited with code {code}."),
            ),
            None => verdict(K::CrashException, 0.8, message),
        },
        // The result that it reports was never printed, so its words are all there is.
        "ResultError" => {
            let (kind, confidence) = ApiError {
                text: text.to_owned(),
                ..ApiError::default()
            }
            .kind();
            verdict(kind, confidence * 0.9, sentence(text))
        }
        _ => match network_words(text) {
            Some((kind, _)) => verdict(K::CrashException, 0.7, message).or(kind, 0.4),
            None => verdict(K::CrashException, 0.9, message),
        },
    };
    failure.because("stderr", fact)
}

/// The code in "Command failed with exit code N".
fn process_error_code(text: &str) -> Option<i32> {
    let digits = text
        .split("exit code")
        .nth(1)?
        .trim_start_matches([':', ' ']);
    let end = digits
        .find(|c: char| !(c.is_ascii_digit() || c == '-'))
        .unwrap_or(digits.len());
    digits[..end].parse().ok()
}

fn ending_fact(ending: &Ending) -> String {
    match ending {
        Ending::NotSpawned { message, .. } => message.clone(),
        Ending::StillRunning { .. } => "the agent had not ended".to_owned(),
        Ending::Terminated(Termination::Exited(code)) => format!("exit code {code}"),
        Ending::Terminated(Termination::Signaled { signal, .. }) => {
            format!("ended by {}", signal_name(*signal))
        }
    }
}

fn verdict(kind: FailureKind, confidence: f64, message: String) -> Failure {
    let recoverable = kind.recoverable();
    Failure {
        kind,
        message,
        confidence,
        recoverable,
        evidence: Vec::new(),
        alternatives: Vec::new(),
    }
}

/// Building a verdict reads as a sentence: this, because of that, or else the other.
trait Because {
    fn because(self, source: &str, fact: String) -> Self;
    fn because_some(self, source: &str, fact: Option<&str>, name: &str) -> Self;
    fn or(self, kind: FailureKind, confidence: f64) -> Self;
}

impl Because for Failure {
    fn because(mut self, source: &str, fact: String) -> Self {
        if !fact.is_empty() {
            self.evidence.push(Evidence {
                source: source.to_owned(),
                fact,
            });
        }
        self
    }

    fn because_some(self, source: &str, fact: Option<&str>, name: &str) -> Self {
        match fact {
            Some(fact) => self.because(source, format!("{name} {}", clip(fact))),
            None => self,
        }
    }

    fn or(mut self, kind: FailureKind, confidence: f64) -> Self {
        self.alternatives.push(Alternative { kind, confidence });
        self
    }
}

/// Facts go to a telemetry backend, so they are previews of 200 characters.
fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(200).collect();
    if clipped.len() < text.len() {
        clipped.push('…');
    }
    clipped
}

/// The first line of a text as a sentence.
fn sentence(text: &str) -> String {
    let line = clip(
        text.lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("(no message)")
            .trim(),
    );
    if line.ends_with(['.', '!', '?', '…', ')']) {
        line
    } else {
        format!("{line}.")
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests;
