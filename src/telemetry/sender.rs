//! Empties one destination's queue: one request at a time, each sent until it is settled.
//!
//! A destination that fails or hangs costs only itself. While a request waits for its next try, those behind it wait
//! too, for they would meet the same backend. When the pipeline shuts down, a wait of our own making is cut short once,
//! so that the last chance is used; a wait that the backend asked for is not.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message as _;
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::sleep;

use super::counts::Counts;
use super::destination::{Protocol, Route};
use super::queue::{Parcel, Queue};
use super::retry::{TRIES, Verdict, backoff, chance};
use super::transport::{Answer, Transport, TransportError};

/// Sends what is in a queue.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) route: Route,
    pub(super) authorities: Vec<CertificateDer<'static>>,
    pub(super) queue: Arc<Queue>,
    pub(super) counts: Arc<Counts>,
    /// Turns true when the pipeline shuts down.
    pub(super) draining: watch::Receiver<bool>,
}

impl Sender {
    /// Runs until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        let mut transport = None;
        while let Some(parcel) = self.queue.next().await {
            self.deliver(&mut transport, &parcel).await;
            self.queue.settled(&parcel);
        }
    }

    async fn deliver(&mut self, transport: &mut Option<Transport>, parcel: &Parcel) {
        for tries in 1..=TRIES {
            // What is on its way when the shutdown comes has its last chance yet before it.
            let was_draining = *self.draining.borrow();
            let (after, error) = match self.post(transport, parcel).await {
                Ok(answer) => match answer.verdict {
                    Verdict::Delivered => return self.delivered(parcel, &answer),
                    Verdict::Refused => {
                        return self
                            .counts
                            .dropped(parcel.items, &format!("refused: {}", http(&answer)));
                    }
                    Verdict::Retry { after } => (after, http(&answer)),
                },
                Err(error) => (None, error.to_string()),
            };
            if tries == TRIES {
                return self.counts.dropped(
                    parcel.items,
                    &format!("gave up after {tries} tries: {error}"),
                );
            }
            self.counts.error(&error);
            self.wait(tries, after, was_draining).await;
        }
    }

    async fn post(
        &self,
        transport: &mut Option<Transport>,
        parcel: &Parcel,
    ) -> Result<Answer, TransportError> {
        let transport = match transport {
            Some(transport) => transport,
            None => transport.insert(Transport::new(&self.route, &self.authorities)?),
        };
        transport.post(parcel.body.clone()).await
    }

    async fn wait(&mut self, tries: u32, after: Option<Duration>, was_draining: bool) {
        let own = backoff(tries, chance());
        match after {
            Some(asked) => sleep(asked.max(own)).await,
            None if was_draining => sleep(own).await,
            None => tokio::select! {
                () = sleep(own) => {}
                _ = self.draining.wait_for(|draining| *draining) => {}
            },
        }
    }

    fn delivered(&self, parcel: &Parcel, answer: &Answer) {
        let partial = partial_success(self.route.protocol, &answer.body);
        let rejected = u64::try_from(partial.rejected_spans)
            .unwrap_or(0)
            .min(parcel.items);
        self.counts.exported(parcel.items - rejected);
        let message = without_secrets(&partial.error_message, &self.route.headers);
        if rejected > 0 {
            self.counts.dropped(
                rejected,
                &format!("the backend rejected {rejected} spans: {message}"),
            );
        } else if !message.is_empty() {
            self.counts.error(&format!("the backend warns: {message}"));
        }
    }
}

fn http(answer: &Answer) -> String {
    // The body stays out of it: backends echo requests, tokens included.
    format!("HTTP {}", answer.status)
}

/// An answer that cannot be read is taken for full success, as its status says.
fn partial_success(protocol: Protocol, body: &[u8]) -> ExportTracePartialSuccess {
    let partial = match protocol {
        Protocol::HttpProtobuf | Protocol::Grpc => {
            let response = ExportTraceServiceResponse::decode(body).ok();
            response.and_then(|response| response.partial_success)
        }
        Protocol::HttpJson => {
            let response = serde_json::from_slice::<Value>(body).ok();
            response.map(|response| from_json(&response["partialSuccess"]))
        }
    };
    partial.unwrap_or_default()
}

/// By hand, for JSON may write 64-bit numbers as strings and the crate's own types do not read those here.
fn from_json(partial: &Value) -> ExportTracePartialSuccess {
    let rejected = &partial["rejectedSpans"];
    let parsed = rejected.as_str().and_then(|text| text.parse().ok());
    ExportTracePartialSuccess {
        rejected_spans: rejected.as_i64().or(parsed).unwrap_or_default(),
        error_message: partial["errorMessage"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    }
}

/// The backend's words, unless it repeats one of our credentials.
fn without_secrets(message: &str, headers: &HeaderMap) -> String {
    let values = headers.values().filter_map(|value| value.to_str().ok());
    // A credential follows its scheme, as in `Bearer …`.
    let mut secrets = values.filter_map(|value| value.split_whitespace().next_back());
    if secrets.any(|secret| message.contains(secret)) {
        return "(withheld: it repeats a header)".to_owned();
    }
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn partial_success_is_read_in_both_encodings() {
        let partial = ExportTracePartialSuccess {
            rejected_spans: 3,
            error_message: "too old".to_owned(),
        };
        let response = ExportTraceServiceResponse {
            partial_success: Some(partial.clone()),
        };
        assert_eq!(
            partial_success(Protocol::HttpProtobuf, &response.encode_to_vec()),
            partial
        );
        let json = br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}"#;
        assert_eq!(partial_success(Protocol::HttpJson, json), partial);
        let json = br#"{"partialSuccess":{"rejectedSpans":3,"errorMessage":"too old"}}"#;
        assert_eq!(partial_success(Protocol::HttpJson, json), partial);
        for (protocol, body) in [
            (Protocol::HttpProtobuf, &b"\xff\xff"[..]),
            (Protocol::HttpJson, b"<html>"),
            (Protocol::HttpJson, b"{}"),
        ] {
            assert_eq!(
                partial_success(protocol, body),
                ExportTracePartialSuccess::default()
            );
        }
    }

    #[test]
    fn a_backend_that_repeats_a_credential_is_not_quoted() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer hush"));
        assert_eq!(without_secrets("bad clock", &headers), "bad clock");
        assert!(!without_secrets("token hush is old", &headers).contains("hush"));
    }
}
