//! What goes wrong, on demand.

use std::collections::VecDeque;
use std::time::Duration;

/// What goes wrong from now on. Numbers count down: so many of the next ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Connections that are reset as soon as they are there.
    pub(crate) refuse_connections: usize,
    /// Connections that are taken, and never read or answered.
    pub(crate) black_holes: usize,
    /// How long a connection waits for its first answer.
    pub(crate) delay_connections: Duration,
    /// Requests to envd that the edge answers itself, with 502.
    pub(crate) proxy_errors: usize,
    /// Requests to the REST API that are answered with 429.
    pub(crate) rate_limits: usize,
    /// What a 429 says in `Retry-After`, whole seconds.
    pub(crate) retry_after: Duration,
    /// Starts whose process runs, and whose connection is cut before the first byte of an answer.
    pub(crate) lose_starts: usize,
    /// Where streams of Start and Connect are cut.
    pub(crate) cuts: Cuts,
    /// How a cut looks to the client.
    pub(crate) ending: Ending,
    /// After so many bytes of its body the next stream says nothing more, and stays open: its subscriber is a ghost
    /// that no longer reads, and holds the process back.
    pub(crate) stall_next_after: Option<u64>,
    /// From this seed come the sizes of reads (1 to 32 KiB) and the pieces in which envelopes are sent.
    pub(crate) pieces: Option<u64>,
    /// How long output lies in its pipe before it is read. What was written less than this before an exit by
    /// SendSignal is surely lost.
    pub(crate) read_delay: Duration,
    /// What the edge says when a sandbox disappears.
    pub(crate) edge: Edge,
}

/// Where streams are cut. Bytes count in the body: 5 of the first envelope's head, then its message, and so on.
#[derive(Debug, Clone, Default)]
pub(crate) enum Cuts {
    #[default]
    Never,
    /// The next streams, each after its number of bytes; those after them are left alone.
    Next(VecDeque<u64>),
    /// Every stream.
    Every(u64),
    /// Every stream, after a number of bytes below `limit` that comes from `seed`.
    Random { seed: u64, limit: u64 },
}

impl Cuts {
    /// The next streams, each after its number of bytes.
    pub(crate) fn next(after: impl IntoIterator<Item = u64>) -> Self {
        Self::Next(after.into_iter().collect())
    }

    /// Where the next stream is cut.
    pub(super) fn take(&mut self) -> Option<u64> {
        match self {
            Self::Never => None,
            Self::Next(queue) => queue.pop_front(),
            Self::Every(after) => Some(*after),
            Self::Random { seed, limit } => {
                let mut random = Random(*seed);
                let after = random.below(*limit);
                *seed = random.0;
                Some(after)
            }
        }
    }
}

/// How a cut looks to the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// End of file in the middle of the body.
    #[default]
    Closed,
    /// A reset. What was sent before it may get lost as well.
    Reset,
}

/// What the edge says when a sandbox disappears under a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Edge {
    /// Nothing: the connection ends.
    #[default]
    Silent,
    /// An end of stream with `unavailable` (`reference/e2b.md` §4).
    Unavailable,
}

/// SplitMix64.
#[derive(Debug, Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// From 1 to `limit`, small ones as likely as big ones.
    pub(super) fn size(&mut self, limit: usize) -> usize {
        let bits = self.below(u64::from(limit.ilog2()) + 1);
        let size = 1 + self.below(1 << bits.min(40));
        usize::try_from(size).map_or(limit, |size| size.min(limit))
    }
}
