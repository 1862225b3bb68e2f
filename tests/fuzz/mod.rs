//! What `scripts/fuzz` asserts of the line reader, the decoder with the session, the wire, and Connect's envelopes, held against all
//! recordings, the seeds, and every input that fuzzing found to break it (`found/`). So the targets build and mean
//! something also where nobody fuzzes.
#![expect(
    clippy::expect_used,
    reason = "a check says by its panic what does not hold"
)]

mod envelopes;
mod events;
mod lines;
mod wire;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use sandtrace_client::{Body, Stamp};

fn files(directory: &str, extension: Option<&str>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut waiting = vec![
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests")
            .join(directory),
    ];
    while let Some(directory) = waiting.pop() {
        // Of what has never been broken there is no directory.
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if extension.is_none()
                || path.extension().and_then(|it| it.to_str()) == extension
            {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Checks every input, and says which ones broke it.
fn check_all(inputs: &[PathBuf], check: impl Fn(&[u8])) {
    let broken: Vec<_> = inputs
        .iter()
        .filter(|path| {
            let input = fs::read(path).unwrap();
            catch_unwind(AssertUnwindSafe(|| check(&input))).is_err()
        })
        .collect();
    assert!(broken.is_empty(), "broken by {broken:#?}");
}

#[test]
fn every_recording_and_every_input_once_found_is_cut_into_lines_without_loss() {
    let recordings = files("fixtures/recordings", Some("jsonl"));
    assert!(recordings.len() >= 100);
    check_all(&recordings, |stream| {
        for settings in [[255, 255, 1], [80, 0, 2], [0, 0, 3]] {
            lines::check(&[&settings[..], stream].concat());
        }
    });
    check_all(&files("fuzz/found/lines", None), lines::check);
}

#[test]
fn every_recording_and_every_input_once_found_closes_each_span_once() {
    check_all(&files("fixtures/recordings", Some("jsonl")), events::check);
    for directory in ["fuzz/seeds/events", "fuzz/found/events"] {
        check_all(&files(directory, None), events::check);
    }
}

#[test]
fn every_line_of_the_wire_is_read_as_it_was_written() {
    let seeds = files("fuzz/seeds/wire", None);
    assert!(seeds.len() >= 9, "a seed for each type of line");
    check_all(&seeds, |line| {
        wire::check(line);
        let is_body = serde_json::from_slice::<Body>(line).is_ok();
        let is_stamp = serde_json::from_slice::<Stamp>(line).is_ok();
        assert!(is_body || is_stamp, "it is no line of ours any more");
    });
    check_all(&files("fuzz/found/wire", None), wire::check);
}

#[test]
fn every_body_is_cut_into_the_same_envelopes_in_any_pieces() {
    let seeds = files("fuzz/seeds/envelopes", None);
    assert!(seeds.len() >= 7, "a seed for each way to end");
    check_all(&seeds, envelopes::check);
    check_all(&files("fuzz/found/envelopes", None), envelopes::check);
}

#[test]
fn every_golden_stream_is_followed_without_loss() {
    let streams = files("../host-client/tests/fixtures/wire-1", Some("ndjson"));
    assert!(streams.len() >= 10, "{}", streams.len());
    check_all(&streams, wire::check);
}
