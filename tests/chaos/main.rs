//! Random faults, from inside and outside, each run twice: alone and supervised. Nobody may see a difference.
//!
//! `scripts/chaos` runs N of them and sums up in one line; `scripts/soak` runs one every half minute beside a run that
//! goes on, whose files, memory and threads must stay as they are. Everything comes from a seed, and a fault from the
//! seed and its index alone: so each can be run again by itself.
#![expect(
    clippy::unwrap_used,
    reason = "what goes wrong in here is a finding, and told as one"
)]

mod check;
mod fault;
mod run;
mod soak;
#[path = "../supervised/mod.rs"]
#[expect(
    dead_code,
    reason = "shared with the black-box tests, which use all of it"
)]
mod supervised;
#[path = "../support/mod.rs"]
#[expect(
    dead_code,
    reason = "shared with the black-box tests, which use all of it"
)]
mod support;

use std::cell::Cell;
use std::io::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use self::check::{Harm, Trouble};
use self::fault::Fault;

const USAGE: &str = "usage: chaos [--faults N] [--seed S] [--only INDEX] [--jobs N]
       chaos --soak [--for DURATION] [--every DURATION] [--seed S]

  --faults N    how many random faults; 100
  --seed S      what they come from; a new one each time
  --only INDEX  this fault of the seed and no other, with what it does
  --jobs N      how many at once; 2
  --soak        one long run beside a random fault now and then; its files, memory and threads must not grow
  --for D       how long: 90s, 10m, 8h; 10m
  --every D     time between two faults; 30s
";

struct Options {
    faults: usize,
    seed: u64,
    only: Option<usize>,
    jobs: usize,
    soak: bool,
    lasts: Duration,
    every: Duration,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut options = Self {
            faults: 100,
            seed: now.map_or(1, |now| now.as_secs() % 1_000_000),
            only: None,
            jobs: 2,
            soak: false,
            lasts: Duration::from_secs(600),
            every: Duration::from_secs(30),
        };
        while let Some(flag) = arguments.next() {
            match flag.as_str() {
                "--soak" => {
                    options.soak = true;
                    continue;
                }
                "--help" | "-h" => return Err(String::new()),
                _ => {}
            }
            let value = arguments
                .next()
                .ok_or_else(|| format!("{flag} is unknown, or takes a value"))?;
            let number = || {
                value
                    .parse()
                    .map_err(|_| format!("{flag}: '{value}' is no number"))
            };
            match flag.as_str() {
                "--faults" => options.faults = number()?,
                "--seed" => options.seed = value.parse().map_err(|_| "--seed takes a number")?,
                "--only" => options.only = Some(number()?),
                "--jobs" => options.jobs = number()?.max(1),
                "--for" => options.lasts = duration(&value)?,
                "--every" => options.every = duration(&value)?,
                _ => return Err(format!("{flag} is unknown")),
            }
        }
        Ok(options)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no duration such as 90s, 10m or 8h");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(number * unit))
}

/// What came of one fault.
struct Found {
    fault: Fault,
    runs: usize,
    troubles: Vec<Trouble>,
    /// How much later the supervised run was over than its twin; only where the fault takes no time by itself.
    delay: Option<Duration>,
}

thread_local! {
    static PANICKED_AT: Cell<Option<String>> = const { Cell::new(None) };
}

/// One fault, whatever happens in here.
fn tried(fault: Fault) -> Found {
    let result = panic::catch_unwind(AssertUnwindSafe(|| run::run(&fault)));
    let (runs, troubles, delay) = result.unwrap_or_else(|_| {
        let what = PANICKED_AT.take().unwrap_or_default();
        (2, vec![Trouble::new(Harm::AgentBroken, what)], None)
    });
    Found {
        fault,
        runs,
        troubles,
        delay,
    }
}

/// For whoever watches; stdout is for the one line.
fn say(text: &str) {
    let mut stderr = io::stderr().lock();
    writeln!(stderr, "{text}").unwrap();
}

fn report(found: &Found, seed: u64) {
    for trouble in &found.troubles {
        say(&format!(
            "fault {}: {}\n  {trouble}",
            found.fault.index, found.fault
        ));
    }
    if !found.troubles.is_empty() {
        say(&format!(
            "  again: scripts/chaos --seed {seed} --only {}",
            found.fault.index
        ));
    }
}

fn try_all(options: &Options) -> Vec<Found> {
    let indices: Vec<usize> = match options.only {
        Some(index) => vec![index],
        None => (0..options.faults).collect(),
    };
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Vec::new());
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..options.jobs.min(indices.len()) {
            scope.spawn(|| {
                while let Some(index) = indices.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let fault = Fault::random(options.seed, *index);
                    if options.only.is_some() {
                        say(&format!("fault {index}: {fault}"));
                    }
                    let found = tried(fault);
                    report(&found, options.seed);
                    let mut all = all.lock().unwrap();
                    all.push(found);
                    if all.len().is_multiple_of((indices.len() / 10).max(1)) {
                        let seconds = began.elapsed().as_secs();
                        say(&format!(
                            "{} of {} faults, {seconds} s",
                            all.len(),
                            indices.len()
                        ));
                    }
                }
            });
        }
    });
    let mut all = all.into_inner().unwrap();
    all.sort_by_key(|found| found.fault.index);
    all
}

fn summary(all: &[Found], seed: u64) -> (String, bool) {
    let count = |harm| {
        let harmed = |found: &&Found| found.troubles.iter().any(|trouble| trouble.harm == harm);
        all.iter().filter(harmed).count()
    };
    let harms = [Harm::BytesAltered, Harm::EventsLost, Harm::AgentBroken].map(count);
    let runs: usize = all.iter().map(|found| found.runs).sum();
    let mut delays: Vec<_> = all.iter().filter_map(|found| found.delay).collect();
    delays.sort();
    let p99 = delays.get((delays.len() * 99 / 100).min(delays.len().saturating_sub(1)));
    let p99 = p99.copied().unwrap_or_default().as_secs_f64() * 1e3;
    let list: String = all
        .iter()
        .map(|found| format!("{}\n", found.fault))
        .collect();
    let hash = Sha256::digest(list);
    let hash: String = hash[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    let [altered, lost, broken] = harms;
    let line = format!(
        "{} faults, {runs} runs, {altered} agent bytes altered, {lost} events lost, {broken} agents broken, p99 added exit delay {p99:.0} ms (list {hash}, seed {seed})\n",
        all.len()
    );
    (line, harms == [0; 3])
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) if why.is_empty() => {
            io::stdout().write_all(USAGE.as_bytes()).unwrap();
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            say(&format!("chaos: {why}\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    panic::set_hook(Box::new(|panic| {
        let what = panic.payload_as_str().unwrap_or_default();
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        PANICKED_AT.set(Some(format!("{what} ({place})")));
    }));
    if options.soak {
        return soak::soak(&options);
    }
    let all = try_all(&options);
    let mut slowest: Vec<_> = all.iter().filter(|found| found.delay.is_some()).collect();
    slowest.sort_by_key(|found| std::cmp::Reverse(found.delay));
    for found in slowest.iter().take(3) {
        let millis = found.delay.unwrap_or_default().as_millis();
        say(&format!(
            "{millis} ms added: fault {}: {}",
            found.fault.index, found.fault
        ));
    }
    let (line, is_clean) = summary(&all, options.seed);
    io::stdout().write_all(line.as_bytes()).unwrap();
    if is_clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
