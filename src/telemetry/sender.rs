//! Empties one destination's queue: one request at a time, each sent until it is settled.
//!
//! A destination that fails or hangs costs only itself. While a request waits for its next try, those behind it wait
//! too, for they would meet the same backend. When the pipeline shuts down, a wait of our own making is cut short once,
//! so that the last chance is used; a wait that the backend asked for is not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::counts::Counts;
use super::destination::{Route, Signal};
use super::queue::{Parcel, Queue};
use super::retry::{TRIES, Verdict, backoff, chance};
use super::transport::{Access, Answer, Transport, TransportError};

/// Sends what is in a queue.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) route: Route,
    pub(super) access: Access,
    pub(super) queue: Arc<Queue>,
    pub(super) counts: Arc<Counts>,
    /// Turns true when the pipeline shuts down.
    pub(super) draining: watch::Receiver<bool>,
}

impl Sender {
    /// Runs until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        let mut transport = None;
        while let Some(parcel) = self.queue.next().await {
            self.deliver(&mut transport, &parcel).await;
            self.queue.settled(&parcel);
        }
    }

    async fn deliver(&mut self, transport: &mut Option<Transport>, parcel: &Parcel) {
        for tries in 1..=TRIES {
            // What is on its way when the shutdown comes has its last chance yet before it.
            let was_draining = *self.draining.borrow();
            let (after, error) = match self.post(transport, parcel).await {
                Ok(answer) => match answer.verdict {
                    Verdict::Delivered => return self.delivered(parcel, &answer),
                    Verdict::Refused => {
                        return self
                            .counts
                            .dropped(parcel.items, &format!("refused: {}", answer.told));
                    }
                    Verdict::Retry { after } => (after, answer.told),
                },
                Err(error) => (None, error.to_string()),
            };
            if tries == TRIES {
                return self.counts.dropped(
                    parcel.items,
                    &format!("gave up after {tries} tries: {error}"),
                );
            }
            self.counts.error(&error);
            self.wait(tries, after, was_draining).await;
        }
    }

    async fn post(
        &self,
        transport: &mut Option<Transport>,
        parcel: &Parcel,
    ) -> Result<Answer, TransportError> {
        let transport = match transport {
            Some(transport) => transport,
            None => transport.insert(Transport::new(&self.route, &self.access)?),
        };
        transport.post(parcel.body.clone()).await
    }

    async fn wait(&mut self, tries: u32, after: Option<Duration>, was_draining: bool) {
        let own = backoff(tries, chance());
        match after {
            Some(asked) => sleep(asked.max(own)).await,
            None if was_draining => sleep(own).await,
            None => tokio::select! {
                () = sleep(own) => {}
                _ = self.draining.wait_for(|draining| *draining) => {}
            },
        }
    }

    fn delivered(&self, parcel: &Parcel, answer: &Answer) {
        let partial = &answer.partial;
        let rejected = partial.rejected.min(parcel.items);
        self.counts.exported(parcel.items - rejected);
        if rejected > 0 {
            let what = match self.route.signal {
                Signal::Traces => "spans",
                Signal::Metrics => "data points",
                Signal::Logs => "log records",
            };
            self.counts.dropped(
                rejected,
                &format!(
                    "the backend rejected {rejected} {what}: {}",
                    partial.message
                ),
            );
        } else if !partial.message.is_empty() {
            self.counts
                .error(&format!("the backend warns: {}", partial.message));
        }
    }
}
