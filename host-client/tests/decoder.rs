//! The decoder: any chunks, any noise.
#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, its functions included"
)]

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use sandtrace_client::{Decoded, Decoder};

/// What is to be seen of it.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Event(u64, String),
    Noise(Vec<u8>, u64),
}

fn seen(decoded: impl IntoIterator<Item = Decoded>) -> Vec<Seen> {
    let seen = decoded.into_iter().map(|decoded| match decoded {
        Decoded::Event(event) => Seen::Event(event.seq(), event.raw().to_owned()),
        Decoded::Noise(noise) => Seen::Noise(noise.bytes().to_vec(), noise.passed_over()),
        other => panic!("{other:?}"),
    });
    seen.collect()
}

fn whole(bytes: &[u8]) -> Vec<Seen> {
    let mut decoder = Decoder::new();
    let mut all = seen(decoder.feed(bytes));
    all.extend(seen(decoder.finish()));
    all
}

fn chunked(bytes: &[u8], cuts: &[usize]) -> Vec<Seen> {
    let mut decoder = Decoder::new();
    let mut all = Vec::new();
    let mut rest = bytes;
    for cut in cuts {
        let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
        all.extend(seen(decoder.feed(chunk)));
        rest = tail;
    }
    all.extend(seen(decoder.feed(rest)));
    all.extend(seen(decoder.finish()));
    all
}

fn line(seq: u64, text: &str) -> String {
    let text = serde_json::to_string(text).unwrap();
    format!(
        r#"{{"type":"text","data":{{"text":{text}}},"sandtrace":{{"seq":{seq},"time":"2026-01-31T12:00:00.000000Z","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7"}}}}"#
    )
}

fn golden(name: &str) -> Vec<u8> {
    let path = format!("tests/fixtures/wire-1/{name}.ndjson");
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

proptest! {
    #[test]
    fn how_a_stream_was_cut_never_changes_what_it_says(cuts in prop::collection::vec(0usize..3000, 0..60)) {
        let stream = [b"Last login: today\r\n$ ".to_vec(), golden("approvals"), golden("noise")].concat();
        prop_assert_eq!(chunked(&stream, &cuts), whole(&stream));
    }

    #[test]
    fn any_bytes_are_read_the_same_in_any_chunks(
        bytes in prop::collection::vec(prop::sample::select(b"{}\"\n\\a:,s \xff\xf0\x9f".to_vec()), 0..400),
        cuts in prop::collection::vec(0usize..20, 0..40),
    ) {
        let all = whole(&bytes);
        prop_assert_eq!(chunked(&bytes, &cuts), all.clone());
        // Nothing but newlines and empty lines is missing.
        let kept: usize = all.iter().map(|seen| match seen {
            Seen::Noise(bytes, _) => bytes.iter().filter(|byte| !byte.is_ascii_whitespace()).count(),
            Seen::Event(..) => 0,
        }).sum();
        let there = bytes.iter().filter(|byte| !byte.is_ascii_whitespace()).count();
        prop_assert_eq!(kept, there);
    }
}

#[test]
fn one_byte_at_a_time_is_no_harder() {
    let stream = golden("noise");
    let ones = vec![1; stream.len()];
    let all = whole(&stream);
    assert_eq!(chunked(&stream, &ones), all);
    assert!(all.iter().all(|seen| matches!(seen, Seen::Event(..))));
}

#[test]
fn the_last_line_needs_no_newline() {
    let text = line(7, "bye");
    assert_eq!(whole(text.as_bytes()), [Seen::Event(7, text)]);
}

#[test]
fn what_a_login_shell_prints_is_noise_also_without_a_newline() {
    let text = line(1, "hi");
    let stream = format!("Welcome\n\n{{not json}}\n{{\"no\":\"stamp\"}}\n\x1b[0m$ {text}\n");
    let noise = |text: &str| Seen::Noise(text.as_bytes().to_vec(), 0);
    assert_eq!(
        whole(stream.as_bytes()),
        [
            noise("Welcome"),
            noise("{not json}"),
            noise("{\"no\":\"stamp\"}"),
            noise("\x1b[0m$ "),
            Seen::Event(1, text.clone()),
        ]
    );
    // At the end of the stream too.
    let stream = format!("$ {text}");
    assert_eq!(whole(stream.as_bytes()), [Seen::Event(1, text)]);
}

#[test]
fn the_start_of_a_torn_line_does_not_swallow_the_next() {
    let (torn, next) = (line(1, "first"), line(2, "second"));
    let stream = format!("{}{next}\n", &torn[..40]);
    let all = whole(stream.as_bytes());
    assert_eq!(all[1..], [Seen::Event(2, next)]);
    assert_eq!(all[0], Seen::Noise(torn.as_bytes()[..40].to_vec(), 0));
}

#[test]
fn an_agent_s_member_inside_a_torn_line_is_no_event() {
    let inner = line(9, "inner");
    let outer = format!("{{\"type\":\"x\",\"inner\":{inner}}}");
    assert_eq!(
        whole(outer.as_bytes()),
        [Seen::Noise(outer.clone().into_bytes(), 0)]
    );
}

#[test]
fn what_had_begun_when_the_stream_broke_is_thrown_away() {
    let text = line(1, "whole");
    let mut decoder = Decoder::new();
    assert!(decoder.feed(&text.as_bytes()[..30]).is_empty());
    decoder.reset();
    let again = decoder.feed(format!("{text}\n").as_bytes());
    assert_eq!(seen(again), [Seen::Event(1, text)]);
}

#[test]
fn a_line_without_an_end_takes_no_more_than_its_share_of_memory() {
    const MIB: usize = 1 << 20;
    let mut decoder = Decoder::new();
    let chunk = vec![b'x'; MIB];
    for _ in 0..40 {
        assert!(decoder.feed(&chunk).is_empty());
    }
    let text = line(1, "after it");
    let all = seen(decoder.feed(format!("\n{text}\n").as_bytes()));
    let [Seen::Noise(kept, passed_over), Seen::Event(1, _)] = &all[..] else {
        panic!("{} decoded", all.len())
    };
    assert_eq!(kept.len(), 16 * MIB);
    assert_eq!(*passed_over, 24 * MIB as u64);
    // In one piece it is the same.
    let stream = [vec![b'x'; 40 * MIB], format!("\n{text}\n").into_bytes()].concat();
    assert_eq!(whole(&stream), all);
}

#[test]
fn no_line_of_an_agent_is_too_strange_to_be_counted() {
    let stamp = r#""sandtrace":{"seq":3,"time":"t","trace_id":"a","span_id":"b"}"#;
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    for own in [
        r#""type":"a","type":"b","#.to_owned(),
        r#""half":"\ud83d","#.to_owned(),
        r#""\ud83d":1,"#.to_owned(),
        r#""type":7,"#.to_owned(),
        r#""number":1e999,"#.to_owned(),
        format!(r#""deep":{deep},"#),
    ] {
        let line = format!("{{{own}{stamp}}}");
        let all = whole(line.as_bytes());
        assert_eq!(all, [Seen::Event(3, line.clone())]);
    }
}
