//! What the types of the wire must do with any bytes: refuse them, or read what can be written and read again as the
//! same.

use std::fmt::Debug;

use sandtrace_client::{Body, Stamp};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) fn check(line: &[u8]) {
    round_trip::<Body>(line);
    round_trip::<Stamp>(line);
}

fn round_trip<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(bytes) else {
        return;
    };
    let written = serde_json::to_string(&read).expect("what was read can be written");
    let again: T = serde_json::from_str(&written)
        .unwrap_or_else(|error| panic!("{error}: cannot be read again: {written}"));
    assert_eq!(again, read, "{written}");
    assert_eq!(serde_json::to_string(&again).ok(), Some(written));
}
