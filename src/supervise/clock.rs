//! Reading the clocks, and what may explain that they did something strange.
//!
//! The files are opened once and read each tick; what is not there is not asked for again.

use std::fs::{self, File};
use std::future::{Future as _, poll_fn};
use std::os::unix::fs::FileExt as _;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;

use super::{Happening, Supervisor};
use crate::clock::{Clues, Counters, CreditClock, Pause, Place, Reading};
use crate::process::cgroup::own_cgroup;
use crate::process::{Signalled, Signals};
use crate::session::Input;
pub(super) use crate::telemetry::sandbox_id;
use crate::time::{Now, UnixNanos};

/// The clocks, read in one place.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    credit: CreditClock,
    witnesses: Witnesses,
}

impl Clock {
    pub(super) fn start() -> Self {
        let started = Instant::now();
        Self {
            started,
            credit: CreditClock::new(reading(started), Counters::default()),
            witnesses: Witnesses::default(),
        }
    }

    /// Looks for whoever counts lost time, for which the agent's start does not wait.
    pub(super) fn find_witnesses(&mut self) {
        self.witnesses = Witnesses::open();
        self.count();
    }

    pub(super) fn now(&self) -> Now {
        self.credit.at(self.started.elapsed())
    }

    /// When the budgets' time will be `uptime`, if nothing stops it.
    pub(super) fn instant(&self, uptime: Duration) -> tokio::time::Instant {
        tokio::time::Instant::now() + uptime.saturating_sub(self.now().uptime)
    }

    /// A look; `false` if something strange was seen and [`Self::explain`] is to say what.
    fn look(&mut self) -> bool {
        let reading = reading(self.started);
        let is_strange = self.credit.is_strange(reading);
        if !is_strange {
            self.credit.advance(reading);
        }
        !is_strange
    }

    fn count(&mut self) {
        self.credit.count(self.witnesses.counters());
    }

    fn explain(&mut self, continued: bool) -> Option<Pause> {
        let clues = Clues {
            counters: self.witnesses.counters(),
            continued,
            place: self.witnesses.place,
        };
        self.credit.explain(reading(self.started), &clues)
    }
}

fn reading(started: Instant) -> Reading {
    Reading {
        monotonic: started.elapsed(),
        real: UnixNanos::from(SystemTime::now()),
    }
}

/// Who counts the time that we lost.
#[derive(Debug, Default)]
struct Witnesses {
    schedstat: Option<File>,
    memory_pressure: Option<File>,
    cgroup: Option<File>,
    place: Place,
}

impl Witnesses {
    fn open() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let cgroup = || {
            let directory = own_cgroup()?;
            File::open(directory.join("cgroup.stat.local")).ok()
        };
        let place = if sandbox_id().is_some() {
            Place::Sandbox
        } else if in_freezer(&groups) {
            Place::Freezer
        } else {
            Place::Anywhere
        };
        Self {
            schedstat: File::open("/proc/thread-self/schedstat").ok(),
            memory_pressure: File::open("/proc/pressure/memory").ok(),
            cgroup: cgroup(),
            place,
        }
    }

    fn counters(&self) -> Counters {
        let ask = |file: &Option<File>, find: fn(&str) -> Option<Duration>| {
            let mut text = [0; 512];
            let length = file.as_ref()?.read_at(&mut text, 0).ok()?;
            find(std::str::from_utf8(text.get(..length)?).ok()?)
        };
        Counters {
            runnable: ask(&self.schedstat, runnable),
            memory_stall: ask(&self.memory_pressure, memory_stall),
            frozen: ask(&self.cgroup, frozen),
        }
    }
}

/// `RAN WAITED SLICES`, in nanoseconds.
fn runnable(schedstat: &str) -> Option<Duration> {
    let mut fields = schedstat.split_ascii_whitespace();
    let ran: u64 = fields.next()?.parse().ok()?;
    let waited: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_nanos(ran.saturating_add(waited)))
}

/// `full avg10=… avg60=… avg300=… total=MICROSECONDS`
fn memory_stall(pressure: &str) -> Option<Duration> {
    let full = pressure.lines().find(|line| line.starts_with("full "))?;
    let (_, total) = full.rsplit_once("total=")?;
    Some(Duration::from_micros(total.trim().parse().ok()?))
}

/// `frozen_usec MICROSECONDS`
fn frozen(stat: &str) -> Option<Duration> {
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix("frozen_usec "))?;
    Some(Duration::from_micros(line.trim().parse().ok()?))
}

/// Whether somebody put us into a group of the first version's freezer.
fn in_freezer(groups: &str) -> bool {
    groups.lines().any(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next().unwrap_or_default();
        controllers.split(',').any(|name| name == "freezer")
            && fields.next().is_some_and(|path| path != "/")
    })
}

impl Supervisor {
    /// Looks at the clocks before anything is made of what just happened, and gives the signals that it had to take in
    /// for that.
    pub(super) async fn look_at_clocks(
        &mut self,
        happening: &Happening,
        signals: &mut Signals,
    ) -> Vec<Signalled> {
        if self.clock.look() {
            if matches!(happening, Happening::Beat) {
                self.clock.count();
            }
            return Vec::new();
        }
        // Whether a SIGCONT came, the runtime knows only after a look at its pipe.
        tokio::task::yield_now().await;
        let mut taken = Vec::new();
        while let Some(signal) = pending(signals).await {
            taken.push(signal);
        }
        let is_continue = |signal: &Signalled| *signal == Signalled::Forward(Signal::SIGCONT);
        let continued = taken.iter().any(is_continue)
            || matches!(happening, Happening::Signal(signal) if is_continue(signal));
        if let Some(pause) = self.clock.explain(continued) {
            self.take(Input::Paused(pause));
            self.carry_out();
            self.check_identity();
        }
        taken
    }
}

/// A signal that has come already.
async fn pending(signals: &mut Signals) -> Option<Signalled> {
    let mut signal = pin!(signals.recv());
    poll_fn(|context| {
        Poll::Ready(match signal.as_mut().poll(context) {
            Poll::Ready(signal) => Some(signal),
            Poll::Pending => None,
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_counters_are_read_as_it_writes_them() {
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n";
        assert_eq!(memory_stall(pressure), Some(Duration::from_millis(1500)));
        assert_eq!(memory_stall("some total=3\n"), None);
        assert_eq!(
            runnable("1000000 2000000 7\n"),
            Some(Duration::from_millis(3))
        );
        assert_eq!(runnable("0\n"), None);
        assert_eq!(
            frozen("frozen_usec 4000000\n"),
            Some(Duration::from_secs(4))
        );
        assert_eq!(frozen(""), None);
    }

    #[test]
    fn a_cgroup_of_the_first_version_s_freezer_is_known_by_its_path() {
        let groups = "7:freezer:/\n1:name=systemd:/x\n0::/user/a\n";
        assert!(!in_freezer(groups));
        assert!(in_freezer("7:cpu,freezer:/jail\n0::/\n"));
    }
}
