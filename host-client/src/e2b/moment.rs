//! Moments as RFC 3339 writes them, without a library for calendars.

use std::time::{Duration, SystemTime};

use crate::time::micros;

const DAY: u64 = 86_400;

/// In UTC and whole milliseconds: `2026-01-31T12:00:00.000Z`. From 1970 on; earlier moments are taken for its begin.
pub(super) fn written(moment: SystemTime) -> String {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or(Duration::ZERO);
    let (days, of_day) = (since.as_secs() / DAY, since.as_secs() % DAY);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let milliseconds = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

/// Reads what E2B writes, which is in UTC.
pub(super) fn read(text: &str) -> Option<SystemTime> {
    let micros = u64::try_from(micros(text)?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros))
}

fn is_leap(year: u64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn month_lengths(year: u64) -> [u64; 12] {
    let february = if is_leap(year) { 29 } else { 28 };
    [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

/// The date so many days after 1970-01-01. A loop over years: there are few.
fn date(mut days: u64) -> (u64, usize, u64) {
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let mut month = 1;
    for length in month_lengths(year) {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::{read, written};

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
    }

    #[test]
    fn moments_are_written_as_everybody_writes_them() {
        assert_eq!(written(at(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(written(at(951_782_400_000)), "2000-02-29T00:00:00.000Z");
        assert_eq!(written(at(1_769_860_800_123)), "2026-01-31T12:00:00.123Z");
        assert_eq!(written(at(4_102_444_799_999)), "2099-12-31T23:59:59.999Z");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(milliseconds in 0_u64..7_258_118_400_000) {
            prop_assert_eq!(read(&written(at(milliseconds))), Some(at(milliseconds)));
        }
    }
}
