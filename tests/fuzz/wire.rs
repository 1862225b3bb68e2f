//! What the types of the wire must do with any bytes: refuse them, or read what can be written and read again as the
//! same. And what the host's side must do with any stream: lose no byte of it, whatever the chunks, and follow the run.

use std::fmt::Debug;

use sandtrace_client::run::{Loss, LossReason, State};
use sandtrace_client::{Body, Content, Decoded, Decoder, Run, Stamp};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) fn check(line: &[u8]) {
    round_trip::<Body>(line);
    round_trip::<Stamp>(line);
    stream(line);
}

fn round_trip<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(bytes) else {
        return;
    };
    let written = serde_json::to_string(&read).expect("what was read can be written");
    let again: T = serde_json::from_str(&written)
        .unwrap_or_else(|error| panic!("{error}: cannot be read again: {written}"));
    assert_eq!(again, read, "{written}");
    assert_eq!(serde_json::to_string(&again).ok(), Some(written));
}

fn stream(bytes: &[u8]) {
    let whole = decoded(&[bytes]);
    let middle = bytes.len() / 2;
    let chunk = usize::from(*bytes.first().unwrap_or(&0)) + 1;
    let texts = |all: &[Decoded]| -> Vec<Vec<u8>> { all.iter().map(text).collect() };
    let expected = texts(&whole);
    assert_eq!(
        texts(&decoded(&[&bytes[..middle], &bytes[middle..]])),
        expected
    );
    let chunks: Vec<&[u8]> = bytes.chunks(chunk).collect();
    assert_eq!(texts(&decoded(&chunks)), expected);
    // Of a last line without its newline, what stands before an event is left out.
    let visible = |bytes: &[u8]| {
        bytes
            .iter()
            .filter(|byte| !byte.is_ascii_whitespace())
            .count()
    };
    if bytes.last() == Some(&b'\n') {
        let kept: usize = expected.iter().map(|text| visible(text)).sum();
        assert_eq!(kept, visible(bytes), "bytes are missing");
    }

    let mut run = Run::new();
    let mut last = 0;
    for decoded in &whole {
        let Decoded::Event(event) = decoded else {
            continue;
        };
        if let Content::Agent(line) = event.content() {
            let said = line.said();
            assert!(said.len() <= event.raw().len());
            assert!(event.as_printed().is_some());
        }
        run.apply(event);
        assert!(run.last_seq() >= last);
        last = run.last_seq();
        let asked = !run.pending_approvals().is_empty();
        assert!(!asked || run.state() != State::BetweenTurns);
    }
    run.lose(Loss::new(LossReason::Unreachable));
    assert_eq!(run.state(), State::Finished);
}

fn decoded(chunks: &[&[u8]]) -> Vec<Decoded> {
    let mut decoder = Decoder::new();
    let mut all = Vec::new();
    for chunk in chunks {
        all.extend(decoder.feed(chunk));
    }
    all.extend(decoder.finish());
    all
}

fn text(decoded: &Decoded) -> Vec<u8> {
    match decoded {
        Decoded::Event(event) => event.raw().as_bytes().to_vec(),
        Decoded::Noise(noise) => noise.bytes().to_vec(),
        _ => Vec::new(),
    }
}
