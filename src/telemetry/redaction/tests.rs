//! What becomes of whole spans, records and contents; the formats have their own table in `rules/tests.rs`.

use opentelemetry::logs::Severity;
use opentelemetry::trace::{SpanId, SpanKind, TraceId};
use proptest::prelude::*;
use sandtrace_client::failure::{Evidence, FailureKind};

use super::*;
use crate::session::span::SpanEvent;
use crate::time::UnixNanos;

const SECRET: &str = "correct/horse+battery";

fn redactor() -> Redactor {
    knowing(&[("SERVICE_TOKEN", SECRET)], &[])
}

fn knowing(variables: &[(&str, &str)], patterns: &[&str]) -> Redactor {
    let variables = variables.iter();
    let patterns = patterns.iter();
    Redactor::new(
        variables.map(|(name, value)| (OsStr::new(*name), OsStr::new(*value))),
        patterns.map(|text| Pattern::new(text).unwrap()).collect(),
    )
}

fn content(text: &str, form: ContentForm) -> Content {
    Content {
        key: "k",
        text: text.to_owned(),
        form,
    }
}

fn span() -> FinishedSpan {
    FinishedSpan {
        trace_id: TraceId::from(7),
        span_id: SpanId::from(8),
        parent_span_id: None,
        parent_is_remote: false,
        name: "a span".into(),
        kind: SpanKind::Internal,
        start: UnixNanos(1),
        end: UnixNanos(2),
        status: SpanStatus::Unset,
        attributes: Vec::new(),
        events: Vec::new(),
        dropped_events: 0,
        link: None,
        content: Vec::new(),
    }
}

fn log(body: &str) -> LogEntry {
    LogEntry {
        time: UnixNanos(1),
        severity: Severity::Info,
        event: "sandtrace.stderr",
        body: body.to_owned(),
        attributes: Vec::new(),
        trace_id: TraceId::from(7),
        span_id: SpanId::from(8),
    }
}

#[test]
fn every_string_of_a_span_is_redacted_and_its_content_becomes_attributes() {
    let told = format!("it said {SECRET}!");
    let mut dirty = FinishedSpan {
        name: told.clone().into(),
        status: SpanStatus::Error {
            message: told.clone().into(),
        },
        attributes: vec![
            ("text".into(), told.clone().into()),
            (
                "list".into(),
                Value::Array(Array::String(vec!["a".into(), told.clone().into()])),
            ),
            ("number".into(), 7.into()),
        ],
        events: vec![SpanEvent {
            name: told.clone().into(),
            time: UnixNanos(1),
            attributes: vec![("text".into(), told.clone().into())],
        }],
        content: vec![content(&told, ContentForm::Text { chars: 100 })],
        ..span()
    };
    let redactor = redactor();
    let clean = "it said <redacted:SERVICE_TOKEN>!";
    // Its line was told already; that counts nothing here.
    assert_eq!(redactor.text(&told), clean);
    redactor.span(&mut dirty);
    let expected = FinishedSpan {
        name: clean.into(),
        status: SpanStatus::Error {
            message: clean.into(),
        },
        attributes: vec![
            ("text".into(), clean.into()),
            (
                "list".into(),
                Value::Array(Array::String(vec!["a".into(), clean.into()])),
            ),
            ("number".into(), 7.into()),
            ("k".into(), clean.into()),
            (key::REDACTIONS.into(), 7.into()),
        ],
        events: vec![SpanEvent {
            name: clean.into(),
            time: UnixNanos(1),
            attributes: vec![("text".into(), clean.into())],
        }],
        ..span()
    };
    assert_eq!(dirty, expected);
}

#[test]
fn a_span_without_secrets_stays_as_it_was() {
    let mut clean = FinishedSpan {
        attributes: vec![("text".into(), "nothing to see".into())],
        ..span()
    };
    let before = clean.clone();
    redactor().span(&mut clean);
    assert_eq!(clean, before);
}

#[test]
fn a_text_is_redacted_before_it_is_clipped() {
    let redactor = redactor();
    let clipped = |text: &str| {
        redactor
            .content(content(text, ContentForm::Text { chars: 100 }))
            .0
    };
    for from in 75..=105 {
        let text = format!("{}{SECRET}{}", ".".repeat(from), ".".repeat(200));
        let clipped = clipped(&text);
        assert!(!clipped.contains("cor"), "{clipped}");
        assert_eq!(clipped.chars().count(), 100, "{clipped}");
    }
    assert_eq!(clipped(&"é".repeat(100)), "é".repeat(100));
    assert_eq!(clipped(&"é".repeat(101)), "é".repeat(100));
}

#[test]
fn half_a_secret_at_a_cut_is_none_that_passes() {
    let redactor = redactor();
    // Cut by whoever read it: the evidence of a verdict, a content that is longer than anybody keeps.
    assert_eq!(
        redactor.text("it said correct/hor…"),
        "it said <redacted:SERVICE_TOKEN>…"
    );
    assert_eq!(
        redactor.text("…+battery, it said"),
        "…<redacted:SERVICE_TOKEN>, it said"
    );
    assert_eq!(
        redactor.text("that is correct…"),
        "that is <redacted:SERVICE_TOKEN>…"
    );
    assert_eq!(redactor.text("that is correct"), "that is correct");
    let (text, _) = redactor.clipped("it said correct/hor", 100);
    assert_eq!(text, "it said <redacted:SERVICE_TOKEN>");
}

#[test]
fn a_json_content_stays_json_and_each_string_is_clipped() {
    let redactor = redactor();
    let json = |text: &str| redactor.content(content(text, ContentForm::Json { chars: 10 }));
    let dirty = serde_json::json!({
        "command": format!("echo {SECRET}"),
        "list": ["ünïcödé text that is long", {"deep": SECRET}, 1, true, null],
        SECRET: 1,
        "api_key": "a1B2c3D4e5F6g7H8i9",
        "key": "a1B2c3D4e5F6g7H8i9",
    });
    let (clean, taken) = json(&dirty.to_string());
    let clean: Json = serde_json::from_str(&clean).unwrap();
    assert_eq!(
        clean,
        serde_json::json!({
            "command": "echo <reda",
            "list": ["ünïcödé te", {"deep": "<redacted:"}, 1, true, null],
            "<redacted:SERVICE_TOKEN>": 1,
            "api_key": "<redacted:assigned-secret>",
            "key": "a1B2c3D4e5",
        })
    );
    assert_eq!(taken, 4);
    // What is no JSON any more, because somebody cut it, is a text.
    let (text, taken) = json(&format!("{{\"a\": \"{SECRET}"));
    assert_eq!((text.as_str(), taken), ("{\"a\": \"<re", 1));
    // Of two members of one name a parser keeps one: the other must not slip through.
    let twice = format!(r#"{{"a":"{SECRET}","a":"b"}}"#);
    assert_eq!(json(&twice).0, r#"{"a":"b"}"#);
}

#[test]
fn a_private_key_that_stderr_shows_line_by_line_is_redacted_line_by_line() {
    let redactor = redactor();
    let body = "MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn/ygWyF8PbnGy0AHB7MhgHcTz6sE2I2yPB".to_owned();
    let lines = [
        ["-----BEGIN RSA PRI", "VATE KEY-----"].concat(),
        body.clone(),
        format!("12:00:01 ERROR {body}"),
        "Zm9v".to_owned(),
        ["-----END RSA PRI", "VATE KEY-----"].concat(),
        body.clone(),
    ];
    let clean = lines.map(|line| {
        let mut entry = log(&line);
        redactor.log(&mut entry);
        entry.body
    });
    assert_eq!(clean[1..4], ["<redacted:private-key>"; 3]);
    // What comes after the key is none.
    assert_eq!(clean[5], body);
}

#[test]
fn a_log_record_says_how_many_were_taken_out() {
    let redactor = redactor();
    let mut entry = log(&format!("a {SECRET}, b {SECRET}"));
    entry.attributes = vec![("k".into(), SECRET.into())];
    redactor.log(&mut entry);
    assert_eq!(
        entry.body,
        "a <redacted:SERVICE_TOKEN>, b <redacted:SERVICE_TOKEN>"
    );
    assert_eq!(
        entry.attributes,
        [
            ("k".into(), "<redacted:SERVICE_TOKEN>".into()),
            (key::REDACTIONS.into(), Value::I64(3))
        ]
    );
}

#[test]
fn the_words_of_a_verdict_are_redacted_and_its_facts_stay() {
    let mut failure = Failure {
        kind: FailureKind::ApiAuth,
        message: format!("The API refused {SECRET}."),
        confidence: 0.9,
        recoverable: false,
        evidence: vec![Evidence {
            source: "stderr".to_owned(),
            fact: format!("401 {SECRET}"),
        }],
        alternatives: Vec::new(),
    };
    redactor().failure(&mut failure);
    assert_eq!(failure.message, "The API refused <redacted:SERVICE_TOKEN>.");
    assert_eq!(failure.evidence[0].fact, "401 <redacted:SERVICE_TOKEN>");
    assert_eq!(failure.evidence[0].source, "stderr");
}

#[test]
fn the_users_patterns_are_taken_out_as_well() {
    let redactor = knowing(&[], &[r"ACME-\d+", r"(?i)pin (\d{4})"]);
    assert_eq!(
        redactor.text("ACME-12 and PIN 4711, ACME-"),
        "<redacted:user-pattern> and PIN <redacted:user-pattern>, ACME-"
    );
}

#[test]
fn what_overlaps_is_replaced_once_and_nothing_of_it_is_left() {
    let redactor = knowing(
        &[
            ("A_TOKEN", "abcdefghij"),
            ("B_TOKEN", "fghijklmno"),
            ("C_TOKEN", "ghijklmn"),
        ],
        &["jkl"],
    );
    assert_eq!(redactor.text("xabcdefghijklmnox"), "x<redacted:A_TOKEN>x");
    // Side by side they are two.
    assert_eq!(
        redactor.text("abcdefghijabcdefghij"),
        "<redacted:A_TOKEN><redacted:A_TOKEN>"
    );
}

#[test]
fn a_redactor_shows_names_and_no_values() {
    let shown = format!("{:?}", redactor());
    assert!(
        shown.contains("SERVICE_TOKEN") && !shown.contains("horse"),
        "{shown}"
    );
}

proptest! {
    #[test]
    fn no_known_secret_survives_in_any_place_or_company(
        secrets in prop::collection::vec("[a-cé\"\\\\/+ ]{8,12}", 1..4),
        parts in prop::collection::vec((".{0,6}", 0_usize..4, 0_usize..5), 0..6),
        chars in 0_usize..60,
    ) {
        let names: Vec<String> = (0..secrets.len()).map(|n| format!("N{n}_TOKEN")).collect();
        let variables: Vec<(&str, &str)> =
            names.iter().zip(&secrets).map(|(name, secret)| (name.as_str(), secret.as_str())).collect();
        let redactor = knowing(&variables, &[]);
        let mut text = String::new();
        for (between, which, how) in &parts {
            text.push_str(between);
            let secret = secrets[which % secrets.len()].trim();
            text.push_str(&match how {
                0 => Json::from(secret).to_string(),
                1 => Json::from(Json::from(secret).to_string()).to_string(),
                _ => secret.to_owned(),
            });
        }
        let whole = redactor.text(&text).into_owned();
        let (clipped, _) = redactor.clipped(&text, chars);
        let mut json = serde_json::json!([&text]);
        redactor.json(&mut json);
        let json = json[0].as_str().unwrap();
        for secret in secrets.iter().map(|secret| secret.trim()).filter(|secret| secret.len() >= 8) {
            prop_assert!(!whole.contains(secret), "{whole:?}");
            prop_assert!(!clipped.contains(secret), "{clipped:?}");
            prop_assert!(!json.contains(secret), "{json:?}");
        }
    }
}
