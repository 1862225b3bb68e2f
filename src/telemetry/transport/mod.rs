//! One request to one backend: OTLP over HTTP or gRPC, by hyper with rustls, and no C library in between.
//!
//! Each route has a transport of its own: its connections, its trusted certificates, its headers, its proxy. A transport
//! sends once; whether to send again is decided by [`super::sender`]. There is one exception. A connection that served
//! before may have died unseen, as all do while a sandbox is paused: a request that finds it dead is sent once more at
//! once, on a new one.

mod answer;
mod grpc;
mod proxy;
mod tls;

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::buf::Chain;
use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, PROXY_AUTHORIZATION, TE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version,
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{
    CaptureConnection, HttpConnector, HttpInfo, capture_connection,
};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout_at};

use self::answer::Secrets;
use self::proxy::{Dialer, Proxy};
use self::tls::Credentials;
use super::destination::{Protocol, Route};
use super::encode::is_gzip;
use crate::network::dns::Dns;

pub(super) use self::answer::Answer;
pub use self::proxy::Proxies;
pub use self::tls::TlsFileError;

/// A sandbox that was paused wakes up with dead connections: do not keep them for long.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// How long the rest of an answer over HTTP is waited for. Its status has decided; who waits longer may be overtaken by
/// the end of the run, and then the next run sends again what was taken.
const BODY_WAIT: Duration = Duration::from_secs(1);

/// The most bytes of an answer that are kept.
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

/// What a route needs besides its own description, read at the start.
#[derive(Debug, Clone, Default)]
pub(super) struct Access {
    credentials: Credentials,
    proxy: Option<Proxy>,
}

impl Access {
    pub(super) fn new(route: &Route, proxies: &Proxies) -> Result<Self, TlsFileError> {
        Ok(Self {
            credentials: Credentials::read(route)?,
            proxy: proxies.to(&route.endpoint),
        })
    }
}

/// A body behind what gRPC puts before it, without a copy.
type Body = Full<Chain<Bytes, Bytes>>;

/// Sends requests to one route.
#[derive(Debug)]
pub(super) struct Transport {
    client: Client<HttpsConnector<Dialer>, Body>,
    route: Route,
    /// What is sent to, which for gRPC is not the route's endpoint.
    target: Uri,
    headers: HeaderMap,
    secrets: Secrets,
    /// Our end of the connection that answered last.
    answered: Option<SocketAddr>,
}

/// An exchange without an answer.
struct Failure {
    error: TransportError,
    /// The connection had served before, and was dead before it answered with a single byte.
    stale: bool,
}

impl Transport {
    /// Takes milliseconds where the system's certificates are read, so it is for when there is something to send.
    pub(super) fn new(route: &Route, access: &Access) -> Result<Self, TransportError> {
        let mut tcp = HttpConnector::new_with_resolver(Dns::system());
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(route.timeout));
        let is_grpc = route.protocol == Protocol::Grpc;
        let encrypted = route.endpoint.scheme_str() == Some("https");
        let forwards = !encrypted && !is_grpc;
        let dialer = Dialer::new(tcp, access.proxy.as_ref(), forwards);
        let builder = HttpsConnectorBuilder::new()
            .with_tls_config(access.credentials.client(encrypted)?)
            .https_or_http();
        let connector = if is_grpc {
            builder.enable_http2().wrap_connector(dialer)
        } else {
            builder.enable_all_versions().wrap_connector(dialer)
        };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(1)
            .http2_only(is_grpc)
            .build(connector);
        let mut headers = headers(route);
        let mut hidden = route.clone();
        if let Some(credentials) = access
            .proxy
            .as_ref()
            .and_then(|proxy| proxy.credentials.clone())
            && forwards
        {
            // It is the proxy that answers 407, and it may say with what we came.
            hidden
                .headers
                .insert(PROXY_AUTHORIZATION, credentials.clone());
            headers.insert(PROXY_AUTHORIZATION, credentials);
        }
        Ok(Self {
            client,
            target: target(route),
            headers,
            secrets: Secrets::of(&hidden),
            route: route.clone(),
            answered: None,
        })
    }

    /// Sends one body. The whole exchange is bounded by the route's timeout.
    pub(super) async fn post(&mut self, body: Bytes) -> Result<Answer, TransportError> {
        let deadline = Instant::now() + self.route.timeout;
        match self.exchange(body.clone(), deadline).await {
            Err(Failure { stale: true, .. }) => self.exchange(body, deadline).await,
            result => result,
        }
        .map_err(|failure| failure.error)
    }

    async fn exchange(&mut self, body: Bytes, deadline: Instant) -> Result<Answer, Failure> {
        let mut request = self.request(body);
        let connection = capture_connection(&mut request);
        let late = || TransportError::Timeout(self.route.timeout);
        let failure = match timeout_at(deadline, self.client.request(request)).await {
            Ok(Ok(response)) => match self.read(response, deadline).await {
                Ok(answer) => {
                    self.answered = our_end(&connection);
                    return Ok(answer);
                }
                Err(error) => Failure {
                    error,
                    stale: false,
                },
            },
            Ok(Err(error)) => {
                let end = our_end(&connection);
                Failure {
                    stale: end.is_some() && end == self.answered && is_gone(&error),
                    error: TransportError::Request(self.explained(&error)),
                }
            }
            Err(_) => Failure {
                error: late(),
                stale: false,
            },
        };
        // HTTP/2 would go on with it, for to HTTP/2 only one stream has failed.
        if let Some(connected) = connection.connection_metadata().as_ref() {
            connected.poison();
        }
        Err(failure)
    }

    fn request(&self, body: Bytes) -> Request<Body> {
        let compressed = is_gzip(&body);
        let is_grpc = self.route.protocol == Protocol::Grpc;
        let mut prefix = Bytes::new();
        if is_grpc {
            prefix = Bytes::copy_from_slice(&grpc::prefix(compressed, body.len()));
        }
        let mut request = Request::new(Full::new(prefix.chain(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.headers.clone();
        if is_grpc {
            *request.version_mut() = Version::HTTP_2;
        }
        if compressed {
            let name = if is_grpc {
                HeaderName::from_static("grpc-encoding")
            } else {
                CONTENT_ENCODING
            };
            request
                .headers_mut()
                .insert(name, HeaderValue::from_static("gzip"));
        }
        request
    }

    async fn read(
        &self,
        response: Response<Incoming>,
        deadline: Instant,
    ) -> Result<Answer, TransportError> {
        let (head, mut incoming) = response.into_parts();
        let is_grpc = self.route.protocol == Protocol::Grpc;
        let deadline = if is_grpc {
            deadline
        } else {
            deadline.min(Instant::now() + BODY_WAIT)
        };
        let mut body = BytesMut::new();
        let mut trailers = None;
        let mut failed = None;
        loop {
            let frame = match timeout_at(deadline, incoming.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => break,
                Ok(Some(Err(error))) => {
                    failed = Some(TransportError::Request(chain(&error)));
                    break;
                }
                Err(_) => {
                    failed = Some(TransportError::Timeout(self.route.timeout));
                    break;
                }
            };
            match frame.into_data() {
                Ok(data) => {
                    let room = ANSWER_BYTES - body.len();
                    body.extend_from_slice(&data[..data.len().min(room)]);
                    if data.len() > room && !is_grpc {
                        break;
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        let body = body.freeze();
        let answer = (head.status, &head.headers, &body);
        if !is_grpc {
            // The status has decided. An answer whose body is late, long or cut off must not make us send twice.
            return Ok(answer::of_http(
                &self.route,
                &self.secrets,
                answer,
                SystemTime::now(),
            ));
        }
        match failed {
            Some(error) if grpc::status(&head.headers).is_none() => Err(error),
            _ => Ok(answer::of_grpc(&self.secrets, answer, trailers.as_ref())),
        }
    }

    /// An error with its causes, and with what to do where the address is of the other protocol.
    fn explained(&self, error: &legacy::Error) -> String {
        let text = chain(error);
        match self.route.protocol {
            Protocol::Grpc if is_no_http2(error, &text) => format!(
                "this address does not speak HTTP/2, which gRPC needs: it may want OTLP over HTTP (http/protobuf, usually port 4318) ({text})"
            ),
            Protocol::HttpProtobuf | Protocol::HttpJson if is_no_http1(error, &text) => format!(
                "this address does not speak HTTP/1: it may want OTLP over gRPC (grpc) ({text})"
            ),
            _ => text,
        }
    }
}

fn target(route: &Route) -> Uri {
    if route.protocol != Protocol::Grpc {
        return route.endpoint.clone();
    }
    let mut parts = route.endpoint.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static(grpc::path(route.signal)));
    Uri::from_parts(parts).unwrap_or_else(|_| route.endpoint.clone())
}

fn headers(route: &Route) -> HeaderMap {
    let mut headers = route.headers.clone();
    headers.entry(USER_AGENT).or_insert(AGENT);
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(match route.protocol {
            Protocol::HttpProtobuf => "application/x-protobuf",
            Protocol::HttpJson => "application/json",
            Protocol::Grpc => "application/grpc",
        }),
    );
    if route.protocol == Protocol::Grpc {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
    }
    headers
}

fn our_end(connection: &CaptureConnection) -> Option<SocketAddr> {
    let connected = connection.connection_metadata();
    let mut extras = Extensions::new();
    connected.as_ref()?.get_extras(&mut extras);
    extras.get::<HttpInfo>().map(HttpInfo::local_addr)
}

/// The causes of an error, itself first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        (*error).source()
    })
}

/// Whether the peer had gone, or was about to and has not begun.
fn is_gone(error: &legacy::Error) -> bool {
    let leaves = |error: &h2::Error| match error.reason() {
        Some(h2::Reason::NO_ERROR) => error.is_go_away(),
        reason => reason == Some(h2::Reason::REFUSED_STREAM),
    };
    causes(error).any(|cause| {
        let leaving = cause.downcast_ref::<h2::Error>().is_some_and(leaves);
        let closed = cause.downcast_ref::<hyper::Error>().is_some_and(|error| {
            error.is_incomplete_message() || error.is_closed() || error.is_canceled()
        });
        let broken = cause.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof
            )
        });
        leaving || closed || broken
    })
}

/// A server of HTTP/1 answers our preface in words, which are no frame; over TLS it refuses to agree on HTTP/2, or
/// agrees on nothing.
fn is_no_http2(error: &legacy::Error, text: &str) -> bool {
    let no_frame = causes(error)
        .filter_map(|cause| cause.downcast_ref::<h2::Error>())
        .any(|error| error.reason() == Some(h2::Reason::FRAME_SIZE_ERROR));
    no_frame || text.contains("NoApplicationProtocol")
}

/// A server of HTTP/2 alone opens with a frame, which comes before our request or after it.
fn is_no_http1(error: &legacy::Error, text: &str) -> bool {
    let is_parse = causes(error)
        .filter_map(|cause| cause.downcast_ref::<hyper::Error>())
        .any(hyper::Error::is_parse);
    is_parse || text.contains("unexpected message from connection")
}

/// An error with all its causes: the outermost one only says that something failed.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let next = cause.to_string();
        // Some errors repeat their cause.
        if text.is_empty() {
            text = next;
        } else if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::destination::{Compression, Signal, TlsFiles};
    use super::super::retry::Verdict;
    use super::*;

    /// A server that answers one request with this, and then says and closes nothing; and where it is.
    async fn answering(answer: String) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1_024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        });
        address
    }

    fn route(endpoint: &str) -> Route {
        Route {
            signal: Signal::Traces,
            endpoint: endpoint.parse().unwrap(),
            headers: HeaderMap::new(),
            protocol: Protocol::HttpProtobuf,
            compression: Compression::None,
            timeout: Duration::from_secs(60),
            tls: TlsFiles::default(),
        }
    }

    #[tokio::test]
    async fn an_answer_without_its_end_keeps_nobody_until_the_timeout() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n";
        let address = answering(head.to_owned()).await;
        let route = route(&format!("http://{address}/v1/traces"));
        let mut transport = Transport::new(&route, &Access::default()).unwrap();
        let began = Instant::now();
        let answer = transport.post(Bytes::from_static(b"body")).await.unwrap();
        assert_eq!(answer.verdict, Verdict::Delivered);
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[tokio::test]
    async fn a_proxy_that_repeats_its_password_is_not_quoted() {
        let said = r#"{"message":"secret-1 is not the password of user"}"#;
        let address = answering(format!(
            "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{said}",
            said.len()
        ))
        .await;
        let proxies = Proxies::from_env(&|name| {
            (name == "http_proxy").then(|| format!("http://user:secret-1@{address}"))
        });
        let route = route("http://backend.example/v1/traces");
        let access = Access::new(&route, &proxies).unwrap();
        let mut transport = Transport::new(&route, &access).unwrap();
        let answer = transport.post(Bytes::from_static(b"body")).await.unwrap();
        assert_eq!(answer.verdict, Verdict::Refused);
        assert!(answer.told.contains("withheld"), "{}", answer.told);
    }
}
