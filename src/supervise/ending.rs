//! The end of a run: the verdict is said, the telemetry flushed, the last line said, and the host seen off.

use std::io;
use std::time::Duration;

use sandtrace_client::wire::{Body, RunFinished, Survivor, Telemetry as TelemetryCounts};

use super::prepare::{SuperviseError, system};
use super::{STOP_SIGNALS, Supervisor};
use crate::echo::Delivery;
use crate::journal::Status;
use crate::process::{Signalled, Signals};

/// What a flush has left once somebody asks again to stop, and what stderr has at the end.
const HASTE: Duration = Duration::from_millis(500);

impl Supervisor {
    /// Says the verdict, flushes the telemetry, says the last line, and sees the host off.
    pub(super) async fn finish(
        mut self,
        flush_timeout: Duration,
        signals: &mut Signals,
    ) -> Result<(RunFinished, Delivery), SuperviseError> {
        let now = self.clock.now();
        let Some(verdict) = self.verdict.take() else {
            return Err(system("reach a verdict")(io::ErrorKind::Other.into()));
        };
        self.transcript
            .body(now, None, &Body::AgentExited(verdict.clone()));
        self.transcript.commit(now);
        for process in self.tree.descendants().unwrap_or_default() {
            let Ok(pid) = u32::try_from(process.pid.as_raw()) else {
                continue;
            };
            self.survivors.entry(pid).or_insert(Survivor {
                pid,
                command: process.command,
                killed: false,
            });
        }
        let timeout = if self.in_haste {
            flush_timeout.min(HASTE)
        } else {
            flush_timeout
        };
        let counts = self.flush(timeout, signals).await;
        let now = self.clock.now();
        let survivors = std::mem::take(&mut self.survivors).into_values().collect();
        let Some(finished) = self.session.run_finished(counts, survivors) else {
            return Err(system("sum the run up")(io::ErrorKind::Other.into()));
        };
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
        self.stderr.flush(HASTE);
        Ok((finished, self.transcript.finish(now).await))
    }

    /// Exports what is left, for at most `timeout`; a further signal to stop cuts that short.
    async fn flush(&mut self, timeout: Duration, signals: &mut Signals) -> TelemetryCounts {
        let Some(telemetry) = self.telemetry.take() else {
            return TelemetryCounts::default();
        };
        let before = telemetry.counts();
        // The exporter answers in time by itself; the outer bound is for the case that its threads are gone.
        let mut answer = std::pin::pin!(tokio::time::timeout(
            timeout + HASTE,
            telemetry.shutdown(timeout)
        ));
        let told = tokio::select! {
            told = &mut answer => told.ok(),
            () = asked_to_stop(signals) => {
                tokio::time::timeout(HASTE, answer).await.ok().and_then(Result::ok)
            }
        };
        told.and_then(Result::ok).unwrap_or(before)
    }
}

async fn asked_to_stop(signals: &mut Signals) {
    loop {
        if let Signalled::Forward(signal) = signals.recv().await
            && STOP_SIGNALS.contains(&signal)
        {
            return;
        }
    }
}
