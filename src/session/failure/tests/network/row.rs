//! Facts in short, and what a verdict says of them.

use std::net::SocketAddr;

use super::super::super::super::network::{
    Probe, ProbeOutcome, Probed, Route, SocketOwner, Trouble, TroubledSocket,
};
use super::*;
use crate::agent::event::{ApiRetry, NoResponse};

/// A run's end as the matrix has it, and what was seen of the network.
pub(super) struct Row {
    ending: Ending,
    result: Option<LastResult>,
    line: Option<ApiError>,
    stderr: String,
    events: bool,
    turn_open: bool,
    pub(super) network: Network,
}

pub(super) const PROBE_AT: Duration = Duration::from_secs(100);

pub(super) fn ended(code: i32) -> Row {
    Row {
        ending: Ending::Terminated(Termination::Exited(code)),
        result: None,
        line: None,
        stderr: String::new(),
        events: true,
        turn_open: false,
        network: Network::default(),
    }
}

pub(super) fn signalled(signal: i32) -> Row {
    Row {
        ending: Ending::Terminated(Termination::Signaled {
            signal,
            core_dumped: false,
        }),
        turn_open: true,
        ..ended(0)
    }
}

pub(super) fn owned(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// The end of a call that failed for good: `subtype: "success"`, `is_error: true`, and exit code 1.
pub(super) fn call(status: u16, error: &str, api_error: &str, kind: &str, text: &str) -> Row {
    let status = (status != 0).then_some(status);
    Row {
        result: Some(LastResult {
            subtype: "success".to_owned(),
            is_error: true,
            terminal_reason: owned("api_error"),
            stop_reason: owned("stop_sequence"),
            api_error_status: status,
            text: text.to_owned(),
            denied_permission: false,
        }),
        line: Some(ApiError {
            error: owned(error),
            api_error: owned(api_error),
            api_error_type: owned(kind),
            status,
            text: text.to_owned(),
            ..ApiError::default()
        }),
        ..ended(1)
    }
}

/// A result of another kind, with an `error_…` subtype or without an API error.
pub(super) fn result(code: i32, subtype: &str, reason: &str, text: &str) -> Row {
    Row {
        result: Some(LastResult {
            subtype: subtype.to_owned(),
            is_error: true,
            terminal_reason: owned(reason),
            text: text.to_owned(),
            ..LastResult::default()
        }),
        ..ended(code)
    }
}

impl Row {
    pub(super) fn terminal(mut self, reason: &str) -> Self {
        if let Some(result) = &mut self.result {
            result.terminal_reason = owned(reason);
        }
        self
    }

    pub(super) fn stopped(mut self, reason: &str) -> Self {
        if let Some(result) = &mut self.result {
            result.stop_reason = owned(reason);
        }
        self
    }

    pub(super) fn well(self) -> Self {
        let mut row = Self {
            ending: Ending::Terminated(Termination::Exited(0)),
            ..self
        };
        row.result = Some(LastResult {
            subtype: "success".to_owned(),
            terminal_reason: owned("completed"),
            ..LastResult::default()
        });
        row
    }

    pub(super) fn said(self, stderr: &str) -> Self {
        Self {
            stderr: stderr.to_owned(),
            ..self
        }
    }

    pub(super) fn silent(self) -> Self {
        Self {
            events: false,
            ..self
        }
    }

    pub(super) fn open(self) -> Self {
        Self {
            turn_open: true,
            ..self
        }
    }

    pub(super) fn failed(mut self) -> Self {
        self.network.failed(PROBE_AT);
        self
    }

    pub(super) fn probed(mut self, outcome: ProbeOutcome) -> Self {
        self.network.probed(Probed::Tried(Probe {
            host: "api.test:443".to_owned(),
            route: Route::Direct,
            outcome,
            took: Duration::from_millis(7),
        }));
        self
    }

    pub(super) fn stuck(self, owner: SocketOwner, trouble: Trouble) -> Self {
        let peer: SocketAddr = "192.0.2.1:443".parse().unwrap();
        self.looked(vec![TroubledSocket {
            pid: 42,
            command: "claude".to_owned(),
            owner,
            peer,
            is_known_peer: true,
            trouble,
            retransmits: 4,
        }])
    }

    pub(super) fn looked(mut self, sockets: Vec<TroubledSocket>) -> Self {
        self.network.looked(sockets);
        self
    }

    pub(super) fn retried(mut self, second: u64, status: Option<u16>, kind: &str) -> Self {
        let retry = ApiRetry {
            error_status: status,
            ..ApiRetry::default()
        };
        self.network
            .retried(Duration::from_secs(second), &retry, kind);
        self
    }

    pub(super) fn unanswered(mut self, waited_ms: u64) -> Self {
        let retry = ApiRetry {
            no_response: Some(NoResponse {
                waited_ms: Some(waited_ms),
            }),
            ..ApiRetry::default()
        };
        self.network
            .retried(Duration::from_secs(3), &retry, "timeout.api");
        self
    }

    fn with_facts<T>(&self, judge: impl FnOnce(&Facts<'_>) -> T) -> T {
        let mut stderr = StderrTail::default();
        self.stderr
            .lines()
            .for_each(|line| stderr.push(line.as_bytes()));
        judge(&Facts {
            intent: None,
            ending: &self.ending,
            result: self.result.as_ref(),
            api_error: self.line.as_ref(),
            stderr: &stderr,
            memory: &Memory::default(),
            network: &self.network,
            agent_error: None,
            saw_event: self.events,
            turn_open: self.turn_open,
        })
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.with_facts(|facts| classify(facts).1)
    }

    pub(super) fn name(&self) -> String {
        self.failure()
            .map_or("-".to_owned(), |failure| failure.kind.to_string())
    }

    pub(super) fn doubt(&self) -> Doubt {
        self.with_facts(|facts| {
            classify(facts)
                .1
                .map_or(Doubt::None, |failure| doubt(&failure, facts))
        })
    }
}

/// What a verdict says besides its kind.
pub(super) trait Told {
    /// The likelihood of another kind.
    fn other(&self, kind: &FailureKind) -> Option<f64>;
    /// The evidence of one source.
    fn facts(&self, source: &str) -> Vec<&str>;
}

impl Told for Failure {
    fn other(&self, kind: &FailureKind) -> Option<f64> {
        let mut others = self.alternatives.iter();
        others
            .find(|other| other.kind == *kind)
            .map(|other| other.confidence)
    }

    fn facts(&self, source: &str) -> Vec<&str> {
        self.evidence
            .iter()
            .filter(|item| item.source == source)
            .map(|item| item.fact.as_str())
            .collect()
    }
}
