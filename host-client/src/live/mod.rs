//! A run that goes on: its events as they come, and the ways to speak to it.
//!
//! ```no_run
//! # #[cfg(feature = "local")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # /*
//! let mut live = sandtrace_client::local::start(&launch).await?;
//! while let Some(event) = live.next().await? {
//!     for approval in live.run().pending_approvals() {
//!         live.voice().approve(&approval.id).await?;
//!     }
//! }
//! println!("{:?}", live.run().conclusion());
//! # */
//! # Ok(())
//! # }
//! ```

use std::error::Error;
use std::future::Future;

use bytes::Bytes;

use crate::run::LossReason;

/// A way to a run: its output, its input, and how to find it again.
///
/// The crate has two, a child process (feature `local`) and E2B (feature `e2b`). Implement it for any other runner.
pub trait Transport: Send {
    /// Why it could not do what it was asked.
    type Error: Error + Send + Sync + 'static;
    /// The run's ears.
    type Voice: Voice<Error = Self::Error>;

    /// The next piece of the run's output. Cancel safe: dropping the future loses nothing.
    fn read(&mut self) -> impl Future<Output = Result<Piece, Self::Error>> + Send;

    /// After [`Piece::Broken`]: makes a new stream that has at least every line after `seq`.
    fn resume(
        &mut self,
        run_id: &str,
        seq: u64,
    ) -> impl Future<Output = Result<Resumed, Self::Error>> + Send;

    /// How to speak to the run.
    fn voice(&self) -> Self::Voice;
}

/// Speaks to a run.
pub trait Voice: Clone + Send + Sync {
    /// Why it could not.
    type Error: Error + Send + Sync + 'static;

    /// Writes to the agent's stdin.
    fn write(&self, bytes: &[u8]) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Asks the supervisor to stop the run, as SIGTERM does.
    fn terminate(&self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Piece {
    /// Bytes of stdout: the events.
    Stdout(Bytes),
    /// Bytes of stderr: the agent's.
    Stderr(Bytes),
    /// The stream broke; the run may go on.
    Broken {
        /// What happened to it, in words.
        why: String,
    },
    /// The process is gone and all its output was read.
    Ended {
        /// For instance `exit status 0` or `signal: killed`.
        status: String,
    },
}

/// What came of the try to find a run again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resumed {
    /// There is a stream again.
    Stream,
    /// There is nothing to be found any more.
    Lost(LossReason),
}
