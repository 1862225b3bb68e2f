//! How a run ended, for whoever started it.

use super::loss::Loss;
use super::{Run, loss};
use crate::failure::Failure;
use crate::wire::{Cost, Exit, Outcome, RunFinished, Usage};

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

    /// If the agent's end was seen, the verdict stands, and only the last lines are lost.
    pub(super) fn of_lost(run: &Run, mut loss: Loss) -> Self {
        loss.complete(run);
        let (outcome, failure, exit) = match run.exited() {
            Some(exited) => (exited.outcome, exited.failure.clone(), exited.exit.clone()),
            None => (Outcome::Failure, Some(loss::failure(run, &loss)), None),
        };
        Self {
            outcome,
            failure,
            exit,
            duration_ms: None,
            usage: run.usage(),
            cost: run.cost(),
            finished: None,
            lost: Some(Box::new(loss)),
        }
    }

    /// Whether the agent did what it was asked.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.outcome == Outcome::Success
    }

    /// Whether the stream ended without the run's last line.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }
}
