use std::time::Duration;

use super::*;
use crate::telemetry::destination::{
    Batching, Compression, OtlpDestination, Protocol, Route, Temporality,
};

/// A lookup of nothing but these.
pub(super) fn looked_up(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    move |name| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    }
}

const SPANS: Signals = Signals {
    traces: true,
    metrics: false,
    logs: false,
};

fn read(variables: &[(&str, &str)]) -> Result<Vec<Destination>, DestinationError> {
    wanted(variables).map(|wanted| wanted.destinations)
}

pub(super) fn wanted(variables: &[(&str, &str)]) -> Result<Wanted, DestinationError> {
    from_env(&looked_up(variables))
}

/// The only destination there is.
pub(super) fn only(variables: &[(&str, &str)]) -> OtlpDestination {
    match read(variables).unwrap().as_slice() {
        [Destination::Otlp(destination)] => (**destination).clone(),
        other => panic!("{other:?}"),
    }
}

/// The way for spans of the only destination there is.
fn read_otlp(variables: &[(&str, &str)]) -> Route {
    let found = only(variables).routes.into_iter();
    let mut spans = found.filter(|route| route.signal == Signal::Traces);
    spans.next().unwrap()
}

/// Names with what each is to take, in order.
fn chosen(variables: &[(&str, &str)]) -> Vec<(&'static str, String)> {
    let letters = |signals: Signals| {
        let all = [
            (signals.traces, 't'),
            (signals.metrics, 'm'),
            (signals.logs, 'l'),
        ];
        all.iter()
            .filter_map(|(has, letter)| has.then_some(*letter))
            .collect::<String>()
    };
    let of = |destination: &Destination| match destination {
        Destination::Otlp(otlp) => {
            let routes = otlp.routes.iter();
            let signals = routes.fold(Signals::default(), |signals, route| {
                signals.and(Signals::of(route.signal))
            });
            (otlp.name, letters(signals))
        }
        Destination::Console(signals) => ("console", letters(*signals)),
        Destination::File => ("file", String::new()),
        Destination::Prometheus(address) => ("prometheus", address.to_string()),
        Destination::Host => ("host", String::new()),
    };
    read(variables).unwrap().iter().map(of).collect()
}

const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

#[test]
fn without_an_endpoint_or_a_name_there_is_no_destination() {
    assert_eq!(read(&[]), Ok(vec![]));
    let none_of_three = [
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_LOGS_EXPORTER", "none"),
        (BASE, "http://h"),
    ];
    assert_eq!(read(&none_of_three), Ok(vec![]));
    assert_eq!(read(&[("OTEL_EXPORTERS", " , ")]), Ok(vec![]));
}

#[test]
fn the_switches_turn_everything_off() {
    for (switch, value) in [("OTEL_SDK_DISABLED", "True"), ("OTEL_ENABLED", "false")] {
        assert_eq!(
            read(&[(switch, value), (BASE, "http://h")]),
            Ok(vec![]),
            "{switch}"
        );
    }
    for (switch, value) in [("OTEL_SDK_DISABLED", "1"), ("OTEL_ENABLED", "true")] {
        assert_eq!(
            read(&[(switch, value), (BASE, "http://h")]).unwrap().len(),
            1,
            "{switch}"
        );
    }
}

#[test]
fn names_are_read_in_any_case_and_once_each() {
    let found = read(&[
        ("OTEL_EXPORTERS", "Console,OTLP, file,console"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
    ])
    .unwrap();
    assert!(matches!(
        found.as_slice(),
        [
            Destination::Console(Signals::ALL),
            Destination::Otlp(_),
            Destination::File
        ]
    ));
    let found = read(&[("OTEL_TRACES_EXPORTER", "console")]).unwrap();
    assert_eq!(found, [Destination::Console(SPANS)]);
}

#[test]
fn each_signal_goes_where_its_variable_says_or_where_an_address_is() {
    let base = (BASE, "http://h");
    for (set, expected) in [
        (vec![base], vec![("otlp", "tml")]),
        (vec![(TRACES, "http://h/x")], vec![("otlp", "t")]),
        (
            vec![("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://h/x")],
            vec![("otlp", "l")],
        ),
        (vec![("OTEL_EXPORTERS", "otlp")], vec![("otlp", "tml")]),
        (
            vec![("OTEL_EXPORTERS", "otlp"), base],
            vec![("otlp", "tml")],
        ),
        // Nobody listens where no address was given.
        (
            vec![("OTEL_EXPORTERS", "otlp"), (TRACES, "http://h/x")],
            vec![("otlp", "t")],
        ),
        (
            vec![("OTEL_METRICS_EXPORTER", "otlp"), (TRACES, "http://h/x")],
            vec![("otlp", "tm")],
        ),
        (
            vec![("OTEL_TRACES_EXPORTER", "none"), base],
            vec![("otlp", "ml")],
        ),
        (
            vec![
                ("OTEL_TRACES_EXPORTER", "otlp"),
                ("OTEL_METRICS_EXPORTER", "NONE"),
            ],
            vec![("otlp", "t")],
        ),
        (
            vec![
                base,
                ("OTEL_METRICS_EXPORTER", "none"),
                ("OTEL_LOGS_EXPORTER", "console"),
            ],
            vec![("otlp", "t"), ("console", "l")],
        ),
        (
            vec![base, ("OTEL_METRICS_EXPORTER", "prometheus,console")],
            vec![
                ("otlp", "tl"),
                ("prometheus", "127.0.0.1:9464"),
                ("console", "m"),
            ],
        ),
        (
            vec![
                ("OTEL_TRACES_EXPORTER", "jaeger"),
                ("OTEL_LOGS_EXPORTER", "host"),
            ],
            vec![("jaeger", "t"), ("host", "")],
        ),
        // One word for all signals beats the three.
        (
            vec![
                ("OTEL_EXPORTERS", "none"),
                base,
                ("OTEL_TRACES_EXPORTER", "console"),
            ],
            vec![],
        ),
        (
            vec![("OTEL_EXPORTERS", "host,Prometheus,CONSOLE"), base],
            vec![
                ("host", ""),
                ("prometheus", "127.0.0.1:9464"),
                ("console", "tml"),
            ],
        ),
    ] {
        let found = chosen(&set);
        let found: Vec<_> = found
            .iter()
            .map(|(name, of)| (*name, of.as_str()))
            .collect();
        assert_eq!(found, expected, "{set:?}");
    }
}

#[test]
fn the_page_of_metrics_is_served_where_the_variables_say() {
    for (set, expected) in [
        (vec![], "127.0.0.1:9464"),
        (
            vec![("OTEL_EXPORTER_PROMETHEUS_PORT", "9000")],
            "127.0.0.1:9000",
        ),
        (
            vec![
                ("OTEL_EXPORTER_PROMETHEUS_PORT", "9000"),
                ("PROMETHEUS_EXPORTER_PORT", "9100"),
            ],
            "127.0.0.1:9100",
        ),
        (
            vec![("OTEL_EXPORTER_PROMETHEUS_HOST", "0.0.0.0")],
            "0.0.0.0:9464",
        ),
        (
            vec![("OTEL_EXPORTER_PROMETHEUS_HOST", "LocalHost")],
            "127.0.0.1:9464",
        ),
        (vec![("OTEL_EXPORTER_PROMETHEUS_HOST", "[::]")], "[::]:9464"),
    ] {
        let mut all = set.clone();
        all.push(("OTEL_EXPORTERS", "prometheus"));
        assert_eq!(
            chosen(&all),
            [("prometheus", expected.to_owned())],
            "{set:?}"
        );
    }
    for (variable, value) in [
        ("PROMETHEUS_EXPORTER_PORT", "0"),
        ("PROMETHEUS_EXPORTER_PORT", "65536"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "http"),
        ("OTEL_EXPORTER_PROMETHEUS_HOST", "metrics.example"),
    ] {
        let all = [("OTEL_EXPORTERS", "prometheus"), (variable, value)];
        let message = read(&all).unwrap_err().to_string();
        assert!(message.contains(variable), "{message}");
    }
}

#[test]
fn metrics_are_pushed_to_prometheus_too_where_it_says_where_it_receives() {
    let push = ("PROMETHEUS_OTLP_ENDPOINT", "http://prom:9090");
    for (chooser, name) in [
        ("OTEL_EXPORTERS", "prometheus"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_EXPORTERS", "prometheus,prometheus-push,prometheus"),
    ] {
        let found = chosen(&[(chooser, name), push]);
        let expected = [
            ("prometheus", "127.0.0.1:9464".to_owned()),
            ("prometheus-push", "m".to_owned()),
        ];
        assert_eq!(found, expected, "{chooser}={name}");
    }
    // The wish for deltas is another backend's.
    let preference = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
    let alone = only(&[
        ("OTEL_EXPORTERS", "prometheus-push"),
        push,
        (preference, "delta"),
    ]);
    assert_eq!(alone.temporality, Temporality::Cumulative);
    let route = &alone.routes[0];
    assert_eq!(
        route.endpoint.to_string(),
        "http://prom:9090/api/v1/otlp/v1/metrics"
    );
    assert_eq!(route.protocol, Protocol::HttpProtobuf);
}

#[test]
fn an_unknown_name_is_an_error_that_lists_the_known_ones() {
    for (variable, value) in [
        ("OTEL_EXPORTERS", "otlp,zipkin"),
        ("OTEL_TRACES_EXPORTER", "otlp/stdout"),
    ] {
        let message = read(&[(variable, value)]).unwrap_err().to_string();
        assert!(
            message.contains(variable) && message.contains("otlp, console"),
            "{message}"
        );
    }
}

#[test]
fn a_base_address_gets_the_path_for_traces_and_a_full_one_is_kept() {
    for (variable, address, expected) in [
        (BASE, "http://h:4318", "http://h:4318/v1/traces"),
        (BASE, "http://h:4318/", "http://h:4318/v1/traces"),
        (BASE, "https://h/otlp/", "https://h/otlp/v1/traces"),
        (BASE, "https://h/otlp/v1/traces", "https://h/otlp/v1/traces"),
        (
            BASE,
            "https://h/otlp?tenant=a",
            "https://h/otlp/v1/traces?tenant=a",
        ),
        (TRACES, "http://h/own", "http://h/own"),
        (TRACES, "http://h", "http://h/"),
        (BASE, "http://[::1]:4318", "http://[::1]:4318/v1/traces"),
    ] {
        assert_eq!(
            read_otlp(&[(variable, address)]).endpoint.to_string(),
            expected,
            "{address}"
        );
    }
    let both = read_otlp(&[(BASE, "http://base"), (TRACES, "http://own/x")]);
    assert_eq!(both.endpoint.to_string(), "http://own/x");
    let named = read_otlp(&[("OTEL_EXPORTERS", "otlp")]);
    assert_eq!(
        named.endpoint.to_string(),
        "http://localhost:4318/v1/traces"
    );
}

#[test]
fn every_signal_gets_its_path_below_a_base_address() {
    for base in ["http://h/a", "http://h/a/v1/traces", "http://h/a/v1/logs/"] {
        let routes = only(&[(BASE, base), (TRACES, "http://own/x")]).routes;
        let found: Vec<_> = routes
            .iter()
            .map(|route| route.endpoint.to_string())
            .collect();
        let expected = [
            "http://own/x",
            "http://h/a/v1/metrics",
            "http://h/a/v1/logs",
        ];
        assert_eq!(found, expected, "{base}");
    }
}

#[test]
fn grpc_connects_to_a_host_and_knows_no_paths() {
    let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "True");
    let secure_traces = ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "false");
    for (set, expected) in [
        (vec![("OTEL_EXPORTERS", "otlp")], "http://localhost:4317/"),
        (vec![(BASE, "http://h:4317")], "http://h:4317/"),
        (vec![(BASE, "https://h/v1/traces")], "https://h/"),
        (vec![(TRACES, "http://h:1/v1/traces")], "http://h:1/"),
        (vec![(BASE, "h:4317")], "https://h:4317/"),
        (vec![(BASE, "h:1"), insecure], "http://h:1/"),
        (vec![(BASE, "h"), insecure], "http://h:4317/"),
        (vec![(BASE, "[::1]"), insecure], "http://[::1]:4317/"),
        (vec![(BASE, "h:1"), insecure, secure_traces], "https://h:1/"),
        // The scheme wins.
        (vec![(BASE, "https://h:1"), insecure], "https://h:1/"),
    ] {
        let mut all = set.clone();
        all.push(("OTEL_EXPORTER_OTLP_PROTOCOL", "GRPC"));
        let route = read_otlp(&all);
        assert_eq!(route.protocol, Protocol::Grpc);
        assert_eq!(route.endpoint.to_string(), expected, "{set:?}");
    }
    for address in [
        "unix:///socket",
        "dns:///h:4317",
        "http://u:secret@h",
        "h:99999",
    ] {
        let all = [(BASE, address), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
        let error = read(&all).unwrap_err();
        assert!(
            matches!(error, DestinationError::Endpoint { .. }),
            "{address}"
        );
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}

#[test]
fn signals_may_speak_different_protocols_to_different_places() {
    let routes = only(&[
        (BASE, "http://h:4318"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://m:4317"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "x-logs=1"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-all=1"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "7"),
    ])
    .routes;
    let found: Vec<_> = routes
        .iter()
        .map(|route| (route.endpoint.to_string(), route.protocol))
        .collect();
    let expected = [
        ("http://h:4318/v1/traces".to_owned(), Protocol::HttpProtobuf),
        ("http://m:4317/".to_owned(), Protocol::Grpc),
        ("http://h:4318/v1/logs".to_owned(), Protocol::HttpProtobuf),
    ];
    assert_eq!(found, expected);
    let names: Vec<_> = routes
        .iter()
        .map(|route| {
            route
                .headers
                .keys()
                .map(|key| key.as_str())
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(names, [["x-all"], ["x-all"], ["x-logs"]]);
    assert_eq!(routes[2].timeout, Duration::from_millis(7));
    assert_eq!(routes[1].timeout, Duration::from_secs(10));
}

#[test]
fn a_client_certificate_and_its_key_belong_together() {
    let certificate = ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/c.pem");
    let key = ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "/k.pem");
    let base = (BASE, "https://h");
    let found = read_otlp(&[(TRACES, "https://h/"), certificate, key]);
    assert_eq!(found.tls.identity, Some(("/c.pem".into(), "/k.pem".into())));
    for half in [certificate, key] {
        let message = read(&[base, half]).unwrap_err().to_string();
        assert!(
            message.contains(half.0) && message.contains("both or neither"),
            "{message}"
        );
    }
}

#[test]
fn counters_are_told_as_the_variable_asks() {
    let variable = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
    for (value, expected) in [
        ("", Temporality::Cumulative),
        ("Cumulative", Temporality::Cumulative),
        ("delta", Temporality::Delta),
        ("LOWMEMORY", Temporality::LowMemory),
    ] {
        let set = [(BASE, "http://h"), (variable, value)];
        // An empty value is an unset one, which the settings see to.
        let set = if value.is_empty() {
            &set[..1]
        } else {
            &set[..]
        };
        assert_eq!(only(set).temporality, expected, "{value:?}");
    }
    assert!(read(&[(BASE, "http://h"), (variable, "sometimes")]).is_err());
}

#[test]
fn an_unusable_address_is_an_error_that_does_not_repeat_it() {
    for address in [
        "localhost:4318",
        "ftp://h",
        "http://",
        "h",
        "http://a b",
        "http://u:secret@h",
        "http://h:99999",
        "/x",
    ] {
        let error = read(&[(BASE, address)]).unwrap_err();
        assert!(
            matches!(error, DestinationError::Endpoint { variable: BASE, .. }),
            "{address}: {error:?}"
        );
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}

#[test]
fn headers_are_decoded_and_framing_is_not_theirs() {
    let text = "Authorization=Basic%20YTpiYz09, x-plain=a=b==,, content-type=text/plain,x-pct=%zz";
    let found = read_otlp(&[(BASE, "http://h"), ("OTEL_EXPORTER_OTLP_HEADERS", text)]);
    assert_eq!(found.headers["authorization"], "Basic YTpiYz09");
    assert_eq!(found.headers["x-plain"], "a=b==");
    assert_eq!(found.headers["x-pct"], "%zz");
    assert_eq!(found.headers.len(), 3);
}

#[test]
fn the_values_of_headers_never_show() {
    let found = read_otlp(&[
        (TRACES, "http://h/?token=secret"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=secret"),
    ]);
    assert!(!format!("{found:?} {:?}", found.headers).contains("secret"));
    for text in ["secret", "a=1,bad name=secret", "a=secret%0a"] {
        let error = read(&[(BASE, "http://h"), ("OTEL_EXPORTER_OTLP_HEADERS", text)]).unwrap_err();
        assert!(
            matches!(error, DestinationError::Headers { .. }),
            "{error:?}"
        );
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}

#[test]
fn the_variables_for_traces_beat_those_for_every_signal() {
    let found = read_otlp(&[
        (BASE, "http://h"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "b=2"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/ca.pem"),
    ]);
    assert!(found.headers.contains_key("b") && !found.headers.contains_key("a"));
    assert_eq!(found.protocol, Protocol::HttpJson);
    assert_eq!(found.compression, Compression::Gzip);
    assert_eq!(found.timeout, Duration::from_millis(2500));
    assert_eq!(found.tls.authorities, Some("/ca.pem".into()));
}

#[test]
fn what_is_malformed_is_an_error_that_says_what_is_not() {
    for (variable, value, hint) in [
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "thrift",
            "http/protobuf, http/json or grpc",
        ),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "gzip or none"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "milliseconds"),
    ] {
        let message = read(&[(BASE, "http://h"), (variable, value)])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(variable) && message.contains(hint),
            "{message}"
        );
    }
}

#[test]
fn what_only_another_exporter_knows_is_off_and_told() {
    let foreign = wanted(&[
        ("OTEL_TRACES_EXPORTER", "zipkin,Console,zipkin"),
        ("OTEL_METRICS_EXPORTER", "langfuse"),
        ("OTEL_LOGS_EXPORTER", "logging,prometheus"),
    ])
    .unwrap();
    assert_eq!(foreign.destinations, [Destination::Console(SPANS)]);
    let told: Vec<_> = foreign
        .unsupported
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(told.len(), 4, "{told:?}");
    for (message, words) in told.iter().zip([
        ["OTEL_TRACES_EXPORTER", "zipkin"],
        ["OTEL_METRICS_EXPORTER", "no metrics"],
        ["OTEL_LOGS_EXPORTER", "logging"],
        ["OTEL_LOGS_EXPORTER", "no logs"],
    ]) {
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    let switched_off = wanted(&[
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_EXPORTERS", "langfuse"),
    ]);
    assert_eq!(switched_off, Ok(Wanted::default()));
}

#[test]
fn batches_follow_the_batch_processors_variables() {
    let read = |variables: &[(&str, &str)]| batching(&looked_up(variables));
    assert_eq!(
        read(&[]),
        Ok(Batching {
            delay: Duration::from_secs(5),
            max_spans: 512
        })
    );
    let set = [
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10"),
    ];
    assert_eq!(
        read(&set),
        Ok(Batching {
            delay: Duration::from_millis(200),
            max_spans: 10
        })
    );
    assert_eq!(
        read(&[("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "9000")])
            .unwrap()
            .max_spans,
        512
    );
    assert!(read(&[("OTEL_BSP_SCHEDULE_DELAY", "soon")]).is_err());
}

#[test]
fn metrics_are_told_as_often_as_the_variable_asks() {
    let read = |variables: &[(&str, &str)]| metric_interval(&looked_up(variables));
    assert_eq!(read(&[]), Ok(Duration::from_secs(10)));
    let variable = "OTEL_METRIC_EXPORT_INTERVAL";
    assert_eq!(read(&[(variable, "60000")]), Ok(Duration::from_mins(1)));
    for malformed in ["0", "1m", "-5"] {
        assert!(read(&[(variable, malformed)]).is_err(), "{malformed}");
    }
}
