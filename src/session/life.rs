//! Signs of life, and what is told when they are missing: a stall, a loop, a pause of the whole sandbox.
//!
//! Output is a sign of life, and CPU time in the agent's tree is another. An announced wait is no silence: a retry comes
//! with its delay, which may be minutes. After a pause the agent's connections are dead, so it gets [`AFTER_PAUSE`] to
//! find that out before it is called idle (`reference/supervision.md` §2.4).

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::Key;
use sandtrace_client::failure::{Evidence, Failure, FailureKind};
use serde_json::{Map, Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::semconv::{event, key};
use super::span::SpanEvent;
use super::stop::{Activity, Doing};
use super::{Action, Effects, Session, State, int, millis};
use crate::clock::PauseCause;
use crate::time::Now;

pub use crate::clock::Pause;

/// What an agent gets after a pause before silence counts.
const AFTER_PAUSE: Duration = Duration::from_secs(60);
/// Silence that is told, unless half of the idle timeout is less.
const STALL_AFTER: Duration = Duration::from_secs(300);
/// This share of one core, in percent, is a sign of life; a runtime that only waits uses less. Of a core that many want,
/// a share as much smaller.
const ALIVE_PERCENT: f64 = 5.0;
/// The longest announced wait that is believed.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// The same call so many times in a row is a loop.
const LOOP_AT: u64 = 5;

/// When the agent last showed that it lives.
#[derive(Debug)]
pub(super) struct Life {
    last: Duration,
    /// Up to then its silence is announced.
    awaited_until: Duration,
    /// Silence that began before is told only once.
    told: Option<Duration>,
    idle_timeout: Option<Duration>,
    /// The tree's CPU time at the last sample.
    cpu: Option<(Duration, Duration)>,
    pause: Option<Pause>,
    pause_ended: Duration,
    paused: Duration,
}

impl Life {
    pub(super) fn new(idle_timeout: Option<Duration>, uptime: Duration) -> Self {
        Self {
            last: uptime,
            awaited_until: Duration::ZERO,
            told: None,
            idle_timeout,
            cpu: None,
            pause: None,
            pause_ended: Duration::ZERO,
            paused: Duration::ZERO,
        }
    }

    /// A sign of life.
    pub(super) fn sign(&mut self, uptime: Duration) {
        self.last = self.last.max(uptime);
    }

    /// It has said that it will be silent for so long.
    pub(super) fn waits(&mut self, uptime: Duration, delay: Duration) {
        let until = uptime.saturating_add(delay.min(LONGEST_WAIT));
        self.awaited_until = self.awaited_until.max(until);
    }

    /// Since when silence counts.
    pub(super) fn last(&self) -> Duration {
        self.last.max(self.awaited_until)
    }

    /// Before this no silence is called idle.
    pub(super) fn grace_until(&self) -> Duration {
        match self.pause {
            Some(_) => self.pause_ended.saturating_add(AFTER_PAUSE),
            None => Duration::ZERO,
        }
    }

    /// The last pause, and how much of the run's time has passed since.
    pub(super) fn since_pause(&self, uptime: Duration) -> Option<(Pause, Duration)> {
        Some((self.pause?, uptime.saturating_sub(self.pause_ended)))
    }

    /// All pauses together; `None` if there was none.
    pub(super) fn paused_ms(&self) -> Option<f64> {
        (!self.paused.is_zero()).then(|| millis(self.paused))
    }

    fn stall_after(&self) -> Duration {
        let half = |timeout| Duration::from_millis(whole_millis(timeout) / 2);
        self.idle_timeout.map_or(STALL_AFTER, half).min(STALL_AFTER)
    }

    fn stalls_at(&self) -> Option<Duration> {
        let since = self.last();
        (self.told != Some(since)).then(|| since.saturating_add(self.stall_after()))
    }

    /// `crowd` is how many tasks want each core of the sandbox.
    fn seen(&mut self, uptime: Duration, cpu: Duration, crowd: f64) {
        if let Some((at, used)) = self.cpu {
            let percent = cpu.saturating_sub(used).as_secs_f64() * 100.0;
            let span = uptime.saturating_sub(at).as_secs_f64();
            if percent >= span * ALIVE_PERCENT / crowd.max(1.0) && cpu > used {
                self.sign(uptime);
            }
        }
        self.cpu = Some((uptime, cpu));
    }
}

/// The last call of each lane, and how often it came in a row.
#[derive(Debug, Default)]
pub(super) struct Loops {
    lanes: HashMap<Option<String>, Repeated>,
}

#[derive(Debug)]
struct Repeated {
    call: [u8; 16],
    times: u64,
}

impl Loops {
    /// Counts a call; the number of times in a row if that is worth telling: 5, 10, 20, 40 and so on.
    pub(super) fn called(&mut self, lane: Option<&str>, name: &str, input: &str) -> Option<u64> {
        let mut hash = Sha256::new();
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update(input.as_bytes());
        let mut call = [0; 16];
        call.copy_from_slice(&hash.finalize()[..16]);
        let repeated = self
            .lanes
            .entry(lane.map(str::to_owned))
            .or_insert(Repeated { call, times: 0 });
        if repeated.call == call {
            repeated.times += 1;
        } else {
            *repeated = Repeated { call, times: 1 };
        }
        let times = repeated.times;
        let is_told = times.is_multiple_of(LOOP_AT) && (times / LOOP_AT).is_power_of_two();
        is_told.then_some(times)
    }

    /// Forgets the lanes of subagents that are over.
    pub(super) fn retain(&mut self, is_open: impl Fn(&str) -> bool) {
        self.lanes
            .retain(|lane, _| lane.as_deref().is_none_or(&is_open));
    }
}

impl Session {
    pub(super) fn sign_of_life(&mut self, now: Now) {
        self.life.sign(now.uptime);
        self.stop.output(now.uptime);
    }

    /// CPU time in the tree is a sign of life.
    pub(super) fn worked(&mut self, now: Now, cpu: Duration, crowd: f64) {
        self.life.seen(now.uptime, cpu, crowd);
    }

    /// When silence will be told.
    pub(super) fn stall_deadline(&self) -> Option<Duration> {
        self.may_stall().then(|| self.life.stalls_at()).flatten()
    }

    /// A person may take any time, and an agent that is asked to stop has a deadline of its own.
    fn may_stall(&self) -> bool {
        match self.state() {
            State::Starting | State::WaitingForModel | State::InTool => {
                self.phases.spawn_ms.is_some()
            }
            State::WaitingForApproval | State::BetweenTurns | State::Stopping => false,
        }
    }

    /// Tells a silence, once.
    pub(super) fn check_stall(&mut self, now: Now, effects: &mut Effects) {
        if self.stall_deadline().is_none_or(|at| now.uptime < at) {
            return;
        }
        let since = self.life.last();
        self.life.told = Some(since);
        let silent = now.uptime.saturating_sub(since);
        let state = self.state();
        let doing = match state {
            State::InTool => match self.tools.awaited().first() {
                Some((_, tool)) => format!("in the tool {}", tool.name),
                None => "in a tool".to_owned(),
            },
            State::WaitingForModel => "waiting for the model".to_owned(),
            State::Starting | State::WaitingForApproval | State::BetweenTurns | State::Stopping => {
                "starting".to_owned()
            }
        };
        let message = format!(
            "the agent is alive but has shown no sign of it for {}: no output, and no work of its processes; it is {doing}",
            words(silent)
        );
        let counts = [
            ("silent_ms", json!(whole_millis(silent))),
            ("state", json!(state.as_str())),
        ];
        effects.actions.push(warning("stalled", message, counts));
        let attributes = vec![
            (
                Key::from_static_str(key::SILENT_MS),
                int(whole_millis(silent)).into(),
            ),
            (Key::from_static_str(key::STATE), state.as_str().into()),
        ];
        self.note(now, event::STALLED, attributes);
    }

    /// A call of a tool has begun: is it the same as the last ones?
    pub(super) fn count_call(&mut self, now: Now, lane: Option<&str>, name: &str, input: &str) {
        let Some(times) = self.loops.called(lane, name, input) else {
            return;
        };
        let message = format!(
            "the agent has called the tool {name} {times} times in a row with the same input"
        );
        let counts = [("times", json!(times)), ("tool", json!(name))];
        self.pending.push(warning("loop", message, counts));
        let attributes = vec![
            (Key::from_static_str(key::LOOP_TOOL), name.to_owned().into()),
            (Key::from_static_str(key::LOOP_TIMES), int(times).into()),
        ];
        self.note(now, event::LOOP, attributes);
    }

    /// Time passed without us.
    pub(super) fn paused(&mut self, now: Now, pause: Pause, effects: &mut Effects) {
        let counts = [
            ("gap_ms", json!(whole_millis(pause.gap))),
            ("step_ms", json!(pause.step_ms)),
            ("cause", json!(pause.cause.as_str())),
        ];
        if pause.cause == PauseCause::ClockStepped {
            let message = "somebody set the wall clock; the times of this run go on by the clock it began with";
            effects
                .actions
                .push(warning("clock_stepped", message.to_owned(), counts));
            return;
        }
        self.life.pause = Some(pause);
        self.life.pause_ended = now.uptime;
        self.life.paused = self.life.paused.saturating_add(pause.length);
        let why = match pause.cause {
            PauseCause::VmRestore => "the sandbox stood still and was resumed",
            PauseCause::Frozen => "the cgroup was frozen",
            PauseCause::Stopped => "the supervisor was stopped by a signal and continued",
            PauseCause::Unknown | PauseCause::ClockStepped => "nothing says why",
        };
        let message = format!(
            "the run was paused for {}, which counts against no limit: {why}",
            words(pause.length)
        );
        effects.actions.push(warning("paused", message, counts));
        let attributes = vec![
            (
                Key::from_static_str(key::PAUSE_MS),
                int(whole_millis(pause.length)).into(),
            ),
            (
                Key::from_static_str(key::PAUSE_CAUSE),
                pause.cause.as_str().into(),
            ),
        ];
        if let Some(root) = self.tree.get_mut(self.root) {
            root.event(SpanEvent {
                name: Cow::Borrowed(event::PAUSED),
                time: now.wall,
                attributes,
            });
        }
    }

    /// A pause leaves no connection alive: whatever the network did shortly after it, it did because of it.
    pub(super) fn recall_pause(&self, failure: &mut Failure) {
        let uptime = self.exit_uptime.unwrap_or(self.life.last);
        let is_network =
            failure.kind.class() == "network" || failure.kind == FailureKind::TimeoutApi;
        if let Some((pause, since)) = self.life.since_pause(uptime)
            && is_network
            && since <= AFTER_PAUSE
        {
            failure.evidence.push(Evidence {
                source: "clock".to_owned(),
                fact: format!(
                    "the run was paused for {}, {} before its end",
                    words(pause.length),
                    words(since)
                ),
            });
        }
    }

    /// An event on the turn in progress.
    fn note(&mut self, now: Now, name: &'static str, attributes: Vec<super::Attribute>) {
        let span = self.current_span();
        if let Some(span) = self.tree.get_mut(span) {
            span.event(SpanEvent {
                name: Cow::Borrowed(name),
                time: now.wall,
                attributes,
            });
        }
    }

    /// What silence means now.
    pub(super) fn activity(&self) -> Activity {
        let doing = match self.state() {
            State::WaitingForModel => Doing::Turn,
            State::BetweenTurns => Doing::BetweenTurns,
            State::Starting | State::InTool | State::WaitingForApproval | State::Stopping => {
                Doing::Excused
            }
        };
        Activity {
            doing,
            last_life: self.life.last(),
            grace_until: self.life.grace_until(),
        }
    }
}

fn warning<const N: usize>(
    code: &'static str,
    message: String,
    counts: [(&str, Json); N],
) -> Action {
    Action::Warn {
        code,
        message,
        counts: Map::from_iter(counts.map(|(name, count)| (name.to_owned(), count))),
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A length for a person: `31 s`, `5 min`, `2 h 5 min`.
pub(super) fn words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..2 => format!("{} ms", duration.as_millis()),
        2..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}
