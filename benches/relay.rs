//! What supervision costs: the figures of the README and the budgets of DESIGN §10, measured on the binary that ships.
//!
//! `cargo bench --bench relay`. The benchmark runs itself as the agent. Figures are the best of a few rounds, because on
//! a shared machine everything else only adds.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark may panic, and prints"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const ROUNDS: usize = 3;
const THROUGHPUT_BYTES: usize = 200 << 20;
const LATENCY_LINES: usize = 4000;

/// A line of the stream that partial messages make, which is the most frequent there is.
fn line(bytes: usize) -> String {
    let (head, tail) = (
        r#"{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""#,
        r#""}},"session_id":"0901c788","parent_tool_use_id":null,"uuid":"4afc"}"#,
    );
    let padding = bytes.saturating_sub(head.len() + tail.len() + 1);
    format!("{head}{}{tail}\n", "x".repeat(padding))
}

fn nanos() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos()
}

/// This program as the agent.
fn act(role: &str) {
    let mut out = std::io::stdout().lock();
    match role.split_once(':') {
        Some(("flood", bytes)) => {
            let line = line(bytes.parse().unwrap());
            let block = line.repeat((1 << 20) / line.len() + 1);
            let mut left = THROUGHPUT_BYTES;
            while left > 0 {
                out.write_all(block.as_bytes()).unwrap();
                left = left.saturating_sub(block.len());
            }
        }
        Some(("tick", _)) => {
            for _ in 0..LATENCY_LINES {
                writeln!(out, r#"{{"type":"tick","sent":{}}}"#, nanos()).unwrap();
                out.flush().unwrap();
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        Some(("sleep", seconds)) => {
            std::thread::sleep(Duration::from_secs(seconds.parse().unwrap()))
        }
        _ => {}
    }
}

fn supervised(arguments: &[&str], role: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandtrace"));
    command
        .arg("run")
        .args(arguments)
        .arg("--")
        .arg(std::env::current_exe().unwrap());
    command
        .env("SANDTRACE_BENCH_ROLE", role)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn alone(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .env("SANDTRACE_BENCH_ROLE", role)
        .stdin(Stdio::null());
    command
}

/// Seconds until all output is read, with the most resident memory on the way.
fn drain(mut command: Command) -> (f64, u64) {
    let began = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut chunk = vec![0; 1 << 20];
    let mut peak = 0;
    let mut reads = 0_u32;
    while out.read(&mut chunk).unwrap() > 0 {
        reads += 1;
        if reads.is_multiple_of(256) {
            peak = peak.max(rss(&child));
        }
    }
    assert!(child.wait().unwrap().success());
    (began.elapsed().as_secs_f64(), peak)
}

/// Resident memory in KiB.
fn rss(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn throughput(bytes: usize, journal: Option<&str>) {
    let role = format!("flood:{bytes}");
    let line_bytes = line(bytes).len();
    let mut best = f64::MAX;
    let mut peak = 0;
    for _ in 0..ROUNDS {
        let arguments = ["--journal", journal.unwrap_or("off")];
        let (seconds, memory) = drain(supervised(&arguments, &role));
        best = best.min(seconds);
        peak = peak.max(memory);
        if let Some(journal) = journal {
            fs::remove_dir_all(journal).unwrap();
        }
    }
    let (direct, _) = (0..ROUNDS)
        .map(|_| drain(alone(&role)))
        .reduce(|a, b| if a.0 < b.0 { a } else { b })
        .unwrap();
    let rate = THROUGHPUT_BYTES as f64 / best;
    println!(
        "relay, {line_bytes:>5} B lines, journal {:<3}  {:>6.0} MB/s  {:>8.0} lines/s  peak RSS {:.1} MiB  (alone {:.0} MB/s)",
        if journal.is_some() { "on" } else { "off" },
        rate / 1e6,
        rate / line_bytes as f64,
        peak as f64 / 1024.0,
        THROUGHPUT_BYTES as f64 / direct / 1e6,
    );
}

/// Microseconds from the agent's write to our read, sorted.
fn latencies(mut command: Command) -> Vec<f64> {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut found = Vec::with_capacity(LATENCY_LINES);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let received = nanos();
        let Some(sent) = line.strip_prefix(r#"{"type":"tick","sent":"#) else {
            continue;
        };
        let digits = sent.split(|c: char| !c.is_ascii_digit()).next().unwrap();
        let sent: u128 = digits.parse().unwrap();
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        found.push((received - sent) as f64 / 1e3);
    }
    child.wait().unwrap();
    found.sort_by(f64::total_cmp);
    assert_eq!(found.len(), LATENCY_LINES);
    found
}

fn latency(journal: &str) {
    let direct = latencies(alone("tick:"));
    for (name, arguments) in [
        ("off", ["--journal", "off"]),
        ("on", ["--journal", journal]),
    ] {
        let ours = latencies(supervised(&arguments, "tick:"));
        let at = |sorted: &[f64], share: usize| sorted[sorted.len() * share / 1000];
        println!(
            "added latency, journal {name:<3}  p50 {:.0} us  p99 {:.0} us  (alone p50 {:.0}, p99 {:.0})",
            at(&ours, 500) - at(&direct, 500),
            at(&ours, 990) - at(&direct, 990),
            at(&direct, 500),
            at(&direct, 990),
        );
    }
    fs::remove_dir_all(journal).unwrap();
}

/// Milliseconds from the supervisor's start to the agent's exec, and from the agent's exit to the supervisor's.
fn edges(journal: &str) {
    let mut spawn = Vec::new();
    let mut whole = Vec::new();
    for _ in 0..30 {
        let began = Instant::now();
        let output = supervised(&["--journal", journal], "none:")
            .output()
            .unwrap();
        whole.push(began.elapsed().as_secs_f64() * 1e3);
        let text = String::from_utf8(output.stdout).unwrap();
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        spawn.push(last["data"]["phases"]["spawn_ms"].as_f64().unwrap());
    }
    spawn.sort_by(f64::total_cmp);
    whole.sort_by(f64::total_cmp);
    println!(
        "exec of the agent after start   p50 {:.2} ms  worst {:.2} ms",
        spawn[15], spawn[29]
    );
    println!(
        "a whole run of nothing          p50 {:.1} ms  worst {:.1} ms",
        whole[15], whole[29]
    );
    fs::remove_dir_all(journal).unwrap();
}

/// What a run that waits costs.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn idle(journal: &str) {
    let mut child = supervised(&["--journal", journal], "sleep:10")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let before = cpu_ticks(&child);
    std::thread::sleep(Duration::from_secs(6));
    let ticks = cpu_ticks(&child) - before;
    println!(
        "idle: RSS {:.1} MiB, CPU {:.2} % of a core (sampling each second)",
        rss(&child) as f64 / 1024.0,
        ticks as f64 / 6.0,
    );
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    child.wait().unwrap();
    fs::remove_dir_all(journal).unwrap();
}

/// User and system time in hundredths of a second.
fn cpu_ticks(child: &Child) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let after_name = stat.rsplit(") ").next().unwrap();
    after_name
        .split(' ')
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum()
}

fn main() {
    if let Ok(role) = std::env::var("SANDTRACE_BENCH_ROLE") {
        return act(&role);
    }
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal");
    let journal = journal.to_str().unwrap();
    edges(journal);
    latency(journal);
    for bytes in [200, 4096] {
        throughput(bytes, None);
        throughput(bytes, Some(journal));
    }
    idle(journal);
}
