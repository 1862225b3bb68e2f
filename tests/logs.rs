//! Log records: the events of a run's life and the agent's stderr, each with the trace and span it belongs to.

use std::path::Path;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;

use crate::supervised::{Finished, fault, poll, sh};

/// The records of a `logs.jsonl` so far.
fn records(directory: &Path) -> Vec<LogRecord> {
    let text = std::fs::read_to_string(directory.join("logs.jsonl")).unwrap_or_default();
    let lines = text.lines().filter(|line| line.ends_with('}'));
    lines
        .map(|line| serde_json::from_str::<ExportLogsServiceRequest>(line).unwrap())
        .flat_map(|request| request.resource_logs)
        .flat_map(|resource| resource.scope_logs)
        .flat_map(|scope| scope.log_records)
        .collect()
}

fn named<'a>(records: &'a [LogRecord], event: &str) -> Vec<&'a LogRecord> {
    let records = records.iter();
    records.filter(|it| it.event_name == event).collect()
}

fn body(record: &LogRecord) -> &str {
    match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn assert_correlated(run: &Finished, record: &LogRecord) {
    let transcript = run.transcript();
    let started = transcript.started();
    assert_eq!(hex(&record.trace_id), started["trace_id"]);
    assert_eq!(hex(&record.span_id), started["root_span_id"]);
}

#[test]
fn a_run_is_in_the_log_while_it_runs() {
    let running = sh("until [ -e \"$DIR/go\" ]; do sleep 0.05; done; exit 3").start();
    let journal = running.line("the first line", |line| {
        line["type"] == "sandtrace.run.started"
    });
    let directory = Path::new(journal["data"]["journal"].as_str().unwrap()).to_owned();
    poll("the log knows of the run", || {
        let records = records(&directory);
        (!named(&records, "sandtrace.run.started").is_empty()).then_some(())
    });
    std::fs::write(running.directory().join("go"), "").unwrap();
    let run = running.wait();
    let records = records(&directory);
    let [started] = named(&records, "sandtrace.run.started")[..] else {
        panic!("{records:?}");
    };
    assert_eq!(started.severity_text, "INFO");
    assert_correlated(&run, started);
    let [exited] = named(&records, "sandtrace.agent.exited")[..] else {
        panic!("{records:?}");
    };
    assert_eq!(exited.severity_text, "ERROR");
    assert_correlated(&run, exited);
    let error_type = exited
        .attributes
        .iter()
        .find(|attribute| attribute.key == "error.type")
        .and_then(|attribute| attribute.value.clone()?.value);
    assert_eq!(
        error_type,
        Some(Value::StringValue(run.transcript().verdict()))
    );
    run.assert_sound();
}

#[test]
fn what_the_agent_writes_to_stderr_is_in_the_log_unless_content_is_not_wanted() {
    for (capture, expected) in [("preview", vec!["one", "two \u{fffd}"]), ("none", vec![])] {
        let run = sh("printf 'one\\n\\ntwo \\377\\n' >&2")
            .option("--capture", capture)
            .run();
        let records = records(&run.journal());
        let lines = named(&records, "sandtrace.stderr");
        let bodies: Vec<_> = lines.iter().map(|record| body(record)).collect();
        assert_eq!(bodies, expected, "{capture}");
        for record in lines {
            assert_correlated(&run, record);
        }
        run.assert_sound();
    }
}

#[test]
fn a_warning_is_in_the_log() {
    let run = sh("true").env("TRACEPARENT", "nonsense").run();
    let records = records(&run.journal());
    let [warning] = named(&records, "sandtrace.warning")[..] else {
        panic!("{records:?}");
    };
    assert_eq!(warning.severity_text, "WARN");
    assert!(body(warning).contains("TRACEPARENT"), "{warning:?}");
    assert_correlated(&run, warning);
}

#[test]
fn a_flood_on_stderr_costs_log_records_and_no_line_and_no_span() {
    let run = fault("--stderr-bytes 8388608").run();
    let transcript = run.transcript();
    assert!(transcript.stream("stderr").len() >= 8 << 20);
    let file = &transcript.finished()["telemetry"]["destinations"][0];
    assert_eq!(file["name"], "file");
    assert_eq!(file["dropped"], 0, "{file}");
    run.assert_sound();
}

#[test]
fn log_records_have_a_delay_of_their_own() {
    let started = Instant::now();
    let running = sh(r#"
echo '{"type":"system","subtype":"init","session_id":"s1","model":"m"}'
echo '{"type":"assistant","message":{"id":"m1","model":"m","content":[{"type":"tool_use","id":"t1","name":"Bash","input":{}}],"usage":{"input_tokens":1,"output_tokens":1}}}'
echo '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"x"}]}}'
echo oops >&2
until [ -e "$DIR/go" ]; do sleep 0.05; done
"#)
    .env("OTEL_EXPORTERS", "host")
    .env("OTEL_BSP_SCHEDULE_DELAY", "80000")
    .env("OTEL_BLRP_SCHEDULE_DELAY", "30")
    .start();
    running.line("the log record of the stderr line", |line| {
        line["data"]["signal"] == "logs" && line.to_string().contains("oops")
    });
    assert!(started.elapsed() < Duration::from_secs(60));
    std::fs::write(running.directory().join("go"), "").unwrap();
    let run = running.wait();
    // The spans of the tool were there before, and waited for the end.
    let transcript = run.transcript();
    let signals: Vec<_> = transcript
        .all("sandtrace.otlp")
        .into_iter()
        .map(|data| (data["signal"].clone(), data.to_string().contains("oops")))
        .collect();
    let logs = signals.iter().position(|(_, is_oops)| *is_oops);
    let spans = signals.iter().position(|(signal, _)| signal == "traces");
    assert!(spans > logs, "{signals:?}");
    run.assert_sound();
}
