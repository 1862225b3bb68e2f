//! HTTP/1.1 by hand: a cut is to fall on any byte, which a server that knows its trade would not do.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::faults::{Ending, Random};
use super::{World, rest, service};

const LONGEST_HEAD: usize = 256 << 10;

/// Accepts connections until the fake is dropped.
pub(super) async fn serve(listener: std::net::TcpListener, world: Arc<World>) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut stopped = world.stopped.subscribe();
    loop {
        let accepted = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, perhaps.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        tokio::spawn(Connection::serve(stream, Arc::clone(&world)));
    }
}

/// The head of a request.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    /// Names in lower case.
    pub(super) headers: BTreeMap<String, String>,
}

impl Head {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What becomes of a connection after a request.
pub(super) enum Next {
    /// It waits for the next one, as long as this sandbox lives.
    Request,
    /// It ends without a further word.
    Cut,
}

/// One client's connection.
pub(super) struct Connection {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) world: Arc<World>,
}

pub(super) struct Reader {
    half: OwnedReadHalf,
    buffer: Vec<u8>,
    body: Body,
}

/// What is left of a request's body.
enum Body {
    Bytes(usize),
    Chunks,
}

pub(super) struct Writer {
    /// None after a reset.
    half: Option<OwnedWriteHalf>,
}

impl Writer {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.half {
            Some(half) => half.write_all(bytes).await,
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Makes the connection's end, once it is dropped, a reset.
    fn reset(&mut self) {
        if let Some(half) = self.half.take() {
            reset(half.as_ref());
            // Dropped, it would say goodbye.
            half.forget();
        }
    }
}

impl Connection {
    async fn serve(stream: TcpStream, world: Arc<World>) {
        if world.take(|faults| &mut faults.refuse_connections) {
            reset(&stream);
            return;
        }
        let mut stopped = world.stopped.subscribe();
        if world.take(|faults| &mut faults.black_holes) {
            stopped
                .wait_for(|stopped| *stopped)
                .await
                .map(drop)
                .unwrap_or(());
            return;
        }
        let delay = world.faults.lock().unwrap().delay_connections;
        tokio::time::sleep(delay).await;
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let (reader, writer) = stream.into_split();
        let mut connection = Self {
            reader: Reader {
                half: reader,
                buffer: Vec::new(),
                body: Body::Bytes(0),
            },
            writer: Writer { half: Some(writer) },
            world,
        };
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => {}
            _ = connection.requests() => {}
        }
    }

    async fn requests(&mut self) -> io::Result<()> {
        // The sandbox that was spoken to last: its end is the connection's.
        let mut gone = None;
        loop {
            let head = match &mut gone {
                None => self.reader.head().await?,
                Some(gone) => tokio::select! {
                    () = super::sandbox::ended(gone) => return Ok(()),
                    head = self.reader.head() => head?,
                },
            };
            let Some(head) = head else { return Ok(()) };
            let path = head.path.clone();
            let next = if path.starts_with("/sandboxes")
                || path.starts_with("/v2/sandboxes")
                || path.starts_with("/events/")
            {
                rest::answer(self, head).await?
            } else {
                let sandbox = service::sandbox_of(self, &head);
                gone = sandbox.as_ref().map(|sandbox| sandbox.phase());
                service::answer(self, head, sandbox).await?
            };
            match next {
                Next::Request => while self.reader.piece().await?.is_some() {},
                Next::Cut => return Ok(()),
            }
        }
    }

    /// Notes a request.
    pub(super) fn see(&self, head: &Head, message: &Value) {
        self.world.seen.lock().unwrap().push(super::Seen {
            method: head.method.clone(),
            path: head.path.clone(),
            headers: head.headers.clone(),
            message: message.clone(),
        });
    }

    pub(super) async fn json(&mut self, status: u16, body: &Value) -> io::Result<Next> {
        self.respond(status, &[], body.to_string().as_bytes()).await
    }

    /// A whole answer in JSON, or none.
    pub(super) async fn respond(
        &mut self,
        status: u16,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Next> {
        let mut head = format!("HTTP/1.1 {status} Fake\r\n");
        if !body.is_empty() {
            head.push_str("content-type: application/json\r\n");
        }
        if status != 204 {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let bytes = [head.as_bytes(), body].concat();
        self.writer.write(&bytes).await?;
        Ok(Next::Request)
    }

    /// Begins an answer whose length nobody knows.
    pub(super) async fn begin_stream(&mut self) -> io::Result<Chunked> {
        let (cut_after, ending, stall_after, pieces) = {
            let mut faults = self.world.faults.lock().unwrap();
            let seed = faults.pieces.as_mut().map(|seed| {
                *seed += 1;
                *seed
            });
            let cut_after = faults.cuts.take();
            let stall_after = faults.stall_next_after.take();
            (cut_after, faults.ending, stall_after, seed)
        };
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/connect+json\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        self.writer.write(head.as_bytes()).await?;
        Ok(Chunked {
            sent: 0,
            cut_after,
            ending,
            stall_after,
            pieces: pieces.map(Random),
        })
    }

    /// Ends the connection at once, by a reset.
    pub(super) fn reset(&mut self) {
        self.writer.reset();
    }
}

fn reset(stream: &TcpStream) {
    // A peer that is gone already makes no difference.
    socket2::SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .ok();
}

/// The body of an answer in progress, with what is to go wrong with it.
pub(super) struct Chunked {
    sent: u64,
    cut_after: Option<u64>,
    ending: Ending,
    stall_after: Option<u64>,
    pieces: Option<Random>,
}

impl Chunked {
    /// Sends bytes of the body. `ConnectionAborted` says that the connection is to be cut here.
    pub(super) async fn send(&mut self, writer: &mut Writer, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.stall_after.is_some_and(|after| self.sent >= after) {
                std::future::pending::<()>().await;
            }
            if self.cut_after.is_some_and(|after| self.sent >= after) {
                if self.ending == Ending::Reset {
                    writer.reset();
                }
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let mut length = rest.len();
            for limit in [self.cut_after, self.stall_after].into_iter().flatten() {
                let room = usize::try_from(limit - self.sent).unwrap_or(usize::MAX);
                length = length.min(room);
            }
            if let Some(random) = &mut self.pieces {
                length = random.size(length);
            }
            let (piece, later) = rest.split_at(length);
            let mut chunk = format!("{length:x}\r\n").into_bytes();
            chunk.extend_from_slice(piece);
            chunk.extend_from_slice(b"\r\n");
            writer.write(&chunk).await?;
            self.sent += length as u64;
            rest = later;
        }
        Ok(())
    }

    pub(super) async fn finish(self, writer: &mut Writer) -> io::Result<()> {
        writer.write(b"0\r\n\r\n").await
    }
}

impl Reader {
    /// The next request's head; None if the client is done.
    async fn head(&mut self) -> io::Result<Option<Head>> {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if self.buffer.len() > LONGEST_HEAD {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if !self.fill().await? {
                return Ok(None);
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8(head).map_err(io::Error::other)?;
        let mut lines = head.lines();
        let mut request = lines.next().unwrap_or_default().split(' ');
        let method = request.next().unwrap_or_default().to_owned();
        let target = request.next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers: BTreeMap<String, String> = headers
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let is_chunked = headers
            .get("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        self.body = if is_chunked {
            Body::Chunks
        } else {
            let length = headers.get("content-length").map_or("0", String::as_str);
            Body::Bytes(length.parse().map_err(io::Error::other)?)
        };
        Ok(Some(Head {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
        }))
    }

    /// The whole body.
    pub(super) async fn whole(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            body.extend(piece);
        }
        Ok(body)
    }

    /// The next piece of the body as it arrives; None at its end.
    pub(super) async fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.body {
            Body::Bytes(0) => Ok(None),
            Body::Bytes(left) => {
                if self.buffer.is_empty() && !self.fill().await? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let taken = left.min(self.buffer.len());
                self.body = Body::Bytes(left - taken);
                Ok(Some(self.buffer.drain(..taken).collect()))
            }
            Body::Chunks => {
                let line = loop {
                    if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n") {
                        break end;
                    }
                    self.fill_more().await?;
                };
                let size = str::from_utf8(&self.buffer[..line]).map_err(io::Error::other)?;
                let size = size.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
                while self.buffer.len() < line + 2 + size + 2 {
                    self.fill_more().await?;
                }
                let chunk = self.buffer[line + 2..line + 2 + size].to_vec();
                self.buffer.drain(..line + 2 + size + 2);
                if size == 0 {
                    self.body = Body::Bytes(0);
                    return Ok(None);
                }
                Ok(Some(chunk))
            }
        }
    }

    /// Returns when the client has left.
    pub(super) async fn left(&mut self) {
        while self.buffer.len() <= LONGEST_HEAD && matches!(self.fill().await, Ok(true)) {}
    }

    async fn fill_more(&mut self) -> io::Result<()> {
        match self.fill().await? {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Whether there was more.
    async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(16 << 10);
        Ok(self.half.read_buf(&mut self.buffer).await? > 0)
    }
}
