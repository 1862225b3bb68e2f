//! The destination `host`: telemetry as lines of the echo, for a sandbox without a way out.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

use crate::supervised::{fault, sh};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_host_that_is_to_export_gets_every_span_as_otlp_before_the_last_line() {
    let run = fault("--events 300 --tool 0.1 --result")
        .env("OTEL_EXPORTERS", "host")
        .run();
    let transcript = run.transcript();
    let requests: Vec<ExportTraceServiceRequest> = transcript
        .all("sandtrace.otlp")
        .into_iter()
        .filter(|data| data["signal"] == "traces")
        .map(|data| serde_json::from_value(data["request"].clone()).unwrap())
        .collect();
    let spans = requests
        .into_iter()
        .flat_map(|request| request.resource_spans);
    let spans = spans
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans);
    let mut sent: Vec<_> = spans.map(|span| hex(&span.span_id)).collect();
    sent.sort();
    let mut ended: Vec<_> = transcript
        .all("sandtrace.span.ended")
        .into_iter()
        .map(|data| data["span_id"].as_str().unwrap().to_owned())
        .collect();
    ended.sort();
    assert_eq!(sent, ended);
    let telemetry = &transcript.finished()["telemetry"];
    let host = telemetry["destinations"].as_array().unwrap();
    let host = host.iter().find(|row| row["name"] == "host").unwrap();
    assert_eq!(host["exported"], ended.len(), "{host}");
    run.assert_sound();
}

#[test]
fn a_host_that_is_to_export_hears_of_the_run_while_it_runs() {
    let running = sh("until [ -e \"$DIR/go\" ]; do sleep 0.05; done")
        .env("OTEL_EXPORTERS", "host")
        .start();
    let line = running.line("the log record of the start", |line| {
        line["type"] == "sandtrace.otlp" && line["data"]["signal"] == "logs"
    });
    let request: ExportLogsServiceRequest =
        serde_json::from_value(line["data"]["request"].clone()).unwrap();
    let record = &request.resource_logs[0].scope_logs[0].log_records[0];
    assert_eq!(record.event_name, "sandtrace.run.started");
    assert_eq!(hex(&record.trace_id), line["sandtrace"]["trace_id"]);
    std::fs::write(running.directory().join("go"), "").unwrap();
    running.wait().assert_sound();
}

#[test]
fn a_host_that_hears_no_lines_of_ours_is_warned_of() {
    for (echo, stdout) in [("raw", "hello\n"), ("none", "")] {
        let run = sh("echo hello")
            .env("OTEL_EXPORTERS", "host")
            .option("--echo", echo)
            .run();
        assert_eq!(run.code(), 0);
        assert_eq!(String::from_utf8_lossy(&run.stdout), stdout);
        let journaled = run.journaled();
        assert_eq!(journaled.warnings(), ["host_unheard"], "{echo}");
        assert!(!journaled.all("sandtrace.otlp").is_empty(), "{echo}");
        run.assert_journal_whole();
        run.assert_nothing_left();
    }
}

#[test]
fn what_the_host_gets_of_metrics_and_logs_is_counted() {
    let run = sh("echo oops >&2").env("OTEL_EXPORTERS", "host").run();
    let transcript = run.transcript();
    let rows = transcript.finished()["telemetry"]["destinations"].clone();
    let mut rows = rows.as_array().unwrap().iter();
    let host = rows.find(|row| row["name"] == "host").unwrap();
    for signal in ["metrics", "logs"] {
        let counts = &host[signal];
        assert!(counts["exported"].as_u64().unwrap() > 0, "{host}");
        assert_eq!(
            (&counts["dropped"], &counts["queued"]),
            (&0.into(), &0.into()),
            "{host}"
        );
    }
    run.assert_sound();
}

#[test]
fn a_host_that_is_to_export_one_signal_gets_that_one_alone() {
    for (variable, signal) in [
        ("OTEL_TRACES_EXPORTER", "traces"),
        ("OTEL_METRICS_EXPORTER", "metrics"),
        ("OTEL_LOGS_EXPORTER", "logs"),
    ] {
        let run = fault("--events 3 --tool 0.1 --result")
            .env(variable, "host")
            .run();
        let transcript = run.transcript();
        let lines = transcript.all("sandtrace.otlp");
        assert!(!lines.is_empty(), "{variable}");
        for line in lines {
            assert_eq!(line["signal"], signal, "{variable}");
        }
        let rows = transcript.finished()["telemetry"]["destinations"].clone();
        let mut rows = rows.as_array().unwrap().iter();
        let host = rows.find(|row| row["name"] == "host").unwrap();
        let spans = transcript.span_ids().len();
        let exported = if signal == "traces" { spans } else { 0 };
        assert_eq!(host["exported"], exported, "{host}");
        // What it is not to get, it is not owed.
        for count in ["dropped", "queued", "not_sampled"] {
            assert_eq!(host[count], 0, "{count}: {host}");
        }
        for other in ["metrics", "logs"] {
            let is_told = host.get(other).is_some_and(|counts| !counts.is_null());
            assert_eq!(is_told, other == signal, "{host}");
        }
        run.assert_sound();
    }
}

#[test]
fn what_the_console_and_the_journal_s_files_get_of_one_signal() {
    let run = fault("--events 3 --tool 0.1 --result")
        .env("OTEL_TRACES_EXPORTER", "file")
        .env("OTEL_LOGS_EXPORTER", "console")
        .run();
    let errors = run.errors();
    assert!(errors.contains("Logs"), "{errors}");
    assert!(!errors.contains("Spans\n"), "{errors}");
    assert!(!errors.contains("Metrics\n"), "{errors}");
    // The journal has all of it in any case.
    for name in ["traces.jsonl", "metrics.jsonl", "logs.jsonl"] {
        assert!(!run.journal_file(name).is_empty(), "{name}");
    }
    run.assert_sound();
}

#[test]
fn a_caller_that_does_not_sample_gets_no_spans_by_the_host_either() {
    let run = fault("--events 3")
        .env("OTEL_EXPORTERS", "host")
        .env(
            "TRACEPARENT",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        )
        .run();
    let transcript = run.transcript();
    let signals: Vec<_> = transcript
        .all("sandtrace.otlp")
        .into_iter()
        .map(|data| data["signal"].as_str().unwrap())
        .collect();
    assert!(
        !signals.is_empty() && !signals.contains(&"traces"),
        "{signals:?}"
    );
    run.assert_sound();
}
