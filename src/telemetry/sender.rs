//! Empties one route's queue: one request at a time, each sent until it is settled.
//!
//! A destination that fails or hangs costs only itself. While a request waits for its next try, those behind it wait
//! too, for they would meet the same backend. When the pipeline shuts down, a wait of our own making is cut short once,
//! so that the last chance is used; a wait that the backend asked for is not. A wait that would outlast the shutdown is
//! not begun, or not gone on with: nobody gains by waiting for the deadline. What is given up stays in the spool: it has
//! one more try when the backend is there again, and else it is the next run's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::counts::Counts;
use super::destination::{Route, Signal};
use super::queue::{Parcel, Queue};
use super::resend::Target;
use super::retry::{Verdict, backoff, chance};
use super::spool::word;
use super::transport::{Access, Answer, Transport, TransportError};

/// The way to a backend, over which requests go one by one.
#[derive(Debug)]
pub(super) struct Link {
    route: Route,
    access: Access,
    /// Made when there is something to send.
    transport: Option<Transport>,
}

impl Link {
    pub(super) fn new(route: Route, access: Access) -> Self {
        Self {
            route,
            access,
            transport: None,
        }
    }

    /// Another way to the same backend.
    pub(super) fn another(&self) -> Self {
        Self::new(self.route.clone(), self.access.clone())
    }

    pub(super) async fn post(&mut self, body: Bytes) -> Result<Answer, TransportError> {
        let transport = match &mut self.transport {
            Some(transport) => transport,
            None => self
                .transport
                .insert(Transport::new(&self.route, &self.access)?),
        };
        transport.post(body).await
    }
}

/// Sends what is in a queue.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) link: Link,
    pub(super) queue: Queue,
    pub(super) counts: Arc<Counts>,
    pub(super) draining: Draining,
}

/// Has the deadline once the pipeline shuts down.
pub(super) type Draining = watch::Receiver<Option<Instant>>;

/// Whether a sender goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Go {
    On,
    /// Its next try would come too late; what is in the queue waits there.
    Home,
}

impl Sender {
    /// The same destination, for what earlier runs have left.
    pub(super) fn target(&self) -> Target {
        Target {
            address: self.queue.address().clone(),
            link: self.link.another(),
            own: Some(self.queue.clone()),
            counts: Arc::clone(&self.counts),
        }
    }

    /// Runs until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        while let Some(parcel) = self.queue.next().await {
            if self.deliver(parcel).await == Go::Home {
                return;
            }
        }
    }

    async fn deliver(&mut self, parcel: Parcel) -> Go {
        for tries in 1..=parcel.tries {
            // Read again for each try: while it waits, a request need not be in memory.
            let body = match self.queue.body() {
                Ok(body) => body,
                Err(error) => {
                    self.queue.settle();
                    self.counts.dropped(parcel.items, &error);
                    return Go::On;
                }
            };
            // What is on its way when the shutdown comes has its last chance yet before it.
            let was_draining = self.draining.borrow().is_some();
            let (after, error) = match self.link.post(body).await {
                Ok(answer) => match answer.verdict {
                    Verdict::Delivered => {
                        self.queue.settle();
                        self.queue.revive();
                        self.delivered(parcel, &answer);
                        return Go::On;
                    }
                    Verdict::Refused | Verdict::Unsupported => {
                        self.queue.settle();
                        self.refused(parcel, &answer);
                        return Go::On;
                    }
                    Verdict::Retry { after } => (after, answer.told),
                },
                Err(error) => (None, error.to_string()),
            };
            if tries < parcel.tries {
                self.counts.error(&error);
                if self.wait(tries, after, was_draining).await == Go::Home {
                    return Go::Home;
                }
            } else if self.queue.park() {
                self.counts
                    .error(&format!("left in the spool after {tries} tries: {error}"));
            } else {
                self.counts.dropped(
                    parcel.items,
                    &format!("gave up after {tries} tries: {error}"),
                );
            }
        }
        Go::On
    }

    fn refused(&mut self, parcel: Parcel, answer: &Answer) {
        let signal = word(self.link.route.signal);
        if self.link.route.signal == Signal::Traces || answer.verdict != Verdict::Unsupported {
            return self
                .counts
                .dropped(parcel.items, &format!("refused: {}", answer.told));
        }
        // Many backends take traces alone, and would answer the same every few seconds.
        let reason = format!(
            "the endpoint takes no {signal} ({}), so they are off for this run: OTEL_{}_EXPORTER=none keeps them off",
            answer.told,
            signal.to_ascii_uppercase(),
        );
        self.counts.dropped(parcel.items, &reason);
        self.queue.switch_off(&reason);
    }

    async fn wait(&mut self, tries: u32, after: Option<Duration>, was_draining: bool) -> Go {
        let own = backoff(tries, chance());
        let until = Instant::now() + after.map_or(own, |asked| asked.max(own));
        let deadline = tokio::select! {
            () = sleep_until(until), if !was_draining => return Go::On,
            deadline = self.draining.wait_for(Option::is_some) => deadline.ok().and_then(|it| *it),
        };
        if after.is_none() && !was_draining {
            return Go::On;
        }
        if deadline.is_some_and(|deadline| until >= deadline) {
            return Go::Home;
        }
        sleep_until(until).await;
        Go::On
    }

    fn delivered(&self, parcel: Parcel, answer: &Answer) {
        let partial = &answer.partial;
        let rejected = partial.rejected.min(parcel.items);
        self.counts.exported(parcel.items - rejected);
        if rejected > 0 {
            let what = match self.link.route.signal {
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
