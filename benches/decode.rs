//! What a line costs on one core: `cargo bench --bench decode`.
//!
//! The budget is the relay's (DESIGN.md §10): 1 M lines/s of 200 bytes, 400 MB/s of 4 KiB lines.

use std::hint::black_box;
use std::io::Write as _;
use std::time::{Duration, Instant};

use sandtrace::agent::{Lines, decode};

/// Long enough for the clock, and short enough that some rounds are not disturbed on a busy machine.
const ROUND: Duration = Duration::from_millis(2);
const ROUNDS: usize = 400;

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<28}{:>10}{:>12}{:>12}{:>12}",
        "decode", "bytes", "ns/line", "k lines/s", "MB/s"
    )?;
    for (name, line) in samples() {
        report(&mut out, name, line.len(), || {
            black_box(decode(black_box(line.as_bytes())));
        })?;
    }
    writeln!(out)?;
    let line = format!("{}\n", tool_use(200));
    let chunk = line.repeat(64 * 1024 / line.len());
    let lines = chunk.len() / line.len();
    let mut cutter = Lines::default();
    let cut = fastest(|| {
        cutter.push(black_box(chunk.as_bytes()), &mut |fragment| {
            black_box(fragment);
        });
    });
    writeln!(
        out,
        "cut 64 KiB chunks of {} byte lines: {:.1} ns/line, {:.0} MB/s",
        line.len(),
        cut.as_secs_f64() * 1e9 / lines as f64,
        chunk.len() as f64 / cut.as_secs_f64() / 1e6,
    )
}

fn report(
    out: &mut impl std::io::Write,
    name: &str,
    bytes: usize,
    work: impl FnMut(),
) -> std::io::Result<()> {
    let seconds = fastest(work).as_secs_f64();
    writeln!(
        out,
        "{name:<28}{bytes:>10}{:>12.0}{:>12.0}{:>12.0}",
        seconds * 1e9,
        1e-3 / seconds,
        bytes as f64 / seconds / 1e6
    )
}

/// The time of one call in the best round: what disturbs a round can only slow it.
fn fastest(mut work: impl FnMut()) -> Duration {
    let mut batch = 1;
    loop {
        let begin = Instant::now();
        (0..batch).for_each(|_| work());
        if begin.elapsed() >= ROUND {
            break;
        }
        batch *= 2;
    }
    (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            (0..batch).for_each(|_| work());
            begin.elapsed() / batch
        })
        .min()
        .unwrap_or_default()
}

fn samples() -> Vec<(&'static str, String)> {
    let prose =
        "The quick brown fox jumps over the lazy dog, then\\n writes \\\"code\\\" about it. ";
    vec![
        ("tool_use 200 B", tool_use(200)),
        ("text 4 KiB, no escapes", text(&"abcdefg ".repeat(475))),
        ("text 4 KiB, prose", text(&prose.repeat(48))),
        ("tool_use 4 KiB", tool_use(4096)),
        ("tool_result 4 KiB", tool_result(&prose.repeat(22))),
        ("delta, CLI", delta("stream_event")),
        ("delta, SDK", delta("StreamEvent")),
        ("delta, plain dataclass", delta("").replacen("\"type\":\"\",", "", 1)),
        ("text 1 MiB, prose", text(&prose.repeat((1 << 20) / prose.len()))),
        ("tool_result 1 MiB", tool_result(&prose.repeat((1 << 19) / prose.len()))),
        ("log line, unrecognised", r#"{"level":"info","time":"2026-11-20T08:53:46.584Z","logger":"app.worker","message":"a structured log line of an agent's own","attempt":3,"elapsed":0.25}"#.into()),
        ("log line, text", "2026-11-20 08:53:46,584 INFO app.worker: a log line of an agent's own, which is no JSON at all".into()),
    ]
}

/// A line of about `size` bytes.
fn tool_use(size: usize) -> String {
    let line = |command: &str| {
        format!(
            r#"{{"type":"assistant","message":{{"id":"msg_01","model":"claude-opus-5-5","content":[{{"type":"tool_use","id":"toolu_01","name":"Bash","input":{{"command":"{command}"}}}}]}},"parent_tool_use_id":null}}"#
        )
    };
    line(&"x".repeat(size.saturating_sub(line("").len())))
}

fn text(text: &str) -> String {
    format!(
        r#"{{"type":"assistant","message":{{"model":"claude-opus-5-5","id":"msg_01","type":"message","role":"assistant","content":[{{"type":"text","text":"{text}"}}],"stop_reason":null,"usage":{{"input_tokens":12,"cache_creation_input_tokens":300,"cache_read_input_tokens":4000,"output_tokens":1}}}},"parent_tool_use_id":null,"session_id":"2f0fe1a4-76e9-4d38-b200-18c28ea2b055","uuid":"de7bf5c9-fcb9-49fe-95b1-8c8d1f7d7141"}}"#
    )
}

/// The CLI prints the output twice: for the model and for programs.
fn tool_result(output: &str) -> String {
    format!(
        r#"{{"type":"user","message":{{"role":"user","content":[{{"tool_use_id":"toolu_01","type":"tool_result","content":"{output}","is_error":false}}]}},"parent_tool_use_id":null,"session_id":"2f0fe1a4-76e9-4d38-b200-18c28ea2b055","uuid":"de7bf5c9-fcb9-49fe-95b1-8c8d1f7d7141","timestamp":"2026-11-20T08:54:13.995Z","tool_use_result":{{"stdout":"{output}","stderr":"","interrupted":false,"isImage":false}},"tool_result_meta":[{{"id":"toolu_01","permission_decision":{{"decision":"accept","source":"config"}}}}]}}"#
    )
}

fn delta(kind: &str) -> String {
    format!(
        r#"{{"type":"{kind}","event":{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"This stream will stall. "}}}},"session_id":"2f0fe1a4-76e9-4d38-b200-18c28ea2b055","parent_tool_use_id":null,"uuid":"de7bf5c9-fcb9-49fe-95b1-8c8d1f7d7141","api_message_id":"msg_01"}}"#
    )
}
