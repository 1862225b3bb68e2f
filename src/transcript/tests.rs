//! A host that sleeps while the journal reaches its cap, again and again.

use std::fs::{self, File};
use std::io::Read as _;
use std::thread;

use sandtrace_client::wire::{Counts, Outcome, Phases, RunFinished, Telemetry, Usage};

use super::*;
use crate::time::UnixNanos;

const CAP: u64 = 16 << 20;

fn now() -> Now {
    Now {
        wall: UnixNanos(1_769_860_800_123_456_789),
        uptime: Duration::ZERO,
    }
}

fn seq(line: &str) -> u64 {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["sandtrace"]["seq"].as_u64().unwrap()
}

/// Bytes of files that have no name any more and are still open.
fn unlinked(directory: &std::path::Path) -> u64 {
    let files = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let target = fs::read_link(&path).ok()?;
        let is_ours = target.starts_with(directory) && target.to_str()?.ends_with(" (deleted)");
        is_ours.then(|| fs::metadata(&path).unwrap().len())
    });
    files.sum()
}

#[tokio::test]
async fn a_host_that_sleeps_pins_at_most_one_old_file_and_then_gets_whole_lines_in_order() {
    let root = tempfile::tempdir().unwrap();
    let journal = Journal::create(root.path(), "run-1").unwrap().with_cap(CAP);
    let directory = journal.directory().to_owned();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let echo = Echo::start(File::from(writer)).unwrap();
    let mut transcript = Transcript::new(
        TraceId::from_bytes([1; 16]),
        SpanId::from_bytes([2; 8]),
        Some(journal),
        Some(echo),
        EchoMode::Enriched,
    );
    let span = SpanId::from_bytes([2; 8]);
    let pad = "x".repeat(4000);
    for n in 0..20_000 {
        let line = format!("{{\"n\":{n},\"pad\":\"{pad}\"}}");
        transcript.agent_line(now(), span, line.as_bytes());
    }
    transcript.commit(now());
    let pinned = unlinked(&directory);
    assert!(pinned <= CAP + BATCH_BYTES as u64 * 2, "{pinned}");
    let last = transcript.seq();
    assert!(last > 20_005, "the journal was made smaller: {last}");

    let host = thread::spawn(move || {
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(transcript.finish(now()).await, Delivery::Complete);
    let text = host.join().unwrap();
    assert!(text.ends_with('\n'));
    let numbers: Vec<u64> = text.lines().map(seq).collect();
    assert!(
        numbers.is_sorted_by(|one, next| one < next),
        "twice or out of order"
    );
    assert_eq!(numbers.last(), Some(&last));
    // All that the journal still has, the host has got.
    let kept = fs::read_to_string(directory.join("events.ndjson")).unwrap();
    for line in kept.lines() {
        assert!(numbers.binary_search(&seq(line)).is_ok(), "{}", seq(line));
    }
}

fn finished() -> RunFinished {
    RunFinished {
        outcome: Outcome::Success,
        failure: None,
        exit: None,
        duration_ms: 0.0,
        usage: Usage::default(),
        cost: None,
        cache_hit_ratio: None,
        phases: Phases::default(),
        counts: Counts::default(),
        resources: None,
        telemetry: Telemetry::default(),
        survivors: Vec::new(),
    }
}

#[tokio::test]
async fn nothing_follows_the_last_line() {
    // The journal is full before the last line, or because of it.
    for (length, warned) in [(4000, true), (3600, false)] {
        let root = tempfile::tempdir().unwrap();
        let journal = Journal::create(root.path(), "run-1").unwrap();
        let events = journal.directory().join("events.ndjson");
        let span = SpanId::from_bytes([2; 8]);
        let mut transcript = Transcript::new(
            TraceId::from_bytes([1; 16]),
            span,
            Some(journal.with_cap(4000)),
            None,
            EchoMode::Off,
        );
        let line = format!("{{\"pad\":\"{}\"}}", "x".repeat(length));
        transcript.agent_line(now(), span, line.as_bytes());
        transcript.body(now(), None, &Body::RunFinished(Box::new(finished())));
        transcript.commit(now());
        transcript.warning(now(), "late", "too late", Map::new());
        transcript.finish(now()).await;
        let text = fs::read_to_string(events).unwrap();
        assert_eq!(text.contains("journal_full"), warned, "{text}");
        let last = text.lines().last().unwrap();
        assert!(last.contains("sandtrace.run.finished"), "{text}");
    }
}
