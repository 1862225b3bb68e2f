use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn json(text: &str) -> Json<'_> {
    Json(text)
}

#[test]
fn only_a_whole_object_is_an_object() {
    for line in [
        r#"{}"#,
        r#"{ }"#,
        "  {\"a\":1}\t\r",
        r#"{"a":{"b":[]},"a":2}"#,
        r#"{"lone \ud83d":"\udc00"}"#,
    ] {
        let object = Json::object(line.as_bytes()).unwrap();
        assert_eq!(object.raw(), line.trim());
    }
    for line in [
        &b""[..],
        b" ",
        b"{",
        b"[1]",
        b"42",
        b"\"text\"",
        b"null",
        b"{} {}",
        b"{}}",
        b"{\"a\":1,}",
        b"{\"a\":NaN}",
        b"{'a':1}",
        b"{\"a\":\"\xff\"}",
        b"{\"a\":\"tab\there\"}",
        b"\xef\xbb\xbf{}",
        b"\0{}",
        b"\x0c{}",
        b"{}\x0b",
    ] {
        assert_eq!(Json::object(line), None, "{}", line.escape_ascii());
    }
}

#[test]
fn no_nesting_is_too_deep() {
    let depth = 200_000;
    let line = format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let mut seen = 0;
    Json::object(line.as_bytes())
        .unwrap()
        .members(&mut |_, value| seen = value.raw().len());
    assert_eq!(seen, 2 * depth);
}

#[test]
fn the_last_of_two_equal_keys_wins_however_they_are_spelled() {
    fields! {
        Pair { a: "a", b: "b" | "B" }
    }
    let pair: Pair<'_> = json(r#"{"a":1,"b":2, "\u0061" : 3 ,"B":4,"c":5}"#).fields();
    assert_eq!((pair.a, pair.b), (Json("3"), Json("4")));
}

#[test]
fn a_value_of_another_type_is_absent() {
    for other in ["", "null", "true", "[1]", "{}", "-1.5", "1e999", "-"] {
        assert_eq!(json(other).unsigned(), None, "{other}");
        assert_eq!(json(other).text(), None, "{other}");
        assert_eq!(json(other).text_start(3), None, "{other}");
        assert_eq!(json(other).status(), None, "{other}");
    }
    assert_eq!(json("\"12\"").unsigned(), None);
    assert_eq!(json("\"12\"").number(), None);
    assert_eq!(json("\"inf\"").number(), None);
    assert_eq!(json("70000").status(), None);
    assert!(!json("1").is_true() && !json("\"true\"").is_true());
    json("[{\"a\":1}]").members(&mut |_, _| unreachable!("an array has no members"));
    json("{\"a\":1}").elements(&mut |_| unreachable!("an object has no elements"));
}

#[test]
fn numbers_may_be_written_as_floats() {
    assert_eq!(json("12").unsigned(), Some(12));
    assert_eq!(json("12.0").unsigned(), Some(12));
    assert_eq!(json("1.2e3").unsigned(), Some(1200));
    assert_eq!(json("18446744073709551615").unsigned(), Some(u64::MAX));
    assert_eq!(json("18446744073709551616").unsigned(), None);
    assert_eq!(json("-3").signed(), Some(-3));
    assert_eq!(json("0.5").number(), Some(0.5));
}

#[test]
fn escapes_are_undone_and_lone_surrogates_replaced() {
    for (raw, text) in [
        (r#""plain""#, "plain"),
        (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r#""caf\u00e9 \ud83d\ude00!""#, "café 😀!"),
        (r#""\ud83d""#, "\u{fffd}"),
        (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀"),
        (r#""\ude00\n""#, "\u{fffd}\n"),
        (r#""\ud83d\u0041""#, "\u{fffd}A"),
    ] {
        assert_eq!(json(raw).text().unwrap(), text, "{raw}");
        assert_eq!(json(raw).text_start(100).unwrap(), text, "{raw}");
        assert_eq!(json(raw).char_count(), text.chars().count(), "{raw}");
    }
    assert!(matches!(json(r#""plain""#).text(), Some(Cow::Borrowed(_))));
}

/// Any JSON, with text that needs escapes, is long enough for the search by words, and hides brackets in strings.
fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["[a-z\"\\\\{}\\[\\],: \u{1}é😀\n]{0,12}", "[a-z\"]{60,200}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(text.clone(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// What the walk finds, put together again.
fn rebuilt(json: Json<'_>) -> Value {
    if json.is_object() {
        let mut map = serde_json::Map::new();
        json.members(&mut |key, value| {
            map.insert(key.to_owned(), rebuilt(value));
        });
        Value::Object(map)
    } else if json.is_array() {
        let mut array = Vec::new();
        json.elements(&mut |element| array.push(rebuilt(element)));
        Value::Array(array)
    } else if let Some(text) = json.text() {
        Value::from(text)
    } else {
        serde_json::from_str(json.raw()).unwrap()
    }
}

proptest! {
    #[test]
    fn the_walk_finds_what_serde_json_finds(value in value(), pretty: bool) {
        let text = if pretty {
            serde_json::to_string_pretty(&value).unwrap()
        } else {
            value.to_string()
        };
        // Through its text, since a float may change its last digit there.
        let expected: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(rebuilt(json(&text)), expected);
    }

    #[test]
    fn any_string_is_read_as_serde_json_reads_it(text: String, escape_all: bool) {
        let raw = if escape_all {
            let units = text.encode_utf16().map(|unit| format!("\\u{unit:04X}"));
            format!("\"{}\"", units.collect::<String>())
        } else {
            serde_json::to_string(&text).unwrap()
        };
        prop_assert_eq!(json(&raw).text().unwrap(), text.as_str());
        for chars in [0, 1, 5, 200] {
            let start: String = text.chars().take(chars).collect();
            prop_assert_eq!(json(&raw).text_start(chars).unwrap(), start);
        }
    }

    #[test]
    fn a_walk_of_anything_ends(text: String) {
        for container in [format!("{{{text}"), format!("[{text}")] {
            json(&container).members(&mut |_, value| drop(value.text()));
            json(&container).elements(&mut |value| drop(value.text()));
        }
    }
}
