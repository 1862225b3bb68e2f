//! What the agent's sockets, a probe and retries say about a failure, gathered while the run goes on.
//!
//! The sockets are looked at when a call of the model is in doubt: it is tried again without an HTTP status, it failed
//! without one, or the turn has waited for it for ten seconds. The probe is made once a failure, when one that it could
//! confirm or soften is seen, and the verdict waits for it no longer than [`PROBE_BOUND`]. An answer of the model makes
//! all of it history: what follows is another call's trouble.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use sandtrace_client::failure::FailureKind;

use super::failure::{Doubt, by_result, classify, doubt};
use super::rate_limit::RateLimits;
use super::{Action, Session, State};
use crate::agent::event::ApiRetry;
use crate::time::Now;

/// The longest that the end of a run waits for a probe.
const PROBE_BOUND: Duration = Duration::from_millis(2500);
/// Silence of the model after which the sockets are looked at, and from then on as often.
const LOOK_AFTER: Duration = Duration::from_secs(10);
/// Looks that lines ask for are at least so far apart.
const LOOKS_APART: Duration = Duration::from_secs(1);
/// A reset within this time of a limit's notice may have been the limit (`reference/supervision.md` §4.1).
const NEAR_LIMIT: Duration = Duration::from_secs(10 * 60);
/// Words that a tool's result had within this time are likely to be quoted from there.
const NEAR_TOOL: Duration = Duration::from_secs(30);

/// Whether the API's host is tried at the time of failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProbePolicy {
    #[default]
    On,
    Off,
}

/// What became of the one probe at the time of failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    Tried(Probe),
    /// Why not, as a clause.
    NotTried(String),
}

/// A probe that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Name and port.
    pub host: String,
    pub route: Route,
    pub outcome: ProbeOutcome,
    pub took: Duration,
}

/// How the agent gets to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Direct,
    /// The host is the proxy's, not the API's.
    Proxy,
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The host takes connections.
    Reachable,
    NameUnknown,
    NameTimedOut,
    Refused,
    /// It takes a connection and breaks it off at once.
    Reset,
    Unreachable,
    ConnectTimedOut,
}

impl ProbeOutcome {
    /// The failure that it shows; `None` if it got through.
    pub(super) fn kind(self) -> Option<FailureKind> {
        match self {
            Self::Reachable => None,
            Self::Reset => Some(FailureKind::NetworkReset),
            Self::NameUnknown | Self::NameTimedOut => Some(FailureKind::NetworkDns),
            Self::Refused | Self::Unreachable | Self::ConnectTimedOut => {
                Some(FailureKind::NetworkConnect)
            }
        }
    }
}

/// A socket of the run that does not get through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TroubledSocket {
    /// Whose it is.
    pub pid: u32,
    /// The name of that process.
    pub command: String,
    pub owner: SocketOwner,
    pub peer: SocketAddr,
    /// The address is that of the API's host, or of the proxy before it.
    pub is_known_peer: bool,
    pub trouble: Trouble,
    /// How often the kernel has sent the same again; at least 1.
    pub retransmits: u32,
}

/// Which side of the run a socket is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketOwner {
    /// The agent or its CLI, who talk to the API.
    Agent,
    /// A process of a tool's, whose failures are the tool's.
    Tool,
}

/// What is wrong with a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answers the attempts to connect.
    Connecting,
    /// The connection was made, and what is sent is not acknowledged.
    Silent,
}

/// The attempts at one call that came to nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Retries {
    pub(super) count: u64,
    pub(super) first: Duration,
    pub(super) last: Duration,
    /// How many of each kind, by `error.type`.
    pub(super) kinds: BTreeMap<String, u64>,
    pub(super) last_status: Option<u16>,
    /// The CLI waited this long for the last one's answer, and none came.
    pub(super) no_response: Option<Duration>,
}

/// The one probe of a failure.
#[derive(Debug, Clone, Default, PartialEq)]
enum ProbeState {
    #[default]
    NotAsked,
    Asked {
        until: Duration,
    },
    In(Probed),
}

/// Why the sockets are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum LookFor {
    /// The model keeps the turn waiting: a call is under way, and its connection must be there.
    #[default]
    Silence,
    /// A line says that a call failed: its connection may be gone already, so that finding none means nothing.
    Line,
}

/// What a verdict may rest on.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Network {
    /// The last look that found any of the agent's own in trouble.
    sockets: Vec<TroubledSocket>,
    /// A look was made while the model kept the turn waiting, and it has not answered since.
    looked: bool,
    last_look: Option<Duration>,
    /// What the last look was for.
    look: LookFor,
    last_line: Duration,
    probe: ProbeState,
    retries: Option<Retries>,
    pub(super) limits: RateLimits,
    tool_failed: Option<Duration>,
    failed: Option<Duration>,
}

impl Network {
    pub(super) fn looked(&mut self, sockets: Vec<TroubledSocket>) {
        self.looked |= self.look == LookFor::Silence;
        let own: Vec<_> = sockets
            .into_iter()
            .filter(|socket| socket.owner == SocketOwner::Agent)
            .collect();
        // A socket that was given up is gone at the next look, and was in trouble all the same.
        if !own.is_empty() {
            self.sockets = own;
        }
    }

    pub(super) fn probed(&mut self, probed: Probed) {
        self.probe = ProbeState::In(probed);
    }

    /// The model answered: what was in doubt before is in doubt no more.
    pub(super) fn answered(&mut self) {
        self.sockets.clear();
        self.looked = false;
        self.retries = None;
        self.failed = None;
        if let ProbeState::In(_) = self.probe {
            self.probe = ProbeState::NotAsked;
        }
    }

    pub(super) fn line(&mut self, uptime: Duration) {
        self.last_line = uptime;
    }

    /// A tool's result reads like a failure of the network.
    pub(super) fn tool_failed(&mut self, uptime: Duration) {
        self.tool_failed = Some(uptime);
    }

    /// A turn failed, or the agent is gone; the first counts.
    pub(super) fn failed(&mut self, uptime: Duration) {
        self.failed.get_or_insert(uptime);
    }

    pub(super) fn retried(&mut self, uptime: Duration, retry: &ApiRetry<'_>, kind: &str) {
        let retries = self.retries.get_or_insert_with(|| Retries {
            first: uptime,
            ..Retries::default()
        });
        retries.count += 1;
        retries.last = uptime;
        *retries.kinds.entry(kind.to_owned()).or_default() += 1;
        retries.last_status = retry.error_status;
        retries.no_response = retry
            .no_response
            .as_ref()
            .map(|silence| Duration::from_millis(silence.waited_ms.unwrap_or(0)));
        if retry.error_status == Some(429) {
            self.limits.hit(uptime);
        }
    }

    /// Sockets of the agent's own side that were in trouble when the model last did not answer.
    pub(super) fn sockets(&self) -> &[TroubledSocket] {
        &self.sockets
    }

    /// The sockets were looked at while the call was under way, whatever was found.
    pub(super) fn was_looked_at(&self) -> bool {
        self.looked
    }

    pub(super) fn probe(&self) -> Option<&Probed> {
        match &self.probe {
            ProbeState::In(probed) => Some(probed),
            ProbeState::NotAsked | ProbeState::Asked { .. } => None,
        }
    }

    pub(super) fn retries(&self) -> Option<&Retries> {
        self.retries.as_ref()
    }

    /// How long before the failure a rate limit was told of, if that was not long.
    pub(super) fn limited_before(&self) -> Option<Duration> {
        let before = self.failed?.checked_sub(self.limits.last_hit()?)?;
        (before <= NEAR_LIMIT).then_some(before)
    }

    /// Whether the words on stderr may be those of a tool that failed just before.
    pub(super) fn echoes_a_tool(&self) -> bool {
        let (Some(failed), Some(tool)) = (self.failed, self.tool_failed) else {
            return false;
        };
        failed
            .checked_sub(tool)
            .is_some_and(|before| before <= NEAR_TOOL)
    }

    fn look(&mut self, uptime: Duration, why: LookFor, actions: &mut Vec<Action>) {
        let apart = match why {
            LookFor::Silence => LOOK_AFTER,
            LookFor::Line => LOOKS_APART,
        };
        let is_due = self
            .last_look
            .is_none_or(|last| uptime.saturating_sub(last) >= apart);
        if is_due {
            self.last_look = Some(uptime);
            self.look = why;
            actions.push(Action::LookAtSockets);
        }
    }

    fn ask(&mut self, uptime: Duration, actions: &mut Vec<Action>) {
        if self.probe == ProbeState::NotAsked {
            self.probe = ProbeState::Asked {
                until: uptime.saturating_add(PROBE_BOUND),
            };
            actions.push(Action::Probe);
        }
    }

    /// Until when a probe that is under way may be waited for.
    pub(super) fn probe_due(&self) -> Option<Duration> {
        match self.probe {
            ProbeState::Asked { until } => Some(until),
            ProbeState::NotAsked | ProbeState::In(_) => None,
        }
    }
}

impl Session {
    /// The model has kept the turn waiting: is anything of the agent's stuck?
    pub(super) fn look_if_kept_waiting(&mut self, now: Now, actions: &mut Vec<Action>) {
        let silent = now.uptime.saturating_sub(self.network.last_line);
        if self.state() == State::WaitingForModel && silent >= LOOK_AFTER {
            self.network.look(now.uptime, LookFor::Silence, actions);
        }
    }

    /// A call without an HTTP status is tried again: the connection may still be there.
    pub(super) fn look_at_retry(
        &mut self,
        now: Now,
        retry: &ApiRetry<'_>,
        actions: &mut Vec<Action>,
    ) {
        if retry.error_status.is_none() {
            self.network.look(now.uptime, LookFor::Line, actions);
        }
    }

    /// A turn is over: if the network may have been at fault, now is the time to look.
    pub(super) fn look_at_result(&mut self, now: Now, actions: &mut Vec<Action>) {
        match &self.last_result {
            Some(result) if result.is_error => self.network.failed(now.uptime),
            _ => return self.network.answered(),
        }
        if self.stop.intent().is_none() && self.doubt_of_result() != Doubt::None {
            self.network.look(now.uptime, LookFor::Line, actions);
            self.probe(now, actions);
        }
    }

    fn probe(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.config.probe == ProbePolicy::On {
            self.network.ask(now.uptime, actions);
        }
    }

    /// Whether the verdict can be reached now. It cannot while a probe is under way that it may rest on.
    pub(super) fn is_evidence_in(&mut self, now: Now, actions: &mut Vec<Action>) -> bool {
        self.network.failed(now.uptime);
        if self.preview() == Doubt::None {
            return true;
        }
        self.probe(now, actions);
        self.network.probe_due().is_none_or(|due| now.uptime >= due)
    }

    /// What a probe could tell about the last result, should the run end on it.
    fn doubt_of_result(&self) -> Doubt {
        self.judge(|facts| {
            let of = |result| doubt(&by_result(result, facts.api_error, facts.stderr), facts);
            facts.result.map_or(Doubt::None, of)
        })
    }

    /// What a probe could tell about the verdict as it would be now.
    fn preview(&self) -> Doubt {
        self.judge(|facts| {
            let failure = classify(facts).1;
            failure.map_or(Doubt::None, |failure| doubt(&failure, facts))
        })
    }
}
