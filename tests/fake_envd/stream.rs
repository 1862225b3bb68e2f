//! The events of one process on one connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval_at};

use super::connect::{Code, Error, end_of_stream, message};
use super::faults::Edge;
use super::http::{Chunked, Connection, Next};
use super::process::{Chunk, Pipe, Process};
use super::sandbox::{Phase, Sandbox, ended};

/// Without a `Keepalive-Ping-Interval` (§3).
const KEEPALIVE: Duration = Duration::from_secs(90);

/// What a client gets to see of a process.
pub(super) struct Subscription {
    pub(super) process: Arc<Process>,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) chunks: mpsc::Receiver<Chunk>,
    pub(super) deadline: Option<Instant>,
    /// From `Keepalive-Ping-Interval`.
    pub(super) keepalive: Option<Duration>,
}

/// Why a stream is over.
enum Over {
    Whole,
    Deadline,
    /// The sandbox is no longer there.
    Gone,
    /// The client is no longer there.
    Left,
    /// It is to be cut here.
    Cut,
}

impl Subscription {
    pub(super) async fn serve(mut self, connection: &mut Connection) -> io::Result<Next> {
        let mut body = connection.begin_stream().await?;
        let over = self.events(connection, &mut body).await;
        let last = match over {
            Over::Whole => end_of_stream(None),
            Over::Deadline => end_of_stream(Some(&Error::new(
                Code::DeadlineExceeded,
                "context deadline exceeded",
            ))),
            Over::Gone => {
                let edge = connection.world.faults.lock().unwrap().edge;
                if edge == Edge::Silent {
                    return Ok(Next::Cut);
                }
                let id = &self.sandbox.id;
                end_of_stream(Some(&Error::new(
                    Code::Unavailable,
                    format!("the connection to sandbox {id} ended before the stream completed"),
                )))
            }
            Over::Left | Over::Cut => return Ok(Next::Cut),
        };
        if body.send(&mut connection.writer, &last).await.is_err() {
            return Ok(Next::Cut);
        }
        body.finish(&mut connection.writer).await?;
        Ok(Next::Request)
    }

    /// Everything up to the end event.
    async fn events(&mut self, connection: &mut Connection, body: &mut Chunked) -> Over {
        let (deadline, mut phase) = (self.deadline, self.sandbox.phase());
        let (reader, writer) = (&mut connection.reader, &mut connection.writer);
        let events = async {
            let sent = self.tell(body, writer).await;
            sent.map_or(Over::Cut, |()| Over::Whole)
        };
        let expired = async {
            match deadline {
                None => std::future::pending().await,
                Some(deadline) => tokio::time::sleep_until(deadline).await,
            }
        };
        tokio::select! {
            biased;
            () = ended(&mut phase) => Over::Gone,
            () = reader.left() => Over::Left,
            () = expired => Over::Deadline,
            over = events => over,
        }
    }

    async fn tell(
        &mut self,
        body: &mut Chunked,
        writer: &mut super::http::Writer,
    ) -> io::Result<()> {
        let start = event(&json!({"start": {"pid": self.process.pid}}));
        body.send(writer, &start).await?;
        let every = self
            .keepalive
            .unwrap_or(KEEPALIVE)
            .max(Duration::from_millis(1));
        let mut ticks = interval_at(Instant::now() + every, every);
        loop {
            let bytes = tokio::select! {
                chunk = self.chunks.recv() => match chunk {
                    None => break,
                    Some(chunk) => {
                        ticks.reset();
                        data(&chunk)
                    }
                },
                _ = ticks.tick() => event(&json!({"keepalive": {}})),
            };
            body.send(writer, &bytes).await?;
        }
        let end = whole(self.process.end()).await;
        body.send(writer, &event(&json!({ "end": end }))).await
    }
}

async fn whole(mut end: watch::Receiver<Option<Value>>) -> Value {
    let end = end.wait_for(Option::is_some).await;
    end.map_or(Value::Null, |end| end.clone().unwrap_or_default())
}

fn event(event: &Value) -> Vec<u8> {
    message(&json!({ "event": event }))
}

fn data(chunk: &Chunk) -> Vec<u8> {
    let name = match chunk.pipe {
        Pipe::Stdout => "stdout",
        Pipe::Stderr => "stderr",
    };
    event(&json!({"data": {name: STANDARD.encode(&chunk.bytes)}}))
}

/// Whether a sandbox can be spoken to.
pub(super) fn is_up(sandbox: &Sandbox) -> bool {
    sandbox.is(Phase::Running)
}
