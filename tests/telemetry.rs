//! Telemetry against receivers that behave and receivers that do not.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderValue};
use opentelemetry::logs::Severity;
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;
use sandtrace::telemetry::{
    Batching, Compression, Destination, JournalFile, JournalPaths, LogEntry, Protocol, Route,
    Signal, Signals, SpoolPlace, Telemetry, TelemetryConfig, TelemetryError, TlsFiles,
};
use sandtrace::time::UnixNanos;
use sandtrace_client::wire;

use crate::supervised::poll;
use crate::support::receiver::{Answer, Receiver};
use crate::support::spans::{
    config, counts, last_error, names, otlp, record, shutdown, span, start,
};
use crate::support::tls::{Authority, Server};

const SOON: Duration = Duration::from_secs(10);

fn trusting(authorities: &std::path::Path) -> TlsFiles {
    TlsFiles {
        authorities: Some(authorities.to_owned()),
        identity: None,
    }
}

/// Span copies go there alone.
fn traces_file(file: std::fs::File, cap: u64) -> JournalPaths {
    JournalPaths {
        traces: Some(JournalFile { file, cap }),
        ..JournalPaths::default()
    }
}

#[test]
fn a_healthy_backend_gets_every_span_once_as_gzipped_protobuf() {
    let receiver = Receiver::healthy();
    let telemetry = start(vec![Route {
        compression: Compression::Gzip,
        ..otlp(&receiver.traces_url())
    }]);
    record(&telemetry, 0..1_300);
    let report = shutdown(telemetry, SOON);

    assert_eq!((report.spans, report.spans_dropped), (1_300, 0));
    assert_eq!(counts(&report, 0), (1_300, 0, 0));
    assert_eq!(report.destinations[0].last_error, None);
    assert_eq!(receiver.span_names(), names(0..1_300));
    for request in receiver.received() {
        assert_eq!(request.path, "/v1/traces");
        assert_eq!(request.header("content-encoding"), Some("gzip"));
        assert!(
            request
                .header("user-agent")
                .unwrap()
                .starts_with("sandtrace/")
        );
        assert!(request.spans().len() <= 512);
        let resource = request.decode().resource_spans.remove(0);
        assert_eq!(resource.resource.unwrap().attributes[0].key, "service.name");
        assert_eq!(
            resource.scope_spans[0].scope.as_ref().unwrap().name,
            "sandtrace"
        );
    }
}

#[test]
fn json_is_spoken_too() {
    let receiver = Receiver::healthy();
    let telemetry = start(vec![Route {
        protocol: Protocol::HttpJson,
        ..otlp(&receiver.traces_url())
    }]);
    record(&telemetry, 0..3);
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (3, 0, 0));
    assert_eq!(receiver.span_names(), names(0..3));
    assert_eq!(
        receiver.received()[0].header("content-type"),
        Some("application/json")
    );
}

#[test]
fn requests_stay_below_two_mebibytes_in_either_encoding() {
    let text = "\"quoted\"\n".repeat(10_000);
    for protocol in [Protocol::HttpProtobuf, Protocol::HttpJson] {
        let receiver = Receiver::healthy();
        let telemetry = start(vec![Route {
            protocol,
            ..otlp(&receiver.traces_url())
        }]);
        for number in 0..60 {
            telemetry.record(span(format!("{number:04}"), &text));
        }
        let report = shutdown(telemetry, SOON);
        assert_eq!(counts(&report, 0), (60, 0, 0), "{protocol:?}");
        assert_eq!(receiver.span_names(), names(0..60));
        for request in receiver.received() {
            assert!(
                request.body.len() <= 2 << 20,
                "{protocol:?}: {}",
                request.body.len()
            );
        }
    }
}

#[test]
fn spans_go_out_during_the_run_after_the_delay_or_at_a_flush() {
    let receiver = Receiver::healthy();
    let telemetry = Telemetry::start(TelemetryConfig {
        batching: Batching {
            delay: Duration::from_millis(100),
            max_spans: 2,
            ..Batching::default()
        },
        ..config(vec![otlp(&receiver.traces_url())])
    })
    .unwrap();
    record(&telemetry, 0..3);
    let sizes: Vec<_> = receiver
        .wait_for(2, SOON)
        .iter()
        .map(|request| request.spans().len())
        .collect();
    assert_eq!(sizes, [2, 1]);
    drop(telemetry);

    let telemetry = start(vec![otlp(&receiver.traces_url())]);
    record(&telemetry, 3..4);
    telemetry.flush_soon();
    receiver.wait_for(3, Duration::from_secs(3));
    assert_eq!(receiver.span_names(), names(0..4));
    shutdown(telemetry, SOON);
}

#[test]
fn a_retry_sends_identical_bytes() {
    // The reset comes on a new connection, so that it is a try like any other.
    let receiver = Receiver::scripted(|number, _| match number {
        0 => Answer::status(503).header("Connection", "close"),
        1 => Answer::Reset,
        _ => Answer::status(200),
    });
    let telemetry = start(vec![otlp(&receiver.traces_url())]);
    record(&telemetry, 0..5);
    telemetry.flush_soon();
    let received = receiver.wait_for(3, SOON);
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (5, 0, 0));
    assert_eq!(received[0].body, received[1].body);
    assert_eq!(received[0].body, received[2].body);
    let waits = [
        received[1].at - received[0].at,
        received[2].at - received[1].at,
    ];
    for (wait, expected) in waits.iter().zip([1.0, 2.0]) {
        let seconds = wait.as_secs_f64();
        assert!(
            (0.8 * expected..1.2 * expected + 0.5).contains(&seconds),
            "{waits:?}"
        );
    }
}

#[test]
fn a_backend_that_asks_for_time_gets_it() {
    let receiver = Receiver::scripted(|number, _| match number {
        0 => Answer::status(429).header("Retry-After", "2"),
        _ => Answer::status(200),
    });
    let telemetry = start(vec![otlp(&receiver.traces_url())]);
    record(&telemetry, 0..1);
    telemetry.flush_soon();
    receiver.wait_for(1, SOON);
    // A shutdown does not cut short what the backend asked for.
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (1, 0, 0));
    let received = receiver.received();
    assert!(received[1].at - received[0].at >= Duration::from_secs(2));
}

#[test]
fn a_backend_that_asks_for_more_time_than_there_is_delays_nobody() {
    let asks = || Receiver::scripted(|_, _| Answer::status(429).header("Retry-After", "60"));
    let run = tempfile::tempdir().unwrap();
    for is_asked_before in [true, false] {
        let receiver = asks();
        let run = run.path().join(is_asked_before.to_string());
        std::fs::create_dir(&run).unwrap();
        let telemetry = Telemetry::start(TelemetryConfig {
            spool: Some(SpoolPlace { run, root: None }),
            ..config(vec![otlp(&receiver.traces_url())])
        })
        .unwrap();
        record(&telemetry, 0..3);
        if is_asked_before {
            telemetry.flush_soon();
            poll("the backend asks for time", || {
                last_error(&telemetry.counts(), 0)
                    .contains("429")
                    .then_some(())
            });
        }
        record(&telemetry, 3..5);
        let started = Instant::now();
        let report = shutdown(telemetry, Duration::from_secs(30));
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{is_asked_before}"
        );
        assert_eq!(counts(&report, 0), (0, 0, 5));
        assert_eq!(report.destinations[0].spooled, 5, "the next run has them");
        assert_eq!(receiver.received().len(), 1);
    }
}

#[test]
fn a_shutdown_uses_the_last_chance_at_once() {
    let receiver = Receiver::scripted(|number, _| match number {
        0 => Answer::status(503),
        1 => Answer::status(502),
        _ => Answer::status(200),
    });
    let telemetry = start(vec![otlp(&receiver.traces_url())]);
    record(&telemetry, 0..1);
    telemetry.flush_soon();
    // Until the second answer has been heard, and not only sent. From then on the sender waits.
    poll("the second failure", || {
        last_error(&telemetry.counts(), 0)
            .contains("502")
            .then_some(())
    });
    // Two seconds of waiting lie ahead, less a fifth, and the shutdown has but one.
    let report = shutdown(telemetry, Duration::from_secs(1));
    assert_eq!(counts(&report, 0), (1, 0, 0));
    assert_eq!(receiver.received().len(), 3);
}

#[test]
fn a_failure_that_is_on_its_way_at_the_shutdown_is_not_the_last_chance() {
    let receiver = Receiver::scripted(|number, _| match number {
        0 => Answer::status(503),
        1 => Answer::status(503).after(Duration::from_millis(300)),
        _ => Answer::status(200),
    });
    let telemetry = start(vec![otlp(&receiver.traces_url())]);
    record(&telemetry, 0..1);
    telemetry.flush_soon();
    receiver.wait_for(2, SOON);
    // Asked before the answer comes; the wait after it would take longer than there is.
    let report = shutdown(telemetry, Duration::from_millis(1_300));
    assert_eq!(counts(&report, 0), (1, 0, 0));
}

#[test]
fn a_refused_request_is_dropped_at_once() {
    let receiver =
        Receiver::scripted(|_, _| Answer::status(400).body(b"authorization: hush".to_vec()));
    let telemetry = start(vec![otlp(&receiver.traces_url())]);
    record(&telemetry, 0..4);
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (0, 4, 0));
    assert_eq!(last_error(&report, 0), "refused: HTTP 400 Bad Request");
    assert_eq!(receiver.received().len(), 1);
}

#[test]
fn partial_success_is_counted() {
    let partial = ExportTracePartialSuccess {
        rejected_spans: 2,
        error_message: "too old".to_owned(),
    };
    let body = ExportTraceServiceResponse {
        partial_success: Some(partial),
    }
    .encode_to_vec();
    let receiver = Receiver::scripted(move |_, _| Answer::status(200).body(body.clone()));
    let telemetry = start(vec![otlp(&receiver.traces_url())]);
    record(&telemetry, 0..5);
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (3, 2, 0));
    assert!(last_error(&report, 0).contains("too old"));
}

#[test]
fn a_black_hole_cannot_hold_up_the_shutdown() {
    let receiver = Receiver::scripted(|_, _| Answer::BlackHole);
    let telemetry = start(vec![otlp(&receiver.traces_url())]);
    record(&telemetry, 0..600);
    let report = shutdown(telemetry, Duration::from_millis(300));
    assert_eq!(counts(&report, 0), (0, 0, 600));
}

#[test]
fn a_request_without_an_answer_is_sent_again_after_its_timeout() {
    let receiver = Receiver::scripted(|number, _| match number {
        0 => Answer::BlackHole,
        _ => Answer::status(200).after(Duration::from_millis(20)),
    });
    let telemetry = start(vec![Route {
        timeout: Duration::from_millis(200),
        ..otlp(&receiver.traces_url())
    }]);
    record(&telemetry, 0..1);
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (1, 0, 0));
    assert_eq!(receiver.received().len(), 2);
    assert_eq!(last_error(&report, 0), "no answer within 200ms");
}

#[test]
fn nobody_listening_leaves_the_spans_queued() {
    let unused = Receiver::healthy().traces_url();
    let telemetry = start(vec![otlp(&unused)]);
    record(&telemetry, 0..2);
    let report = shutdown(telemetry, Duration::from_millis(300));
    assert_eq!(counts(&report, 0), (0, 0, 2));
    assert!(
        last_error(&report, 0).contains("refused"),
        "{}",
        last_error(&report, 0)
    );
}

#[test]
fn a_hanging_destination_costs_the_others_nothing() {
    let hanging = Receiver::scripted(|_, _| Answer::BlackHole);
    let healthy = Receiver::healthy();
    let telemetry = start(vec![
        otlp(&hanging.traces_url()),
        otlp(&healthy.traces_url()),
    ]);
    record(&telemetry, 0..1_000);
    let report = shutdown(telemetry, Duration::from_millis(1_500));
    assert_eq!(counts(&report, 0), (0, 0, 1_000));
    assert_eq!(counts(&report, 1), (1_000, 0, 0));
    assert_eq!(healthy.span_names(), names(0..1_000));
}

/// The exporter crate merges the environment's headers into every exporter, and reads protocol, compression and
/// endpoint from it: so this test runs itself again in such an environment.
#[test]
fn what_is_meant_for_one_destination_never_reaches_another() {
    const NAME: &str = "telemetry::what_is_meant_for_one_destination_never_reaches_another";
    const SECRET: &str = "env-secret";
    if std::env::var_os("OTEL_EXPORTER_OTLP_HEADERS").is_none() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME])
            .env(
                "OTEL_EXPORTER_OTLP_HEADERS",
                format!("authorization={SECRET},content-type=text/plain"),
            )
            .env(
                "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
                format!("x-env={SECRET}"),
            )
            .env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")
            .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
            .env(
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "http://127.0.0.1:1/elsewhere",
            )
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && printed.contains("1 passed"),
            "{printed}"
        );
        return;
    }
    let receivers = [Receiver::healthy(), Receiver::healthy()];
    let destinations = receivers
        .iter()
        .zip(["one", "two"])
        .map(|(receiver, token)| {
            let mut headers = HeaderMap::new();
            headers.insert("x-token", HeaderValue::from_static(token));
            Route {
                headers,
                ..otlp(&receiver.traces_url())
            }
        });
    let telemetry = start(destinations.collect());
    record(&telemetry, 0..2);
    let report = shutdown(telemetry, SOON);
    for (index, (receiver, own, other)) in
        [(&receivers[0], "one", "two"), (&receivers[1], "two", "one")]
            .into_iter()
            .enumerate()
    {
        assert_eq!(counts(&report, index), (2, 0, 0));
        assert_eq!(receiver.span_names(), names(0..2));
        for request in receiver.received() {
            assert_eq!(request.header("x-token"), Some(own));
            assert_eq!(
                request.header("content-type"),
                Some("application/x-protobuf")
            );
            assert!(
                !request.mentions(other) && !request.mentions(SECRET),
                "{:?}",
                request.headers
            );
        }
    }
}

/// The console prints to fd 1, so this test runs itself again with a pipe there that nobody reads for a while.
#[test]
fn the_console_prints_spans_and_may_hang_without_harm() {
    const NAME: &str = "telemetry::the_console_prints_spans_and_may_hang_without_harm";
    const ROLE: &str = "IT_CONSOLE";
    if std::env::var_os(ROLE).is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(ROLE, "child")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The child says on stderr when its shutdown is over; only then is its stdout read.
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("over") {
            line.clear();
            assert_ne!(
                errors.read_line(&mut line).unwrap(),
                0,
                "the child has died"
            );
        }
        let output = child.wait_with_output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{printed}");
        assert!(printed.contains("Name         : 0000"), "{printed}");
        return;
    }
    let receiver = Receiver::healthy();
    let mut config = config(vec![otlp(&receiver.traces_url())]);
    config.destinations.insert(
        0,
        Destination::Console(Signals {
            traces: true,
            ..Signals::default()
        }),
    );
    config.batching.max_spans = 100;
    let telemetry = Telemetry::start(config).unwrap();
    record(&telemetry, 0..2_000);
    // However long it takes, the other one gets everything while the console hangs.
    poll("the other destination", || {
        let row = &telemetry.counts().destinations[1];
        (row.exported == 2_000).then_some(())
    });
    let report = shutdown(telemetry, Duration::from_secs(1));
    std::io::stderr().write_all(b"over\n").unwrap();
    let (exported, dropped, queued) = counts(&report, 0);
    assert!(dropped == 0 && queued > 0, "{report:?}");
    assert_eq!(exported + queued, 2_000);
    assert_eq!(counts(&report, 1), (2_000, 0, 0));
}

#[test]
fn tls_trusts_the_users_own_authority() {
    let authority = Authority::new();
    let receiver = Receiver::tls(authority.server("localhost", Server::default()));
    let url = format!("https://localhost:{}/v1/traces", receiver.port());
    let directory = tempfile::tempdir().unwrap();
    let path = authority.write(directory.path());

    let telemetry = start(vec![Route {
        tls: trusting(&path),
        ..otlp(&url)
    }]);
    record(&telemetry, 0..3);
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (3, 0, 0), "{report:?}");
    assert_eq!(receiver.span_names(), names(0..3));

    let telemetry = start(vec![otlp(&url)]);
    record(&telemetry, 0..1);
    let report = shutdown(telemetry, Duration::from_millis(500));
    assert_eq!(counts(&report, 0), (0, 0, 1));
    assert!(
        last_error(&report, 0).contains("UnknownIssuer"),
        "{}",
        last_error(&report, 0)
    );

    std::fs::write(&path, "no certificate").unwrap();
    let refused = Telemetry::start(config(vec![Route {
        tls: trusting(&path),
        ..otlp(&url)
    }]));
    assert!(matches!(refused, Err(TelemetryError::Certificate { .. })));
}

fn lines(path: &std::path::Path) -> Vec<ExportTraceServiceRequest> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_file_is_written_even_when_nothing_is_sampled() {
    let receiver = Receiver::healthy();
    let file = tempfile::NamedTempFile::new().unwrap();
    let telemetry = Telemetry::start(TelemetryConfig {
        journal: traces_file(file.reopen().unwrap(), 1 << 20),
        sampled: false,
        trace_state: "vendor=1".to_owned(),
        ..config(vec![otlp(&receiver.traces_url())])
    })
    .unwrap();
    record(&telemetry, 0..1);
    telemetry.flush_soon();
    record(&telemetry, 1..3);
    let report = shutdown(telemetry, SOON);
    assert_eq!(report.destinations[0].name, "file");
    assert_eq!(counts(&report, 0), (3, 0, 0));
    assert_eq!(counts(&report, 1), (0, 0, 0));
    assert!(receiver.received().is_empty());

    let requests = lines(file.path());
    assert_eq!(requests.len(), 2);
    let span = &requests[0].resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(
        (span.name.as_str(), span.trace_state.as_str()),
        ("0000", "vendor=1")
    );
    assert_eq!(span.flags & 1, 0);
}

#[test]
fn the_file_stops_at_its_cap_and_says_so() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let telemetry = Telemetry::start(TelemetryConfig {
        journal: traces_file(file.reopen().unwrap(), 2_000),
        batching: Batching {
            max_spans: 1,
            ..Batching::default()
        },
        ..config(vec![])
    })
    .unwrap();
    record(&telemetry, 0..50);
    let report = shutdown(telemetry, SOON);
    let (exported, dropped, queued) = counts(&report, 0);
    assert!(exported > 0 && dropped > 0 && queued == 0, "{report:?}");
    assert_eq!(lines(file.path()).len() as u64, exported);
    assert!(file.path().metadata().unwrap().len() <= 2_000);
    assert!(last_error(&report, 0).contains("cap"));
}

#[test]
fn a_full_disk_costs_only_the_file() {
    let receiver = Receiver::healthy();
    let telemetry = Telemetry::start(TelemetryConfig {
        journal: traces_file(
            std::fs::OpenOptions::new()
                .write(true)
                .open("/dev/full")
                .unwrap(),
            1 << 20,
        ),
        ..config(vec![otlp(&receiver.traces_url())])
    })
    .unwrap();
    record(&telemetry, 0..3);
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (0, 3, 0));
    assert!(last_error(&report, 0).contains("No space"));
    assert_eq!(counts(&report, 1), (3, 0, 0));
}

#[test]
fn a_stuck_export_thread_cannot_hold_up_the_shutdown() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let telemetry = Telemetry::start(TelemetryConfig {
        journal: traces_file(std::fs::File::from(OwnedFd::from(writer)), u64::MAX),
        ..config(vec![])
    })
    .unwrap();
    // More than a pipe holds.
    telemetry.record(span("large", &"x".repeat(1 << 20)));
    let report = shutdown(telemetry, Duration::from_millis(200));
    assert_eq!(counts(&report, 0), (0, 0, 1));
    // Lets the thread go.
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert!(rest.len() > 1 << 20);
}

#[test]
fn a_span_without_room_is_dropped_and_counted() {
    let receiver = Receiver::healthy();
    let telemetry = start(vec![otlp(&receiver.traces_url())]);
    telemetry.record(span("huge", &"x".repeat(9 << 20)));
    record(&telemetry, 0..1);
    let report = shutdown(telemetry, SOON);
    assert_eq!((report.spans, report.spans_dropped), (2, 1));
    assert_eq!(counts(&report, 0), (1, 0, 0));
}

#[test]
fn nothing_to_do_is_done_at_once() {
    let started = Instant::now();
    let report = shutdown(start(vec![]), SOON);
    assert_eq!(report, wire::Telemetry::default());
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_backend_that_takes_no_logs_is_not_asked_again_and_its_spans_go_on() {
    let receiver = Receiver::scripted(|_, request| {
        Answer::status(if request.path == "/v1/logs" { 404 } else { 200 })
    });
    let traces = otlp(&receiver.traces_url());
    let logs = Route {
        signal: Signal::Logs,
        ..otlp(&receiver.traces_url().replace("traces", "logs"))
    };
    let Destination::Otlp(mut destination) = config(vec![traces]).destinations.remove(0) else {
        unreachable!();
    };
    destination.routes.push(logs);
    let telemetry = Telemetry::start(TelemetryConfig {
        destinations: vec![Destination::Otlp(destination)],
        ..config(Vec::new())
    })
    .unwrap();
    for number in 0..4 {
        telemetry.log(LogEntry {
            time: UnixNanos::from(SystemTime::now()),
            severity: Severity::Info,
            event: "sandtrace.run.started",
            body: "a body".to_owned(),
            attributes: Vec::new(),
            trace_id: TraceId::from(1),
            span_id: SpanId::from(2),
        });
        record(&telemetry, number..number + 1);
        telemetry.flush_soon();
        receiver.wait_for(number + 2, SOON);
    }
    let report = shutdown(telemetry, SOON);
    assert_eq!(counts(&report, 0), (4, 0, 0));
    let logs = report.destinations[0].logs.unwrap();
    assert_eq!((logs.exported, logs.dropped, logs.queued), (0, 4, 0));
    let told = last_error(&report, 0);
    assert!(
        told.contains("takes no logs") && told.contains("OTEL_LOGS_EXPORTER=none"),
        "{told}"
    );
    let received = receiver.received();
    let asked = received.iter().filter(|request| request.path == "/v1/logs");
    assert_eq!(asked.count(), 1);
}
