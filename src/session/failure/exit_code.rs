//! Verdicts on an agent that exited: its result, the exception on its stderr, its exit code.

use sandtrace_client::failure::{Failure, FailureKind};

use super::memory::{by_cli, by_descendant, by_runtime, history};
use super::result::by_result;
use super::verdict::{Because, clip, sentence, verdict};
use super::{Facts, ending_fact};
use crate::process::exit::signal_name;
use crate::session::api_error::{ApiError, contains_any, network_words};
use crate::session::exception::Exception;

/// What libc and Node call it.
const DISK_FULL: [&str; 3] = [
    "No space left on device",
    "no space left on device",
    "ENOSPC",
];

/// What JavaScript runtimes write when their heap is full.
pub(super) const HEAP: [&str; 2] = ["JavaScript heap out of memory", "Ineffective mark-compacts"];

pub(super) fn by_exit(facts: &Facts<'_>, code: i32) -> Option<Failure> {
    // A turn that is still open makes an earlier turn's error history.
    if let Some(result) = facts
        .result
        .filter(|result| result.is_error && !facts.turn_open)
    {
        let failure = by_result(result, facts.api_error, facts.stderr)
            .because("wait_status", ending_fact(facts.ending));
        return Some(history(failure, facts.memory));
    }
    if code != 0 {
        return Some(by_exit_code(facts, code));
    }
    let answered = facts.result.is_some_and(|result| !result.is_error) && !facts.turn_open;
    if let Some(message) = facts.agent_error.filter(|_| !answered) {
        let failure = verdict(
            FailureKind::CrashException,
            0.8,
            format!("The agent reported an error: {}", sentence(message)),
        )
        .because("stream", format!("error event: {}", clip(message)));
        return Some(history(failure, facts.memory));
    }
    (facts.saw_event && (facts.turn_open || facts.result.is_none())).then(|| {
        if let Some(failure) = by_cli(facts, None) {
            return failure;
        }
        let failure = verdict(
            FailureKind::CrashNoResult,
            0.9,
            "The agent exited with code 0 but its result never came.".to_owned(),
        )
        .because(
            "stream",
            "agent events were seen, but no result of the last turn".to_owned(),
        )
        .because("wait_status", ending_fact(facts.ending));
        history(failure, facts.memory)
    })
}

fn by_exit_code(facts: &Facts<'_>, code: i32) -> Failure {
    let failure = by_words(facts, code);
    // A runtime's own words about its heap need no kernel, and a session that is not there has no memory to lack.
    if !matches!(
        failure.kind,
        FailureKind::CrashSignal | FailureKind::CrashExitCode | FailureKind::CrashException
    ) {
        return history(failure, facts.memory);
    }
    let exception = facts.stderr.exception();
    let cli_said = exception
        .as_ref()
        .filter(|exception| exception.short_class() == "ProcessError")
        .map(|exception| ("stderr", exception.message.as_str()))
        .or_else(|| facts.agent_error.map(|message| ("stream", message)))
        .filter(|(_, text)| matches!(process_error_code(text), Some(-9 | 137)))
        .map(|(source, text)| (source, clip(text)));
    let was_cli = cli_said.is_some();
    if let Some(failure) = by_cli(facts, cli_said) {
        return failure;
    }
    if was_cli && facts.memory.is_counted() && facts.memory.total() == 0 {
        // Nobody was killed for memory, so that somebody else killed it.
        return Failure {
            confidence: 0.9,
            alternatives: Vec::new(),
            ..failure
        };
    }
    let words = exception.is_some_and(|exception| {
        contains_any(&exception.message, &["SIGKILL", "Killed", "-9", "137"])
    });
    let failure = by_descendant(facts, code, words, failure);
    match (failure.kind == FailureKind::CrashSignal).then(|| code - 128) {
        Some(nix::libc::SIGABRT | nix::libc::SIGTRAP | nix::libc::SIGILL | nix::libc::SIGSEGV) => {
            by_runtime(facts, failure)
        }
        _ => failure,
    }
}

/// What the agent's own words and its code say.
fn by_words(facts: &Facts<'_>, code: i32) -> Failure {
    let exit = ending_fact(facts.ending);
    if let Some(line) = facts.stderr.find(&HEAP) {
        // It may have been a tool's: an exception that came later is what ended the agent, unless it only tells of the
        // end of Claude Code's own process.
        if let Some(exception) = facts.stderr.exception_after(&HEAP)
            && exception.short_class() != "ProcessError"
        {
            let failure = by_exception(&exception)
                .because("stderr", clip(line))
                .because("wait_status", exit);
            return if failure.kind == FailureKind::OomHeap {
                failure
            } else {
                failure.or(FailureKind::OomHeap, 0.5)
            };
        }
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
    // As libc has it, whoever wrote the line; the last one, for a tool's may stand further up.
    let last = facts.stderr.last_line();
    if let Some(line) =
        last.filter(|line| contains_any(line, &["Cannot allocate memory", "ENOMEM"]))
    {
        return verdict(
            FailureKind::OomHeap,
            0.85,
            "The agent could not allocate memory.".to_owned(),
        )
        .because("stderr", clip(line))
        .because("wait_status", exit);
    }
    // Who ended as after a signal has that for a reason.
    if let Some(line) =
        last.filter(|line| signal_in(code).is_none() && contains_any(line, &DISK_FULL))
    {
        return verdict(
            FailureKind::CrashDiskFull,
            0.85,
            "The disk was full.".to_owned(),
        )
        .because("stderr", clip(line))
        .because("wait_status", exit);
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
    let said = last.map_or_else(String::new, |line| {
        format!(" Its last words: {}", sentence(line))
    });
    if let Some(signal) = signal_in(code) {
        let name = signal_name(signal);
        return as_after(
            signal,
            format!("The agent exited with code {code}, as after {name}.{said}"),
        )
        .because("wait_status", exit)
        .because_some("stderr", last, "last line");
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
        // Python's OSError, and any Error of a JavaScript runtime.
        _ if contains_any(text, &DISK_FULL) => {
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
            Some(code) => match signal_in(code) {
                Some(signal) => as_after(
                    signal,
                    format!(
                        "The Claude Code CLI exited with code {code}, as after {}.",
                        signal_name(signal)
                    ),
                ),
                None => verdict(
                    K::CrashExitCode,
                    0.8,
                    format!("The Claude Code CLI exited with code {code}."),
                ),
            },
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

/// A shell and the CLI itself report a signal n as exit code 128 + n.
fn signal_in(code: i32) -> Option<i32> {
    (129..=159).contains(&code).then(|| code - 128)
}

/// On somebody who exited as after a signal, which is also a code like any other.
fn as_after(signal: i32, message: String) -> Failure {
    let failure =
        verdict(FailureKind::CrashSignal, 0.6, message).or(FailureKind::CrashExitCode, 0.3);
    if signal == nix::libc::SIGTERM {
        failure.or(FailureKind::CancelledHost, 0.4)
    } else {
        failure
    }
}

/// The code in "Command failed with exit code N".
pub(super) fn process_error_code(text: &str) -> Option<i32> {
    let digits = text
        .split("exit code")
        .nth(1)?
        .trim_start_matches([':', ' ']);
    let end = digits
        .find(|c: char| !(c.is_ascii_digit() || c == '-'))
        .unwrap_or(digits.len());
    digits[..end].parse().ok()
}
