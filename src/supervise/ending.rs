//! The end of a run: the verdict is said, the telemetry flushed, the last line said, and the host seen off.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sandtrace_client::wire::{Body, RunFinished, Telemetry as TelemetryCounts};
use serde_json::Map;

use super::prepare::{SuperviseError, system};
use super::processes::Fate;
use super::{STDERR_RETRY, STOP_SIGNALS, Supervisor, next};
use crate::echo::Delivery;
use crate::journal::Status;
use crate::process::{Signalled, Signals};
use crate::telemetry::Telemetry;

/// What is left for each part of the end once the patience is over, and for stderr in any case.
const HASTE: Duration = Duration::from_millis(500);
/// How long the last of stderr is offered where it has no other copy.
const STDERR_PATIENCE: Duration = Duration::from_secs(5);
/// The signals it takes: the first asks, the second insists, the third leaves.
const PATIENCE: u32 = 3;

impl Supervisor {
    /// Says the verdict, flushes the telemetry, says the last line, and sees the host off.
    pub(super) async fn finish(
        mut self,
        flush_timeout: Duration,
        signals: &mut Signals,
    ) -> Result<(RunFinished, Delivery, Option<PathBuf>), SuperviseError> {
        let mut patience = Patience {
            signals,
            stop_signals: self.stop_signals,
        };
        let now = self.clock.now();
        let Some(mut verdict) = self.verdict.take() else {
            return Err(system("reach a verdict")(io::ErrorKind::Other.into()));
        };
        if let Some(failure) = &mut verdict.failure {
            self.redactor.failure(failure);
        }
        self.transcript
            .body(now, None, &Body::AgentExited(verdict.clone()));
        self.transcript.commit(now);
        self.note_survivors(Fate::Left);
        self.tell_log();
        // Whoever stays must not depend on a cgroup that we made.
        self.tree.dissolve_leaf();
        let reader = self.telemetry.as_ref().map(Telemetry::reader);
        let flushed = patience.bound(self.flush(flush_timeout)).await;
        // Whoever cuts the flush short still hears what was exported until then.
        let counts = flushed.or_else(|| reader.map(|reader| reader.counts()));
        let counts = counts.unwrap_or_default();
        if self.stderr_is_only_copy() {
            patience.bound(self.await_stderr()).await;
        }
        self.finish_stderr();
        let now = self.clock.now();
        let survivors = std::mem::take(&mut self.survivors).into_values().collect();
        let Some(mut finished) = self.session.run_finished(counts, survivors) else {
            return Err(system("sum the run up")(io::ErrorKind::Other.into()));
        };
        // Said in the last line and on stderr; the agent's own words are in it.
        if let Some(failure) = &mut finished.failure {
            self.redactor.failure(failure);
        }
        self.transcript
            .body(now, None, &Body::RunFinished(Box::new(finished.clone())));
        self.transcript.commit(now);
        self.state.status = Status::Finished;
        self.state.ended = Some(now.wall.to_string());
        self.state.outcome = Some(finished.outcome);
        self.state.last_seq = Some(self.transcript.seq());
        if let Some(journal) = self.transcript.journal() {
            // The last line is written; a state that says `running` is corrected by whoever finds no such process.
            journal.write_state(&self.state).ok();
        }
        let journal = self.transcript.intact_journal();
        let journal = journal.map(|journal| journal.directory().to_owned());
        let delivery = patience.bound(self.transcript.finish(now)).await;
        Ok((finished, delivery.unwrap_or(Delivery::Stalled), journal))
    }

    /// Relays the last of the agent's stderr, and counts what its reader did not take.
    fn finish_stderr(&mut self) {
        let dropped = self.stderr.finish(HASTE);
        if dropped > 0 {
            let counts = Map::from_iter([("bytes".to_owned(), dropped.into())]);
            let message = "whoever reads stderr did not take all that the agent wrote there";
            let now = self.clock.now();
            self.transcript
                .warning(now, "stderr_dropped", message, counts);
        }
    }

    /// Gives a slow reader of stderr the time that a slow reader of stdout has.
    async fn await_stderr(&mut self) {
        let until = Instant::now() + STDERR_PATIENCE;
        while !self.stderr.flush(Duration::ZERO) && Instant::now() < until {
            tokio::time::sleep(STDERR_RETRY).await;
        }
    }

    async fn flush(&mut self, timeout: Duration) -> TelemetryCounts {
        let Some(telemetry) = self.telemetry.take() else {
            return TelemetryCounts::default();
        };
        let reader = telemetry.reader();
        // The exporter answers in time by itself; this bound is for the case that its threads are gone.
        let answer = tokio::time::timeout(timeout + HASTE, telemetry.shutdown(timeout));
        let mut answer = std::pin::pin!(answer);
        let counts = loop {
            tokio::select! {
                biased;
                Some(request) = next(&mut self.host_requests) => self.pass_to_host(request),
                answer = &mut answer => {
                    let answer = answer.ok().and_then(Result::ok);
                    break answer.unwrap_or_else(|| reader.counts());
                }
            }
        };
        let Some(mut requests) = self.host_requests.take() else {
            return counts;
        };
        // The answer may have overtaken the last of them, and only what is written counts as exported.
        while let Ok(request) = requests.try_recv() {
            self.pass_to_host(request);
        }
        reader.counts()
    }
}

/// That of whoever asks us to stop.
struct Patience<'a> {
    signals: &'a mut Signals,
    stop_signals: u32,
}

impl Patience<'_> {
    /// Lets `work` come to its end, or for [`HASTE`] once the patience is over.
    async fn bound<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            done = &mut work => Some(done),
            () = self.over() => tokio::time::timeout(HASTE, work).await.ok(),
        }
    }

    async fn over(&mut self) {
        while self.stop_signals < PATIENCE {
            match self.signals.recv().await {
                Signalled::Forward(signal) if STOP_SIGNALS.contains(&signal) => {
                    self.stop_signals += 1
                }
                // There is no agent any more to pass it on to, and the dead are reaped by whoever comes after us.
                Signalled::Forward(_) | Signalled::Child => {}
            }
        }
    }
}
