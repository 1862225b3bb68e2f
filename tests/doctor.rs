//! `sandtrace doctor`: what works, and exactly why the rest does not.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;

use crate::supervised::sh;
use crate::support::receiver::{Answer, Receiver};

fn doctor(journal: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> (i32, String) {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_sandtrace"))
        .args(["doctor", "--journal"])
        .arg(journal)
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(text).unwrap(),
    )
}

/// The lines about something, without their padding.
fn lines(report: &str, what: &str) -> Vec<String> {
    let lines = report
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of = lines.filter(|words| words.get(1) == Some(&what));
    of.map(|words| words.join(" ")).collect()
}

#[test]
fn a_canary_of_each_signal_flies_to_each_destination() {
    let root = tempfile::tempdir().unwrap();
    let healthy = Receiver::healthy();
    let base = healthy.traces_url().replace("/v1/traces", "");
    let refusing = Receiver::scripted(|_, _| Answer::status(401));
    let langfuse = refusing.traces_url().replace("/v1/traces", "");
    let (code, report) = doctor(
        root.path(),
        &[
            ("OTEL_EXPORTERS", "otlp,langfuse,host"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &base),
            ("LANGFUSE_HOST", &langfuse),
            ("LANGFUSE_PUBLIC_KEY", "pk-lf-public"),
            ("LANGFUSE_SECRET_KEY", "sk-lf-hush"),
        ],
        &[],
    );
    assert_eq!(code, 1, "{report}");
    let otlp = lines(&report, "otlp");
    assert_eq!(otlp.len(), 3, "{report}");
    for (line, signal) in otlp.iter().zip(["traces", "metrics", "logs"]) {
        let start = format!("ok otlp {signal}: {base}/v1/{signal} took one in ");
        assert!(line.starts_with(&start), "{line}");
    }
    let langfuse = lines(&report, "langfuse");
    let [refused] = langfuse.as_slice() else {
        panic!("{report}");
    };
    assert!(refused.starts_with("FAIL langfuse traces: "), "{refused}");
    assert!(refused.contains("401"), "{refused}");
    assert!(
        !report.contains("hush") && !report.contains("pk-lf"),
        "{report}"
    );
    assert!(lines(&report, "host")[0].starts_with("ok"), "{report}");
    let mut paths: Vec<_> = healthy.received().into_iter().map(|it| it.path).collect();
    paths.sort();
    assert_eq!(paths, ["/v1/logs", "/v1/metrics", "/v1/traces"]);
    let requests = healthy.received();
    let traces = requests.iter().find(|it| it.path == "/v1/traces").unwrap();
    let traces = ExportTraceServiceRequest::decode(traces.body.as_slice()).unwrap();
    let span = &traces.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(span.name, "sandtrace.doctor");
    assert_eq!(
        std::fs::read_dir(root.path()).unwrap().count(),
        0,
        "something was left behind"
    );
}

#[test]
fn a_canary_lands_where_the_runs_will() {
    let root = tempfile::tempdir().unwrap();
    let phoenix = Receiver::healthy();
    let base = phoenix.traces_url().replace("/v1/traces", "");
    let (code, report) = doctor(
        root.path(),
        &[
            ("OTEL_EXPORTERS", "phoenix"),
            ("PHOENIX_COLLECTOR_ENDPOINT", &base),
            ("PHOENIX_OTLP_COMPRESSION", "none"),
            ("OTEL_SERVICE_NAME", "shop"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "team.note=it is plain-words-only",
            ),
            ("SERVICE_PASSWORD", "plain-words-only"),
        ],
        &[],
    );
    assert_eq!(code, 0, "{report}");
    let requests = phoenix.received();
    let traces = ExportTraceServiceRequest::decode(requests[0].body.as_slice()).unwrap();
    let resource = traces.resource_spans[0].resource.as_ref().unwrap();
    let mut attributes = resource.attributes.iter();
    let project = attributes.find(|it| it.key == "openinference.project.name");
    let project = project.unwrap().value.as_ref().unwrap();
    assert!(format!("{project:?}").contains("\"shop\""), "{project:?}");
    let note = format!("{:?}", resource.attributes);
    assert!(note.contains("it is <redacted:SERVICE_PASSWORD>"), "{note}");
    assert!(!note.contains("plain-words-only"), "{note}");
}

#[test]
fn without_a_destination_all_is_well_and_the_report_says_what_to_set() {
    let root = tempfile::tempdir().unwrap();
    let (code, report) = doctor(root.path(), &[], &[]);
    assert_eq!(code, 0, "{report}");
    let found = lines(&report, "destinations");
    assert!(
        found[0].starts_with("note") && found[0].contains("OTEL_EXPORTERS"),
        "{report}"
    );
    assert!(lines(&report, "journal")[0].starts_with("ok"), "{report}");
}

#[test]
fn a_journal_that_cannot_be_written_fails_with_the_reason() {
    let (code, report) = doctor(Path::new("/proc/nowhere"), &[], &[]);
    assert_eq!(code, 1, "{report}");
    let found = lines(&report, "journal");
    assert!(
        found[0].starts_with("FAIL") && found[0].contains("--journal"),
        "{report}"
    );
}

#[test]
fn a_configuration_that_a_run_would_refuse_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (code, report) = doctor(root.path(), &[("OTEL_EXPORTERS", "zipkin")], &[]);
    assert_eq!(code, 125);
    assert!(report.starts_with("sandtrace: OTEL_EXPORTERS"), "{report}");
    for variable in [
        "OTEL_SAMPLING_RATE",
        "OTEL_BSP_SCHEDULE_DELAY",
        "OTEL_METRIC_EXPORT_INTERVAL",
        "OTEL_ATTRIBUTE_COUNT_LIMIT",
        "SANDTRACE_DEADLINE",
        "SANDTRACE_ECHO",
    ] {
        let (code, report) = doctor(root.path(), &[(variable, "often")], &[]);
        assert_eq!(code, 125, "{variable}: {report}");
        assert!(
            report.starts_with("sandtrace: ") && report.contains(variable),
            "{report}"
        );
        assert_eq!(report.lines().count(), 1, "{report}");
    }
}

#[test]
fn what_a_run_would_warn_of_is_told_before_the_run() {
    let root = tempfile::tempdir().unwrap();
    let (code, report) = doctor(
        root.path(),
        &[
            ("OTEL_EXPORTERS", "host"),
            ("SANDTRACE_ECHO", "raw"),
            ("OTEL_TRACES_SAMPLER", "xray"),
            ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "some"),
        ],
        &[],
    );
    assert_eq!(code, 0, "{report}");
    let settings = lines(&report, "settings");
    assert!(
        settings[0].starts_with("ok") && settings[1].contains("SPAN_ONLY"),
        "{report}"
    );
    let notes = lines(&report, "destinations");
    let told = ["OTEL_TRACES_SAMPLER", "--echo enriched"];
    assert_eq!(notes.len(), told.len(), "{report}");
    for (note, word) in notes.iter().zip(told) {
        assert!(note.starts_with("note") && note.contains(word), "{note}");
    }
}

#[test]
fn what_a_run_left_is_named_and_sent_once_if_that_is_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let up = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&up);
    let receiver = Receiver::scripted(move |_, _| match asked.load(Ordering::Relaxed) {
        true => Answer::status(200),
        false => Answer::status(503),
    });
    let url = receiver.traces_url();
    let environment = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url.as_str()),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_LOGS_EXPORTER", "none"),
    ];
    let mut run = sh("true")
        .journal(root.path())
        .option("--flush-timeout", "300ms");
    for (name, value) in environment {
        run = run.env(name, value);
    }
    run.run().assert_sound();
    let (_, report) = doctor(root.path(), &environment, &[]);
    let found = lines(&report, "spool");
    assert!(
        found[0].contains("1 requests with traces") && found[0].contains("--resend"),
        "{report}"
    );
    up.store(true, Ordering::Relaxed);
    let before = receiver.received().len();
    let (code, report) = doctor(root.path(), &environment, &["--resend"]);
    assert_eq!(code, 0, "{report}");
    assert_eq!(
        lines(&report, "spool"),
        ["ok spool otlp traces: 1 requests sent, 0 refused, 0 left"]
    );
    let (code, report) = doctor(root.path(), &environment, &["--resend"]);
    assert_eq!(code, 0, "{report}");
    assert!(
        lines(&report, "spool")[0].contains("nothing unsent"),
        "{report}"
    );
    // A canary each time, and the run's spans once.
    assert_eq!(receiver.received().len() - before, 3);
}
