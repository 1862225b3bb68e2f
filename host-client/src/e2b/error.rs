//! Why E2B did not do what it was asked.

use std::error::Error as StdError;
use std::time::Duration;

use thiserror::Error;

use super::refusal::Refusal;
use crate::launch::LaunchError;
use crate::live::Unfollowable;

/// Why E2B did not do what it was asked.
///
/// A run that fails, or whose sandbox disappears under it, is no error: it has a
/// [`Conclusion`](crate::run::Conclusion).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Something is missing that E2B cannot be asked without.
    #[error("{0}")]
    Config(String),
    /// The launch is not one that could start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The launch asks for something that leaves nothing to follow.
    #[error(transparent)]
    Unfollowable(#[from] Unfollowable),
    /// The run may take longer than the sandbox lives, which ends without a warning and takes the verdict with it.
    #[error(
        "the run's deadline is {} s and the sandbox has {} s left; it needs at least {} s: give it a longer timeout or the run a shorter deadline",
        deadline.as_secs(), left.as_secs(), needed.as_secs()
    )]
    SandboxTooShort {
        /// What the launch asks for.
        deadline: Duration,
        /// How long the sandbox lives from now.
        left: Duration,
        /// The deadline and the time to say goodbye.
        needed: Duration,
    },
    /// The sandbox is gone.
    #[error("sandbox {sandbox} is gone{}", reason.as_ref().map(|reason| format!(": E2B says {reason:?}")).unwrap_or_default())]
    SandboxGone {
        /// Its id.
        sandbox: String,
        /// E2B's `kill_reason`, when it could be had: `request`, `timeout`, `admin`, …
        reason: Option<String>,
    },
    /// The sandbox is paused, and everything in it stands still. [`Sandbox::resume`](super::Sandbox::resume) wakes it;
    /// then a live run can be followed on.
    #[error("sandbox {sandbox} is paused; resume it to go on")]
    SandboxPaused {
        /// Its id.
        sandbox: String,
    },
    /// There is no such template, or sandbox, or the key has no access to it.
    #[error("{what} was not found: {refusal}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// What was answered.
        refusal: Refusal,
    },
    /// The API key, or the sandbox's token, is not accepted.
    #[error("{what} is not allowed: {refusal}; check the API key")]
    Unauthorised {
        /// What was asked for.
        what: String,
        /// What was answered.
        refusal: Refusal,
    },
    /// Too many requests, or too many sandboxes at once.
    #[error("E2B's rate limit is reached: {refusal}{}", retry_after.map(|after| format!("; try again in {} s", after.as_secs())).unwrap_or_default())]
    RateLimited {
        /// When to try again, if E2B said so.
        retry_after: Option<Duration>,
        /// What was answered.
        refusal: Refusal,
    },
    /// There was no answer in time. What was asked for may have been done.
    #[error("no answer for {} s to: {what}", after.as_secs())]
    Timeout {
        /// What was asked for.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// There was no connection, so nothing was done.
    #[error("cannot reach {url}: {}", chain(source.as_ref()))]
    Unreachable {
        /// Who was to be reached.
        url: String,
        /// Why that failed.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The connection broke before the answer. What was asked for may have been done.
    #[error("the connection to {url} broke before the answer: {}", chain(source.as_ref()))]
    AnswerLost {
        /// Who was asked.
        url: String,
        /// What happened.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// It was refused.
    #[error("{what} was refused: {refusal}")]
    Refused {
        /// What was asked for.
        what: String,
        /// What was answered.
        refusal: Refusal,
    },
    /// The answer is none that E2B gives.
    #[error("{what} was answered in a way that is not understood: {why}")]
    Protocol {
        /// What was asked for.
        what: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// The run is over, or its stdin is closed.
    #[error("run {run_id} no longer listens")]
    RunOver {
        /// Its id.
        run_id: String,
    },
    /// The answer to the start was lost, and there is no trace of the run in the sandbox. It is not started again, for
    /// nobody could promise that it then ran once.
    #[error(
        "the answer to the start of run {run_id} was lost ({why}), and neither a process nor a journal of it is in the sandbox: it never started, or ended without leaving a trace"
    )]
    NeverStarted {
        /// Its id.
        run_id: String,
        /// What became of the answer.
        why: String,
    },
}

/// An error with everything that it was caused by.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
