//! Figures reach the host as the supervisor wrote them, to the last digit.

use sandtrace_client::wire::{Body, Cost, Warning};
use serde_json::Map;

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
        let cost = Cost {
            usd,
            source: "agent".to_owned(),
        };
        let line = serde_json::to_string(&cost).unwrap();
        assert_eq!(serde_json::from_str::<Cost>(&line).unwrap(), cost, "{line}");
    }
}

#[test]
fn a_number_without_a_type_of_its_own_is_read_as_it_was_written() {
    for ratio in fractions().take(1000) {
        let body = Body::Warning(Warning {
            code: "test".to_owned(),
            message: String::new(),
            counts: Map::from_iter([("ratio".to_owned(), ratio.into())]),
        });
        let line = serde_json::to_string(&body).unwrap();
        assert_eq!(serde_json::from_str::<Body>(&line).unwrap(), body, "{line}");
    }
}
