//! Reports on journals made by hand, at three widths.

mod journal;

use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::cli::{Journal as Root, Settings};
use crate::report::view::Charset::{Ascii, Unicode};
use journal::{Journal, TRACE, at, chat, finished, load_as};

fn none() -> Value {
    json!({})
}

const MODEL: &str = "chat claude-sonnet-4-5";

fn success() -> Journal {
    let mut journal = Journal::default();
    journal
        .run_started("nightly-7")
        .open("t1", "run", "invoke_agent claude", 310)
        .raw("{\"type\":\"assistant\",\"message\":{\"content\":[]},\"sandtrace\":{\"seq\":4,\"time\":\"2026-01-31T12:00:01.000000Z\",\"trace_id\":\"0af7651916cd43dd8448eb211c80319c\",\"span_id\":\"t1\"}}\n")
        .span("c1", "t1", MODEL, (400, 4_500), &chat(18_210, 412, 0.0312, 1.53))
        .open("w1", "t1", "execute_tool Read", 4_520)
        .open("w2", "t1", "execute_tool Grep", 4_530)
        .open("w3", "t1", "execute_tool Bash", 4_540)
        .end("w1", 4_700, &none())
        .end("w2", 5_900, &none())
        .fail("w3", 9_100, "the command exited with 1", &json!({"error.type": "tool_error"}))
        .span("c2", "t1", MODEL, (9_200, 12_000), &{
            let mut retried = chat(21_480, 655, 0.0218, 1.1);
            retried["sandtrace.retries"] = json!(2);
            retried
        })
        .open("w4", "t1", "execute_tool Agent", 12_010)
        .open("s1", "w4", "invoke_agent Explore", 12_100)
        .span("c3", "s1", "chat claude-haiku-4-5", (12_150, 14_000), &chat(9_300, 220, 0.0041, 0.4))
        .span("w5", "s1", "execute_tool Glob", (14_010, 14_030), &none())
        .span("w6", "s1", "execute_tool Read", (14_012, 15_400), &none())
        .span("c4", "s1", "chat claude-haiku-4-5", (15_500, 18_200), &chat(11_020, None, 0.0052, 0.5))
        .end("s1", 18_250, &none())
        .end("w4", 18_300, &none())
        .span("c5", "t1", MODEL, (18_400, 22_000), &chat(28_600, 980, 0.0391, 1.2))
        .end("t1", 22_100, &json!({"sandtrace.cost.usd": 0.1014}))
        .open("t2", "run", "invoke_agent claude", 23_000)
        .span("c6", "t2", MODEL, (23_050, 26_000), &chat(29_800, 801, 0.0401, 0.9))
        .open("w7", "t2", "execute_tool Bash", 26_010)
        .span("a1", "w7", "approval Bash", (26_020, 33_500), &json!({"sandtrace.approval.decision": "allow"}))
        .end("w7", 36_800, &json!({"sandtrace.background": true}))
        .line(37_000, "warning", &json!({"code": "stdout_slow", "message": "the host read too slowly, lines were taken from the journal", "counts": {"lines": 12}}))
        .span("c7", "t2", MODEL, (37_000, 40_700), &chat(29_800, 1_242, 0.0458, 1.0))
        .end("t2", 40_900, &json!({"sandtrace.cost.usd": 0.0859}))
        .line(41_180, "agent.exited", &json!({"outcome": "success", "failure": null, "exit": {"code": 0, "signal": null, "core_dumped": false, "reported_code": 0}}))
        .end("run", 41_200, &json!({"sandtrace.cost.usd": 0.1873, "sandtrace.usage.input_tokens": 148_210, "sandtrace.usage.output_tokens": 4_310}))
        .line(41_250, "run.finished", &{
            let mut data = finished(41_200.0);
            data["survivors"] = json!([{"pid": 4300, "command": "node", "killed": false}]);
            data
        });
    journal
}

fn failed() -> Journal {
    let failure = json!({
        "class": "api", "reason": "overloaded",
        "message": "The Messages API was overloaded and stayed so through 10 retries.",
        "confidence": 0.9, "recoverable": true,
        "evidence": [
            {"source": "result", "fact": "is_error with terminal_reason api_error and status 529"},
            {"source": "stream", "fact": "10 api_retry events, the last with status 529, over 61 seconds and with growing delays"},
            {"source": "wait_status", "fact": "exit code 1"},
        ],
        "alternatives": [
            {"class": "api", "reason": "server_error", "confidence": 0.08},
            {"class": "unknown", "confidence": 0.02},
        ],
    });
    let exit = json!({"code": 1, "signal": null, "core_dumped": false, "reported_code": 1});
    let mut journal = Journal::default();
    journal
        .run_started("0198d6a2-7a53-7cc0-9d41-6a0a4f1c2b77")
        .open("t1", "run", "invoke_agent claude", 290)
        .span("c1", "t1", MODEL, (350, 3_100), &chat(12_004, 188, 0.0201, 0.8))
        .open("w1", "t1", "execute_tool Bash", 3_120)
        .open("c2", "t1", MODEL, 3_300)
        .fail("c2", 64_800, "API Error: 529 Overloaded", &json!({"error.type": "api.overloaded", "sandtrace.retries": 10}))
        .fail("w1", 65_000, None, &json!({"error.type": "timeout", "sandtrace.abandoned": true, "sandtrace.background": true}))
        .fail("t1", 65_000, None, &json!({"error.type": "api.overloaded", "sandtrace.cost.usd": 0.0201}))
        .line(65_100, "agent.exited", &json!({"outcome": "failure", "failure": failure, "exit": exit}))
        .fail("run", 65_100, "The Messages API was overloaded.", &json!({"error.type": "api.overloaded"}));
    for _ in 0..3 {
        let data = json!({"code": "export_failed", "message": "langfuse refused a batch: 401 Unauthorized"});
        journal.line(65_200, "warning", &data);
    }
    let mut data = finished(65_100.0);
    data["outcome"] = json!("failure");
    data["failure"] = failure;
    data["exit"] = exit;
    data["usage"] = json!({"input_tokens": 12_004, "output_tokens": 188, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0});
    data["cost"] = json!({"usd": 0.0201, "source": "table@2026-01-15"});
    data["cache_hit_ratio"] = json!(0.0);
    data["phases"]["tools_ms"] = json!(null);
    data["counts"] = json!({"turns": 1, "chats": 2, "tools": 1, "subagents": 0, "retries": 10, "events": 31, "unrecognised": 0});
    data["telemetry"] = json!({"spans": 5, "spans_dropped": 1, "destinations": [
        {"name": "otlp", "exported": 5, "dropped": 0, "queued": 0},
        {"name": "langfuse", "exported": 0, "dropped": 3, "queued": 2, "last_error": "401 Unauthorized"},
    ]});
    data["survivors"] = json!([{"pid": 4300, "command": "pytest", "killed": true}]);
    journal.line(65_300, "run.finished", &data);
    journal
}

fn in_progress() -> Journal {
    let mut journal = Journal::default();
    journal
        .run_started("half-way")
        .open("t1", "run", "invoke_agent claude", 310)
        .span(
            "c1",
            "t1",
            MODEL,
            (400, 2_900),
            &chat(18_210, 412, 0.0312, 1.2),
        )
        .span("w1", "t1", "execute_tool Read", (2_910, 2_911), &none())
        .span(
            "c2",
            "t1",
            MODEL,
            (3_000, 5_400),
            &chat(19_800, None, 0.0102, 0.7),
        )
        .open("w2", "t1", "execute_tool Bash", 5_450)
        .open("c3", "t1", MODEL, 6_100)
        .line(
            12_300,
            "heartbeat",
            &json!({"uptime_ms": 12_300, "state": "in_tool"}),
        )
        .raw("{\"type\":\"sandtrace.span.ended\",\"data\":{\"span_id\":\"c3\",\"par");
    journal
}

fn hostile() -> Journal {
    let huge = format!("execute_tool {}", "x".repeat(100_000));
    let mut journal = Journal::default();
    journal
        .run_started("hostile")
        .open("t1", "run", "invoke_agent \u{1b}[2J\u{1b}]0;owned\u{7}claude", 300)
        .open("w1", "t1", &huge, 400)
        .fail("w1", 900, "\u{1b}[31mred\u{1b}[0m\nsecond \u{202e}line", &json!({"error.type": "\u{9b}2J"}))
        .span("w2", "t1", "execute_tool 漢字の名前がとても長い道具です", (900, 2_000), &none())
        .span("w3", "t1", "execute_tool e\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}te\u{301} 👩\u{200d}👩\u{200d}👧", (1_000, 3_000), &none())
        .span("lost", "gone", "execute_tool Orphan", (1_500, 2_500), &none())
        .span("self", "self", "execute_tool Self", (1_600, 2_500), &none())
        .span("l1", "l2", "chat loop-one", (2_000, 3_000), &chat(u64::MAX / 8, u64::MAX, f64::MAX, -1.0))
        .span("l2", "l1", "chat loop-two", (2_100, 3_000), &none())
        // Ends before it starts, starts before the run, starts long after it, ends twice.
        .span("w4", "t1", "execute_tool Backwards", (3_000, 1_000), &none())
        .line(3_000, "span.ended", &json!({"span_id": "early", "parent_span_id": "t1", "name": "execute_tool Early", "status": "unset", "duration_ms": 1e300, "attributes": {}}))
        .span("late", "t1", "execute_tool Late", (900_000_000, 900_000_001), &none())
        .end("late", 900_000_900, &none())
        .span("", "t1", "", (3_000, 3_000), &none())
        .open("w1", "run", "a second start of the same span", 5)
        // Lines that are not what they claim to be.
        .raw("\n")
        .raw("not json\n")
        .raw("{\"type\":\"sandtrace.span.started\",\"data\":{}}\n")
        .raw("{\"type\":\"sandtrace.span.started\",\"data\":{\"span_id\":\"x\",\"parent_span_id\":null,\"name\":\"x\",\"kind\":\"internal\",\"start_time\":\"yesterday\",\"attributes\":{}}}\n")
        .raw("{\"type\":\"sandtrace.of.tomorrow\",\"data\":5}\n")
        .raw("{\"type\":17,\"sandtrace\":\"mine\"}\n");
    // Fifteen levels, each within the other.
    let ids = [
        "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9", "da", "db", "dc", "dd", "de",
    ];
    let mut parent = "t1";
    for (id, level) in ids.into_iter().zip(0_u64..) {
        journal.span(
            id,
            parent,
            &format!("execute_tool Level{level}"),
            (3_100 + level * 10, 3_500),
            &none(),
        );
        parent = id;
    }
    journal.end("t1", 4_000, &none()).end("run", 4_000, &none());
    journal
}

fn page(run: Run, width: usize, charset: Charset) -> String {
    let page = render(run, View::new(width, charset, Colour::Off));
    for line in page.lines() {
        assert!(
            !line.contains(char::is_control),
            "a control character: {line:?}"
        );
        assert_eq!(line, line.trim_end(), "trailing space");
        assert!(text::columns(line) <= width, "wider than {width}: {line}");
    }
    page
}

fn snapshots(name: &str, journal: &Journal) {
    for width in [60, 80, 120] {
        insta::assert_snapshot!(
            format!("{name}_{width}"),
            page(journal.load(name), width, Unicode)
        );
    }
}

#[test]
fn a_success_at_three_widths() {
    snapshots("nightly-7", &success());
}

#[test]
fn a_success_in_ascii() {
    let page = page(success().load("nightly-7"), 80, Ascii);
    assert!(page.is_ascii());
    insta::assert_snapshot!(page);
}

#[test]
fn a_failure_at_three_widths() {
    snapshots("failed", &failed());
}

#[test]
fn a_run_in_progress_at_three_widths() {
    snapshots("in_progress", &in_progress());
}

#[test]
fn an_empty_journal_at_three_widths() {
    snapshots("empty", &Journal::default());
}

#[test]
fn a_hostile_journal_at_three_widths() {
    snapshots("hostile", &hostile());
}

#[test]
fn colour_adds_nothing_but_colour() {
    for journal in [success(), failed(), in_progress(), hostile()] {
        let plain = page(journal.load("x"), 80, Unicode);
        let coloured = render(journal.load("x"), View::new(80, Unicode, Colour::Ansi));
        assert_ne!(plain, coloured);
        let mut bare = String::new();
        for (at, part) in coloured.split('\u{1b}').enumerate() {
            let text = if at == 0 {
                part
            } else {
                part.split_once('m').unwrap().1
            };
            bare.push_str(text);
        }
        let bare: Vec<&str> = bare.lines().map(str::trim_end).collect();
        assert_eq!(bare, plain.lines().collect::<Vec<_>>());
    }
}

#[test]
fn of_two_hundred_siblings_the_middle_is_left_out_but_not_its_failures() {
    let siblings = |failing: bool| {
        let mut journal = Journal::default();
        journal.run_started("many");
        for i in 0..200 {
            let id = format!("w{i}");
            journal.open(&id, "run", &format!("execute_tool T{i}"), i * 10);
            if failing && i == 100 {
                journal.fail(&id, i * 10 + 5, None, &json!({"error.type": "denied"}));
            } else {
                journal.end(&id, i * 10 + 5, &none());
            }
        }
        journal.end("run", 2_000, &none());
        page(journal.load("many"), 80, Unicode)
    };
    insta::assert_snapshot!(siblings(false));
    let page = siblings(true);
    assert!(
        page.contains("… 94 more") && page.contains("… 93 more"),
        "{page}"
    );
    assert!(page.contains("✗ execute_tool T100"), "{page}");
}

/// One line of a `traces.jsonl`.
fn request(spans: &[Value]) -> String {
    let scope = json!({"scope": null, "spans": spans, "schemaUrl": ""});
    let resource = json!({"resource": null, "scopeSpans": [scope], "schemaUrl": ""});
    format!("{}\n", json!({"resourceSpans": [resource]}))
}

#[test]
fn the_traces_fill_in_what_the_events_lack() {
    let root = tempfile::tempdir().unwrap();
    let span = |id: &str, end: u64| {
        json!({
            "traceId": TRACE, "spanId": id, "parentSpanId": "", "traceState": "", "flags": 1,
            "name": format!("execute_tool {id}"), "kind": 1,
            "startTimeUnixNano": at(0).0.to_string(), "endTimeUnixNano": at(end).0.to_string(),
            "attributes": [], "droppedAttributesCount": 0, "events": [], "droppedEventsCount": 0,
            "links": [], "droppedLinksCount": 0, "status": {"message": "", "code": 1},
        })
    };
    let mut journal = Journal::default();
    journal
        .open("aa", None, "execute_tool aa", 0)
        .open("bb", None, "execute_tool bb", 0);
    journal.end("bb", 500, &none());
    fs::write(root.path().join("events.ndjson"), &journal.text).unwrap();
    let traces = request(&[span("aa", 300), span("bb", 999), span("cc", 700)]);
    fs::write(root.path().join("traces.jsonl"), traces).unwrap();
    let run = load::load(locate::locate(root.path().as_os_str(), &Root::Off).unwrap()).unwrap();
    let ends: Vec<_> = run
        .spans
        .iter()
        .map(|span| (span.id.as_str(), span.end))
        .collect();
    let expected = [("aa", 300), ("bb", 500), ("cc", 700)].map(|(id, end)| (id, Some(at(end))));
    assert_eq!(ends, expected);
}

#[test]
fn a_last_line_without_its_newline_counts_if_it_is_whole() {
    let mut journal = Journal::default();
    journal.run_started("torn");
    journal.text.truncate(journal.text.trim_end().len());
    let run = journal.load("torn");
    assert_eq!((run.spans.len(), run.unreadable.len()), (1, 0));
    journal.text.truncate(journal.text.len() - 3);
    let run = journal.load("torn");
    assert_eq!((run.spans.len(), run.unreadable.len()), (0, 0));
}

#[test]
fn without_events_the_traces_make_the_report() {
    let root = tempfile::tempdir().unwrap();
    let span = |id: &str,
                parent: &str,
                name: &str,
                (start, end): (u64, u64),
                attributes: &Value| {
        json!({
            "traceId": TRACE, "spanId": id, "parentSpanId": parent, "traceState": "", "flags": 1,
            "name": name, "kind": 1, "startTimeUnixNano": at(start).0.to_string(),
            "endTimeUnixNano": at(end).0.to_string(), "attributes": attributes,
            "droppedAttributesCount": 0, "events": [], "droppedEventsCount": 0, "links": [],
            "droppedLinksCount": 0, "status": {"message": "", "code": 0},
        })
    };
    let mut failed = span(
        "00f067aa0ba902b7",
        "",
        "agent.run",
        (0, 9_000),
        &json!([
            {"key": "error.type", "value": {"stringValue": "oom.agent"}},
            {"key": "sandtrace.usage.input_tokens", "value": {"intValue": "5210"}},
            {"key": "sandtrace.usage.output_tokens", "value": {"intValue": "300"}},
        ]),
    );
    failed["status"] = json!({"message": "The kernel killed the agent for memory.", "code": 2});
    let chat = span(
        "00f067aa0ba902b9",
        "00f067aa0ba902b7",
        MODEL,
        (100, 4_000),
        &json!([
            {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "5210"}},
            {"key": "gen_ai.response.time_to_first_chunk", "value": {"doubleValue": 0.9}},
        ]),
    );
    let file = root.path().join("traces.jsonl");
    fs::write(&file, [request(&[chat]), request(&[failed])].concat()).unwrap();
    let located = locate::locate(file.as_os_str(), &Root::Off).unwrap();
    insta::assert_snapshot!(page(load_as(located, "x"), 80, Unicode));
}

#[test]
fn an_unreadable_run_is_one_sentence() {
    let root = tempfile::tempdir().unwrap();
    let journal = Root::Directory(root.path().to_owned());
    let sentence = |run: &str| {
        let error = locate::locate(run.as_ref(), &journal).unwrap_err();
        assert_eq!(error.exit_code(), 125);
        error
            .to_string()
            .replace(&root.path().display().to_string(), "ROOT")
    };
    assert_eq!(
        sentence("r1"),
        "there is no run \"r1\": looked for ROOT/r1 and r1; no run is kept there"
    );
    for (id, hour) in [("old", 1), ("newer", 2)] {
        let directory = root.path().join(id);
        fs::create_dir(&directory).unwrap();
        let file = fs::File::create(directory.join("events.ndjson")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_hours(hour))
            .unwrap();
    }
    fs::create_dir(root.path().join("bare")).unwrap();
    fs::write(root.path().join("notes.txt"), "").unwrap();
    assert_eq!(
        sentence("a/b"),
        "there is no run \"a/b\": looked for a/b; the newest runs there are newer, old"
    );
    assert_eq!(
        sentence("bare"),
        "ROOT/bare holds neither events.ndjson nor traces.jsonl, so it is no run's journal"
    );
    let notes = root.path().join("notes.txt");
    assert!(sentence(notes.to_str().unwrap()).starts_with("ROOT/notes.txt is of no known kind"));
}

/// A pipe whose reader has gone away, or a disk that is full.
struct Broken(io::ErrorKind);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_went_away_is_no_error_but_a_full_disk_is() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("events.ndjson"), success().text).unwrap();
    let config = ReportConfig {
        run: root.path().into(),
        journal: Root::Off,
        settings: Settings::default(),
    };
    let view = View::new(80, Unicode, Colour::Off);
    print(&config, view, &mut Broken(io::ErrorKind::BrokenPipe)).unwrap();
    let error = print(&config, view, &mut Broken(io::ErrorKind::StorageFull)).unwrap_err();
    assert!(matches!(error, ReportError::Write(_)));
}
