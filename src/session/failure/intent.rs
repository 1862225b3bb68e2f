//! Verdicts that rest on what we know ourselves: that the agent never started, and what we did to it.

use sandtrace_client::failure::{Failure, FailureKind};

use super::memory::add_livelock;
use super::verdict::{Because, seconds, verdict};
use super::{Ending, Facts, Intent, SpawnFailure, ending_fact};
use crate::process::exit::{Termination, signal_name};

pub(super) fn by_spawn(facts: &Facts<'_>) -> Option<Option<Failure>> {
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
pub(super) fn by_intent(facts: &Facts<'_>) -> Option<Option<Failure>> {
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
    let failure = failure.because(source, ending_fact(facts.ending));
    Some(Some(add_livelock(failure, facts.memory)))
}
