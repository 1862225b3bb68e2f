//! Speaking to a run.

use super::transport::{Channel, Signal};
use crate::input::Input;

/// Speaks to a run, from any task, for as long as the run goes on; the stream of its events need not be whole.
///
/// What is said by lines is understood by an agent that listens, as `template/agent.py --interactive` does. That a
/// method returns means that the line is in the agent's stdin; what came of it, the events say.
#[derive(Debug, Clone)]
pub struct Voice<C> {
    channel: C,
    by: Option<String>,
}

impl<C: Channel> Voice<C> {
    pub(super) fn new(channel: C) -> Self {
        Self { channel, by: None }
    }

    /// The same voice, of a person: approvals and denials carry the name into the trace.
    #[must_use]
    pub fn by(mut self, name: impl Into<String>) -> Self {
        self.by = Some(name.into());
        self
    }

    /// Says something as the user: a turn begins, or waits until the one that runs is over.
    ///
    /// # Errors
    ///
    /// When the run cannot be reached, or is over.
    pub async fn send_message(&self, text: impl Into<String> + Send) -> Result<(), C::Error> {
        let text = text.into();
        self.say(&Input::UserMessage { text }).await
    }

    /// Lets a tool run. `id` is that of a [`PendingApproval`](crate::run::PendingApproval).
    ///
    /// # Errors
    ///
    /// When the run cannot be reached, or is over.
    pub async fn approve(&self, id: impl Into<String> + Send) -> Result<(), C::Error> {
        let (id, by) = (id.into(), self.by.clone());
        self.say(&Input::Approve { id, by }).await
    }

    /// Lets a tool not run. The model reads the reason.
    ///
    /// # Errors
    ///
    /// When the run cannot be reached, or is over.
    pub async fn deny(
        &self,
        id: impl Into<String> + Send,
        reason: impl Into<String> + Send,
    ) -> Result<(), C::Error> {
        let (id, reason, by) = (id.into(), reason.into(), self.by.clone());
        self.say(&Input::Deny { id, reason, by }).await
    }

    /// Ends the turn that runs; the session stays.
    ///
    /// # Errors
    ///
    /// When the run cannot be reached, or is over.
    pub async fn interrupt(&self) -> Result<(), C::Error> {
        self.say(&Input::Interrupt).await
    }

    /// Ends the session after the turn that runs.
    ///
    /// # Errors
    ///
    /// When the run cannot be reached, or is over.
    pub async fn close(&self) -> Result<(), C::Error> {
        self.say(&Input::Close).await
    }

    /// Says a line.
    ///
    /// # Errors
    ///
    /// When the run cannot be reached, or is over.
    pub async fn say(&self, line: &Input) -> Result<(), C::Error> {
        self.channel.write(line.to_line()).await
    }

    /// Closes the agent's stdin: for agents that read it to its end before they begin.
    ///
    /// # Errors
    ///
    /// When the run cannot be reached, or is over.
    pub async fn end_input(&self) -> Result<(), C::Error> {
        self.channel.close().await
    }

    /// Stops the run: SIGTERM to the supervisor, which asks the agent to end, kills it and all that it started after
    /// `--grace` (10 s), and says how it ended, outcome `cancelled`. It keeps these bounds itself, so no SIGKILL follows
    /// from here: that would cost the verdict. Keep reading until the run has its conclusion.
    ///
    /// # Errors
    ///
    /// When the run cannot be reached, or is over.
    pub async fn cancel(&self) -> Result<(), C::Error> {
        self.channel.signal(Signal::Terminate).await
    }

    /// Kills the supervisor, and with it the agent. What it has not said by then it will not say any more: the run
    /// concludes as lost. For a run that [`cancel`](Self::cancel) did not end.
    ///
    /// # Errors
    ///
    /// When the run cannot be reached, or is over.
    pub async fn kill(&self) -> Result<(), C::Error> {
        self.channel.signal(Signal::Kill).await
    }
}
