//! What the sockets, the probe, the retries and the limits add to a verdict (`reference/supervision.md` §4.2).
//!
//! `network` is a verdict if the agent's structured fields say so, or a socket of the agent's side does; words on
//! stderr alone are not enough, only with a probe that fails. A probe that succeeds rules nothing out, for trouble
//! passes: it only makes the verdict less sure. What has its cause above TCP, an HTTP status or a certificate, no
//! socket and no probe changes.

use std::time::Duration;

use sandtrace_client::failure::{Alternative, Failure, FailureKind};

use super::Facts;
use super::verdict::Because as _;
use crate::session::api_error::network_words;
use crate::session::network::{
    Probe, ProbeOutcome, Probed, Retries, Route, Trouble, TroubledSocket,
};

/// No heap of evidence makes a verdict certain.
const CAP: f64 = 0.99;
/// Of a failure of the network whose host can be reached a moment later.
const TRANSIENT: f64 = 0.5;

/// What of a verdict the network may still decide.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::session) enum Doubt {
    /// Nothing.
    None,
    /// It is the network's by the agent's own fields.
    Network,
    /// The API did not answer: it, or the way there.
    Silence,
    /// A call failed, and nothing says by what.
    Vague,
    /// Words on stderr speak of the network, and might quote anybody.
    Words(FailureKind),
}

/// What a probe or a socket could say about this verdict.
pub(in crate::session) fn doubt(failure: &Failure, facts: &Facts<'_>) -> Doubt {
    use FailureKind as K;
    match failure.kind {
        K::NetworkDns | K::NetworkConnect | K::NetworkReset | K::NetworkTimeout => Doubt::Network,
        K::TimeoutApi => Doubt::Silence,
        K::ApiServerError if facts.http_status().is_none() => Doubt::Vague,
        K::CrashException | K::CrashExitCode => match words_on_stderr(facts) {
            // A certificate that is not trusted shows in no connection.
            Some(K::NetworkTls) | None => Doubt::None,
            Some(kind) => Doubt::Words(kind),
        },
        _ => Doubt::None,
    }
}

fn words_on_stderr(facts: &Facts<'_>) -> Option<FailureKind> {
    if facts.network.echoes_a_tool() {
        return None;
    }
    let exception = facts.stderr.exception();
    let text = exception.map_or_else(
        || facts.stderr.last_line().unwrap_or_default().to_owned(),
        |exception| format!("{}: {}", exception.class, exception.message),
    );
    network_words(&text).map(|(kind, _)| match kind {
        // A time limit of the agent's own says as little about the API as any other word.
        FailureKind::TimeoutApi => FailureKind::NetworkTimeout,
        kind => kind,
    })
}

/// Weighs a verdict with what is known of the network.
pub(super) fn weigh(failure: Failure, facts: &Facts<'_>) -> Failure {
    let failure = by_silence(failure, facts);
    let failure = by_sockets(failure, facts);
    let failure = by_probe(failure, facts);
    let failure = by_limits(failure, facts);
    by_retries(failure, facts)
}

/// The CLI told at its last try that no answer had come, whatever it called the failure in the end.
fn by_silence(failure: Failure, facts: &Facts<'_>) -> Failure {
    let silent = facts
        .network
        .retries()
        .is_some_and(|retries| retries.no_response.is_some());
    if silent && doubt(&failure, facts) == Doubt::Vague {
        failure.rather(FailureKind::TimeoutApi, 0.75, 0.2)
    } else {
        failure
    }
}

fn by_sockets(failure: Failure, facts: &Facts<'_>) -> Failure {
    use FailureKind as K;
    let Some(socket) = facts.network.sockets().first() else {
        return match failure.kind {
            // The kernel had nothing to send again, so the request had arrived.
            K::TimeoutApi if facts.network.was_looked_at() => {
                failure.at_most(&K::NetworkTimeout, 0.15).because(
                    "socket",
                    "no connection of the agent's was stuck".to_owned(),
                )
            }
            _ => failure,
        };
    };
    let kind = match socket.trouble {
        Trouble::Connecting => K::NetworkConnect,
        Trouble::Silent => K::NetworkTimeout,
    };
    let failure = match (doubt(&failure, facts), &failure.kind) {
        (Doubt::Silence | Doubt::Vague, _) if is_elsewhere(socket, facts.network.probe()) => {
            failure.perhaps(kind, 0.3)
        }
        (Doubt::Silence | Doubt::Vague, _) => failure.rather(kind, 0.85, 0.25),
        (Doubt::Words(_), _) => failure.rather(kind, 0.8, 0.3),
        (Doubt::Network, same) if *same == kind => failure.surer(),
        (Doubt::Network, _) => failure.perhaps(kind, 0.3),
        // We stopped it ourselves because nothing came: this may be why.
        (Doubt::None, K::TimeoutIdle | K::TimeoutDeadline) => failure.perhaps(kind, 0.5),
        (Doubt::None, _) => return failure,
    };
    failure.because("socket", socket_fact(socket))
}

/// Whether an attempt to connect goes to another host than the model's: to an address that is not known to be that one's,
/// while that one takes connections. The CLI sends its own statistics elsewhere, where a sandbox may not let it.
fn is_elsewhere(socket: &TroubledSocket, probe: Option<&Probed>) -> bool {
    let takes_connections = matches!(
        probe,
        Some(Probed::Tried(probe)) if probe.outcome == ProbeOutcome::Reachable
    );
    takes_connections && !socket.is_known_peer && socket.trouble == Trouble::Connecting
}

fn socket_fact(socket: &TroubledSocket) -> String {
    let whom = if socket.is_known_peer {
        ", the host that the model is reached by"
    } else {
        ""
    };
    let TroubledSocket {
        command,
        pid,
        peer,
        retransmits,
        ..
    } = socket;
    match socket.trouble {
        Trouble::Connecting => format!(
            "{command} (pid {pid}) got no answer from {peer}{whom}, after {} attempts to connect",
            retransmits.saturating_add(1)
        ),
        Trouble::Silent => format!(
            "{command} (pid {pid}) had a connection to {peer}{whom}, on which it sent the same {} times unacknowledged",
            retransmits.saturating_add(1)
        ),
    }
}

fn by_probe(failure: Failure, facts: &Facts<'_>) -> Failure {
    let doubt = doubt(&failure, facts);
    let probe = match facts.network.probe() {
        None => return failure,
        Some(_) if doubt == Doubt::None => return failure,
        Some(Probed::NotTried(why)) => {
            return failure.because("probe", format!("not tried: {why}"));
        }
        Some(Probed::Tried(probe)) => probe,
    };
    let failure = match (probe.outcome.kind(), doubt) {
        (_, Doubt::None) => failure,
        (None, Doubt::Network) => failure.less_sure(TRANSIENT),
        (None, Doubt::Silence) => failure.at_most(&FailureKind::NetworkTimeout, 0.25),
        (None, Doubt::Vague) => failure.at_most(&FailureKind::NetworkConnect, 0.2),
        (None, Doubt::Words(kind)) => failure.at_most(&kind, 0.3),
        (Some(found), Doubt::Network) if found == failure.kind => failure.surer(),
        (Some(found), Doubt::Network) => failure.surer().perhaps(found, 0.3),
        (Some(found), Doubt::Silence | Doubt::Vague) => failure.rather(found, 0.75, 0.2),
        (Some(_), Doubt::Words(kind)) => failure.rather(kind, 0.75, 0.3),
    };
    failure.because("probe", probe_fact(probe))
}

fn probe_fact(probe: &Probe) -> String {
    let Probe { host, took, .. } = probe;
    let who = match probe.route {
        Route::Direct => format!("the API's host {host}"),
        Route::Proxy => format!("the proxy {host}"),
    };
    let after = format!("after {} ms", took.as_millis());
    match probe.outcome {
        ProbeOutcome::Reachable => {
            format!("{who} takes connections now ({after}), so the trouble may have passed")
        }
        ProbeOutcome::NameUnknown => format!("the name of {who} cannot be resolved ({after})"),
        ProbeOutcome::NameTimedOut => format!("no name server answers for {who} ({after})"),
        ProbeOutcome::Refused => format!("{who} refuses connections ({after})"),
        ProbeOutcome::Reset => format!("{who} breaks connections off at once ({after})"),
        ProbeOutcome::Unreachable => format!("there is no way to {who} ({after})"),
        ProbeOutcome::ConnectTimedOut => {
            format!("{who} does not answer an attempt to connect ({after})")
        }
    }
}

/// A limit that was told of just before may be why a connection was reset.
fn by_limits(failure: Failure, facts: &Facts<'_>) -> Failure {
    use FailureKind as K;
    match failure.kind {
        K::ApiRateLimit | K::ApiUsageLimit => match facts.network.limits.window() {
            Some(window) => failure.because("rate_limit", window.fact()),
            None => failure,
        },
        K::NetworkReset => match facts.network.limited_before() {
            Some(before) => failure.perhaps(K::ApiRateLimit, 0.35).because(
                "rate_limit",
                format!("a rate limit was told of {} s before", before.as_secs()),
            ),
            None => failure,
        },
        _ => failure,
    }
}

fn by_retries(failure: Failure, facts: &Facts<'_>) -> Failure {
    let of_a_call = matches!(failure.kind.class(), "network" | "api")
        || failure.kind == FailureKind::TimeoutApi;
    match facts.network.retries().filter(|_| of_a_call) {
        Some(retries) => failure.because("retry", retries_fact(retries)),
        None => failure,
    }
}

/// `10 retries over 171 s (9 api.overloaded, 1 network.connect), last HTTP 529`
fn retries_fact(retries: &Retries) -> String {
    let Retries {
        count, first, last, ..
    } = retries;
    let plural = if *count == 1 { "retry" } else { "retries" };
    let over = last.saturating_sub(*first).as_secs_f64();
    let kinds: Vec<String> = retries
        .kinds
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let last = match (retries.last_status, retries.no_response) {
        (Some(status), _) => format!("last HTTP {status}"),
        (None, Some(waited)) if waited > Duration::ZERO => {
            format!("no response within {} s", waited.as_secs_f64())
        }
        (None, Some(_)) => "no response".to_owned(),
        (None, None) => "last without an HTTP status".to_owned(),
    };
    format!(
        "{count} {plural} over {over:.0} s ({}), {last}",
        kinds.join(", ")
    )
}

/// Changes of mind.
trait Reconsidered {
    /// It was `kind` rather; what it was called before stays as an alternative.
    fn rather(self, kind: FailureKind, confidence: f64, former: f64) -> Self;
    /// Sets an alternative that the facts speak for; one that is likelier already stays.
    fn perhaps(self, kind: FailureKind, confidence: f64) -> Self;
    /// Bounds an alternative that the facts speak against.
    fn at_most(self, kind: &FailureKind, confidence: f64) -> Self;
    fn surer(self) -> Self;
    fn less_sure(self, bound: f64) -> Self;
}

impl Reconsidered for Failure {
    fn rather(mut self, kind: FailureKind, confidence: f64, former: f64) -> Self {
        self.alternatives.retain(|other| other.kind != kind);
        self.recoverable = kind.recoverable();
        self.confidence = confidence;
        let before = std::mem::replace(&mut self.kind, kind);
        self.perhaps(before, former)
    }

    fn perhaps(mut self, kind: FailureKind, confidence: f64) -> Self {
        match self.alternatives.iter_mut().find(|one| one.kind == kind) {
            Some(one) => one.confidence = one.confidence.max(confidence),
            None => self.alternatives.push(Alternative { kind, confidence }),
        }
        self
    }

    fn at_most(mut self, kind: &FailureKind, confidence: f64) -> Self {
        for one in &mut self.alternatives {
            if one.kind == *kind {
                one.confidence = one.confidence.min(confidence);
            }
        }
        self
    }

    fn surer(mut self) -> Self {
        self.confidence = (1.0 - (1.0 - self.confidence) * 0.3).min(CAP);
        self
    }

    fn less_sure(mut self, bound: f64) -> Self {
        self.confidence = self.confidence.min(bound);
        self
    }
}
