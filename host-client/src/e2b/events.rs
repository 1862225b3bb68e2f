//! A stream of envd's: the events of one process, as long as the connection holds.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::envelope::{EnvelopeError, Envelopes, Part};
use super::message::{End, Told, told};
use super::refusal::Refusal;

/// Pieces that were read and wait for their reader: of at most 32 KiB each. Behind them it is the connection that holds
/// back, then envd, then the run's journal.
const WAITING: usize = 4;

/// How long a stream may be silent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// How often envd is asked for a sign of life; three that are missing are a broken stream.
    pub(super) keepalive: Duration,
    /// How long there may be no output; the supervisor gives a heartbeat every 20 s. envd's signs of life go on when a
    /// subscriber who is gone holds the output back (`reference/e2b.md` §0.3).
    pub(super) heartbeat: Option<Duration>,
}

/// What is heard of a process.
#[derive(Debug)]
pub(super) enum Heard {
    Started(u32),
    Stdout(Bytes),
    Stderr(Bytes),
    Ended(End),
    /// The end of the stream, by envd's word.
    Refused(Refusal),
    /// The end of the stream, by what became of it.
    Broken(String),
}

/// The events of a process. Reading is cancel safe, as a task of its own reads from the connection.
#[derive(Debug)]
pub(super) struct Events {
    heard: mpsc::Receiver<Heard>,
    reader: JoinHandle<()>,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Events {
    pub(super) fn of<B>(body: B, patience: Patience) -> Self
    where
        B: Body<Data = Bytes, Error: Error + Send> + Send + Unpin + 'static,
    {
        let (tell, heard) = mpsc::channel(WAITING);
        let reader = tokio::spawn(read(body, patience, tell));
        Self { heard, reader }
    }

    pub(super) async fn next(&mut self) -> Heard {
        let heard = self.heard.recv().await;
        heard.unwrap_or_else(|| Heard::Broken("nothing more is read".to_owned()))
    }
}

async fn read<B>(mut body: B, patience: Patience, tell: mpsc::Sender<Heard>)
where
    B: Body<Data = Bytes, Error: Error> + Unpin,
{
    let mut envelopes = Envelopes::new();
    let mut output_at = Instant::now();
    let last = 'stream: loop {
        loop {
            let heard = match envelopes.next() {
                Ok(Some(Part::Message(message))) => match told(&message) {
                    Ok(Told::Started(pid)) => Heard::Started(pid),
                    Ok(Told::Stdout(bytes)) => Heard::Stdout(bytes),
                    Ok(Told::Stderr(bytes)) => Heard::Stderr(bytes),
                    Ok(Told::Ended(end)) => break 'stream Heard::Ended(end),
                    Ok(Told::Alive) => continue,
                    Err(why) => break 'stream Heard::Broken(format!("not understood: {why}")),
                },
                Ok(Some(Part::End(Some(refusal)))) => break 'stream Heard::Refused(refusal),
                Ok(Some(Part::End(None))) => {
                    let why = "the stream ended without the end of the process";
                    break 'stream Heard::Broken(why.to_owned());
                }
                Ok(None) => break,
                Err(error) => break 'stream Heard::Broken(error.to_string()),
            };
            if tell.send(heard).await.is_err() {
                return;
            }
            // Whoever reads slowly hears late, and that is no silence of envd's.
            output_at = Instant::now();
        }
        let silent_at = Instant::now() + patience.keepalive * 3;
        let quiet_at = patience.heartbeat.map(|heartbeat| output_at + heartbeat);
        let until = quiet_at.map_or(silent_at, |quiet_at| quiet_at.min(silent_at));
        match tokio::time::timeout_at(until, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    envelopes.feed(&bytes);
                }
            }
            Ok(Some(Err(error))) => break Heard::Broken(described(&error)),
            Ok(None) => break Heard::Broken(EnvelopeError::Cut.to_string()),
            Err(_) if until == silent_at => {
                let seconds = patience.keepalive.as_secs() * 3;
                break Heard::Broken(format!("no sign of life for {seconds} s"));
            }
            Err(_) => break Heard::Broken("no heartbeat of the supervisor".to_owned()),
        }
    };
    // A reader that is gone does not want to know.
    tell.send(last).await.unwrap_or_default();
}

fn described(error: &impl Error) -> String {
    let cause = error.source();
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use bytes::Bytes;
    use hyper::body::{Body, Frame};
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    use super::{Events, Heard, Patience};
    use crate::e2b::envelope::enclosed;

    struct Sent(mpsc::Receiver<Bytes>);

    impl Body for Sent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let bytes = self.0.poll_recv(context);
            bytes.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    const ALIVE: &str = r#"{"event":{"keepalive":{}}}"#;
    const DATA: &str = r#"{"event":{"data":{"stdout":"aGk="}}}"#;

    /// What is heard after these messages, one every 20 ms, and then nothing more on a stream that stays open.
    fn heard_of(messages: &[&'static str], heartbeat: Option<Duration>) -> (usize, String) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (send, sent) = mpsc::channel(1);
            let keepalive = Duration::from_millis(100);
            let mut events = Events::of(
                Sent(sent),
                Patience {
                    keepalive,
                    heartbeat,
                },
            );
            let messages = messages.to_vec();
            let sender = tokio::spawn(async move {
                for message in messages {
                    send.send(enclosed(message.as_bytes()).into())
                        .await
                        .unwrap_or_default();
                    sleep(Duration::from_millis(20)).await;
                }
                sleep(Duration::from_secs(60)).await;
            });
            let mut pieces = 0;
            let why = loop {
                match events.next().await {
                    Heard::Stdout(_) => pieces += 1,
                    Heard::Broken(why) => break why,
                    other => panic!("{other:?}"),
                }
            };
            sender.abort();
            (pieces, why)
        })
    }

    #[test]
    fn a_stream_without_a_sign_of_life_is_broken() {
        let (pieces, why) = heard_of(&[DATA, ALIVE, DATA], None);
        assert_eq!(pieces, 2);
        assert!(why.starts_with("no sign of life"), "{why}");
    }

    #[test]
    fn signs_of_life_without_the_supervisors_are_a_broken_stream_as_well() {
        let (pieces, why) = heard_of(
            &[&[DATA], &[ALIVE; 60][..]].concat(),
            Some(Duration::from_millis(400)),
        );
        assert_eq!(
            (pieces, why.as_str()),
            (1, "no heartbeat of the supervisor")
        );
        // Where none is expected, signs of life are enough.
        let (_, why) = heard_of(&[ALIVE; 40], None);
        assert!(why.starts_with("no sign of life"), "{why}");
    }
}
