//! Words and numbers as variables hold them.

use super::{DestinationError, Lookup};

/// The first of these that is set, with its name.
pub(super) fn first(lookup: Lookup<'_>, names: &[&'static str]) -> Option<(&'static str, String)> {
    let mut names = names.iter().copied();
    names.find_map(|name| Some((name, lookup(name)?)))
}

/// Whether a variable holds one of these words, in any case.
pub(super) fn is(lookup: Lookup<'_>, name: &str, words: &[&str]) -> bool {
    lookup(name).is_some_and(|value| {
        let value = value.trim();
        words.iter().any(|word| value.eq_ignore_ascii_case(word))
    })
}

/// Reads one of several words, in any case.
pub(super) fn word<T: Copy>(
    variable: &'static str,
    value: String,
    words: &[(&str, T)],
    allowed: &'static str,
) -> Result<T, DestinationError> {
    let found = words
        .iter()
        .find(|(word, _)| value.trim().eq_ignore_ascii_case(word));
    match found {
        Some((_, meaning)) => Ok(*meaning),
        None => Err(DestinationError::Value {
            variable,
            value,
            allowed,
        }),
    }
}

/// Reads a number within bounds.
pub(super) fn number(
    variable: &'static str,
    value: String,
    bounds: std::ops::RangeInclusive<u64>,
    allowed: &'static str,
) -> Result<u64, DestinationError> {
    match value.trim().parse::<u64>() {
        Ok(number) if bounds.contains(&number) => Ok(number),
        _ => Err(DestinationError::Value {
            variable,
            value,
            allowed,
        }),
    }
}

/// Reads a number above 0; a day in milliseconds is longer than any wait of ours.
pub(super) fn positive(
    variable: &'static str,
    value: String,
    allowed: &'static str,
) -> Result<u64, DestinationError> {
    number(variable, value, 1..=86_400_000, allowed)
}
