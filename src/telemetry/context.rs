//! The trace context that comes in by environment variables and goes out by them.
//!
//! TRACEPARENT, TRACESTATE and BAGGAGE are the W3C headers under the names of OpenTelemetry's environment carrier. The
//! SDK's propagators read and write them; nothing here is global. Anything wrong with them is the caller's slip and
//! never a reason to refuse the run: it gets a trace of its own.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceState};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};

use super::variables::Propagators;
use crate::order::by_name;
use crate::session::span::TraceContext;

const TRACEPARENT: &str = "TRACEPARENT";
const TRACESTATE: &str = "TRACESTATE";
const BAGGAGE: &str = "BAGGAGE";

/// What TRACEPARENT says.
#[derive(Debug, Clone, PartialEq)]
pub enum ParentContext {
    /// There is none: the run starts a trace of its own.
    Absent,
    /// There is one, but it is malformed: worth a warning, and a trace of the run's own.
    Invalid,
    /// The caller's trace and span.
    Present(TraceContext),
}

/// Everything that the caller handed on.
#[derive(Debug, Clone, PartialEq)]
pub struct Extracted {
    /// The caller's trace context.
    pub context: ParentContext,
    /// BAGGAGE as keys and values, sorted by key; malformed members are left out.
    pub baggage: Vec<(String, String)>,
}

/// Reads as much of the caller's context as is asked for. `lookup` gives a variable's value, `None` if it is unset or
/// empty.
#[must_use]
pub fn extract(lookup: &dyn Fn(&str) -> Option<String>, propagators: &Propagators) -> Extracted {
    let is_read = |name: &&str| match *name {
        BAGGAGE => propagators.baggage,
        _ => propagators.trace_context,
    };
    let carrier: HashMap<String, String> = [TRACEPARENT, TRACESTATE, BAGGAGE]
        .into_iter()
        .filter(is_read)
        .filter_map(|name| Some((name.to_ascii_lowercase(), lookup(name)?)))
        .collect();
    Extracted {
        context: parent(&carrier),
        baggage: baggage(&carrier),
    }
}

fn parent(carrier: &HashMap<String, String>) -> ParentContext {
    let Some(traceparent) = carrier.get("traceparent") else {
        return ParentContext::Absent;
    };
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), carrier);
    let span = context.span();
    let caller = span.span_context();
    if !caller.is_valid() || !has_full_ids(traceparent, caller) {
        return ParentContext::Invalid;
    }
    // The text goes on unchanged, but only if the SDK could read it: a child should not be handed what we refused.
    let trace_state = match carrier.get("tracestate") {
        Some(text) if *caller.trace_state() != TraceState::default() => text.clone(),
        _ => String::new(),
    };
    ParentContext::Present(TraceContext {
        trace_id: caller.trace_id(),
        parent_span_id: Some(caller.span_id()),
        sampled: caller.is_sampled(),
        trace_state,
    })
}

/// The SDK parses the ids as numbers, so it takes `00-1-2-01` for a context; the W3C asks for all the digits.
fn has_full_ids(traceparent: &str, caller: &SpanContext) -> bool {
    let ids = format!("-{}-{}-", caller.trace_id(), caller.span_id());
    traceparent.trim().get(2..2 + ids.len()) == Some(ids.as_str())
}

fn baggage(carrier: &HashMap<String, String>) -> Vec<(String, String)> {
    let context = BaggagePropagator::new().extract_with_context(&Context::new(), carrier);
    let members: Vec<(String, String)> = context
        .baggage()
        .iter()
        .map(|(key, (value, _))| (key.to_string(), value.to_string()))
        .collect();
    by_name(members, |(key, _)| key)
}

/// The variables that make `span_id` the parent of whatever the child traces. TRACESTATE is left out when empty.
#[must_use]
pub fn inject(context: &TraceContext, span_id: SpanId) -> Vec<(String, String)> {
    let flags = TraceFlags::default().with_sampled(context.sampled);
    // The state is not given to the SDK: it would write its own spelling, and the caller's is handed on unchanged.
    let span = SpanContext::new(
        context.trace_id,
        span_id,
        flags,
        true,
        TraceState::default(),
    );
    let mut carrier = HashMap::new();
    TraceContextPropagator::new()
        .inject_context(&Context::new().with_remote_span_context(span), &mut carrier);
    carrier.insert("tracestate".to_owned(), context.trace_state.clone());
    [TRACEPARENT, TRACESTATE]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), carrier.remove(&name.to_ascii_lowercase())?)))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::variables::propagators;
    use super::*;
    use opentelemetry::trace::TraceId;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn extracted(variables: &[(&str, &str)]) -> Extracted {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        extract(&lookup, &propagators(&lookup))
    }

    #[test]
    fn what_is_not_asked_for_is_not_read() {
        let all = [
            ("TRACEPARENT", PARENT),
            ("BAGGAGE", "user.id=alice"),
            ("OTEL_PROPAGATORS", ""),
        ];
        for (propagators, has_parent, has_baggage) in [
            ("tracecontext", true, false),
            ("baggage", false, true),
            ("none", false, false),
        ] {
            let mut set = all;
            set[2].1 = propagators;
            let found = extracted(&set);
            let is_present = matches!(found.context, ParentContext::Present(_));
            assert_eq!(is_present, has_parent, "{propagators}");
            assert!(is_present || found.context == ParentContext::Absent);
            assert_eq!(!found.baggage.is_empty(), has_baggage, "{propagators}");
        }
    }

    #[test]
    fn the_callers_context_is_read() {
        let found = extracted(&[
            ("TRACEPARENT", PARENT),
            ("TRACESTATE", "b=2, a=1"),
            ("BAGGAGE", "user.id=al%20ice;secret,session.id=s1"),
        ]);
        let ParentContext::Present(context) = found.context else {
            panic!("{:?}", found.context);
        };
        assert_eq!(
            context.trace_id.to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert_eq!(
            context.parent_span_id.unwrap().to_string(),
            "b7ad6b7169203331"
        );
        assert!(context.sampled);
        assert_eq!(context.trace_state, "b=2, a=1");
        let members = [("session.id", "s1"), ("user.id", "al ice")];
        assert_eq!(
            found.baggage,
            members.map(|(k, v)| (k.to_owned(), v.to_owned()))
        );
    }

    #[test]
    fn nothing_is_absent_and_an_unsampled_caller_stays_unsampled() {
        assert_eq!(
            extracted(&[("TRACESTATE", "a=1")]).context,
            ParentContext::Absent
        );
        let unsampled = PARENT.replace("-01", "-00");
        let ParentContext::Present(context) = extracted(&[("TRACEPARENT", &unsampled)]).context
        else {
            panic!("a valid context");
        };
        assert!(!context.sampled);
    }

    #[test]
    fn a_malformed_context_is_told_from_none() {
        for malformed in [
            "nonsense",
            "00-1-2-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "é0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            let context = extracted(&[("TRACEPARENT", malformed)]).context;
            assert_eq!(context, ParentContext::Invalid, "{malformed}");
        }
    }

    #[test]
    fn a_malformed_state_is_dropped_and_the_context_kept() {
        let found = extracted(&[("TRACEPARENT", PARENT), ("TRACESTATE", "nonsense")]);
        let ParentContext::Present(context) = found.context else {
            panic!("{:?}", found.context);
        };
        assert_eq!(context.trace_state, "");
    }

    #[test]
    fn the_child_is_put_under_the_given_span() {
        let context = TraceContext {
            trace_id: TraceId::from(1),
            parent_span_id: None,
            sampled: true,
            trace_state: "b=2, a=1".to_owned(),
        };
        let variables = inject(&context, SpanId::from(2));
        let parent = format!("00-{:032x}-{:016x}-01", 1, 2);
        let expected = [("TRACEPARENT", parent.as_str()), ("TRACESTATE", "b=2, a=1")];
        assert_eq!(
            variables,
            expected.map(|(k, v)| (k.to_owned(), v.to_owned()))
        );

        let bare = TraceContext {
            sampled: false,
            trace_state: String::new(),
            ..context
        };
        let variables = inject(&bare, SpanId::from(2));
        assert_eq!(variables.len(), 1);
        assert!(variables[0].1.ends_with("-00"));
    }
}
