//! A run whose stream ended for good without its last line: the host's verdict, and what it rests on.

use super::Run;
use super::resources::Memory;
use super::state::Tool;
use crate::failure::{Alternative, Evidence, Failure, FailureKind};
use crate::time::micros;
use crate::wire::Resources;

/// From this share of its limit on, memory may well be why the supervisor or the sandbox is gone.
const FULL: f64 = 0.95;

/// A heartbeat comes each 20 s, so the last line is hardly older than that when the sandbox ends. Two clocks may differ.
const NEAR_END_MICROS: i64 = 45_000_000;

/// Tools that are told one by one.
const NAMED: usize = 8;

/// How a run was lost.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Loss {
    /// Why there will be nothing more.
    pub reason: LossReason,
    /// What the sandbox's provider says about it, for instance E2B's `kill_reason`.
    pub provider_says: Option<String>,
    /// What came last; `None` if nothing did.
    pub last_event: Option<LastEvent>,
    /// The tools that ran.
    pub open_tools: Vec<Tool>,
    /// The last sample of CPU and memory.
    pub last_resources: Option<Resources>,
}

/// Why a stream ended for good without the run's last line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossReason {
    /// The sandbox is gone.
    SandboxGone,
    /// The sandbox is gone because its time was over.
    SandboxTimeout,
    /// The sandbox is there, the supervisor is not.
    SupervisorGone {
        /// What the sandbox says of the process, for instance `signal: killed`.
        status: Option<String>,
    },
    /// Neither could be reached again within the time for it.
    Unreachable,
}

/// What came last of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastEvent {
    /// Its number.
    pub seq: u64,
    /// When the supervisor admitted it, RFC 3339.
    pub time: String,
    /// Its `type`.
    pub kind: String,
}

impl Loss {
    /// A loss of which no more than the reason is known. [`Run::lose`] adds what the run knows.
    #[must_use]
    pub fn new(reason: LossReason) -> Self {
        Self {
            reason,
            provider_says: None,
            last_event: None,
            open_tools: Vec::new(),
            last_resources: None,
        }
    }

    /// With what the sandbox's provider says about it.
    #[must_use]
    pub fn provider_says(mut self, words: impl Into<String>) -> Self {
        self.provider_says = Some(words.into());
        self
    }

    pub(super) fn complete(&mut self, run: &Run) {
        self.last_event = run.last_event().cloned();
        self.open_tools = run.open_tools().cloned().collect();
        self.open_tools
            .sort_by(|a, b| (&a.started, &a.tool_use_id).cmp(&(&b.started, &b.tool_use_id)));
        self.last_resources = run.resources().cloned();
    }
}

/// The verdict on a lost run of whose agent nobody saw the end.
pub(super) fn failure(run: &Run, loss: &Loss) -> Failure {
    let mut alternatives = Vec::new();
    let mut or = |kind, confidence| alternatives.push(Alternative { kind, confidence });
    let near_end = is_near_end(run);
    let (kind, confidence, what) = match &loss.reason {
        LossReason::SandboxTimeout => (
            FailureKind::TimeoutSandboxEnd,
            0.95,
            "the sandbox reached the end of its time",
        ),
        LossReason::SandboxGone if near_end => {
            or(FailureKind::LostSandbox, 0.3);
            (
                FailureKind::TimeoutSandboxEnd,
                0.7,
                "the sandbox is gone, and its time was over",
            )
        }
        LossReason::SandboxGone => (FailureKind::LostSandbox, 0.9, "the sandbox is gone"),
        LossReason::SupervisorGone { status } => (
            FailureKind::LostSupervisor,
            if status.is_some() { 0.9 } else { 0.8 },
            "the supervisor is gone, though the sandbox is there",
        ),
        LossReason::Unreachable => {
            if near_end {
                or(FailureKind::TimeoutSandboxEnd, 0.4);
            }
            or(FailureKind::LostSupervisor, 0.2);
            (
                FailureKind::LostSandbox,
                if near_end { 0.4 } else { 0.5 },
                "the sandbox could not be reached any more; the run may still go on there",
            )
        }
    };
    let memory = loss.last_resources.as_ref().and_then(Memory::of);
    let is_full = memory.is_some_and(|memory| memory.share() >= FULL);
    if is_full && !matches!(loss.reason, LossReason::SandboxTimeout) {
        or(FailureKind::OomAgent, 0.4);
    }
    Failure {
        recoverable: kind.recoverable(),
        kind,
        message: message(what, loss, memory.filter(|_| is_full)),
        confidence,
        evidence: evidence(run, loss, memory),
        alternatives,
    }
}

/// Whether the sandbox's end, as far as the supervisor was told, was near when the last line came.
fn is_near_end(run: &Run) -> bool {
    let end = run
        .started()
        .and_then(|started| started.limits.sandbox_ends_at.as_deref());
    match (end.and_then(micros), run.last_time().and_then(micros)) {
        (Some(end), Some(last)) => (last - end).abs() <= NEAR_END_MICROS,
        _ => false,
    }
}

fn message(what: &str, loss: &Loss, full: Option<Memory>) -> String {
    let mut message = what.to_owned();
    let mut add = |words: String| {
        message.push_str("; ");
        message.push_str(&words);
    };
    match &loss.last_event {
        Some(last) => add(format!(
            "the last line ({}, number {}) is of {}",
            last.kind, last.seq, last.time
        )),
        None => add("not a line of the run was seen".to_owned()),
    }
    if !loss.open_tools.is_empty() {
        add(format!("{} was running", names(&loss.open_tools)));
    }
    if let Some(memory) = full {
        add(format!("memory was {} full", percent(memory)));
    }
    message
}

fn evidence(run: &Run, loss: &Loss, memory: Option<Memory>) -> Vec<Evidence> {
    let mut evidence = Vec::new();
    let mut fact = |source: &str, fact: String| {
        let source = source.to_owned();
        evidence.push(Evidence { source, fact });
    };
    if let Some(words) = &loss.provider_says {
        fact("provider", words.clone());
    }
    if let LossReason::SupervisorGone {
        status: Some(status),
    } = &loss.reason
    {
        fact("process", format!("the supervisor ended: {status}"));
    }
    match &loss.last_event {
        Some(last) => fact(
            "events",
            format!(
                "the last was {}, number {}, at {}",
                last.kind, last.seq, last.time
            ),
        ),
        None => fact("events", "there was none".to_owned()),
    }
    let end = run
        .started()
        .and_then(|started| started.limits.sandbox_ends_at.as_deref());
    if let Some(end) = end {
        fact("clock", format!("the sandbox was to end at {end}"));
    }
    if !loss.open_tools.is_empty() {
        let calls: Vec<String> = loss
            .open_tools
            .iter()
            .take(NAMED)
            .map(|tool| {
                format!(
                    "{} ({}) since {}",
                    tool.name, tool.tool_use_id, tool.started
                )
            })
            .collect();
        fact("events", format!("tools that ran: {}", calls.join(", ")));
    }
    if let Some(memory) = memory {
        fact(
            "samples",
            format!(
                "{} memory was {} full at the last sample: {} of {} bytes",
                memory.of,
                percent(memory),
                memory.used_bytes,
                memory.limit_bytes
            ),
        );
    }
    evidence
}

/// The names of the tools, each once.
fn names(tools: &[Tool]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for tool in tools {
        if !names.contains(&tool.name.as_str()) {
            names.push(&tool.name);
        }
    }
    names.truncate(NAMED);
    names.join(", ")
}

fn percent(memory: Memory) -> String {
    format!("{:.0} %", memory.share() * 100.0)
}
