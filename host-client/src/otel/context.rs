//! The caller's trace context as environment variables.

use opentelemetry::propagation::{Injector, TextMapPropagator};
use opentelemetry::{Context, global};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};

use crate::Launch;

impl Launch {
    /// Hands the current OpenTelemetry context to the run, as [`context`](Self::context) does.
    #[must_use]
    pub fn current_context(self) -> Self {
        self.context(&Context::current())
    }

    /// Hands an OpenTelemetry context to the run: `agent.run` becomes a child of its span, and its baggage goes on every
    /// span.
    ///
    /// It is written by the global propagator, each header as a variable: `traceparent` as `TRACEPARENT`. Where the
    /// application has set none, by those of the W3C, which are what the supervisor reads. A context without a span
    /// changes nothing, and the run begins a trace of its own.
    #[must_use]
    pub fn context(self, context: &Context) -> Self {
        let mut variables = Variables(Vec::new());
        global::get_text_map_propagator(|propagator| {
            if propagator.fields().next().is_some() {
                propagator.inject_context(context, &mut variables);
            } else {
                TraceContextPropagator::new().inject_context(context, &mut variables);
                BaggagePropagator::new().inject_context(context, &mut variables);
            }
        });
        let set = variables.0.into_iter();
        set.filter(|(_, value)| !value.is_empty())
            .fold(self, |launch, (name, value)| launch.var(name, value))
    }
}

/// Headers on their way into the environment, by the rules of OpenTelemetry's environment carrier.
struct Variables(Vec<(String, String)>);

impl Injector for Variables {
    fn set(&mut self, key: &str, value: String) {
        let name = key.chars().map(|char| match char {
            char if char.is_ascii_alphanumeric() => char.to_ascii_uppercase(),
            _ => '_',
        });
        self.0.push((name.collect(), value));
    }
}
