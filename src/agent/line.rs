//! Bytes become bounded lines.
//!
//! A pipe gives chunks that know nothing of lines. [`Lines`] cuts them at each `\n` and gives every byte on: a line that
//! lies within a chunk is borrowed from it, one that spans chunks is put together in a buffer, and one that is longer
//! than the limit is given on in fragments as it arrives, because waiting for its end could take all the memory there
//! is. What length makes a line too long does not depend on how the bytes were chunked; where its fragments are cut does.

use memchr::memchr;

/// The longest line that is delivered whole.
pub const MAX_LINE: usize = 4 << 20;

/// What the buffer may keep between lines; one long line must not cost its memory for the rest of the run.
const KEEP: usize = 256 << 10;

/// A line, or a fragment of one that is too long, without its `\n`. A `\r` before the `\n` is part of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment<'a> {
    pub bytes: &'a [u8],
    /// A `\n` followed these bytes; `false` inside a line that is too long and at the end of the stream.
    pub newline: bool,
    /// Which part of a line that is too long; `None` is a whole line.
    pub part: Option<Part>,
}

/// The place of a fragment in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// From 0.
    pub index: u32,
    /// The line ends with this fragment, which may be empty: the end can arrive alone.
    pub last: bool,
}

/// Cuts a stream of chunks into lines.
#[derive(Debug)]
pub struct Lines {
    limit: usize,
    /// The bytes of the line in progress, never more than the limit.
    buffer: Vec<u8>,
    /// How many fragments of the line in progress were delivered; while it is not 0, the buffer is empty.
    parts: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Newline,
    Eof,
}

impl Default for Lines {
    fn default() -> Self {
        Self::new(MAX_LINE)
    }
}

impl Lines {
    /// A limit of 0 is taken as 1.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            buffer: Vec::new(),
            parts: 0,
        }
    }

    /// Delivers what `chunk` completes to `sink`.
    pub fn push(&mut self, chunk: &[u8], sink: &mut impl FnMut(Fragment<'_>)) {
        let mut rest = chunk;
        while let Some(newline) = memchr(b'\n', rest) {
            self.end(&rest[..newline], End::Newline, sink);
            rest = &rest[newline + 1..];
        }
        if rest.is_empty() {
            return;
        }
        if self.fits(rest) {
            self.keep(rest);
        } else {
            self.overflow(rest, None, sink);
        }
    }

    /// Delivers what the stream's end leaves over. Afterwards a new stream may begin.
    pub fn finish(&mut self, sink: &mut impl FnMut(Fragment<'_>)) {
        if self.parts > 0 || !self.buffer.is_empty() {
            self.end(&[], End::Eof, sink);
        }
    }

    /// Bytes that wait for the rest of their line.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    fn fits(&self, bytes: &[u8]) -> bool {
        self.parts == 0 && self.buffer.len() + bytes.len() <= self.limit
    }

    fn end(&mut self, bytes: &[u8], end: End, sink: &mut impl FnMut(Fragment<'_>)) {
        let newline = end == End::Newline;
        if !self.fits(bytes) {
            self.overflow(bytes, Some(end), sink);
            self.parts = 0;
        } else if self.buffer.is_empty() {
            sink(Fragment {
                bytes,
                newline,
                part: None,
            });
        } else {
            self.keep(bytes);
            sink(Fragment {
                bytes: &self.buffer,
                newline,
                part: None,
            });
            self.buffer.clear();
            self.buffer.shrink_to(KEEP);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let needed = self.buffer.len() + bytes.len();
        if needed > self.buffer.capacity() {
            // Vec's own doubling could reserve nearly twice the limit.
            let capacity = needed.max(2 * self.buffer.capacity()).min(self.limit);
            self.buffer.reserve_exact(capacity - self.buffer.len());
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Delivers bytes of a line that is too long, after those that were kept while it still might have fitted.
    fn overflow(&mut self, bytes: &[u8], end: Option<End>, sink: &mut impl FnMut(Fragment<'_>)) {
        let kept = std::mem::take(&mut self.buffer);
        if !kept.is_empty() {
            self.deliver_part(&kept, None, sink);
        }
        let mut rest = bytes;
        while rest.len() > self.limit {
            let (head, tail) = rest.split_at(self.limit);
            self.deliver_part(head, None, sink);
            rest = tail;
        }
        if end.is_some() || !rest.is_empty() {
            self.deliver_part(rest, end, sink);
        }
    }

    fn deliver_part(
        &mut self,
        bytes: &[u8],
        end: Option<End>,
        sink: &mut impl FnMut(Fragment<'_>),
    ) {
        let part = Part {
            index: self.parts,
            last: end.is_some(),
        };
        self.parts = self.parts.saturating_add(1);
        sink(Fragment {
            bytes,
            newline: end == Some(End::Newline),
            part: Some(part),
        });
    }
}

#[cfg(test)]
mod tests;
