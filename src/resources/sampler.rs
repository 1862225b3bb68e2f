//! Samples at an interval.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sandtrace_client::wire::{Resources, SandboxResources};
use sysinfo::{CpuRefreshKind, MINIMUM_CPU_UPDATE_INTERVAL, MemoryRefreshKind, System};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::{Occasion, Sample};

/// The thread that samples. Dropping it ends the thread.
#[derive(Debug)]
pub struct Sampler {
    /// `None` once it is told to stop: that this end is gone is the message.
    wanted: Option<mpsc::SyncSender<Occasion>>,
    thread: Option<JoinHandle<()>>,
    dropped: Arc<AtomicU64>,
}

impl Sampler {
    /// Sends a sample every `interval` until stopped or until the receiver is gone; the first comes after 200 ms, since
    /// CPU use needs two looks.
    ///
    /// When the channel is full the sample is dropped and counted: a newer one is worth more than an old one.
    pub fn start(interval: Duration, samples: Sender<Sample>) -> io::Result<Self> {
        let (wanted, wishes) = mpsc::sync_channel(4);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        let thread = thread::Builder::new()
            .name("sample".to_owned())
            .spawn(move || sample(interval, &samples, &wishes, &counter))?;
        Ok(Self {
            wanted: Some(wanted),
            thread: Some(thread),
            dropped,
        })
    }

    /// Asks for a look now. One that is asked for while others wait is dropped: theirs will do.
    pub fn want(&self, occasion: Occasion) {
        if let Some(sender) = &self.wanted {
            sender.try_send(occasion).ok();
        }
    }

    /// Samples that found the channel full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        drop(self.wanted.take());
        if let Some(thread) = self.thread.take() {
            // It has at most one sample to finish. If it panicked there is nothing left to stop.
            drop(thread.join());
        }
    }
}

fn sample(
    interval: Duration,
    samples: &Sender<Sample>,
    wishes: &mpsc::Receiver<Occasion>,
    dropped: &AtomicU64,
) {
    // Without /proc there is nothing to sample.
    let Ok(mut system) = System::new() else {
        return;
    };
    look(&mut system);
    let interval = interval.max(MINIMUM_CPU_UPDATE_INTERVAL);
    let mut wait = MINIMUM_CPU_UPDATE_INTERVAL;
    loop {
        let occasion = match wishes.recv_timeout(wait) {
            Ok(occasion) => occasion,
            Err(RecvTimeoutError::Timeout) => Occasion::Interval,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        wait = interval;
        let sample = Sample {
            occasion,
            resources: Resources {
                sandbox: look(&mut system),
                ..Resources::default()
            },
            tree: None,
        };
        match samples.try_send(sample) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Closed(_)) => return,
        }
    }
}

fn look(system: &mut System) -> SandboxResources {
    system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
    system.refresh_memory_specifics(MemoryRefreshKind::everything());
    let total = system.total_memory();
    SandboxResources {
        // The first look has nothing to compare with.
        cpu_utilization: (f64::from(system.global_cpu_usage()) / 100.0).clamp(0.0, 1.0),
        cpus: system.cpus().len() as u64,
        memory_total_bytes: total,
        memory_used_bytes: total.saturating_sub(system.available_memory()),
        swap_used_bytes: system.used_swap(),
        load_1m: System::load_average().map_or(0.0, |load| load.one),
        ..SandboxResources::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::sync::mpsc::channel;

    use super::*;

    fn is_sampling() -> bool {
        std::fs::read_dir("/proc/self/task").unwrap().any(|task| {
            let name = task.unwrap().path().join("comm");
            std::fs::read_to_string(name).is_ok_and(|name| name == "sample\n")
        })
    }

    /// One test, because it looks at the threads of the whole process.
    #[test]
    fn a_sampler_samples_and_then_leaves_no_thread() {
        let (sender, mut samples) = channel(1);
        let sampler = Sampler::start(Duration::ZERO, sender).unwrap();
        let sample = samples.blocking_recv().unwrap().resources.sandbox;
        assert!(sample.cpus > 0);
        assert!(sample.memory_used_bytes > 0);
        assert!(sample.memory_used_bytes < sample.memory_total_bytes);
        assert!((0.0..=1.0).contains(&sample.cpu_utilization));

        let deadline = Instant::now() + Duration::from_secs(10);
        while sampler.dropped() == 0 {
            assert!(Instant::now() < deadline, "a full channel was not noticed");
            thread::yield_now();
        }
        drop(sampler);
        assert!(!is_sampling());

        let (sender, samples) = channel(1);
        let sampler = Sampler::start(Duration::from_secs(3600), sender).unwrap();
        let started = Instant::now();
        drop(sampler);
        assert!(started.elapsed() < Duration::from_secs(5), "it waited");
        drop(samples);

        let (sender, samples) = channel(1);
        let sampler = Sampler::start(Duration::ZERO, sender).unwrap();
        drop(samples);
        while is_sampling() {
            assert!(Instant::now() < deadline, "it outlived its receiver");
            thread::yield_now();
        }
        drop(sampler);
    }
}
