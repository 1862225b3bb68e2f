//! Verdicts on an agent that a signal ended.

use sandtrace_client::failure::{Failure, FailureKind};

use super::exit_code::HEAP;
use super::memory::{by_kill, by_runtime, by_term, history, long_before};
use super::verdict::{Because, clip, verdict};
use super::{Facts, ending_fact};
use crate::process::exit::signal_name;

pub(super) fn by_signal(facts: &Facts<'_>, signal: i32, core_dumped: bool) -> Failure {
    let name = signal_name(signal);
    // Only the signals by which a runtime ends itself: the words of a heap that was a tool's explain no KILL.
    if is_given_up(signal)
        && let Some(line) = facts.stderr.find(&HEAP)
    {
        return verdict(
            FailureKind::OomHeap,
            0.97,
            "The agent's JavaScript heap ran out of memory.".to_owned(),
        )
        .because("stderr", clip(line))
        .because("wait_status", ending_fact(facts.ending));
    }
    if signal == nix::libc::SIGKILL
        && let Some(failure) = by_kill(facts)
    {
        return failure;
    }
    if signal == nix::libc::SIGTERM
        && let Some(failure) = by_term(facts)
    {
        return history(failure, facts.memory);
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
        nix::libc::SIGTERM | nix::libc::SIGHUP => {
            let failure = match long_before(facts.memory) {
                // What had been killed for memory before has nothing to do with it.
                Some(_) => Failure {
                    confidence: 0.95,
                    ..failure
                },
                None => failure,
            };
            history(failure.or(FailureKind::CancelledHost, 0.5), facts.memory)
        }
        nix::libc::SIGINT => failure.or(FailureKind::CancelledUser, 0.5),
        _ if is_given_up(signal) => by_runtime(facts, failure),
        _ => failure,
    }
}

/// JavaScript runtimes give up in these ways, and say so or not.
fn is_given_up(signal: i32) -> bool {
    matches!(
        signal,
        nix::libc::SIGTRAP | nix::libc::SIGILL | nix::libc::SIGSEGV | nix::libc::SIGABRT
    )
}
