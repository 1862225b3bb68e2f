//! When a request is sent again, and when not: OTLP's rules as pure functions.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use jiff::Timestamp;

/// The most times that one request is sent: once, and five times again (DESIGN §8).
pub(super) const TRIES: u32 = 6;

/// The longest that a backend may ask us to wait; what it asked for beyond is cut.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What a status means for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It arrived.
    Delivered,
    /// It may be sent again, after the wait that the backend asked for, if it did.
    Retry { after: Option<Duration> },
    /// It will never be taken.
    Refused,
    /// Likewise, and nothing of its kind will: there is nobody for this signal at this address.
    Unsupported,
}

/// Judges an answer. `retry_after` is the header's text, in seconds or as an HTTP date.
pub(super) fn verdict(status: StatusCode, retry_after: Option<&str>, now: SystemTime) -> Verdict {
    match status.as_u16() {
        200..=299 => Verdict::Delivered,
        429 | 502 | 503 | 504 => Verdict::Retry {
            after: retry_after.and_then(|text| wait(text.trim(), now)),
        },
        404 | 405 | 415 | 501 => Verdict::Unsupported,
        _ => Verdict::Refused,
    }
}

fn wait(text: &str, now: SystemTime) -> Option<Duration> {
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let time: Timestamp = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            let now = Timestamp::try_from(now).ok()?;
            Duration::try_from(time.duration_since(now)).unwrap_or(Duration::ZERO)
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

/// The wait after the given number of tries: 1, 2, 4, 8, 16 seconds, each within 20 % of that. `chance` lies in 0..1.
pub(super) fn backoff(tries: u32, chance: f64) -> Duration {
    let seconds = f64::from(1_u32 << tries.saturating_sub(1).min(4));
    Duration::from_secs_f64(seconds * (0.8 + 0.4 * chance.clamp(0.0, 1.0)))
}

/// A number in 0..1. The keys of std's hash maps are random enough to spread retries.
pub(super) fn chance() -> f64 {
    let random = RandomState::new().hash_one(0_u8);
    f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_otlp_calls_retryable_is_retried() {
        let judge = |status: u16| {
            verdict(
                StatusCode::from_u16(status).unwrap(),
                None,
                SystemTime::UNIX_EPOCH,
            )
        };
        for status in [200, 202, 204] {
            assert_eq!(judge(status), Verdict::Delivered, "{status}");
        }
        for status in [429, 502, 503, 504] {
            assert_eq!(judge(status), Verdict::Retry { after: None }, "{status}");
        }
        for status in [301, 400, 401, 403, 408, 413, 500] {
            assert_eq!(judge(status), Verdict::Refused, "{status}");
        }
        for status in [404, 405, 415, 501] {
            assert_eq!(judge(status), Verdict::Unsupported, "{status}");
        }
    }

    #[test]
    fn a_wait_is_read_in_seconds_and_as_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_480 - 20);
        for (text, expected) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("86400", Some(300)),
            ("18446744073709551616", None),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(20)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("Wed, 21 Oct 2099 07:28:00 GMT", Some(300)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let after = expected.map(Duration::from_secs);
            let judged = verdict(StatusCode::SERVICE_UNAVAILABLE, Some(text), now);
            assert_eq!(judged, Verdict::Retry { after }, "{text:?}");
        }
    }

    #[test]
    fn a_request_is_sent_again_five_times() {
        let waits: Vec<u64> = (1..TRIES)
            .map(|tries| backoff(tries, 0.5).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16]);
    }

    #[test]
    fn waits_double_within_a_fifth() {
        for (tries, seconds) in [
            (1, 1.0),
            (2, 2.0),
            (3, 4.0),
            (4, 8.0),
            (5, 16.0),
            (60, 16.0),
        ] {
            assert_eq!(backoff(tries, 0.0), Duration::from_secs_f64(seconds * 0.8));
            assert_eq!(backoff(tries, 0.5), Duration::from_secs_f64(seconds));
            assert!((0.0..=1.0).contains(&chance()));
        }
    }
}
