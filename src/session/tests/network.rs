//! When the sockets are looked at and the probe is made, and how long the end of a run waits for it.

use std::net::SocketAddr;

use super::*;

const INIT: &str =
    r#"{"type":"system","subtype":"init","session_id":"s1","model":"claude-sonnet-5"}"#;
const REFUSED: &str = r#"{"type":"result","subtype":"success","is_error":true,"terminal_reason":"api_error","api_error_status":null,"result":"refused (ECONNREFUSED)"}"#;
const UNANSWERED: &str = r#"{"type":"result","subtype":"success","is_error":true,"terminal_reason":"api_error","api_error_status":null,"result":"Request timed out"}"#;
const WELL: &str = r#"{"type":"result","subtype":"success","is_error":false,"terminal_reason":"completed","result":"done"}"#;
const FAILED_500: &str = r#"{"type":"result","subtype":"success","is_error":true,"terminal_reason":"api_error","api_error_status":500,"result":"API Error"}"#;
const ANSWER: &str = r#"{"type":"assistant","message":{"id":"msg_1","model":"claude-sonnet-5","content":[{"type":"text","text":"hi"}]}}"#;

fn probing() -> Replay {
    let mut replay = Replay::new(SessionConfig {
        probe: ProbePolicy::On,
        ..config()
    });
    replay.input(1, Input::Spawned { pid: 42 });
    replay.line(10, INIT);
    replay
}

fn tried(outcome: ProbeOutcome) -> Input<'static> {
    Input::Probed(Probed::Tried(Probe {
        host: "api.test:443".to_owned(),
        route: Route::Direct,
        outcome,
        took: Duration::from_millis(7),
    }))
}

impl Replay {
    fn count(&self, wanted: &Action) -> usize {
        self.actions.iter().filter(|one| *one == wanted).count()
    }

    fn is_finished(&self) -> bool {
        let mut actions = self.actions.iter();
        actions.any(|action| matches!(action, Action::Finish(_)))
    }

    /// A reading of the memory's counters, which comes every second, whether or not anything is sampled.
    fn read(&mut self, millis: u64) {
        self.input(millis, Input::Memory(MemoryReading::default()));
    }
}

#[test]
fn the_probe_is_made_at_the_failure_and_not_again_at_the_end() {
    let mut replay = probing();
    replay.line(100, REFUSED);
    assert_eq!(replay.count(&Action::Probe), 1);
    assert_eq!(replay.count(&Action::LookAtSockets), 1);
    replay.input(110, tried(ProbeOutcome::Refused));
    replay.exit(600, Termination::Exited(1));
    assert!(replay.is_finished(), "what is known need not be waited for");
    assert_eq!(replay.count(&Action::Probe), 1);
    assert_eq!(replay.failure(), "network.connect");
    let failure = replay.verdict().failure.as_ref().unwrap();
    assert!(failure.confidence > 0.95, "{failure:?}");
    replay.check();
}

#[test]
fn the_end_waits_for_a_probe_under_way_and_then_no_longer() {
    let mut replay = probing();
    replay.line(100, REFUSED);
    replay.exit(600, Termination::Exited(1));
    assert!(!replay.is_finished());
    assert_eq!(
        replay.session.deadline(),
        Some(Duration::from_millis(2600)),
        "2.5 s after it was asked for"
    );
    replay.input(700, tried(ProbeOutcome::Reachable));
    assert!(replay.is_finished());
    let failure = replay.verdict().failure.as_ref().unwrap();
    assert_eq!(failure.confidence, 0.5);
    replay.check();
}

#[test]
fn a_probe_that_never_answers_delays_the_end_by_its_bound_alone() {
    let mut replay = probing();
    replay.line(100, REFUSED);
    replay.exit(600, Termination::Exited(1));
    replay.input(2599, Input::Tick);
    assert!(!replay.is_finished());
    replay.input(2600, Input::Tick);
    assert!(replay.is_finished());
    assert_eq!(replay.failure(), "network.connect");
    assert_eq!(replay.session.deadline(), None);
    replay.check();
}

#[test]
fn a_failure_that_only_the_end_shows_is_probed_there() {
    let mut replay = probing();
    replay.input(
        50,
        Input::Stderr(b"httpx.ConnectError: [Errno 111] Connection refused"),
    );
    assert_eq!(replay.count(&Action::Probe), 0);
    replay.exit(600, Termination::Exited(1));
    assert_eq!(replay.count(&Action::Probe), 1);
    assert_eq!(replay.session.deadline(), Some(Duration::from_millis(3100)));
    replay.input(610, tried(ProbeOutcome::Refused));
    assert!(replay.is_finished());
    assert_eq!(replay.failure(), "network.connect");
    replay.check();
}

#[test]
fn a_run_that_did_not_fail_on_the_network_is_never_probed_nor_delayed() {
    for (line, code, verdict) in [
        (WELL, 0, "-"),
        (FAILED_500, 1, "api.server_error"),
        (INIT, 0, "crash.no_result"),
    ] {
        let mut replay = probing();
        replay.line(100, line);
        replay.exit(600, Termination::Exited(code));
        assert!(replay.is_finished(), "{line}");
        assert_eq!(replay.failure(), verdict);
        assert_eq!(replay.count(&Action::Probe), 0, "{line}");
    }
}

#[test]
fn a_run_that_recovered_does_not_wait_for_the_probe_of_its_trouble() {
    let mut replay = probing();
    replay.line(100, REFUSED);
    assert_eq!(replay.count(&Action::Probe), 1);
    replay.line(200, INIT);
    replay.line(300, WELL);
    replay.exit(400, Termination::Exited(0));
    assert!(replay.is_finished());
    assert_eq!(replay.failure(), "-");
}

#[test]
fn a_later_failure_has_a_probe_of_its_own() {
    let mut replay = probing();
    replay.line(100, REFUSED);
    replay.input(110, tried(ProbeOutcome::Reachable));
    replay.line(200, INIT);
    replay.line(300, WELL);
    replay.line(400, INIT);
    replay.line(500, REFUSED);
    assert_eq!(replay.count(&Action::Probe), 2);
    replay.input(510, tried(ProbeOutcome::Refused));
    replay.exit(600, Termination::Exited(1));
    let failure = replay.verdict().failure.as_ref().unwrap();
    assert!(failure.confidence > 0.95, "{failure:?}");
}

#[test]
fn who_asks_to_stop_or_forbids_probes_gets_none() {
    let mut replay = probing();
    replay.input(20, Input::StopSignal(15));
    replay.line(100, REFUSED);
    replay.exit(600, Termination::Exited(1));
    assert!(replay.is_finished());
    assert_eq!(replay.failure(), "cancelled.host");
    assert_eq!(replay.count(&Action::Probe), 0);

    let mut replay = Replay::spawned();
    replay.line(10, INIT);
    replay.line(100, REFUSED);
    replay.exit(600, Termination::Exited(1));
    assert!(replay.is_finished());
    assert_eq!(replay.failure(), "network.connect");
    assert_eq!(replay.count(&Action::Probe), 0);
}

#[test]
fn a_third_request_to_stop_does_not_wait_for_a_probe() {
    let mut replay = probing();
    replay.line(100, REFUSED);
    replay.exit(600, Termination::Exited(1));
    for _ in 0..3 {
        replay.input(700, Input::StopSignal(15));
    }
    assert!(matches!(replay.actions.last(), Some(Action::Abort(_))));
    assert_eq!(replay.failure(), "network.connect");
}

#[test]
fn sockets_are_looked_at_while_the_model_keeps_the_turn_waiting() {
    let mut replay = probing();
    replay.read(10_009);
    assert_eq!(replay.count(&Action::LookAtSockets), 0);
    replay.read(10_010);
    replay.read(11_010);
    replay.read(20_009);
    assert_eq!(replay.count(&Action::LookAtSockets), 1);
    replay.read(20_010);
    assert_eq!(replay.count(&Action::LookAtSockets), 2);
    replay.line(25_000, ANSWER);
    replay.read(34_999);
    assert_eq!(replay.count(&Action::LookAtSockets), 2);
    replay.line(
        35_000,
        r#"{"type":"assistant","message":{"id":"msg_2","model":"claude-sonnet-5","content":[{"type":"tool_use","id":"toolu_1","name":"Bash","input":{}}]}}"#,
    );
    replay.read(60_000);
    assert_eq!(
        replay.count(&Action::LookAtSockets),
        2,
        "a tool is at work, not the model"
    );
}

#[test]
fn lines_cannot_ask_for_looks_without_end() {
    let mut replay = probing();
    for millis in 1000..4000 {
        replay.line(millis, r#"{"type":"system","subtype":"api_retry","attempt":1,"error_status":null,"error":"unknown"}"#);
    }
    assert_eq!(replay.count(&Action::LookAtSockets), 3);
    replay.line(9000, r#"{"type":"system","subtype":"api_retry","attempt":2,"error_status":529,"error":"overloaded"}"#);
    assert_eq!(replay.count(&Action::LookAtSockets), 3, "an answer came");
}

#[test]
fn what_the_sockets_showed_counts_until_the_model_answers() {
    let peer: SocketAddr = "192.0.2.1:443".parse().unwrap();
    let stuck = || {
        Input::Sockets(vec![TroubledSocket {
            pid: 42,
            command: "claude".to_owned(),
            owner: SocketOwner::Agent,
            peer,
            is_known_peer: false,
            trouble: Trouble::Silent,
            retransmits: 4,
        }])
    };
    let mut replay = Replay::spawned();
    replay.line(10, INIT);
    replay.input(11_000, stuck());
    // It was given up, and is gone at the next look.
    replay.input(12_000, Input::Sockets(Vec::new()));
    replay.line(13_000, UNANSWERED);
    replay.exit(13_500, Termination::Exited(1));
    assert_eq!(replay.failure(), "network.timeout");

    let mut replay = Replay::spawned();
    replay.line(10, INIT);
    replay.input(11_000, stuck());
    replay.line(12_000, ANSWER);
    replay.line(13_000, UNANSWERED);
    replay.exit(13_500, Termination::Exited(1));
    assert_eq!(replay.failure(), "timeout.api");
}

#[test]
fn a_window_that_runs_out_is_told_once_and_stands_in_the_evidence() {
    let mut replay = Replay::spawned();
    replay.line(10, INIT);
    let event = |status: &str, share: f64| {
        format!(
            r#"{{"type":"rate_limit_event","rate_limit_info":{{"status":"{status}","resetsAt":1893456000,"rateLimitType":"five_hour","utilization":{share}}}}}"#
        )
    };
    for (millis, status, share) in [
        (20, "allowed", 0.4),
        (30, "allowed_warning", 0.91),
        (40, "allowed_warning", 0.93),
        (50, "rejected", 1.0),
        (60, "rejected", 1.0),
    ] {
        replay.line(millis, &event(status, share));
    }
    let warnings: Vec<_> = replay
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Warn {
                code,
                message,
                counts,
            } => Some((*code, message.as_str(), counts["resets_at"].clone())),
            _ => None,
        })
        .collect();
    let resets = "and resets at 2030-01-01T00:00:00.000000Z";
    assert_eq!(
        warnings,
        [
            (
                "rate_limited",
                &*format!("the five_hour window is allowed_warning, 91 % used, {resets}"),
                1_893_456_000.into()
            ),
            (
                "rate_limited",
                &*format!("the five_hour window is rejected, 100 % used, {resets}"),
                1_893_456_000.into()
            ),
        ]
    );
    replay.line(70, r#"{"type":"result","subtype":"success","is_error":true,"terminal_reason":"api_error","api_error_status":429,"result":"You've hit your limit"}"#);
    replay.exit(80, Termination::Exited(1));
    assert_eq!(replay.failure(), "api.usage_limit");
    let failure = replay.verdict().failure.as_ref().unwrap();
    let fact = failure
        .evidence
        .iter()
        .find(|item| item.source == "rate_limit");
    assert!(fact.unwrap().fact.contains("five_hour"), "{failure:?}");
}

#[test]
fn an_agent_cannot_make_us_warn_without_end() {
    let mut replay = Replay::spawned();
    for number in 0..1000 {
        replay.line(20, &format!(r#"{{"type":"rate_limit_event","rate_limit_info":{{"status":"rejected","rateLimitType":"w{number}"}}}}"#));
    }
    assert_eq!(replay.actions.len(), 32);
}
