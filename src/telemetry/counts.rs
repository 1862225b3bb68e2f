//! What became of the spans, counted where it happens and read at the end.
//!
//! The counts are shared by atomics rather than by messages for one reason: the final report must be possible when the
//! export thread hangs or is gone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use sandtrace_client::wire;

use super::destination::Signals;

/// The most characters of an error that are kept.
const ERROR_CHARS: usize = 300;

/// The counts of one destination.
#[derive(Debug, Default)]
pub(super) struct Counts {
    exported: AtomicU64,
    dropped: AtomicU64,
    not_sampled: AtomicU64,
    /// On disk at this moment.
    spooled: AtomicU64,
    /// Requests of earlier runs.
    resent: AtomicU64,
    /// Metrics and logs: what was made for this destination. Spans are counted as they finish.
    taken: AtomicU64,
    /// This destination is sent this signal.
    expected: AtomicBool,
    last_error: Mutex<Option<String>>,
}

impl Counts {
    /// There is a route for this signal.
    pub(super) fn expect(&self) {
        self.expected.store(true, Relaxed);
    }

    /// Something was made to be sent.
    pub(super) fn taken(&self, items: u64) {
        self.taken.fetch_add(items, Relaxed);
    }

    /// Spans that sampling keeps back.
    pub(super) fn not_sampled(&self, spans: u64) {
        self.not_sampled.fetch_add(spans, Relaxed);
    }

    /// More of what waits is on disk.
    pub(super) fn spooled(&self, items: u64) {
        self.spooled.fetch_add(items, Relaxed);
    }

    /// Less of it is.
    pub(super) fn unspooled(&self, items: u64) {
        self.spooled.fetch_sub(items, Relaxed);
    }

    /// A request of an earlier run was delivered.
    pub(super) fn resent(&self) {
        self.resent.fetch_add(1, Relaxed);
    }

    /// More of what is dropped for a reason that has been told.
    pub(super) fn dropped_too(&self, items: u64) {
        self.dropped.fetch_add(items, Relaxed);
    }

    fn of_signal(&self) -> Option<wire::SignalCounts> {
        let exported = self.exported.load(Relaxed);
        let dropped = self.dropped.load(Relaxed);
        let taken = self.taken.load(Relaxed);
        self.expected.load(Relaxed).then_some(wire::SignalCounts {
            exported,
            dropped,
            queued: taken.saturating_sub(exported + dropped),
        })
    }

    pub(super) fn exported(&self, spans: u64) {
        self.exported.fetch_add(spans, Relaxed);
    }

    /// Spans that will not arrive, and why.
    pub(super) fn dropped(&self, spans: u64, reason: &str) {
        self.dropped.fetch_add(spans, Relaxed);
        self.error(reason);
    }

    fn last_error(&self) -> Option<String> {
        let error = self.last_error.lock();
        error.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something went wrong, but nothing is lost yet.
    pub(super) fn error(&self, reason: &str) {
        let reason = reason.chars().take(ERROR_CHARS).collect();
        *self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }
}

/// The counts of one destination, by signal.
#[derive(Debug, Clone, Default)]
pub(super) struct SignalCounts {
    pub(super) spans: Arc<Counts>,
    /// Data points.
    pub(super) metrics: Arc<Counts>,
    pub(super) logs: Arc<Counts>,
}

impl SignalCounts {
    /// These are sent, of those that are told only where they are.
    pub(super) fn expect(&self, signals: Signals) {
        for (takes, counts) in [(signals.metrics, &self.metrics), (signals.logs, &self.logs)] {
            if takes {
                counts.expect();
            }
        }
    }
}

/// The counts of the whole pipeline.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    finished: AtomicU64,
    dropped: AtomicU64,
    destinations: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    counts: SignalCounts,
    takes_spans: bool,
}

impl Ledger {
    /// Adds a destination, and gives the counts for it to keep. One that takes no spans owes none at the end.
    pub(super) fn add(&mut self, name: &'static str, takes_spans: bool) -> SignalCounts {
        let counts = SignalCounts::default();
        self.destinations.push(Row {
            name,
            counts: counts.clone(),
            takes_spans,
        });
        counts
    }

    /// A span finished.
    pub(super) fn finished(&self) {
        self.finished.fetch_add(1, Relaxed);
    }

    /// Log records were not taken into the pipeline, for any destination.
    pub(super) fn logs_dropped(&self, records: u64) {
        for row in &self.destinations {
            // They were owed to it like those that came in; else they would be taken from what is queued.
            row.counts.logs.taken(records);
            row.counts.logs.dropped_too(records);
        }
    }

    /// It was not taken into the pipeline.
    pub(super) fn dropped(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    /// Something went wrong for every destination.
    pub(super) fn error(&self, reason: &str) {
        for row in &self.destinations {
            row.counts.spans.error(reason);
        }
    }

    /// Whatever a destination took and has neither exported nor dropped is still queued, wherever it is.
    pub(super) fn report(&self) -> wire::Telemetry {
        let spans = self.finished.load(Relaxed);
        let spans_dropped = self.dropped.load(Relaxed);
        let taken = spans.saturating_sub(spans_dropped);
        let rows = self.destinations.iter().map(|row| {
            let exported = row.counts.spans.exported.load(Relaxed);
            let dropped = row.counts.spans.dropped.load(Relaxed);
            let taken = if row.takes_spans { taken } else { 0 };
            let not_sampled = row.counts.spans.not_sampled.load(Relaxed);
            let queued = taken.saturating_sub(exported + dropped + not_sampled);
            let signals = [&row.counts.spans, &row.counts.metrics, &row.counts.logs];
            let last_error = signals.into_iter().find_map(|counts| counts.last_error());
            let resent = signals.map(|counts| counts.resent.load(Relaxed));
            wire::DestinationCounts {
                name: row.name.to_owned(),
                exported,
                dropped,
                queued,
                spooled: row.counts.spans.spooled.load(Relaxed).min(queued),
                not_sampled,
                resent: resent.into_iter().sum(),
                metrics: row.counts.metrics.of_signal(),
                logs: row.counts.logs.of_signal(),
                last_error,
            }
        });
        wire::Telemetry {
            spans,
            spans_dropped,
            destinations: rows.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_records_that_nobody_made_are_not_taken_from_those_that_wait() {
        let mut ledger = Ledger::default();
        let counts = ledger.add("otlp", true);
        counts.logs.expect();
        counts.logs.taken(10);
        counts.logs.exported(4);
        ledger.logs_dropped(5);
        let report = ledger.report();
        let logs = report.destinations[0].logs.as_ref().unwrap();
        assert_eq!((logs.exported, logs.dropped, logs.queued), (4, 5, 6));
    }

    #[test]
    fn what_is_neither_exported_nor_dropped_is_queued() {
        let mut ledger = Ledger::default();
        let taking = ledger.add("otlp", true);
        ledger.add("unsampled", false);
        for _ in 0..10 {
            ledger.finished();
        }
        ledger.dropped();
        taking.spans.exported(5);
        taking.spans.dropped(1, &"x".repeat(1_000));
        let report = ledger.report();
        assert_eq!((report.spans, report.spans_dropped), (10, 1));
        let [otlp, unsampled] = report.destinations.as_slice() else {
            panic!("{report:?}");
        };
        assert_eq!((otlp.exported, otlp.dropped, otlp.queued), (5, 1, 3));
        assert_eq!(otlp.last_error.as_ref().map(String::len), Some(ERROR_CHARS));
        assert_eq!(
            (unsampled.exported, unsampled.dropped, unsampled.queued),
            (0, 0, 0)
        );
    }
}
