//! How a run ended, for whoever started it.

use super::Run;
use crate::failure::{Failure, FailureKind};
use crate::wire::{Cost, Exit, Outcome, Resources, RunFinished, Usage};

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Conclusion {
    /// In one word.
    pub outcome: Outcome,
    /// Why, when it did not succeed.
    pub failure: Option<Failure>,
    /// The agent's wait status; `None` if it never ran, or nobody saw its end.
    pub exit: Option<Exit>,
    /// Milliseconds; `None` if nobody saw the end.
    pub duration_ms: Option<f64>,
    /// Tokens: of a lost run, as far as they are known.
    pub usage: Usage,
    /// Cost: of a lost run, as far as it is known.
    pub cost: Option<Cost>,
    /// The run's last line; `None` of a lost run.
    pub finished: Option<Box<RunFinished>>,
    /// What is known of a lost run; `None` of one that ended before our eyes.
    pub lost: Option<Box<Loss>>,
}

/// How a run was lost.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Loss {
    /// Why there will be nothing more.
    pub reason: LossReason,
    /// What the sandbox's provider says about it, for instance E2B's `kill_reason`.
    pub provider_says: Option<String>,
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

impl Loss {
    /// A loss of which no more than the reason is known.
    #[must_use]
    pub fn new(reason: LossReason) -> Self {
        Self {
            reason,
            provider_says: None,
            last_resources: None,
        }
    }
}

impl Conclusion {
    pub(super) fn of(finished: &RunFinished) -> Self {
        Self {
            outcome: finished.outcome,
            failure: finished.failure.clone(),
            exit: finished.exit.clone(),
            duration_ms: Some(finished.duration_ms),
            usage: finished.usage,
            cost: finished.cost.clone(),
            finished: Some(Box::new(finished.clone())),
            lost: None,
        }
    }

    pub(super) fn of_lost(run: &Run, mut loss: Loss) -> Self {
        let kind = match loss.reason {
            LossReason::SandboxGone | LossReason::Unreachable => FailureKind::LostSandbox,
            LossReason::SandboxTimeout => FailureKind::TimeoutSandboxEnd,
            LossReason::SupervisorGone { .. } => FailureKind::LostSupervisor,
        };
        loss.last_resources = run.resources().cloned();
        Self {
            outcome: Outcome::Failure,
            failure: Some(Failure {
                recoverable: kind.recoverable(),
                kind,
                message: "the stream ended without the run's last line".to_owned(),
                confidence: 0.9,
                evidence: Vec::new(),
                alternatives: Vec::new(),
            }),
            exit: None,
            duration_ms: None,
            usage: run.usage(),
            cost: run.cost().cloned(),
            finished: None,
            lost: Some(Box::new(loss)),
        }
    }

    /// Whether the agent did what it was asked.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.outcome == Outcome::Success
    }
}
