//! The credit clock: time that the run could use.
//!
//! A sandbox is paused for a day, its cgroup is frozen, somebody sets its clock: none of that is time that an agent had.
//! So budgets count *credit*: what the monotonic clock ran since the last look, but at most a second of it.
//! Whoever looks each [`TICK`] loses nothing of it, unless nobody could look. A gap or a step above two seconds is
//! told as a [`Pause`] with its cause (`reference/supervision.md` §2.4).
//!
//! Being starved is no pause: on a busy machine time passes all the same, slowly, and a run that thrashes for an hour
//! has had its hour. The kernel says which it was: it counts how long a thread waited for a CPU.
//!
//! Pure: readings come in as values.

use std::time::Duration;

use crate::time::{Now, UnixNanos};

/// How often to look.
pub const TICK: Duration = Duration::from_millis(250);
/// A gap between two looks, beyond the tick, or a step of the wall clock, is told from here on. Looks were at most 64 ms
/// late with 100 busy agents on two cores (`reference/supervision.md` §2.4).
const THRESHOLD: Duration = Duration::from_secs(2);
/// The most that one look adds to the credit.
const MOST_CREDIT: Duration = Duration::from_secs(1);

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// CLOCK_MONOTONIC, since any fixed moment.
    pub monotonic: Duration,
    /// CLOCK_REALTIME.
    pub real: UnixNanos,
}

/// What the kernel counts of time lost; each only grows, and is `None` where it cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// How long this thread ran on a CPU or waited for one (/proc/self/schedstat).
    pub runnable: Option<Duration>,
    /// How long every task waited for memory at once (/proc/pressure/memory, `full`).
    pub memory_stall: Option<Duration>,
    /// How long our cgroup was frozen (cgroup.stat.local, since Linux 6.18).
    pub frozen: Option<Duration>,
}

/// What else is known when something has happened to the clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clues {
    pub counters: Counters,
    /// A SIGCONT has come.
    pub continued: bool,
    pub place: Place,
}

/// Where we run, as far as it says what may happen to us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Place {
    #[default]
    Anywhere,
    /// A sandbox that is paused as a whole.
    Sandbox,
    /// A cgroup of the first version's freezer, which keeps no count.
    Freezer,
}

/// Why time was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseCause {
    /// The virtual machine stood still, or was restored from a snapshot.
    VmRestore,
    /// Our cgroup was frozen.
    Frozen,
    /// We were stopped by a signal.
    Stopped,
    /// Somebody set the wall clock; no time was lost.
    ClockStepped,
    Unknown,
}

impl PauseCause {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VmRestore => "vm_restore",
            Self::Frozen => "frozen",
            Self::Stopped => "stopped",
            Self::ClockStepped => "clock_stepped",
            Self::Unknown => "unknown",
        }
    }
}

/// What happened to the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    pub cause: PauseCause,
    /// How long the run stood still; zero if only the wall clock was set.
    pub length: Duration,
    /// What the monotonic clock ran beyond the tick.
    pub gap: Duration,
    /// What the wall clock ran more than the monotonic one, in milliseconds; negative if it was set back.
    pub step_ms: i64,
}

/// The clock.
#[derive(Debug, Clone)]
pub struct CreditClock {
    last: Reading,
    now: Now,
    counters: Counters,
}

impl CreditClock {
    #[must_use]
    pub fn new(reading: Reading, counters: Counters) -> Self {
        Self {
            last: reading,
            now: Now {
                wall: reading.real,
                uptime: Duration::ZERO,
            },
            counters,
        }
    }

    /// The time, without a look at what may have happened.
    #[must_use]
    pub fn at(&self, monotonic: Duration) -> Now {
        let passed = monotonic.saturating_sub(self.last.monotonic);
        Now {
            wall: self.now.wall.plus(passed),
            uptime: self.now.uptime + passed.min(MOST_CREDIT),
        }
    }

    /// Whether something has happened that [`Self::explain`] must be asked about instead of [`Self::advance`].
    #[must_use]
    pub fn is_strange(&self, reading: Reading) -> bool {
        let change = Change::between(self.last, reading);
        change.gap().is_some() || change.is_step()
    }

    /// A look at which nothing strange was seen.
    pub fn advance(&mut self, reading: Reading) {
        self.now = self.at(reading.monotonic);
        self.last = reading.after(self.last);
    }

    /// What the kernel's counters say while all is well: the difference to it is what explains a gap.
    pub fn count(&mut self, counters: Counters) {
        self.counters = counters;
    }

    /// A look at which something strange was seen, and what it was; `None` if we were only starved.
    pub fn explain(&mut self, reading: Reading, clues: &Clues) -> Option<Pause> {
        let change = Change::between(self.last, reading);
        let cause = self.cause(change, clues);
        let credit = match cause {
            Some(_) => change.monotonic.min(MOST_CREDIT),
            None => change.monotonic,
        };
        let (gap, ahead) = match cause {
            Some(PauseCause::ClockStepped) | None => (Duration::ZERO, Duration::ZERO),
            Some(_) => (change.gap().unwrap_or_default(), change.ahead()),
        };
        // A clock that is set back changes nothing: no span runs backwards.
        self.now = Now {
            wall: self.now.wall.plus(change.monotonic).plus(ahead),
            uptime: self.now.uptime + credit,
        };
        self.last = reading.after(self.last);
        self.counters = clues.counters;
        cause.map(|cause| Pause {
            cause,
            length: gap + ahead,
            gap,
            step_ms: change.step_ms,
        })
    }

    /// `None` for a gap in which we waited for our turn.
    fn cause(&self, change: Change, clues: &Clues) -> Option<PauseCause> {
        let grown = |counter: fn(&Counters) -> Option<Duration>| match (
            counter(&self.counters),
            counter(&clues.counters),
        ) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => Duration::ZERO,
        };
        let frozen = grown(|counters| counters.frozen);
        let stepped_ahead = !change.ahead().is_zero();
        let Some(gap) = change.gap() else {
            // Where the monotonic clock stands still with the machine, the step is all there is to see; E2B freezes
            // the cgroup around it.
            let is_restore = stepped_ahead && (!frozen.is_zero() || clues.place == Place::Sandbox);
            return Some(if is_restore {
                PauseCause::VmRestore
            } else {
                PauseCause::ClockStepped
            });
        };
        let most = gap / 2;
        Some(if stepped_ahead {
            PauseCause::VmRestore
        } else if frozen >= most {
            PauseCause::Frozen
        } else if clues.continued {
            PauseCause::Stopped
        } else if grown(|counters| counters.runnable) >= most
            || grown(|counters| counters.memory_stall) >= most
        {
            return None;
        } else {
            match clues.place {
                Place::Sandbox => PauseCause::VmRestore,
                Place::Freezer => PauseCause::Frozen,
                Place::Anywhere => PauseCause::Unknown,
            }
        })
    }
}

impl Reading {
    /// Monotonic in fact: a clock that is not would give the same time twice.
    fn after(self, last: Self) -> Self {
        Self {
            monotonic: self.monotonic.max(last.monotonic),
            ..self
        }
    }
}

/// What the clocks did between two readings.
#[derive(Debug, Clone, Copy)]
struct Change {
    monotonic: Duration,
    step_ms: i64,
}

impl Change {
    fn between(from: Reading, to: Reading) -> Self {
        let monotonic = to.monotonic.saturating_sub(from.monotonic);
        let real = i128::from(to.real.0) - i128::from(from.real.0);
        let step = real - i128::try_from(monotonic.as_nanos()).unwrap_or(i128::MAX);
        Self {
            monotonic,
            step_ms: i64::try_from(step / 1_000_000).unwrap_or(if step < 0 {
                i64::MIN
            } else {
                i64::MAX
            }),
        }
    }

    fn gap(self) -> Option<Duration> {
        Some(self.monotonic.saturating_sub(TICK)).filter(|gap| *gap > THRESHOLD)
    }

    fn is_step(self) -> bool {
        Duration::from_millis(self.step_ms.unsigned_abs()) > THRESHOLD
    }

    /// How far the wall clock was set ahead; zero below the threshold.
    fn ahead(self) -> Duration {
        match u64::try_from(self.step_ms) {
            Ok(millis) if self.is_step() => Duration::from_millis(millis),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 86_400_000;
    const START: UnixNanos = UnixNanos(1_769_860_800_000_000_000);

    /// The clocks of a sandbox, as a test moves them.
    struct Clocks {
        clock: CreditClock,
        reading: Reading,
        clues: Clues,
    }

    impl Clocks {
        fn new(place: Place) -> Self {
            let reading = Reading {
                monotonic: Duration::from_secs(1000),
                real: START,
            };
            let counters = Counters {
                runnable: Some(Duration::ZERO),
                memory_stall: Some(Duration::ZERO),
                frozen: Some(Duration::ZERO),
            };
            Self {
                clock: CreditClock::new(reading, counters),
                reading,
                clues: Clues {
                    counters,
                    continued: false,
                    place,
                },
            }
        }

        /// Both clocks run, and the wall clock is set by `step_ms` more.
        fn pass(&mut self, monotonic_ms: u64, step_ms: i64) -> Option<Pause> {
            self.reading.monotonic += Duration::from_millis(monotonic_ms);
            let real = i128::from(self.reading.real.0)
                + (i128::from(monotonic_ms) + i128::from(step_ms)) * 1_000_000;
            self.reading.real = UnixNanos(u64::try_from(real).unwrap());
            if self.clock.is_strange(self.reading) {
                self.clock.explain(self.reading, &self.clues)
            } else {
                self.clock.advance(self.reading);
                self.clock.count(self.clues.counters);
                None
            }
        }

        fn now(&self) -> Now {
            self.clock.at(self.reading.monotonic)
        }

        fn uptime_ms(&self) -> u128 {
            self.now().uptime.as_millis()
        }

        fn wall_ms(&self) -> u128 {
            self.now().wall.since(START).as_millis()
        }
    }

    fn told(pause: Option<Pause>) -> Option<(&'static str, u128)> {
        pause.map(|pause| (pause.cause.as_str(), pause.length.as_millis()))
    }

    /// `clock_step`, case 34.
    #[test]
    fn a_wall_clock_that_is_set_by_a_day_takes_no_credit_and_no_time_from_any_span() {
        for step in [DAY, -DAY] {
            let mut clocks = Clocks::new(Place::Anywhere);
            clocks.pass(250, 0);
            let pause = clocks.pass(250, step).unwrap();
            assert_eq!(told(Some(pause)), Some(("clock_stepped", 0)));
            assert_eq!(pause.step_ms, step);
            clocks.pass(250, 0);
            assert_eq!((clocks.uptime_ms(), clocks.wall_ms()), (750, 750));
        }
    }

    /// `vm_stop_60s`, case 35, in the two ways that clocks have of it.
    #[test]
    fn a_machine_that_stood_still_is_a_pause_and_its_gap_is_seen_in_the_spans() {
        for (what, monotonic, step) in [
            ("the monotonic clock stood still with it", 250, 60_000),
            ("it ran on", 60_250, 0),
            ("it ran on, and the wall clock was set", 30_250, 30_000),
        ] {
            let mut clocks = Clocks::new(Place::Sandbox);
            clocks.pass(250, 0);
            let pause = clocks.pass(monotonic, step);
            assert_eq!(told(pause), Some(("vm_restore", 60_000)), "{what}");
            assert!(clocks.uptime_ms() <= 1250, "{what}");
            assert_eq!(clocks.wall_ms(), 60_500, "{what}");
        }
    }

    #[test]
    fn a_step_ahead_while_the_cgroup_was_frozen_is_a_restore_wherever_we_are() {
        let mut clocks = Clocks::new(Place::Anywhere);
        clocks.clues.counters.frozen = Some(Duration::from_millis(80));
        assert_eq!(
            told(clocks.pass(330, DAY)),
            Some(("vm_restore", 86_400_000))
        );
    }

    /// `monotonic_jump_1h`, case 36.
    #[test]
    fn an_hour_s_jump_of_the_monotonic_clock_costs_one_second() {
        let mut clocks = Clocks::new(Place::Anywhere);
        clocks.pass(250, 0);
        let pause = clocks.pass(3_600_250, 0);
        assert_eq!(told(pause), Some(("unknown", 3_600_000)));
        assert_eq!(clocks.uptime_ms(), 1250);
    }

    #[test]
    fn the_cause_of_a_gap_is_what_the_evidence_says() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let none = Counters {
            runnable: seconds(0),
            memory_stall: seconds(0),
            frozen: seconds(0),
        };
        let blind = Counters::default();
        for (counters, continued, place, expected) in [
            (none, true, Place::Sandbox, Some("stopped")),
            (
                Counters {
                    frozen: seconds(4),
                    ..none
                },
                false,
                Place::Sandbox,
                Some("frozen"),
            ),
            (
                Counters {
                    frozen: seconds(1),
                    ..none
                },
                false,
                Place::Anywhere,
                Some("unknown"),
            ),
            (
                Counters {
                    runnable: seconds(4),
                    ..none
                },
                false,
                Place::Sandbox,
                None,
            ),
            (
                Counters {
                    runnable: seconds(4),
                    ..none
                },
                true,
                Place::Sandbox,
                Some("stopped"),
            ),
            (
                Counters {
                    memory_stall: seconds(3),
                    ..none
                },
                false,
                Place::Anywhere,
                None,
            ),
            (
                Counters {
                    memory_stall: seconds(1),
                    ..none
                },
                false,
                Place::Anywhere,
                Some("unknown"),
            ),
            (none, false, Place::Freezer, Some("frozen")),
            (none, false, Place::Sandbox, Some("vm_restore")),
            (blind, false, Place::Anywhere, Some("unknown")),
        ] {
            let mut clocks = Clocks::new(place);
            clocks.clues.counters = counters;
            clocks.clues.continued = continued;
            let pause = clocks.pass(4250, 0);
            assert_eq!(
                pause.map(|pause| pause.cause.as_str()),
                expected,
                "{counters:?} {continued} {place:?}"
            );
            // Whoever had to wait for a CPU has had the time; who was paused has not.
            let credit = if expected.is_some() { 1000 } else { 4250 };
            assert_eq!(clocks.uptime_ms(), credit);
        }
    }

    #[test]
    fn a_late_tick_is_no_pause() {
        let mut clocks = Clocks::new(Place::Sandbox);
        assert_eq!(clocks.pass(2250, 0), None);
        assert_eq!(clocks.pass(250, 2000), None);
        assert_eq!(clocks.pass(250, -2000), None);
        assert_eq!(clocks.uptime_ms(), 1500);
    }

    /// Readings in any order: what the clocks do, what the counters do, and where we are.
    fn moves() -> impl Strategy<Value = Vec<(u64, i64, u64, bool)>> {
        let monotonic = prop_oneof![4 => 0..500_u64, 1 => 0..10_000_u64, 1 => 0..100_000_000_u64];
        let step = prop_oneof![4 => Just(0), 1 => -10_000..10_000_i64, 1 => -DAY..DAY];
        let waited = prop_oneof![3 => Just(0), 1 => 0..10_000_u64];
        prop::collection::vec((monotonic, step, waited, any::<bool>()), 1..50)
    }

    proptest! {
        #[test]
        fn time_never_runs_backwards_and_credit_never_runs_ahead(
            moves in moves(),
            place in prop::sample::select(vec![Place::Anywhere, Place::Sandbox, Place::Freezer]),
        ) {
            let mut clocks = Clocks::new(place);
            let mut monotonic = Duration::ZERO;
            for (passed, step, waited, continued) in moves {
                let before = clocks.now();
                let runnable = clocks.clues.counters.runnable.unwrap_or_default();
                clocks.clues.counters.runnable = Some(runnable + Duration::from_millis(waited));
                clocks.clues.continued = continued;
                let peeked = clocks.clock.at(clocks.reading.monotonic + Duration::from_millis(passed));
                let strange = clocks.clock.is_strange(Reading {
                    monotonic: clocks.reading.monotonic + Duration::from_millis(passed),
                    real: UnixNanos(clocks.reading.real.0.saturating_add_signed((i64::try_from(passed).unwrap() + step) * 1_000_000)),
                });
                let pause = clocks.pass(passed, step);
                let after = clocks.now();
                let passed = Duration::from_millis(passed);
                monotonic += passed;
                prop_assert!(before.wall <= peeked.wall && peeked.wall <= after.wall);
                prop_assert!(before.uptime <= peeked.uptime && peeked.uptime <= after.uptime);
                let credit = after.uptime - before.uptime;
                prop_assert!(credit <= passed);
                // Only whoever was starved may use up more than a second at once.
                let starved = strange && pause.is_none();
                prop_assert!(credit <= MOST_CREDIT || starved, "{credit:?} at once");
                prop_assert!(after.uptime <= monotonic);
                prop_assert!(after.wall.since(START) >= monotonic);
                prop_assert!(passed > MOST_CREDIT || credit == passed, "time was lost");
            }
        }
    }
}
