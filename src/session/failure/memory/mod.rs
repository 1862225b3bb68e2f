//! Verdicts that rest on what the kernel did for want of memory.
//!
//! A counter that moved proves that somebody was killed, not that it was the agent, and exit code 137 proves neither
//! (`reference/supervision.md` §3.2). So each verdict here asks first whom the kernel killed, and how sure that is.
//!
//! `words` says it: who it was, how much it held, and what shows it.

mod words;

use std::time::Duration;

use sandtrace_client::failure::{Failure, FailureKind as K};

pub(super) use self::words::history;
use self::words::{counted, evidence, named, why};
pub(in crate::session) use self::words::{of_tool, told};
use super::verdict::{Because, verdict};
use super::{Facts, ending_fact};
use crate::session::memory::{
    FRESH, Kill, Memory, Proof, Standing, TICK, UserspaceEnd, Whose, size,
};

/// Percent of the limit from which on nobody else can have held more.
const MOST: u64 = 75;

/// On an agent that KILL ended, which we did not send. `None` if the kernel's memory has nothing to do with it.
pub(super) fn by_kill(facts: &Facts<'_>) -> Option<Failure> {
    let memory = facts.memory;
    if let Some(kill) = memory.last_kill(|kill| kill.whose == Whose::Agent) {
        return Some(match kill.proof {
            Proof::KernelLog => of_agent(facts, Some(kill), 0.99),
            Proof::WaitStatus | Proof::Samples | Proof::Counter => guessed(facts, kill, 0.9),
        });
    }
    // Its pid and its end, under a name that it took after the last look.
    if let Some(kill) = memory.fresh_kill(TICK, |kill| memory.has_pid_of_agent(kill)) {
        return Some(of_agent(facts, Some(kill), 0.9));
    }
    // Somebody of ours was killed, and then somebody killed the agent: who knows why.
    if let Some(kill) = memory.fresh_kill(TICK, |kill| kill.is_ours() && kill.process.is_some()) {
        return Some(after_descendant(facts, kill));
    }
    if let Some(kill) = memory.fresh_kill(TICK, |kill| kill.proof == Proof::Counter) {
        return Some(match memory.agent_standing() {
            Standing::Largest => guessed(facts, kill, 0.9),
            Standing::Smaller(larger) => {
                let kill = Kill {
                    process: larger,
                    ..kill.clone()
                };
                after_descendant(facts, &kill)
            }
            Standing::SmallerThanOthers if memory.held_percent() < Some(MOST) => of_others(facts),
            Standing::LargestOfRun | Standing::Unknown if kill.whose == Whose::Descendant => {
                guessed(facts, kill, 0.7)
            }
            Standing::LargestOfRun | Standing::Unknown | Standing::SmallerThanOthers => {
                guessed(facts, kill, 0.5)
            }
        });
    }
    if let Some(end) = memory.userspace_kill() {
        return Some(of_userspace(facts, end));
    }
    // That the counters stand still says as much as that they moved.
    memory.is_counted().then(|| {
        let failure = killed_by_somebody(facts, 0.9).or(K::CancelledHost, 0.2);
        history(failure, memory)
    })
}

/// On a kill that nobody named. It is of the agent only if the run can have held what was too much.
fn guessed(facts: &Facts<'_>, kill: &Kill, confidence: f64) -> Failure {
    let confidence = match facts.memory.held_percent() {
        Some(..50) => return of_others(facts),
        Some(50..MOST) => 0.5,
        Some(_) => confidence.max(0.7),
        None => confidence,
    };
    let failure = of_agent(facts, Some(kill), confidence);
    if confidence > 0.5 {
        failure
    } else {
        failure.or(K::CrashSignal, 0.45)
    }
}

fn of_others(facts: &Facts<'_>) -> Failure {
    let failure = killed_by_somebody(facts, 0.6);
    counted(failure.or(K::OomAgent, 0.4), facts.memory)
}

/// On an agent that TERM ended, which we neither sent nor passed on: a killer in userspace asks before it kills.
pub(super) fn by_term(facts: &Facts<'_>) -> Option<Failure> {
    let end = facts.memory.userspace_aim()?;
    Some(of_userspace(facts, end))
}

fn of_userspace(facts: &Facts<'_>, end: UserspaceEnd) -> Failure {
    let confidence = if end.is_sure { 0.8 } else { 0.5 };
    let failure = verdict(
        K::OomUserspace,
        confidence,
        "A killer in userspace ended the agent to save memory.".to_owned(),
    )
    .because(end.source, end.fact)
    .because("wait_status", ending_fact(facts.ending));
    if end.is_sure {
        failure
    } else {
        failure.or(K::CrashSignal, rest(confidence))
    }
}

fn killed_by_somebody(facts: &Facts<'_>, confidence: f64) -> Failure {
    verdict(
        K::CrashSignal,
        confidence,
        "The agent was ended by SIGKILL, which neither the supervisor sent nor the kernel for want of memory."
            .to_owned(),
    )
    .because("wait_status", ending_fact(facts.ending))
}

fn of_agent(facts: &Facts<'_>, kill: Option<&Kill>, confidence: f64) -> Failure {
    let memory = facts.memory;
    // With its whole cgroup, it may have been killed for what another process held.
    let larger = kill.and_then(|kill| memory.larger_with(kill));
    let kill = larger.or(kill);
    let process = kill
        .and_then(|kill| kill.process.clone())
        .or_else(|| memory.agent_named());
    let held = process
        .filter(|process| process.resident_bytes > 0)
        .map(|process| {
            format!(
                "{} had {} resident",
                process.command,
                size(process.resident_bytes)
            )
        });
    let why = why(held, kill, memory);
    let tool = kill
        .and_then(|kill| kill.tool.as_ref())
        .map_or_else(String::new, |tool| format!(" while {tool} ran"));
    let failure = verdict(
        K::OomAgent,
        confidence,
        format!("The kernel killed the agent for memory{tool}{why}."),
    );
    evidence(failure, kill, memory).because("wait_status", ending_fact(facts.ending))
}

fn after_descendant(facts: &Facts<'_>, kill: &Kill) -> Failure {
    let who = named(kill, facts.memory);
    let failure = verdict(
        K::OomDescendantFatal,
        0.5,
        format!(
            "The kernel killed {who} for memory, and right after that something killed the agent."
        ),
    );
    evidence(failure, Some(kill), facts.memory)
        .because("wait_status", ending_fact(facts.ending))
        .or(K::CrashSignal, 0.4)
        .or(K::OomAgent, 0.3)
}

/// On an agent that exited after Claude Code's own process was killed; `said` is where the agent says so itself.
pub(super) fn by_cli(facts: &Facts<'_>, said: Option<(&'static str, String)>) -> Option<Failure> {
    let memory = facts.memory;
    // An agent that does not speak of it may have gone on with another.
    let within = if said.is_some() { Duration::MAX } else { FRESH };
    let named = memory.fresh_kill(within, |kill| kill.whose == Whose::Cli);
    let (kill, confidence) = match (named, &said) {
        (Some(kill), _) if kill.proof == Proof::KernelLog => (kill.clone(), 0.97),
        // The agent says that it is gone, and the kernel names one like it where nobody else was seen.
        (_, Some(_))
            if let Some(kill) = memory.fresh_kill(within, |kill| {
                matches!(kill.whose, Whose::Unseen | Whose::Probable) && kill.is_named_as_cli()
            }) =>
        {
            (kill.clone(), 0.97)
        }
        (Some(kill), Some(_)) => (kill.clone(), 0.9),
        (_, None) => return None,
        // The agent says that it is gone, and the kernel that it took a process whose name tells less.
        (None, Some(_))
            if let Some(kill) = memory.fresh_kill(TICK, |kill| {
                kill.proof != Proof::Counter && kill.may_be_cli()
            }) =>
        {
            (kill.clone(), 0.8)
        }
        (None, Some(_)) => {
            let kill = memory.fresh_kill(FRESH, |kill| kill.proof == Proof::Counter)?;
            let (process, confidence) = match memory.heaviest() {
                Some((Whose::Cli, cli)) => (Some(cli), 0.9),
                // Nobody looked; but nobody else is in the cgroup.
                _ if kill.whose == Whose::Descendant => (None, 0.7),
                _ if memory.held_percent() >= Some(MOST) => (None, 0.7),
                _ => (None, 0.5),
            };
            let kill = Kill {
                process,
                ..kill.clone()
            };
            (kill, confidence)
        }
    };
    let held = kill
        .process
        .as_ref()
        .filter(|process| process.resident_bytes > 0)
        .map(|process| format!("it had {} resident", size(process.resident_bytes)));
    let why = why(held, Some(&kill), memory);
    let failure = verdict(
        K::OomCli,
        confidence,
        format!("The kernel killed the Claude Code CLI for memory{why}."),
    );
    let mut failure = evidence(failure, Some(&kill), memory);
    if let Some((source, fact)) = said {
        failure = failure.because(source, fact);
    }
    let failure = failure.because("wait_status", ending_fact(facts.ending));
    Some(if confidence < 0.9 {
        failure.or(K::CrashSignal, rest(confidence))
    } else {
        failure
    })
}

/// What is left for the other explanation, in hundredths.
fn rest(confidence: f64) -> f64 {
    ((0.95 - confidence) * 100.0).round() / 100.0
}

/// On an agent that exited with a code after one of its processes was killed. `base` is the verdict without that.
pub(super) fn by_descendant(facts: &Facts<'_>, code: i32, words: bool, base: Failure) -> Failure {
    let memory = facts.memory;
    let shell_says_kill = code == 128 + nix::libc::SIGKILL;
    let fresh = |kill: &Kill| {
        matches!(
            kill.whose,
            Whose::Descendant | Whose::Cli | Whose::Probable | Whose::Unseen | Whose::Unclear
        )
    };
    let Some(kill) = memory.fresh_kill(FRESH, fresh) else {
        return if shell_says_kill && memory.is_counted() && base.kind == K::CrashSignal {
            // What the shell reports was killed by somebody, but not for memory.
            history(
                Failure {
                    confidence: 0.8,
                    ..base
                },
                memory,
            )
        } else {
            history(base, memory)
        };
    };
    let heaviest = memory
        .heaviest()
        // Where the log names the victim, the size of others says nothing.
        .filter(|(whose, _)| *whose != Whose::Agent && kill.process.is_none());
    let certain = match kill.whose {
        Whose::Probable => true,
        // Nobody else was there before or after, and the shell speaks of a kill.
        Whose::Unseen => shell_says_kill,
        _ if kill.proof == Proof::Counter => match memory.held_percent() {
            Some(held) if held < 50 => false,
            Some(MOST..) => true,
            _ => kill.is_ours() || heaviest.is_some(),
        },
        _ => kill.is_ours() || heaviest.is_some(),
    };
    let kill = &Kill {
        process: kill.process.clone().or(heaviest.map(|(_, named)| named)),
        ..kill.clone()
    };
    if kill.told && !shell_says_kill {
        // It was told of the tool's end and went on, so that its own reasons stand.
        let confidence = base.confidence.min(0.7);
        let failure = Failure { confidence, ..base };
        return evidence(failure, Some(kill), memory).or(K::OomDescendantFatal, 0.5);
    }
    if !certain && !shell_says_kill {
        let failure = Failure {
            confidence: base.confidence.min(0.6),
            ..base
        };
        return evidence(failure.or(K::OomDescendantFatal, 0.4), Some(kill), memory);
    }
    let confidence = match (certain, shell_says_kill || words) {
        (false, _) => 0.5,
        (true, true) => 0.8,
        (true, false) => 0.7,
    };
    let tool = kill
        .tool
        .as_ref()
        .map_or_else(String::new, |tool| format!(" while {tool} ran"));
    let failure = verdict(
        K::OomDescendantFatal,
        confidence,
        format!(
            "The kernel killed {} for memory{tool}, and the agent exited with code {code}.",
            named(kill, memory)
        ),
    );
    let mut failure = evidence(failure, Some(kill), memory);
    failure.evidence.extend(base.evidence);
    failure.or(base.kind, rest(confidence))
}

/// What a run that was stopped, or did not end, was in the middle of.
pub(super) fn add_livelock(failure: Failure, memory: &Memory) -> Failure {
    match memory.livelock() {
        Some(fact) => failure.because("cgroup", fact).or(K::OomLivelock, 0.8),
        None => failure,
    }
}

/// On an agent that does not end.
pub(super) fn by_livelock(memory: &Memory) -> Option<Failure> {
    let fact = memory.livelock()?;
    Some(
        verdict(
            K::OomLivelock,
            0.8,
            "Memory ran out again and again, and the kernel killed nobody: nothing could go on."
                .to_owned(),
        )
        .because("cgroup", fact),
    )
}

/// Long enough for a shell to tell of its child and for the agent to end on it.
const _: () = assert!(TICK.as_millis() < FRESH.as_millis());

/// The same for a signal by which a runtime gives up when it gets no memory.
pub(super) fn by_runtime(facts: &Facts<'_>, failure: Failure) -> Failure {
    let words = facts
        .stderr
        .find(&["out of memory", "Out of memory", "OutOfMemory"])
        .map(str::to_owned);
    let full = facts.memory.is_full();
    if words.is_none() && full.is_none() {
        return failure;
    }
    let confidence = failure.confidence.min(0.5);
    let failure = Failure {
        confidence,
        ..failure
    }
    .because_some("stderr", words.as_deref(), "last words");
    let failure = match full {
        Some((used, limit)) => failure.because(
            "cgroup",
            format!("{} of {} were in use at the end", size(used), size(limit)),
        ),
        None => failure,
    };
    failure.or(K::OomHeap, 0.5)
}

/// How long after a kill TERM still may have to do with it.
pub(super) fn long_before(memory: &Memory) -> Option<Duration> {
    let kill = memory.last_kill(|kill| kill.whose != Whose::Foreign)?;
    memory.age(kill).filter(|age| *age > FRESH)
}
