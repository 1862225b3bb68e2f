//! What a backend answered, the same for HTTP and gRPC.

use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use percent_encoding::percent_decode_str;
use prost::Message as _;
use serde_json::Value;

use super::super::destination::{Protocol, Route, Signal};
use super::super::retry::{Verdict, verdict};
use super::grpc;

/// The most characters of a backend's words that are kept.
const WORDS: usize = 200;

/// What is shorter is no credential, but might well stand in a message by chance.
const SHORTEST_SECRET: usize = 4;

/// What a backend answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    /// What it did not take of a request that it took.
    pub(crate) partial: PartialSuccess,
    /// The answer for people: its status, and the backend's words if there are any.
    pub(crate) told: String,
}

/// What a backend did not take of a request that it took, in spans, data points or log records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PartialSuccess {
    pub(crate) rejected: u64,
    /// Why; without anything rejected, a warning.
    pub(crate) message: String,
}

/// What must not be repeated from a backend's answer: some echo what they were sent.
#[derive(Default)]
pub(super) struct Secrets(Vec<String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Secrets {
    /// The credentials among a route's headers, and in its query, where some backends take them.
    pub(super) fn of(route: &Route) -> Self {
        let mut found = Vec::new();
        for value in route
            .headers
            .values()
            .filter_map(|value| value.to_str().ok())
        {
            // A credential follows its scheme, as in `Bearer …`.
            let Some(credential) = value.split_whitespace().next_back() else {
                continue;
            };
            found.push(credential.to_owned());
            if value.starts_with("Basic ") {
                let decoded = BASE64_STANDARD.decode(credential).unwrap_or_default();
                let decoded = String::from_utf8(decoded).unwrap_or_default();
                found.extend(
                    decoded
                        .split_once(':')
                        .map(|(_, password)| password.to_owned()),
                );
            }
        }
        let query = route.endpoint.query().unwrap_or_default().split('&');
        for value in query.filter_map(|member| Some(member.split_once('=')?.1)) {
            // Whoever echoes it has read it first.
            found.push(percent_decode_str(value).decode_utf8_lossy().into_owned());
            found.push(value.to_owned());
        }
        found.retain(|secret| secret.len() >= SHORTEST_SECRET);
        Self(found)
    }

    /// Somebody's words as one line, unless they repeat a credential of ours.
    fn quoted(&self, words: &str) -> String {
        if self.0.iter().any(|secret| words.contains(secret)) {
            return "(withheld: it repeats a credential)".to_owned();
        }
        let line = words.trim().chars().take(WORDS);
        line.map(|char| if char.is_control() { ' ' } else { char })
            .collect()
    }

    /// A status, with the words that came with it.
    fn told(&self, status: &str, words: &str) -> String {
        match self.quoted(words) {
            words if words.is_empty() => status.to_owned(),
            words => format!("{status}: {words}"),
        }
    }
}

/// Reads an answer to OTLP over HTTP.
pub(super) fn of_http(
    route: &Route,
    secrets: &Secrets,
    (status, headers, body): (StatusCode, &HeaderMap, &Bytes),
    now: SystemTime,
) -> Answer {
    if grpc::speaks_grpc(headers) {
        return Answer {
            verdict: Verdict::Refused,
            partial: PartialSuccess::default(),
            told: format!(
                "HTTP {status} from a server that speaks gRPC: this address wants the protocol grpc"
            ),
        };
    }
    let retry_after = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    let verdict = verdict(status, retry_after, now);
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let json = match kind {
        Some(kind) => kind.starts_with("application/json"),
        None => route.protocol == Protocol::HttpJson,
    };
    let http = format!("HTTP {status}");
    if verdict == Verdict::Delivered {
        let partial = if json {
            partial_json(route.signal, body)
        } else {
            partial_protobuf(body)
        };
        return Answer {
            verdict,
            partial: partial.with(secrets),
            told: http,
        };
    }
    // A body of any other kind stays out of it: backends echo requests, tokens included.
    let words = match kind {
        Some(_) if json => {
            let body = serde_json::from_slice::<Value>(body).unwrap_or_default();
            body["message"].as_str().unwrap_or_default().to_owned()
        }
        Some(kind) if kind.starts_with("application/x-protobuf") => {
            Said::decode(body.as_ref()).unwrap_or_default().message
        }
        _ => String::new(),
    };
    Answer {
        verdict,
        partial: PartialSuccess::default(),
        told: secrets.told(&http, &words),
    }
}

/// Reads an answer to OTLP over gRPC. The status stands in the trailers, or in the headers of an answer without a body.
pub(super) fn of_grpc(
    secrets: &Secrets,
    (http, headers, body): (StatusCode, &HeaderMap, &Bytes),
    trailers: Option<&HeaderMap>,
) -> Answer {
    let status = trailers
        .and_then(grpc::status)
        .or_else(|| grpc::status(headers));
    let Some(status) = status else {
        let hint = if grpc::speaks_grpc(headers) {
            "a proxy may have cut the trailers off"
        } else {
            "this address seems to want OTLP over HTTP (http/protobuf, usually port 4318)"
        };
        return Answer {
            verdict: grpc::status_of_http(http).verdict(),
            partial: PartialSuccess::default(),
            told: format!("HTTP {http} and no gRPC status: {hint}"),
        };
    };
    let partial = match status.verdict() {
        Verdict::Delivered => grpc::message(body).map(|message| partial_protobuf(&message)),
        Verdict::Retry { .. } | Verdict::Refused | Verdict::Unsupported => None,
    };
    Answer {
        verdict: status.verdict(),
        partial: partial.unwrap_or_default().with(secrets),
        told: secrets.told(&status.name(), &status.message),
    }
}

impl PartialSuccess {
    fn with(self, secrets: &Secrets) -> Self {
        Self {
            message: secrets.quoted(&self.message),
            ..self
        }
    }
}

/// The words of `google.rpc.Status`, which OTLP wants in the body of an answer that is an error.
#[derive(Clone, PartialEq, prost::Message)]
struct Said {
    #[prost(string, tag = "2")]
    message: String,
}

/// An answer that cannot be read is taken for full success, as its status says. The three signals' answers differ in
/// names only, which protobuf does not write.
fn partial_protobuf(body: &Bytes) -> PartialSuccess {
    let response = ExportTraceServiceResponse::decode(body.as_ref()).unwrap_or_default();
    let partial = response.partial_success.unwrap_or_default();
    PartialSuccess {
        rejected: u64::try_from(partial.rejected_spans).unwrap_or(0),
        message: partial.error_message,
    }
}

/// By hand, for JSON may write 64-bit numbers as strings, and the crate's own types do not read those here.
fn partial_json(signal: Signal, body: &[u8]) -> PartialSuccess {
    let response = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let partial = &response["partialSuccess"];
    let rejected = &partial[match signal {
        Signal::Traces => "rejectedSpans",
        Signal::Metrics => "rejectedDataPoints",
        Signal::Logs => "rejectedLogRecords",
    }];
    let parsed = rejected.as_str().and_then(|text| text.parse().ok());
    PartialSuccess {
        rejected: rejected.as_u64().or(parsed).unwrap_or_default(),
        message: partial["errorMessage"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use opentelemetry_proto::tonic::collector::logs::v1::{
        ExportLogsPartialSuccess, ExportLogsServiceResponse,
    };
    use opentelemetry_proto::tonic::collector::metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
    };
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use crate::telemetry::{Compression, TlsFiles};

    fn route(signal: Signal, protocol: Protocol) -> Route {
        Route {
            signal,
            endpoint: "http://backend/v1/traces?k=query-token&v=1"
                .parse()
                .unwrap(),
            headers: HeaderMap::new(),
            protocol,
            compression: Compression::None,
            timeout: std::time::Duration::from_secs(1),
            tls: TlsFiles::default(),
        }
    }

    fn http(route: &Route, status: u16, kind: Option<&'static str>, body: &[u8]) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(kind) = kind {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        let status = StatusCode::from_u16(status).unwrap();
        let body = Bytes::copy_from_slice(body);
        let secrets = Secrets::of(route);
        of_http(
            route,
            &secrets,
            (status, &headers, &body),
            SystemTime::UNIX_EPOCH,
        )
    }

    fn grpc(trailers: &[(&'static str, &'static str)], body: &[u8]) -> Answer {
        let trailers = trailers.iter().map(|(name, value)| {
            (
                http::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let body = [&grpc::prefix(false, body.len())[..], body].concat();
        let secrets = Secrets(vec!["hush".to_owned()]);
        of_grpc(
            &secrets,
            (StatusCode::OK, &HeaderMap::new(), &body.into()),
            Some(&trailers.collect()),
        )
    }

    fn expected() -> PartialSuccess {
        PartialSuccess {
            rejected: 3,
            message: "too old".to_owned(),
        }
    }

    /// What a backend writes that rejects three items of a signal.
    fn rejecting(signal: Signal) -> (Vec<u8>, &'static str) {
        let error_message = "too old".to_owned();
        match signal {
            Signal::Traces => {
                let partial_success = Some(ExportTracePartialSuccess {
                    rejected_spans: 3,
                    error_message,
                });
                (
                    ExportTraceServiceResponse { partial_success }.encode_to_vec(),
                    "rejectedSpans",
                )
            }
            Signal::Metrics => {
                let partial_success = Some(ExportMetricsPartialSuccess {
                    rejected_data_points: 3,
                    error_message,
                });
                (
                    ExportMetricsServiceResponse { partial_success }.encode_to_vec(),
                    "rejectedDataPoints",
                )
            }
            Signal::Logs => {
                let partial_success = Some(ExportLogsPartialSuccess {
                    rejected_log_records: 3,
                    error_message,
                });
                (
                    ExportLogsServiceResponse { partial_success }.encode_to_vec(),
                    "rejectedLogRecords",
                )
            }
        }
    }

    #[test]
    fn partial_success_is_read_of_each_signal_in_each_encoding() {
        for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
            let (protobuf, name) = rejecting(signal);
            let answer = http(&route(signal, Protocol::HttpProtobuf), 200, None, &protobuf);
            assert_eq!(answer.verdict, Verdict::Delivered);
            assert_eq!(answer.partial, expected(), "{signal:?}");
            assert_eq!(grpc(&[("grpc-status", "0")], &protobuf).partial, expected());
            for number in ["3", "\"3\""] {
                let json = format!(
                    r#"{{"partialSuccess":{{"{name}":{number},"errorMessage":"too old"}}}}"#
                );
                let asked = route(signal, Protocol::HttpJson);
                assert_eq!(
                    http(&asked, 200, None, json.as_bytes()).partial,
                    expected(),
                    "{json}"
                );
                // Some answer in JSON whatever they are asked in.
                let asked = route(signal, Protocol::HttpProtobuf);
                let kind = Some("application/json; charset=utf-8");
                assert_eq!(http(&asked, 200, kind, json.as_bytes()).partial, expected());
            }
        }
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_full_success() {
        for (protocol, kind, body) in [
            (Protocol::HttpProtobuf, None, &b"\xff\xff"[..]),
            (Protocol::HttpProtobuf, Some("text/html"), b"<html>"),
            (Protocol::HttpJson, None, b"<html>"),
            (Protocol::HttpJson, None, b"{}"),
            (
                Protocol::HttpJson,
                None,
                br#"{"partialSuccess":{"rejectedSpans":-3}}"#,
            ),
        ] {
            let answer = http(&route(Signal::Traces, protocol), 200, kind, body);
            assert_eq!(answer.verdict, Verdict::Delivered);
            assert_eq!(answer.partial, PartialSuccess::default(), "{body:?}");
        }
        let answer = grpc(&[("grpc-status", "0")], b"\xff\xff");
        assert_eq!(
            (answer.verdict, answer.partial),
            (Verdict::Delivered, PartialSuccess::default())
        );
    }

    #[test]
    fn a_backends_words_are_told_where_otlp_puts_them() {
        let asked = route(Signal::Traces, Protocol::HttpProtobuf);
        let said = Said {
            message: "no such\nproject".to_owned(),
        }
        .encode_to_vec();
        for (kind, body, told) in [
            (
                Some("application/x-protobuf"),
                said.as_slice(),
                "HTTP 400 Bad Request: no such project",
            ),
            (
                Some("application/json"),
                br#"{"code":3,"message":"bad clock"}"#,
                "HTTP 400 Bad Request: bad clock",
            ),
            (
                Some("application/json"),
                br#"["message"]"#,
                "HTTP 400 Bad Request",
            ),
            (Some("text/plain"), b"hello", "HTTP 400 Bad Request"),
            (None, b"hello", "HTTP 400 Bad Request"),
        ] {
            assert_eq!(http(&asked, 400, kind, body).told, told);
        }
        let answer = grpc(&[("grpc-status", "16"), ("grpc-message", "who%3F")], b"");
        assert_eq!(answer.told, "gRPC 16 UNAUTHENTICATED: who?");
        assert_eq!(answer.verdict, Verdict::Refused);
    }

    #[test]
    fn a_backend_that_repeats_a_credential_is_not_quoted() {
        let mut asked = route(Signal::Traces, Protocol::HttpProtobuf);
        asked
            .headers
            .insert("x-key", HeaderValue::from_static("Bearer hush"));
        // "pk-1:sk-22".
        asked.headers.insert(
            "authorization",
            HeaderValue::from_static("Basic cGstMTpzay0yMg=="),
        );
        asked
            .headers
            .insert("x-version", HeaderValue::from_static("1"));
        let told = |words: &str| {
            let body = serde_json::json!({ "message": words }).to_string();
            http(&asked, 401, Some("application/json"), body.as_bytes()).told
        };
        assert_eq!(
            told("bad clock at 1"),
            "HTTP 401 Unauthorized: bad clock at 1"
        );
        for secret in ["hush", "sk-22", "cGstMTpzay0yMg==", "query-token"] {
            let told = told(&format!("token {secret} is old"));
            assert_eq!(
                told,
                "HTTP 401 Unauthorized: (withheld: it repeats a credential)"
            );
        }
        let answer = grpc(
            &[("grpc-status", "16"), ("grpc-message", "hush is old")],
            b"",
        );
        assert!(!answer.told.contains("hush"), "{}", answer.told);
        assert!(told(&"x".repeat(1_000)).len() < 250);
    }

    #[test]
    fn a_token_of_the_address_is_known_as_its_reader_spells_it() {
        let mut asked = route(Signal::Traces, Protocol::HttpProtobuf);
        asked.endpoint = "http://backend/v1/traces?k=a%2Fb%20token".parse().unwrap();
        for words in ["no such token: a/b token", "in k=a%2Fb%20token"] {
            let body = serde_json::json!({ "message": words }).to_string();
            let told = http(&asked, 401, Some("application/json"), body.as_bytes()).told;
            assert!(told.contains("withheld"), "{told}");
        }
    }

    #[test]
    fn who_speaks_the_other_protocol_is_told_so() {
        let asked = route(Signal::Traces, Protocol::HttpProtobuf);
        let answer = http(&asked, 200, Some("application/grpc"), b"");
        assert_eq!(answer.verdict, Verdict::Refused);
        assert!(answer.told.contains("protocol grpc"), "{}", answer.told);

        let nothing = (HeaderMap::new(), Bytes::new());
        let answer = |status| {
            let status = StatusCode::from_u16(status).unwrap();
            of_grpc(&Secrets::default(), (status, &nothing.0, &nothing.1), None)
        };
        assert!(
            answer(404).told.contains("OTLP over HTTP"),
            "{:?}",
            answer(404)
        );
        assert_eq!(answer(404).verdict, Verdict::Unsupported);
        assert_eq!(answer(200).verdict, Verdict::Refused);
        assert_eq!(answer(503).verdict, Verdict::Retry { after: None });
    }
}
