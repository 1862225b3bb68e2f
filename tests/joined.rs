//! An agent that traces itself is part of the run's trace, and nothing but TRACEPARENT makes it so.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::supervised::{agent, skipped};
use crate::support::receiver::{Received, Receiver};

const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traced_agent.py");

const CALLER: &str = "b7ad6b7169203331";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The spans that services of this name have sent.
fn of_service(receiver: &Receiver, service: &str) -> Vec<Span> {
    let received = receiver.received();
    let traces = received.iter().filter(|it| it.path == "/v1/traces");
    let requests = traces.map(Received::decode);
    let named = |request: ExportTraceServiceRequest| {
        let resources = request.resource_spans.into_iter();
        resources.filter(|resource| {
            let attributes = resource.resource.iter().flat_map(|it| &it.attributes);
            let mut names = attributes.filter(|pair| pair.key == "service.name");
            let name = names.next().and_then(|pair| pair.value.clone()?.value);
            matches!(name, Some(Value::StringValue(name)) if name == service)
        })
    };
    requests
        .flat_map(|request| named(request).collect::<Vec<_>>())
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .collect()
}

fn is_child_of_the_run(python: impl Into<OsString>, way: &str) {
    let receiver = Receiver::healthy();
    let run = agent([python.into(), AGENT.into(), way.into()])
        .env("TRACEPARENT", format!("00-{TRACE}-{CALLER}-01"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url(""))
        .env("OTEL_SERVICE_NAME", "supervisor")
        .env("NO_PROXY", "127.0.0.1")
        .run();
    assert_eq!(run.code(), 0, "{}", run.errors());
    run.assert_sound();

    let ours = of_service(&receiver, "supervisor");
    let [root] = ours
        .iter()
        .filter(|span| span.name == "agent.run")
        .collect::<Vec<_>>()[..]
    else {
        panic!("{ours:?}");
    };
    assert_eq!(hex(&root.parent_span_id), CALLER);
    let theirs = of_service(&receiver, "traced-agent");
    let [own] = &theirs[..] else {
        panic!("{theirs:?}");
    };
    assert_eq!(own.name, "own work");
    assert_eq!(hex(&own.trace_id), TRACE);
    assert_eq!(own.trace_id, root.trace_id);
    assert_eq!(hex(&own.parent_span_id), hex(&root.span_id));
    assert_ne!(own.span_id, root.span_id);
    assert!(
        root.start_time_unix_nano <= own.start_time_unix_nano
            && own.end_time_unix_nano <= root.end_time_unix_nano,
        "{root:?} {own:?}"
    );
    // What it printed became spans beside it: the run has no less to tell.
    for name in ["invoke_agent claude", "execute_tool Bash"] {
        assert!(ours.iter().any(|span| span.name == name), "{ours:?}");
    }
}

#[test]
fn the_span_of_an_agent_with_the_stock_sdk_is_a_child_of_the_run() {
    let python = env::var_os("SANDTRACE_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let imports = "import opentelemetry.sdk.trace, opentelemetry.exporter.otlp.proto.http";
    let has_sdk = Command::new(&python)
        .args(["-c", imports])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_sdk {
        let python = Path::new(&python).display();
        skipped(format_args!(
            "{python} has no opentelemetry-sdk with its OTLP exporter over HTTP; scripts/phoenix-check does this with one"
        ));
        return;
    }
    is_child_of_the_run(python, "sdk");
}

#[test]
fn the_span_of_an_agent_that_reads_traceparent_itself_is_a_child_of_the_run() {
    is_child_of_the_run("python3", "plain");
}
