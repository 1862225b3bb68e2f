//! OTLP over gRPC, as far as it differs from OTLP over HTTP: a path, five bytes before the message, and a status that
//! comes after the answer, in its trailers.
//!
//! One unary call needs no more than that of gRPC, so there is no gRPC library here; hyper speaks HTTP/2. Sources: the
//! gRPC project's "gRPC over HTTP2" and "HTTP to gRPC Status Code Mapping"; OTLP 1.x, "OTLP/gRPC".

use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use percent_encoding::percent_decode;
use prost::Message as _;

use super::super::destination::Signal;
use super::super::retry::{LONGEST_WAIT, Verdict};

/// The bytes before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Some write the details with padding, some without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What `google.rpc.Status` means to us, whose own code and message the trailers repeat.
#[derive(Clone, PartialEq, prost::Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct Detail {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, prost::Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: u32,
    /// The server's words.
    pub(super) message: String,
    /// `None` without a RetryInfo; zero if that names no time.
    retry_after: Option<Duration>,
}

/// The method's path, which is all that differs between the signals.
pub(super) fn path(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

/// What goes before a message. Requests are far below 4 GiB.
pub(super) fn prefix(compressed: bool, length: usize) -> [u8; PREFIX_BYTES] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [u8::from(compressed), a, b, c, d]
}

/// The message of a unary answer; `None` if there is none, or one that we did not ask for: compressed.
pub(super) fn message(answer: &Bytes) -> Option<Bytes> {
    let (prefix, _) = answer.split_at_checked(PREFIX_BYTES)?;
    let [0, a, b, c, d] = *prefix else {
        return None;
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    let end = PREFIX_BYTES.checked_add(length)?;
    (end <= answer.len()).then(|| answer.slice(PREFIX_BYTES..end))
}

/// Whether an answer claims to be gRPC's.
pub(super) fn speaks_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The status among headers or trailers, if it is there.
pub(super) fn status(fields: &HeaderMap) -> Option<Status> {
    let code = fields.get("grpc-status")?;
    let message = fields.get("grpc-message").map(HeaderValue::as_bytes);
    let details = fields.get("grpc-status-details-bin");
    Some(Status {
        // What is no number is a status that nobody knows: UNKNOWN.
        code: code
            .to_str()
            .ok()
            .and_then(|code| code.parse().ok())
            .unwrap_or(2),
        message: percent_decode(message.unwrap_or_default())
            .decode_utf8_lossy()
            .into_owned(),
        retry_after: details.and_then(|details| retry_after(details.as_bytes())),
    })
}

fn retry_after(details: &[u8]) -> Option<Duration> {
    let details = Details::decode(BASE64.decode(details).ok()?.as_slice()).ok()?;
    let info = details
        .details
        .iter()
        .find(|detail| detail.kind.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.delay;
    let Delay { seconds, nanos } = delay.unwrap_or_default();
    let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let nanos = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
    Some(seconds.saturating_add(nanos).min(LONGEST_WAIT))
}

/// The status of an answer that has none, by that of HTTP: something between us and the server has answered.
pub(super) fn status_of_http(status: StatusCode) -> Status {
    let code = match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    };
    Status {
        code,
        message: String::new(),
        retry_after: None,
    }
}

impl Status {
    /// OTLP's rules, which differ from gRPC's: what lacks a resource is only worth a try if the server says when.
    pub(super) fn verdict(&self) -> Verdict {
        let after = self.retry_after.filter(|wait| !wait.is_zero());
        match self.code {
            0 => Verdict::Delivered,
            1 | 4 | 10 | 11 | 14 | 15 => Verdict::Retry { after },
            8 if self.retry_after.is_some() => Verdict::Retry { after },
            12 => Verdict::Unsupported,
            _ => Verdict::Refused,
        }
    }

    /// The code's number and name.
    pub(super) fn name(&self) -> String {
        const NAMES: [&str; 17] = [
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        ];
        let name = usize::try_from(self.code)
            .ok()
            .and_then(|code| NAMES.get(code));
        match name {
            Some(name) => format!("gRPC {} {name}", self.code),
            None => format!("gRPC {}", self.code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| {
                let value = HeaderValue::from_str(value).unwrap();
                (http::HeaderName::from_static(name), value)
            })
            .collect()
    }

    fn retry_info(delay: Option<(i64, i32)>) -> String {
        let delay = delay.map(|(seconds, nanos)| Delay { seconds, nanos });
        let details = Details {
            details: vec![
                Detail {
                    kind: "type.googleapis.com/google.rpc.DebugInfo".to_owned(),
                    value: b"\xff".to_vec(),
                },
                Detail {
                    kind: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
                    value: RetryInfo { delay }.encode_to_vec(),
                },
            ],
        };
        BASE64.encode(details.encode_to_vec())
    }

    fn judged(code: &str, details: Option<&str>) -> Verdict {
        let mut pairs = vec![("grpc-status", code)];
        pairs.extend(details.map(|details| ("grpc-status-details-bin", details)));
        status(&fields(&pairs)).unwrap().verdict()
    }

    #[test]
    fn only_what_otlp_calls_retryable_is_retried() {
        assert_eq!(judged("0", None), Verdict::Delivered);
        for code in ["1", "4", "10", "11", "14", "15"] {
            assert_eq!(judged(code, None), Verdict::Retry { after: None }, "{code}");
        }
        for code in [
            "2", "3", "5", "6", "7", "8", "9", "13", "16", "17", "-1", "x", "",
        ] {
            assert_eq!(judged(code, None), Verdict::Refused, "{code}");
        }
        assert_eq!(judged("12", None), Verdict::Unsupported);
    }

    #[test]
    fn a_server_without_resources_is_asked_again_only_if_it_says_when() {
        let after = |wait| Verdict::Retry {
            after: Some(Duration::from_millis(wait)),
        };
        for (delay, expected) in [
            (Some((2, 500_000_000)), after(2_500)),
            (Some((86_400, 0)), after(300_000)),
            (Some((i64::MAX, i32::MAX)), after(300_000)),
            (Some((0, 0)), Verdict::Retry { after: None }),
            (Some((-5, -1)), Verdict::Retry { after: None }),
            (None, Verdict::Retry { after: None }),
        ] {
            let details = retry_info(delay);
            assert_eq!(judged("8", Some(&details)), expected, "{delay:?}");
            let bare = details.trim_end_matches('=');
            assert_eq!(judged("14", Some(bare)), expected, "{delay:?}");
            assert_eq!(judged("3", Some(&details)), Verdict::Refused);
        }
        for nonsense in ["", "%%%", "AAAA", "CAgSBG5vbmU="] {
            assert_eq!(judged("8", Some(nonsense)), Verdict::Refused, "{nonsense}");
        }
    }

    #[test]
    fn a_status_is_read_with_its_words() {
        assert_eq!(status(&HeaderMap::new()), None);
        let read = status(&fields(&[
            ("grpc-status", "7"),
            ("grpc-message", "no %E2%9C%93 for you%"),
        ]));
        let read = read.unwrap();
        assert_eq!((read.code, read.message.as_str()), (7, "no ✓ for you%"));
        assert_eq!(read.name(), "gRPC 7 PERMISSION_DENIED");
        assert_eq!(
            status(&fields(&[("grpc-status", "99")])).unwrap().name(),
            "gRPC 99"
        );
    }

    #[test]
    fn an_answer_without_a_status_is_judged_by_that_of_http() {
        for (http, code) in [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 14),
            (502, 14),
            (503, 14),
            (504, 14),
            (200, 2),
            (500, 2),
            (302, 2),
        ] {
            let status = status_of_http(StatusCode::from_u16(http).unwrap());
            assert_eq!(status.code, code, "HTTP {http}");
        }
    }

    #[test]
    fn a_message_is_framed_and_unframed() {
        let framed = [&prefix(false, 3)[..], b"abc"].concat();
        assert_eq!(framed, b"\0\0\0\0\x03abc");
        assert_eq!(prefix(true, 0x0102_0304), [1, 1, 2, 3, 4]);
        assert_eq!(message(&framed.into()), Some(Bytes::from_static(b"abc")));
        for broken in [
            &b""[..],
            b"\0\0\0\0",
            b"\0\0\0\0\x04abc",
            b"\x01\0\0\0\x03abc",
            b"\0\xff\xff\xff\xffabc",
        ] {
            assert_eq!(message(&Bytes::from_static(broken)), None, "{broken:?}");
        }
        assert_eq!(
            message(&Bytes::from_static(b"\0\0\0\0\0")),
            Some(Bytes::new())
        );
    }
}
