//! What redaction costs: a span, a text without secrets, a text full of keywords. `cargo bench --bench redact`.
//!
//! The spans are those of every recording of a real agent, as the session concludes them; the redactor knows an
//! environment such as an agent's. Figures are the best of many rounds: what disturbs a round can only slow it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark may panic, and prints"
)]

use std::ffi::OsStr;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use opentelemetry::trace::TraceId;
use sandtrace::agent::decode;
use sandtrace::session::{
    Capture, Effects, FinishedSpan, Input, ProbePolicy, Session, SessionConfig, TraceContext,
};
use sandtrace::telemetry::Redactor;
use sandtrace::time::{Now, UnixNanos};

const ROUNDS: usize = 30;

fn main() {
    let began = Instant::now();
    let redactor = redactor();
    println!("made in {:.0} µs", micros(began.elapsed()));
    let began = Instant::now();
    black_box(redactor.text("anything"));
    println!("first text in {:.0} µs", micros(began.elapsed()));
    rules();
    for capture in [Capture::Preview, Capture::Full] {
        let spans = spans(capture);
        let began = Instant::now();
        redact(&redactor, spans.clone());
        let first = micros(began.elapsed()) / spans.len() as f64;
        let copied = fastest(|| {
            black_box(spans.clone());
        });
        let redacted = fastest(|| redact(&redactor, spans.clone()));
        println!(
            "capture {capture:?}: {} spans, {:.2} µs a span ({first:.2} the first time, with the rules to compile)",
            spans.len(),
            micros(redacted.saturating_sub(copied)) / spans.len() as f64,
        );
    }
    let prose = "The quick brown fox jumps over the lazy dog, then writes some code about it. ";
    let code = "let token = self.tokens.next_token(); password: String, api_key=settings.api_key, \
                https://example.com/a?b=c sk-ant- eyJhbG ghp_ AKIA -----BEGIN ";
    for (name, text) in [
        ("prose, 40 KiB", prose.repeat(40 * 1024 / prose.len())),
        ("keywords, 40 KiB", code.repeat(40 * 1024 / code.len())),
        ("one word, 40 KiB", "a".repeat(40 * 1024)),
        ("eyJ, 40 KiB", "eyJ.".repeat(10 * 1024)),
        ("password=, 40 KiB", "password=".repeat(40 * 1024 / 9)),
        ("://, 40 KiB", "://a:".repeat(8 * 1024)),
    ] {
        let time = fastest(|| {
            black_box(redactor.text(black_box(&text)));
        });
        let rate = text.len() as f64 / time.as_secs_f64() / 1e6;
        println!("{name:<20}{:>10.0} µs{rate:>8.0} MB/s", micros(time));
    }
}

/// What it costs that a rule is compiled when its keyword comes for the first time: time for whoever comes across it,
/// and memory once it happened to all.
fn rules() {
    let table = include_str!("../src/telemetry/redaction/rules.tsv");
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let rules: Vec<(&str, String)> = lines
        .map(|line| {
            let mut columns = line.split('\t');
            let (id, keywords) = (columns.next().unwrap(), columns.next().unwrap());
            // What may stand before the keyword of any rule: a space, but for one that wants a digit.
            let before = if columns.next() == Some("digit") {
                "1"
            } else {
                " "
            };
            let keyword = keywords.split(',').next().unwrap();
            (id, format!("{before}{keyword}"))
        })
        .collect();
    let before = resident();
    let mut grown = 0;
    let mut costs: Vec<(f64, &str)> = rules.iter().map(|(id, _)| (f64::MAX, *id)).collect();
    for round in 0..ROUNDS {
        let redactor = redactor();
        black_box(redactor.text("anything"));
        for ((_, text), (cost, _)) in rules.iter().zip(&mut costs) {
            let began = Instant::now();
            black_box(redactor.text(text));
            *cost = cost.min(micros(began.elapsed()));
        }
        if round == 0 {
            grown = resident() - before;
        }
    }
    costs.sort_by(|one, other| one.0.total_cmp(&other.0));
    let all: f64 = costs.iter().map(|(cost, _)| cost).sum();
    let (most, dearest) = costs[costs.len() - 1];
    println!(
        "{} rules compile in {:.0} µs at the median, {most:.0} µs at most ({dearest}), {all:.0} µs in all; \
         a redactor with all of them takes {grown} KiB",
        costs.len(),
        costs[costs.len() / 2].0,
    );
}

/// Of this process, in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.unwrap().parse().unwrap()
}

fn redactor() -> Redactor {
    let variables = [
        (
            "ANTHROPIC_API_KEY",
            "made-up-value-of-an-anthropic-key-0123456789",
        ),
        ("GITHUB_TOKEN", "made-up-value-of-a-github-token-0123456789"),
        ("DATABASE_URL", "postgres://me:made-up-password@db/x"),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20made-up-bearer",
        ),
        (
            "AWS_SECRET_ACCESS_KEY",
            "made/up/value/of+an+aws+secret+0123456789",
        ),
        ("SERVICE_PASSWORD", "made-up-password-2"),
    ];
    let variables = variables.map(|(name, value)| (OsStr::new(name), OsStr::new(value)));
    Redactor::new(variables, Vec::new())
}

fn redact(redactor: &Redactor, spans: Vec<FinishedSpan>) {
    for mut span in spans {
        redactor.span(&mut span);
        black_box(span);
    }
}

/// The spans of all recordings.
fn spans(capture: Capture) -> Vec<FinishedSpan> {
    let recordings = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recordings");
    let mut spans = Vec::new();
    for recording in fs::read_dir(recordings).unwrap() {
        for kind in ["cli.jsonl", "sdk.jsonl"] {
            let Ok(stream) = fs::read(recording.as_ref().unwrap().path().join(kind)) else {
                continue;
            };
            let mut effects = Effects::default();
            let mut session = Session::new(config(capture), at(0), &mut effects);
            for (index, line) in stream.split(|byte| *byte == b'\n').enumerate() {
                let decoded = decode(line);
                session.handle(at(index as u64), Input::Line(&decoded), &mut effects);
                spans.append(&mut effects.spans.closed);
                effects.clear();
            }
        }
    }
    spans
}

fn at(millis: u64) -> Now {
    let uptime = Duration::from_millis(millis);
    Now {
        wall: UnixNanos(1_769_860_800_000_000_000).plus(uptime),
        uptime,
    }
}

fn config(capture: Capture) -> SessionConfig {
    SessionConfig {
        run_id: "run-1".to_owned(),
        context: TraceContext {
            trace_id: TraceId::from_bytes([7; 16]),
            parent_span_id: None,
            sampled: true,
            trace_state: String::new(),
        },
        agent_name: "claude".to_owned(),
        session_id: None,
        user_id: None,
        attributes: Vec::new(),
        capture,
        deadline: None,
        idle_timeout: None,
        sandbox_ends_at: None,
        grace: Duration::from_secs(10),
        survivors: None,
        probe: ProbePolicy::Off,
        executable: "python3".to_owned(),
        resumed: false,
    }
}

fn fastest(mut work: impl FnMut()) -> Duration {
    let round = |_| {
        let began = Instant::now();
        work();
        began.elapsed()
    };
    (0..ROUNDS).map(round).min().unwrap()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
