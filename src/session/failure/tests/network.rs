//! The failure matrix of `reference/agent-streams.md` §4, each row with the fields that the real CLI gave it, and what
//! the sockets, the probe, the retries and the limits make of a verdict.

use std::net::SocketAddr;

use super::super::super::network::{
    Probe, ProbeOutcome, Probed, Route, SocketOwner, Trouble, TroubledSocket,
};
use super::*;
use crate::agent::event::{ApiRetry, NoResponse};

/// A run's end as the matrix has it, and what was seen of the network.
struct Row {
    ending: Ending,
    result: Option<LastResult>,
    line: Option<ApiError>,
    stderr: String,
    events: bool,
    turn_open: bool,
    network: Network,
}

const PROBE_AT: Duration = Duration::from_secs(100);

fn ended(code: i32) -> Row {
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

fn signalled(signal: i32) -> Row {
    Row {
        ending: Ending::Terminated(Termination::Signaled {
            signal,
            core_dumped: false,
        }),
        turn_open: true,
        ..ended(0)
    }
}

fn owned(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// The end of a call that failed for good: `subtype: "success"`, `is_error: true`, and exit code 1.
fn call(status: u16, error: &str, api_error: &str, kind: &str, text: &str) -> Row {
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
fn result(code: i32, subtype: &str, reason: &str, text: &str) -> Row {
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
    fn terminal(mut self, reason: &str) -> Self {
        if let Some(result) = &mut self.result {
            result.terminal_reason = owned(reason);
        }
        self
    }

    fn stopped(mut self, reason: &str) -> Self {
        if let Some(result) = &mut self.result {
            result.stop_reason = owned(reason);
        }
        self
    }

    fn well(self) -> Self {
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

    fn said(self, stderr: &str) -> Self {
        Self {
            stderr: stderr.to_owned(),
            ..self
        }
    }

    fn silent(self) -> Self {
        Self {
            events: false,
            ..self
        }
    }

    fn open(self) -> Self {
        Self {
            turn_open: true,
            ..self
        }
    }

    fn failed(mut self) -> Self {
        self.network.failed(PROBE_AT);
        self
    }

    fn probed(mut self, outcome: ProbeOutcome) -> Self {
        self.network.probed(Probed::Tried(Probe {
            host: "api.test:443".to_owned(),
            route: Route::Direct,
            outcome,
            took: Duration::from_millis(7),
        }));
        self
    }

    fn stuck(self, owner: SocketOwner, trouble: Trouble) -> Self {
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

    fn looked(mut self, sockets: Vec<TroubledSocket>) -> Self {
        self.network.looked(sockets);
        self
    }

    fn retried(mut self, second: u64, status: Option<u16>, kind: &str) -> Self {
        let retry = ApiRetry {
            error_status: status,
            ..ApiRetry::default()
        };
        self.network
            .retried(Duration::from_secs(second), &retry, kind);
        self
    }

    fn unanswered(mut self, waited_ms: u64) -> Self {
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

    fn failure(&self) -> Option<Failure> {
        self.with_facts(|facts| classify(facts).1)
    }

    fn name(&self) -> String {
        self.failure()
            .map_or("-".to_owned(), |failure| failure.kind.to_string())
    }

    fn doubt(&self) -> Doubt {
        self.with_facts(|facts| {
            classify(facts)
                .1
                .map_or(Doubt::None, |failure| doubt(&failure, facts))
        })
    }
}

/// What a verdict says besides its kind.
trait Told {
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

const REFUSED: &str = "API Error: Connection refused by the API server (ECONNREFUSED)";

fn refused() -> Row {
    call(0, "server_error", "connection_failed", "", REFUSED).failed()
}

fn unanswered() -> Row {
    call(0, "server_error", "", "", "Request timed out").failed()
}

/// A row of the matrix: what it is called there, its fields, the verdict.
#[rustfmt::skip]
#[test]
fn every_row_of_the_failure_matrix_has_its_verdict() {
    let auth = "authentication_failed";
    let cli_killed =
        "claude_agent_sdk._errors.ProcessError: Command failed with exit code -9 (exit code: -9)";
    let table: Vec<(&str, Row, &str)> = vec![
        ("401 invalid key", call(401, auth, "", "authentication_error", "Invalid API key · Fix external API key"), "api.auth"),
        ("no key", call(0, auth, "", "", "Not logged in · Please run /login"), "api.auth"),
        ("403 permission", call(403, auth, "", "permission_error", "API Error: 403 no permission"), "api.auth"),
        ("403 billing", call(403, auth, "", "billing_error", "API Error: 403"), "api.billing"),
        ("402 billing", call(402, "unknown", "", "billing_error", "API Error: 402"), "api.billing"),
        ("402 billing, dataclass", call(402, "unknown", "", "", "API Error: 402"), "api.billing"),
        ("400 credit too low", call(400, "billing_error", "", "invalid_request_error", "Credit balance is too low"), "api.billing"),
        ("404 model", call(404, "model_not_found", "", "not_found_error", "There's an issue with the selected model"), "api.model_not_found"),
        ("404 model, stderr", call(404, "model_not_found", "", "", "").said("[claude-code:unrecognized_model] {}"), "api.model_not_found"),
        ("400 prompt too long", call(400, "invalid_request", "", "", "Prompt is too long").terminal("prompt_too_long"), "api.context_too_long"),
        ("413", call(413, "invalid_request", "", "request_too_large", "Request too large").terminal("image_error"), "api.invalid_request"),
        ("400 other", call(400, "unknown", "", "invalid_request_error", "API Error: 400 tools.0.name"), "api.invalid_request"),
        ("429 persistent", call(429, "rate_limit", "", "rate_limit_error", "API Error: 429"), "api.rate_limit"),
        ("429 then ok", ended(0).well().retried(1, Some(429), "api.rate_limit"), "-"),
        ("usage limit", call(429, "rate_limit", "usage_limit_reached", "", "You've hit your limit"), "api.usage_limit"),
        ("500", call(500, "server_error", "", "api_error", "API Error: 500"), "api.server_error"),
        ("503 html", call(503, "server_error", "", "", "API Error: 503 <html>"), "api.server_error"),
        ("529", call(529, "server_error", "", "overloaded_error", "Repeated 529 Overloaded errors"), "api.overloaded"),
        ("refused", refused(), "network.connect"),
        ("DNS, no resolver", call(0, "server_error", "connection_failed", "", "(EAI_AGAIN)"), "network.dns"),
        ("DNS, NXDOMAIN", call(0, "server_error", "connection_failed", "", "(ENOTFOUND)"), "network.dns"),
        ("RST", call(0, "server_error", "connection_failed", "", "(ECONNRESET)"), "network.reset"),
        ("TLS untrusted", call(0, "server_error", "tls_untrusted_ca", "", "(DEPTH_ZERO_SELF_SIGNED_CERT)"), "network.tls"),
        ("TLS untrusted, dataclass", call(0, "server_error", "", "", "(DEPTH_ZERO_SELF_SIGNED_CERT)"), "network.tls"),
        ("TLS before its time", call(0, "server_error", "", "", "(CERT_NOT_YET_VALID)"), "network.tls"),
        ("no response", unanswered(), "timeout.api"),
        ("reset mid-stream once", ended(0).well().retried(1, None, "network.reset"), "-"),
        ("mid-stream for ever, connection", call(0, "server_error", "connection_failed", "", "Connection closed mid-response"), "network.connect"),
        ("mid-stream for ever, 529", call(529, "server_error", "", "overloaded_error", "529"), "api.overloaded"),
        ("stream stalls, then answers", ended(0).well(), "-"),
        ("refusal", call(0, "invalid_request", "", "", "declined").stopped("refusal"), "api.refusal"),
        ("max_tokens cut", call(0, "max_output_tokens", "max_output_tokens", "", "exceeded the 32000 output token maximum"), "api.max_output"),
        ("max_turns", result(1, "error_max_turns", "max_turns", "Reached maximum number of turns (3)"), "limit.turns"),
        ("budget", result(1, "error_max_budget_usd", "budget_exhausted", ""), "limit.budget"),
        ("structured output", result(1, "error_max_structured_output_retries", "structured_output_retry_exhausted", ""), "limit.structured_output"),
        ("bad resume id, CLI", result(1, "error_during_execution", "", "No conversation found with session ID: x"), "crash.bad_session"),
        ("bad resume id, SDK", ended(1).silent().said("No conversation found with session ID: x"), "crash.bad_session"),
        ("unknown flag", ended(1).silent().said("error: unknown option '--nope'"), "crash.exit_code"),
        ("interrupt()", result(0, "error_during_execution", "aborted_streaming", "[ede_diagnostic]"), "cancelled.user"),
        ("CLI SIGINT", result(0, "error_during_execution", "aborted_tools", "[ede_diagnostic]"), "cancelled.user"),
        ("CLI SIGTERM", ended(143).open(), "crash.signal"),
        ("CLI SIGKILL", signalled(9), "crash.signal"),
        ("CLI child killed under the SDK", ended(1).open().said(cli_killed), "crash.signal"),
        ("python OOM by the kernel, without its evidence", signalled(9), "crash.signal"),
        ("python OOM by rlimit", ended(1).open().said("MemoryError"), "oom.heap"),
        ("python exception", ended(1).open().said("ValueError: bad"), "crash.exception"),
        ("no module", ended(1).silent().said("ModuleNotFoundError: No module named 'x'"), "crash.exception"),
        ("CLI missing", ended(1).silent().said("claude_agent_sdk._errors.CLINotFoundError: Claude Code not found"), "crash.exception"),
        ("syntax", ended(1).silent().said("SyntaxError: invalid syntax"), "crash.exception"),
        ("segfault", signalled(11), "crash.signal"),
        ("SIGTERM", signalled(15), "crash.signal"),
        ("SIGINT", signalled(2), "crash.signal"),
        ("os._exit(0) mid-run", ended(0).open(), "crash.no_result"),
    ];
    let wrong: Vec<String> = table
        .iter()
        .filter(|(_, row, expected)| row.name() != *expected)
        .map(|(name, row, expected)| format!("{name}: {}, not {expected}", row.name()))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // Neither a probe nor a socket changes what an answer, a certificate or a success says.
    for (name, row, expected) in table {
        if row.doubt() != Doubt::None {
            continue;
        }
        let before = row.failure();
        let row = row
            .failed()
            .probed(ProbeOutcome::Refused)
            .stuck(SocketOwner::Agent, Trouble::Silent);
        assert_eq!(row.name(), expected, "{name}");
        let confidence = |failure: Option<Failure>| failure.map(|failure| failure.confidence);
        assert_eq!(confidence(row.failure()), confidence(before), "{name}");
    }
}

#[test]
fn only_what_the_network_could_explain_is_probed() {
    let dns = call(0, "server_error", "connection_failed", "", "(ENOTFOUND)");
    let vague = call(0, "server_error", "", "", "Something went wrong");
    let words = ended(1).said("httpx.ConnectError: [Errno 111] Connection refused");
    for (row, expected) in [
        (refused(), Doubt::Network),
        (dns, Doubt::Network),
        (unanswered(), Doubt::Silence),
        (vague, Doubt::Vague),
        (words, Doubt::Words(FailureKind::NetworkConnect)),
        (
            call(0, "server_error", "tls_untrusted_ca", "", ""),
            Doubt::None,
        ),
        (ended(1).said("ssl.SSLError: bad"), Doubt::None),
        (call(500, "server_error", "", "api_error", ""), Doubt::None),
        (ended(1).said("ValueError: bad"), Doubt::None),
        (signalled(9), Doubt::None),
        (ended(0).well(), Doubt::None),
    ] {
        assert_eq!(row.doubt(), expected, "{}", row.name());
    }
}

#[test]
fn a_probe_that_fails_makes_sure_and_one_that_succeeds_makes_unsure() {
    let plain = refused().failure().unwrap();
    let surer = refused().probed(ProbeOutcome::Refused).failure().unwrap();
    assert_eq!(surer.kind, FailureKind::NetworkConnect);
    assert!(plain.confidence < surer.confidence && surer.confidence <= 0.99);
    assert_eq!(
        surer.facts("probe"),
        ["the API's host api.test:443 refuses connections (after 7 ms)"]
    );

    let transient = refused().probed(ProbeOutcome::Reachable).failure().unwrap();
    assert_eq!(transient.kind, FailureKind::NetworkConnect, "not ruled out");
    assert!(transient.confidence <= 0.5);
    assert!(transient.recoverable);
    assert_eq!(transient.facts("probe").len(), 1);

    let other = refused()
        .probed(ProbeOutcome::NameUnknown)
        .failure()
        .unwrap();
    assert_eq!(other.kind, FailureKind::NetworkConnect);
    assert_eq!(other.other(&FailureKind::NetworkDns), Some(0.3));
}

#[test]
fn a_probe_that_was_not_made_says_why_and_changes_nothing() {
    let mut row = refused();
    row.network
        .probed(Probed::NotTried("the host is not known".to_owned()));
    let failure = row.failure().unwrap();
    assert_eq!(failure.confidence, refused().failure().unwrap().confidence);
    assert_eq!(failure.facts("probe"), ["not tried: the host is not known"]);
}

#[test]
fn a_call_without_an_answer_is_the_api_s_unless_its_connection_is_stuck() {
    let waited = unanswered().failure().unwrap();
    assert_eq!(waited.kind, FailureKind::TimeoutApi);
    assert_eq!(waited.other(&FailureKind::NetworkTimeout), Some(0.4));

    let clear = unanswered().looked(Vec::new()).failure().unwrap();
    assert_eq!(clear.kind, FailureKind::TimeoutApi);
    assert_eq!(clear.other(&FailureKind::NetworkTimeout), Some(0.15));
    assert_eq!(clear.facts("socket").len(), 1);

    let reached = unanswered()
        .probed(ProbeOutcome::Reachable)
        .failure()
        .unwrap();
    assert_eq!(reached.kind, FailureKind::TimeoutApi);
    assert_eq!(reached.confidence, waited.confidence);
    assert_eq!(reached.other(&FailureKind::NetworkTimeout), Some(0.25));

    for (trouble, kind) in [
        (Trouble::Silent, FailureKind::NetworkTimeout),
        (Trouble::Connecting, FailureKind::NetworkConnect),
    ] {
        let stuck = unanswered()
            .stuck(SocketOwner::Agent, trouble)
            .failure()
            .unwrap();
        assert_eq!(stuck.kind, kind);
        assert_eq!(stuck.other(&FailureKind::TimeoutApi), Some(0.25));
        let fact = stuck.facts("socket")[0];
        assert!(fact.contains("claude (pid 42)"), "{fact}");
        assert!(fact.contains("192.0.2.1:443"), "{fact}");
    }

    let gone = unanswered()
        .probed(ProbeOutcome::ConnectTimedOut)
        .failure()
        .unwrap();
    assert_eq!(gone.kind, FailureKind::NetworkConnect);
    assert_eq!(gone.other(&FailureKind::TimeoutApi), Some(0.2));
}

#[test]
fn the_cli_s_word_that_no_answer_came_is_believed() {
    let vague = call(0, "server_error", "", "", "Something went wrong").failed();
    assert_eq!(vague.name(), "api.server_error");
    let failure = vague.unanswered(3000).failure().unwrap();
    assert_eq!(failure.kind, FailureKind::TimeoutApi);
    assert_eq!(
        failure.facts("retry"),
        ["1 retry over 0 s (1 timeout.api), no response within 3 s"]
    );
}

#[test]
fn a_tool_s_socket_says_nothing_of_the_run() {
    for row in [unanswered(), refused(), ended(0).well()] {
        let name = row.name();
        let row = row.stuck(SocketOwner::Tool, Trouble::Silent);
        assert_eq!(row.name(), name);
        let failure = row.failure();
        assert!(failure.is_none_or(|failure| {
            failure
                .facts("socket")
                .iter()
                .all(|fact| !fact.contains("claude"))
        }));
    }
}

#[test]
fn words_on_stderr_need_a_probe_that_fails() {
    let words = || {
        ended(1)
            .failed()
            .said("httpx.ConnectError: [Errno 111] Connection refused")
    };
    let kind = FailureKind::NetworkConnect;
    let alone = words().failure().unwrap();
    assert_eq!(alone.kind, FailureKind::CrashException);
    assert_eq!(alone.other(&kind), Some(0.4));

    let reachable = words().probed(ProbeOutcome::Reachable).failure().unwrap();
    assert_eq!(reachable.kind, FailureKind::CrashException);
    assert_eq!(reachable.other(&kind), Some(0.3));

    let failing = words().probed(ProbeOutcome::Refused).failure().unwrap();
    assert_eq!(failing.kind, kind);
    assert_eq!(failing.other(&FailureKind::CrashException), Some(0.3));

    let stuck = words().stuck(SocketOwner::Agent, Trouble::Connecting);
    assert_eq!(stuck.name(), "network.connect", "a socket is proof enough");

    // A tool had the same trouble just before: its words are quoted, and the API is no suspect.
    let mut quoted = words().probed(ProbeOutcome::Refused);
    quoted
        .network
        .tool_failed(PROBE_AT - Duration::from_secs(20));
    assert_eq!(quoted.name(), "crash.exception");
    let mut long_ago = words().probed(ProbeOutcome::Refused);
    long_ago
        .network
        .tool_failed(PROBE_AT - Duration::from_secs(31));
    assert_eq!(long_ago.name(), "network.connect");
}

#[test]
fn a_reset_soon_after_a_limit_may_have_been_the_limit() {
    let reset = || call(0, "server_error", "connection_failed", "", "(ECONNRESET)");
    let limit = FailureKind::ApiRateLimit;
    let plain = reset().failed().failure().unwrap();
    assert_eq!(plain.other(&limit), None);

    let near = reset()
        .retried(90, Some(429), "api.rate_limit")
        .failed()
        .failure()
        .unwrap();
    assert_eq!(near.kind, FailureKind::NetworkReset);
    assert_eq!(near.other(&limit), Some(0.35));
    assert_eq!(
        near.facts("rate_limit"),
        ["a rate limit was told of 10 s before"]
    );

    let mut far = reset().retried(1, Some(429), "api.rate_limit");
    far.network.failed(Duration::from_secs(602));
    assert_eq!(far.failure().unwrap().other(&limit), None);
}

#[test]
fn retries_are_told_with_their_span_and_what_came_of_the_last() {
    let mut row = call(529, "server_error", "", "overloaded_error", "Overloaded");
    for second in [0, 57, 171] {
        row = row.retried(second, Some(529), "api.overloaded");
    }
    assert_eq!(
        row.failure().unwrap().facts("retry"),
        ["3 retries over 171 s (3 api.overloaded), last HTTP 529"]
    );
    let row = refused().retried(2, None, "network.connect");
    assert_eq!(
        row.failure().unwrap().facts("retry"),
        ["1 retry over 0 s (1 network.connect), last without an HTTP status"]
    );
    let crash = ended(1)
        .said("ValueError: bad")
        .retried(2, None, "network.connect");
    assert_eq!(crash.failure().unwrap().facts("retry"), [""; 0]);
}

#[test]
fn no_confidence_leaves_its_range_and_no_alternative_outdoes_the_verdict() {
    let rows = || {
        [
            refused(),
            unanswered(),
            ended(1).said("E: x").failed(),
            ended(1).said("AError: ECONNRESET").failed(),
        ]
    };
    let outcomes = [
        ProbeOutcome::Reachable,
        ProbeOutcome::NameUnknown,
        ProbeOutcome::NameTimedOut,
        ProbeOutcome::Refused,
        ProbeOutcome::Unreachable,
        ProbeOutcome::ConnectTimedOut,
    ];
    for outcome in outcomes {
        for trouble in [None, Some(Trouble::Connecting), Some(Trouble::Silent)] {
            for row in rows() {
                let row = row.probed(outcome);
                let row = match trouble {
                    Some(trouble) => row.stuck(SocketOwner::Agent, trouble),
                    None => row,
                };
                let failure = row.failure().unwrap();
                assert!((0.0..=0.99).contains(&failure.confidence), "{failure:?}");
                for other in &failure.alternatives {
                    assert!(other.confidence <= failure.confidence, "{failure:?}");
                    assert_ne!(other.kind, failure.kind, "{failure:?}");
                }
            }
        }
    }
}
