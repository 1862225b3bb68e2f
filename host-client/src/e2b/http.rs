//! HTTP, as far as E2B needs it.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Builder, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::error::Error;
use super::refusal::{Code, Refusal};

/// The longest answer that is taken, bytes.
const ANSWER_BYTES: usize = 4 << 20;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How much of one stream may be under way and not taken yet, bytes.
const WINDOW: u32 = 512 << 10;

/// Headers that hold a key: neither printed nor kept in a table of the connection.
const SECRET: [&str; 3] = ["x-api-key", "x-access-token", "authorization"];

type Connector = HttpsConnector<HttpConnector>;
type Pool = Client<Connector, Full<Bytes>>;

/// A client for plain calls, and the maker of streams.
#[derive(Debug, Clone)]
pub(super) struct Web {
    pool: Pool,
    connector: Connector,
}

/// What is to be sent.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
}

/// An answer with its body.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// There was no connection: nothing was done.
    Connect(Box<dyn StdError + Send + Sync>),
    /// The connection broke: nobody knows whether it was done.
    Lost(Box<dyn StdError + Send + Sync>),
    /// It took too long: nobody knows either.
    Timeout(Duration),
}

impl Failed {
    pub(super) fn into_error(self, what: &str, url: &str) -> Error {
        let url = url.to_owned();
        match self {
            Self::Connect(source) => Error::Unreachable { url, source },
            Self::Lost(source) => Error::AnswerLost { url, source },
            Self::Timeout(after) => Error::Timeout {
                what: what.to_owned(),
                after,
            },
        }
    }
}

impl Web {
    pub(super) fn new() -> Result<Self, Error> {
        // Named, so that it does not matter which one the rest of the application prefers.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = HttpsConnectorBuilder::new().with_provider_and_webpki_roots(provider);
        let builder = builder.map_err(|error| Error::Config(format!("no TLS: {error}")))?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        let builder = builder.https_or_http().enable_http1().enable_http2();
        let connector = builder.wrap_connector(http);
        let pool = builder_of_clients().build(connector.clone());
        Ok(Self { pool, connector })
    }

    /// Makes a call and reads its answer.
    pub(super) async fn call(&self, call: &Call, limit: Duration) -> Result<Answer, Failed> {
        let answer = async {
            let response = send(&self.pool, call).await?;
            let status = response.status();
            let retry_after = retry_after(response.headers());
            let body = Limited::new(response.into_body(), ANSWER_BYTES)
                .collect()
                .await;
            let body = body.map_err(Failed::Lost)?.to_bytes();
            Ok(Answer {
                status,
                retry_after,
                body,
            })
        };
        let answer = tokio::time::timeout(limit, answer).await;
        answer.unwrap_or(Err(Failed::Timeout(limit)))
    }

    /// Makes a call whose answer is a stream, on a connection of its own: streams that share one would wait for the slowest
    /// of their readers, and all break together.
    pub(super) async fn open(
        &self,
        call: &Call,
        limit: Duration,
    ) -> Result<Response<Incoming>, Failed> {
        let mut builder = builder_of_clients();
        let client: Pool = builder
            .pool_max_idle_per_host(0)
            .build(self.connector.clone());
        let response = tokio::time::timeout(limit, send(&client, call)).await;
        response.unwrap_or(Err(Failed::Timeout(limit)))
    }
}

fn builder_of_clients() -> Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_initial_stream_window_size(WINDOW)
        .http2_initial_connection_window_size(2 * WINDOW);
    builder
}

async fn send(client: &Pool, call: &Call) -> Result<Response<Incoming>, Failed> {
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(&call.url);
    for (name, value) in &call.headers {
        let value = HeaderValue::from_str(value);
        let mut value = value.map_err(|error| Failed::Connect(error.into()))?;
        value.set_sensitive(SECRET.contains(name));
        request = request.header(*name, value);
    }
    let agent = concat!("sandtrace-client/", env!("CARGO_PKG_VERSION"));
    request = request.header(header::USER_AGENT, agent);
    // A URL that is none reaches nobody.
    let request = request.body(Full::new(call.body.clone()));
    let request = request.map_err(|error| Failed::Connect(error.into()))?;
    let response = client.request(request).await;
    response.map_err(|error| match error.is_connect() {
        true => Failed::Connect(error.into()),
        false => Failed::Lost(error.into()),
    })
}

/// The longest that is believed of a server that asks to be left alone.
const RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Whole seconds, at most a day; the other form, a date, is not sent by E2B.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let after = seconds.trim().parse().ok().map(Duration::from_secs)?;
    Some(after.min(RETRY_AFTER))
}

impl Answer {
    /// The answer, if it is one.
    pub(super) fn accepted(self, what: &str) -> Result<Bytes, Error> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let refusal = Refusal::of(self.status.as_u16(), &self.body);
        Err(refused(
            what,
            self.status.as_u16(),
            refusal,
            self.retry_after,
        ))
    }
}

/// The error that a refusal is, with the status that it came with.
pub(super) fn refused(
    what: &str,
    status: u16,
    refusal: Refusal,
    retry_after: Option<Duration>,
) -> Error {
    let what = what.to_owned();
    let status = match refusal.code {
        Code::Status(status) => status,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::ResourceExhausted => 429,
        _ => status,
    };
    match status {
        401 | 403 => Error::Unauthorised { what, refusal },
        404 => Error::NotFound { what, refusal },
        429 => Error::RateLimited {
            retry_after,
            refusal,
        },
        _ => Error::Refused { what, refusal },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, header};

    use super::retry_after;

    #[test]
    fn nobody_is_made_to_wait_for_more_than_a_day() {
        for (said, heard) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("18446744073709551615", Some(86_400)),
            ("Fri, 31 Dec 1999 23:59:59 GMT", None),
        ] {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, said.parse().unwrap())]);
            assert_eq!(retry_after(&headers), heard.map(Duration::from_secs));
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
