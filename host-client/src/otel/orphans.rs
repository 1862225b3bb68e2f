//! The spans that a lost run left open, closed by the host.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use serde_json::Value as Json;

use super::names::{self, key};
use crate::failure::Failure;
use crate::run::{Conclusion, LossReason, OpenSpan, Run};
use crate::time::micros;

/// The spans that a lost run left open, as finished spans; none of a run that has its last line, or none yet, and none
/// of one that only [could not be reached](LossReason::Unreachable): it may be going on, and its supervisor then exports
/// the real spans, with the same ids.
///
/// They are the supervisor's own: the same trace and span ids, parents, names, kinds and start times, and the attributes
/// that their starts told. They end at the last event, with status `Error` and the loss's message, with
/// `sandtrace.abandoned` and `error.type`: `agent.run` has the failure's (`lost.sandbox`), and its class, reason and
/// evidence; the others have `abandoned`, as of a run whose end finds them open. The supervisor exports no span before its
/// end, so a backend has none of them yet, but for those that ended after the last event that was heard here.
///
/// It is a pure function of the run: called twice, it gives the same spans twice. They are marked as sampled; do not
/// export them of a run whose caller's context was not.
#[must_use]
pub fn orphans(run: &Run) -> Vec<SpanData> {
    let (Some(conclusion), Some(started)) = (run.conclusion(), run.started()) else {
        return Vec::new();
    };
    match &conclusion.lost {
        None => return Vec::new(),
        Some(loss) if loss.reason == LossReason::Unreachable => return Vec::new(),
        Some(_) => {}
    }
    let scope = InstrumentationScope::builder("sandtrace")
        .with_version(started.versions.sandtrace.clone())
        .build();
    let lost = Lost {
        conclusion,
        run_id: &started.run_id,
        root_span_id: &started.root_span_id,
        end: run.last_time().and_then(time),
        scope,
    };
    let open = run.open_spans().iter();
    open.filter_map(|open| lost.close(open)).collect()
}

struct Lost<'a> {
    conclusion: &'a Conclusion,
    run_id: &'a str,
    root_span_id: &'a str,
    end: Option<SystemTime>,
    scope: InstrumentationScope,
}

impl Lost<'_> {
    /// `None` if the ids are none: what comes out of a sandbox may be anything.
    fn close(&self, open: &OpenSpan) -> Option<SpanData> {
        let trace_id = TraceId::from_hex(&open.trace_id).ok()?;
        let span_id = SpanId::from_hex(&open.span_id).ok()?;
        let start_time = time(&open.start_time)?;
        let is_root = open.span_id == self.root_span_id;
        let parent = open.parent_span_id.as_deref();
        let parent_span_id = parent.and_then(|id| SpanId::from_hex(id).ok());
        let mut attributes: Vec<_> = open
            .attributes
            .iter()
            .filter_map(|(name, json)| Some(KeyValue::new(name.clone(), value(json)?)))
            .collect();
        set(&mut attributes, key::RUN_ID, self.run_id.to_owned());
        set(&mut attributes, key::ABANDONED, true);
        let failure = self.conclusion.failure.as_ref();
        match failure {
            Some(failure) if is_root => self.verdict(failure, &mut attributes),
            _ => set(&mut attributes, key::ERROR_TYPE, names::ABANDONED),
        }
        let message = failure.map_or("the run was lost", |failure| failure.message.as_str());
        Some(SpanData {
            span_context: SpanContext::new(
                trace_id,
                span_id,
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: parent_span_id.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: is_root && parent_span_id.is_some(),
            span_kind: match &*open.kind {
                "client" => SpanKind::Client,
                _ => SpanKind::Internal,
            },
            name: open.name.clone().into(),
            start_time,
            end_time: self.end.map_or(start_time, |end| end.max(start_time)),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::error(message.to_owned()),
            instrumentation_scope: self.scope.clone(),
        })
    }

    /// What the supervisor would have put on `agent.run`.
    fn verdict(&self, failure: &Failure, attributes: &mut Vec<KeyValue>) {
        // These may hold what the agent wrote, and how much of that a backend may have is not known here.
        let is_content = |source: &str| matches!(source, "message" | "stderr" | "stream");
        let facts = failure.evidence.iter();
        let facts = facts.filter(|fact| !is_content(&fact.source));
        let facts = facts.map(|fact| StringValue::from(format!("{}: {}", fact.source, fact.fact)));
        set(attributes, key::ERROR_TYPE, failure.kind.to_string());
        set(attributes, key::OUTCOME, self.conclusion.outcome.as_str());
        set(
            attributes,
            key::FAILURE_CLASS,
            failure.kind.class().to_owned(),
        );
        if let Some(reason) = failure.kind.reason() {
            set(attributes, key::FAILURE_REASON, reason.to_owned());
        }
        set(attributes, key::FAILURE_CONFIDENCE, failure.confidence);
        let facts = Value::Array(Array::String(facts.collect()));
        set(attributes, key::FAILURE_EVIDENCE, facts);
    }
}

/// Sets an attribute that may be there already.
fn set(attributes: &mut Vec<KeyValue>, key: &'static str, value: impl Into<Value>) {
    attributes.retain(|attribute| attribute.key.as_str() != key);
    attributes.push(KeyValue::new(key, value));
}

fn time(text: &str) -> Option<SystemTime> {
    let micros = u64::try_from(micros(text)?).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_micros(micros))
}

/// An attribute of the wire. `None` for what attributes cannot be: null, an object, an array of mixed kinds.
fn value(json: &Json) -> Option<Value> {
    Some(match json {
        Json::String(text) => text.clone().into(),
        Json::Bool(flag) => (*flag).into(),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(real)) => real.into(),
            (None, None) => return None,
        },
        Json::Array(all) => {
            let texts = all
                .iter()
                .map(|one| one.as_str().map(|text| text.to_owned().into()));
            Value::Array(Array::String(texts.collect::<Option<_>>()?))
        }
        Json::Null | Json::Object(_) => return None,
    })
}
