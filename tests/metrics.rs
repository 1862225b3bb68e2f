//! Metrics as whoever receives them sees them: in the journal of a real run, pushed by OTLP, scraped by Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use flate2::read::GzDecoder;
use http::HeaderMap;
use opentelemetry::trace::{SpanId, SpanKind, TraceId};
use opentelemetry::{Key, Value};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, number_data_point};
use prost::Message as _;
use sandtrace::session::semconv::{key, metric};
use sandtrace::session::span::{FinishedSpan, SpanStatus};
use sandtrace::telemetry::{
    Compression, Destination, Dialect, OtlpDestination, Protocol, Route, Semconv, Signal,
    Telemetry, TelemetryConfig, Temporality, TlsFiles,
};
use sandtrace::time::UnixNanos;
use sandtrace_client::wire;

use crate::supervised::{Finished, agent, poll};
use crate::support::receiver::{Received, Receiver};

const SOON: Duration = Duration::from_secs(10);

/// Aggregation temporalities of the protocol.
const DELTA: i32 = 1;
const CUMULATIVE: i32 = 2;

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::BoolValue(value)) => value.to_string(),
        Some(any_value::Value::IntValue(value)) => value.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Attributes in one line, sorted.
fn told(attributes: &[KeyValue]) -> String {
    let pairs = attributes.iter();
    let mut pairs: Vec<_> = pairs
        .map(|pair| format!("{}={}", pair.key, text(pair.value.as_ref())))
        .collect();
    pairs.sort();
    pairs.join(" ")
}

fn number(point: &NumberDataPoint) -> f64 {
    match point.value {
        Some(number_data_point::Value::AsDouble(value)) => value,
        Some(number_data_point::Value::AsInt(value)) => value as f64,
        None => panic!("{point:?}"),
    }
}

/// One series of a request.
#[derive(Debug)]
struct Series {
    metric: String,
    unit: String,
    attributes: String,
    /// `None` for a gauge.
    temporality: Option<i32>,
    kind: &'static str,
    /// A histogram's sum.
    value: f64,
    /// A histogram's bounds.
    bounds: Vec<f64>,
}

fn series(request: &ExportMetricsServiceRequest) -> Vec<Series> {
    let mut found = Vec::new();
    let resources = request.resource_metrics.iter();
    let scopes = resources.flat_map(|resource| &resource.scope_metrics);
    for metric in scopes.flat_map(|scope| &scope.metrics) {
        let mut add = |attributes: &[KeyValue], temporality, kind, value, bounds| {
            found.push(Series {
                metric: metric.name.clone(),
                unit: metric.unit.clone(),
                attributes: told(attributes),
                temporality,
                kind,
                value,
                bounds,
            });
        };
        match metric.data.as_ref().unwrap() {
            Data::Gauge(gauge) => {
                for point in &gauge.data_points {
                    add(&point.attributes, None, "gauge", number(point), vec![]);
                }
            }
            Data::Sum(sum) => {
                let kind = if sum.is_monotonic { "counter" } else { "level" };
                for point in &sum.data_points {
                    let temporality = Some(sum.aggregation_temporality);
                    add(&point.attributes, temporality, kind, number(point), vec![]);
                }
            }
            Data::Histogram(histogram) => {
                for point in &histogram.data_points {
                    let temporality = Some(histogram.aggregation_temporality);
                    let (sum, bounds) = (point.sum.unwrap(), point.explicit_bounds.clone());
                    add(&point.attributes, temporality, "histogram", sum, bounds);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    found.sort_by(|a, b| (&a.metric, &a.attributes).cmp(&(&b.metric, &b.attributes)));
    found
}

/// Adds up a metric, over the series whose attributes contain a text.
fn sum(series: &[Series], metric: &str, attributes: &str) -> f64 {
    let of_it = series.iter().filter(|it| it.metric == metric);
    let of_it = of_it.filter(|it| it.attributes.contains(attributes));
    of_it.map(|it| it.value).sum()
}

fn play(scenario: &str, kind: &str) -> Finished {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let recording = tests.join("fixtures/recordings").join(scenario);
    agent([
        "python3".as_ref(),
        tests.join("player.py").as_os_str(),
        recording.as_os_str(),
        kind.as_ref(),
    ])
    .run()
}

#[test]
fn what_the_metrics_of_a_run_add_up_to_is_what_its_last_line_says() {
    for (scenario, kind) in [
        ("partial_messages", "sdk"),
        ("parallel_tools", "sdk"),
        ("plain_text", "sdk"),
        ("multi_turn", "sdk"),
        ("subagent", "sdk"),
        ("compact_auto", "sdk"),
        ("api_429_persistent", "sdk"),
    ] {
        let run = play(scenario, kind);
        run.assert_sound();
        let lines = run.journal_file("metrics.jsonl");
        let lines: Vec<ExportMetricsServiceRequest> = lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let all = series(lines.last().unwrap());

        let transcript = run.transcript();
        let finished = transcript.finished();
        let usage = &finished["usage"];
        for (metric, attributes, expected) in [
            (metric::TOKEN_USAGE, "token.type=input", "input_tokens"),
            (metric::TOKEN_USAGE, "token.type=output", "output_tokens"),
            (
                metric::CACHE_TOKENS,
                "cache=read",
                "cache_read_input_tokens",
            ),
            (
                metric::CACHE_TOKENS,
                "cache=creation",
                "cache_creation_input_tokens",
            ),
        ] {
            let expected = usage[expected].as_f64().unwrap();
            assert_eq!(
                sum(&all, metric, attributes),
                expected,
                "{scenario}: {attributes}"
            );
        }
        let cost = finished["cost"]["usd"].as_f64().unwrap_or_default();
        let measured = sum(&all, metric::COST, "");
        assert!(
            (measured - cost).abs() < 1e-9,
            "{scenario}: {measured}, not {cost}"
        );

        let outcome = format!(
            "sandtrace.outcome={}",
            finished["outcome"].as_str().unwrap()
        );
        assert_eq!(sum(&all, metric::RUNS, &outcome), 1.0, "{scenario}");
        assert_eq!(sum(&all, metric::RUNS, ""), 1.0, "{scenario}");
        let spans = transcript.all("sandtrace.span.ended");
        let failed = spans
            .iter()
            .filter(|span| span["status"] == "error")
            .count();
        assert_eq!(sum(&all, metric::ERRORS, ""), failed as f64, "{scenario}");
        // The first sample comes after 200 ms, before an agent that starts Python is gone.
        if finished["resources"].is_object() {
            assert!(
                sum(&all, metric::SYSTEM_MEMORY_USAGE, "used") > 0.0,
                "{scenario}"
            );
        }
        for id in ["run_id", "trace_id", "root_span_id"] {
            let id = transcript.started()[id].as_str().unwrap();
            assert!(
                all.iter().all(|it| !it.attributes.contains(id)),
                "{scenario}: {id}"
            );
        }
        assert!(
            all.iter().all(|it| it.temporality != Some(DELTA)),
            "{scenario}"
        );
    }
}

/// Everything there is to measure.
fn spans() -> Vec<FinishedSpan> {
    let span = |name: &'static str, attributes: &[(&'static str, Value)]| FinishedSpan {
        trace_id: TraceId::from(0xabcd),
        span_id: SpanId::from(0xef01),
        parent_span_id: None,
        parent_is_remote: false,
        name: name.into(),
        kind: SpanKind::Internal,
        start: UnixNanos(1_000_000_000),
        end: UnixNanos(3_500_000_000),
        status: SpanStatus::Unset,
        attributes: attributes
            .iter()
            .chain(&[
                (key::RUN_ID, "run-7".into()),
                (key::SESSION_ID, "session-7".into()),
                (key::GEN_AI_CONVERSATION_ID, "session-7".into()),
                (key::USER_ID, "ada".into()),
            ])
            .map(|(key, value)| (Key::from_static_str(key), value.clone()))
            .collect(),
        events: Vec::new(),
        dropped_events: 0,
        link: None,
        content: Vec::new(),
    };
    let mut tool = span(
        "execute_tool Bash",
        &[
            (key::GEN_AI_OPERATION, "execute_tool".into()),
            (key::GEN_AI_TOOL_NAME, "Bash".into()),
            (key::GEN_AI_TOOL_CALL_ID, "toolu_7".into()),
            (key::ERROR_TYPE, "tool_error".into()),
        ],
    );
    tool.status = SpanStatus::Error {
        message: "exit code 1".into(),
    };
    vec![
        span(
            "chat claude-opus-5-5",
            &[
                (key::GEN_AI_OPERATION, "chat".into()),
                (key::GEN_AI_PROVIDER, "anthropic".into()),
                (key::GEN_AI_REQUEST_MODEL, "claude-opus-5-5".into()),
                (key::GEN_AI_RESPONSE_ID, "msg_7".into()),
                (key::GEN_AI_INPUT_TOKENS, 4_312.into()),
                (key::GEN_AI_OUTPUT_TOKENS, 60.into()),
                (key::GEN_AI_TIME_TO_FIRST_CHUNK, 0.25.into()),
                (key::COST_USD, 0.25.into()),
            ],
        ),
        tool,
        span("approval Bash", &[(key::APPROVAL_DECISION, "allow".into())]),
        span(
            "invoke_agent main",
            &[
                (key::GEN_AI_OPERATION, "invoke_agent".into()),
                (key::GEN_AI_AGENT_NAME, "main".into()),
            ],
        ),
        span("agent.run", &[(key::OUTCOME, "success".into())]),
    ]
}

fn sample() -> wire::Resources {
    wire::Resources {
        sandbox: wire::SandboxResources {
            cpu_utilization: 0.5,
            cpus: 2,
            memory_total_bytes: 1_000,
            memory_used_bytes: 600,
            load_1m: 1.5,
            ..wire::SandboxResources::default()
        },
        tree: Some(wire::TreeResources {
            processes: 3,
            cpu_seconds: 1.25,
            cpu_used: 1.0,
            rss_bytes: 4_096,
            ..wire::TreeResources::default()
        }),
        cgroup: None,
    }
}

fn pushed(name: &'static str, receiver: &Receiver, path: &str, how: Temporality) -> Destination {
    let url = format!("http://127.0.0.1:{}{path}", receiver.port());
    Destination::Otlp(Box::new(OtlpDestination {
        name,
        dialect: Dialect::Otlp,
        semconv: Semconv::V1_41,
        resource: Vec::new(),
        temporality: how,
        routes: vec![Route {
            signal: Signal::Metrics,
            endpoint: url.parse().unwrap(),
            headers: HeaderMap::new(),
            protocol: Protocol::HttpProtobuf,
            compression: Compression::None,
            timeout: SOON,
            tls: TlsFiles::default(),
        }],
    }))
}

fn start(destinations: Vec<Destination>, interval: Duration) -> Telemetry {
    Telemetry::start(TelemetryConfig {
        destinations,
        resource: vec![
            ("service.name".into(), "it".into()),
            ("service.instance.id".into(), "instance-7".into()),
        ],
        metric_interval: interval,
        ..TelemetryConfig::default()
    })
    .unwrap()
}

fn record(telemetry: &Telemetry) {
    for span in spans() {
        telemetry.record(span);
    }
    telemetry.resources(&sample());
}

fn decoded(request: &Received) -> ExportMetricsServiceRequest {
    ExportMetricsServiceRequest::decode(request.body.as_slice()).unwrap()
}

#[test]
fn a_push_to_prometheus_is_what_its_receiver_takes() {
    let receiver = Receiver::healthy();
    // The path of Prometheus' own receiver, which refuses a request for one delta in it.
    let path = "/api/v1/otlp/v1/metrics";
    let there = pushed("prometheus", &receiver, path, Temporality::Cumulative);
    let telemetry = start(vec![there], Duration::from_secs(3_600));
    record(&telemetry);
    telemetry.shutdown(SOON).blocking_recv().unwrap();

    let requests = receiver.received();
    let [request] = requests.as_slice() else {
        panic!("{} requests", requests.len());
    };
    assert_eq!(request.path, path);
    assert_eq!(
        request.header("content-type"),
        Some("application/x-protobuf")
    );
    let request = decoded(request);
    let resource = request.resource_metrics[0].resource.as_ref().unwrap();
    let mut golden = format!("resource: {}\n", told(&resource.attributes));
    for it in series(&request) {
        assert_ne!(it.temporality, Some(DELTA), "{it:?}");
        for id in ["run-7", "session-7", "toolu_7", "msg_7", "abcd", "ef01"] {
            assert!(!it.attributes.contains(id), "{it:?}");
        }
        let bounds = match it.bounds.as_slice() {
            [first, .., last] => format!(" [{first} … {last}]"),
            _ => String::new(),
        };
        writeln!(
            golden,
            "{} {} ({}){bounds}: {} {{{}}}",
            it.kind, it.metric, it.unit, it.value, it.attributes
        )
        .unwrap();
    }
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("metrics_push", golden);
    });
}

#[test]
fn a_destinations_own_resource_is_on_its_metrics_too_and_on_no_others() {
    let receivers = [
        Receiver::healthy(),
        Receiver::healthy(),
        Receiver::healthy(),
    ];
    let there = |receiver: &Receiver, protocol, own: &[(&'static str, &'static str)]| {
        let mut there = pushed("otlp", receiver, "/v1/metrics", Temporality::Cumulative);
        if let Destination::Otlp(otlp) = &mut there {
            let own = own
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()));
            otlp.resource = own.collect();
            otlp.routes[0].protocol = protocol;
            otlp.routes[0].compression = Compression::Gzip;
        }
        there
    };
    let own = [("team.name", "atlas"), ("service.name", "of its own")];
    let destinations = vec![
        there(&receivers[0], Protocol::HttpProtobuf, &own),
        there(&receivers[1], Protocol::HttpJson, &own),
        there(&receivers[2], Protocol::HttpProtobuf, &[]),
    ];
    let telemetry = start(destinations, Duration::from_secs(3_600));
    record(&telemetry);
    telemetry.flush_soon();
    for receiver in &receivers {
        receiver.wait_for(1, SOON);
    }
    // A copy of the sandbox is somebody else, for the same destinations; what was told before is the original's.
    telemetry.identify(vec![
        ("service.name".into(), "it".into()),
        ("service.instance.id".into(), "instance-8".into()),
    ]);
    record(&telemetry);
    telemetry.shutdown(SOON).blocking_recv().unwrap();

    let whose = |receiver: &Receiver| -> Vec<String> {
        let requests = receiver.received();
        let whose = requests.iter().map(|request| {
            let mut body = Vec::new();
            GzDecoder::new(request.body.as_slice())
                .read_to_end(&mut body)
                .unwrap();
            let request = ExportMetricsServiceRequest::decode(body.as_slice())
                .unwrap_or_else(|_| serde_json::from_slice(&body).unwrap());
            told(
                &request.resource_metrics[0]
                    .resource
                    .as_ref()
                    .unwrap()
                    .attributes,
            )
        });
        whose.collect()
    };
    let [seven, eight] = ["instance-7", "instance-8"]
        .map(|id| format!("service.instance.id={id} service.name=of its own team.name=atlas"));
    for receiver in &receivers[..2] {
        assert_eq!(whose(receiver), [seven.clone(), eight.clone()]);
    }
    let common = whose(&receivers[2]);
    assert_eq!(common.len(), 2);
    assert!(
        common.iter().all(|it| it.contains("service.name=it")),
        "{common:?}"
    );
    assert!(!common.iter().any(|it| it.contains("atlas")), "{common:?}");
}

#[test]
fn deltas_and_totals_go_side_by_side_to_whoever_wants_which() {
    let (delta, total) = (Receiver::healthy(), Receiver::healthy());
    let telemetry = start(
        vec![
            pushed("delta", &delta, "/v1/metrics", Temporality::Delta),
            pushed("total", &total, "/v1/metrics", Temporality::Cumulative),
        ],
        Duration::from_millis(100),
    );
    record(&telemetry);
    delta.wait_for(1, SOON);
    record(&telemetry);
    let seen = delta.received().len();
    delta.wait_for(seen + 1, SOON);
    record(&telemetry);
    telemetry.shutdown(SOON).blocking_recv().unwrap();

    let all = |receiver: &Receiver| {
        let requests = receiver.received();
        let requests = requests.iter().map(|request| series(&decoded(request)));
        requests.collect::<Vec<_>>()
    };
    let deltas: Vec<Series> = all(&delta).into_iter().flatten().collect();
    let totals = all(&total).pop().unwrap();
    for (name, attributes, expected) in [
        (metric::COST, "", 0.75),
        (metric::TOKEN_USAGE, "type=output", 180.0),
        (metric::EXECUTE_TOOL_DURATION, "", 7.5),
        (metric::ERRORS, "error.type=tool_error", 3.0),
        // The third sample of the same counter adds nothing.
        (metric::PROCESS_CPU_TIME, "", 1.25),
    ] {
        assert_eq!(sum(&deltas, name, attributes), expected, "{name}, delta");
        assert_eq!(sum(&totals, name, attributes), expected, "{name}, total");
    }
    let of_counters = deltas.iter().filter(|it| it.kind == "counter");
    assert!(
        of_counters
            .into_iter()
            .all(|it| it.temporality == Some(DELTA))
    );
    // A level is what it is, in either.
    let level = deltas
        .iter()
        .filter(|it| it.metric == metric::PROCESS_MEMORY_USAGE);
    for it in level {
        assert_eq!((it.value, it.temporality), (4_096.0, Some(CUMULATIVE)));
    }
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// What a plain client is answered.
fn ask(address: SocketAddr, request: &str) -> io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(SOON))?;
    connection.write_all(request.as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

const SCRAPE: &str = "GET /metrics HTTP/1.1\r\nHost: sandbox\r\nAccept: */*\r\n\r\n";

/// The page's samples, by name and labels.
fn samples(answer: &str) -> BTreeMap<String, f64> {
    let (_, page) = answer.split_once("\r\n\r\n").unwrap();
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let split = lines.map(|line| line.rsplit_once(' ').unwrap());
    split
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[test]
fn prometheus_scrapes_what_is_so_far_until_the_run_is_over() {
    let address = free_address();
    let telemetry = start(
        vec![Destination::Prometheus(address)],
        Duration::from_secs(3_600),
    );
    assert_eq!(telemetry.troubles(), [] as [&str; 0]);
    record(&telemetry);
    let page = poll("the spans on the page", || {
        let page = samples(&ask(address, SCRAPE).unwrap());
        page.contains_key("process_memory_usage_bytes")
            .then_some(page)
    });
    for (name, value) in [
        (
            "target_info{service_instance_id=\"instance-7\",service_name=\"it\"}",
            1.0,
        ),
        (
            "sandtrace_cost_USD_total{gen_ai_request_model=\"claude-opus-5-5\",user_id=\"ada\"}",
            0.25,
        ),
        (
            "gen_ai_client_token_usage_sum{gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"anthropic\",gen_ai_request_model=\"claude-opus-5-5\",gen_ai_token_type=\"input\"}",
            4_312.0,
        ),
        ("sandtrace_runs_total{sandtrace_outcome=\"success\"}", 1.0),
        ("process_cpu_time_seconds_total", 1.25),
        ("system_cpu_utilization_ratio", 0.5),
    ] {
        assert_eq!(page.get(name), Some(&value), "{name} in {page:#?}");
    }
    // Asking does not use anything up.
    assert_eq!(samples(&ask(address, SCRAPE).unwrap()), page);

    let head = ask(address, "HEAD /metrics?x=1 HTTP/1.1\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
        ("GET /metrics/../secrets HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
        ("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "),
        ("nonsense\r\n\r\n", "HTTP/1.1 405 "),
    ] {
        let answer = ask(address, request).unwrap();
        assert!(answer.starts_with(status), "{request:?}: {answer}");
    }
    telemetry.shutdown(SOON).blocking_recv().unwrap();
    poll("the page is gone", || {
        ask(address, SCRAPE).is_err().then_some(())
    });
}

#[test]
fn those_who_hold_the_page_without_asking_delay_only_each_other() {
    let address = free_address();
    let receiver = Receiver::healthy();
    let telemetry = start(
        vec![
            Destination::Prometheus(address),
            pushed("otlp", &receiver, "/v1/metrics", Temporality::Cumulative),
        ],
        Duration::from_millis(100),
    );
    record(&telemetry);
    let mut idle: Vec<_> = (0..8)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let mut flood = TcpStream::connect(address).unwrap();
    // It waits for its turn, and nobody else for it.
    flood.write_all(SCRAPE.as_bytes()).unwrap();
    flood
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    assert!(flood.read(&mut [0; 1]).is_err());
    let seen = receiver.received().len();
    receiver.wait_for(seen + 2, SOON);
    drop(idle.pop());
    flood.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = String::new();
    flood.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    // A request without an end is no reason to keep anything.
    let mut endless = idle.pop().unwrap();
    let garbage = [b'x'; 16 << 10];
    let refused =
        endless.write_all(&garbage).is_err() || matches!(endless.read(&mut [0; 1]), Ok(0) | Err(_));
    assert!(refused);
    telemetry.shutdown(SOON).blocking_recv().unwrap();
}

#[test]
fn a_port_in_use_is_told_at_once_and_costs_only_the_page() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let also_taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let another = also_taken.local_addr().unwrap();
    let receiver = Receiver::healthy();
    let telemetry = start(
        vec![
            Destination::Prometheus(address),
            Destination::Prometheus(another),
            pushed("otlp", &receiver, "/v1/metrics", Temporality::Cumulative),
        ],
        Duration::from_secs(3_600),
    );
    let troubles = telemetry.troubles();
    assert_eq!(troubles.len(), 2);
    for (trouble, address) in troubles.iter().zip([address, another]) {
        assert!(trouble.contains(&address.to_string()), "{trouble}");
        assert!(trouble.contains("PROMETHEUS_EXPORTER_PORT"), "{trouble}");
    }
    record(&telemetry);
    telemetry.shutdown(SOON).blocking_recv().unwrap();
    assert_eq!(receiver.received().len(), 1);
}
