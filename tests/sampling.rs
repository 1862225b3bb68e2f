//! Which runs a backend sees: by the trace id at the start, by failure and length at the end, never against the caller.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use serde_json::Value;

use crate::supervised::{Finished, Supervised, poll, sh};
use crate::support::receiver::{Received, Receiver};

const AGENT: &str = r#"
echo '{"type":"system","subtype":"init","session_id":"s1","model":"m"}'
echo '{"type":"assistant","message":{"id":"m1","model":"m","content":[{"type":"tool_use","id":"t1","name":"Bash","input":{}}],"usage":{"input_tokens":1,"output_tokens":1}}}'
echo '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"x"}]}}'
"#;
const RESULT: &str = r#"
echo '{"type":"result","subtype":"success","is_error":false,"session_id":"s1","total_cost_usd":0.1,"usage":{"input_tokens":1,"output_tokens":1},"modelUsage":{}}'
"#;

fn run(receiver: &Receiver, rate: &str, script: &str) -> Supervised {
    sh(script)
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", receiver.traces_url())
        .env("OTEL_METRICS_EXPORTER", "none")
        .env("OTEL_LOGS_EXPORTER", "none")
        .env("OTEL_SAMPLING_RATE", rate)
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
}

fn counts(run: &Finished) -> Value {
    counts_of(run, "otlp")
}

fn counts_of(run: &Finished, destination: &str) -> Value {
    let finished = run.transcript().finished().clone();
    let rows = finished["telemetry"]["destinations"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == destination);
    row.unwrap().clone()
}

/// The ids of the spans that came, sorted.
fn arrived(receiver: &Receiver) -> Vec<String> {
    let received = receiver.received();
    let spans = received.iter().flat_map(Received::spans);
    let mut ids: Vec<_> = spans
        .map(|span| {
            span.span_id
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        })
        .collect();
    ids.sort();
    ids
}

/// Nothing came, all is counted, and the journal has it.
fn assert_kept_back(receiver: &Receiver, run: &Finished) {
    assert_eq!(arrived(receiver), Vec::<String>::new());
    let row = counts(run);
    let spans = run.transcript().span_ids().len();
    assert_eq!(row["not_sampled"], spans, "{row}");
    for none in ["exported", "dropped", "queued", "spooled"] {
        assert_eq!(row[none], 0, "{none}: {row}");
    }
    // The echo and the journal have every span, which this checks; and nothing waits to be sent by anybody.
    run.assert_sound();
    assert!(!run.journal().join("spool").exists());
}

fn assert_sent(receiver: &Receiver, run: &Finished) {
    assert_eq!(arrived(receiver), run.transcript().span_ids());
    let row = counts(run);
    assert_eq!(row["exported"], run.transcript().span_ids().len(), "{row}");
    for none in ["not_sampled", "dropped", "queued", "spooled"] {
        assert_eq!(row[none], 0, "{none}: {row}");
    }
    run.assert_sound();
    assert!(!run.journal().join("spool").exists());
}

#[test]
fn a_run_that_is_not_chosen_is_kept_back_and_counted() {
    let receiver = Receiver::healthy();
    let run = run(&receiver, "0", &format!("{AGENT}{RESULT}")).run();
    assert_eq!(run.code(), 0);
    assert_kept_back(&receiver, &run);
    assert!(
        receiver.received().is_empty(),
        "not even a connection's worth"
    );
}

#[test]
fn a_run_that_failed_is_sent_whole_whatever_the_rate() {
    let receiver = Receiver::healthy();
    let script = format!("{AGENT} sleep 0.3; exit 3");
    let run = run(&receiver, "0", &script).run();
    assert_eq!(run.code(), 3);
    assert!(run.transcript().span_ids().len() >= 4);
    assert_sent(&receiver, &run);
}

#[test]
fn a_run_that_was_slow_is_sent_whole_whatever_the_rate() {
    for (slow, is_sent) in [("100ms", true), ("1h", false), ("off", false)] {
        let receiver = Receiver::healthy();
        let script = format!("{AGENT} sleep 0.3 {RESULT}");
        let run = run(&receiver, "0", &script).option("--slow", slow).run();
        assert_eq!(run.code(), 0);
        if is_sent {
            assert_sent(&receiver, &run);
        } else {
            assert_kept_back(&receiver, &run);
        }
    }
}

#[test]
fn the_low_bits_of_the_trace_id_choose() {
    for (trace, is_sent) in [
        ("ffffffffffffffffff00000000000001", false),
        ("000000000000000001ffffffffffffff", true),
    ] {
        let receiver = Receiver::healthy();
        let run = run(&receiver, "0.5", &format!("{AGENT}{RESULT}"))
            .env("TRACEPARENT", format!("00-{trace}-b7ad6b7169203331-01"))
            .run();
        if is_sent {
            assert_sent(&receiver, &run);
        } else {
            assert_kept_back(&receiver, &run);
        }
    }
}

#[test]
fn what_the_caller_does_not_sample_is_not_sent_even_if_it_fails() {
    let receiver = Receiver::healthy();
    let run = run(&receiver, "1", &format!("{AGENT} exit 3"))
        .env(
            "TRACEPARENT",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        )
        .run();
    assert_eq!(run.code(), 3);
    assert_kept_back(&receiver, &run);
}

#[test]
fn what_the_caller_does_not_sample_are_spans_alone() {
    let receiver = Receiver::healthy();
    let run = sh(&format!("{AGENT}{RESULT}"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url(""))
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
        .env(
            "TRACEPARENT",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        )
        .run();
    assert_eq!(run.code(), 0);
    let received = receiver.received();
    let of = |path: &str| {
        received
            .iter()
            .filter(|request| request.path == path)
            .count()
    };
    assert_eq!(of("/v1/traces"), 0);
    assert_eq!(of("/v1/metrics") + of("/v1/logs"), received.len());

    let mut metrics = Vec::new();
    let mut logs = Vec::new();
    for request in &received {
        if request.path == "/v1/logs" {
            let resources = request.logs().resource_logs.into_iter();
            let scopes = resources.flat_map(|resource| resource.scope_logs);
            logs.extend(scopes.flat_map(|scope| scope.log_records));
        } else {
            let resources = request.metrics().resource_metrics.into_iter();
            let scopes = resources.flat_map(|resource| resource.scope_metrics);
            metrics.extend(scopes.flat_map(|scope| scope.metrics).map(|it| it.name));
        }
    }
    // Measured from the spans that were not sent, one of each kind.
    for name in ["gen_ai.client.token.usage", "gen_ai.execute_tool.duration"] {
        assert!(metrics.iter().any(|it| it == name), "{name}: {metrics:?}");
    }
    for name in ["sandtrace.run.started", "sandtrace.agent.exited"] {
        let mut named = logs.iter().filter(|record| record.event_name == name);
        let record = named.next().unwrap_or_else(|| panic!("{name}: {logs:?}"));
        // The record says which trace to ask for, and that there is none to be had.
        let trace: String = record
            .trace_id
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(trace, "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(named.next(), None, "{name} came twice");
    }

    let row = counts(&run);
    assert_eq!(
        row["not_sampled"],
        run.transcript().span_ids().len(),
        "{row}"
    );
    assert_eq!(row["logs"]["exported"], logs.len(), "{row}");
    assert!(row["metrics"]["exported"].as_u64() >= Some(2), "{row}");
    for none in ["dropped", "queued"] {
        assert_eq!(row[none], 0, "{none}: {row}");
        assert_eq!(row["logs"][none], 0, "{none}: {row}");
        assert_eq!(row["metrics"][none], 0, "{none}: {row}");
    }
    run.assert_sound();
    assert!(!run.journal().join("spool").exists());
}

#[test]
fn what_a_held_run_waits_with_is_on_disk_and_a_killed_one_is_sent_by_the_next() {
    let root = tempfile::tempdir().unwrap();
    let receiver = Receiver::healthy();
    let held = run(
        &receiver,
        "0",
        &format!("{AGENT} echo '{{\"ready\":1}}'; read line"),
    )
    .journal(root.path())
    .option("--run-id", "killed")
    .stdin_held()
    .start();
    held.ready();
    let waiting = |root: &Path| {
        let files = fs::read_dir(root.join("killed/spool")).ok()?;
        let names = files.flatten().map(|file| file.path());
        let names: Vec<_> = names
            .filter(|path| path.extension().is_some_and(|ending| ending == "otlp"))
            .collect();
        (!names.is_empty()).then_some(names)
    };
    let files = poll("the spool", || waiting(root.path()));
    let text = String::from_utf8_lossy(&fs::read(&files[0]).unwrap()).into_owned();
    assert!(text.contains("\"state\":\"held\""), "{text}");
    assert!(receiver.received().is_empty());
    held.send(Signal::SIGKILL);
    drop(held);

    let next = run(&receiver, "0", "echo '{\"ready\":1}'; read line")
        .journal(root.path())
        .stdin_held()
        .start();
    next.ready();
    poll("the killed run's spans", || {
        waiting(root.path()).is_none().then_some(())
    });
    receiver.wait_for(1, Duration::from_secs(10));
    let names = receiver.span_names();
    assert!(names.contains(&"execute_tool Bash".to_owned()), "{names:?}");
    assert!(!names.contains(&"agent.run".to_owned()), "{names:?}");
    next.send(Signal::SIGTERM);
    next.wait();
}

#[test]
fn without_a_journal_a_held_run_waits_in_memory() {
    let receiver = Receiver::healthy();
    for (end, spans) in [("exit 3", true), (RESULT, false)] {
        let before = receiver.received().len();
        let run = run(&receiver, "0", &format!("{AGENT} {end}"))
            .without_journal()
            .run();
        let sent = receiver.received().len() > before;
        assert_eq!(sent, spans);
        let row = counts(&run);
        let kept = if spans { "exported" } else { "not_sampled" };
        assert_eq!(row[kept], run.transcript().span_ids().len(), "{row}");
    }
}

/// A run whose spans go to the host, as lines, and to the console.
fn to_host_and_console(rate: &str, script: &str) -> Supervised {
    sh(script)
        .env("OTEL_EXPORTERS", "host,console")
        .env("OTEL_SAMPLING_RATE", rate)
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
}

/// The ids of the spans on the host's lines, sorted; no line is longer than a line may be.
fn told_to_host(run: &Finished) -> Vec<String> {
    let transcript = run.transcript();
    let lines = transcript.all("sandtrace.otlp").into_iter();
    let mut ids = Vec::new();
    for line in lines.filter(|data| data["signal"] == "traces") {
        assert!(line.to_string().len() < 4 << 20);
        let request: ExportTraceServiceRequest =
            serde_json::from_value(line["request"].clone()).unwrap();
        assert!(request.resource_spans[0].resource.is_some());
        let scopes = request.resource_spans.into_iter();
        let scopes = scopes.flat_map(|resource| resource.scope_spans);
        let spans = scopes.flat_map(|scope| scope.spans);
        ids.extend(spans.map(|span| {
            let bytes = span.span_id.iter();
            bytes.map(|byte| format!("{byte:02x}")).collect::<String>()
        }));
    }
    ids.sort();
    ids
}

/// The ids of the spans on stderr, sorted.
fn printed(run: &Finished) -> Vec<String> {
    let errors = run.errors();
    let ids = errors
        .lines()
        .filter_map(|line| line.trim().strip_prefix("SpanId       : "));
    let mut ids: Vec<_> = ids.map(str::to_owned).collect();
    ids.sort();
    ids
}

/// All spans are counted so, and nothing otherwise; metrics and logs came in any case.
fn assert_counted(run: &Finished, as_what: &str) {
    let spans = run.transcript().span_ids().len();
    for destination in ["host", "console"] {
        let row = counts_of(run, destination);
        for count in ["exported", "not_sampled", "dropped", "queued", "spooled"] {
            let expected = if count == as_what { spans } else { 0 };
            assert_eq!(row[count], expected, "{count}: {row}");
        }
        for signal in ["metrics", "logs"] {
            assert!(
                row[signal]["exported"].as_u64() > Some(0),
                "{signal}: {row}"
            );
            assert_eq!(row[signal]["dropped"], 0, "{signal}: {row}");
        }
    }
}

#[test]
fn a_run_that_is_not_chosen_is_kept_back_from_host_and_console_too() {
    let run = to_host_and_console("0", &format!("{AGENT} sleep 0.3 {RESULT}")).run();
    assert_eq!(run.code(), 0);
    assert_eq!(told_to_host(&run), Vec::<String>::new());
    assert_eq!(printed(&run), Vec::<String>::new());
    assert_counted(&run, "not_sampled");
    run.assert_sound();
}

#[test]
fn a_run_that_failed_is_told_whole_to_host_and_console_at_its_end() {
    let run = to_host_and_console("0", &format!("{AGENT} sleep 0.5; exit 3")).run();
    assert_eq!(run.code(), 3);
    let spans = run.transcript().span_ids();
    assert!(spans.len() >= 4);
    assert_eq!(told_to_host(&run), spans);
    assert_eq!(printed(&run), spans);
    assert_counted(&run, "exported");
    // The tool's span was there long before the end, and nobody has heard of it.
    let transcript = run.transcript();
    let verdict = transcript.line("sandtrace.agent.exited").stamp["seq"].as_u64();
    let first = transcript
        .lines
        .iter()
        .find(|line| line.kind() == "sandtrace.otlp" && line.json["data"]["signal"] == "traces");
    let first = first.unwrap().stamp["seq"].as_u64();
    assert!(first > verdict, "{first:?} before {verdict:?}");
    run.assert_sound();
}

#[test]
fn a_run_that_was_slow_is_told_to_host_and_console_and_one_that_is_chosen_at_once() {
    for (rate, slow) in [("0", "100ms"), ("1", "off")] {
        let run = to_host_and_console(rate, &format!("{AGENT} sleep 0.3 {RESULT}"))
            .option("--slow", slow)
            .run();
        assert_eq!(run.code(), 0);
        let spans = run.transcript().span_ids();
        assert_eq!(told_to_host(&run), spans, "{rate}");
        assert_eq!(printed(&run), spans, "{rate}");
        assert_counted(&run, "exported");
        run.assert_sound();
    }
}

#[test]
fn what_the_caller_does_not_sample_is_counted_for_host_and_console() {
    let run = to_host_and_console("1", &format!("{AGENT} exit 3"))
        .env(
            "TRACEPARENT",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        )
        .run();
    assert_eq!(run.code(), 3);
    assert_eq!(told_to_host(&run), Vec::<String>::new());
    assert_eq!(printed(&run), Vec::<String>::new());
    assert_counted(&run, "not_sampled");
    run.assert_sound();
}

#[test]
fn without_a_journal_what_host_and_console_did_not_get_is_counted() {
    let run = to_host_and_console("0", &format!("{AGENT} exit 3"))
        .without_journal()
        .run();
    assert_eq!(run.code(), 3);
    assert_eq!(told_to_host(&run), Vec::<String>::new());
    assert_eq!(printed(&run), Vec::<String>::new());
    assert_counted(&run, "not_sampled");
    run.assert_nothing_left();
}

/// More than may wait for the echo at once.
#[test]
fn a_long_run_that_failed_is_told_whole_however_much_waited() {
    let rounds = 1_200;
    let script = format!(
        r#"
echo '{{"type":"system","subtype":"init","session_id":"s1","model":"m"}}'
i=0
while [ $i -lt {rounds} ]; do
  i=$((i+1))
  echo '{{"type":"assistant","message":{{"id":"m'$i'","model":"m","content":[{{"type":"tool_use","id":"t'$i'","name":"Bash","input":{{}}}}],"usage":{{"input_tokens":1,"output_tokens":1}}}}}}'
  echo '{{"type":"user","message":{{"content":[{{"type":"tool_result","tool_use_id":"t'$i'","content":"x"}}]}}}}'
done
exit 3
"#
    );
    let run = to_host_and_console("0", &script)
        .env("OTEL_BSP_SCHEDULE_DELAY", "5000")
        .option("--attribute", format!("pad={}", "x".repeat(3_000)))
        .option("--flush-timeout", "100s")
        .run();
    assert_eq!(run.code(), 3);
    let spans = run.transcript().span_ids();
    assert!(spans.len() > 2 * rounds, "{}", spans.len());
    assert!(told_to_host(&run) == spans, "the host got others");
    assert!(printed(&run) == spans, "the console got others");
    assert_counted(&run, "exported");
    run.assert_nothing_left();
}

#[test]
fn what_the_journal_has_lost_of_a_held_run_is_counted_as_dropped() {
    let script =
        format!("{AGENT} sleep 0.5; : > \"$(echo \"$DIR\"/journal/*/traces.jsonl)\"; exit 3");
    let run = to_host_and_console("0", &script).run();
    assert_eq!(run.code(), 3);
    let spans = run.transcript().span_ids().len() as u64;
    for destination in ["host", "console"] {
        let row = counts_of(&run, destination);
        let number = |name: &str| row[name].as_u64().unwrap();
        assert!(number("dropped") >= 2, "{row}");
        assert_eq!(number("exported") + number("dropped"), spans, "{row}");
        let told = row["last_error"].as_str().unwrap();
        assert!(told.contains("traces.jsonl"), "{told}");
    }
    assert!(!told_to_host(&run).is_empty(), "the end came after it");
    run.assert_nothing_left();
}
