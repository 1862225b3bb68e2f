//! Our one member on every line: `,"sandtrace":{"seq":…,"time":…,"trace_id":…,"span_id":…}` before the last brace.
//!
//! Pure. An agent's line keeps each of its bytes, white space included, so that every parser of today's output keeps
//! working; lines of our own take the same way, so that there is one. A sequence number is given here, on admission,
//! and nowhere else.

use std::fmt::Write as _;

use memchr::memrchr;
use opentelemetry::trace::{SpanId, TraceId};

use crate::time::UnixNanos;

const HEX: &[u8; 16] = b"0123456789abcdef";
/// More than our member, its comma and the newline take.
const MEMBER_BYTES: usize = 192;
/// From here on a line is long.
const LONG: usize = 256 << 10;

/// Stamps lines with their place in the run.
#[derive(Debug)]
pub struct Stamper {
    seq: u64,
    trace_id: String,
    /// The second that `clock` spells, for most lines share it with the one before.
    second: u64,
    /// `2026-01-31T12:00:00.`
    clock: String,
}

impl Stamper {
    /// The first line will have `seq` 1.
    #[must_use]
    pub fn new(trace_id: TraceId) -> Self {
        Self {
            seq: 0,
            trace_id: trace_id.to_string(),
            second: u64::MAX,
            clock: String::new(),
        }
    }

    /// From the next line on another trace; the numbers go on.
    pub fn change_trace(&mut self, trace_id: TraceId) {
        self.trace_id = trace_id.to_string();
    }

    /// The number of the last line admitted.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Appends `object` to `out` with our member in it and a newline after it. `object` must be a JSON object, with or
    /// without white space around it; anything else is appended as it is, and `false` says so.
    pub fn admit(
        &mut self,
        object: &[u8],
        time: UnixNanos,
        span: SpanId,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some((head, tail, is_empty)) = split_at_last_brace(object) else {
            out.extend_from_slice(object);
            out.push(b'\n');
            return false;
        };
        self.seq += 1;
        // A long line must not double what the batch holds; for a short one doubling is what makes it cheap.
        if object.len() > LONG {
            out.reserve_exact(object.len() + MEMBER_BYTES);
        } else {
            out.reserve(object.len() + MEMBER_BYTES);
        }
        out.extend_from_slice(head);
        if !is_empty {
            out.push(b',');
        }
        self.member(time, span, out);
        out.extend_from_slice(tail);
        out.push(b'\n');
        true
    }

    fn member(&mut self, time: UnixNanos, span: SpanId, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"sandtrace\":{\"seq\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.seq).as_bytes());
        out.extend_from_slice(b",\"time\":\"");
        self.spell_second(time.0 / 1_000_000_000);
        out.extend_from_slice(self.clock.as_bytes());
        let mut micros = time.0 / 1000 % 1_000_000;
        let mut digits = *b"000000";
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(micros % 10).unwrap_or(0);
            micros /= 10;
        }
        out.extend_from_slice(&digits);
        out.extend_from_slice(b"Z\",\"trace_id\":\"");
        out.extend_from_slice(self.trace_id.as_bytes());
        out.extend_from_slice(b"\",\"span_id\":\"");
        for byte in span.to_bytes() {
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 0xf)]);
        }
        out.extend_from_slice(b"\"}");
    }

    fn spell_second(&mut self, second: u64) {
        if second == self.second {
            return;
        }
        self.second = second;
        self.clock.clear();
        // Writing into a String cannot fail; an empty clock would show in the first test that reads a line.
        if write!(
            self.clock,
            "{}",
            UnixNanos(second.saturating_mul(1_000_000_000))
        )
        .is_ok()
        {
            self.clock.truncate("2026-01-31T12:00:00.".len());
        }
    }
}

/// The number that a line was admitted with; `None` for a line that was not, or is torn.
#[must_use]
pub fn seq_of(line: &[u8]) -> Option<u64> {
    const START: &[u8] = b"\"sandtrace\":{\"seq\":";
    let close = memrchr(b'}', line)?;
    let tail = &line[close.saturating_sub(MEMBER_BYTES)..close];
    let at = tail.windows(START.len()).rposition(|text| text == START)?;
    let rest = &tail[at + START.len()..];
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

/// Splits before the last brace, and says whether the object has no member.
fn split_at_last_brace(object: &[u8]) -> Option<(&[u8], &[u8], bool)> {
    let close = memrchr(b'}', object)?;
    let (head, tail) = object.split_at(close);
    if !tail[1..].iter().all(u8::is_ascii_whitespace) {
        return None;
    }
    let open = head.iter().position(|byte| !byte.is_ascii_whitespace())?;
    if head[open] != b'{' {
        return None;
    }
    Some((
        head,
        tail,
        head[open + 1..].iter().all(u8::is_ascii_whitespace),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sandtrace_client::Stamp;

    use super::*;

    const TIME: UnixNanos = UnixNanos(1_769_860_800_123_456_789);

    fn stamper() -> Stamper {
        Stamper::new(TraceId::from_bytes([0xab; 16]))
    }

    fn admit(object: &str) -> String {
        let mut out = Vec::new();
        assert!(
            stamper().admit(
                object.as_bytes(),
                TIME,
                SpanId::from_bytes([0xcd; 8]),
                &mut out
            ),
            "{object}"
        );
        String::from_utf8(out).unwrap()
    }

    const MEMBER: &str = "\"sandtrace\":{\"seq\":1,\"time\":\"2026-01-31T12:00:00.123456Z\",\
                          \"trace_id\":\"abababababababababababababababab\",\"span_id\":\"cdcdcdcdcdcdcdcd\"}";

    #[test]
    fn the_member_stands_before_the_last_brace_and_nothing_else_changes() {
        for (object, expected) in [
            ("{\"a\":1}", format!("{{\"a\":1,{MEMBER}}}\n")),
            ("{}", format!("{{{MEMBER}}}\n")),
            ("{ }", format!("{{ {MEMBER}}}\n")),
            (
                " {\"a\" : {} } \r",
                format!(" {{\"a\" : {{}} ,{MEMBER}}} \r\n"),
            ),
            ("{\"a\":\"}\"}", format!("{{\"a\":\"}}\",{MEMBER}}}\n")),
        ] {
            assert_eq!(admit(object), expected);
        }
    }

    #[test]
    fn what_is_no_object_passes_unchanged_and_gets_no_number() {
        let mut stamper = stamper();
        for text in ["", "}", "[1]", "{\"a\":1} x", "x{}", "null"] {
            let mut out = Vec::new();
            assert!(!stamper.admit(text.as_bytes(), TIME, SpanId::INVALID, &mut out));
            assert_eq!(out, format!("{text}\n").into_bytes());
        }
        assert_eq!(stamper.seq(), 0);
    }

    #[test]
    fn sequence_numbers_have_no_gaps_and_the_clock_moves_on() {
        let mut stamper = stamper();
        let mut out = Vec::new();
        for n in 0..3_u64 {
            stamper.admit(b"{}", UnixNanos(n * 999_999_999), SpanId::INVALID, &mut out);
        }
        let text = String::from_utf8(out).unwrap();
        let stamps: Vec<Stamp> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["sandtrace"].clone()
            })
            .map(|stamp| serde_json::from_value(stamp).unwrap())
            .collect();
        assert_eq!(
            stamps.iter().map(|stamp| stamp.seq).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        assert_eq!(stamps[0].time, "1970-01-01T00:00:00.000000Z");
        assert_eq!(stamps[1].time, "1970-01-01T00:00:00.999999Z");
        assert_eq!(stamps[2].time, "1970-01-01T00:00:01.999999Z");
    }

    #[test]
    fn a_line_tells_its_number_only_if_it_was_admitted_whole() {
        let line = admit("{\"text\":\"\\\"sandtrace\\\":{\\\"seq\\\":7,\"}");
        assert_eq!(seq_of(line.as_bytes()), Some(1));
        let long = line.replace("\"seq\":1,", "\"seq\":18446744073709551615,");
        assert_eq!(seq_of(long.as_bytes()), Some(u64::MAX));
        for not_admitted in ["", "}", "{}", "{\"seq\":1}", "{\"sandtrace\":{\"seq\":}}"] {
            assert_eq!(seq_of(not_admitted.as_bytes()), None, "{not_admitted}");
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(".*", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn output_minus_our_member_is_the_input(
            map in prop::collection::btree_map(".*", json(), 0..5),
            before in "[ \t]{0,3}",
            after in "[ \t\r]{0,3}",
        ) {
            let object = serde_json::Value::Object(map.into_iter().filter(|(key, _)| key != "sandtrace").collect());
            let line = format!("{before}{object}{after}");
            let out = admit(&line);
            let parsed: serde_json::Value = serde_json::from_str(&out).unwrap();
            prop_assert!(serde_json::from_value::<Stamp>(parsed["sandtrace"].clone()).is_ok());
            prop_assert_eq!(seq_of(out.as_bytes()), Some(1));
            let at = out.rfind(MEMBER).unwrap();
            let mut rest = out.clone();
            rest.replace_range(at..at + MEMBER.len(), "");
            if rest[..at].ends_with(',') {
                rest.remove(at - 1);
            }
            prop_assert_eq!(rest, format!("{line}\n"));
        }
    }
}
