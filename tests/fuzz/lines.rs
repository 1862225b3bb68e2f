//! What the line reader must do with any bytes, cut into chunks anyhow.
//!
//! An input is three bytes of settings and the stream: the limit (two bytes) and the seed of the chunks' lengths.

use sandtrace::agent::{Fragment, Lines, Part};

pub(crate) fn check(input: &[u8]) {
    let Some((settings, stream)) = input.split_at_checked(3) else {
        return;
    };
    let limit = usize::from(u16::from_le_bytes([settings[0], settings[1]]));
    let mut reader = Lines::new(limit);
    let limit = limit.max(1);
    // A reader may be used again: the second round must be as the first, whatever the chunks.
    for chunks in [Chunks::One, Chunks::Seeded(settings[2])] {
        let mut told = Told::new(stream, limit);
        for chunk in chunks.of(stream) {
            reader.push(chunk, &mut |fragment| told.fragment(fragment));
            assert!(reader.buffered() <= limit, "{} are kept", reader.buffered());
        }
        reader.finish(&mut |fragment| told.fragment(fragment));
        assert_eq!(reader.buffered(), 0, "the end leaves nothing behind");
        told.finish();
    }
}

/// What was told, held against the stream as it goes.
struct Told<'a> {
    limit: usize,
    /// What of the stream is still to be told.
    rest: &'a [u8],
    /// The length of the line in progress, and its next part.
    line: Option<(usize, u32)>,
}

impl<'a> Told<'a> {
    fn new(stream: &'a [u8], limit: usize) -> Self {
        Self {
            limit,
            rest: stream,
            line: None,
        }
    }

    fn fragment(&mut self, fragment: Fragment<'_>) {
        let Fragment {
            bytes,
            newline,
            part,
        } = fragment;
        assert!(bytes.len() <= self.limit, "{} bytes at once", bytes.len());
        assert!(!bytes.contains(&b'\n'), "a newline within a line");
        self.rest = self.rest.strip_prefix(bytes).expect("the stream's bytes");
        if newline {
            self.rest = self.rest.strip_prefix(b"\n").expect("a newline");
        }
        let is_end = newline || (self.rest.is_empty() && part.is_none_or(|part| part.last));
        let (length, next) = self.line.take().unwrap_or((0, 0));
        let length = length + bytes.len();
        match part {
            None => {
                assert_eq!(next, 0, "a whole line within one that is too long");
                assert!(is_end, "a line ends with a newline or with the stream");
                assert!(newline || !bytes.is_empty(), "nothing was told as a line");
            }
            Some(Part { index, last }) => {
                assert_eq!(index, next, "a part is missing or out of order");
                assert_eq!(last, is_end, "only the end of a line is its last part");
                if last {
                    assert!(
                        length > self.limit,
                        "a line of {length} bytes came in parts"
                    );
                } else {
                    assert!(!bytes.is_empty(), "an empty part that ends nothing");
                    self.line = Some((length, next + 1));
                }
            }
        }
    }

    fn finish(self) {
        assert!(self.rest.is_empty(), "{} bytes were lost", self.rest.len());
        assert_eq!(self.line, None, "a line without its end");
    }
}

#[derive(Clone, Copy)]
enum Chunks {
    One,
    Seeded(u8),
}

impl Chunks {
    fn of(self, stream: &[u8]) -> impl Iterator<Item = &[u8]> {
        let mut rest = stream;
        let mut state = match self {
            Self::One => 0,
            Self::Seeded(seed) => u32::from(seed) + 1,
        };
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let length = match self {
                Self::One => rest.len(),
                Self::Seeded(_) => {
                    // Marsaglia's xorshift; an empty chunk is one too.
                    state ^= state << 13;
                    state ^= state >> 17;
                    state ^= state << 5;
                    (state % 40) as usize
                }
            };
            let (chunk, tail) = rest.split_at(length.min(rest.len()));
            rest = tail;
            Some(chunk)
        })
    }
}
