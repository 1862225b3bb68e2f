//! Sends on what sandboxes without egress ask the host to export.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full as Body, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::request::OtlpRequest;

/// Bytes of requests that wait. A run makes some kilobytes a second at most.
const WAITING_BYTES: usize = 16 << 20;
/// How long a receiver may take for one request: OpenTelemetry's own.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Before the second try and those that follow; then the request is given up.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];
/// The longest wait that a receiver may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// More than any answer has.
const ANSWER_BYTES: usize = 64 << 10;

/// Posts the requests of runs to a receiver of OTLP over HTTP, one after the other, in the background.
///
/// It keeps up to 16 MiB of them and takes no more than that; what is full, refused, or not taken after five tries
/// (1, 2, 4, 8, 16 s apart, or as `Retry-After` says) is counted in [`Forwarded`]. A run never waits for it.
#[derive(Debug)]
pub struct Forwarder {
    requests: mpsc::UnboundedSender<Waiting>,
    /// Bounds the channel: each request in it holds as many permits as it has bytes.
    room: Arc<Semaphore>,
    counts: watch::Sender<Forwarded>,
    task: JoinHandle<()>,
}

/// What became of the requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forwarded {
    /// Requests that the receiver took.
    pub forwarded: u64,
    /// Requests that it did not, or that there was no room or time for.
    pub dropped: u64,
    /// Spans, data points and log records that it refused within requests that it took.
    pub rejected_items: u64,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

/// Why there can be no forwarder.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NotForwardable {
    /// The endpoint is no URL to which paths can be added.
    #[error("the endpoint {0:?} is not of the form http://host:4318 or https://host/path")]
    Endpoint(String),
    /// A header cannot be sent. Its value is not shown: it may be a credential.
    #[error("the header {0:?} has a name or a value that HTTP does not allow")]
    Header(String),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// There is no tokio runtime.
    #[error("a forwarder works in the background, and needs a tokio runtime to be started on")]
    NoRuntime,
}

/// Why a request was not taken: too many wait already. It is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("there is no room for a telemetry request of {bytes} bytes")]
#[non_exhaustive]
pub struct Full {
    /// How long the request is.
    pub bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    path: &'static str,
    body: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Forwarder {
    /// Begins. `endpoint` is the base of the paths, for instance `http://127.0.0.1:4318`; `headers` go with every request.
    ///
    /// # Errors
    ///
    /// When the endpoint is no URL, or a header is none, or there is no tokio runtime.
    pub fn start<'a>(
        endpoint: &str,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, NotForwardable> {
        let runtime =
            tokio::runtime::Handle::try_current().map_err(|_| NotForwardable::NoRuntime)?;
        let base = endpoint.trim_end_matches('/');
        let not_a_url = || NotForwardable::Endpoint(endpoint.to_owned());
        let url: Uri = base.parse().map_err(|_| not_a_url())?;
        let is_http = matches!(url.scheme_str(), Some("http" | "https"));
        if !is_http || url.authority().is_none() || url.query().is_some() {
            return Err(not_a_url());
        }
        let mut sent = HeaderMap::new();
        for (name, value) in headers {
            let refused = || NotForwardable::Header(name.to_owned());
            let key: HeaderName = name.parse().map_err(|_| refused())?;
            let mut value: HeaderValue = value.parse().map_err(|_| refused())?;
            value.set_sensitive(true);
            sent.append(key, value);
        }
        sent.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())?
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .build();
        let (requests, waiting) = mpsc::unbounded_channel();
        let counts = watch::Sender::new(Forwarded::default());
        let postman = Postman {
            client: Client::builder(TokioExecutor::new()).build(connector),
            base: base.to_owned(),
            headers: sent,
            counts: counts.clone(),
        };
        Ok(Self {
            requests,
            room: Arc::new(Semaphore::new(WAITING_BYTES)),
            counts,
            task: runtime.spawn(postman.work(waiting)),
        })
    }

    /// Takes a request; it does not wait.
    ///
    /// # Errors
    ///
    /// [`Full`] when too many wait already: the request is dropped, and counted.
    pub fn forward(&self, request: OtlpRequest) -> Result<(), Full> {
        let bytes = request.body.len();
        let Some(path) = request.path() else {
            self.drop_one(format!("unknown signal {:?}", request.signal));
            return Ok(());
        };
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(permits) else {
            self.drop_one(Full { bytes }.to_string());
            return Err(Full { bytes });
        };
        let waiting = Waiting {
            path,
            body: Bytes::from(request.body),
            _room: room,
        };
        if self.requests.send(waiting).is_err() {
            self.drop_one("the runtime is gone".to_owned());
        }
        Ok(())
    }

    fn drop_one(&self, why: String) {
        self.counts.send_modify(|counts| counts.drop_one(why));
    }

    /// What became of the requests so far.
    #[must_use]
    pub fn counts(&self) -> Forwarded {
        self.counts.borrow().clone()
    }

    /// Sends what waits, and says what became of everything. What is not sent within the time counts as dropped.
    pub async fn shutdown(self, within: Duration) -> Forwarded {
        let Self {
            requests,
            counts,
            mut task,
            ..
        } = self;
        drop(requests);
        if timeout(within, &mut task).await.is_err() {
            // The work says on its way out what it leaves.
            task.abort();
            task.await.unwrap_or_default();
        }
        counts.borrow().clone()
    }
}

impl Forwarded {
    fn drop_one(&mut self, why: String) {
        self.dropped += 1;
        self.last_error = Some(why);
    }
}

/// Does the work.
struct Postman {
    client: Client<HttpsConnector<HttpConnector>, Body<Bytes>>,
    base: String,
    headers: HeaderMap,
    counts: watch::Sender<Forwarded>,
}

/// What waits, counted as dropped if nobody comes for it any more.
struct Queue {
    waiting: mpsc::UnboundedReceiver<Waiting>,
    in_hand: bool,
    counts: watch::Sender<Forwarded>,
}

impl Drop for Queue {
    fn drop(&mut self) {
        let mut left = u64::from(self.in_hand);
        while self.waiting.try_recv().is_ok() {
            left += 1;
        }
        if left > 0 {
            self.counts.send_modify(|counts| {
                counts.dropped += left;
                let why = || "the time for the last requests was over".to_owned();
                counts.last_error.get_or_insert_with(why);
            });
        }
    }
}

enum Answer {
    Taken {
        rejected: u64,
        says: Option<String>,
    },
    Refused(String),
    Later {
        pause: Option<Duration>,
        why: String,
    },
}

impl Postman {
    async fn work(self, waiting: mpsc::UnboundedReceiver<Waiting>) {
        let mut queue = Queue {
            waiting,
            in_hand: false,
            counts: self.counts.clone(),
        };
        while let Some(request) = queue.waiting.recv().await {
            queue.in_hand = true;
            let result = self.deliver(&request).await;
            queue.in_hand = false;
            self.counts.send_modify(|counts| match result {
                Ok((rejected, says)) => {
                    counts.forwarded += 1;
                    counts.rejected_items += rejected;
                    if says.is_some() {
                        counts.last_error = says;
                    }
                }
                Err(why) => counts.drop_one(why),
            });
        }
    }

    async fn deliver(&self, request: &Waiting) -> Result<(u64, Option<String>), String> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let answer = match timeout(ANSWER_WITHIN, self.post(request)).await {
                Ok(answer) => answer,
                Err(_) => Answer::Later {
                    pause: None,
                    why: format!("no answer within {} s", ANSWER_WITHIN.as_secs()),
                },
            };
            match answer {
                Answer::Taken { rejected, says } => return Ok((rejected, says)),
                Answer::Refused(why) => return Err(why),
                Answer::Later { pause, why } => {
                    let Some(usual) = pauses.next() else {
                        return Err(why);
                    };
                    self.counts
                        .send_modify(|counts| counts.last_error = Some(why));
                    sleep(pause.unwrap_or(usual).min(LONGEST_PAUSE)).await;
                }
            }
        }
    }

    async fn post(&self, request: &Waiting) -> Answer {
        let later = |why: String| Answer::Later { pause: None, why };
        let post = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{}", self.base, request.path))
            .body(Body::new(request.body.clone()));
        let mut post = match post {
            Ok(post) => post,
            Err(error) => return Answer::Refused(error.to_string()),
        };
        *post.headers_mut() = self.headers.clone();
        match self.client.request(post).await {
            Ok(response) => meaning(response).await,
            Err(error) => later(chain(&error)),
        }
    }
}

/// By OTLP's table of what may be sent again.
async fn meaning(response: Response<Incoming>) -> Answer {
    let status = response.status();
    let pause = response.headers().get(RETRY_AFTER);
    let pause = pause.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let pause = pause.map(Duration::from_secs);
    let body = Limited::new(response.into_body(), ANSWER_BYTES)
        .collect()
        .await;
    let why = format!("the receiver answered {status}");
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Answer::Later { pause, why },
        status if status.is_success() => {
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            let (rejected, says) = partial(&body);
            Answer::Taken { rejected, says }
        }
        _ => Answer::Refused(why),
    }
}

/// What a receiver refused of a request that it took.
fn partial(body: &[u8]) -> (u64, Option<String>) {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Told {
        partial_success: Partial,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Partial {
        rejected_spans: Int64,
        rejected_data_points: Int64,
        rejected_log_records: Int64,
        error_message: String,
    }
    /// Protobuf's JSON has it as a string, and allows a number.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Int64 {
        Text(String),
        Number(u64),
    }
    impl Default for Int64 {
        fn default() -> Self {
            Self::Number(0)
        }
    }
    impl Int64 {
        fn get(&self) -> u64 {
            match self {
                Self::Text(text) => text.parse().unwrap_or(0),
                Self::Number(number) => *number,
            }
        }
    }
    // An answer that is no JSON, as `OK`, is an answer all the same.
    let told: Told = serde_json::from_slice(body).unwrap_or_default();
    let told = told.partial_success;
    let rejected = told.rejected_spans.get()
        + told.rejected_data_points.get()
        + told.rejected_log_records.get();
    let says = Some(told.error_message).filter(|message| !message.is_empty());
    (rejected, says)
}

/// An error and its causes: that of hyper alone says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
