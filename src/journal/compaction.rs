//! Making room in a journal that has reached its cap.
//!
//! Two passes over the file: the first counts the bytes of each kind of line, the second copies what stays. What goes,
//! goes oldest first: resource samples, then span copies, then output. Lifecycle lines stay.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// How many lines were dropped, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    pub resources: u64,
    pub spans: u64,
    /// Lines of the agent and `sandtrace.output`.
    pub output: u64,
}

/// What became of a file that was made smaller.
#[derive(Debug)]
pub struct Moved {
    pub from: Arc<File>,
    pub to: Arc<File>,
    pub dropped: Dropped,
    /// Places in the old file and in the new one.
    pub(super) places: Vec<(u64, u64)>,
}

impl Moved {
    /// Where a marked place of the old file is in the new one: what followed it and was kept follows it there.
    #[must_use]
    pub fn place(&self, old: u64) -> Option<u64> {
        let found = self.places.binary_search_by_key(&old, |(old, _)| *old);
        found.ok().map(|at| self.places[at].1)
    }
}

/// What a line is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    Resources,
    SpanCopy,
    Output,
    Lifecycle,
}

impl Worth {
    /// Our own lines begin with their type, because we write them so.
    fn of(line: &[u8]) -> Self {
        let Some(rest) = line.strip_prefix(b"{\"type\":\"sandtrace.") else {
            return Self::Output;
        };
        if rest.starts_with(b"resources\"") {
            Self::Resources
        } else if rest.starts_with(b"span.") || rest.starts_with(b"otlp\"") {
            Self::SpanCopy
        } else if rest.starts_with(b"output\"") {
            Self::Output
        } else {
            Self::Lifecycle
        }
    }
}

/// Reads a file from its start without moving a shared offset.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// What [`compact`] has done.
pub(super) struct Compacted {
    pub(super) length: u64,
    pub(super) dropped: Dropped,
    pub(super) places: Vec<(u64, u64)>,
}

/// Copies what stays of `from` to `to`, so that it takes at most `target` bytes if lifecycle lines allow. `marks` are
/// places between lines, in ascending order.
pub(super) fn compact(from: &File, to: &File, target: u64, marks: &[u64]) -> io::Result<Compacted> {
    let mut sizes = [0_u64; 3];
    let mut total = 0;
    each_line(from, |line| {
        total += line.len() as u64;
        match Worth::of(line) {
            Worth::Resources => sizes[0] += line.len() as u64,
            Worth::SpanCopy => sizes[1] += line.len() as u64,
            Worth::Output => sizes[2] += line.len() as u64,
            Worth::Lifecycle => {}
        }
        Ok(())
    })?;
    let mut excess = total.saturating_sub(target);
    // How many bytes of each kind must go, the least valuable first.
    let mut quota = sizes.map(|size| {
        let share = size.min(excess);
        excess -= share;
        share
    });
    let mut dropped = Dropped::default();
    let (mut at, mut length) = (0, 0);
    let mut marks = marks.iter().copied().peekable();
    let mut places = Vec::new();
    let mut out = BufWriter::with_capacity(256 << 10, to);
    each_line(from, |line| {
        while let Some(mark) = marks.next_if(|mark| *mark <= at) {
            places.push((mark, length));
        }
        at += line.len() as u64;
        let slot = match Worth::of(line) {
            Worth::Resources => Some((&mut quota[0], &mut dropped.resources)),
            Worth::SpanCopy => Some((&mut quota[1], &mut dropped.spans)),
            Worth::Output => Some((&mut quota[2], &mut dropped.output)),
            Worth::Lifecycle => None,
        };
        if let Some((quota, count)) = slot
            && *quota > 0
        {
            *quota = quota.saturating_sub(line.len() as u64);
            *count += 1;
            return Ok(());
        }
        length += line.len() as u64;
        out.write_all(line)
    })?;
    out.flush()?;
    places.extend(marks.map(|mark| (mark, length)));
    Ok(Compacted {
        length,
        dropped,
        places,
    })
}

/// Calls `visit` with each line, its newline included. A line is as long as the relay lets it be, so memory is bounded.
fn each_line(file: &File, mut visit: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(256 << 10, FromStart { file, at: 0 });
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        visit(&line)?;
    }
}
