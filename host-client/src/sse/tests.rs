//! What comes out is read back by a parser that was written from the standard, and knows nothing of how it was made.

mod browser;

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use self::browser::{Message, Stream};
use super::*;
use crate::run::{Loss, LossReason, Run};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn event(seq: u64, line: Value) -> Event {
    let mut line = line;
    line["sandtrace"] = json!({
        "seq": seq, "time": "2026-01-31T12:00:00.000000Z", "trace_id": TRACE, "span_id": "00f067aa0ba902b7",
    });
    Event::parse(&line.to_string()).unwrap()
}

fn text(seq: u64, text: &str) -> Event {
    event(seq, json!({ "type": "text", "data": { "text": text } }))
}

fn started(seq: u64) -> Event {
    event(
        seq,
        json!({ "type": "sandtrace.run.started", "data": {
            "wire": 1, "run_id": "run-7", "pid": 1, "executable": "python3", "trace_id": TRACE,
            "root_span_id": "00f067aa0ba902b7", "parent_span_id": null, "versions": { "sandtrace": "0.1.0" },
            "journal": null, "abilities": {},
            "limits": { "line_bytes": 1, "deadline_ms": null, "idle_timeout_ms": null, "grace_ms": 1,
                        "flush_timeout_ms": 1, "journal_bytes": 1 },
        }}),
    )
}

fn finished(seq: u64) -> Event {
    event(
        seq,
        json!({ "type": "sandtrace.run.finished", "data": {
            "outcome": "success", "failure": null, "exit": null, "duration_ms": 1.0,
            "usage": { "input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0,
                       "cache_creation_input_tokens": 0 },
            "cost": null, "cache_hit_ratio": null, "phases": {},
            "counts": { "turns": 0, "chats": 0, "tools": 0, "subagents": 0, "retries": 0, "events": 0,
                        "unrecognised": 0 },
            "resources": null, "survivors": [],
            "telemetry": { "spans": 0, "spans_dropped": 0, "destinations": [] },
        }}),
    )
}

fn feed(events: impl IntoIterator<Item = Event>) -> Feed {
    let mut feed = Feed::new(1 << 20);
    for event in events {
        feed.push(&event);
    }
    feed
}

/// All that a browser gets that begins after `last`.
fn all(feed: &Feed, last: Last) -> Vec<Message> {
    let mut reader = feed.reader(last);
    let mut stream = Stream::default();
    while let Reading::Text(text) = reader.read(feed, 1) {
        stream.feed(&text);
    }
    stream.messages
}

fn names(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| &*message.name).collect()
}

fn json_of(message: &Message) -> Value {
    serde_json::from_str(&message.data).unwrap()
}

#[test]
fn a_line_becomes_one_event_with_its_number_its_type_and_itself() {
    let event = text(17, "hello");
    let expected = format!("id: 17\nevent: agent.text\ndata: {}\n\n", event.raw());
    assert_eq!(text_of(&event, Names::ByType), expected);
    let expected = format!("id: 17\ndata: {}\n\n", event.raw());
    assert_eq!(text_of(&event, Names::Unnamed), expected);
    assert_eq!(retry(Duration::from_millis(1500)), "retry: 1500\n\n");
}

#[test]
fn what_a_line_is_called_is_the_suppliers_word_or_the_agents_with_a_prefix() {
    let long = "x".repeat(100);
    let cut = format!("agent.{}", "x".repeat(NAME_BYTES - "agent.".len()));
    let cases = [
        (
            json!({ "type": "sandtrace.heartbeat", "data": { "uptime_ms": 1, "state": "in_tool" } }),
            "sandtrace.heartbeat",
        ),
        (
            json!({ "type": "sandtrace.of.tomorrow", "data": {} }),
            "sandtrace.of.tomorrow",
        ),
        (json!({ "type": "sandtrace.x\ny" }), "sandtrace.x_y"),
        (json!({ "type": "assistant" }), "agent.assistant"),
        // These are the names of EventSource's own events.
        (json!({ "type": "error" }), "agent.error"),
        (json!({ "type": "open" }), "agent.open"),
        (json!({ "type": "end" }), "agent.end"),
        (json!({}), "agent"),
        (json!({ "type": 7 }), "agent"),
        (
            json!({ "type": "a\nid: 99\ndata: forged" }),
            "agent.a_id__99_data__forged",
        ),
        (json!({ "type": "a\rb\u{0}c\u{2028}d" }), "agent.a_b_c_d"),
        (json!({ "type": long }), cut.as_str()),
    ];
    for (line, expected) in cases {
        let mut stream = Stream::default();
        stream.feed(&text_of(&event(1, line.clone()), Names::ByType));
        assert_eq!(names(&stream.messages), [expected], "{line}");
    }
}

#[test]
fn line_breaks_between_the_tokens_of_a_line_break_no_event() {
    let stamp = format!(
        "\"sandtrace\":{{\"seq\":3,\"time\":\"2026-01-31T12:00:00.000000Z\",\"trace_id\":\"{TRACE}\",\"span_id\":\"00f067aa0ba902b7\"}}"
    );
    for space in ["\r", "\r\n", "\n", "\r\r", "\n\n", "\r\n\r\n", "\n\r"] {
        let line = format!("{{\"type\":{space}\"text\",{space}{stamp}{space}}}");
        let event = Event::parse(&line).unwrap();
        let mut stream = Stream::default();
        stream.feed(&text_of(&event, Names::ByType));
        assert_eq!(stream.messages.len(), 1, "{space:?}");
        assert_eq!(json_of(&stream.messages[0]), event.json(), "{space:?}");
        assert_eq!(stream.messages[0].last_id, "3");
    }
}

#[test]
fn the_first_and_the_last_event_have_the_trace_id_wherever_a_browser_comes_in() {
    let feed = feed([started(1), text(2, "a"), text(3, "b"), finished(4)]);
    let messages = all(&feed, Last::none());
    assert_eq!(
        names(&messages),
        [
            "trace",
            "sandtrace.run.started",
            "agent.text",
            "agent.text",
            "sandtrace.run.finished",
            "end"
        ]
    );
    let first = json_of(&messages[0]);
    assert_eq!(first["trace_id"], TRACE);
    assert_eq!(first["run_id"], "run-7");
    assert_eq!(first["root_span_id"], "00f067aa0ba902b7");
    let last = json_of(&messages[5]);
    assert_eq!(last["trace_id"], TRACE);
    assert_eq!(last["outcome"], "success");
    assert_eq!(last["seq"], 4);
    assert_eq!(messages[5].last_id, "4.end");

    let messages = all(&feed, Last::parse("3"));
    assert_eq!(names(&messages), ["trace", "sandtrace.run.finished", "end"]);
    assert_eq!(json_of(&messages[0])["trace_id"], TRACE);
}

#[test]
fn who_has_the_end_gets_nothing_more_and_who_has_the_last_line_gets_the_end() {
    let feed = feed([started(1), finished(2)]);
    assert_eq!(names(&all(&feed, Last::parse("2"))), ["trace", "end"]);
    let mut reader = feed.reader(Last::parse("2.end"));
    assert_eq!(reader.read(&feed, 1 << 20), Reading::Over);
}

#[test]
fn the_end_of_another_life_does_not_end_a_feed_that_goes_on() {
    let mut feed = feed([started(1), text(2, "a")]);
    let mut reader = feed.reader(Last::parse("2.end"));
    assert_eq!(reader.read(&feed, 1 << 20), Reading::Nothing);
    feed.push(&text(3, "b"));
    let Reading::Text(text) = reader.read(&feed, 1 << 20) else {
        panic!("the third event is there");
    };
    assert!(text.contains("id: 3\n"), "{text}");
}

#[test]
fn a_lost_run_ends_with_its_failure() {
    let mut run = Run::new();
    let events = [started(1), text(2, "a")];
    let mut feed = Feed::new(1 << 20);
    for event in &events {
        run.apply(event);
        feed.push(event);
    }
    let conclusion = run.lose(Loss::new(LossReason::SandboxGone)).clone();
    feed.conclude(&conclusion);
    feed.conclude(&conclusion);
    // What comes late is nobody's any more.
    feed.push(&text(3, "late"));
    let messages = all(&feed, Last::none());
    assert_eq!(
        names(&messages),
        ["trace", "sandtrace.run.started", "agent.text", "end"]
    );
    let end = json_of(&messages[3]);
    assert_eq!(end["failure"]["class"], "lost");
    assert_eq!(end["lost"]["reason"], "sandbox_gone");
    assert_eq!(end["trace_id"], TRACE);
}

#[test]
fn a_reader_that_is_too_slow_is_told_what_it_missed_and_goes_on() {
    let one = text_of(&text(1, "0123456789"), Names::ByType).len() + 64;
    let mut feed = Feed::new(3 * one + 10);
    let mut reader = feed.reader(Last::none());
    let mut stream = Stream::default();
    feed.push(&text(1, "0123456789"));
    feed.push(&text(2, "0123456789"));
    if let Reading::Text(text) = reader.read(&feed, 1) {
        stream.feed(&text);
    }
    for seq in 3..=8 {
        feed.push(&text(seq, "0123456789"));
    }
    assert_eq!(reader.seq(), 1);
    assert_eq!(feed.missing(&reader), 4);
    while let Reading::Text(text) = reader.read(&feed, 1) {
        stream.feed(&text);
    }
    assert_eq!(
        names(&stream.messages),
        [
            "trace",
            "agent.text",
            "gap",
            "agent.text",
            "agent.text",
            "agent.text"
        ]
    );
    let ids: Vec<_> = stream.messages.iter().map(|m| &*m.last_id).collect();
    assert_eq!(ids, ["", "1", "5", "6", "7", "8"]);
    assert_eq!(
        json_of(&stream.messages[2]),
        json!({ "after": 1, "missing": 4 })
    );
}

#[test]
fn who_reads_what_is_missing_in_the_journal_is_told_of_no_gap() {
    let mut feed = Feed::new(1);
    for seq in 1..=5 {
        feed.push(&text(seq, "x"));
    }
    let mut reader = feed.reader(Last::parse("2"));
    assert_eq!(feed.missing(&reader), 2);
    reader.skip_to(reader.seq() + feed.missing(&reader));
    assert_eq!(feed.missing(&reader), 0);
    let mut stream = Stream::default();
    while let Reading::Text(text) = reader.read(&feed, 1) {
        stream.feed(&text);
    }
    assert_eq!(names(&stream.messages), ["trace", "agent.text"]);
}

#[test]
fn what_was_passed_over_is_nobodys_gap() {
    let mut feed = feed([started(1)]);
    feed.pass_over(&text(2, "telemetry"));
    feed.pass_over(&text(3, "telemetry"));
    feed.push(&text(4, "a"));
    let messages = all(&feed, Last::none());
    assert_eq!(
        names(&messages),
        ["trace", "sandtrace.run.started", "agent.text"]
    );
    let mut reader = feed.reader(Last::parse("4"));
    assert_eq!(reader.read(&feed, 1), Reading::Nothing);
}

#[test]
fn the_header_of_a_browser_is_a_number_or_nothing() {
    for (header, expected) in [
        ("", Last::none()),
        ("0", Last::none()),
        ("17", Last::seq(17)),
        ("17.end", Last { seq: 17, end: true }),
        ("+17", Last::none()),
        ("-1", Last::none()),
        (" 17", Last::none()),
        ("17 ", Last::none()),
        (".end", Last::none()),
        ("17.end.end", Last::none()),
        ("99999999999999999999999", Last::none()),
        ("abc", Last::none()),
    ] {
        assert_eq!(Last::parse(header), expected, "{header:?}");
    }
}

proptest! {
    /// However the text is cut on its way, whatever the agent printed: each event once, in order, as it was.
    #[test]
    fn what_a_browser_reads_is_what_was_put_in(
        lines in prop::collection::vec(("\\PC*|[\\r\\n\\x00: ]{0,8}", "(?s).{0,40}"), 1..12),
        cut in 1_usize..50,
    ) {
        let events: Vec<_> = (1..).zip(&lines).map(|(seq, (kind, body))| {
            event(seq, json!({ "type": kind, "data": { "text": body } }))
        }).collect();
        let feed = feed(events.clone());
        let mut reader = feed.reader(Last::none());
        let mut sent = retry(Duration::from_secs(1)) + KEEPALIVE;
        while let Reading::Text(text) = reader.read(&feed, 100) {
            sent.push_str(&text);
            sent.push_str(KEEPALIVE);
        }
        let mut stream = Stream::default();
        for piece in sent.chars().collect::<Vec<_>>().chunks(cut) {
            stream.feed(&piece.iter().collect::<String>());
        }
        prop_assert_eq!(stream.retry, Some(1000));
        prop_assert_eq!(stream.messages.len(), events.len() + 1);
        prop_assert_eq!(&*stream.messages[0].name, "trace");
        for (message, event) in stream.messages[1..].iter().zip(&events) {
            prop_assert_eq!(&message.last_id, &event.seq().to_string());
            prop_assert_eq!(&message.data, event.raw());
            prop_assert!(message.name.starts_with("agent") || message.name.starts_with("sandtrace."));
        }
    }

    /// A browser whose connection is cut anywhere, and who reads at any speed, sees no event twice, and is told of each
    /// that it does not see.
    #[test]
    fn each_event_is_seen_once_or_missed_with_notice(
        steps in prop::collection::vec((0_u64..6, 0_usize..3, any::<bool>()), 1..40),
        room in 1_usize..2000,
    ) {
        let mut feed = Feed::new(room);
        let mut seq = 0;
        let mut stream = Stream::default();
        let mut reader = feed.reader(Last::none());
        let mut accounted = 0;
        let mut account = |stream: &mut Stream| {
            for message in stream.messages.drain(..) {
                let data: Value = serde_json::from_str(&message.data).unwrap();
                match &*message.name {
                    "trace" | "end" => {}
                    "gap" => {
                        assert_eq!(data["after"], json!(accounted));
                        accounted += data["missing"].as_u64().unwrap();
                    }
                    _ => {
                        accounted += 1;
                        assert_eq!(message.last_id, accounted.to_string());
                    }
                }
            }
            accounted
        };
        for (pushes, reads, cut) in steps {
            for _ in 0..pushes {
                seq += 1;
                feed.push(&text(seq, "0123456789"));
            }
            for _ in 0..reads {
                if let Reading::Text(text) = reader.read(&feed, 300) {
                    // A cut connection loses the rest of what was on its way.
                    let until = if cut { text.len() / 2 } else { text.len() };
                    stream.feed(&text[..until]);
                }
            }
            account(&mut stream);
            if cut {
                reader = feed.reader(Last::parse(stream.last_id()));
                stream.reconnect();
            }
        }
        seq += 1;
        feed.push(&finished(seq));
        reader = feed.reader(Last::parse(stream.last_id()));
        stream.reconnect();
        while let Reading::Text(text) = reader.read(&feed, 300) {
            stream.feed(&text);
        }
        let ends = stream.messages.iter().filter(|m| m.name == "end").count();
        prop_assert_eq!(ends, 1);
        prop_assert_eq!(account(&mut stream), seq);
        prop_assert_eq!(reader.read(&feed, 300), Reading::Over);
    }
}
