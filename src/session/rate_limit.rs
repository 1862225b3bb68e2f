//! The windows of rate limits that the API tells of: kept as evidence, and told to the host when one runs out.

use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::{Action, Session, clipped};
use crate::agent::event::RateLimit;
use crate::time::{Now, UnixNanos};

/// Windows that are told of; an agent names a handful.
const WINDOWS: usize = 32;

/// Name, status and end of a window.
type Told = (String, String, Option<UnixNanos>);

/// What was said of rate limits.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct RateLimits {
    window: Option<Window>,
    told: Vec<Told>,
    last_hit: Option<Duration>,
}

impl RateLimits {
    /// A window runs out, or a call was refused for being too many.
    pub(super) fn hit(&mut self, uptime: Duration) {
        self.last_hit = Some(uptime);
    }

    pub(super) fn last_hit(&self) -> Option<Duration> {
        self.last_hit
    }

    pub(super) fn window(&self) -> Option<&Window> {
        self.window.as_ref()
    }

    /// Whether the host is to hear of this: once of each, and no more than so many.
    fn tell(&mut self, told: Told) -> bool {
        let is_new = self.told.len() < WINDOWS && !self.told.contains(&told);
        if is_new {
            self.told.push(told);
        }
        is_new
    }
}

/// The last that was said of a window of a rate limit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    name: String,
    status: String,
    resets_at: Option<UnixNanos>,
    utilization: Option<f64>,
}

impl Window {
    /// `the five_hour window is rejected, 91 % used, and resets at 2030-01-01T00:00:00.000000Z`
    pub(super) fn fact(&self) -> String {
        let used = self
            .utilization
            .map(|share| format!(", {:.0} % used", share * 100.0));
        let resets = self.resets_at.map(|at| format!(", and resets at {at}"));
        format!(
            "the {} window is {}{}{}",
            self.name,
            self.status,
            used.unwrap_or_default(),
            resets.unwrap_or_default()
        )
    }
}

impl Session {
    /// Keeps what was said of a window, and warns the host once of each that runs out.
    pub(super) fn note_rate_limit(
        &mut self,
        now: Now,
        limit: &RateLimit<'_>,
        actions: &mut Vec<Action>,
    ) {
        let name = limit.rate_limit_type.as_deref().unwrap_or("rate limit");
        let window = Window {
            name: clipped(name).to_owned(),
            status: clipped(&limit.status).to_owned(),
            resets_at: limit
                .resets_at
                .map(|seconds| UnixNanos(0).plus(Duration::from_secs(seconds))),
            utilization: limit.utilization.filter(|share| share.is_finite()),
        };
        let is_spent = limit.status == "rejected";
        if is_spent || limit.status == "allowed_warning" {
            self.network.limits.hit(now.uptime);
            let told = (window.name.clone(), window.status.clone(), window.resets_at);
            if self.network.limits.tell(told) {
                let mut counts = Map::new();
                if let Some(at) = limit.resets_at {
                    counts.insert("resets_at".to_owned(), Json::from(at));
                }
                if let Some(share) = window.utilization {
                    counts.insert("utilization".to_owned(), Json::from(share));
                }
                actions.push(Action::Warn {
                    code: "rate_limited",
                    message: window.fact(),
                    counts,
                });
            }
        }
        self.network.limits.window = Some(window);
    }
}
