//! Many needles, one pass: where in a text does any of them begin?
//!
//! The first three bytes of each needle, hashed, tell the few needles that may stand at a place. An automaton over all
//! of them is no faster on texts that hold none, and costs a dependency and tens of kilobytes a run.

/// Chains, as a power of two: with some hundred needles most places of a text lead to none.
const BITS: u32 = 12;
/// The least that a needle has. A shorter one would be found everywhere.
pub(super) const SHORTEST: usize = 3;

/// No needle: the end of a chain.
const NONE: u32 = u32::MAX;

/// How a needle is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Exact,
    /// ASCII letters in any case.
    Ignored,
}

struct Needle {
    bytes: Vec<u8>,
    case: Case,
    /// What whoever put it in knows it by.
    of: u32,
    next: u32,
}

/// A set of needles to look for.
pub(super) struct Needles {
    heads: Box<[u32]>,
    needles: Vec<Needle>,
}

/// One needle found at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) start: usize,
    pub(super) length: usize,
    pub(super) of: u32,
}

impl Needles {
    pub(super) fn new() -> Self {
        Self {
            heads: vec![NONE; 1 << BITS].into_boxed_slice(),
            needles: Vec::new(),
        }
    }

    /// Adds a needle, unless it is too short or there already.
    pub(super) fn add(&mut self, bytes: Vec<u8>, case: Case, of: u32) {
        let Ok(index) = u32::try_from(self.needles.len()) else {
            return;
        };
        let Some(slot) = slot(&bytes) else { return };
        let same = |needle: &Needle| needle.of == of && needle.bytes == bytes;
        if self.chain(slot).any(same) {
            return;
        }
        let head = &mut self.heads[slot];
        self.needles.push(Needle {
            bytes,
            case,
            of,
            next: std::mem::replace(head, index),
        });
    }

    fn chain(&self, slot: usize) -> impl Iterator<Item = &Needle> {
        let at = |index: u32| self.needles.get(index as usize);
        std::iter::successors(at(self.heads[slot]), move |needle| at(needle.next))
    }

    /// Reports every needle at every place, in the order of the places.
    pub(super) fn find(&self, text: &[u8], mut report: impl FnMut(Hit)) {
        for (start, first) in text.windows(SHORTEST).enumerate() {
            let mut index = self.heads[hash(first[0], first[1], first[2])];
            while let Some(needle) = self.needles.get(index as usize) {
                if let Some(there) = text.get(start..start + needle.bytes.len())
                    && match needle.case {
                        Case::Exact => there == needle.bytes,
                        Case::Ignored => there.eq_ignore_ascii_case(&needle.bytes),
                    }
                {
                    report(Hit {
                        start,
                        length: there.len(),
                        of: needle.of,
                    });
                }
                index = needle.next;
            }
        }
    }

    /// The longest beginning of a needle, of `least` bytes or more, that `text` ends with.
    pub(super) fn cut_at_end(&self, text: &[u8], least: usize) -> Option<Hit> {
        let exact = self.exact();
        let cut = exact.filter_map(|needle| {
            let most = text.len().min(needle.bytes.len());
            let fits = |length: &usize| text.ends_with(&needle.bytes[..*length]);
            let length = (least..=most).rev().find(fits)?;
            Some(Hit {
                start: text.len() - length,
                length,
                of: needle.of,
            })
        });
        cut.max_by_key(|hit| hit.length)
    }

    /// The longest end of a needle, of `least` bytes or more, that `text` begins with.
    pub(super) fn cut_at_start(&self, text: &[u8], least: usize) -> Option<Hit> {
        let exact = self.exact();
        let cut = exact.filter_map(|needle| {
            let whole = &needle.bytes;
            let most = text.len().min(whole.len());
            let fits = |length: &usize| text.starts_with(&whole[whole.len() - length..]);
            let length = (least..=most).rev().find(fits)?;
            Some(Hit {
                start: 0,
                length,
                of: needle.of,
            })
        });
        cut.max_by_key(|hit| hit.length)
    }

    fn exact(&self) -> impl Iterator<Item = &Needle> {
        let needles = self.needles.iter();
        needles.filter(|needle| needle.case == Case::Exact)
    }
}

fn slot(needle: &[u8]) -> Option<usize> {
    match needle {
        [first, second, third, ..] => Some(hash(*first, *second, *third)),
        _ => None,
    }
}

/// Of the bytes with their case bit set, so that one table serves both ways to compare.
fn hash(first: u8, second: u8, third: u8) -> usize {
    let word = u32::from_le_bytes([first | 0x20, second | 0x20, third | 0x20, 0]);
    (word.wrapping_mul(0x9e37_79b1) >> (32 - BITS)) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn needles(all: &[(&str, Case)]) -> Needles {
        let mut needles = Needles::new();
        for (of, (needle, case)) in all.iter().enumerate() {
            needles.add(needle.as_bytes().to_vec(), *case, of as u32);
        }
        needles
    }

    fn found(needles: &Needles, text: &str) -> Vec<(usize, u32)> {
        let mut hits = Vec::new();
        needles.find(text.as_bytes(), |hit| hits.push((hit.start, hit.of)));
        hits
    }

    #[test]
    fn needles_are_found_wherever_they_stand_also_within_each_other() {
        let needles = needles(&[
            ("abcdef", Case::Exact),
            ("cde", Case::Exact),
            ("TOKEN", Case::Ignored),
            ("ab", Case::Exact),
        ]);
        assert_eq!(
            found(&needles, "xabcdef token ToKeN Abcdef"),
            [(1, 0), (3, 1), (8, 2), (14, 2), (22, 1)]
        );
        assert_eq!(found(&needles, "ab"), []);
        assert_eq!(found(&needles, ""), []);
    }

    #[test]
    fn what_a_cut_left_of_a_needle_is_found_at_both_ends() {
        let needles = needles(&[("0123456789", Case::Exact), ("keyword", Case::Ignored)]);
        let end = needles.cut_at_end(b"it is 012345", 4).unwrap();
        assert_eq!((end.start, end.length), (6, 6));
        let start = needles.cut_at_start(b"6789 it was", 4).unwrap();
        assert_eq!((start.start, start.length), (0, 4));
        assert_eq!(needles.cut_at_end(b"it is 012", 4), None);
        assert_eq!(needles.cut_at_start(b"789 it was", 4), None);
        assert_eq!(needles.cut_at_end(b"a keyw", 4), None);
    }

    proptest! {
        #[test]
        fn it_finds_what_looking_for_each_alone_finds(
            all in prop::collection::vec("[abAB]{3,5}", 0..20),
            text in "[abAB]{0,60}",
        ) {
            let mut needles = Needles::new();
            for (of, needle) in all.iter().enumerate() {
                needles.add(needle.clone().into_bytes(), Case::Exact, of as u32);
            }
            let mut hits = found(&needles, &text);
            hits.sort_unstable();
            let mut expected = Vec::new();
            for (of, needle) in all.iter().enumerate() {
                for start in 0..text.len() {
                    if text[start..].starts_with(needle.as_str()) {
                        expected.push((start, of as u32));
                    }
                }
            }
            expected.sort_unstable();
            prop_assert_eq!(hits, expected);
        }
    }
}
