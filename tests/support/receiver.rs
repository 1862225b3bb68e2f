//! An OTLP receiver that does as it is told: answers, refuses, delays, hangs or resets, request by request, and keeps
//! what it was sent. It speaks HTTP/1 or, as [`super::grpc`], gRPC.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde::de::DeserializeOwned;

use super::grpc;

/// How one request is answered.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Reply(Reply),
    /// The request is read and never answered.
    BlackHole,
    /// The request is read and the connection reset.
    Reset,
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Only HTTP/2 has them here.
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) delay: Duration,
    /// Whether the connection is closed after it, without a word.
    pub(crate) last: bool,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self::Reply(Reply {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
            delay: Duration::ZERO,
            last: false,
        })
    }

    /// A gRPC status, behind an empty message.
    pub(crate) fn grpc(code: u32) -> Self {
        Self::status(200)
            .header("content-type", "application/grpc")
            .message(Vec::new())
            .trailer("grpc-status", &code.to_string())
    }

    /// Puts a gRPC message into the body.
    pub(crate) fn message(self, message: Vec<u8>) -> Self {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        self.body([&[0], &length[..], &message].concat())
    }

    pub(crate) fn trailer(mut self, name: &str, value: &str) -> Self {
        if let Self::Reply(reply) = &mut self {
            reply.trailers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// An answer of gRPC without a message: the status stands in the headers.
    pub(crate) fn trailers_only(mut self) -> Self {
        if let Self::Reply(reply) = &mut self {
            reply.headers.append(&mut reply.trailers);
            reply.body.clear();
        }
        self
    }

    /// The connection is closed after it, without a word.
    pub(crate) fn then_closed(mut self) -> Self {
        if let Self::Reply(reply) = &mut self {
            reply.last = true;
        }
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Reply(reply) = &mut self {
            reply.headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    pub(crate) fn body(mut self, bytes: Vec<u8>) -> Self {
        if let Self::Reply(reply) = &mut self {
            reply.body = bytes;
        }
        self
    }

    pub(crate) fn after(mut self, wait: Duration) -> Self {
        if let Self::Reply(reply) = &mut self {
            reply.delay = wait;
        }
        self
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) at: Instant,
    /// Which connection it came on, from 0.
    pub(crate) connection: usize,
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// As sent: maybe compressed.
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether a text stands anywhere in the headers.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.headers
            .iter()
            .any(|(name, value)| name.contains(text) || value.contains(text))
    }

    /// The body of a request for traces, decompressed and decoded as its headers say.
    pub(crate) fn decode(&self) -> ExportTraceServiceRequest {
        self.decoded()
    }

    pub(crate) fn metrics(&self) -> ExportMetricsServiceRequest {
        self.decoded()
    }

    pub(crate) fn logs(&self) -> ExportLogsServiceRequest {
        self.decoded()
    }

    fn decoded<M: prost::Message + Default + DeserializeOwned>(&self) -> M {
        let is_grpc = self.header("content-type") == Some("application/grpc");
        let mut encoding = self.header(if is_grpc {
            "grpc-encoding"
        } else {
            "content-encoding"
        });
        let mut bytes = self.body.as_slice();
        if is_grpc {
            let (prefix, message) = bytes.split_at(5);
            assert_eq!(
                prefix[1..],
                u32::try_from(message.len()).unwrap().to_be_bytes()
            );
            // The flag decides; the header says only what it would mean.
            assert_eq!(prefix[0] == 1, encoding.is_some());
            encoding = encoding.filter(|_| prefix[0] == 1);
            bytes = message;
        }
        let mut body = Vec::new();
        match encoding {
            Some("gzip") => {
                GzDecoder::new(bytes).read_to_end(&mut body).unwrap();
            }
            None => body = bytes.to_vec(),
            Some(other) => panic!("encoding {other}"),
        }
        match self.header("content-type") {
            Some("application/x-protobuf" | "application/grpc") => {
                M::decode(body.as_slice()).unwrap()
            }
            Some("application/json") => serde_json::from_slice(&body).unwrap(),
            other => panic!("content-type {other:?}"),
        }
    }

    /// None, if it is of another signal.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let others = [
            "/v1/metrics",
            "/v1/logs",
            "MetricsService/Export",
            "LogsService/Export",
        ];
        if others.iter().any(|path| self.path.ends_with(path)) {
            return Vec::new();
        }
        let resources = self.decode().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }
}

type Script = dyn FnMut(usize, &Received) -> Answer + Send;

pub(super) struct Shared {
    received: Mutex<Vec<Received>>,
    script: Mutex<Box<Script>>,
    connections: AtomicUsize,
    stopped: AtomicBool,
    pub(super) tls: Option<Arc<ServerConfig>>,
}

/// A running receiver; it stops when dropped.
pub(crate) struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Answers 200 to everything.
    pub(crate) fn healthy() -> Self {
        Self::scripted(|_, _| Answer::status(200))
    }

    /// Asks `script` for each answer, with the number of the request, from 0.
    pub(crate) fn scripted(
        script: impl FnMut(usize, &Received) -> Answer + Send + 'static,
    ) -> Self {
        Self::start(None, Box::new(script))
    }

    /// Answers 200 to everything, over TLS.
    pub(crate) fn tls(config: ServerConfig) -> Self {
        Self::start(Some(Arc::new(config)), Box::new(|_, _| Answer::status(200)))
    }

    fn start(tls: Option<Arc<ServerConfig>>, script: Box<Script>) -> Self {
        Self::serving(tls, script, |listener, shared| {
            while let Ok((stream, _)) = listener.accept() {
                if shared.stopped() {
                    return;
                }
                let shared = Arc::clone(shared);
                thread::spawn(move || shared.connection(stream));
            }
        })
    }

    /// Takes every call.
    pub(crate) fn grpc() -> Self {
        Self::grpc_scripted(None, |_, _| Answer::grpc(0))
    }

    /// Asks `script` for each answer to a call, with the number of the call, from 0.
    pub(crate) fn grpc_scripted(
        tls: Option<ServerConfig>,
        script: impl FnMut(usize, &Received) -> Answer + Send + 'static,
    ) -> Self {
        Self::serving(tls.map(Arc::new), Box::new(script), grpc::serve)
    }

    fn serving(
        tls: Option<Arc<ServerConfig>>,
        script: Box<Script>,
        serve: impl FnOnce(TcpListener, &Arc<Shared>) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            script: Mutex::new(script),
            connections: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            tls,
        });
        let serving = Arc::clone(&shared);
        let acceptor = thread::spawn(move || serve(listener, &serving));
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The address of traces over plain HTTP.
    pub(crate) fn traces_url(&self) -> String {
        self.url("/v1/traces")
    }

    /// An address over plain HTTP.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Everything received so far, in order of arrival.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// The names of all spans received so far, sorted.
    pub(crate) fn span_names(&self) -> Vec<String> {
        let received = self.received();
        let spans = received.iter().flat_map(Received::spans);
        let mut names: Vec<_> = spans.map(|span| span.name).collect();
        names.sort();
        names
    }

    /// Waits until there are so many requests.
    pub(crate) fn wait_for(&self, requests: usize, limit: Duration) -> Vec<Received> {
        let deadline = Instant::now() + limit;
        loop {
            let received = self.received();
            if received.len() >= requests {
                return received;
            }
            assert!(
                Instant::now() < deadline,
                "{} of {requests} requests after {limit:?}",
                received.len()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Wakes the acceptor.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap_or_default();
        }
    }
}

impl Shared {
    pub(super) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// The number of a new connection.
    pub(super) fn connected(&self) -> usize {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps a request, and says how to answer it.
    pub(super) fn answer(&self, request: Received) -> Answer {
        let mut received = self.received.lock().unwrap();
        let answer = (self.script.lock().unwrap())(received.len(), &request);
        received.push(request);
        answer
    }

    fn connection(&self, tcp: TcpStream) {
        // Reads give up often enough to notice that the receiver is gone.
        tcp.set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        tcp.set_nodelay(true).unwrap();
        let raw = tcp.try_clone().unwrap();
        match &self.tls {
            None => self.serve(tcp, &raw),
            Some(config) => {
                let session = ServerConnection::new(Arc::clone(config)).unwrap();
                self.serve(StreamOwned::new(session, tcp), &raw);
            }
        }
    }

    fn serve<S: Read + Write>(&self, stream: S, raw: &TcpStream) {
        let mut connection = Connection {
            stream,
            shared: self,
            number: self.connected(),
            buffer: Vec::new(),
        };
        // An error ends the connection, as the peer's departure does.
        while let Ok(request) = connection.request() {
            match self.answer(request) {
                Answer::Reply(reply) => {
                    thread::sleep(reply.delay);
                    if connection.reply(&reply).is_err() || reply.last {
                        return;
                    }
                }
                Answer::BlackHole => {
                    while !self.stopped() {
                        thread::sleep(Duration::from_millis(20));
                    }
                    return;
                }
                Answer::Reset => {
                    reset(raw);
                    return;
                }
            }
        }
    }
}

/// Makes a reset of what would be a polite end.
pub(super) fn reset(raw: &TcpStream) {
    socket2::SockRef::from(raw)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

struct Connection<'a, S> {
    stream: S,
    shared: &'a Shared,
    number: usize,
    buffer: Vec<u8>,
}

impl<S: Read + Write> Connection<'_, S> {
    fn request(&mut self) -> io::Result<Received> {
        let head = loop {
            if let Some(end) = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                break self.take(end + 4)?;
            }
            self.fill()?;
        };
        let head = String::from_utf8(head).map_err(io::Error::other)?;
        let mut lines = head.lines();
        let path = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .unwrap_or_default()
            .to_owned();
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers: Vec<_> = headers
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let mut request = Received {
            at: Instant::now(),
            connection: self.number,
            path,
            headers,
            body: Vec::new(),
        };
        request.body = if request.header("transfer-encoding") == Some("chunked") {
            self.chunks()?
        } else {
            let length = request.header("content-length").unwrap_or("0");
            self.take(length.parse().map_err(io::Error::other)?)?
        };
        Ok(request)
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                    break self.take(end + 2)?;
                }
                self.fill()?;
            };
            let line = String::from_utf8(line).map_err(io::Error::other)?;
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
            let chunk = self.take(size + 2)?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    fn take(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < bytes {
            self.fill()?;
        }
        Ok(self.buffer.drain(..bytes).collect())
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 << 10];
        while !self.shared.stopped() {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.buffer.extend_from_slice(&bytes[..count]);
                    return Ok(());
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    fn reply(&mut self, reply: &Reply) -> io::Result<()> {
        let mut head = format!(
            "HTTP/1.1 {} Scripted\r\ncontent-length: {}\r\n",
            reply.status,
            reply.body.len()
        );
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes())?;
        self.stream.write_all(&reply.body)?;
        self.stream.flush()
    }
}
