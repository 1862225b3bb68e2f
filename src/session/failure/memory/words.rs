//! A kill in words: for the message of a verdict, for its evidence, for a warning and for a tool.

use sandtrace_client::failure::{Failure, FailureKind as K};

use crate::resources::Constraint;
use crate::session::failure::verdict::{Because, verdict};
use crate::session::memory::{Kill, Memory, Proof, Whose, size};

/// Kills that are no reason for the end are told all the same, so that nobody has to ask.
pub(in crate::session::failure) fn history(failure: Failure, memory: &Memory) -> Failure {
    if memory.total() == 0 {
        return failure;
    }
    let old = memory.last_kill(|kill| kill.whose != Whose::Foreign);
    let failure = match (old, memory.last_kill(|kill| kill.whose == Whose::Foreign)) {
        (Some(kill), _) => {
            let ago = memory.age(kill).map_or_else(String::new, |age| {
                format!(", {:.1} s before the end", age.as_secs_f64())
            });
            let failure = log_fact(failure, kill);
            let fact = format!("the last OOM kill was of {}{ago}", named(kill, memory));
            failure.because("samples", fact)
        }
        (None, Some(foreign)) => log_fact(failure, foreign),
        (None, None) => failure,
    };
    counted(failure, memory)
}

/// The end of a sentence about a kill: what the victim held, and whose memory was short.
pub(super) fn why(held: Option<String>, kill: Option<&Kill>, memory: &Memory) -> String {
    let facts: Vec<String> = [held, limit(kill, memory)].into_iter().flatten().collect();
    if facts.is_empty() {
        String::new()
    } else {
        format!(": {}", facts.join(", "))
    }
}

/// Whose memory was short, in words.
fn limit(kill: Option<&Kill>, memory: &Memory) -> Option<String> {
    if kill.and_then(|kill| kill.constraint.as_ref()) == Some(&Constraint::Sandbox) {
        return Some("the sandbox had no memory left".to_owned());
    }
    memory
        .limit()
        .map(|limit| format!("the limit is {}", size(limit)))
}

/// A process in the middle of a sentence.
pub(super) fn named(kill: &Kill, memory: &Memory) -> String {
    let Some(process) = &kill.process else {
        return match kill.whose {
            Whose::Unclear => "a process of the agent or of another command".to_owned(),
            _ => "a process of the agent".to_owned(),
        };
    };
    let limit = limit(Some(kill), memory).map_or_else(String::new, |limit| format!("; {limit}"));
    if process.resident_bytes == 0 {
        return format!("{} ({})", process.command, process.pid);
    }
    format!(
        "{} ({}: {} resident{limit})",
        process.command,
        process.pid,
        size(process.resident_bytes)
    )
}

pub(super) fn evidence(failure: Failure, kill: Option<&Kill>, memory: &Memory) -> Failure {
    let mut failure = failure;
    if let Some(kill) = kill {
        failure = log_fact(failure, kill);
        let process = kill.process.clone().or_else(|| memory.agent_named());
        let ago = memory.last_look().map_or_else(String::new, |ago| {
            format!(", {:.1} s before", ago.as_secs_f64())
        });
        if let (Some(process), Proof::Samples | Proof::Counter) = (&process, kill.proof)
            && process.resident_bytes > 0
        {
            let of = memory
                .limit()
                .map_or_else(String::new, |limit| format!(" of {}", size(limit)));
            let fact = format!(
                "{} ({}) was the largest process of the run, {}{of}{ago}",
                process.command,
                process.pid,
                size(process.resident_bytes)
            );
            failure = failure.because("samples", fact);
        }
        if kill.proof == Proof::WaitStatus {
            let fact = format!(
                "an orphan of the run, {}, ended by SIGKILL, which the supervisor did not send",
                named(kill, memory)
            );
            failure = failure.because("wait_status", fact);
        }
    }
    counted(failure, memory)
}

/// The kernel's own words, if it named somebody.
fn log_fact(failure: Failure, kill: &Kill) -> Failure {
    let (Proof::KernelLog, Some(process)) = (kill.proof, &kill.process) else {
        return failure;
    };
    let place = match &kill.constraint {
        Some(Constraint::Cgroup(Some(path))) => format!(", limit of memory cgroup {path}"),
        Some(Constraint::Cgroup(None)) => ", limit of a memory cgroup".to_owned(),
        Some(Constraint::Sandbox) => ", the sandbox had no memory left".to_owned(),
        None => String::new(),
    };
    let whose = match kill.whose {
        Whose::Foreign => ", which is not of this run",
        Whose::Unclear => ", which may be of another command",
        Whose::Unseen => ", which nobody saw, in a cgroup where nobody else was seen",
        Whose::Probable => ", which fits a process of this run",
        Whose::Agent | Whose::Cli | Whose::Descendant => "",
    };
    failure.because(
        "kernel_log",
        format!(
            "killed process {} ({}), {} resident{place}{whose}",
            process.pid,
            process.command,
            size(process.resident_bytes)
        ),
    )
}

pub(super) fn counted(failure: Failure, memory: &Memory) -> Failure {
    memory
        .counted()
        .into_iter()
        .fold(failure, |failure, (source, fact)| {
            failure.because(source, fact)
        })
}

/// A kill as a warning says it, at the moment it is seen.
pub(in crate::session) fn told(kill: &Kill, memory: &Memory) -> String {
    let tool = kill
        .tool
        .as_ref()
        .map_or_else(String::new, |tool| format!(" while {tool} ran"));
    let who = match kill.whose {
        Whose::Agent => format!("the agent, {}", named(kill, memory)),
        Whose::Cli => format!("the Claude Code CLI, {}", named(kill, memory)),
        Whose::Descendant | Whose::Probable | Whose::Unseen | Whose::Unclear | Whose::Foreign => {
            named(kill, memory)
        }
    };
    format!("the kernel killed {who} for memory{tool}")
}

/// What a tool's span is told of the kill that ended it.
pub(in crate::session) fn of_tool(kill: &Kill, memory: &Memory) -> (String, Vec<String>) {
    let failure = verdict(K::OomDescendantFatal, 0.0, String::new());
    let facts = evidence(failure, Some(kill), memory).evidence;
    (
        format!("the kernel killed {} for memory", named(kill, memory)),
        facts
            .into_iter()
            .map(|item| format!("{}: {}", item.source, item.fact))
            .collect(),
    )
}
