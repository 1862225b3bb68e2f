use super::*;

const SPANS: Signals = Signals {
    traces: true,
    metrics: false,
    logs: false,
};

fn read(variables: &[(&str, &str)]) -> Result<Vec<Destination>, DestinationError> {
    wanted(variables).map(|wanted| wanted.destinations)
}

fn wanted(variables: &[(&str, &str)]) -> Result<Wanted, DestinationError> {
    from_env(&|name| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    })
}

fn read_otlp(variables: &[(&str, &str)]) -> Route {
    match read(variables).unwrap().as_slice() {
        [Destination::Otlp(destination)] => destination.routes[0].clone(),
        other => panic!("{other:?}"),
    }
}

const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

#[test]
fn without_an_endpoint_or_a_name_there_is_no_destination() {
    assert_eq!(read(&[]), Ok(vec![]));
    assert_eq!(
        read(&[("OTEL_TRACES_EXPORTER", "none"), (BASE, "http://h")]),
        Ok(vec![])
    );
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
            Destination::Console(SPANS),
            Destination::Otlp(_),
            Destination::File
        ]
    ));
    let found = read(&[("OTEL_TRACES_EXPORTER", "console")]).unwrap();
    assert_eq!(found, [Destination::Console(SPANS)]);
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
            "http/protobuf or http/json",
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
fn what_is_well_formed_but_not_built_is_off_and_told() {
    let grpc = wanted(&[
        // As gRPC's exporters are often told, and no address here.
        (BASE, "localhost:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTERS", "console,otlp,otlp"),
    ])
    .unwrap();
    assert_eq!(grpc.destinations, [Destination::Console(SPANS)]);
    assert_eq!(grpc.unsupported.len(), 1);
    let message = grpc.unsupported[0].to_string();
    assert!(message.contains("OTEL_EXPORTER_OTLP_PROTOCOL"), "{message}");
    assert!(message.contains("http/protobuf"), "{message}");

    let named = wanted(&[
        (BASE, "http://h"),
        ("OTEL_EXPORTERS", "Langfuse,OTLP,sigNoz,langfuse"),
    ])
    .unwrap();
    assert_eq!(named.destinations.len(), 1);
    let names = named.unsupported.iter().map(|missing| match missing {
        Unsupported::Name { name, .. } => *name,
        other => panic!("{other}"),
    });
    assert_eq!(names.collect::<Vec<_>>(), ["langfuse", "signoz"]);

    let switched_off = wanted(&[
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_EXPORTERS", "langfuse"),
    ]);
    assert_eq!(switched_off, Ok(Wanted::default()));
}

#[test]
fn batches_follow_the_batch_processors_variables() {
    let read = |variables: &[(&str, &str)]| {
        batching(&|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    };
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
