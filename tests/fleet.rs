//! Many backends at once, each with a trouble of its own: none may cost another anything.

use std::time::Duration;

use sandtrace::telemetry::{
    Batching, Compression, Protocol, Route, Telemetry, TelemetryConfig, TlsFiles,
};

use crate::support::receiver::{Answer, Receiver};
use crate::support::spans::{config, last_error, names, otlp, record, shutdown};
use crate::support::tls::{Authority, Server};

const SPANS: usize = 3_000;

const FLUSH: Duration = Duration::from_secs(6);

/// A backend, the way to it, and what must have come of the spans.
struct Member {
    what: &'static str,
    receiver: Receiver,
    route: Route,
    counts: Counts,
    error: &'static str,
}

enum Counts {
    /// All arrived, each once.
    Exported,
    /// All were refused.
    Dropped,
    /// None was taken or refused by the end.
    Queued,
}

fn member(what: &'static str, receiver: Receiver, counts: Counts, error: &'static str) -> Member {
    let route = otlp(&receiver.traces_url());
    Member {
        what,
        receiver,
        route,
        counts,
        error,
    }
}

fn fleet(authority: &Authority, tls: &TlsFiles) -> Vec<Member> {
    use Counts::{Dropped, Exported, Queued};
    let modern = Server {
        protocols: &[b"h2"],
        ..Server::default()
    };
    let secure = |receiver: &Receiver| Route {
        tls: tls.clone(),
        ..otlp(&format!("https://localhost:{}/v1/traces", receiver.port()))
    };
    let mut fleet = vec![
        member("healthy", Receiver::healthy(), Exported, ""),
        member("healthy, JSON", Receiver::healthy(), Exported, ""),
        member(
            "slow",
            Receiver::scripted(|_, _| Answer::status(200).after(Duration::from_millis(250))),
            Exported,
            "",
        ),
        member(
            "429 with Retry-After",
            Receiver::scripted(|number, _| match number {
                0 => Answer::status(429).header("Retry-After", "2"),
                _ => Answer::status(200),
            }),
            Exported,
            "HTTP 429 Too Many Requests",
        ),
        member(
            "503 twice, then fine",
            Receiver::scripted(|number, _| Answer::status(if number < 2 { 503 } else { 200 })),
            Exported,
            "HTTP 503 Service Unavailable",
        ),
        member(
            "400",
            Receiver::scripted(|_, _| Answer::status(400)),
            Dropped,
            "refused: HTTP 400 Bad Request",
        ),
        member(
            "black hole",
            Receiver::scripted(|_, _| Answer::BlackHole),
            Queued,
            "",
        ),
        member(
            "reset",
            Receiver::scripted(|_, _| Answer::Reset),
            Queued,
            "connection",
        ),
        member(
            "TLS with an authority of its own",
            Receiver::tls(authority.server("localhost", Server::default())),
            Exported,
            "",
        ),
        member("gRPC", Receiver::grpc(), Exported, ""),
        member(
            "gRPC over TLS",
            Receiver::grpc_scripted(Some(authority.server("localhost", modern)), |_, _| {
                Answer::grpc(0)
            }),
            Exported,
            "",
        ),
        member(
            "gRPC, unavailable twice",
            Receiver::grpc_scripted(None, |number, _| {
                Answer::grpc(if number < 2 { 14 } else { 0 })
            }),
            Exported,
            "gRPC 14 UNAVAILABLE",
        ),
    ];
    for member in &mut fleet {
        if member.what.contains("JSON") {
            member.route.protocol = Protocol::HttpJson;
        }
        if member.what.contains("TLS") {
            member.route = secure(&member.receiver);
        }
        if member.what.contains("gRPC") {
            member.route.protocol = Protocol::Grpc;
        }
        if member.what.contains("slow") {
            member.route.compression = Compression::Gzip;
        }
    }
    fleet
}

#[test]
fn a_fleet_of_troubles_costs_the_healthy_nothing() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let tls = TlsFiles {
        authorities: Some(authority.write(directory.path())),
        identity: None,
    };
    let fleet = fleet(&authority, &tls);
    let routes = fleet.iter().map(|member| member.route.clone()).collect();
    let telemetry = Telemetry::start(TelemetryConfig {
        batching: Batching {
            delay: Duration::from_millis(200),
            ..Batching::default()
        },
        ..config(routes)
    })
    .unwrap();
    record(&telemetry, 0..SPANS);
    let report = shutdown(telemetry, FLUSH);
    assert_eq!((report.spans, report.spans_dropped), (SPANS as u64, 0));
    for (row, member) in fleet.iter().enumerate() {
        let Member { what, receiver, .. } = member;
        let counts = &report.destinations[row];
        let (exported, dropped, queued) = match member.counts {
            Counts::Exported => (SPANS as u64, 0, 0),
            Counts::Dropped => (0, SPANS as u64, 0),
            Counts::Queued => (0, 0, SPANS as u64),
        };
        assert_eq!(
            (counts.exported, counts.dropped, counts.queued),
            (exported, dropped, queued),
            "{what}: {counts:?}"
        );
        let error = last_error(&report, row);
        assert!(error.contains(member.error), "{what}: {error}");
        if matches!(member.counts, Counts::Exported) {
            // What was answered with trouble was sent again, as it was; the rest came once.
            let mut received = receiver.received();
            let troubled = match *what {
                "429 with Retry-After" => 1,
                "503 twice, then fine" | "gRPC, unavailable twice" => 2,
                _ => 0,
            };
            for refused in received.drain(..troubled).collect::<Vec<_>>() {
                assert!(
                    received.iter().any(|request| request.body == refused.body),
                    "{what}"
                );
            }
            let mut taken: Vec<_> = received
                .iter()
                .flat_map(|request| request.spans())
                .map(|span| span.name)
                .collect();
            taken.sort();
            assert_eq!(taken, names(0..SPANS), "{what}");
            if member.error.is_empty() {
                assert_eq!(counts.last_error, None, "{what}");
            }
        }
    }
}
