//! Deterministic ids: a replay of the same stream makes the same trace.
//!
//! A span id is the first 8 bytes of SHA-256(run id NUL kind NUL key); without a caller the trace id is the first 16
//! bytes of SHA-256(run id).

use opentelemetry::trace::{SpanId, TraceId};
use sha2::{Digest, Sha256};

/// What a span stands for; part of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpanKey {
    Run,
    Turn,
    Chat,
    Tool,
    Subagent,
    Approval,
    Compact,
    Hook,
    /// A span of a run that was forked; the key is the id that it has without the fork.
    Fork,
}

impl SpanKey {
    fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Turn => "turn",
            Self::Chat => "chat",
            Self::Tool => "tool",
            Self::Subagent => "subagent",
            Self::Approval => "approval",
            Self::Compact => "compact",
            Self::Hook => "hook",
            Self::Fork => "fork",
        }
    }
}

/// The id of the span that `kind` and `key` name within a run. Several parts of a key are joined by NUL.
#[must_use]
pub fn span_id(run_id: &str, kind: SpanKey, key: &[&str]) -> SpanId {
    let mut hash = Sha256::new();
    hash.update(run_id.as_bytes());
    hash.update([0]);
    hash.update(kind.as_str().as_bytes());
    for part in key {
        hash.update([0]);
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut bytes = [0_u8; 8];
    bytes.copy_from_slice(&digest[..8]);
    // All zeros would be W3C's invalid id; the chance is 2^-64, the check is free.
    if bytes == [0; 8] {
        bytes[7] = 1;
    }
    SpanId::from_bytes(bytes)
}

/// The id of a span in a run that was forked, by the id that it has or would have had in the first run.
#[must_use]
pub fn forked_span_id(run_id: &str, first: SpanId) -> SpanId {
    span_id(run_id, SpanKey::Fork, &[&first.to_string()])
}

/// The trace id of a run that no caller gave one.
#[must_use]
pub fn trace_id(run_id: &str) -> TraceId {
    let digest = Sha256::digest(run_id.as_bytes());
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    if bytes == [0; 16] {
        bytes[15] = 1;
    }
    TraceId::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_published_hashes() {
        // printf 'run-1\0tool\0toolu_1' | sha256sum; printf 'run-1' | sha256sum
        assert_eq!(
            span_id("run-1", SpanKey::Tool, &["toolu_1"]).to_string(),
            EXPECTED_SPAN
        );
        assert_eq!(trace_id("run-1").to_string(), EXPECTED_TRACE);
    }

    const EXPECTED_SPAN: &str = "3bc82a965d0863de";
    const EXPECTED_TRACE: &str = "4e65d3fbe8ad6535681b021b30785b12";

    #[test]
    fn the_parts_of_a_key_do_not_run_into_each_other() {
        assert_ne!(
            span_id("r", SpanKey::Chat, &["ab", "c"]),
            span_id("r", SpanKey::Chat, &["a", "bc"])
        );
    }
}
