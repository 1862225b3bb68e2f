//! What one backend is given, no other ever sees.

use std::cell::RefCell;

use super::super::super::tests::looked_up;
use super::*;
use crate::telemetry::destination::Destination;
use crate::telemetry::secrets::is_exporter_secret;

/// Everything at once, each with a key of its own.
fn everything() -> Vec<(&'static str, &'static str)> {
    let mut all = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=hunter2-otlp,x-otlp=hunter2-otlp",
        ),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/otlp.pem"),
        ("JAEGER_OTLP_HEADERS", "x-proxy=hunter2-jaeger"),
        ("PROMETHEUS_OTLP_HEADERS", "x-proxy=hunter2-prometheus"),
        (
            "OTEL_EXPORTERS",
            "otlp,langfuse,sigNoz,PHOENIX,honeycomb,datadog,braintrust,grafana,logfire,langsmith,traceloop,jaeger,prometheus-push",
        ),
    ];
    all.extend(BACKENDS.iter().flat_map(|backend| needed(backend.name)));
    all
}

#[test]
fn the_secrets_of_one_never_reach_another() {
    let all = everything();
    let together = wanted(&all).unwrap().destinations;
    assert_eq!(together.len(), 1 + BACKENDS.len());
    let mut keys = BTreeSet::new();
    for destination in &together {
        let Destination::Otlp(destination) = destination else {
            panic!("{destination:?}");
        };
        // As it would be all alone: nothing of the others has any influence on it.
        let name = destination.name;
        let own: Vec<_> = match name {
            "otlp" => all
                .iter()
                .copied()
                .filter(|(key, _)| key.starts_with("OTEL_EXPORTER_OTLP"))
                .collect(),
            "jaeger" | "prometheus-push" => {
                let prefix = if name == "jaeger" {
                    "JAEGER"
                } else {
                    "PROMETHEUS"
                };
                all.iter()
                    .copied()
                    .filter(|(key, _)| key.starts_with(prefix))
                    .collect()
            }
            name => needed(name),
        };
        let mut alone = own;
        alone.push(("OTEL_EXPORTERS", name));
        let alone = only(&alone);
        assert_eq!(**destination, alone, "{name}");
        assert_eq!(routes(destination), routes(&alone), "{name}");
        let mine: BTreeSet<_> = destination
            .routes
            .iter()
            .flat_map(|route| route.headers.values())
            .filter(|value| value.is_sensitive())
            .map(|value| value.to_str().unwrap().to_owned())
            .collect();
        assert!(!mine.is_empty(), "{name} has a secret");
        for secret in mine {
            assert!(
                !name.is_empty() && keys.insert((secret.clone(), name)),
                "{secret}"
            );
            let others = keys
                .iter()
                .filter(|(key, owner)| *key == secret && *owner != name);
            assert_eq!(others.count(), 0, "{name} sends the secret of another");
        }
    }
}

#[test]
fn a_backend_reads_only_its_own_variables() {
    for backend in BACKENDS {
        let read = RefCell::new(BTreeSet::new());
        let all = everything();
        let values = looked_up(&all);
        let lookup = |name: &str| {
            read.borrow_mut().insert(name.to_owned());
            values(name)
        };
        backend
            .destination(&lookup, Signals::ALL, "OTEL_EXPORTERS")
            .unwrap();
        let prefix = |name: &str| name.split('_').next().unwrap_or_default().to_owned();
        let aliases: BTreeSet<String> = match backend.name {
            "datadog" => ["DATADOG", "DD"].map(str::to_owned).into(),
            "langsmith" => ["LANGSMITH", "LANGCHAIN"].map(str::to_owned).into(),
            _ => [prefix(backend.own.endpoint)].into(),
        };
        for name in read.into_inner() {
            let wish = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
            assert!(
                aliases.contains(&prefix(&name)) || name == wish,
                "{} reads {name}",
                backend.name
            );
        }
    }
}

#[test]
fn no_debug_output_and_no_error_shows_a_secret() {
    let all = everything();
    let shown = format!("{:?}", wanted(&all).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
    let encoded = STANDARD.encode("pk-lf-hunter2:sk-lf-hunter2");
    assert!(!shown.contains(&encoded), "{shown}");
    for destination in wanted(&all).unwrap().destinations {
        let Destination::Otlp(destination) = destination else {
            continue;
        };
        for route in &destination.routes {
            let shown = format!("{:?}", route.headers);
            assert!(
                !shown.contains("hunter2") && !shown.contains(&encoded),
                "{shown}"
            );
        }
    }
}

#[test]
fn the_agent_never_sees_a_key_of_the_table() {
    for backend in BACKENDS {
        let secrets = backend.secrets();
        assert!(!secrets.is_empty(), "{}", backend.name);
        for name in secrets {
            assert!(is_exporter_secret(name), "{name} of {}", backend.name);
        }
    }
}
