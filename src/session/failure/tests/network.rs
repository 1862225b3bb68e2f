//! What the sockets, the probe, the retries and the limits make of a verdict.

mod matrix;
mod row;

use self::row::{PROBE_AT, Row, Told as _, call, ended, result, signalled};
use super::super::super::network::{ProbeOutcome, Probed, SocketOwner, Trouble, TroubledSocket};
use super::*;

const REFUSED: &str = "API Error: Connection refused by the API server (ECONNREFUSED)";

fn refused() -> Row {
    call(0, "server_error", "connection_failed", "", REFUSED).failed()
}

fn unanswered() -> Row {
    call(0, "server_error", "", "", "Request timed out").failed()
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
fn attempts_to_connect_somewhere_else_are_no_proof_against_a_host_that_answers() {
    let stuck = |peer: &str, is_known_peer, trouble| TroubledSocket {
        pid: 42,
        command: "claude".to_owned(),
        owner: SocketOwner::Agent,
        peer: peer.parse().unwrap(),
        is_known_peer,
        trouble,
        retransmits: 4,
    };
    // The CLI has other hosts as well, for its own statistics, which a sandbox may not let it reach.
    let elsewhere = || vec![stuck("192.0.2.9:443", false, Trouble::Connecting)];
    let row = unanswered().looked(elsewhere());
    assert_eq!(row.name(), "network.connect", "it may be the API's");
    let failure = row.probed(ProbeOutcome::Reachable).failure().unwrap();
    assert_eq!(failure.kind, FailureKind::TimeoutApi, "{failure:?}");
    assert_eq!(failure.other(&FailureKind::NetworkConnect), Some(0.3));
    assert_eq!(failure.facts("socket").len(), 1);
    // A connection that stood and went silent may be the API's though it takes new ones.
    let silent = vec![stuck("192.0.2.9:443", false, Trouble::Silent)];
    let row = unanswered().looked(silent).probed(ProbeOutcome::Reachable);
    assert_eq!(row.name(), "network.timeout");
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
        ProbeOutcome::Reset,
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
