//! How requests travel: gRPC, client certificates, proxies, connections that died unseen.

use std::process::Command;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderValue};
use opentelemetry::logs::Severity;
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message as _;
use rcgen::KeyPair;
use sandtrace::telemetry::{
    Batching, Compression, Destination, LogEntry, OtlpDestination, Protocol, Proxies, Route,
    Signal, Telemetry, TelemetryConfig, TelemetryError, TlsFiles,
};
use sandtrace::time::UnixNanos;

use crate::supervised::skipped;
use crate::support::receiver::{Answer, Receiver};
use crate::support::spans::{config, counts, last_error, names, otlp, record, shutdown, start};
use crate::support::tls::{Authority, Server, write};
use crate::support::tunnel::Tunnel;

const SOON: Duration = Duration::from_secs(10);

/// For what fails: the first try must be over, the second need not come.
const ONE_TRY: Duration = Duration::from_millis(700);

fn grpc(url: &str) -> Route {
    Route {
        protocol: Protocol::Grpc,
        ..otlp(url)
    }
}

#[test]
fn grpc_delivers_every_span_once() {
    for compression in [Compression::None, Compression::Gzip] {
        let receiver = Receiver::grpc();
        let mut headers = HeaderMap::new();
        headers.insert("x-token", HeaderValue::from_static("hush"));
        let telemetry = start(vec![Route {
            compression,
            headers,
            ..grpc(&receiver.url("/ignored"))
        }]);
        record(&telemetry, 0..1_300);
        let report = shutdown(telemetry, SOON);
        assert_eq!(counts(&report, 0), (1_300, 0, 0), "{report:?}");
        assert_eq!(report.destinations[0].last_error, None);
        assert_eq!(receiver.span_names(), names(0..1_300));
        for request in receiver.received() {
            assert_eq!(
                request.path,
                "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
            );
            assert_eq!(request.header("te"), Some("trailers"));
            assert_eq!(request.header("content-type"), Some("application/grpc"));
            assert_eq!(request.header("x-token"), Some("hush"));
            assert_eq!(request.connection, 0, "one connection serves them all");
        }
    }
}

#[test]
fn each_signal_has_its_service() {
    let receiver = Receiver::grpc();
    let route = |signal| Route {
        signal,
        ..grpc(&receiver.url(""))
    };
    let mut config = config(vec![route(Signal::Traces)]);
    let Some(Destination::Otlp(destination)) = config.destinations.first_mut() else {
        panic!("no destination");
    };
    let OtlpDestination { routes, .. } = destination.as_mut();
    routes.extend([route(Signal::Metrics), route(Signal::Logs)]);
    let telemetry = Telemetry::start(config).unwrap();
    record(&telemetry, 0..1);
    telemetry.log(LogEntry {
        time: UnixNanos::from(SystemTime::now()),
        severity: Severity::Info,
        event: "sandtrace.it",
        body: "a few words".to_owned(),
        attributes: Vec::new(),
        trace_id: TraceId::from(1),
        span_id: SpanId::from(2),
    });
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (1, 0, 0), "{report:?}");
    let received = receiver.received();
    let of = |service: &str| {
        received
            .iter()
            .find(|request| request.path.contains(service))
    };
    assert_eq!(of("TraceService").unwrap().spans().len(), 1);
    assert_eq!(of("LogsService").unwrap().logs().resource_logs.len(), 1);
    if let Some(request) = of("MetricsService") {
        assert_eq!(request.metrics().resource_metrics.len(), 1);
    }
}

#[test]
fn a_grpc_call_is_sent_again_when_otlp_says_so() {
    // RetryInfo of 2 s, within google.rpc.Status.
    let kind = b"type.googleapis.com/google.rpc.RetryInfo";
    let any = [b"\x0a\x28", &kind[..], b"\x12\x04\x0a\x02\x08\x02"].concat();
    let details = [&[0x08, 8, 0x1a, u8::try_from(any.len()).unwrap()][..], &any].concat();
    let details = BASE64_STANDARD.encode(details);
    let receiver = Receiver::grpc_scripted(None, move |number, _| match number {
        0 => Answer::grpc(14)
            .trailer("grpc-message", "warming%20up")
            .trailers_only(),
        1 => Answer::grpc(8).trailer("grpc-status-details-bin", details.trim_end_matches('=')),
        _ => Answer::grpc(0),
    });
    let telemetry = start(vec![grpc(&receiver.url(""))]);
    record(&telemetry, 0..5);
    telemetry.flush_soon();
    let received = receiver.wait_for(3, SOON);
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (5, 0, 0));
    assert_eq!(received[0].body, received[1].body);
    assert_eq!(received[0].body, received[2].body);
    let seconds = |index: usize| (received[index].at - received[index - 1].at).as_secs_f64();
    assert!((0.8..1.7).contains(&seconds(1)), "{}", seconds(1));
    assert!((2.0..2.9).contains(&seconds(2)), "{}", seconds(2));
    let error = last_error(&report, 0);
    assert_eq!(error, "gRPC 8 RESOURCE_EXHAUSTED");
}

#[test]
fn a_grpc_call_that_is_refused_is_dropped_at_once() {
    for (answer, told) in [
        (
            Answer::grpc(16).trailer("grpc-message", "who%3F"),
            "refused: gRPC 16 UNAUTHENTICATED: who?",
        ),
        (
            Answer::grpc(8).trailers_only(),
            "refused: gRPC 8 RESOURCE_EXHAUSTED",
        ),
        (
            Answer::status(404),
            "refused: HTTP 404 Not Found and no gRPC status: this address seems to want OTLP over HTTP (http/protobuf, usually port 4318)",
        ),
    ] {
        let receiver = Receiver::grpc_scripted(None, move |_, _| answer.clone());
        let telemetry = start(vec![grpc(&receiver.url(""))]);
        record(&telemetry, 0..4);
        let report = shutdown(telemetry, SOON);
        assert_eq!(counts(&report, 0), (0, 4, 0), "{told}");
        assert_eq!(last_error(&report, 0), told);
        assert_eq!(receiver.received().len(), 1);
    }
}

#[test]
fn partial_success_is_counted_over_grpc() {
    let partial = ExportTracePartialSuccess {
        rejected_spans: 2,
        error_message: "too old".to_owned(),
    };
    let message = ExportTraceServiceResponse {
        partial_success: Some(partial),
    }
    .encode_to_vec();
    let receiver =
        Receiver::grpc_scripted(None, move |_, _| Answer::grpc(0).message(message.clone()));
    let telemetry = start(vec![grpc(&receiver.url(""))]);
    record(&telemetry, 0..5);
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (3, 2, 0));
    assert_eq!(
        last_error(&report, 0),
        "the backend rejected 2 spans: too old"
    );
}

#[test]
fn who_speaks_the_other_protocol_is_named_in_the_error() {
    let http = Receiver::healthy();
    let calls = Receiver::grpc();
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let old = Server {
        protocols: &[b"http/1.1"],
        ..Server::default()
    };
    let encrypted = Receiver::tls(authority.server("localhost", old));
    let tls = TlsFiles {
        authorities: Some(authority.write(directory.path())),
        identity: None,
    };
    for (route, sentence) in [
        (
            grpc(&http.url("")),
            "does not speak HTTP/2, which gRPC needs",
        ),
        (otlp(&calls.traces_url()), "does not speak HTTP/1"),
        (
            Route {
                tls,
                ..grpc(&format!("https://localhost:{}", encrypted.port()))
            },
            "does not speak HTTP/2, which gRPC needs",
        ),
    ] {
        let telemetry = start(vec![route]);
        record(&telemetry, 0..1);
        let report = shutdown(telemetry, ONE_TRY);
        assert_eq!(counts(&report, 0), (0, 0, 1), "{sentence}");
        let error = last_error(&report, 0);
        assert!(error.contains(sentence), "{error}");
    }
}

#[test]
fn a_connection_that_died_unseen_costs_no_try() {
    for protocol in [Protocol::HttpProtobuf, Protocol::Grpc] {
        let taken = match protocol {
            Protocol::Grpc => Answer::grpc(0),
            _ => Answer::status(200),
        };
        let script = move |number, _: &_| match number {
            // Each on the connection that has served the one before.
            1 | 3 => Answer::Reset,
            _ => taken.clone(),
        };
        let receiver = match protocol {
            Protocol::Grpc => Receiver::grpc_scripted(None, script),
            _ => Receiver::scripted(script),
        };
        let telemetry = start(vec![Route {
            protocol,
            ..otlp(&receiver.traces_url())
        }]);
        for round in 0..3 {
            record(&telemetry, round..round + 1);
            telemetry.flush_soon();
            receiver.wait_for(2 * round + 1, SOON);
        }
        let received = receiver.received();
        let report = shutdown(telemetry, SOON);
        assert_eq!(counts(&report, 0), (3, 0, 0), "{protocol:?}");
        assert_eq!(report.destinations[0].last_error, None, "{protocol:?}");
        let connections: Vec<_> = received.iter().map(|request| request.connection).collect();
        assert_eq!(connections, [0, 0, 1, 1, 2], "{protocol:?}");
        assert_eq!(received[1].body, received[2].body);
        assert_eq!(received[3].body, received[4].body);
    }
}

#[test]
fn a_new_connection_that_is_reset_costs_a_try() {
    for protocol in [Protocol::HttpProtobuf, Protocol::Grpc] {
        let taken = match protocol {
            Protocol::Grpc => Answer::grpc(0),
            _ => Answer::status(200),
        };
        let script = move |number, _: &_| match number {
            0 => Answer::Reset,
            _ => taken.clone(),
        };
        let receiver = match protocol {
            Protocol::Grpc => Receiver::grpc_scripted(None, script),
            _ => Receiver::scripted(script),
        };
        let telemetry = start(vec![Route {
            protocol,
            ..otlp(&receiver.traces_url())
        }]);
        record(&telemetry, 0..1);
        telemetry.flush_soon();
        let received = receiver.wait_for(2, SOON);
        let report = shutdown(telemetry, SOON);
        assert_eq!(counts(&report, 0), (1, 0, 0), "{protocol:?}");
        assert!(received[1].at - received[0].at >= Duration::from_millis(800));
        assert!(!last_error(&report, 0).is_empty());
    }
}

#[test]
fn a_connection_that_falls_silent_is_not_used_again() {
    let receiver = Receiver::grpc_scripted(None, |number, _| match number {
        1 => Answer::BlackHole,
        _ => Answer::grpc(0),
    });
    let telemetry = Telemetry::start(TelemetryConfig {
        batching: Batching {
            max_spans: 1,
            ..Batching::default()
        },
        ..config(vec![Route {
            timeout: Duration::from_millis(200),
            ..grpc(&receiver.url(""))
        }])
    })
    .unwrap();
    record(&telemetry, 0..2);
    let received = receiver.wait_for(3, SOON);
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (2, 0, 0));
    assert_eq!(last_error(&report, 0), "no answer within 200ms");
    let connections: Vec<_> = received.iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 0, 1]);
}

#[test]
fn a_server_that_closes_after_each_answer_gets_everything_once() {
    for protocol in [Protocol::HttpProtobuf, Protocol::Grpc] {
        let receiver = match protocol {
            Protocol::Grpc => Receiver::grpc_scripted(None, |_, _| Answer::grpc(0).then_closed()),
            _ => Receiver::scripted(|_, _| Answer::status(200).then_closed()),
        };
        let telemetry = Telemetry::start(TelemetryConfig {
            batching: Batching {
                max_spans: 1,
                ..Batching::default()
            },
            ..config(vec![Route {
                protocol,
                ..otlp(&receiver.traces_url())
            }])
        })
        .unwrap();
        record(&telemetry, 0..50);
        let report = shutdown(telemetry, SOON);
        assert_eq!(counts(&report, 0), (50, 0, 0), "{protocol:?}: {report:?}");
        assert_eq!(report.destinations[0].last_error, None, "{protocol:?}");
        assert_eq!(receiver.span_names(), names(0..50), "{protocol:?}");
    }
}

#[test]
fn grpc_over_tls_trusts_the_users_own_authority() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let modern = Server {
        protocols: &[b"h2"],
        ..Server::default()
    };
    let server = authority.server("localhost", modern);
    let receiver = Receiver::grpc_scripted(Some(server), |_, _| Answer::grpc(0));
    let url = format!("https://localhost:{}", receiver.port());
    let telemetry = start(vec![Route {
        tls: TlsFiles {
            authorities: Some(authority.write(directory.path())),
            identity: None,
        },
        ..grpc(&url)
    }]);
    record(&telemetry, 0..3);
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (3, 0, 0), "{report:?}");
    assert_eq!(receiver.span_names(), names(0..3));
}

/// The three ways to write a key that OpenSSL and its kin have used.
fn keys() -> Vec<(&'static str, KeyPair, String)> {
    let elliptic = KeyPair::generate().unwrap();
    let plain = elliptic.serialize_pem();
    let mut keys = vec![("PKCS#8", elliptic, plain)];
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then_some(text)
    };
    let directory = tempfile::tempdir().unwrap();
    for (name, make, convert) in [
        (
            "SEC1",
            &[
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ][..],
            &["ec", "-in"][..],
        ),
        (
            "PKCS#1",
            &[
                "genpkey",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
            ],
            &["rsa", "-traditional", "-in"],
        ),
    ] {
        let made = openssl(make).and_then(|pem| {
            let path = write(directory.path(), "key.pem", &pem);
            let converted = openssl(&[convert, &[path.to_str()?]].concat())?;
            Some((KeyPair::from_pem(&pem).ok()?, converted))
        });
        match made {
            Some((key, pem)) => keys.push((name, key, pem)),
            None => skipped(format!("no openssl to write a key as {name}")),
        }
    }
    keys
}

#[test]
fn a_backend_that_asks_who_we_are_is_told() {
    let authority = Authority::new();
    let strict = Server {
        demands_certificate: true,
        ..Server::default()
    };
    for (kind, key, pem) in keys() {
        let directory = tempfile::tempdir().unwrap();
        let receiver = Receiver::tls(authority.server("localhost", strict));
        let url = format!("https://localhost:{}/v1/traces", receiver.port());
        let (chain, file) = authority.client(directory.path(), &key);
        std::fs::write(&file, pem).unwrap();
        let authorities = Some(authority.write(directory.path()));
        let telemetry = start(vec![Route {
            tls: TlsFiles {
                authorities: authorities.clone(),
                identity: Some((chain, file)),
            },
            ..otlp(&url)
        }]);
        record(&telemetry, 0..3);
        let report = shutdown(telemetry, SOON);
        assert_eq!(counts(&report, 0), (3, 0, 0), "{kind}: {report:?}");

        let telemetry = start(vec![Route {
            tls: TlsFiles {
                authorities,
                identity: None,
            },
            ..otlp(&url)
        }]);
        record(&telemetry, 0..1);
        let report = shutdown(telemetry, ONE_TRY);
        assert_eq!(counts(&report, 0), (0, 0, 1));
        let error = last_error(&report, 0);
        assert!(error.contains("CertificateRequired"), "{error}");
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_its_variable() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let (chain, key) = authority.client(directory.path(), &KeyPair::generate().unwrap());
    let other = KeyPair::generate().unwrap().serialize_pem();
    let other = write(directory.path(), "other.key", &other);
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let locked = write(directory.path(), "locked.key", locked);
    let missing = directory.path().join("missing.pem");
    for (authorities, identity, file, variable) in [
        (
            Some(missing.clone()),
            None,
            "missing.pem",
            "OTLP_LOGS_CERTIFICATE or OTEL_EXPORTER_OTLP_CERTIFICATE",
        ),
        (
            Some(key.clone()),
            None,
            "client.key",
            "OTLP_LOGS_CERTIFICATE",
        ),
        (
            None,
            Some((missing.clone(), key.clone())),
            "missing.pem",
            "OTLP_LOGS_CLIENT_CERTIFICATE",
        ),
        (
            None,
            Some((chain.clone(), missing)),
            "missing.pem",
            "OTLP_LOGS_CLIENT_KEY",
        ),
        (
            None,
            Some((chain.clone(), locked)),
            "locked.key",
            "OTLP_LOGS_CLIENT_KEY",
        ),
        (
            None,
            Some((chain.clone(), chain.clone())),
            "client.pem",
            "OTLP_LOGS_CLIENT_KEY",
        ),
        (
            None,
            Some((chain.clone(), other)),
            "other.key",
            "OTLP_LOGS_CLIENT_KEY",
        ),
    ] {
        let refused = Telemetry::start(config(vec![Route {
            signal: Signal::Logs,
            tls: TlsFiles {
                authorities,
                identity,
            },
            ..otlp("https://localhost/v1/logs")
        }]));
        let Err(error @ TelemetryError::Certificate { .. }) = refused else {
            panic!("{file}: {refused:?}");
        };
        let text = error.to_string();
        assert!(text.contains(file) && text.contains(variable), "{text}");
    }
}

fn through(proxies: &[(&str, String)], route: Route) -> Telemetry {
    let value = |name: &str| {
        let found = proxies.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.clone())
    };
    Telemetry::start(TelemetryConfig {
        proxies: Proxies::from_env(&value),
        ..config(vec![route])
    })
    .unwrap()
}

/// The names here exist nowhere: only the proxy can know the way.
#[test]
fn plain_http_is_handed_to_the_proxy() {
    let proxy = Receiver::healthy();
    let address = format!("http://me:s3cret@127.0.0.1:{}", proxy.port());
    let mut headers = HeaderMap::new();
    headers.insert("x-token", HeaderValue::from_static("one"));
    let telemetry = through(
        &[("HTTP_PROXY", address)],
        Route {
            headers,
            ..otlp("http://collector.test:4318/v1/traces")
        },
    );
    record(&telemetry, 0..3);
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (3, 0, 0), "{report:?}");
    assert_eq!(proxy.span_names(), names(0..3));
    let request = &proxy.received()[0];
    assert_eq!(request.path, "http://collector.test:4318/v1/traces");
    assert_eq!(request.header("host"), Some("collector.test:4318"));
    let credentials = format!("Basic {}", BASE64_STANDARD.encode("me:s3cret"));
    assert_eq!(
        request.header("proxy-authorization"),
        Some(credentials.as_str())
    );
    assert_eq!(request.header("x-token"), Some("one"));
}

#[test]
fn tls_and_grpc_go_through_a_tunnel() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let tls = TlsFiles {
        authorities: Some(authority.write(directory.path())),
        identity: None,
    };
    let encrypted = Receiver::tls(authority.server("collector.test", Server::default()));
    let calls = Receiver::grpc();
    let proxy = Tunnel::start(None);
    let address = format!("http://me:s3cret@{}", proxy.address());
    for (route, receiver) in [
        (
            Route {
                tls,
                ..otlp(&format!(
                    "https://collector.test:{}/v1/traces",
                    encrypted.port()
                ))
            },
            &encrypted,
        ),
        (
            grpc(&format!("http://collector.test:{}", calls.port())),
            &calls,
        ),
    ] {
        let telemetry = through(&[("ALL_PROXY", address.clone())], route);
        record(&telemetry, 0..3);
        let report = shutdown(telemetry, SOON);
        assert_eq!(counts(&report, 0), (3, 0, 0), "{report:?}");
        assert_eq!(receiver.span_names(), names(0..3));
        let request = &receiver.received()[0];
        assert_eq!(
            request.header("proxy-authorization"),
            None,
            "that was the proxy's"
        );
        let asked = proxy.asked();
        let asked = asked.last().unwrap();
        let head = format!("CONNECT collector.test:{} HTTP/1.1\r\n", receiver.port());
        assert!(asked.starts_with(&head), "{asked}");
        let credentials = BASE64_STANDARD.encode("me:s3cret");
        assert!(asked.contains(&format!("Proxy-Authorization: Basic {credentials}\r\n")));
    }
}

#[test]
fn a_proxy_that_refuses_is_named_in_the_error_and_its_password_is_not() {
    let proxy = Tunnel::start(Some("407 Proxy Authentication Required"));
    let address = format!("http://me:s3cret@{}", proxy.address());
    let telemetry = through(
        &[("HTTPS_PROXY", address)],
        otlp("https://collector.test/v1/traces"),
    );
    record(&telemetry, 0..1);
    let report = shutdown(telemetry, ONE_TRY);
    assert_eq!(counts(&report, 0), (0, 0, 1));
    let error = last_error(&report, 0);
    assert!(
        error.contains(&format!("by the proxy {}", proxy.address())),
        "{error}"
    );
    assert!(error.contains("authorization required"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
}

#[test]
fn what_no_proxy_names_goes_directly() {
    let receiver = Receiver::healthy();
    let proxy = Tunnel::start(None);
    let telemetry = through(
        &[("HTTP_PROXY", format!("http://{}", proxy.address()))],
        otlp(&receiver.traces_url()),
    );
    record(&telemetry, 0..1);
    let report = shutdown(telemetry, SOON);
    assert_eq!(
        counts(&report, 0),
        (1, 0, 0),
        "loopback is never proxied: {report:?}"
    );
    assert!(proxy.asked().is_empty());
}
