use super::super::tests::{BASE, TRACES, only, read};
use super::*;

/// The way for spans of the only destination there is.
fn read_otlp(variables: &[(&str, &str)]) -> Route {
    let found = only(variables).routes.into_iter();
    let mut spans = found.filter(|route| route.signal == Signal::Traces);
    spans.next().unwrap()
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
