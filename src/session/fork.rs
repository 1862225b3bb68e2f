//! A fork: the sandbox was copied in flight, and this is the copy.
//!
//! The original goes on elsewhere, under the run id and in the trace that both began with, and will close the spans that
//! were open. So the copy takes a run id and a trace of its own, whose root is linked to the old one's, and opens there
//! what is open (DESIGN §5, `reference/e2b.md` §0.10).

use opentelemetry::trace::{SpanId, TraceId};

use super::semconv::key;
use super::{Effects, Session, TraceContext, id};
use crate::time::Now;

/// Where a run came from, and what it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forked {
    pub from_trace_id: TraceId,
    pub from_root: SpanId,
    pub trace_id: TraceId,
    pub root: SpanId,
}

impl Session {
    /// Goes on as the run `run_id`, in a trace of its own. The spans that are open are announced anew.
    pub fn fork(&mut self, now: Now, run_id: &str, effects: &mut Effects) -> Forked {
        let from_trace_id = self.config.context.trace_id;
        let from_root = self.root();
        let context = TraceContext {
            trace_id: id::trace_id(run_id),
            // The caller's span is the original's parent; it never knew of this run.
            parent_span_id: None,
            ..self.config.context.clone()
        };
        self.config.context = context.clone();
        self.tree.set_common(key::RUN_ID, run_id.to_owned());
        self.tree
            .fork(run_id, context, now.wall, &mut effects.spans);
        // What the run is accounted for begins here, as its span does.
        self.started = now.wall;
        Forked {
            from_trace_id,
            from_root,
            trace_id: self.config.context.trace_id,
            root: self.root(),
        }
    }
}
