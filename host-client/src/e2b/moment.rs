//! Moments as RFC 3339 writes them, without a library for calendars.

use std::time::{Duration, SystemTime};

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

/// Reads what E2B writes: a moment with `Z` or an offset. `None` for anything else, and before 1970.
pub(super) fn read(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| -> Option<u64> { text.get(range)?.parse().ok() };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let bytes = text.as_bytes();
    if separators
        .iter()
        .any(|(at, wanted)| bytes.get(*at) != Some(wanted))
    {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let rest = &text[19..];
    let zone = rest.find(['Z', '+', '-'])?;
    let fraction = match rest[..zone].strip_prefix('.') {
        Some(digits) => format!("0.{digits}").parse().ok()?,
        None => 0.0,
    };
    let minutes_ahead = match rest[zone..].split_at(1) {
        ("Z", "") => 0,
        (sign, offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let offset = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            if sign == "+" { offset } else { -offset }
        }
    };
    let seconds = days(year, month, day)? * DAY + hour * 3600 + minute * 60 + second;
    let seconds = seconds.checked_add_signed(-minutes_ahead * 60)?;
    let since = Duration::from_secs(seconds) + Duration::try_from_secs_f64(fraction).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since)
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

/// How many days after 1970-01-01 a date is.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let lengths = month_lengths(year);
    let before = lengths.get(..usize::try_from(month.checked_sub(1)?).ok()?)?;
    let length = *lengths.get(before.len())?;
    if year < 1970 || !(1..=length).contains(&day) {
        return None;
    }
    let years: u64 = (1970..year)
        .map(|year| if is_leap(year) { 366 } else { 365 })
        .sum();
    Some(years + before.iter().sum::<u64>() + day - 1)
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

    #[test]
    fn moments_are_read_with_any_fraction_and_offset() {
        for text in [
            "2026-01-31T12:00:00.123Z",
            "2026-01-31T12:00:00.123+00:00",
            "2026-01-31T13:30:00.123000+01:30",
            "2026-01-31T04:00:00.123-08:00",
        ] {
            let moment = read(text).unwrap();
            let off = moment.duration_since(at(1_769_860_800_123));
            let off = off.unwrap_or_else(|before| before.duration());
            assert!(off < Duration::from_micros(1), "{text}");
        }
        for text in [
            "",
            "soon",
            "2026-01-31",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-01-31T12:00:00",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(milliseconds in 0_u64..7_258_118_400_000) {
            let off = read(&written(at(milliseconds))).unwrap().duration_since(at(milliseconds));
            let off = off.unwrap_or_else(|before| before.duration());
            prop_assert!(off < Duration::from_micros(1));
        }

        #[test]
        fn nothing_that_is_read_breaks_the_reader(text in "[-0-9T:.Z+é]{0,40}") {
            read(&text);
        }
    }
}
