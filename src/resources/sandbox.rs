//! The whole sandbox: CPU, memory, swap, disk, load, pressure, and the kernel's count of OOM kills.

use std::path::PathBuf;

use nix::sys::statvfs::statvfs;
use sandtrace_client::wire::SandboxResources;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, System};

use super::memory_events::sandbox_oom_kills;
use super::pressure;

/// Looks at the sandbox, and remembers the last look, for CPU use needs two.
#[derive(Debug)]
pub struct SandboxWatch {
    system: System,
    /// Where the agent works.
    directory: PathBuf,
}

impl SandboxWatch {
    /// Takes the first look; `None` where there is no /proc.
    #[must_use]
    pub fn new(directory: PathBuf) -> Option<Self> {
        let mut watch = Self {
            system: System::new().ok()?,
            directory,
        };
        watch.look();
        Some(watch)
    }

    /// CPU use is that since the last look, which should be 200 ms ago.
    pub fn look(&mut self) -> SandboxResources {
        let system = &mut self.system;
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
            swap_total_bytes: system.total_swap(),
            load_1m: System::load_average().map_or(0.0, |load| load.one),
            disk_free_bytes: statvfs(&self.directory).ok().map(|disk| {
                let blocks: u64 = disk.blocks_available();
                blocks.saturating_mul(disk.fragment_size())
            }),
            pressure: pressure::read(),
            oom_kills: sandbox_oom_kills(),
        }
    }
}

/// How many tasks want each core, by the load average over a minute.
#[must_use]
pub fn crowd(load_1m: f64, cpus: u64) -> f64 {
    load_1m / f64::from(u32::try_from(cpus.max(1)).unwrap_or(u32::MAX))
}

/// As [`crowd`], of this moment.
#[must_use]
pub fn crowd_now() -> f64 {
    let load = System::load_average().map_or(0.0, |load| load.one);
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
    crowd(load, cpus)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn this_machine_can_be_looked_at() {
        let mut watch = SandboxWatch::new(std::env::temp_dir()).unwrap();
        let seen = watch.look();
        assert!(seen.cpus > 0);
        assert!(seen.memory_used_bytes > 0 && seen.memory_used_bytes < seen.memory_total_bytes);
        assert!(seen.disk_free_bytes.is_some_and(|bytes| bytes > 0));
        assert!(seen.swap_used_bytes <= seen.swap_total_bytes);
        let vmstat = fs::read_to_string("/proc/vmstat").unwrap();
        assert_eq!(seen.oom_kills.is_some(), vmstat.contains("oom_kill "));
    }

    #[test]
    fn a_directory_that_is_gone_has_no_disk() {
        let directory = tempfile::tempdir().unwrap();
        let mut watch = SandboxWatch::new(directory.path().to_owned()).unwrap();
        drop(directory);
        assert_eq!(watch.look().disk_free_bytes, None);
    }
}
