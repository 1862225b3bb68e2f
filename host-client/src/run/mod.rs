//! A run as it stands: its events, folded.
//!
//! [`Run::apply`] takes every event in order; what it knows is there to be asked at any moment: the turns, the tools that
//! run, the questions that wait for a person, tokens and cost so far, the last sample, and in the end the
//! [`Conclusion`]. When the stream is over without the run's last line, [`Run::lose`] concludes what can be concluded.

mod conclusion;
mod state;

pub use conclusion::{Conclusion, Loss, LossReason};
pub use state::{OpenSpan, PendingApproval, State, Tool, Turn};

use std::collections::BTreeMap;

use crate::event::{Content, Event};
use crate::sequence::{Admission, Sequence};
use crate::wire::{Body, Cost, Resources, RunStarted, Usage, Warning};

/// A run as it stands.
#[derive(Debug, Clone, Default)]
pub struct Run {
    sequence: Sequence,
    missing: u64,
    last_time: Option<String>,
    started: Option<RunStarted>,
    turns: Vec<Turn>,
    tools: BTreeMap<String, Tool>,
    approvals: Vec<PendingApproval>,
    open_spans: Vec<OpenSpan>,
    usage: Usage,
    cost: Option<Cost>,
    resources: Option<Resources>,
    warnings: Vec<Warning>,
    conclusion: Option<Conclusion>,
}

impl Run {
    /// A run of which nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next event. One that was taken already changes nothing.
    pub fn apply(&mut self, event: &Event) -> Admission {
        let admission = self.sequence.admit(event.seq());
        match admission {
            Admission::Repeated => return admission,
            Admission::After { missing } => self.missing += missing,
            Admission::Next => {}
        }
        self.last_time = Some(event.stamp().time.clone());
        if let Content::Supervisor(body) = event.content() {
            self.on_supervisor(body);
        }
        admission
    }

    fn on_supervisor(&mut self, body: &Body) {
        match body {
            Body::RunStarted(started) => self.started = Some(started.as_ref().clone()),
            Body::Resources(resources) => self.resources = Some(resources.as_ref().clone()),
            Body::Warning(warning) => self.warnings.push(warning.clone()),
            Body::RunFinished(finished) => {
                self.usage = finished.usage;
                self.cost.clone_from(&finished.cost);
                self.conclusion = Some(Conclusion::of(finished));
            }
            _ => {}
        }
    }

    /// The number of the last event, 0 before the first.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.sequence.last()
    }

    /// Events that never came.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// When the last event was admitted by the supervisor, RFC 3339.
    #[must_use]
    pub fn last_time(&self) -> Option<&str> {
        self.last_time.as_deref()
    }

    /// The run's first line.
    #[must_use]
    pub fn started(&self) -> Option<&RunStarted> {
        self.started.as_ref()
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> State {
        match (&self.conclusion, &self.started) {
            (Some(_), _) => State::Finished,
            (None, None) => State::Starting,
            (None, Some(_)) => State::WaitingForModel,
        }
    }

    /// Its user turns so far, the last one perhaps still going on.
    #[must_use]
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// The tools that run, by their `tool_use_id`.
    #[must_use]
    pub fn open_tools(&self) -> impl Iterator<Item = &Tool> {
        self.tools.values()
    }

    /// The questions that wait for a person, the oldest first.
    #[must_use]
    pub fn pending_approvals(&self) -> &[PendingApproval] {
        &self.approvals
    }

    /// The spans that have begun and not ended, the oldest first.
    #[must_use]
    pub fn open_spans(&self) -> &[OpenSpan] {
        &self.open_spans
    }

    /// Tokens so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Cost so far; `None` while nobody knows.
    #[must_use]
    pub fn cost(&self) -> Option<&Cost> {
        self.cost.as_ref()
    }

    /// The last sample of CPU and memory.
    #[must_use]
    pub fn resources(&self) -> Option<&Resources> {
        self.resources.as_ref()
    }

    /// What was dropped, paused or degraded.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// How it ended; `None` while it goes on.
    #[must_use]
    pub fn conclusion(&self) -> Option<&Conclusion> {
        self.conclusion.as_ref()
    }

    /// The stream is over and will not come back: concludes what can be concluded. A run that has its conclusion keeps it.
    pub fn lose(&mut self, loss: Loss) -> &Conclusion {
        let lost = Conclusion::of_lost(self, loss);
        self.conclusion.get_or_insert(lost)
    }
}
