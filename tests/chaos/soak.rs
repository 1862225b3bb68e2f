//! One long run with a line a second, random faults beside it, and a look at what the supervisor holds.

use std::fs;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::fault::Fault;
use crate::supervised::{Running, agent, poll};
use crate::{Options, report, say, tried};

/// How long a supervisor takes until it has all that it will ever hold.
const WARM_UP: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Growth of resident memory, in KiB an hour, that a journal of so many lines and an allocator may have: what leaks a
/// hundred bytes a second has 350.
const RSS_SLOPE: f64 = 256.0;

/// What the supervisor holds.
#[derive(Debug, Clone, Copy)]
struct Look {
    hours: f64,
    files: f64,
    rss_kib: f64,
    threads: f64,
}

fn look(run: &Running, began: Instant) -> Look {
    let pid = run.pid();
    let files = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    Look {
        hours: began.elapsed().as_secs_f64() / 3600.0,
        files: files as f64,
        rss_kib: run.memory("VmRSS:") as f64,
        threads: run.memory("Threads:") as f64,
    }
}

/// The slope of the line through all looks, an hour.
fn slope(looks: &[Look], value: impl Fn(&Look) -> f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let count = looks.len() as f64;
    let mean = |of: &dyn Fn(&Look) -> f64| looks.iter().map(of).sum::<f64>() / count;
    let (hours, values) = (mean(&|look| look.hours), mean(&value));
    let above: f64 = looks
        .iter()
        .map(|look| (look.hours - hours) * (value(look) - values))
        .sum();
    let below: f64 = looks.iter().map(|look| (look.hours - hours).powi(2)).sum();
    if below > 0.0 { above / below } else { 0.0 }
}

pub(crate) fn soak(options: &Options) -> ExitCode {
    let seconds = options.lasts.as_secs().to_string();
    // Longer than it is needed: it is asked to end.
    let lines = (options.lasts.as_secs() + 3600).to_string();
    let run = agent([
        env!("CARGO_BIN_EXE_fault-agent"),
        "--every",
        "1",
        "--last-words",
        "--init",
        "--lines",
        &lines,
    ])
    .option("--idle-timeout", "2h")
    .start();
    let began = Instant::now();
    let (mut looks, mut faults, mut harmed) = (Vec::new(), 0, 0);
    let (mut next_look, mut next_fault) = (WARM_UP, options.every);
    while began.elapsed() < options.lasts {
        thread::sleep(Duration::from_millis(200));
        if began.elapsed() >= next_look {
            looks.push(look(&run, began));
            next_look += LOOK_EVERY;
        }
        if began.elapsed() >= next_fault {
            let found = tried(Fault::random(options.seed, faults));
            faults += 1;
            harmed += usize::from(!found.troubles.is_empty());
            report(&found, options.seed);
            next_fault += options.every;
            if let Some(last) = looks.last() {
                say(&format!(
                    "{} s of {seconds}: {faults} faults; {} files, {} KiB, {} threads",
                    began.elapsed().as_secs(),
                    last.files,
                    last.rss_kib,
                    last.threads
                ));
            }
        }
    }
    run.send(Signal::SIGTERM);
    let run = run.wait();
    let printed = run.transcript().agent_lines().len();
    run.assert_sound();
    poll("the end of all", || {
        run.processes().is_empty().then_some(())
    });
    let slopes = [
        slope(&looks, |look| look.files),
        slope(&looks, |look| look.rss_kib),
        slope(&looks, |look| look.threads),
    ];
    let first = looks.first().map_or(0.0, |look| look.rss_kib);
    let last = looks.last().map_or(0.0, |look| look.rss_kib);
    let summary = format!(
        "{seconds} s, {faults} faults, {harmed} with harm, {printed} lines, {} looks, per hour: {:.2} files, {:.0} KiB resident ({first:.0} to {last:.0}), {:.2} threads (seed {})\n",
        looks.len(),
        slopes[0],
        slopes[1],
        slopes[2],
        options.seed
    );
    io::stdout().write_all(summary.as_bytes()).unwrap();
    // Over minutes a page or two makes a steep slope, so growth must also be more than that.
    let grows = slopes[1] > RSS_SLOPE && last - first > 1024.0;
    let is_steady = slopes[0].abs() < 0.01 && slopes[2].abs() < 0.01 && !grows;
    if harmed == 0 && is_steady {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
