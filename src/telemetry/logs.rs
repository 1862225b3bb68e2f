//! Log records: what the agent wrote to stderr, and the events of a run's life, each with its trace and span.

use std::sync::LazyLock;
use std::time::SystemTime;

use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::trace::{SpanId, TraceFlags, TraceId};
use opentelemetry::{InstrumentationScope, Key, Value};
use opentelemetry_sdk::logs::{SdkLogRecord, SdkLogger, SdkLoggerProvider};
use serde_json::Value as Json;

use super::messages::is_structured;
use super::span_data::{SCOPE, attributes_weight};
use crate::session::Attribute;
use crate::time::UnixNanos;

/// The most characters of a body.
const BODY_CHARS: usize = 4_096;

/// One thing to tell a log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    pub time: UnixNanos,
    pub severity: Severity,
    /// The kind of event, for instance `sandtrace.run.started`.
    pub event: &'static str,
    pub body: String,
    pub attributes: Vec<Attribute>,
    pub trace_id: TraceId,
    pub span_id: SpanId,
}

impl LogEntry {
    /// Cuts the body to what a log keeps, once it is redacted.
    pub(super) fn clip(&mut self) {
        if let Some((end, _)) = self.body.char_indices().nth(BODY_CHARS) {
            self.body.truncate(end);
        }
    }

    /// The most bytes it takes as protobuf, and about what it takes in memory.
    pub(super) fn weight(&self) -> usize {
        160 + self.event.len() + self.body.len() + attributes_weight(&self.attributes)
    }
}

/// Makes empty records; it has no processors, so nothing is ever emitted through it.
static LOGGER: LazyLock<SdkLogger> =
    LazyLock::new(|| SdkLoggerProvider::builder().build().logger("sandtrace"));

/// A batch of records as the SDK's own data, which its exporters take, each with the weight of its entry.
#[derive(Debug)]
pub(super) struct Records(Vec<(SdkLogRecord, usize)>);

impl Records {
    pub(super) fn new(entries: Vec<LogEntry>, flags: TraceFlags) -> Self {
        let entries = entries.into_iter();
        let weighed = entries.map(|entry| {
            let weight = entry.weight();
            (record(entry, flags), weight)
        });
        Self(weighed.collect())
    }

    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    pub(super) fn pairs(&self) -> Vec<(&SdkLogRecord, &InstrumentationScope)> {
        pairs(&self.0)
    }

    /// As [`Self::pairs`], in parts of at most so much weight, or of one record that is heavier.
    pub(super) fn parts(
        &self,
        most: usize,
    ) -> impl Iterator<Item = Vec<(&SdkLogRecord, &InstrumentationScope)>> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let mut sum = 0;
            let fits = rest.iter().take_while(|(_, weight)| {
                sum += weight;
                sum <= most
            });
            let (now, later) = rest.split_at(fits.count().max(1).min(rest.len()));
            rest = later;
            (!now.is_empty()).then(|| pairs(now))
        })
    }
}

fn pairs(records: &[(SdkLogRecord, usize)]) -> Vec<(&SdkLogRecord, &InstrumentationScope)> {
    records
        .iter()
        .map(|(record, _)| (record, &*SCOPE))
        .collect()
}

fn record(entry: LogEntry, flags: TraceFlags) -> SdkLogRecord {
    let mut record = LOGGER.create_log_record();
    record.set_timestamp(entry.time.into());
    record.set_observed_timestamp(SystemTime::from(entry.time));
    record.set_severity_number(entry.severity);
    record.set_severity_text(entry.severity.name());
    record.set_event_name(entry.event);
    if !entry.body.is_empty() {
        record.set_body(AnyValue::from(entry.body));
    }
    for (key, value) in entry.attributes {
        let structured = is_structured(key.as_str())
            .then(|| serde_json::from_str(&value.as_str()).ok())
            .flatten();
        match structured {
            Some(json) => record.add_attribute(key, structure(json)),
            None => record.add_attribute(key, any_value(value)),
        }
    }
    record.set_trace_context(entry.trace_id, entry.span_id, Some(flags));
    record
}

fn structure(json: Json) -> AnyValue {
    match json {
        Json::Null => AnyValue::String("".into()),
        Json::Bool(value) => value.into(),
        Json::Number(number) => match number.as_i64() {
            Some(value) => value.into(),
            None => number.as_f64().unwrap_or_default().into(),
        },
        Json::String(text) => text.into(),
        Json::Array(values) => {
            let values = values.into_iter().map(structure);
            AnyValue::ListAny(Box::new(values.collect()))
        }
        Json::Object(members) => {
            let members = members.into_iter();
            let members = members.map(|(name, value)| (Key::from(name), structure(value)));
            AnyValue::Map(Box::new(members.collect()))
        }
    }
}

fn any_value(value: Value) -> AnyValue {
    match value {
        Value::Bool(value) => value.into(),
        Value::I64(value) => value.into(),
        Value::F64(value) => value.into(),
        Value::String(value) => value.into(),
        // Arrays, and whatever kinds the crate adds.
        other => other.to_string().into(),
    }
}
