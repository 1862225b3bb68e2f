//! Spans as text for people, by opentelemetry-stdout.
//!
//! The crate prints with `println!`, so the program points fd 1 at stderr before anything else. A terminal or pipe that
//! nobody reads blocks such a print for good, and a closed one makes it panic. Hence the thread of its own: it may hang
//! or die, and the other destinations do not notice.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::counts::Counts;
use super::export::poll_once;

/// The most bytes of spans that wait to be printed.
const CONSOLE_BYTES: usize = 8 << 20;

/// What the thread is to do.
#[derive(Debug)]
enum Print {
    Spans(Vec<SpanData>, OwnedSemaphorePermit),
    /// From here on spans come from somebody else.
    Identify(Box<Resource>),
}

/// The way to the console's thread.
#[derive(Debug)]
pub(super) struct Console {
    /// Bounded by `room`: each batch carries its permit.
    batches: mpsc::Sender<Print>,
    room: Arc<Semaphore>,
    done: oneshot::Receiver<()>,
    counts: Arc<Counts>,
}

impl Console {
    pub(super) fn start(resource: &Resource, counts: Arc<Counts>) -> io::Result<Self> {
        let (batches, received) = mpsc::channel::<Print>();
        let (alive, done) = oneshot::channel();
        let mut exporter = opentelemetry_stdout::SpanExporter::default();
        exporter.set_resource(resource);
        let printed = Arc::clone(&counts);
        thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                // Dropped when the thread ends, which is what `done` waits for.
                let _alive: oneshot::Sender<()> = alive;
                for print in received {
                    let (spans, permit) = match print {
                        Print::Spans(spans, permit) => (spans, permit),
                        Print::Identify(resource) => {
                            exporter.set_resource(&resource);
                            continue;
                        }
                    };
                    let count = spans.len() as u64;
                    match poll_once(|| exporter.export(spans)) {
                        Ok(()) => printed.exported(count),
                        Err(error) => printed.dropped(count, &error),
                    }
                    drop(permit);
                }
            })?;
        Ok(Self {
            batches,
            room: Arc::new(Semaphore::new(CONSOLE_BYTES)),
            done,
            counts,
        })
    }

    pub(super) fn print(&self, spans: Vec<SpanData>, weight: usize) {
        let count = spans.len() as u64;
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.room).try_acquire_many_owned(weight) else {
            return self.counts.dropped(count, "the console does not keep up");
        };
        if self.batches.send(Print::Spans(spans, permit)).is_err() {
            self.counts.dropped(count, "the console is gone");
        }
    }

    /// Says from now on that the spans are somebody else's.
    pub(super) fn identify(&self, resource: Resource) {
        // If the thread is gone, nobody prints anything any more.
        self.batches
            .send(Print::Identify(Box::new(resource)))
            .unwrap_or_default();
    }

    /// Waits until everything is printed.
    pub(super) async fn finish(self) {
        drop(self.batches);
        // An error is the sender's drop, which is the news.
        self.done.await.unwrap_or_default();
    }
}
