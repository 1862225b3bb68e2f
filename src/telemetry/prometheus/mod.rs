//! The page that a Prometheus scrapes: `GET /metrics`, until the run is over.
//!
//! A few lines of HTTP instead of a server's crate, and a page of our own instead of opentelemetry-prometheus, which costs
//! 348 KB of binary (`reference/rust-otel.md` §4). The page goes when we go, and with it whatever was counted since the
//! last scrape: who needs the last figures has them pushed (OTLP), or reads the journal.

mod page;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

pub(super) use self::page::page;

/// Scrapes at once; the others wait for their turn.
const CONNECTIONS: usize = 8;
/// The most bytes of a request.
const REQUEST_BYTES: usize = 8 << 10;
/// The longest that one scrape may take: Prometheus gives up after ten seconds.
const SCRAPE: Duration = Duration::from_secs(10);
/// After an accept that failed, for instance for want of descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// Asks the export thread for the page.
pub(super) type Ask = oneshot::Sender<String>;

/// The address, taken before the run begins, so that it is known at once if it cannot be had.
#[derive(Debug)]
pub(super) struct Page {
    listener: std::net::TcpListener,
}

impl Page {
    pub(super) fn listen(address: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// Answers scrapes for good.
    pub(super) async fn serve(self, asks: mpsc::Sender<Ask>) {
        // Refused only where the runtime has no reactor.
        let Ok(listener) = TcpListener::from_std(self.listener) else {
            return;
        };
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((connection, _)) => {
                    let asks = asks.clone();
                    tokio::spawn(async move {
                        // Whoever asks too slowly, or leaves, gets no answer.
                        let scrape = timeout(SCRAPE, answer(connection, &asks));
                        scrape.await.unwrap_or(Ok(())).unwrap_or_default();
                        drop(permit);
                    });
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
}

/// Reads one request and answers it. The connection ends with it.
async fn answer(mut connection: TcpStream, asks: &mpsc::Sender<Ask>) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        if request.len() > REQUEST_BYTES || connection.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = request.split(|byte| *byte == b'\r').next();
    let line = String::from_utf8_lossy(line.unwrap_or_default());
    let mut words = line.split(' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let (status, body) = match (method, path) {
        (Some("GET" | "HEAD"), "/metrics") => {
            let (ask, answered) = oneshot::channel();
            // Without the export thread there is nobody to scrape.
            asks.send(ask).await.map_err(io::Error::other)?;
            ("200 OK", answered.await.map_err(io::Error::other)?)
        }
        (Some("GET" | "HEAD"), _) => ("404 Not Found", "only /metrics is here\n".to_owned()),
        _ => (
            "405 Method Not Allowed",
            "only GET is understood\n".to_owned(),
        ),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await?;
    if method != Some("HEAD") {
        connection.write_all(body.as_bytes()).await?;
    }
    connection.shutdown().await
}
