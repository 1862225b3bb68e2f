//! Which runs' spans are exported: decided by the trace id, and again at the end.
//!
//! | fate | spans |
//! |---|---|
//! | send | go out as the run goes |
//! | hold | wait on disk for the end: a run that failed or was slow is sent after all |
//! | never | go into the journal alone, for the caller said so |
//!
//! This holds for every destination. A backend's spans wait as requests in the spool; a supervisor that is killed leaves
//! them there, and the next run sends them: a run without an end has failed. Those for the host's lines and for the
//! console wait in the journal's own copy (see [`super::held`]), where they stay if the supervisor is killed, and
//! without a journal they are not sent. What is not sent is counted by destination. Metrics and logs are always exported.

use std::time::Duration;

use opentelemetry::trace::TraceId;

use crate::session::span::{FinishedSpan, SpanStatus};

/// How much of a trace id is random by W3C's Trace Context Level 2, in bits.
const RANDOM_BITS: u32 = 56;

/// The user's wish.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// The share of runs that are exported as they go, 0 to 1.
    pub rate: f64,
    /// A run that took longer is exported in any case; `None` for none.
    pub slow: Option<Duration>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            rate: 1.0,
            slow: None,
        }
    }
}

/// What becomes of a run's spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Send,
    Hold,
    Never,
}

/// What the end of a held run decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It failed, was slow, or never ended.
    Keep,
    Forget,
}

/// Decides, once at the first span and once at the last.
#[derive(Debug)]
pub(super) struct Gate {
    sampled: bool,
    sampling: Sampling,
    fate: Option<Fate>,
}

impl Gate {
    /// `sampled` is the trace's W3C flag.
    pub(super) fn new(sampled: bool, sampling: Sampling) -> Self {
        Self {
            sampled,
            sampling,
            fate: None,
        }
    }

    /// The fate of the run with this trace. It stays when the trace changes: a fork of the sandbox is the same agent.
    pub(super) fn fate(&mut self, trace: TraceId) -> Fate {
        *self.fate.get_or_insert_with(|| {
            if !self.sampled {
                Fate::Never
            } else if is_chosen(trace, self.sampling.rate) {
                Fate::Send
            } else {
                Fate::Hold
            }
        })
    }

    /// What a span decides for a run that is held; all but the run's own decide nothing.
    pub(super) fn judge(&mut self, span: &FinishedSpan) -> Option<Judgement> {
        let is_root = span.parent_span_id.is_none() || span.parent_is_remote;
        if self.fate(span.trace_id) != Fate::Hold || !is_root {
            return None;
        }
        let failed = matches!(span.status, SpanStatus::Error { .. });
        let took = span.end.since(span.start);
        let was_slow = self.sampling.slow.is_some_and(|slow| took > slow);
        // From here on nothing is held any more: what still comes is let in, or is not, by the queues' doors.
        self.fate = Some(Fate::Send);
        Some(if failed || was_slow {
            Judgement::Keep
        } else {
            Judgement::Forget
        })
    }

    /// The run is over. One that is still held had no end.
    pub(super) fn judge_end(&mut self) -> Option<Judgement> {
        (self.fate.replace(Fate::Send) == Some(Fate::Hold)).then_some(Judgement::Keep)
    }
}

/// OpenTelemetry's consistent sampling: the low 56 bits of the trace id against a threshold, so that everybody who
/// samples this trace at a higher rate keeps it too (specification, *Probability Sampling in TraceState*).
fn is_chosen(trace: TraceId, rate: f64) -> bool {
    let range = 1_u64 << RANDOM_BITS;
    let random = u128::from_be_bytes(trace.to_bytes()) & u128::from(range - 1);
    // Exact at both ends, and everywhere else finer than anybody can tell.
    let threshold = ((1.0 - rate.clamp(0.0, 1.0)) * range as f64) as u128;
    random >= threshold
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::id;

    #[test]
    fn a_rate_keeps_its_share_of_traces() {
        for (rate, least, most) in [
            (0.0, 0, 0),
            (0.01, 60, 140),
            (0.25, 2_350, 2_650),
            (1.0, 10_000, 10_000),
            (f64::NAN, 0, 10_000),
        ] {
            let kept = (0..10_000)
                .filter(|number| is_chosen(id::trace_id(&format!("run-{number}")), rate))
                .count();
            assert!((least..=most).contains(&kept), "{rate}: {kept}");
        }
        // The ends hold for every trace id, the least and the greatest too.
        for trace in [0, 1, u128::MAX, (1 << 56) - 1] {
            assert!(is_chosen(TraceId::from(trace), 1.0));
            assert!(!is_chosen(TraceId::from(trace), 0.0));
        }
    }

    #[test]
    fn a_trace_that_a_low_rate_keeps_is_kept_by_a_higher_one() {
        for number in 0..2_000 {
            let trace = id::trace_id(&format!("run-{number}"));
            if is_chosen(trace, 0.1) {
                assert!(is_chosen(trace, 0.11));
            }
        }
    }

    #[test]
    fn only_the_low_bits_decide() {
        let random = 0x00ab_cdef_0123_4567_u128;
        let other = random | (0xffff_u128 << 56);
        for rate in [0.1, 0.3, 0.5, 0.9] {
            assert_eq!(
                is_chosen(TraceId::from(random), rate),
                is_chosen(TraceId::from(other), rate)
            );
        }
    }
}
