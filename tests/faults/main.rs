//! Random faults of backends, from a seed: N destinations at once, each with another trouble, over M spans.
//!
//! `scripts/telemetry-faults` runs it and prints one line. Every span must have been acknowledged, or dropped with a
//! reason, or be still queued (in memory or on disk): what is none of these is lost, and loses the run its exit code.
//! A span that arrives twice is a duplicate, unless its first acknowledgement never reached us: whoever sends again
//! after a reset or a timeout cannot know. Those are counted apart.
#![expect(
    clippy::unwrap_used,
    reason = "what goes wrong in here is a finding, and told as one"
)]

mod backend;
#[path = "../support/mod.rs"]
#[expect(
    dead_code,
    reason = "shared with the black-box tests, which use all of it"
)]
mod support;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sandtrace::telemetry::{Batching, Telemetry, TelemetryConfig};
use sandtrace_client::wire;

use self::backend::{Backend, Tally};
use self::support::spans::{config, shutdown_timed, span};

const USAGE: &str =
    "usage: telemetry-faults [--destinations N] [--spans M] [--seed S] [--flush SECONDS]

  --destinations N  how many backends at once, each with faults of its own; 12
  --spans M         how many spans each of them is to get; 20000
  --seed S          what the faults come from; a new one each time
  --flush SECONDS   how long the end may take; 15
";

/// Spans that are recorded before others are given time.
const BURST: usize = 256;

const PAUSE: Duration = Duration::from_millis(10);

struct Options {
    destinations: usize,
    spans: usize,
    seed: u64,
    flush: Duration,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut options = Self {
            destinations: 12,
            spans: 20_000,
            seed: now.map_or(1, |now| now.as_secs() % 1_000_000),
            flush: Duration::from_secs(15),
        };
        while let Some(flag) = arguments.next() {
            if matches!(flag.as_str(), "--help" | "-h") {
                return Err(String::new());
            }
            let value = arguments.next();
            let value = value.ok_or_else(|| format!("{flag} is unknown, or takes a value"))?;
            let number = value.parse::<u64>();
            let number = number.map_err(|_| format!("{flag}: '{value}' is no number"))?;
            let count = usize::try_from(number).unwrap_or(usize::MAX);
            match flag.as_str() {
                "--destinations" => options.destinations = count,
                "--spans" => options.spans = count,
                "--seed" => options.seed = number,
                "--flush" => options.flush = Duration::from_secs(number),
                _ => return Err(format!("{flag} is unknown")),
            }
        }
        Ok(options)
    }
}

/// What came of one destination.
#[derive(Debug, Default)]
struct Sum {
    faults: u64,
    sent: u64,
    received: u64,
    duplicates: u64,
    unknowable: u64,
    dropped: u64,
    queued: u64,
    lost: u64,
}

impl Sum {
    fn of(tally: &Tally, counts: &wire::DestinationCounts, spans: u64) -> Self {
        let accounted = counts.exported + counts.dropped + counts.queued + counts.not_sampled;
        // Counted as delivered, though no backend has said so.
        let invented = counts.exported.saturating_sub(tally.acknowledged);
        // Missing in the counts, or counted twice.
        let unaccounted = spans.abs_diff(accounted);
        Self {
            faults: tally.faults,
            sent: spans,
            received: tally.received,
            duplicates: tally.duplicates,
            unknowable: tally.unknowable,
            dropped: counts.dropped,
            queued: counts.queued,
            lost: invented + unaccounted,
        }
    }

    fn add(&mut self, other: &Self) {
        self.faults += other.faults;
        self.sent += other.sent;
        self.received += other.received;
        self.duplicates += other.duplicates;
        self.unknowable += other.unknowable;
        self.dropped += other.dropped;
        self.queued += other.queued;
        self.lost += other.lost;
    }
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(wrong) if wrong.is_empty() => {
            io::stdout().write_all(USAGE.as_bytes()).unwrap();
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            writeln!(io::stderr(), "telemetry-faults: {wrong}\n{USAGE}").unwrap();
            return ExitCode::from(2);
        }
    };
    if run(&options) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(options: &Options) -> bool {
    let backends = (0..options.destinations).map(|index| Backend::start(options.seed, index));
    let backends: Vec<_> = backends.collect();
    let telemetry = Telemetry::start(TelemetryConfig {
        batching: Batching {
            delay: Duration::from_millis(500),
            max_spans: 100,
            ..Batching::default()
        },
        ..config(backends.iter().map(Backend::route).collect())
    });
    let telemetry = telemetry.unwrap();
    for number in 0..options.spans {
        telemetry.record(span(format!("{number:07}"), "a few words"));
        if number % BURST == BURST - 1 {
            thread::sleep(PAUSE);
        }
    }
    let began = Instant::now();
    let (report, late) = shutdown_timed(telemetry, options.flush);
    let mut all = Sum::default();
    let mut lines = String::new();
    for (backend, counts) in backends.iter().zip(&report.destinations) {
        let tally = backend.tally();
        let sum = Sum::of(&tally, counts, report.spans - report.spans_dropped);
        lines.push_str(&format!(
            "  {}: faults {}, received {}, exported {}, dropped {}, queued {}, duplicates {}, sent again {}, lost {}{}\n",
            backend.what(),
            sum.faults,
            sum.received,
            counts.exported,
            sum.dropped,
            sum.queued,
            sum.duplicates,
            sum.unknowable,
            sum.lost,
            counts.last_error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default(),
        ));
        all.add(&sum);
    }
    all.lost += report.spans_dropped * backends.len() as u64;
    lines.push_str(&format!(
        "seed {}; dropped with a reason {}, still queued {}, sent again because the acknowledgement was hidden {}; the end took {:.2} s of {:.2} s\n",
        options.seed,
        all.dropped,
        all.queued,
        all.unknowable,
        began.elapsed().as_secs_f64(),
        options.flush.as_secs_f64(),
    ));
    io::stderr().write_all(lines.as_bytes()).unwrap();
    writeln!(
        io::stdout(),
        "destinations {}, faults {}, spans sent {}, spans received {}, duplicates {}, lost {}",
        backends.len(),
        all.faults,
        all.sent,
        all.received,
        all.duplicates,
        all.lost,
    )
    .unwrap();
    if !late.is_zero() {
        writeln!(io::stderr(), "the final counts came {late:?} too late").unwrap();
    }
    all.lost == 0 && all.duplicates == 0 && late.is_zero()
}
