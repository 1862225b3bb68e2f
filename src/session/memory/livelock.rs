//! Memory that runs out again and again while the kernel kills nobody (`reference/supervision.md` §3.1).

use super::warnings::in_limit;
use super::{Memory, MemoryReading};

/// OOM situations without a kill that no healthy run sees; 4010 in ten seconds were measured.
const LIVELOCK_OOMS: u64 = 100;

/// Percent of the last ten seconds in which nobody could go on.
const LIVELOCK_PRESSURE: f64 = 50.0;

/// The state in which the kernel reclaims without end and kills nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Livelock {
    /// OOM situations since the last kill, or the start.
    ooms: u64,
    /// Whether the last reading still showed it.
    now: bool,
}

impl Memory {
    pub(super) fn judge_livelock(&mut self, reading: &MemoryReading, killed: u64) {
        let before = ooms(&self.latest);
        let rose = ooms(reading)
            .zip(before)
            .map_or(0, |(now, before)| now.saturating_sub(before));
        if killed > 0 {
            self.livelock = Livelock::default();
            return;
        }
        self.livelock.ooms = self.livelock.ooms.saturating_add(rose);
        self.livelock.now = rose > 0
            && (self.livelock.ooms >= LIVELOCK_OOMS || pressure(reading) > LIVELOCK_PRESSURE);
    }

    /// OOM situations without a kill, as long as they go on.
    pub(in crate::session) fn livelock(&self) -> Option<String> {
        let cgroup = self
            .latest
            .cgroups
            .iter()
            .find(|cgroup| cgroup.ooms.is_some())?;
        self.livelock.now.then(|| {
            format!(
                "memory ran out {} times in {}{} and nobody was killed, {:.0} % of the time nobody could go on",
                self.livelock.ooms,
                cgroup.name,
                in_limit(cgroup.limit_bytes),
                pressure(&self.latest),
            )
        })
    }
}

fn ooms(reading: &MemoryReading) -> Option<u64> {
    reading
        .cgroups
        .iter()
        .filter_map(|cgroup| cgroup.ooms)
        .max()
}

fn pressure(reading: &MemoryReading) -> f64 {
    let cgroups = reading
        .cgroups
        .iter()
        .filter_map(|cgroup| cgroup.pressure_full);
    cgroups
        .chain(reading.sandbox_pressure_full)
        .fold(0.0, f64::max)
}
