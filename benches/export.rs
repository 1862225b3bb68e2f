//! What the export pipeline takes: memory over a day's worth of batches, spans a second and memory for a million spans,
//! with one backend that is slow and one that never answers.
//!
//! `cargo bench --bench export`; `SANDTRACE_BENCH_SPANS=50000` for a quick look, which leaves the day out. Memory is this
//! process's, the receiver, which keeps nothing, included. Compressed time must not make a backlog that a real day has
//! not: whoever makes the spans waits for the slow backend to take them, spool and all.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark may panic, and prints"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use opentelemetry::trace::{SpanId, SpanKind, TraceId};
use sandtrace::session::span::{FinishedSpan, SpanStatus};
use sandtrace::telemetry::{
    Batching, Compression, Destination, Dialect, OtlpDestination, Protocol, Route, Semconv, Signal,
    SpoolPlace, Telemetry, TelemetryConfig, Temporality, TlsFiles,
};
use sandtrace::time::UnixNanos;

/// How long the slow backend takes for a request.
const SLOW: Duration = Duration::from_millis(5);
/// Spans that the slow backend is behind, at most: a few requests' worth.
const AHEAD: u64 = 3_000;
/// Likewise in the day, where a request holds five: it would be behind by one.
const AHEAD_IN_A_DAY: u64 = 10;

fn main() {
    match std::env::var("SANDTRACE_BENCH_SPANS") {
        Ok(spans) => million(spans.parse().unwrap()),
        Err(_) => {
            day();
            million(1_000_000);
        }
    }
}

/// As many spans as fast as they are taken.
fn million(spans: u64) {
    let journal = tempfile::tempdir().unwrap();
    let telemetry = start(journal.path(), Duration::from_secs(5));
    let began = Instant::now();
    let mut early = 0;
    for number in 0..spans {
        telemetry.record(span(number));
        if number % 1_000 == 0 {
            keep_pace(&telemetry, AHEAD);
        }
        if number == spans / 10 {
            early = kibibytes("VmRSS");
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "{spans} spans: {:.0} spans/s, RSS {:.1} MiB after a tenth",
        spans as f64 / took,
        early as f64 / 1024.0,
    );
    tell("  at their end", journal.path());
    finish(telemetry);
}

/// Seventeen thousand batches of a few spans, which is what a day makes every five seconds.
fn day() {
    const BATCHES: u64 = 24 * 60 * 60 / 5;
    let journal = tempfile::tempdir().unwrap();
    let telemetry = start(journal.path(), Duration::from_secs(5));
    let began = Instant::now();
    let hours = |hours: u64| BATCHES / 24 * hours;
    for batch in 0..BATCHES {
        for number in 0..5 {
            telemetry.record(span(batch * 5 + number));
        }
        telemetry.flush_soon();
        keep_pace(&telemetry, AHEAD_IN_A_DAY);
        if let Some(hour) = [1, 6, 12, 18, 23]
            .into_iter()
            .find(|it| hours(*it) == batch)
        {
            tell(&format!("after hour {hour} of a day"), journal.path());
        }
    }
    tell("after the day", journal.path());
    println!(
        "  {BATCHES} batches of five spans in {:.0} s",
        began.elapsed().as_secs_f64()
    );
    finish(telemetry);
}

fn tell(moment: &str, run: &Path) {
    println!(
        "{moment}: RSS {:.1} MiB, peak {:.1} MiB, spool {} MiB",
        kibibytes("VmRSS") as f64 / 1024.0,
        kibibytes("VmHWM") as f64 / 1024.0,
        spool_bytes(run) >> 20,
    );
}

fn finish(telemetry: Telemetry) {
    let report = telemetry
        .shutdown(Duration::from_secs(20))
        .blocking_recv()
        .unwrap();
    println!("  {} without room in the run buffer", report.spans_dropped);
    for row in report.destinations {
        println!(
            "  {}: exported {}, dropped {}, queued {}, of these on disk {}; {}",
            row.name,
            row.exported,
            row.dropped,
            row.queued,
            row.spooled,
            row.last_error.unwrap_or_default()
        );
    }
}

/// Waits until the slow backend is behind by no more than `ahead` spans, and the other's are all in its queue.
fn keep_pace(telemetry: &Telemetry, ahead: u64) {
    loop {
        let counts = telemetry.counts();
        let [slow, silent] = counts.destinations.as_slice() else {
            panic!("two destinations");
        };
        if slow.queued <= ahead && silent.queued - silent.spooled <= ahead.max(1_000) {
            return;
        }
        thread::sleep(Duration::from_micros(200));
    }
}

fn start(run: &Path, delay: Duration) -> Telemetry {
    let destinations = [("slow", Some(SLOW)), ("silent", None)]
        .map(|(name, wait)| destination(name, receiver(wait)));
    Telemetry::start(TelemetryConfig {
        destinations: destinations.into(),
        resource: vec![("service.name".into(), "bench".into())],
        batching: Batching {
            delay,
            ..Batching::default()
        },
        spool: Some(SpoolPlace {
            run: run.to_owned(),
            root: None,
        }),
        ..TelemetryConfig::default()
    })
    .unwrap()
}

fn destination(name: &'static str, port: u16) -> Destination {
    Destination::Otlp(Box::new(OtlpDestination {
        name,
        dialect: Dialect::Otlp,
        semconv: Semconv::V1_41,
        resource: Vec::new(),
        temporality: Temporality::Cumulative,
        routes: vec![Route {
            signal: Signal::Traces,
            endpoint: format!("http://127.0.0.1:{port}/v1/traces")
                .parse()
                .unwrap(),
            headers: HeaderMap::new(),
            protocol: Protocol::HttpProtobuf,
            compression: Compression::Gzip,
            timeout: Duration::from_secs(10),
            tls: TlsFiles::default(),
        }],
    }))
}

fn span(number: u64) -> FinishedSpan {
    let now = UnixNanos::from(SystemTime::now());
    FinishedSpan {
        trace_id: TraceId::from(1),
        span_id: SpanId::from(number + 1),
        parent_span_id: Some(SpanId::from(1)),
        parent_is_remote: false,
        name: "execute_tool Bash".into(),
        kind: SpanKind::Internal,
        start: now,
        end: now.plus(Duration::from_millis(3)),
        status: SpanStatus::Unset,
        attributes: (0..10)
            .map(|key| {
                let value = format!("{:x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> key);
                (format!("gen_ai.attribute.{key}").into(), value.into())
            })
            .collect(),
        events: Vec::new(),
        dropped_events: 0,
        link: None,
        content: Vec::new(),
    }
}

/// Answers each request after a while or never, and keeps nothing. It lives as long as the process.
fn receiver(wait: Option<Duration>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream, wait));
        }
    });
    port
}

fn answer(stream: TcpStream, wait: Option<Duration>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).ok()?;
        let Some(wait) = wait else {
            // Until the other end has had enough.
            std::io::copy(&mut reader, &mut std::io::sink()).ok()?;
            return None;
        };
        thread::sleep(wait);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .ok()?;
    }
}

fn kibibytes(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn spool_bytes(run: &Path) -> u64 {
    let Ok(files) = fs::read_dir(run.join("spool")) else {
        return 0;
    };
    files
        .flatten()
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum()
}
