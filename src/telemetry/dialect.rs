//! What a backend wants to read beyond the base conventions, or instead of them: a pure function over a span.

use crate::session::span::FinishedSpan;

/// How a backend wants its attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// The spans as they are.
    #[default]
    Otlp,
    /// Langfuse.
    Langfuse,
    /// `SigNoz`.
    Signoz,
    /// Arize Phoenix.
    Phoenix,
    /// Honeycomb.
    Honeycomb,
    /// Datadog's LLM Observability.
    Datadog,
    /// Braintrust.
    Braintrust,
    /// Grafana Cloud, Tempo.
    Grafana,
    /// Pydantic Logfire.
    Logfire,
    /// `LangSmith`.
    Langsmith,
    /// Traceloop.
    Traceloop,
    /// Jaeger.
    Jaeger,
    /// Prometheus, which takes no spans.
    Prometheus,
}

impl Dialect {
    /// The translation of one span.
    #[must_use]
    pub fn span(self) -> fn(FinishedSpan) -> FinishedSpan {
        match self {
            Self::Otlp
            | Self::Langfuse
            | Self::Signoz
            | Self::Phoenix
            | Self::Honeycomb
            | Self::Datadog
            | Self::Braintrust
            | Self::Grafana
            | Self::Logfire
            | Self::Langsmith
            | Self::Traceloop
            | Self::Jaeger
            | Self::Prometheus => |span| span,
        }
    }
}
