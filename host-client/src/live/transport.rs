//! What a [`Live`](super::Live) run is followed over.

use std::error::Error;
use std::future::Future;

use bytes::Bytes;

use crate::event::Event;
use crate::run::{Loss, Run};

/// A way to a run: its output, its input, and how to find it again.
///
/// The crate has two, a child process (feature `local`) and E2B (feature `e2b`). Implement it for any other runner.
pub trait Transport: Send {
    /// Why it could not do what it was asked. [`Live::next`](super::Live::next) hands it on, and may be called again.
    type Error: Error + Send + Sync + 'static;
    /// The way to the run's ears.
    type Channel: Channel<Error = Self::Error>;

    /// The next piece of the run's output. Cancel safe: dropping the future loses nothing.
    fn read(&mut self) -> impl Future<Output = Result<Piece, Self::Error>> + Send;

    /// After [`Piece::Broken`], or a [`Piece::Ended`] that came before the run's last line: makes a new stream that has at
    /// least every line after [`Run::last_seq`]. How often it tries, and for how long, is the transport's affair; that it
    /// comes to an end is its duty. Dropping the future and calling again must do no harm.
    fn resume(&mut self, run: &Run) -> impl Future<Output = Result<Resumed, Self::Error>> + Send;

    /// An event is handed to the application: for whoever counts them.
    fn given(&self, event: &Event) {
        _ = event;
    }

    /// How to speak to the run. It stays good when the stream is broken and made anew.
    fn channel(&self) -> Self::Channel;
}

/// The way to a run's ears: its stdin, and signals.
pub trait Channel: Clone + Send + Sync {
    /// Why it could not.
    type Error: Error + Send + Sync + 'static;

    /// Writes to the agent's stdin: all of the bytes or none, also when the future is dropped.
    fn write(&self, bytes: Vec<u8>) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Closes the agent's stdin.
    fn close(&self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Sends a signal to the supervisor.
    fn signal(&self, signal: Signal) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// What can be sent to a supervisor: E2B knows no other signals (`reference/e2b.md` §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// SIGTERM: stop the run, and say how it ended.
    Terminate,
    /// SIGKILL: the supervisor is gone at once and says nothing any more.
    Kill,
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
    /// The process is gone and all that there was of its output was read.
    Ended {
        /// For instance `exit status 0` or `signal: killed`.
        status: String,
    },
}

/// What came of the try to find a run again.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Resumed {
    /// There is a stream again, and nothing is missing.
    Replayed,
    /// There is a stream again, and it begins now: what the run said since the break cannot be had.
    Unreplayed {
        /// Why not.
        why: String,
    },
    /// There is nothing to be found any more.
    Lost(Box<Loss>),
}
