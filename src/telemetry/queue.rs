//! The store-and-forward queue of one destination: encoded requests, bounded by bytes.
//!
//! When it is full the oldest requests go, counted, for the newest say how the run ended. The request in flight is out
//! of the queue but still counts against its bytes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::counts::Counts;

/// The most encoded bytes that wait for one destination.
const QUEUE_BYTES: usize = 8 << 20;

/// One encoded request. Its bytes never change: a retry must be the same request.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    pub(super) body: Bytes,
    /// Spans, log records or data points.
    pub(super) items: u64,
}

/// Locked rather than owned by one task because the run buffer fills it while the sender empties it; both live on the
/// export thread, and the lock is never held across an await.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Notify,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Waiting {
    parcels: VecDeque<Parcel>,
    /// Of what waits and of what is in flight.
    bytes: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new(counts: Arc<Counts>) -> Self {
        Self {
            waiting: Mutex::default(),
            changed: Notify::new(),
            counts,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request, at the cost of the oldest ones if it must be.
    pub(super) fn push(&self, parcel: Parcel) {
        let mut waiting = self.waiting();
        while waiting.bytes + parcel.body.len() > QUEUE_BYTES {
            let Some(oldest) = waiting.parcels.pop_front() else {
                self.counts.dropped(parcel.items, "the queue is full");
                return;
            };
            waiting.bytes -= oldest.body.len();
            self.counts.dropped(oldest.items, "the queue is full");
        }
        waiting.bytes += parcel.body.len();
        waiting.parcels.push_back(parcel);
        self.changed.notify_one();
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.changed.notify_one();
    }

    /// The oldest request, which is then in flight until [`Self::settled`]; `None` once closed and empty.
    pub(super) async fn next(&self) -> Option<Parcel> {
        loop {
            {
                let mut waiting = self.waiting();
                if let Some(parcel) = waiting.parcels.pop_front() {
                    return Some(parcel);
                }
                if waiting.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// The request in flight is over, one way or another.
    pub(super) fn settled(&self, parcel: &Parcel) {
        self.waiting().bytes -= parcel.body.len();
    }
}

#[cfg(test)]
mod tests {
    use super::super::counts::Ledger;
    use super::*;

    fn parcel(mebibytes: usize, items: u64) -> Parcel {
        Parcel {
            body: Bytes::from(vec![0; mebibytes << 20]),
            items,
        }
    }

    #[tokio::test]
    async fn a_full_queue_drops_the_oldest_and_counts_them() {
        let mut ledger = Ledger::default();
        let queue = Queue::new(ledger.add("otlp", true).spans);
        for items in 1..=4 {
            queue.push(parcel(2, items));
        }
        assert_eq!(
            queue.next().await.map(|parcel| parcel.items),
            Some(1),
            "in flight"
        );
        queue.push(parcel(3, 5));
        assert_eq!(ledger.report().destinations[0].dropped, 2 + 3);
        queue.push(parcel(9, 6));
        assert_eq!(ledger.report().destinations[0].dropped, 2 + 3 + 4 + 5 + 6);

        queue.settled(&parcel(2, 1));
        queue.push(parcel(8, 7));
        queue.close();
        assert_eq!(queue.next().await.map(|parcel| parcel.items), Some(7));
        assert!(queue.next().await.is_none());
    }
}
