//! Lengths of time as people write them: `500ms`, `10s`, `1m30s`, `2h`, and a bare number of seconds.

use std::time::Duration;

use thiserror::Error;

/// Far more than any run needs, and small enough that adding it to a clock never overflows.
pub(super) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Why a text is not a length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DurationError {
    #[error("is not a duration, write one such as 500ms, 10s, 1m30s or 2h")]
    Malformed,
    #[error("is negative, write a duration such as 500ms, 10s, 1m30s or 2h")]
    Negative,
    #[error("is longer than 100 years, write a shorter duration such as 2h")]
    TooLong,
}

/// Reads a length of time. Units go from large to small and each stands once.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    if let Some(rest) = text.strip_prefix('-') {
        // `-5s` is a number with the wrong sign; `-x` is no number at all.
        return Err(parse(rest).map_or_else(|e| e, |_| DurationError::Negative));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut smallest_so_far = None;
    while !rest.is_empty() {
        let number = take(&mut rest, |c| c.is_ascii_digit() || c == '.');
        let unit = take(&mut rest, |c| c.is_ascii_alphabetic());
        let nanos_per_unit: u128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            // A bare number counts seconds, but `1m30` would leave its reader guessing.
            "" if smallest_so_far.is_none() && rest.is_empty() => 1_000_000_000,
            _ => return Err(DurationError::Malformed),
        };
        if smallest_so_far.is_some_and(|smallest| nanos_per_unit >= smallest) {
            return Err(DurationError::Malformed);
        }
        smallest_so_far = Some(nanos_per_unit);
        let nanos = scale(number, nanos_per_unit)?;
        let part = u64::try_from(nanos).map_err(|_| DurationError::TooLong)?;
        total = total
            .checked_add(Duration::from_nanos(part))
            .filter(|total| *total <= LONGEST)
            .ok_or(DurationError::TooLong)?;
    }
    match smallest_so_far {
        Some(_) => Ok(total),
        None => Err(DurationError::Malformed),
    }
}

/// The leading characters that fit, which it removes from `rest`.
fn take<'a>(rest: &mut &'a str, fits: impl Fn(char) -> bool) -> &'a str {
    let end = rest.find(|c| !fits(c)).unwrap_or(rest.len());
    let (taken, left) = rest.split_at(end);
    *rest = left;
    taken
}

/// `number`, which may have a decimal fraction, times `unit`, in exact integers.
fn scale(number: &str, unit: u128) -> Result<u128, DurationError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(DurationError::Malformed);
    }
    // Only digits are left, so the one way to fail is to be too large.
    let whole: u128 = whole.parse().map_err(|_| DurationError::TooLong)?;
    // Ten digits of an hour are finer than a microsecond; what follows them changes nothing.
    let fraction = &fraction[..fraction.len().min(10)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(10));
    let fraction: u128 = fraction.parse().map_err(|_| DurationError::Malformed)?;
    whole
        .checked_mul(unit)
        .and_then(|nanos| nanos.checked_add(fraction * unit / scale))
        .ok_or(DurationError::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let table = [
            ("500ms", 500),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("1h2m3s4ms", 3_723_004),
            ("45", 45_000),
            ("0", 0),
            ("0.5", 500),
            ("1.5s", 1_500),
            ("0.25h", 900_000),
            ("007s", 7_000),
        ];
        for (text, millis) in table {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        use DurationError::{Malformed, Negative, TooLong};
        let table = [
            ("", Malformed),
            ("s", Malformed),
            ("10 s", Malformed),
            ("10S", Malformed),
            ("10d", Malformed),
            ("1m30", Malformed),
            ("30s1m", Malformed),
            ("1s1s", Malformed),
            ("1.s", Malformed),
            (".5s", Malformed),
            ("1.2.3", Malformed),
            ("+5s", Malformed),
            ("--5s", Negative),
            ("1e3", Malformed),
            ("٣s", Malformed),
            ("-", Malformed),
            ("-x", Malformed),
            ("-5s", Negative),
            ("-0.5", Negative),
            ("876001h", TooLong),
            ("99999999999999999999999999999999999999999h", TooLong),
            ("18446744073709551616", TooLong),
            ("340282366920938463463374607431768211455h", TooLong),
        ];
        for (text, error) in table {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
