//! Times of the wire, compared. There is no clock here.

/// Microseconds since 1970 of an RFC 3339 time in UTC, as the wire has them.
pub(crate) fn micros(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once(['T', ' '])?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut clock = clock.splitn(3, ':').map(str::parse::<i64>);
    let (hour, minute, second) = (
        clock.next()?.ok()?,
        clock.next()?.ok()?,
        clock.next()?.ok()?,
    );
    let is_moment = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    let digits = fraction.get(..6.min(fraction.len()))?;
    let micros: i64 = format!("{digits:0<6}").parse().ok()?;
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    is_moment.then_some(seconds * 1_000_000 + micros)
}

/// Days since 1970 of a day in the Gregorian calendar; the year of the count begins in March, so that the leap day is
/// its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::micros;

    #[test]
    fn a_time_of_the_wire_is_read_to_the_microsecond() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-03-01T00:00:00Z", Some(951_868_800_000_000)),
            ("2024-02-29T12:00:00.5Z", Some(1_709_208_000_500_000)),
            ("2026-01-31T12:00:00.123456Z", Some(1_769_860_800_123_456)),
            (
                "2026-01-31T12:00:00.123456789Z",
                Some(1_769_860_800_123_456),
            ),
            ("2026-01-31T12:00:00+01:00", None),
            ("2026-13-31T12:00:00Z", None),
            ("tomorrow", None),
            ("", None),
            ("2026-01-31T12:00:00.é12345Z", None),
        ] {
            assert_eq!(micros(text), expected, "{text}");
        }
    }
}
