//! What a sample costs, against the budget of DESIGN §10: 1 ms with 100 processes.
//!
//! `cargo bench --bench sample`. The processes are sleepers of the benchmark's own; figures are medians, and the best of
//! many looks, because on a shared machine everything else only adds.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark may panic, and prints"
)]

use std::hint::black_box;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sandtrace::process::Tree;
use sandtrace::resources::{MemoryCgroup, ReapedCpu, SandboxWatch, TreeWatch};

const PROCESSES: usize = 100;
const LOOKS: usize = 300;
const BUDGET_MS: f64 = 1.0;

/// Sleepers that are ended whatever happens.
struct Sleepers(Vec<Child>);

impl Sleepers {
    fn new(count: usize) -> Self {
        let sleeper = |_| {
            let mut command = Command::new("sleep");
            command.arg("300").stdin(Stdio::null()).spawn().unwrap()
        };
        Self((0..count).map(sleeper).collect())
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Milliseconds: the best and the median.
fn measure(mut look: impl FnMut()) -> (f64, f64) {
    look();
    let mut took: Vec<f64> = (0..LOOKS)
        .map(|_| {
            let began = Instant::now();
            look();
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    took.sort_by(f64::total_cmp);
    (took[0], took[LOOKS / 2])
}

fn report(what: &str, (best, median): (f64, f64)) {
    println!("{what:<34} best {best:.3} ms  p50 {median:.3} ms");
}

fn main() {
    let tree = Tree::from_now();
    let _sleepers = Sleepers::new(PROCESSES);
    std::thread::sleep(Duration::from_millis(200));
    let mut watch = TreeWatch::new(tree, ReapedCpu::default());
    let seen = watch.look().unwrap().processes.len();
    let others = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok())
        .count();
    println!("{seen} processes of the run, {others} in the sandbox");
    assert_eq!(seen, PROCESSES);
    let mut sandbox = SandboxWatch::new(std::env::temp_dir()).unwrap();
    let cgroup = MemoryCgroup::of_this_process();
    report("a look at the tree", measure(|| drop(watch.look())));
    report(
        "a look at the sandbox",
        measure(|| {
            black_box(sandbox.look());
        }),
    );
    let both = measure(|| {
        drop(watch.look());
        black_box(sandbox.look());
        black_box(cgroup.as_ref().and_then(MemoryCgroup::resources));
    });
    report("a sample: both, and the cgroup", both);
    let verdict = if both.1 <= BUDGET_MS {
        "kept"
    } else {
        "missed"
    };
    println!("budget {BUDGET_MS} ms a sample: {verdict}");
}
