//! A run that goes on: its events as they come, and the ways to speak to it.
//!
//! ```no_run
//! # #[cfg(all(feature = "local", unix))]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sandtrace_client::agent::Said;
//! use sandtrace_client::{Content, Launch, local};
//!
//! let agent = ["python3", "template/agent.py", "--interactive", "--approve", "Bash", "Tidy up"];
//! let mut live = local::start(&Launch::new(agent)).await?;
//! let voice = live.voice().by("alice");
//! while let Some(event) = live.next().await? {
//!     let Content::Agent(line) = event.content() else { continue };
//!     for said in line.said() {
//!         match said {
//!             Said::Text(text) => println!("{text}"),
//!             Said::ApprovalRequest(asked) => voice.approve(asked.id).await?,
//!             Said::Result(_) => voice.close().await?,
//!             _ => {}
//!         }
//!     }
//! }
//! println!("{:?}", live.run().conclusion());
//! # Ok(())
//! # }
//! ```
//!
//! [`Live::next`] gives every event once and in order, whatever becomes of the connection: when a stream breaks, the
//! transport makes another, which begins where the last event was, and what comes twice is passed over. Each event is
//! folded into the [`Run`] before it is given, so [`Live::run`] is always as far as the reader. Whoever reads slowly
//! holds nobody up: the run's journal keeps what its reader has not taken yet, and the agent never waits for it.
//!
//! A `Live` that goes out of scope ends nothing, the run goes on. To end it, there is [`Voice::cancel`].
//!
//! | it happens | what `next` does |
//! |---|---|
//! | the connection breaks | connects again; nothing to see but the time it takes |
//! | it breaks, and the run keeps no journal | [`LiveError::Unreplayed`] once, then what is still to come |
//! | the sandbox is gone, or the supervisor is | `None`; the [`Conclusion`] says so, of class `lost` or `timeout` |
//! | the supervisor never said a word | [`LiveError::NeverStarted`], with what was printed in its stead |
//! | the transport cannot go on for now | [`LiveError::Transport`]; call it again when the cause is gone |

mod asked;
mod tail;
mod transport;
mod voice;

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;

use thiserror::Error;

pub(crate) use self::asked::Asked;
pub use self::asked::Unfollowable;
use self::tail::Tail;
pub use self::transport::{Channel, Piece, Resumed, Signal, Transport};
pub use self::voice::Voice;
use crate::decode::{Decoded, Decoder};
use crate::event::Event;
use crate::run::{Conclusion, Loss, LossReason, Run};
use crate::sequence::Admission;

/// How much is kept of stderr and of lines that are no events, bytes each: for diagnosis, as the agent's stderr is among
/// the events.
const TAIL_BYTES: usize = 16 << 10;

/// A run that goes on. See the [module](self).
pub struct Live<T: Transport> {
    transport: T,
    decoder: Decoder,
    run: Run,
    /// Events that arrived in one piece and are still to be given. Bounded by what fits into a piece.
    ready: VecDeque<Event>,
    stream: Stream,
    stderr: Tail,
    noise: Tail,
    breaks: u64,
}

/// Where the events come from at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Flowing,
    /// There is none, and the run's last line has not come.
    Broken,
    Over,
}

/// Why there is no next event for now.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LiveError<E: Error + 'static> {
    /// The transport could not do what it was asked. [`Live::next`] may be called again.
    #[error(transparent)]
    Transport(E),
    /// The stream broke, and what the run said until there was another is lost. Call [`Live::next`] again to follow what
    /// is still to come; [`Run::missing`] counts the events.
    #[error(
        "the connection broke after event {after}, and what came before the next one is lost: {why}"
    )]
    Unreplayed {
        /// The last event before the break; 0 if there was none.
        after: u64,
        /// Why it cannot be replayed.
        why: String,
    },
    /// There was a process, and no event of a run ever came of it: the supervisor is not installed, refused its options,
    /// or something else stands in its place.
    #[error(
        "the supervisor never started its run{}{}",
        framed(" (", status.as_deref(), ")"),
        framed("; what was printed instead: ", Some(said.trim()).filter(|said| !said.is_empty()), "")
    )]
    NeverStarted {
        /// How the process ended, for instance `exit status 127`.
        status: Option<String>,
        /// The end of what it printed instead.
        said: String,
    },
}

fn framed(before: &str, text: Option<&str>, after: &str) -> String {
    text.map_or_else(String::new, |text| format!("{before}{text}{after}"))
}

impl<T: Transport> Live<T> {
    /// Follows a run whose stream has just begun.
    #[must_use]
    pub fn new(transport: T) -> Self {
        Self {
            transport,
            decoder: Decoder::new(),
            run: Run::new(),
            ready: VecDeque::new(),
            stream: Stream::Flowing,
            stderr: Tail::new(TAIL_BYTES),
            noise: Tail::new(TAIL_BYTES),
            breaks: 0,
        }
    }

    /// Follows a run to which there is no stream yet: [`next`](Self::next) resumes it first.
    #[must_use]
    pub fn resuming(transport: T) -> Self {
        Self {
            stream: Stream::Broken,
            ..Self::new(transport)
        }
    }

    /// The next event: each once, in order. `None` when the run has its [conclusion](Run::conclusion), which is when its
    /// last line was given, or when it is known that there will be none.
    ///
    /// Cancel safe: dropping the future loses nothing, so it may stand in a `select!`.
    ///
    /// # Errors
    ///
    /// [`LiveError`] says what each means. After any of them the method may be called again.
    pub async fn next(&mut self) -> Result<Option<Event>, LiveError<T::Error>> {
        loop {
            while let Some(event) = self.ready.pop_front() {
                if self.run.apply(&event) != Admission::Repeated {
                    self.transport.given(&event);
                    return Ok(Some(event));
                }
            }
            if self.run.conclusion().is_some() {
                self.stream = Stream::Over;
            }
            match self.stream {
                Stream::Over => return Ok(None),
                Stream::Flowing => {
                    let piece = self.transport.read().await;
                    self.take(piece.map_err(LiveError::Transport)?);
                }
                Stream::Broken => {
                    let resumed = self.transport.resume(&self.run).await;
                    self.go_on(resumed.map_err(LiveError::Transport)?)?;
                }
            }
        }
    }

    /// Reads to the end and says how the run ended. What cannot be replayed is passed over, and counted in
    /// [`Run::missing`].
    ///
    /// Cancel safe, as [`next`](Self::next) is.
    ///
    /// # Errors
    ///
    /// [`LiveError::Transport`], after which it may be called again, and [`LiveError::NeverStarted`].
    pub async fn conclude(&mut self) -> Result<Conclusion, LiveError<T::Error>> {
        loop {
            match self.next().await {
                Ok(Some(_)) | Err(LiveError::Unreplayed { .. }) => {}
                Ok(None) => {
                    if let Some(conclusion) = self.run.conclusion() {
                        return Ok(conclusion.clone());
                    }
                    // Not reached: a stream that is over has concluded its run.
                    let loss = Loss::new(LossReason::SupervisorGone { status: None });
                    return Ok(self.run.lose(loss).clone());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The run as far as it was read.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Speaks to the run, from this task or another.
    #[must_use]
    pub fn voice(&self) -> Voice<T::Channel> {
        Voice::new(self.transport.channel())
    }

    /// The transport.
    #[must_use]
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// How often the stream broke.
    #[must_use]
    pub fn breaks(&self) -> u64 {
        self.breaks
    }

    /// The last 16 KiB that came on stderr, for diagnosis. Of a run that speaks, the agent's stderr is among the events
    /// (`sandtrace.output`), complete; here it is as it came, without what was said while there was no connection.
    #[must_use]
    pub fn stderr_tail(&self) -> String {
        self.stderr.text()
    }

    /// The last 16 KiB of lines on stdout that are none of the run's, as a login shell's profile prints them.
    #[must_use]
    pub fn noise_tail(&self) -> String {
        self.noise.text()
    }

    fn take(&mut self, piece: Piece) {
        match piece {
            Piece::Stdout(bytes) => {
                for decoded in self.decoder.feed(&bytes) {
                    self.keep(decoded);
                }
            }
            Piece::Stderr(bytes) => self.stderr.push(&bytes),
            Piece::Broken { .. } => {
                // The line that was cut comes again, whole.
                self.decoder.reset();
                self.breaks += 1;
                self.stream = Stream::Broken;
            }
            Piece::Ended { .. } => {
                if let Some(decoded) = self.decoder.finish() {
                    self.keep(decoded);
                }
                // Whether the last line was among what came shows when it is given. If not, the transport knows more: E2B
                // cuts the tail of a process that it sent a signal to (`reference/e2b.md` §0.4).
                self.stream = Stream::Broken;
            }
        }
    }

    fn keep(&mut self, decoded: Decoded) {
        match decoded {
            Decoded::Event(event) => self.ready.push_back(*event),
            Decoded::Noise(noise) => {
                self.noise.push(noise.bytes());
                self.noise.push(b"\n");
            }
        }
    }

    fn go_on(&mut self, resumed: Resumed) -> Result<(), LiveError<T::Error>> {
        let after = self.run.last_seq();
        match resumed {
            Resumed::Replayed => {
                self.stream = Stream::Flowing;
                Ok(())
            }
            Resumed::Unreplayed { why } => {
                self.stream = Stream::Flowing;
                Err(LiveError::Unreplayed { after, why })
            }
            Resumed::Lost(loss) => {
                self.stream = Stream::Over;
                let never_started = match &loss.reason {
                    LossReason::SupervisorGone { status } if after == 0 => Some(status.clone()),
                    _ => None,
                };
                self.run.lose(*loss);
                never_started.map_or(Ok(()), |status| {
                    let said = [self.noise.text(), self.stderr.text()].concat();
                    Err(LiveError::NeverStarted { status, said })
                })
            }
        }
    }
}

impl<T: Transport> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("stream", &self.stream)
            .field("last_seq", &self.run.last_seq())
            .field("breaks", &self.breaks)
            .finish_non_exhaustive()
    }
}
