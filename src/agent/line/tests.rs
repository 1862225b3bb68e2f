use proptest::prelude::*;

use super::*;

/// What a sink was given, without the borrow.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    bytes: Vec<u8>,
    newline: bool,
    part: Option<Part>,
}

fn cut(limit: usize, chunks: &[&[u8]]) -> Vec<Given> {
    let mut given = Vec::new();
    let mut sink = |fragment: Fragment<'_>| {
        given.push(Given {
            bytes: fragment.bytes.to_vec(),
            newline: fragment.newline,
            part: fragment.part,
        });
    };
    let mut lines = Lines::new(limit);
    for chunk in chunks {
        lines.push(chunk, &mut sink);
        assert!(lines.buffer.len() <= lines.limit);
        assert!(lines.buffer.capacity() <= lines.limit.max(8));
    }
    lines.finish(&mut sink);
    given
}

fn whole(bytes: &[u8], newline: bool) -> Given {
    Given {
        bytes: bytes.to_vec(),
        newline,
        part: None,
    }
}

fn part(bytes: &[u8], newline: bool, index: u32, last: bool) -> Given {
    Given {
        bytes: bytes.to_vec(),
        newline,
        part: Some(Part { index, last }),
    }
}

#[test]
fn lines_are_cut_at_newlines_and_keep_their_carriage_return() {
    assert_eq!(
        cut(100, &[b"one\ntwo\r\n\nthree"]),
        [
            whole(b"one", true),
            whole(b"two\r", true),
            whole(b"", true),
            whole(b"three", false),
        ]
    );
}

#[test]
fn a_line_may_span_chunks() {
    assert_eq!(
        cut(100, &[b"on", b"", b"e\ntw", b"o", b"\n"]),
        [whole(b"one", true), whole(b"two", true)]
    );
}

#[test]
fn a_line_of_exactly_the_limit_is_whole() {
    for chunks in [&[&b"four\n"[..]][..], &[b"fo", b"ur", b"\n"]] {
        assert_eq!(cut(4, chunks), [whole(b"four", true)]);
    }
}

#[test]
fn a_longer_line_is_given_on_as_it_arrives() {
    assert_eq!(
        cut(4, &[b"abc", b"def", b"gh\nok\n"]),
        [
            part(b"abc", false, 0, false),
            part(b"def", false, 1, false),
            part(b"gh", true, 2, true),
            whole(b"ok", true),
        ]
    );
}

#[test]
fn one_big_chunk_is_given_on_in_pieces_of_the_limit() {
    assert_eq!(
        cut(4, &[b"abcdefghi\n"]),
        [
            part(b"abcd", false, 0, false),
            part(b"efgh", false, 1, false),
            part(b"i", true, 2, true),
        ]
    );
}

#[test]
fn the_end_of_a_long_line_may_arrive_alone() {
    let head = [part(b"abcde", false, 0, false), part(b"f", false, 1, false)];
    for (chunks, newline) in [
        (&[&b"abcde"[..], b"f", b"\n"][..], true),
        (&[b"abcde", b"f"], false),
    ] {
        let given = cut(5, chunks);
        assert_eq!(given[..2], head);
        assert_eq!(given[2..], [part(b"", newline, 2, true)]);
    }
}

#[test]
fn nothing_is_made_of_an_empty_stream() {
    assert_eq!(cut(4, &[]), []);
    assert_eq!(cut(4, &[b"a\n"]), [whole(b"a", true)]);
}

#[test]
fn a_whole_line_within_a_chunk_is_not_copied() {
    let chunk = b"first\nsecond\n";
    let mut lines = Lines::default();
    let mut seen = 0;
    lines.push(chunk, &mut |fragment| {
        assert!(chunk.as_ptr_range().contains(&fragment.bytes.as_ptr()));
        seen += 1;
    });
    assert_eq!((seen, lines.buffer.capacity()), (2, 0));
}

#[test]
fn a_long_line_gives_its_memory_back() {
    let mut lines = Lines::default();
    let chunk = vec![b'x'; 64 << 10];
    let mut longest = 0;
    for _ in 0..(3 << 20) / chunk.len() {
        lines.push(&chunk, &mut |_| unreachable!("no line has ended"));
    }
    assert!(lines.buffer.capacity() <= MAX_LINE);
    lines.push(b"\n", &mut |fragment| longest = fragment.bytes.len());
    assert_eq!(longest, 3 << 20);
    assert!(lines.buffer.capacity() <= KEEP);
}

/// Bytes with many newlines, and the places where they are cut into chunks.
fn stream() -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    let byte = prop_oneof![2 => Just(b'\n'), 1 => Just(b'\r'), 9 => any::<u8>()];
    proptest::collection::vec(byte, 0..200).prop_flat_map(|bytes| {
        let cuts = proptest::collection::vec(0..=bytes.len(), 0..20);
        (Just(bytes), cuts)
    })
}

fn chunks<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts = cuts.to_vec();
    cuts.sort_unstable();
    let ends = cuts.iter().copied().chain([bytes.len()]);
    let begins = std::iter::once(0).chain(cuts.iter().copied());
    begins
        .zip(ends)
        .map(|(begin, end)| &bytes[begin..end])
        .collect()
}

/// Joins the fragments of each line that was too long.
fn joined(given: &[Given]) -> Vec<(Vec<u8>, bool, bool)> {
    let mut lines: Vec<(Vec<u8>, bool, bool)> = Vec::new();
    for fragment in given {
        match fragment.part {
            Some(Part { index, .. }) if index > 0 => {
                let line = lines.last_mut().unwrap();
                line.0.extend(&fragment.bytes);
                line.1 = fragment.newline;
            }
            part => lines.push((fragment.bytes.clone(), fragment.newline, part.is_some())),
        }
    }
    lines
}

proptest! {
    #[test]
    fn every_byte_is_given_on((bytes, cuts) in stream(), limit in 1_usize..40) {
        let given = cut(limit, &chunks(&bytes, &cuts));
        let mut again = Vec::new();
        for fragment in &given {
            prop_assert!(fragment.bytes.len() <= limit);
            prop_assert!(!fragment.bytes.contains(&b'\n'));
            again.extend(&fragment.bytes);
            again.extend(fragment.newline.then_some(b'\n'));
        }
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn chunks_do_not_decide_what_a_line_is((bytes, cuts) in stream(), limit in 1_usize..40) {
        let given = joined(&cut(limit, &chunks(&bytes, &cuts)));
        prop_assert_eq!(&given, &joined(&cut(limit, &[&bytes])));
        for (line, _, in_parts) in given {
            prop_assert_eq!(in_parts, line.len() > limit);
        }
    }

    #[test]
    fn the_parts_of_a_line_are_counted_and_end((bytes, cuts) in stream(), limit in 1_usize..40) {
        let mut next = 0;
        for fragment in cut(limit, &chunks(&bytes, &cuts)) {
            prop_assert_eq!(fragment.part.map_or(0, |part| part.index), next);
            next = match fragment.part {
                Some(Part { index, last: false }) => {
                    prop_assert!(!fragment.newline);
                    index + 1
                }
                _ => 0,
            };
        }
        prop_assert_eq!(next, 0);
    }
}
