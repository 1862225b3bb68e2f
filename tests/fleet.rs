//! Many backends at once, each with a trouble of its own: none may cost another anything.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sandtrace::telemetry::{
    Batching, Compression, Protocol, Route, Telemetry, TelemetryConfig, TlsFiles,
};
use serde_json::Value;

use crate::supervised::{Finished, Supervised, python};
use crate::support::receiver::{Answer, Received, Receiver};
use crate::support::spans::{config, last_error, names, otlp, record, shutdown, sleepers};
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

/// A vendor by its name and variables, where its backend misbehaves, and what `run.finished` must say of it.
struct Vendor {
    name: &'static str,
    receiver: Receiver,
    /// The variable with the address, and the address but for the port.
    address: (&'static str, &'static str),
    /// The variables with credentials.
    keys: &'static [(&'static str, &'static str)],
    /// The header by which it knows us.
    header: (&'static str, &'static str),
    counts: Counts,
    error: &'static str,
}

/// Tools that the agent calls, each a span.
const TOOLS: usize = 120;

/// What is not taken by then waits for the next run.
const RUN_FLUSH: Duration = Duration::from_secs(5);

/// One chat of many tools, over some tenths of a second, so that there are several batches.
const BUSY: &str = r#"
import json, os, time
tools = int(os.environ["TOOLS"])
def say(**line):
    print(json.dumps(line), flush=True)
say(type="system", subtype="init", session_id="s1", model="m")
for n in range(tools):
    usage = {"input_tokens": 1, "output_tokens": 1}
    say(type="assistant", message={"id": f"m{n}", "model": "m", "usage": usage, "content": [
        {"type": "tool_use", "id": f"t{n}", "name": "Bash", "input": {}}]})
    say(type="user", message={"content": [{"type": "tool_result", "tool_use_id": f"t{n}", "content": "x"}]})
    time.sleep(0.005)
say(type="result", subtype="success", is_error=False, session_id="s1", usage={}, modelUsage={})
"#;

fn vendors(authority: &Authority) -> Vec<Vendor> {
    use Counts::{Dropped, Exported, Queued};
    vec![
        Vendor {
            name: "langfuse",
            receiver: Receiver::healthy(),
            address: ("LANGFUSE_HOST", "http://127.0.0.1"),
            keys: &[
                ("LANGFUSE_PUBLIC_KEY", "pk-of-langfuse"),
                ("LANGFUSE_SECRET_KEY", "sk-of-langfuse"),
            ],
            header: ("authorization", "Basic pk-of-langfuse:sk-of-langfuse"),
            counts: Exported,
            error: "",
        },
        Vendor {
            name: "signoz",
            receiver: Receiver::scripted(|number, _| match number {
                0 => Answer::status(429).header("Retry-After", "1"),
                _ => Answer::status(200),
            }),
            address: ("SIGNOZ_ENDPOINT", "http://127.0.0.1"),
            keys: &[("SIGNOZ_INGESTION_KEY", "key-of-signoz")],
            header: ("signoz-ingestion-key", "key-of-signoz"),
            counts: Exported,
            error: "HTTP 429 Too Many Requests",
        },
        Vendor {
            name: "honeycomb",
            receiver: Receiver::scripted(|_, _| Answer::status(503)),
            address: ("HONEYCOMB_API_ENDPOINT", "http://127.0.0.1"),
            keys: &[("HONEYCOMB_API_KEY", "key-of-honeycomb")],
            header: ("x-honeycomb-team", "key-of-honeycomb"),
            counts: Queued,
            error: "HTTP 503 Service Unavailable",
        },
        Vendor {
            name: "jaeger",
            receiver: Receiver::scripted(|_, _| Answer::BlackHole),
            address: ("JAEGER_OTLP_ENDPOINT", "http://127.0.0.1"),
            keys: &[("JAEGER_OTLP_HEADERS", "x-jaeger=key-of-jaeger")],
            header: ("x-jaeger", "key-of-jaeger"),
            counts: Queued,
            error: "",
        },
        Vendor {
            name: "phoenix",
            receiver: Receiver::scripted(|_, _| Answer::status(400)),
            address: ("PHOENIX_COLLECTOR_ENDPOINT", "http://127.0.0.1"),
            keys: &[("PHOENIX_API_KEY", "key-of-phoenix")],
            header: ("authorization", "Bearer key-of-phoenix"),
            counts: Dropped,
            error: "refused: HTTP 400 Bad Request",
        },
        Vendor {
            name: "logfire",
            receiver: Receiver::scripted(|_, _| Answer::Reset),
            address: ("LOGFIRE_BASE_URL", "http://127.0.0.1"),
            keys: &[("LOGFIRE_TOKEN", "key-of-logfire")],
            header: ("authorization", "key-of-logfire"),
            counts: Queued,
            error: "connection",
        },
        Vendor {
            name: "braintrust",
            receiver: Receiver::scripted(|_, _| {
                Answer::status(200).after(Duration::from_millis(200))
            }),
            address: ("BRAINTRUST_API_URL", "http://127.0.0.1"),
            keys: &[("BRAINTRUST_API_KEY", "key-of-braintrust")],
            header: ("authorization", "Bearer key-of-braintrust"),
            counts: Exported,
            error: "",
        },
        Vendor {
            name: "traceloop",
            receiver: Receiver::grpc(),
            address: ("TRACELOOP_BASE_URL", "http://127.0.0.1"),
            keys: &[
                ("TRACELOOP_API_KEY", "key-of-traceloop"),
                ("TRACELOOP_OTLP_PROTOCOL", "grpc"),
            ],
            header: ("authorization", "Bearer key-of-traceloop"),
            counts: Exported,
            error: "",
        },
        Vendor {
            name: "datadog",
            receiver: Receiver::tls(authority.server("localhost", Server::default())),
            address: ("DATADOG_OTLP_ENDPOINT", "https://localhost"),
            keys: &[("DD_API_KEY", "key-of-datadog")],
            header: ("dd-api-key", "key-of-datadog"),
            counts: Exported,
            error: "",
        },
    ]
}

fn vendor_run(vendors: &[Vendor], authorities: &std::path::Path) -> Supervised {
    let names: Vec<_> = vendors.iter().map(|vendor| vendor.name).collect();
    let mut run = python(BUSY)
        .env("TOOLS", TOOLS.to_string())
        .env("OTEL_EXPORTERS", names.join(","))
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("DATADOG_OTLP_CERTIFICATE", authorities)
        .option("--flush-timeout", format!("{}s", RUN_FLUSH.as_secs()));
    for vendor in vendors {
        let (variable, host) = vendor.address;
        run = run.env(variable, format!("{host}:{}", vendor.receiver.port()));
        for (variable, key) in vendor.keys {
            run = run.env(variable, key);
        }
    }
    run
}

/// The header as it is sent: what Basic holds goes in base64.
fn sent((name, value): (&'static str, &'static str)) -> (&'static str, String) {
    match value.strip_prefix("Basic ") {
        Some(pair) => (name, format!("Basic {}", BASE64_STANDARD.encode(pair))),
        None => (name, value.to_owned()),
    }
}

/// Everything came with the vendor's own credentials, and with nobody else's.
fn assert_apart(vendors: &[Vendor]) {
    for vendor in vendors {
        let received = vendor.receiver.received();
        assert!(!received.is_empty(), "{}", vendor.name);
        let (name, own) = sent(vendor.header);
        for request in &received {
            assert_eq!(request.header(name), Some(own.as_str()), "{}", vendor.name);
            for other in vendors.iter().filter(|other| other.name != vendor.name) {
                let (name, value) = sent(other.header);
                let is_shared = name == "authorization";
                assert!(
                    (is_shared || request.header(name).is_none()) && !request.mentions(&value),
                    "{} was told what is meant for {}: {:?}",
                    vendor.name,
                    other.name,
                    request.headers
                );
                for (_, key) in other.keys {
                    assert!(
                        !request.mentions(key) || *key == "grpc",
                        "{} knows {key}",
                        vendor.name
                    );
                }
            }
        }
    }
}

/// From the agent's end to the last line, by their own times. `lateness` is how late this machine wakes whoever sleeps.
fn assert_in_time(run: &Finished, lateness: Duration) {
    let transcript = run.transcript();
    let exited = transcript.line("sandtrace.agent.exited").time();
    let finished = transcript.line("sandtrace.run.finished").time();
    let took = Duration::try_from(finished.duration_since(exited)).unwrap();
    assert!(
        took <= RUN_FLUSH + Duration::from_millis(100) + 2 * lateness,
        "{took:?}, on a machine that is {lateness:?} late"
    );
}

/// A row of `run.finished`, and the sums that hold for each.
fn row<'a>(rows: &'a [Value], vendor: &Vendor, spans: usize) -> &'a Value {
    let name = vendor.name;
    let row = rows.iter().find(|row| row["name"] == name);
    let row = row.unwrap_or_else(|| panic!("no row of {name}"));
    let (exported, dropped, queued) = match vendor.counts {
        Counts::Exported => (spans, 0, 0),
        Counts::Dropped => (0, spans, 0),
        Counts::Queued => (0, 0, spans),
    };
    assert_eq!(row["exported"], exported, "{name}: {row}");
    assert_eq!(row["dropped"], dropped, "{name}: {row}");
    assert_eq!(row["queued"], queued, "{name}: {row}");
    // What is queued waits on disk.
    assert_eq!(row["spooled"], queued, "{name}: {row}");
    let error = row["last_error"].as_str().unwrap_or_default();
    assert!(error.contains(vendor.error), "{name}: {row}");
    row
}

#[test]
fn one_run_tells_every_vendor_and_suffers_from_none() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let vendors = vendors(&authority);
    let running = vendor_run(&vendors, &authority.write(directory.path())).start();
    running.line("the agent's end", |line| {
        line["type"] == "sandtrace.agent.exited"
    });
    let sleepers = sleepers(RUN_FLUSH);
    let run = running.wait();
    let lateness = sleepers.into_iter().map(|sleeper| sleeper.join().unwrap());
    let lateness = lateness.max().unwrap_or_default();
    assert_eq!(run.code(), 0, "{}", run.errors());
    run.assert_sound();
    assert_in_time(&run, lateness);
    assert_apart(&vendors);

    let transcript = run.transcript();
    let ids = transcript.span_ids();
    assert!(ids.len() > TOOLS, "{}", ids.len());
    let rows = transcript.finished()["telemetry"]["destinations"].as_array();
    let rows = rows.unwrap();
    for vendor in &vendors {
        let name = vendor.name;
        let row = row(rows, vendor, ids.len());
        assert_others_counted(vendor, row);
        let received = vendor.receiver.received();
        let mut taken: Vec<String> = received
            .iter()
            .skip(usize::from(name == "signoz"))
            .flat_map(Received::spans)
            .map(|span| {
                let bytes = span.span_id.iter();
                bytes.map(|byte| format!("{byte:02x}")).collect()
            })
            .collect();
        taken.sort();
        match vendor.counts {
            Counts::Exported => assert_eq!(taken, ids, "{name}"),
            // Each request was refused once and never sent again.
            Counts::Dropped => assert_eq!(taken, ids, "{name}"),
            Counts::Queued => assert!(!taken.is_empty(), "{name}"),
        }
    }
    // What was refused for a while came again as it was.
    let signoz = vendors.iter().find(|vendor| vendor.name == "signoz");
    let received = signoz.unwrap().receiver.received();
    let (refused, taken) = received.split_first().unwrap();
    let again = taken.iter().find(|request| request.body == refused.body);
    let again = again.expect("what was refused never came again");
    assert!(again.at - refused.at >= Duration::from_secs(1));
}

/// Metrics and logs of those that take them have the fate of the spans; the others get none.
fn assert_others_counted(vendor: &Vendor, row: &Value) {
    let name = vendor.name;
    let takes = |signal: &str| {
        matches!(
            (name, signal),
            ("signoz" | "honeycomb" | "logfire" | "datadog", _) | ("traceloop", "metrics")
        )
    };
    for signal in ["metrics", "logs"] {
        if !takes(signal) {
            assert_eq!(row[signal], Value::Null, "{name}: {row}");
            continue;
        }
        let fate = match vendor.counts {
            Counts::Exported => "exported",
            Counts::Dropped => "dropped",
            Counts::Queued => "queued",
        };
        for count in ["exported", "dropped", "queued"] {
            let items = row[signal][count].as_u64().unwrap();
            assert_eq!(items > 0, count == fate, "{name}: {signal} {count}: {row}");
        }
    }
}
