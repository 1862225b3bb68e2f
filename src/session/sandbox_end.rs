//! The known end of the sandbox: shortly before it everything is sent each second, for E2B kills without a warning.
//!
//! The agent is not stopped, for the host may extend the sandbox, and does not tell us when it has (DESIGN §3). The end
//! is a time on the wall, and is compared with the run's own wall clock: somebody who sets the sandbox's clock brings
//! the end no nearer.

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry::Key;
use serde_json::{Map, json};

use super::semconv::{event, key};
use super::span::SpanEvent;
use super::{Action, Effects, Session, int};
use crate::time::{Now, UnixNanos};

/// From so long before the end until so long after it, for two clocks may differ.
const AROUND: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_secs(1);

/// When to send everything, because the sandbox may be gone a moment later.
#[derive(Debug)]
pub(super) struct SandboxEnd {
    at: Option<UnixNanos>,
    told: bool,
    /// As time since the start.
    due: Option<Duration>,
}

impl SandboxEnd {
    pub(super) fn new(at: Option<UnixNanos>, now: Now) -> Self {
        let mut end = Self {
            at,
            told: false,
            due: None,
        };
        end.plan(now);
        end
    }

    /// When the next look is due; `None` if no end is known, or it has passed.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// When the last of the time begins. A pause brings that nearer though no time of the run passes, and so does a busy
    /// machine a little, so it is asked with every input.
    pub(super) fn plan(&mut self, now: Now) {
        if let (Some(at), false) = (self.at, self.told) {
            let begins = UnixNanos(at.0.saturating_sub(nanos(AROUND)));
            self.due = Some(now.uptime.saturating_add(begins.since(now.wall)));
        }
    }

    /// Whether everything is to be sent now.
    fn is_due(&mut self, now: Now) -> bool {
        let (Some(at), Some(due)) = (self.at, self.due) else {
            return false;
        };
        if now.uptime < due {
            return false;
        }
        let is_over = now.wall >= at.plus(AROUND);
        self.due = (!is_over).then(|| now.uptime.saturating_add(EVERY));
        true
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Session {
    /// Has everything sent if the sandbox is about to end, and says so once.
    pub(super) fn check_sandbox_end(&mut self, now: Now, effects: &mut Effects) {
        if !self.sandbox_end.is_due(now) {
            return;
        }
        effects.actions.push(Action::Flush);
        let Some(at) = self.sandbox_end.at.filter(|_| !self.sandbox_end.told) else {
            return;
        };
        self.sandbox_end.told = true;
        let left = at.since(now.wall);
        let seconds = left.as_secs_f64().round();
        let message = if left.is_zero() {
            format!(
                "the sandbox was to end at {at}, which is past; unless it was extended, it may be gone any moment"
            )
        } else {
            format!(
                "the sandbox ends in {seconds} s, at {at}, unless it is extended; everything is sent each second until then"
            )
        };
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        effects.actions.push(Action::Warn {
            code: "sandbox_ending",
            message,
            counts: Map::from_iter([("left_ms".to_owned(), json!(left))]),
        });
        if let Some(root) = self.tree.get_mut(self.root) {
            root.event(SpanEvent {
                name: Cow::Borrowed(event::SANDBOX_ENDING),
                time: now.wall,
                attributes: vec![(Key::from_static_str(key::SANDBOX_LEFT_MS), int(left).into())],
            });
        }
    }
}
