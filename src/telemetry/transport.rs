//! One request over HTTP or HTTPS: hyper with rustls, and no C library in between.
//!
//! Each destination has a transport of its own: its connections, its trusted certificates, its headers. A transport
//! sends once; whether to send again is decided by [`super::sender`].

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use tokio::time::{Instant, timeout_at};

use super::destination::{Protocol, Route};
use super::encode::is_gzip;
use super::retry::{Verdict, verdict};
use crate::network::dns::Dns;

/// A sandbox that was paused wakes up with dead connections: do not keep them for long.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// The most bytes of an answer that are read.
const ANSWER_BYTES: usize = 64 << 10;

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("sandtrace/", env!("CARGO_PKG_VERSION")));

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Request(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// What a backend answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) verdict: Verdict,
    pub(super) body: Bytes,
}

/// Sends requests to one route.
#[derive(Debug)]
pub(super) struct Transport {
    client: Client<HttpsConnector<HttpConnector<Dns>>, Full<Bytes>>,
    endpoint: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

impl Transport {
    /// Reading the system's certificates takes milliseconds, so this is done when there is something to send.
    pub(super) fn new(
        route: &Route,
        authorities: &[CertificateDer<'static>],
    ) -> Result<Self, TransportError> {
        let mut tcp = HttpConnector::new_with_resolver(Dns::system());
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(route.timeout));
        let secure = route.endpoint.scheme_str() == Some("https");
        let roots = if secure {
            roots(authorities)
        } else {
            RootCertStore::empty()
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(1)
            .build(connector);
        Ok(Self {
            client,
            endpoint: route.endpoint.clone(),
            headers: headers(route),
            timeout: route.timeout,
        })
    }

    /// Sends one body. The whole exchange is bounded by the destination's timeout.
    pub(super) async fn post(&self, body: Bytes) -> Result<Answer, TransportError> {
        let deadline = Instant::now() + self.timeout;
        let gzip = is_gzip(&body);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        *request.headers_mut() = self.headers.clone();
        if gzip {
            request
                .headers_mut()
                .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let response = timeout_at(deadline, self.client.request(request))
            .await
            .map_err(|_| TransportError::Timeout(self.timeout))?
            .map_err(|error| TransportError::Request(chain(&error)))?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        let verdict = verdict(status, retry_after, SystemTime::now());
        // The status has decided. An answer whose body is late, long or cut off must not make us send twice.
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect();
        let body = match timeout_at(deadline, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) | Err(_) => Bytes::new(),
        };
        Ok(Answer {
            status,
            verdict,
            body,
        })
    }
}

fn headers(route: &Route) -> HeaderMap {
    let mut headers = route.headers.clone();
    headers.entry(USER_AGENT).or_insert(AGENT);
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(match route.protocol {
            Protocol::HttpProtobuf | Protocol::Grpc => "application/x-protobuf",
            Protocol::HttpJson => "application/json",
        }),
    );
    headers
}

/// The authorities built in, the system's where there are any, and the user's own.
fn roots(authorities: &[CertificateDer<'static>]) -> RootCertStore {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    // An image without certificates, or with broken ones, is no reason to distrust the rest.
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    roots.add_parsable_certificates(authorities.iter().cloned());
    roots
}

/// An error with all its causes: the outermost one only says that something failed.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some errors repeat their cause.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
