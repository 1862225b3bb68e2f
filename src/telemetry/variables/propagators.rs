//! Which of the caller's context is read, and whether the agent is handed its own.

use super::{Lookup, Unsupported};

/// What OTEL_PROPAGATORS says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Propagators {
    /// TRACEPARENT and TRACESTATE are read, and set for the agent. If not, the agent finds them as the caller left them.
    pub trace_context: bool,
    /// BAGGAGE is read. The agent finds it in any case.
    pub baggage: bool,
    /// Those that do not exist here.
    pub unsupported: Option<Unsupported>,
}

/// Reads OTEL_PROPAGATORS. Without it, and where it names nothing that exists here, both are used: a setting that cannot
/// be followed is passed over (specification, configuration/sdk-environment-variables.md, *Enum*).
#[must_use]
pub fn propagators(lookup: Lookup<'_>) -> Propagators {
    let mut named = Propagators {
        trace_context: false,
        baggage: false,
        unsupported: None,
    };
    let mut is_followed = false;
    let mut others = Vec::new();
    let list = lookup("OTEL_PROPAGATORS").unwrap_or_default();
    for word in list.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        let is = |name| word.eq_ignore_ascii_case(name);
        if is("tracecontext") {
            named.trace_context = true;
        } else if is("baggage") {
            named.baggage = true;
        } else if !is("none") {
            others.push(word);
            continue;
        }
        is_followed = true;
    }
    if !others.is_empty() {
        named.unsupported = Some(Unsupported::Propagators {
            names: others.join(", "),
        });
    }
    if is_followed {
        return named;
    }
    Propagators {
        trace_context: true,
        baggage: true,
        ..named
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::looked_up;
    use super::*;

    #[test]
    fn the_caller_s_context_is_read_as_the_variable_says() {
        for (value, trace_context, baggage, others) in [
            ("", true, true, None),
            ("tracecontext,baggage", true, true, None),
            (" TraceContext ,tracecontext", true, false, None),
            ("baggage", false, true, None),
            ("none", false, false, None),
            ("none,baggage", false, true, None),
            ("b3,tracecontext,jaeger", true, false, Some("b3, jaeger")),
            ("b3", true, true, Some("b3")),
            ("traceparent", true, true, Some("traceparent")),
            (" , ", true, true, None),
        ] {
            let set = [("OTEL_PROPAGATORS", value)];
            let set = if value.is_empty() { &[][..] } else { &set[..] };
            let found = propagators(&looked_up(set));
            let read = (found.trace_context, found.baggage);
            assert_eq!(read, (trace_context, baggage), "{value:?}");
            let told = found.unsupported.map(|it| it.to_string());
            assert_eq!(told.is_some(), others.is_some(), "{value:?}");
            for (told, names) in told.iter().zip(others) {
                assert!(told.contains("OTEL_PROPAGATORS"), "{told}");
                assert!(told.contains(names), "{told}");
            }
        }
    }
}
