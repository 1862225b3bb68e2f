//! What following many runs costs an application: 100 at once through one client, in the fake sandbox.
//!
//! `cargo bench --bench client`. The benchmark runs itself as the sandbox, so that the figures are the client's alone;
//! the runs are real ones, each with a supervisor of its own. In the second round every connection is cut after 64 KiB.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark may panic, and prints"
)]

#[path = "../tests/fake_envd/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "shared with the tests of the client, which use all of it"
)]
mod fake_envd;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use sandtrace_client::e2b::{Client, Config, Sandbox};
use sandtrace_client::{Launch, Outcome};

use self::fake_envd::{Cuts, FakeEnvd, Options};

const RUNS: usize = 100;
const LINES: usize = 2000;
/// A round that hangs is a finding.
const PATIENCE: Duration = Duration::from_secs(900);

/// This program as the sandbox, until its stdin ends.
fn serve(cut_every: Option<u64>) {
    let mut options = Options::default();
    options.faults.cuts = cut_every.map_or(Cuts::Never, Cuts::Every);
    let fake = FakeEnvd::with(options);
    println!("{}", fake.url());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// The sandbox as a process of its own.
struct Served {
    child: Child,
    stdin: Option<ChildStdin>,
    url: String,
}

impl Served {
    fn start(cut_every: Option<u64>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env("CLIENT_BENCH_CUT", cut_every.unwrap_or(0).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut url).unwrap();
        let stdin = child.stdin.take();
        let url = url.trim().to_owned();
        Self { child, stdin, url }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.child.wait().unwrap();
    }
}

/// Kilobytes, by `/proc/self/status`.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Seconds of CPU that this process used.
fn cpu() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / 100.0
}

async fn follow(sandbox: Sandbox) -> (u64, u64) {
    let script = format!(
        r#"n=0; while [ $n -lt {LINES} ]; do n=$((n+1)); echo "{{\"n\":$n,\"text\":\"{}\"}}"; done"#,
        "x".repeat(180)
    );
    let launch = Launch::new(["sh", "-c", &script])
        .program(env!("CARGO_BIN_EXE_sandtrace"))
        .var("SANDTRACE_PROBE", "off");
    let mut live = sandbox.start(&launch).await.unwrap();
    let (mut events, mut printed) = (0, 0);
    while let Some(event) = live.next().await.unwrap() {
        events += 1;
        assert_eq!(event.seq(), events, "each event once, in order");
        printed += usize::from(event.as_printed().is_some());
    }
    assert_eq!(printed, LINES);
    assert_eq!(live.run().missing(), 0);
    let conclusion = live.conclude().await.unwrap();
    assert_eq!(conclusion.outcome, Outcome::Success, "{conclusion:?}");
    (events, live.breaks())
}

fn round(name: &str, cut_every: Option<u64>) {
    let served = Served::start(cut_every);
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, cpu_before, begun) = (memory("VmRSS:"), cpu(), Instant::now());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (events, breaks) = runtime.block_on(async {
        let config = Config::default()
            .api_key("fake-api-key")
            .all_at(&served.url);
        let create = Client::new(config).unwrap().create("agents");
        let sandbox = create.timeout(PATIENCE).send().await.unwrap();
        let mut runs = tokio::task::JoinSet::new();
        for _ in 0..RUNS {
            runs.spawn(follow(sandbox.clone()));
        }
        let mut total = (0, 0);
        let all = async {
            while let Some(counts) = runs.join_next().await {
                let (events, breaks) = counts.unwrap();
                total = (total.0 + events, total.1 + breaks);
            }
        };
        tokio::time::timeout(PATIENCE, all).await.unwrap();
        total
    });
    let (seconds, used) = (begun.elapsed().as_secs_f64(), cpu() - cpu_before);
    let peak = memory("VmHWM:");
    println!("{name}");
    println!("  runs at once, on one thread    {RUNS}");
    println!("  events, each once, in order    {events}");
    println!("  broken connections             {breaks}");
    println!("  wall time                      {seconds:.1} s");
    println!(
        "  the client's CPU time          {used:.2} s, {:.1} µs an event",
        used * 1e6 / events as f64
    );
    println!(
        "  its memory before, and at most {:.1} MiB, {:.1} MiB",
        before as f64 / 1024.0,
        peak as f64 / 1024.0
    );
    println!(
        "  a run's part of it             {:.0} KiB",
        peak.saturating_sub(before) as f64 / RUNS as f64
    );
}

fn main() {
    if let Ok(cut) = std::env::var("CLIENT_BENCH_CUT") {
        let cut: u64 = cut.parse().unwrap();
        serve((cut > 0).then_some(cut));
        return;
    }
    round("whole connections", None);
    round("connections cut every 64 KiB", Some(64 << 10));
}
