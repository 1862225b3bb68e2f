use std::time::Duration;

use super::*;
use crate::telemetry::destination::{Batching, OtlpDestination, Protocol, Temporality};

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

pub(super) fn read(variables: &[(&str, &str)]) -> Result<Vec<Destination>, DestinationError> {
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
        Destination::Host(signals) => ("host", letters(*signals)),
    };
    read(variables).unwrap().iter().map(of).collect()
}

pub(super) const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
pub(super) const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

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
            // The page is the agent's: see below.
            vec![base, ("OTEL_METRICS_EXPORTER", "prometheus,console")],
            vec![("otlp", "tl"), ("console", "m")],
        ),
        (
            vec![
                ("OTEL_TRACES_EXPORTER", "jaeger"),
                ("OTEL_LOGS_EXPORTER", "host"),
            ],
            vec![("jaeger", "t"), ("host", "l")],
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
                ("host", "tml"),
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
    for value in ["otlp,zipkin", "otlp/stdout"] {
        let message = read(&[("OTEL_EXPORTERS", value)]).unwrap_err().to_string();
        assert!(
            message.contains("OTEL_EXPORTERS") && message.contains("otlp, console"),
            "{message}"
        );
    }
}

/// OpenTelemetry's variables are as often written for the agent's SDK, which may know more names than we do.
#[test]
fn an_unknown_name_for_one_signal_is_told_and_passed_over() {
    for (variable, value, expected) in [
        (
            "OTEL_TRACES_EXPORTER",
            "otlp/stdout,Console",
            vec![("console", "t")],
        ),
        ("OTEL_METRICS_EXPORTER", "mine,none", vec![]),
        ("OTEL_LOGS_EXPORTER", "mine", vec![]),
    ] {
        let found = chosen(&[(variable, value)]);
        let found: Vec<_> = found
            .iter()
            .map(|(name, of)| (*name, of.as_str()))
            .collect();
        assert_eq!(found, expected, "{variable}={value}");
        let told = wanted(&[(variable, value)]).unwrap().unsupported;
        let [told] = told.as_slice() else {
            panic!("{told:?}");
        };
        let message = told.to_string();
        let word = value.split(',').next().unwrap();
        for part in [variable, word, "otlp, console"] {
            assert!(message.contains(part), "{message}");
        }
    }
    // With nothing else in it the variable counts as unset.
    for (value, expected) in [("mine", "tml"), ("mine,none", "ml"), ("mine,zipkin", "ml")] {
        let found = chosen(&[("OTEL_TRACES_EXPORTER", value), (BASE, "http://h")]);
        assert_eq!(found, [("otlp", expected.to_owned())], "{value}");
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
fn the_page_that_the_variable_of_the_metrics_names_is_the_agent_s() {
    let variable = ("OTEL_METRICS_EXPORTER", "otlp,Prometheus");
    let told = |wanted: &Wanted| {
        let told = wanted.unsupported.iter().map(ToString::to_string);
        told.collect::<Vec<_>>()
    };
    let without_push = wanted(&[variable]).unwrap();
    assert!(
        matches!(without_push.destinations.as_slice(), [Destination::Otlp(otlp)] if otlp.name == "otlp"),
        "{without_push:?}"
    );
    let [message] = &told(&without_push)[..] else {
        panic!("{without_push:?}");
    };
    for word in ["OTEL_METRICS_EXPORTER", "OTEL_EXPORTERS", "the agent"] {
        assert!(message.contains(word), "{message}");
    }
    // No agent reads this one, and pushing takes no port.
    let push = ("PROMETHEUS_OTLP_ENDPOINT", "http://prom:9090");
    let found = chosen(&[("OTEL_METRICS_EXPORTER", "prometheus"), push]);
    assert_eq!(found, [("prometheus-push", "m".to_owned())]);
    // One word for all signals says it for us.
    let ours = wanted(&[("OTEL_EXPORTERS", "prometheus"), variable]).unwrap();
    assert!(matches!(
        ours.destinations[..],
        [Destination::Prometheus(_)]
    ));
    assert_eq!(ours.unsupported, []);
}

#[test]
fn an_exporter_that_only_an_agent_s_sdk_knows_stops_no_run() {
    for name in ["otlp_proto_http", "OTLP_PROTO_GRPC", "zipkin_json"] {
        let wanted = wanted(&[("OTEL_TRACES_EXPORTER", name)]).unwrap();
        assert_eq!(wanted.destinations, [], "{name}");
        assert_eq!(wanted.unsupported.len(), 1, "{name}");
    }
}

#[test]
fn batches_follow_the_batch_processors_variables() {
    let read = |variables: &[(&str, &str)]| batching(&looked_up(variables));
    assert_eq!(
        read(&[]),
        Ok(Batching {
            delay: Duration::from_secs(5),
            max_spans: 512,
            log_delay: Duration::from_secs(5),
            max_logs: 512,
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
            max_spans: 10,
            log_delay: Duration::from_millis(200),
            max_logs: 10,
        })
    );
    let logs = [
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "30"),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "1000"),
    ];
    assert_eq!(
        read(&logs),
        Ok(Batching {
            delay: Duration::from_millis(200),
            max_spans: 512,
            log_delay: Duration::from_millis(30),
            max_logs: 512,
        })
    );
    let logs = [("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "7")];
    assert_eq!(read(&logs).unwrap().max_logs, 7);
    // These mean nothing to queues that are bounded by bytes, whatever they hold.
    for variable in [
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "OTEL_BSP_EXPORT_TIMEOUT",
        "OTEL_BLRP_MAX_QUEUE_SIZE",
        "OTEL_BLRP_EXPORT_TIMEOUT",
    ] {
        assert_eq!(read(&[(variable, "soon")]), read(&[]), "{variable}");
    }
    assert_eq!(
        read(&[("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "9000")])
            .unwrap()
            .max_spans,
        512
    );
    for variable in ["OTEL_BSP_SCHEDULE_DELAY", "OTEL_BLRP_SCHEDULE_DELAY"] {
        assert!(read(&[(variable, "soon")]).is_err(), "{variable}");
    }
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

#[test]
fn every_destination_is_told_in_the_conventions_opted_in_to() {
    for (word, semconv) in [
        ("http", Semconv::V1_41),
        ("gen_ai_latest_experimental", Semconv::Latest),
    ] {
        let chosen = [
            ("OTEL_EXPORTERS", "otlp,phoenix"),
            ("OTEL_SEMCONV_STABILITY_OPT_IN", word),
        ];
        let all = read(&chosen).unwrap();
        assert_eq!(all.len(), 2);
        for destination in all {
            let Destination::Otlp(otlp) = destination else {
                panic!("{destination:?}");
            };
            assert_eq!(otlp.semconv, semconv, "{}", otlp.name);
        }
    }
}
