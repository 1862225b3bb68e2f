//! From the facts of a run's end to a verdict.
//!
//! Precedence (DESIGN §6): what we did ourselves and wrote down before doing it, then whom the kernel killed for memory,
//! then the signal that ended the agent, then its last result, the exception on its stderr, its exit code, and a result that never came. Neither exit code 0
//! nor `subtype: "success"` is success by itself (`reference/agent-streams.md` §0).
//!
//! One file a kind of evidence: `intent`, `memory`, `signal`, `result`, `exit_code`; `network` weighs what these say with what the
//! sockets and the probe showed; `verdict` puts them into words.

mod exit_code;
mod intent;
pub(super) mod memory;
mod network;
mod result;
mod signal;
mod verdict;

use std::time::Duration;

use sandtrace_client::failure::{Failure, FailureKind};
use sandtrace_client::wire::Outcome;

use self::exit_code::by_exit;
use self::intent::{by_intent, by_spawn};
use self::memory::by_livelock;
use self::network::weigh;
pub(super) use self::network::{Doubt, doubt};
pub(super) use self::result::by_result;
use self::signal::by_signal;
use self::verdict::{Because, verdict};
use super::api_error::ApiError;
use super::exception::StderrTail;
use super::memory::Memory;
use super::network::Network;
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
    pub(super) memory: &'a Memory,
    pub(super) network: &'a Network,
    /// An `error` event of the agent's own.
    pub(super) agent_error: Option<&'a str>,
    /// At least one agent event was seen.
    pub(super) saw_event: bool,
    /// A turn had begun and its result had not come.
    pub(super) turn_open: bool,
}

impl Facts<'_> {
    /// Of the call that the last result reports, if an answer came.
    fn http_status(&self) -> Option<u16> {
        let of_line = self.api_error.and_then(|error| error.status);
        of_line.or_else(|| self.result?.api_error_status)
    }
}

/// The verdict: how the run ended, and why if it did not succeed.
pub(super) fn classify(facts: &Facts<'_>) -> (Outcome, Option<Failure>) {
    let failure = by_spawn(facts)
        .or_else(|| by_intent(facts))
        .unwrap_or_else(|| match facts.ending {
            Ending::NotSpawned { .. } => None,
            Ending::StillRunning { .. } => Some(
                by_livelock(facts.memory)
                    .unwrap_or_else(|| {
                        verdict(
                            FailureKind::Unknown,
                            0.3,
                            "The agent did not end.".to_owned(),
                        )
                    })
                    .because("wait_status", ending_fact(facts.ending)),
            ),
            Ending::Terminated(Termination::Signaled {
                signal,
                core_dumped,
            }) => Some(by_signal(facts, *signal, *core_dumped)),
            Ending::Terminated(Termination::Exited(code)) => by_exit(facts, *code),
        })
        .map(|failure| weigh(failure, facts));
    let outcome = match &failure {
        None => Outcome::Success,
        Some(failure) if failure.kind.class() == "cancelled" => Outcome::Cancelled,
        Some(_) => Outcome::Failure,
    };
    (outcome, failure)
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

#[cfg(test)]
mod tests;
