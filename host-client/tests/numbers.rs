//! Figures reach the host as the supervisor wrote them, to the last digit.

use sandtrace_client::wire::{Body, Cost};

/// Found by fuzzing: these digits were read as the number next to theirs.
const CACHE_HIT_RATIO: f64 = 0.927_643_784_786_642;

/// Numbers from 0 to 1 with all their digits, the same in every run (Marsaglia's xorshift).
fn fractions() -> impl Iterator<Item = f64> {
    let mut state = 88_172_645_463_325_252_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f64::from_bits(0x3ff0_0000_0000_0000 | (state >> 12)) - 1.0
    })
}

#[test]
fn a_cost_is_read_as_it_was_written() {
    for usd in fractions().take(1000).chain([CACHE_HIT_RATIO]) {
        let line = format!(r#"{{"usd":{usd:?},"source":"agent"}}"#);
        let cost: Cost = serde_json::from_str(&line).unwrap();
        assert_eq!(cost.usd.to_bits(), usd.to_bits(), "{line}");
    }
}

#[test]
fn a_number_without_a_type_of_its_own_is_read_as_it_was_written() {
    for ratio in fractions().take(1000) {
        let line = format!(
            r#"{{"type":"sandtrace.warning","data":{{"code":"test","message":"","counts":{{"ratio":{ratio:?}}}}}}}"#
        );
        let Body::Warning(warning) = serde_json::from_str::<Body>(&line).unwrap() else {
            panic!("{line}");
        };
        assert_eq!(warning.counts["ratio"].as_f64(), Some(ratio), "{line}");
    }
}
