//! Samples at an interval, and looks at the tree between them while a tool runs.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use sandtrace_client::wire::{Resources, TreeResources};
use sysinfo::MINIMUM_CPU_UPDATE_INTERVAL;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::command_line;
use super::tree::{open_files, proportional_share};
use super::{Finding, MemoryCgroup, Occasion, Sample, SandboxWatch, TreeSample, TreeWatch};

/// While a tool runs, its processes are looked at no less often.
const TOOL_INTERVAL: Duration = Duration::from_millis(250);
/// How often open files are counted: as often as they are told.
const OPEN_FILES_EVERY: Duration = Duration::from_secs(5);
/// What the proportional share of memory may cost, at the end of a tool.
const SHARE_BOUND: Duration = Duration::from_millis(20);
/// How long the end of the run waits for the thread, which may hang in a file system that does not answer.
const END_BOUND: Duration = Duration::from_millis(500);

/// What to look at.
#[derive(Debug)]
pub struct Scope {
    pub watch: TreeWatch,
    /// Whose memory cgroup it is.
    pub agent: u32,
    /// Where the agent works: whose disk may become full.
    pub directory: PathBuf,
}

/// How closely the tree is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Idle,
    /// A tool runs.
    Tool,
}

#[derive(Debug)]
enum Wish {
    Look(Occasion),
    Pace(Pace),
    TellApart {
        pid: u32,
        start_ticks: u64,
        commands: Vec<(String, String)>,
    },
}

/// The thread that samples. Dropping it ends the thread.
#[derive(Debug)]
pub struct Sampler {
    /// `None` once it is told to stop: that this end is gone is the message.
    wishes: Option<mpsc::SyncSender<Wish>>,
    pace: Pace,
    /// Never carries anything: that the other end is gone says that the thread is.
    ended: mpsc::Receiver<()>,
    dropped: Arc<AtomicU64>,
}

impl Sampler {
    /// Sends a sample every `interval` until stopped or until the receiver is gone; the first comes after 200 ms, since
    /// CPU use needs two looks.
    ///
    /// When the channel is full the sample is dropped and counted: a newer one is worth more than an old one.
    pub fn start(interval: Duration, scope: Scope, findings: Sender<Finding>) -> io::Result<Self> {
        let (sender, wishes) = mpsc::sync_channel(16);
        let (alive, ended) = mpsc::sync_channel(0);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        thread::Builder::new()
            .name("sample".to_owned())
            .spawn(move || {
                sample(interval, scope, &findings, &wishes, &counter);
                drop(alive);
            })?;
        Ok(Self {
            wishes: Some(sender),
            pace: Pace::Idle,
            ended,
            dropped,
        })
    }

    /// Asks for a look now. One that is asked for while others wait is dropped: theirs will do.
    pub fn want(&self, occasion: Occasion) {
        if let Some(sender) = &self.wishes {
            sender.try_send(Wish::Look(occasion)).ok();
        }
    }

    /// Asks which of these tools' commands a process runs. Not answered if it is none of them, or while others wait: it
    /// is asked again at the next look.
    pub fn tell_apart(&self, pid: u32, start_ticks: u64, commands: Vec<(String, String)>) {
        if let Some(sender) = &self.wishes {
            let wish = Wish::TellApart {
                pid,
                start_ticks,
                commands,
            };
            sender.try_send(wish).ok();
        }
    }

    /// Says how closely to watch; cheap if that has not changed.
    pub fn pace(&mut self, pace: Pace) {
        if self.pace != pace
            && let Some(sender) = &self.wishes
            && sender.try_send(Wish::Pace(pace)).is_ok()
        {
            self.pace = pace;
        }
    }

    /// Findings that found the channel full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        drop(self.wishes.take());
        // It has at most one look to finish. If it hangs in one, it ends with the process.
        self.ended.recv_timeout(END_BOUND).ok();
    }
}

fn sample(
    interval: Duration,
    scope: Scope,
    findings: &Sender<Finding>,
    wishes: &mpsc::Receiver<Wish>,
    dropped: &AtomicU64,
) {
    // Without /proc there is nothing to sample.
    let Some(mut looks) = Looks::new(scope) else {
        return;
    };
    let interval = interval.max(MINIMUM_CPU_UPDATE_INTERVAL);
    let mut pace = Pace::Idle;
    let mut due = Instant::now() + MINIMUM_CPU_UPDATE_INTERVAL;
    loop {
        let now = Instant::now();
        let wait = match pace {
            Pace::Idle => due.saturating_duration_since(now),
            Pace::Tool => due.saturating_duration_since(now).min(TOOL_INTERVAL),
        };
        let occasion = match wishes.recv_timeout(wait) {
            Ok(Wish::Look(occasion)) => Some(occasion),
            Ok(Wish::Pace(wanted)) => {
                pace = wanted;
                continue;
            }
            Ok(Wish::TellApart {
                pid,
                start_ticks,
                commands,
            }) => {
                let found = command_line::running(pid, start_ticks, &commands);
                if let Some(id) = found {
                    let tool_use_id = id.to_owned();
                    // For one that finds no room there will be another question.
                    findings
                        .try_send(Finding::ToldApart { pid, tool_use_id })
                        .ok();
                }
                continue;
            }
            Err(RecvTimeoutError::Timeout) => (Instant::now() >= due).then_some(Occasion::Interval),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let finding = match occasion {
            Some(occasion) => {
                due = Instant::now() + interval;
                Some(Finding::Sample(Box::new(looks.sample(occasion))))
            }
            None => looks.watch.look().ok().map(Finding::Tree),
        };
        let Some(finding) = finding else { continue };
        match findings.try_send(finding) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Closed(_)) => return,
        }
    }
}

/// All that is looked at, with what a later look compares with.
struct Looks {
    sandbox: SandboxWatch,
    watch: TreeWatch,
    cgroup: Option<MemoryCgroup>,
    last: Option<(Instant, Duration)>,
    open_files: Option<(Instant, Option<u64>)>,
}

impl Looks {
    fn new(scope: Scope) -> Option<Self> {
        Some(Self {
            sandbox: SandboxWatch::new(scope.directory)?,
            watch: scope.watch,
            cgroup: MemoryCgroup::of(scope.agent),
            last: None,
            open_files: None,
        })
    }

    fn sample(&mut self, occasion: Occasion) -> Sample {
        let sandbox = self.sandbox.look();
        let tree = self.watch.look().ok();
        Sample {
            occasion,
            resources: Resources {
                sandbox,
                tree: tree.as_ref().map(|tree| self.summed(tree, occasion)),
                cgroup: self.cgroup.as_ref().and_then(MemoryCgroup::resources),
            },
            tree,
        }
    }

    fn summed(&mut self, tree: &TreeSample, occasion: Occasion) -> TreeResources {
        let now = Instant::now();
        let cpu_used = self.last.map_or(0.0, |(then, cpu)| {
            let passed = now.saturating_duration_since(then).as_secs_f64();
            let used = tree.cpu.saturating_sub(cpu).as_secs_f64();
            if passed > 0.0 { used / passed } else { 0.0 }
        });
        self.last = Some((now, tree.cpu));
        let open_files = match self.open_files {
            Some((then, count))
                if occasion == Occasion::Interval && now - then < OPEN_FILES_EVERY =>
            {
                count
            }
            _ => {
                let count = open_files(tree);
                self.open_files = Some((now, count));
                count
            }
        };
        TreeResources {
            processes: tree.processes.len() as u64,
            cpu_seconds: tree.cpu.as_secs_f64(),
            cpu_used,
            rss_bytes: tree.rss_bytes(),
            pss_bytes: match occasion {
                Occasion::Interval => None,
                Occasion::ToolEnded => proportional_share(tree, SHARE_BOUND),
            },
            open_files,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::sync::mpsc::channel;

    use super::*;
    use crate::process::Tree;
    use crate::resources::ReapedCpu;

    fn is_sampling() -> bool {
        std::fs::read_dir("/proc/self/task").unwrap().any(|task| {
            let name = task.unwrap().path().join("comm");
            std::fs::read_to_string(name).is_ok_and(|name| name == "sample\n")
        })
    }

    /// One test, because it looks at the threads of the whole process.
    #[test]
    fn a_sampler_samples_and_then_leaves_no_thread() {
        let scope = || Scope {
            watch: TreeWatch::new(Tree::new(), ReapedCpu::default()),
            agent: std::process::id(),
            directory: std::env::temp_dir(),
        };
        let (sender, mut samples) = channel(1);
        let mut sampler = Sampler::start(Duration::ZERO, scope(), sender).unwrap();
        let Some(Finding::Sample(sample)) = samples.blocking_recv() else {
            panic!("the first finding is no sample");
        };
        assert!(sample.tree.is_some());
        let sample = sample.resources.sandbox;
        assert!(sample.cpus > 0);
        assert!(sample.memory_used_bytes > 0);
        assert!(sample.memory_used_bytes < sample.memory_total_bytes);
        assert!((0.0..=1.0).contains(&sample.cpu_utilization));

        let deadline = Instant::now() + Duration::from_secs(10);
        while sampler.dropped() == 0 {
            assert!(Instant::now() < deadline, "a full channel was not noticed");
            thread::yield_now();
        }
        // While a tool runs there are looks between the samples.
        sampler.pace(Pace::Tool);
        sampler.pace(Pace::Idle);
        drop(sampler);
        // A thread that was joined is listed until the kernel has cleared it away.
        while is_sampling() {
            assert!(Instant::now() < deadline, "it goes on");
            thread::yield_now();
        }

        let (sender, samples) = channel(1);
        let sampler = Sampler::start(Duration::from_secs(3600), scope(), sender).unwrap();
        let started = Instant::now();
        drop(sampler);
        assert!(started.elapsed() < Duration::from_secs(5), "it waited");
        drop(samples);

        let (sender, samples) = channel(1);
        let sampler = Sampler::start(Duration::ZERO, scope(), sender).unwrap();
        drop(samples);
        while is_sampling() {
            assert!(Instant::now() < deadline, "it outlived its receiver");
            thread::yield_now();
        }
        drop(sampler);
    }
}
