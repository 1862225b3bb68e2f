//! Each event once, in order, whatever became of the stream.
//!
//! A line's `seq` has no gaps within a run. After a disconnect the next stream begins where it likes: what came already
//! is passed over, and what is missing is told.

/// What has been seen of a run's lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sequence {
    last: u64,
}

/// What the next line is to one who has read those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Admission {
    /// The one that follows.
    Next,
    /// One that follows later: the lines between are missing, and will not come any more on this stream.
    After {
        /// How many are missing.
        missing: u64,
    },
    /// One that was read already.
    Repeated,
}

impl Sequence {
    /// Nothing has been read.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything up to `seq` has been read.
    #[must_use]
    pub fn after(seq: u64) -> Self {
        Self { last: seq }
    }

    /// The number of the last line that was read, 0 before the first: what `sandtrace attach --after` wants to know.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Says what a line of this number is, and remembers it.
    pub fn admit(&mut self, seq: u64) -> Admission {
        if seq <= self.last {
            return Admission::Repeated;
        }
        let missing = seq - self.last - 1;
        self.last = seq;
        match missing {
            0 => Admission::Next,
            missing => Admission::After { missing },
        }
    }
}
