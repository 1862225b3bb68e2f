use std::collections::BTreeSet;

use opentelemetry_sdk::metrics::Temporality;

use super::super::tests::{only, wanted};
use super::*;
use crate::telemetry::destination::Compression;

mod isolation;

/// The least that a backend needs, with keys that are told apart.
fn needed(name: &str) -> Vec<(&'static str, &'static str)> {
    match name {
        "langfuse" => vec![
            ("LANGFUSE_PUBLIC_KEY", "pk-lf-hunter2"),
            ("LANGFUSE_SECRET_KEY", "sk-lf-hunter2"),
        ],
        "signoz" => vec![
            ("SIGNOZ_ENDPOINT", "ingest.eu.signoz.cloud:443"),
            ("SIGNOZ_INGESTION_KEY", "hunter2-signoz"),
        ],
        "phoenix" => vec![("PHOENIX_API_KEY", "hunter2-phoenix")],
        "honeycomb" => vec![("HONEYCOMB_API_KEY", "hunter2-honeycomb")],
        "datadog" => vec![("DD_API_KEY", "hunter2-datadog")],
        "braintrust" => vec![("BRAINTRUST_API_KEY", "hunter2-braintrust")],
        "grafana" => vec![
            ("GRAFANA_CLOUD_ZONE", "prod-eu-west-2"),
            ("GRAFANA_CLOUD_INSTANCE_ID", "123456"),
            ("GRAFANA_CLOUD_TOKEN", "glc_hunter2"),
        ],
        "logfire" => vec![("LOGFIRE_TOKEN", "pylf_v1_eu_hunter2")],
        "langsmith" => vec![("LANGSMITH_API_KEY", "hunter2-langsmith")],
        "traceloop" => vec![("TRACELOOP_API_KEY", "hunter2-traceloop")],
        "jaeger" | "prometheus-push" => vec![],
        other => panic!("what does {other} need?"),
    }
}

/// The destination of this name with what it needs and these on top.
fn with(name: &'static str, more: &[(&'static str, &'static str)]) -> OtlpDestination {
    let mut all = more.to_vec();
    all.push(("OTEL_EXPORTERS", name));
    all.extend(needed(name));
    only(&all)
}

fn error(variables: &[(&str, &str)]) -> String {
    wanted(variables).unwrap_err().to_string()
}

/// Each route as its address and, sorted, its headers.
fn routes(destination: &OtlpDestination) -> Vec<(String, Vec<String>)> {
    let routes = destination.routes.iter().map(|route| {
        let headers = route.headers.iter();
        let mut headers: Vec<_> = headers
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        headers.sort();
        (route.endpoint.to_string(), headers)
    });
    routes.collect()
}

#[test]
fn every_row_says_where_each_signal_goes_and_with_which_headers() {
    let bearer = |key| format!("authorization: Bearer {key}");
    let basic = |both: &str| format!("authorization: Basic {}", STANDARD.encode(both));
    let own = |text: &str| vec![text.to_owned()];
    let three = |base: &str, headers: Vec<String>| {
        ["traces", "metrics", "logs"]
            .map(|signal| (format!("{base}/v1/{signal}"), headers.clone()))
            .to_vec()
    };
    let spans = |base: &str, headers: Vec<String>| vec![(format!("{base}/v1/traces"), headers)];
    for backend in BACKENDS {
        let expected = match backend.name {
            "langfuse" => spans(
                "https://cloud.langfuse.com/api/public/otel",
                vec![
                    basic("pk-lf-hunter2:sk-lf-hunter2"),
                    "x-langfuse-ingestion-version: 4".to_owned(),
                ],
            ),
            "signoz" => three(
                "https://ingest.eu.signoz.cloud:443",
                own("signoz-ingestion-key: hunter2-signoz"),
            ),
            "phoenix" => spans("http://localhost:6006", vec![bearer("hunter2-phoenix")]),
            "honeycomb" => three(
                "https://api.honeycomb.io",
                own("x-honeycomb-team: hunter2-honeycomb"),
            ),
            "datadog" => {
                let mut all = three(
                    "https://otlp.datadoghq.com",
                    own("dd-api-key: hunter2-datadog"),
                );
                all[0].1.push("dd-otlp-source: llmobs".to_owned());
                all
            }
            "braintrust" => spans(
                "https://api.braintrust.dev/otel",
                vec![
                    bearer("hunter2-braintrust"),
                    "x-bt-parent: project_name:default-otel-project".to_owned(),
                ],
            ),
            "grafana" => three(
                "https://otlp-gateway-prod-eu-west-2.grafana.net/otlp",
                vec![basic("123456:glc_hunter2")],
            ),
            "logfire" => three(
                "https://logfire-eu.pydantic.dev",
                own("authorization: pylf_v1_eu_hunter2"),
            ),
            "langsmith" => spans(
                "https://api.smith.langchain.com/otel",
                own("x-api-key: hunter2-langsmith"),
            ),
            "traceloop" => {
                let mut all = three(
                    "https://api.traceloop.com",
                    vec![bearer("hunter2-traceloop")],
                );
                all.truncate(2);
                all
            }
            "jaeger" => spans("http://localhost:4318", vec![]),
            "prometheus-push" => vec![(
                "http://localhost:9090/api/v1/otlp/v1/metrics".to_owned(),
                vec![],
            )],
            other => panic!("what does {other} expect?"),
        };
        let found = with(backend.name, &[]);
        assert_eq!(found.name, backend.name);
        assert_eq!(routes(&found), expected, "{}", backend.name);
        for route in &found.routes {
            assert_eq!(route.protocol, Protocol::HttpProtobuf, "{}", backend.name);
            assert_eq!(route.compression, backend.compression);
        }
    }
}

#[test]
fn an_address_works_with_and_without_what_follows_the_site() {
    let langfuse = "https://lf.example/api/public/otel/v1/traces";
    for (name, variable, address, expected) in [
        ("langfuse", "LANGFUSE_HOST", "https://lf.example", langfuse),
        ("langfuse", "LANGFUSE_HOST", "https://lf.example/", langfuse),
        ("langfuse", "LANGFUSE_BASE_URL", "lf.example", langfuse),
        ("langfuse", "LANGFUSE_HOST", langfuse, langfuse),
        (
            "langfuse",
            "LANGFUSE_HOST",
            "https://h/below",
            "https://h/below/api/public/otel/v1/traces",
        ),
        (
            "langfuse",
            "LANGFUSE_OTLP_ENDPOINT",
            "https://lf.example/api/public/otel",
            langfuse,
        ),
        ("langfuse", "LANGFUSE_OTLP_ENDPOINT", langfuse, langfuse),
        (
            "langfuse",
            "LANGFUSE_OTLP_ENDPOINT",
            "https://lf.example",
            langfuse,
        ),
        // An address for OTLP that has a path of its own is the user's word.
        (
            "langfuse",
            "LANGFUSE_OTLP_ENDPOINT",
            "http://gateway:8080/langfuse",
            "http://gateway:8080/langfuse/v1/traces",
        ),
        (
            "langfuse",
            "LANGFUSE_OTLP_ENDPOINT",
            "http://h/v1/traces?tenant=a",
            "http://h/v1/traces?tenant=a",
        ),
        (
            "signoz",
            "SIGNOZ_OTLP_ENDPOINT",
            "http://h:4318/v1/logs",
            "http://h:4318/v1/traces",
        ),
        (
            "signoz",
            "SIGNOZ_OTLP_ENDPOINT",
            "localhost:4318",
            "http://localhost:4318/v1/traces",
        ),
        (
            "phoenix",
            "PHOENIX_COLLECTOR_ENDPOINT",
            "https://app.phoenix.arize.com/s/space",
            "https://app.phoenix.arize.com/s/space/v1/traces",
        ),
        (
            "honeycomb",
            "HONEYCOMB_API_ENDPOINT",
            "https://api.eu1.honeycomb.io:443",
            "https://api.eu1.honeycomb.io:443/v1/traces",
        ),
        (
            "datadog",
            "DD_SITE",
            "us3.datadoghq.com",
            "https://otlp.us3.datadoghq.com/v1/traces",
        ),
        (
            "braintrust",
            "BRAINTRUST_API_URL",
            "https://bt/",
            "https://bt/otel/v1/traces",
        ),
        (
            "grafana",
            "GRAFANA_CLOUD_OTLP_ENDPOINT",
            "https://otlp-gateway-prod-us-east-0.grafana.net/otlp",
            "https://otlp-gateway-prod-us-east-0.grafana.net/otlp/v1/traces",
        ),
        (
            "logfire",
            "LOGFIRE_BASE_URL",
            "https://lf.own",
            "https://lf.own/v1/traces",
        ),
        (
            "langsmith",
            "LANGSMITH_ENDPOINT",
            "https://own.example/api/v1",
            "https://own.example/api/v1/otel/v1/traces",
        ),
        (
            "langsmith",
            "LANGSMITH_ENDPOINT",
            "https://eu.api.smith.langchain.com/otel/v1/traces",
            "https://eu.api.smith.langchain.com/otel/v1/traces",
        ),
        (
            "traceloop",
            "TRACELOOP_BASE_URL",
            "http://localhost:4318",
            "http://localhost:4318/v1/traces",
        ),
        (
            "jaeger",
            "JAEGER_OTLP_ENDPOINT",
            "http://jaeger:4318",
            "http://jaeger:4318/v1/traces",
        ),
        (
            "prometheus-push",
            "PROMETHEUS_OTLP_ENDPOINT",
            "http://prom:9090/api/v1/otlp/v1/metrics",
            "http://prom:9090/api/v1/otlp/v1/metrics",
        ),
    ] {
        let found = with(name, &[(variable, address)]);
        let found = found.routes[0].endpoint.to_string();
        assert_eq!(found, expected, "{variable}={address}");
    }
}

#[test]
fn the_address_for_otlp_beats_the_site() {
    let found = with(
        "signoz",
        &[
            ("SIGNOZ_OTLP_ENDPOINT", "http://otlp"),
            ("SIGNOZ_ENDPOINT", "http://site"),
        ],
    );
    assert_eq!(found.routes[0].endpoint.host(), Some("otlp"));
}

#[test]
fn the_region_is_in_the_token() {
    for (token, host) in [
        ("pylf_v1_us_abc", "logfire-us.pydantic.dev"),
        ("pylf_v1_eu_abc\n", "logfire-eu.pydantic.dev"),
        ("pylf_v1_evil.example/_abc", "logfire-us.pydantic.dev"),
        ("an-older-token", "logfire-us.pydantic.dev"),
    ] {
        let found = with("logfire", &[("LOGFIRE_TOKEN", token)]);
        assert_eq!(found.routes[0].endpoint.host(), Some(host), "{token}");
        assert_eq!(found.routes[0].headers["authorization"], token.trim());
    }
}

#[test]
fn what_a_backend_lacks_is_said_in_one_sentence_with_the_variable_to_set() {
    for backend in BACKENDS {
        let all = needed(backend.name);
        for (left_out, _) in &all {
            let mut rest: Vec<_> = all
                .iter()
                .copied()
                .filter(|(name, _)| name != left_out)
                .collect();
            rest.push(("OTEL_EXPORTERS", backend.name));
            let Err(error) = wanted(&rest) else {
                let spares = ["SIGNOZ_INGESTION_KEY", "PHOENIX_API_KEY"];
                assert!(spares.contains(left_out), "{left_out} is needed");
                continue;
            };
            let message = error.to_string();
            for word in ["OTEL_EXPORTERS", backend.name, *left_out, "set "] {
                assert!(message.contains(word), "no {word} in: {message}");
            }
            assert!(
                !format!("{message} {error:?}").contains("hunter2"),
                "{message}"
            );
        }
    }
    let none = error(&[("OTEL_EXPORTERS", "langfuse")]);
    assert_eq!(
        none,
        "OTEL_EXPORTERS names langfuse, which lacks its key: set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"
    );
    let blank = error(&[("OTEL_TRACES_EXPORTER", "datadog"), ("DD_API_KEY", " \n")]);
    assert!(
        blank.starts_with("OTEL_TRACES_EXPORTER names datadog"),
        "{blank}"
    );
}

#[test]
fn what_cannot_be_sent_is_refused_and_not_repeated() {
    for (name, variable, value) in [
        ("datadog", "DD_API_KEY", "hunter2\nx-evil: 1"),
        ("langfuse", "LANGFUSE_SECRET_KEY", "hunter2\u{7}"),
        ("braintrust", "BRAINTRUST_PARENT", "hunter2\u{0}"),
        ("datadog", "DD_SITE", "hunter2.example/path"),
        ("datadog", "DD_SITE", "u:hunter2@example"),
        ("grafana", "GRAFANA_CLOUD_ZONE", "hunter2.example/#"),
        ("signoz", "SIGNOZ_ENDPOINT", "https://u:hunter2@h"),
        ("phoenix", "PHOENIX_CLIENT_HEADERS", "hunter2"),
        ("jaeger", "JAEGER_OTLP_HEADERS", "a=hunter2%0a"),
    ] {
        let mut all = vec![("OTEL_EXPORTERS", name), (variable, value)];
        all.extend(needed(name));
        let error = wanted(&all).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(variable), "{message}");
        assert!(
            !format!("{message} {error:?}").contains("hunter2"),
            "{message}"
        );
    }
}

#[test]
fn a_backend_is_spoken_to_as_it_understands() {
    let words = [
        ("http/protobuf", Protocol::HttpProtobuf),
        ("http/json", Protocol::HttpJson),
        ("grpc", Protocol::Grpc),
    ];
    for backend in BACKENDS {
        for (word, protocol) in words {
            let mut all = vec![
                ("OTEL_EXPORTERS", backend.name),
                (backend.own.protocol, word),
            ];
            all.extend(needed(backend.name));
            let found = wanted(&all);
            if backend.speaks.has(protocol) {
                let found = only(&all);
                assert_eq!(found.routes[0].protocol, protocol, "{}", backend.name);
                if protocol == Protocol::Grpc {
                    assert_eq!(found.routes[0].endpoint.path(), "/", "{}", backend.name);
                }
            } else {
                let message = found.unwrap_err().to_string();
                assert!(message.contains(backend.own.protocol), "{message}");
                assert!(!message.ends_with(word), "{message}");
            }
        }
    }
    // Phoenix takes protobuf only, and gRPC on a port of its own; Langfuse has no gRPC.
    let grpc = with("phoenix", &[("PHOENIX_OTLP_PROTOCOL", "grpc")]);
    assert_eq!(
        grpc.routes[0].endpoint.to_string(),
        "http://localhost:4317/"
    );
    assert!(!PHOENIX_AND_LANGFUSE.iter().any(|(name, protocol)| {
        let row = BACKENDS.iter().find(|row| row.name == *name).unwrap();
        row.speaks.has(*protocol)
    }));
}

const PHOENIX_AND_LANGFUSE: [(&str, Protocol); 3] = [
    ("phoenix", Protocol::HttpJson),
    ("langfuse", Protocol::Grpc),
    ("datadog", Protocol::HttpJson),
];

#[test]
fn a_backend_has_its_own_compression_timeout_and_certificate() {
    for backend in BACKENDS {
        let mut all = vec![
            ("OTEL_EXPORTERS", backend.name),
            (backend.own.compression, "none"),
            (backend.own.timeout, "2500"),
            (backend.own.certificate, "/ca.pem"),
            (backend.own.headers, "x-proxy=1"),
        ];
        all.extend(needed(backend.name));
        for route in only(&all).routes {
            assert_eq!(route.compression, Compression::None, "{}", backend.name);
            assert_eq!(route.timeout.as_millis(), 2500, "{}", backend.name);
            assert_eq!(route.tls.authorities, Some("/ca.pem".into()));
            assert_eq!(route.headers["x-proxy"], "1", "{}", backend.name);
        }
    }
}

#[test]
fn headers_that_are_written_out_win_over_those_made_of_keys() {
    let written = only(&[
        ("OTEL_EXPORTERS", "langfuse"),
        (
            "LANGFUSE_OTLP_HEADERS",
            "Authorization=Basic%20abc,x-more=1",
        ),
    ]);
    let headers = &written.routes[0].headers;
    assert_eq!(headers["authorization"], "Basic abc");
    assert_eq!(headers["x-more"], "1");
    assert_eq!(headers["x-langfuse-ingestion-version"], "4");

    // As its client does: a list takes the place of the key, which is the vendor's and nobody else's.
    let elsewhere = [
        ("TRACELOOP_BASE_URL", "https://otlp.example"),
        ("TRACELOOP_HEADERS", "api-key=1"),
    ];
    let found = with("traceloop", &elsewhere);
    let names: Vec<_> = found.routes[0].headers.keys().collect();
    assert_eq!(names, ["api-key"]);
    let mut keyless = elsewhere[..1].to_vec();
    keyless.push(("OTEL_EXPORTERS", "traceloop"));
    assert!(only(&keyless).routes[0].headers.is_empty());
}

#[test]
fn vendors_own_variables_become_their_own_headers_and_attributes() {
    let honeycomb = with(
        "honeycomb",
        &[
            ("HONEYCOMB_METRICS_APIKEY", "metrics-key"),
            ("HONEYCOMB_METRICS_DATASET", "numbers"),
        ],
    );
    let found = routes(&honeycomb);
    assert_eq!(found[0].1, ["x-honeycomb-team: hunter2-honeycomb"]);
    assert_eq!(
        found[1].1,
        [
            "x-honeycomb-dataset: numbers",
            "x-honeycomb-team: metrics-key"
        ]
    );
    assert_eq!(found[2].1, ["x-honeycomb-team: hunter2-honeycomb"]);

    let langsmith = with(
        "langsmith",
        &[("LANGSMITH_PROJECT", "p"), ("LANGSMITH_WORKSPACE_ID", "w")],
    );
    assert_eq!(langsmith.routes[0].headers["langsmith-project"], "p");
    assert_eq!(langsmith.routes[0].headers["x-tenant-id"], "w");

    let project = [
        ("PHOENIX_PROJECT_NAME", "alias"),
        ("PHOENIX_PROJECT", "name"),
    ];
    let phoenix = with("phoenix", &project);
    let attribute = (Key::from("openinference.project.name"), Value::from("name"));
    assert_eq!(phoenix.resource, [attribute]);
    assert!(with("phoenix", &[]).resource.is_empty());

    let braintrust = with("braintrust", &[("BRAINTRUST_PARENT", "project_id:1")]);
    assert_eq!(braintrust.routes[0].headers["x-bt-parent"], "project_id:1");

    let signoz = with("signoz", &[("SIGNOZ_ACCESS_TOKEN", "older")]);
    assert_eq!(signoz.routes[0].headers["signoz-access-token"], "older");
}

#[test]
fn counters_are_told_as_the_backend_can_read_them() {
    let delta = ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta");
    for (name, usual, wished) in [
        ("signoz", Temporality::Cumulative, Temporality::Delta),
        ("honeycomb", Temporality::Cumulative, Temporality::Delta),
        ("datadog", Temporality::Delta, Temporality::Delta),
        ("grafana", Temporality::Cumulative, Temporality::Cumulative),
        (
            "prometheus-push",
            Temporality::Cumulative,
            Temporality::Cumulative,
        ),
    ] {
        assert_eq!(with(name, &[]).temporality, usual, "{name}");
        assert_eq!(with(name, &[delta]).temporality, wished, "{name}");
    }
}

#[test]
fn every_row_is_told_where_the_names_are_listed_and_has_a_name_of_its_own() {
    let message = error(&[("OTEL_EXPORTERS", "nobody")]);
    let mut names = BTreeSet::new();
    for backend in BACKENDS {
        assert!(message.contains(&format!("{},", backend.name)), "{message}");
        assert!(names.insert(backend.name), "{} twice", backend.name);
        assert_eq!(backend.name, backend.name.to_ascii_lowercase());
        for header in backend.headers {
            assert_eq!(header.name, header.name.to_ascii_lowercase());
        }
    }
}
