//! The receiver's other tongue: gRPC, as far as unary calls go, on the h2 crate.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::receiver::{Answer, Received, Reply, Shared, reset};

/// Serves until the receiver is stopped.
pub(super) fn serve(listener: TcpListener, shared: &Arc<Shared>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    listener.set_nonblocking(true).unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            if shared.stopped() {
                return;
            }
            stream.set_nodelay(true).unwrap();
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                let stream = stream.into_std().unwrap();
                // What is left of a reset connection would keep it open, so nobody else may hold this one.
                let raw = stream.try_clone().unwrap();
                let stream = tokio::net::TcpStream::from_std(stream).unwrap();
                match &shared.tls {
                    None => connection(stream, raw, &shared).await,
                    Some(config) => {
                        if let Ok(stream) =
                            TlsAcceptor::from(Arc::clone(config)).accept(stream).await
                        {
                            connection(stream, raw, &shared).await;
                        }
                    }
                }
            });
        }
    });
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    raw: TcpStream,
    shared: &Arc<Shared>,
) {
    let number = shared.connected();
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let broken = Arc::new(Notify::new());
    let last = Arc::new(Notify::new());
    loop {
        let call = tokio::select! {
            call = connection.accept() => call,
            () = broken.notified() => {
                reset(&raw);
                return;
            }
            () = last.notified() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, respond))) = call else {
            return;
        };
        let shared = Arc::clone(shared);
        let (broken, last) = (Arc::clone(&broken), Arc::clone(&last));
        tokio::spawn(async move {
            let Some(request) = read(request, number).await else {
                return;
            };
            match shared.answer(request) {
                Answer::Reply(reply) => {
                    tokio::time::sleep(reply.delay).await;
                    answer(respond, &reply);
                    if reply.last {
                        last.notify_one();
                    }
                }
                Answer::BlackHole => {
                    std::future::pending::<()>().await;
                    drop(respond);
                }
                Answer::Reset => {
                    broken.notify_one();
                    // To let go of the stream would be an answer of a kind.
                    std::future::pending::<()>().await;
                    drop(respond);
                }
            }
        });
    }
}

async fn read(request: Request<RecvStream>, connection: usize) -> Option<Received> {
    let (head, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.ok()?;
        stream.flow_control().release_capacity(chunk.len()).ok()?;
        body.extend_from_slice(&chunk);
    }
    let headers = head.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.as_str().to_owned(), value.into_owned())
    });
    Some(Received {
        at: Instant::now(),
        connection,
        path: head.uri.path().to_owned(),
        headers: headers.collect(),
        body,
    })
}

/// The peer may have gone, which is no concern of a receiver's.
fn answer(mut respond: SendResponse<bytes::Bytes>, reply: &Reply) {
    let mut head = Response::builder().status(reply.status).body(()).unwrap();
    *head.headers_mut() = fields(&reply.headers);
    let empty = reply.body.is_empty() && reply.trailers.is_empty();
    let Ok(mut stream) = respond.send_response(head, empty) else {
        return;
    };
    if empty {
        return;
    }
    let is_end = reply.trailers.is_empty();
    let sent = stream
        .send_data(reply.body.clone().into(), is_end)
        .and_then(|()| match is_end {
            true => Ok(()),
            false => stream.send_trailers(fields(&reply.trailers)),
        });
    if sent.is_err() {
        stream.send_reset(Reason::INTERNAL_ERROR);
    }
}

fn fields(pairs: &[(String, String)]) -> HeaderMap {
    let pairs = pairs.iter().map(|(name, value)| {
        let name: HeaderName = name.parse().unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    });
    pairs.collect()
}
