//! What a backend wants to read beyond the base conventions, or instead of them: a pure function over a span.
//!
//! The session's spans carry the GenAI conventions 1.41, which every backend here reads. A dialect adds what one
//! backend cannot derive from them, takes away what it would misread, and otherwise leaves a span alone: ids, times,
//! parents, kind and name are never touched. It runs after redaction, so whatever it derives is derived from what may
//! leave the sandbox, and before the encoding. Mostly it is a table of `rules`; the rest is a few functions.
//!
//! Three rules hold for all of them. What is there already stays: a user who sets a backend's own key by
//! `--attribute` is right. A long text moves, it is not copied, for a batch's size was reckoned without the dialect.
//! And no dialect gives tokens, a model or a cost to anything but a chat, for backends sum them over all spans
//! (`reference/observability.md` §0).
//!
//! What each rests on: *source* is the backend's own code, read in 2026-11; *docs* its documentation.
//!
//! | dialect | adds | rests on |
//! |---|---|---|
//! | otlp, grafana, jaeger, prometheus | nothing | these know no GenAI; Prometheus takes no spans |
//! | honeycomb | nothing: all that its Agent Timeline requires is in the base | docs |
//! | langfuse | see the module | source |
//! | phoenix | see the module | source, and its own converter |
//! | signoz | time to first token under its own name | docs |
//! | datadog | messages made of the previews | docs |
//! | braintrust | see the module | docs, and the source of its SDKs |
//! | langsmith | see the module | docs |
//! | logfire | cost, JSON schema | its SDK's source; what its pages make of it, docs |
//! | traceloop | its span kinds, entities and associations | its SDK's source; what its pages make of it, docs |

mod braintrust;
mod datadog;
mod langfuse;
mod langsmith;
mod latest;
mod logfire;
mod phoenix;
mod rules;
mod signoz;
mod traceloop;

use opentelemetry::trace::TraceId;
use opentelemetry::{Key, Value};
use opentelemetry_sdk::Resource;

use crate::session::span::FinishedSpan;

/// How a backend wants its attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// The spans as they are.
    #[default]
    Otlp,
    /// Langfuse.
    Langfuse,
    /// Langfuse, where the caller says that the trace has its head there already; see [`Self::under`].
    LangfuseGuest,
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
            Self::Otlp | Self::Honeycomb | Self::Grafana | Self::Jaeger | Self::Prometheus => {
                |span| span
            }
            Self::Langfuse => langfuse::span,
            Self::LangfuseGuest => langfuse::guest,
            Self::Signoz => signoz::span,
            Self::Phoenix => phoenix::span,
            Self::Datadog => datadog::span,
            Self::Braintrust => braintrust::span,
            Self::Logfire => logfire::span,
            Self::Langsmith => langsmith::span,
            Self::Traceloop => traceloop::span,
        }
    }

    /// The dialect to speak below a caller's span, by the caller's BAGGAGE.
    #[must_use]
    pub fn under(self, trace_id: TraceId, baggage: &[(String, String)]) -> Self {
        let claims = |(key, value): &(String, String)| {
            key == langfuse::CLAIM && value.eq_ignore_ascii_case(&trace_id.to_string())
        };
        match self {
            Self::Langfuse if baggage.iter().any(claims) => Self::LangfuseGuest,
            other => other,
        }
    }

    /// What this backend reads from the resource beyond the `common` one. A destination's own attributes beat it.
    #[must_use]
    pub fn resource(self, common: &Resource) -> Vec<(Key, Value)> {
        match self {
            Self::Phoenix => phoenix::resource(common),
            _ => Vec::new(),
        }
    }
}

/// Which vintage of the GenAI conventions spans speak, before the dialect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Semconv {
    /// 1.41, which backends read.
    #[default]
    V1_41,
    /// What is being drafted after it: `reference/observability.md` §1.1, column C.
    Latest,
}

impl Semconv {
    /// Reads OTEL_SEMCONV_STABILITY_OPT_IN: words with commas between them.
    #[must_use]
    pub fn opted_in(value: Option<&str>) -> Self {
        let mut words = value.unwrap_or_default().split(',').map(str::trim);
        match words.any(|word| word == "gen_ai_latest_experimental") {
            true => Self::Latest,
            false => Self::V1_41,
        }
    }

    /// The translation of one span.
    #[must_use]
    pub fn span(self) -> fn(FinishedSpan) -> FinishedSpan {
        match self {
            Self::V1_41 => |span| span,
            Self::Latest => latest::span,
        }
    }
}

#[cfg(test)]
mod tests;
