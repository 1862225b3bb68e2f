//! How fast a host reads: `cargo bench -p sandtrace-client --bench read`. Prints MB/s of each step on the golden streams.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark may panic, and prints"
)]

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, iter};

use sandtrace_client::{Content, Decoded, Decoder, Event, Run};

/// What a host reads at a time.
const CHUNK: usize = 32 << 10;

fn main() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wire-1");
    for name in ["tour", "subagent"] {
        let stream = fs::read(directory.join(format!("{name}.ndjson"))).unwrap();
        measure(name, &stream);
    }
    // An agent that returns much: one line of 1 MiB.
    let mut large = br#"{"type":"UserMessage","content":[{"type":"ToolResultBlock","tool_use_id":"t","content":""#.to_vec();
    large.extend(iter::repeat_n(b"some text of a file\\n", 50_000).flatten());
    large.extend_from_slice(
        br#""}],"sandtrace":{"seq":1,"time":"2026-01-31T12:00:00.000000Z","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7"}}"#,
    );
    large.push(b'\n');
    measure("large results", &large);
}

fn measure(name: &str, stream: &[u8]) {
    let decode = || {
        let mut decoder = Decoder::new();
        for chunk in stream.chunks(CHUNK) {
            black_box(decoder.feed(chunk));
        }
    };
    let events: Vec<Event> = Decoder::new()
        .feed(stream)
        .into_iter()
        .filter_map(|decoded| match decoded {
            Decoded::Event(event) => Some(*event),
            _ => None,
        })
        .collect();
    let follow = || {
        let (mut decoder, mut run) = (Decoder::new(), Run::new());
        for chunk in stream.chunks(CHUNK) {
            for decoded in decoder.feed(chunk) {
                if let Decoded::Event(event) = decoded {
                    run.apply(&event);
                }
            }
        }
        black_box(run.state());
    };
    let all = || {
        for event in &events {
            let event = Event::parse(event.raw()).unwrap();
            if let Content::Agent(line) = event.content() {
                black_box(line.said());
            }
        }
    };
    println!(
        "{name}: decoded {:.0} MB/s, followed {:.0} MB/s, every agent's line read {:.0} MB/s, {:.0} thousand lines/s followed",
        rate(stream.len(), decode),
        rate(stream.len(), follow),
        rate(stream.len(), all),
        rate(events.len(), follow) * 1e3,
    );
}

/// Millions of units a second.
fn rate(units: usize, mut work: impl FnMut()) -> f64 {
    work();
    let began = Instant::now();
    let mut times = 0_u32;
    while began.elapsed() < Duration::from_millis(700) {
        work();
        times += 1;
    }
    units as f64 * f64::from(times) / began.elapsed().as_secs_f64() / 1e6
}
