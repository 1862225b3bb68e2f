//! A run as it stands: its events, folded.
//!
//! [`Run::apply`] takes every event in order; what it knows is there to be asked at any moment: the turns, the tools that
//! run, the questions that wait for a person, tokens and cost so far, the last sample, and in the end the
//! [`Conclusion`]. When the stream is over without the run's last line, [`Run::lose`] concludes what can be concluded.
//!
//! Everything in it is bounded, however long the run: of what grows, the newest is kept and the rest is counted.
//!
//! ```
//! use sandtrace_client::run::{Loss, LossReason, State};
//! use sandtrace_client::{Decoded, Decoder, Run};
//!
//! let stream = concat!(
//!     r#"{"type":"sandtrace.span.started","data":{"span_id":"00f067aa0ba902b7","parent_span_id":null,"#,
//!     r#""name":"invoke_agent claude","kind":"internal","start_time":"2026-01-31T12:00:00Z","#,
//!     r#""attributes":{"sandtrace.turn":1}},"sandtrace":{"seq":1,"time":"2026-01-31T12:00:00.000000Z","#,
//!     r#""trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7"}}"#, "\n",
//! );
//! let mut run = Run::new();
//! for decoded in Decoder::new().feed(stream.as_bytes()) {
//!     if let Decoded::Event(event) = decoded {
//!         run.apply(&event);
//!     }
//! }
//! assert_eq!(run.state(), State::WaitingForModel);
//! assert_eq!(run.turns().len(), 1);
//!
//! // The connection is gone for good, and the sandbox with it.
//! let conclusion = run.lose(Loss::new(LossReason::SandboxGone));
//! assert_eq!(conclusion.failure.as_ref().unwrap().kind.to_string(), "lost.sandbox");
//! ```

mod answer;
mod approvals;
mod conclusion;
mod fold;
mod loss;
mod resources;
mod spending;
mod state;

pub use conclusion::Conclusion;
pub use loss::{LastEvent, Loss, LossReason};
pub use state::{ApprovalSource, OpenSpan, PendingApproval, State, Tool, Turn};

use std::collections::BTreeMap;

use crate::event::Event;
use crate::sequence::{Admission, Sequence};
use crate::wire::{
    AgentExited, Cost, ForkedFrom, Heartbeat, ResourcePeaks, Resources, RunStarted, Usage,
    WIRE_VERSION, Warning,
};

use answer::Answer;
use approvals::Approvals;
use spending::Spending;

/// A run as it stands.
#[derive(Debug, Clone, Default)]
pub struct Run {
    sequence: Sequence,
    missing: u64,
    unknown: u64,
    last_event: Option<LastEvent>,
    last_activity: Option<String>,
    heartbeat: Option<Heartbeat>,
    /// What the last heartbeat said that it does, until something else is heard.
    told: Option<State>,
    started: Option<RunStarted>,
    turns: Vec<Turn>,
    turn_count: u64,
    /// By span.
    tools: BTreeMap<String, Tool>,
    /// The tool's span whose result the last line brought. If the tool is over, its end follows; else its work goes on.
    returned: Option<String>,
    approvals: Approvals,
    answer: Answer,
    open_spans: Vec<OpenSpan>,
    untracked_spans: u64,
    spending: Spending,
    resources: Option<Resources>,
    peaks: Option<ResourcePeaks>,
    warnings: Vec<Warning>,
    warning_count: u64,
    exited: Option<Box<AgentExited>>,
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
            Admission::After { missing } => self.missing = self.missing.saturating_add(missing),
            Admission::Next => {}
        }
        self.fold(event);
        admission
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

    /// Lines of the supervisor's that this version of the crate could not read: it is newer.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Whether the supervisor speaks a later version of the wire than this crate knows. What is known still holds, for
    /// the wire only grows.
    #[must_use]
    pub fn is_newer_wire(&self) -> bool {
        self.started
            .as_ref()
            .is_some_and(|started| started.wire > WIRE_VERSION)
    }

    /// The last event.
    #[must_use]
    pub fn last_event(&self) -> Option<&LastEvent> {
        self.last_event.as_ref()
    }

    /// When the last event was admitted by the supervisor, RFC 3339.
    #[must_use]
    pub fn last_time(&self) -> Option<&str> {
        self.last_event.as_ref().map(|event| event.time.as_str())
    }

    /// When the agent last did anything, RFC 3339: heartbeats and samples apart.
    #[must_use]
    pub fn last_activity(&self) -> Option<&str> {
        self.last_activity.as_deref()
    }

    /// The last heartbeat: it comes when there was no other line for 20 seconds.
    #[must_use]
    pub fn heartbeat(&self) -> Option<&Heartbeat> {
        self.heartbeat.as_ref()
    }

    /// The run's first line; the second one's, if its sandbox was forked.
    #[must_use]
    pub fn started(&self) -> Option<&RunStarted> {
        self.started.as_ref()
    }

    /// The run's id.
    #[must_use]
    pub fn run_id(&self) -> Option<&str> {
        self.started.as_ref().map(|started| started.run_id.as_str())
    }

    /// The run's trace, 32 hex digits.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        self.started
            .as_ref()
            .map(|started| started.trace_id.as_str())
    }

    /// The run that this one was copied from in flight, with its sandbox.
    #[must_use]
    pub fn forked_from(&self) -> Option<&ForkedFrom> {
        self.started.as_ref()?.forked_from.as_ref()
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> State {
        if self.conclusion.is_some() {
            State::Finished
        } else if self.exited.is_some() {
            State::Stopping
        } else if let Some(told) = self.told {
            told
        } else if self.approvals.waiting() {
            State::WaitingForApproval
        } else if self.tools.values().any(|tool| !tool.in_background) {
            State::InTool
        } else if self.turns.iter().any(|turn| turn.duration_ms.is_none()) {
            State::WaitingForModel
        } else if self.turn_count == 0 {
            State::Starting
        } else {
            State::BetweenTurns
        }
    }

    /// Its user turns so far, the last one perhaps still going on; of more than 1,000 the newest.
    #[must_use]
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// How many turns there have been.
    #[must_use]
    pub fn turn_count(&self) -> u64 {
        self.turn_count
    }

    /// The tools that run, in no order that means anything.
    pub fn open_tools(&self) -> impl Iterator<Item = &Tool> {
        self.tools.values()
    }

    /// The questions that wait for a person, the oldest first.
    #[must_use]
    pub fn pending_approvals(&self) -> &[PendingApproval] {
        self.approvals.pending()
    }

    /// What the model has written in the turn that goes on, or, between two turns, in the last: its blocks of text with
    /// an empty line between them, without what subagents wrote. Of an agent that streams, it grows piece by piece. Of
    /// more than 64 KiB the end.
    #[must_use]
    pub fn answer(&self) -> &str {
        self.answer.text()
    }

    /// The spans that have begun and not ended, the oldest first; no more than 4,096.
    #[must_use]
    pub fn open_spans(&self) -> &[OpenSpan] {
        &self.open_spans
    }

    /// Spans that have begun while 4,096 were open, and are not among [`open_spans`](Self::open_spans).
    #[must_use]
    pub fn untracked_spans(&self) -> u64 {
        self.untracked_spans
    }

    /// Tokens so far: of the model calls that are over. Exact from the run's last line.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.spending.usage()
    }

    /// Cost so far; `None` while nobody knows. Exact from the run's last line.
    #[must_use]
    pub fn cost(&self) -> Option<Cost> {
        self.spending.cost()
    }

    /// The last sample of CPU and memory.
    #[must_use]
    pub fn resources(&self) -> Option<&Resources> {
        self.resources.as_ref()
    }

    /// Peaks of the samples that were printed; of all that were taken, from the run's last line.
    #[must_use]
    pub fn peaks(&self) -> Option<&ResourcePeaks> {
        self.peaks.as_ref()
    }

    /// What was dropped, paused or degraded, the oldest first; of more than 256 the newest.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// How many warnings there have been.
    #[must_use]
    pub fn warning_count(&self) -> u64 {
        self.warning_count
    }

    /// The verdict on the agent, which comes before the last export: the run's last line follows.
    #[must_use]
    pub fn exited(&self) -> Option<&AgentExited> {
        self.exited.as_deref()
    }

    /// How it ended; `None` while it goes on.
    #[must_use]
    pub fn conclusion(&self) -> Option<&Conclusion> {
        self.conclusion.as_ref()
    }

    /// The stream is over and will not come back: concludes what can be concluded. A run that has its conclusion keeps it.
    pub fn lose(&mut self, loss: Loss) -> &Conclusion {
        let lost = match self.conclusion.take() {
            Some(conclusion) => conclusion,
            None => Conclusion::of_lost(self, loss),
        };
        self.conclusion.insert(lost)
    }
}
