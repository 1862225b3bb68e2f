//! What a finished span is worth in metrics: a pure function, and the books that make the sums come out right.
//!
//! Never an id of a run, a session or a conversation: each would make series of its own.

use opentelemetry::{KeyValue, Value};

use super::instruments::{Figure, Measure, Measurement};
use crate::session::semconv::{key, span as span_name, value};
use crate::session::span::{FinishedSpan, SpanStatus};

/// Less than this is rounding.
const USD_NOISE: f64 = 1e-9;

/// Attributes of a request to the model that every metric of it has.
const REQUEST: &[&str] = &[
    key::GEN_AI_OPERATION,
    key::GEN_AI_PROVIDER,
    key::GEN_AI_REQUEST_MODEL,
    key::GEN_AI_RESPONSE_MODEL,
];

/// What a span says by itself.
pub(super) fn measurements(span: &FinishedSpan) -> Vec<Measurement> {
    let mut found = Vec::new();
    let seconds = Figure::Real(span.end.since(span.start).as_secs_f64());
    let mut measure = |measure, figure, attributes| {
        found.push(Measurement {
            measure,
            figure,
            attributes,
        });
    };
    let error = key::ERROR_TYPE;
    match kind(span) {
        span_name::CHAT => {
            let failing = copied(span, &[REQUEST, &[error]].concat());
            measure(Measure::OperationDuration, seconds, failing);
            if let Some(Value::F64(first)) = get(span, key::GEN_AI_TIME_TO_FIRST_CHUNK) {
                let attributes = copied(span, REQUEST);
                measure(Measure::TimeToFirstChunk, Figure::Real(*first), attributes);
            }
            for (token, row) in TOKENS {
                if let Some(count) = whole(span, token.of_chat()) {
                    let mut attributes = copied(span, REQUEST);
                    attributes.push(token.attribute());
                    measure(*row, Figure::Whole(count), attributes);
                }
            }
            if let Some(usd) = usd(span) {
                measure(Measure::Cost, Figure::Real(usd), copied(span, PAYER));
            }
        }
        span_name::EXECUTE_TOOL => {
            let keys = [
                key::GEN_AI_OPERATION,
                key::GEN_AI_TOOL_NAME,
                key::GEN_AI_TOOL_TYPE,
                error,
            ];
            measure(Measure::ExecuteToolDuration, seconds, copied(span, &keys));
        }
        span_name::INVOKE_AGENT => {
            let keys = [key::GEN_AI_OPERATION, key::GEN_AI_AGENT_NAME, error];
            measure(Measure::InvokeAgentDuration, seconds, copied(span, &keys));
        }
        span_name::APPROVAL => {
            let keys = [key::APPROVAL_DECISION, error];
            measure(Measure::ApprovalDuration, seconds, copied(span, &keys));
        }
        span_name::RUN => {
            let keys = [key::OUTCOME, key::GEN_AI_AGENT_NAME, error];
            measure(Measure::Runs, Figure::Whole(1), copied(span, &keys));
        }
        _ => {}
    }
    if let SpanStatus::Error { .. } = span.status {
        let mut attributes = copied(span, &[error]);
        if attributes.is_empty() {
            attributes.push(KeyValue::new(error, value::OTHER));
        }
        attributes.push(KeyValue::new(key::SPAN, kind(span).to_owned()));
        measure(Measure::Errors, Figure::Whole(1), attributes);
    }
    found
}

/// Whom a cost is charged to.
const PAYER: &[&str] = &[
    key::GEN_AI_REQUEST_MODEL,
    key::GEN_AI_AGENT_NAME,
    key::USER_ID,
];

/// A kind of token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Input,
    Output,
    CacheRead,
    CacheCreation,
}

const TOKENS: &[(Token, Measure)] = &[
    (Token::Input, Measure::TokenUsage),
    (Token::Output, Measure::TokenUsage),
    (Token::CacheRead, Measure::CacheTokens),
    (Token::CacheCreation, Measure::CacheTokens),
];

impl Token {
    /// Where a chat's span has them.
    fn of_chat(self) -> &'static str {
        match self {
            Self::Input => key::GEN_AI_INPUT_TOKENS,
            Self::Output => key::GEN_AI_OUTPUT_TOKENS,
            Self::CacheRead => key::GEN_AI_CACHE_READ,
            Self::CacheCreation => key::GEN_AI_CACHE_CREATION,
        }
    }

    /// Where the run's span has the sum.
    fn of_run(self) -> &'static str {
        match self {
            Self::Input => key::USAGE_INPUT,
            Self::Output => key::USAGE_OUTPUT,
            Self::CacheRead => key::USAGE_CACHE_READ,
            Self::CacheCreation => key::USAGE_CACHE_CREATION,
        }
    }

    fn attribute(self) -> KeyValue {
        match self {
            Self::Input => KeyValue::new(key::GEN_AI_TOKEN_TYPE, value::INPUT),
            Self::Output => KeyValue::new(key::GEN_AI_TOKEN_TYPE, value::OUTPUT),
            Self::CacheRead => KeyValue::new(key::CACHE, value::CACHE_READ),
            Self::CacheCreation => KeyValue::new(key::CACHE, value::CACHE_CREATION),
        }
    }
}

/// What was measured against what the agent says was used.
///
/// A call's tokens and cost are measured when it ends. Not every call tells them, and not every call is seen
/// (`reference/agent-streams.md` §0); a turn's result and the run's sums are true. What they have beyond the calls is
/// measured when they come, so that the sums of the metrics are the run's. What was measured too much stays: a counter
/// does not fall.
#[derive(Debug, Default)]
pub(super) struct Books {
    tokens: [u64; TOKENS.len()],
    usd: f64,
    /// What the turns' results add up to.
    turns_usd: f64,
    silent: Silent,
}

/// The model of the calls that did not tell all they used.
#[derive(Debug, Default)]
enum Silent {
    #[default]
    Nobody,
    Model(Value),
    Several,
}

impl Books {
    /// What a span says, and what it settles.
    pub(super) fn measure(&mut self, span: &FinishedSpan) -> Vec<Measurement> {
        let mut found = measurements(span);
        match kind(span) {
            span_name::CHAT => self.book(span),
            // A subagent has no cost of its own.
            span_name::INVOKE_AGENT if get(span, key::TURN).is_some() => {
                self.turns_usd += usd(span).unwrap_or_default();
                found.extend(self.owed_usd(span, self.turns_usd));
            }
            span_name::RUN => {
                found.extend(self.owed_usd(span, usd(span).unwrap_or_default()));
                found.extend(self.owed_tokens(span));
            }
            _ => {}
        }
        found
    }

    fn book(&mut self, span: &FinishedSpan) {
        for ((token, _), sum) in TOKENS.iter().zip(&mut self.tokens) {
            *sum += whole(span, token.of_chat()).unwrap_or_default();
        }
        self.usd += usd(span).unwrap_or_default();
        let told_input = get(span, key::GEN_AI_INPUT_TOKENS).is_some();
        if told_input && get(span, key::GEN_AI_OUTPUT_TOKENS).is_none() {
            let model = get(span, key::GEN_AI_REQUEST_MODEL).cloned();
            self.silent = match (std::mem::take(&mut self.silent), model) {
                (Silent::Nobody, Some(model)) => Silent::Model(model),
                (Silent::Model(known), Some(model)) if known == model => Silent::Model(known),
                _ => Silent::Several,
            };
        }
    }

    fn owed_usd(&mut self, span: &FinishedSpan, truth: f64) -> Option<Measurement> {
        let owed = truth - self.usd;
        if owed <= USD_NOISE {
            return None;
        }
        self.usd = truth;
        let mut attributes = copied(span, &[key::GEN_AI_AGENT_NAME, key::USER_ID]);
        attributes.extend(self.silent.attribute());
        Some(Measurement {
            measure: Measure::Cost,
            figure: Figure::Real(owed),
            attributes,
        })
    }

    fn owed_tokens(&mut self, span: &FinishedSpan) -> Vec<Measurement> {
        let mut found = Vec::new();
        for ((token, measure), sum) in TOKENS.iter().zip(&mut self.tokens) {
            let truth = whole(span, token.of_run()).unwrap_or_default();
            let owed = truth.saturating_sub(*sum);
            if owed == 0 {
                continue;
            }
            *sum = truth;
            let mut attributes = vec![
                KeyValue::new(key::GEN_AI_OPERATION, span_name::CHAT),
                KeyValue::new(key::GEN_AI_PROVIDER, value::ANTHROPIC),
                token.attribute(),
            ];
            attributes.extend(self.silent.attribute());
            found.push(Measurement {
                measure: *measure,
                figure: Figure::Whole(owed),
                attributes,
            });
        }
        found
    }
}

impl Silent {
    fn attribute(&self) -> Option<KeyValue> {
        match self {
            Self::Model(model) => Some(KeyValue::new(key::GEN_AI_REQUEST_MODEL, model.clone())),
            // It was a call that nobody saw, or one of several models.
            Self::Nobody | Self::Several => None,
        }
    }
}

/// The first word of the name; what follows is the agent's, model's or tool's.
fn kind(span: &FinishedSpan) -> &str {
    let name = span.name.split_once(' ');
    name.map_or(&*span.name, |(kind, _)| kind)
}

fn get<'a>(span: &'a FinishedSpan, key: &str) -> Option<&'a Value> {
    let mut attributes = span.attributes.iter();
    let found = attributes.find(|(known, _)| known.as_str() == key);
    found.map(|(_, value)| value)
}

fn whole(span: &FinishedSpan, key: &str) -> Option<u64> {
    match get(span, key) {
        Some(Value::I64(count)) => u64::try_from(*count).ok(),
        _ => None,
    }
}

fn usd(span: &FinishedSpan) -> Option<f64> {
    match get(span, key::COST_USD) {
        Some(Value::F64(usd)) => Some(*usd),
        _ => None,
    }
}

fn copied(span: &FinishedSpan, keys: &[&'static str]) -> Vec<KeyValue> {
    let present = |key: &&'static str| Some(KeyValue::new(*key, get(span, key)?.clone()));
    keys.iter().filter_map(present).collect()
}

#[cfg(test)]
mod tests;
