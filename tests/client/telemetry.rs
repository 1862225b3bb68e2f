//! The host's part of a run's trace: what a killed supervisor left open, what a sandbox without egress asks for, and the
//! sandbox itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry::trace::{SpanKind, Status, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use sandtrace_client::otel::{Forwarder, Instruments, OtlpRequest, orphans};
use sandtrace_client::{FailureKind, Launch, Outcome, local};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{async_test, everything};
use crate::e2b::{SANDTRACE, client, sh};
use crate::fake_envd::FakeEnvd;
use crate::support::receiver::{Answer, Receiver};

/// The application's exporter.
#[derive(Debug, Clone, Default)]
struct Exported(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Exported {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

impl Exported {
    fn take(&self) -> Vec<SpanData> {
        self.0.lock().unwrap().drain(..).collect()
    }
}

/// A turn with a tool that works until the file is there.
fn launch(home: &TempDir, file: &Path) -> Launch {
    let agent = env!("CARGO_BIN_EXE_fault-agent");
    let file = file.to_str().unwrap();
    let steps = [
        "--init",
        "--tool",
        "0.01",
        "--tool-begin",
        "--wait-for",
        file,
        "--tool-end",
        "--result",
    ];
    Launch::new([agent].into_iter().chain(steps))
        .program(SANDTRACE)
        .run_id("the-same")
        .option("--journal", home.path().to_str().unwrap())
        .var("SANDTRACE_PROBE", "off")
        .traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
}

/// Name, parent and kind by span id, as the supervisor exported them.
fn exported(home: &TempDir) -> BTreeMap<String, (String, String, u64)> {
    let text = fs::read_to_string(home.path().join("the-same/traces.jsonl")).unwrap_or_default();
    let mut spans = BTreeMap::new();
    for line in text.lines() {
        let request: Value = serde_json::from_str(line).unwrap();
        let resources = request["resourceSpans"].as_array().unwrap().iter();
        let scopes = resources.flat_map(|resource| resource["scopeSpans"].as_array().unwrap());
        for span in scopes.flat_map(|scope| scope["spans"].as_array().unwrap()) {
            let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
            let told = (
                text("name"),
                text("parentSpanId"),
                span["kind"].as_u64().unwrap(),
            );
            assert_eq!(spans.insert(text("spanId"), told), None, "no span twice");
        }
    }
    spans
}

#[test]
fn what_a_killed_supervisor_left_open_are_the_spans_that_it_would_have_exported() {
    async_test(async {
        let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = whole.path().join("go-on");
        fs::write(&file, "").unwrap();
        let mut live = local::start(&launch(&whole, &file)).await.unwrap();
        everything(&mut live).await;
        assert_eq!(orphans(live.run()), [], "it has its last line");
        let expected = exported(&whole);

        let never = cut.path().join("never");
        let mut live = local::start(&launch(&cut, &never)).await.unwrap();
        // The first tool is over, and the second one works.
        let mut seen = 0;
        while seen < 2 {
            let event = live.next().await.unwrap().unwrap().json();
            let is_start = event["type"] == "sandtrace.span.started";
            let name = event["data"]["name"].as_str().unwrap_or_default();
            seen += u64::from(is_start && name.starts_with("execute_tool"));
        }
        live.voice().kill().await.unwrap();
        let conclusion = live.conclude().await.unwrap();
        assert_eq!(conclusion.outcome, Outcome::Failure);
        let failure = conclusion.failure.unwrap();
        assert_eq!(failure.kind, FailureKind::LostSupervisor);

        let application = Exported::default();
        application.export(orphans(live.run())).await.unwrap();
        let spans = application.take();
        let mut names = BTreeSet::new();
        let before = exported(&cut);
        for span in &spans {
            let id = span.span_context.span_id().to_string();
            let (name, parent, kind) = &expected[&id];
            assert_eq!(&span.name, name);
            assert_eq!(&span.parent_span_id.to_string(), parent);
            assert_eq!(span.span_kind == SpanKind::Client, *kind == 3);
            assert_eq!(
                span.span_context.trace_id().to_string(),
                "4bf92f3577b34da6a3ce929d0e0e4736"
            );
            assert_eq!(span.status, Status::error(failure.message.clone()));
            assert!(!before.contains_key(&id), "{name} was exported already");
            assert!(names.insert(name.clone()), "{name} twice");
        }
        let open = ["agent.run", "execute_tool Bash", "invoke_agent claude"];
        assert!(open.iter().all(|name| names.contains(*name)), "{names:?}");
        let ids: BTreeSet<String> = spans
            .iter()
            .map(|span| span.span_context.span_id().to_string())
            .collect();
        let ended = expected.len() - ids.len();
        assert!(ended > 0, "the first tool had ended, and is none of them");
    });
}

#[test]
fn what_a_sandbox_without_egress_asks_for_reaches_the_hosts_collector_once() {
    async_test(async {
        // It is busy at first.
        let receiver = Receiver::scripted(|number, _| match number {
            0 => Answer::status(503).header("retry-after", "0"),
            _ => Answer::status(200),
        });
        let forwarder = Forwarder::start(&receiver.url(""), []).unwrap();
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("go-on");
        fs::write(&file, "").unwrap();
        let launch = launch(&home, &file).var("OTEL_EXPORTERS", "host");
        let mut live = local::start(&launch).await.unwrap();
        let mut requests = 0;
        while let Some(event) = live.next().await.unwrap() {
            if let Some(request) = OtlpRequest::of(&event) {
                requests += 1;
                forwarder.forward(request).unwrap();
            }
        }
        let counts = forwarder.shutdown(Duration::from_secs(60)).await;
        assert_eq!(
            (counts.forwarded, counts.dropped, counts.rejected_items),
            (requests, 0, 0)
        );
        let received = receiver.received();
        assert_eq!(received.len() as u64, requests + 1, "the first one twice");
        let mut ids = BTreeSet::new();
        for request in received
            .iter()
            .skip(1)
            .filter(|request| request.path == "/v1/traces")
        {
            let spans = request.decode().resource_spans.into_iter();
            let scopes = spans.flat_map(|resource| resource.scope_spans);
            for span in scopes.flat_map(|scope| scope.spans) {
                let id: String = span
                    .span_id
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                assert!(ids.insert(id), "{} twice", span.name);
            }
        }
        let expected: BTreeSet<String> = exported(&home).into_keys().collect();
        assert!(!expected.is_empty());
        assert_eq!(ids, expected, "the spans of the journal");
        for path in ["/v1/logs", "/v1/metrics"] {
            assert!(
                received.iter().any(|request| request.path == path),
                "{path}"
            );
        }
    });
}

#[test]
fn a_sandbox_its_run_and_its_end_are_one_trace() {
    async_test(async {
        let fake = FakeEnvd::start();
        let application = Exported::default();
        let traces = SdkTracerProvider::builder()
            .with_simple_exporter(application.clone())
            .build();
        let metrics = SdkMeterProvider::default();
        let meter = opentelemetry::metrics::MeterProvider::meter(&metrics, "app");
        let instruments = Instruments::new(traces.tracer("app"), &meter);
        let client = client(&fake).instruments(instruments);
        let sandbox = client
            .create("agents")
            .timeout(Duration::from_secs(600))
            .send()
            .await
            .unwrap();
        let mut live = sandbox.start(&sh("echo '{\"n\":1}'")).await.unwrap();
        everything(&mut live).await;
        let mut other = sandbox
            .start(
                &sh("true").traceparent("00-11111111111111111111111111111111-2222222222222222-01"),
            )
            .await
            .unwrap();
        everything(&mut other).await;
        sandbox.kill().await.unwrap();

        let spans = application.take();
        let names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
        assert_eq!(names, ["sandbox.create", "sandbox.kill"]);
        let create = &spans[0].span_context;
        let started = live.run().started().unwrap();
        assert_eq!(started.trace_id, create.trace_id().to_string());
        assert_eq!(started.parent_span_id, Some(create.span_id().to_string()));
        assert_eq!(spans[1].span_context.trace_id(), create.trace_id());
        assert_eq!(spans[1].parent_span_id, create.span_id());
        let id = spans[0]
            .attributes
            .iter()
            .find(|pair| pair.key.as_str() == "sandbox.id")
            .unwrap();
        assert_eq!(id.value.to_string(), sandbox.id());
        let started = other.run().started().unwrap();
        assert_eq!(
            started.trace_id,
            "1".repeat(32),
            "a launch keeps a context of its own"
        );
    });
}

#[test]
fn a_sandbox_that_was_refused_is_a_span_with_the_reason() {
    async_test(async {
        let fake = FakeEnvd::start();
        let application = Exported::default();
        let traces = SdkTracerProvider::builder()
            .with_simple_exporter(application.clone())
            .build();
        let meter =
            opentelemetry::metrics::MeterProvider::meter(&SdkMeterProvider::default(), "app");
        let config = crate::e2b::config(&fake).api_key("not-the-key");
        let client = sandtrace_client::e2b::Client::new(config).unwrap();
        let client = client.instruments(Instruments::new(traces.tracer("app"), &meter));
        client.create("agents").send().await.unwrap_err();
        let spans = application.take();
        assert_eq!(spans.len(), 1);
        assert!(matches!(spans[0].status, Status::Error { .. }));
        let error = spans[0]
            .attributes
            .iter()
            .find(|pair| pair.key.as_str() == "error.type");
        assert_eq!(error.unwrap().value.to_string(), "unauthorised");
    });
}
