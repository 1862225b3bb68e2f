//! What dialects are made of: which role a span plays, edits of its attributes as data, and the few facts that several
//! backends want in another form.

use opentelemetry::{Array, Key, StringValue, Value};
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};

use crate::session::semconv::{key, span as span_name, value};
use crate::session::span::{FinishedSpan, SpanEvent, SpanStatus};

/// Of OpenInference; Langfuse and `LangSmith` read them as well.
pub(super) const INPUT: &str = "input.value";
pub(super) const OUTPUT: &str = "output.value";

/// What [`key::GEN_AI_CACHE_CREATION`] is called after 1.41.
pub(super) const CACHE_WRITE: &str = "gen_ai.usage.cache_write.input_tokens";

/// What a user may set by `--attribute tags=one,two`: each backend keeps tags in a place of its own.
pub(super) const TAGS: &str = "tags";

/// What a span is, as backends tell spans apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The run's own span.
    Run,
    /// A turn or a subagent.
    Agent,
    Chat,
    Tool,
    /// What GenAI has no word for: an approval, a hook, a compaction.
    Helper,
}

pub(super) const ANY: &[Role] = &[Role::Run, Role::Agent, Role::Chat, Role::Tool, Role::Helper];

impl Role {
    pub(super) fn of(span: &FinishedSpan) -> Self {
        match text(span, key::GEN_AI_OPERATION) {
            Some(span_name::INVOKE_AGENT) => Self::Agent,
            Some(span_name::CHAT) => Self::Chat,
            Some(span_name::EXECUTE_TOOL) => Self::Tool,
            _ if span.name == span_name::RUN => Self::Run,
            _ => Self::Helper,
        }
    }
}

/// One change of a span's attributes. Nothing happens without the attribute it starts from, or if the one it makes is
/// there already.
#[derive(Debug, Clone, Copy)]
pub(super) enum Edit {
    /// The value of the first key under the second too.
    Copy(&'static str, &'static str),
    /// The value of the first key under the second instead.
    Move(&'static str, &'static str),
    /// A fixed word under a key.
    Word(&'static str, &'static str),
    /// Without this key.
    Drop(&'static str),
}

/// An edit of the spans of some roles.
pub(super) type Rule = (&'static [Role], Edit);

pub(super) fn apply(rules: &[Rule], span: &mut FinishedSpan) {
    let role = Role::of(span);
    for (roles, edit) in rules {
        if !roles.contains(&role) {
            continue;
        }
        match *edit {
            Edit::Copy(from, to) => {
                if let Some(value) = get(span, from).cloned() {
                    add(span, to, value);
                }
            }
            Edit::Move(from, to) => move_to(span, from, to),
            Edit::Word(key, word) => add(span, key, word),
            Edit::Drop(key) => {
                take(span, key);
            }
        }
    }
}

pub(super) fn get<'a>(span: &'a FinishedSpan, key: &str) -> Option<&'a Value> {
    let mut attributes = span.attributes.iter();
    attributes
        .find(|(known, _)| known.as_str() == key)
        .map(|(_, value)| value)
}

pub(super) fn text<'a>(span: &'a FinishedSpan, key: &str) -> Option<&'a str> {
    match get(span, key)? {
        Value::String(text) => Some(text.as_str()),
        _ => None,
    }
}

pub(super) fn count(span: &FinishedSpan, key: &str) -> Option<i64> {
    match get(span, key)? {
        Value::I64(count) => Some(*count),
        _ => None,
    }
}

pub(super) fn number(span: &FinishedSpan, key: &str) -> Option<f64> {
    match get(span, key)? {
        Value::F64(number) => Some(*number),
        _ => None,
    }
}

/// Sets an attribute unless it is there.
pub(super) fn add(span: &mut FinishedSpan, key: &'static str, value: impl Into<Value>) {
    if get(span, key).is_none() {
        let key = Key::from_static_str(key);
        span.attributes.push((key, value.into()));
    }
}

pub(super) fn take(span: &mut FinishedSpan, key: &str) -> Option<Value> {
    let mut attributes = span.attributes.iter();
    let at = attributes.position(|(known, _)| known.as_str() == key)?;
    Some(span.attributes.remove(at).1)
}

fn move_to(span: &mut FinishedSpan, from: &str, to: &'static str) {
    if get(span, to).is_none()
        && let Some(value) = take(span, from)
    {
        add(span, to, value);
    }
}

/// Puts the attributes whose keys a backend would misread under a prefix where it does not.
pub(super) fn set_aside(span: &mut FinishedSpan, prefix: &str, is_misread: impl Fn(&str) -> bool) {
    for (key, _) in &mut span.attributes {
        if is_misread(key.as_str()) {
            *key = Key::new(format!("{prefix}{}", key.as_str()));
        }
    }
}

/// Makes a prompt and its answer the input and output of their span: both, or neither, for a backend that finds one
/// of them looks no further for the other. What has the messages themselves needs no preview of them.
pub(super) fn show_exchange(span: &mut FinishedSpan) {
    if has_messages(span)
        || get(span, INPUT).is_some()
        || get(span, OUTPUT).is_some()
        || text(span, key::PROMPT_PREVIEW).is_none()
        || text(span, key::ANSWER_PREVIEW).is_none()
    {
        return;
    }
    move_to(span, key::PROMPT_PREVIEW, INPUT);
    move_to(span, key::ANSWER_PREVIEW, OUTPUT);
}

pub(super) fn has_messages(span: &FinishedSpan) -> bool {
    get(span, key::GEN_AI_INPUT_MESSAGES).is_some()
        || get(span, key::GEN_AI_OUTPUT_MESSAGES).is_some()
}

/// Says by an `exception` event why a span failed: some backends show the reason from there alone.
pub(super) fn tell_exception(span: &mut FinishedSpan) {
    const NAME: &str = "exception";
    let SpanStatus::Error { message } = &span.status else {
        return;
    };
    if span.events.iter().any(|event| event.name == NAME) {
        return;
    }
    let kind = text(span, key::ERROR_TYPE)
        .unwrap_or(value::OTHER)
        .to_owned();
    let attributes = vec![
        (Key::from_static_str("exception.type"), kind.into()),
        (
            Key::from_static_str("exception.message"),
            message.to_string().into(),
        ),
    ];
    span.events.push(SpanEvent {
        name: NAME.into(),
        time: span.end,
        attributes,
    });
}

/// Whether a text is JSON; what was clipped is none any more.
pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// The user's tags, taken away from where they were.
pub(super) fn take_tags(span: &mut FinishedSpan) -> Option<Vec<String>> {
    let tags = text(span, TAGS)?.split(',').map(str::trim);
    let tags = tags.filter(|tag| !tag.is_empty()).map(str::to_owned);
    let tags: Vec<_> = tags.collect();
    take(span, TAGS);
    (!tags.is_empty()).then_some(tags)
}

/// The user's tags as a list under a backend's own key.
pub(super) fn list_tags(span: &mut FinishedSpan, key: &'static str) {
    if let Some(tags) = take_tags(span) {
        let tags = tags.into_iter().map(StringValue::from).collect();
        add(span, key, Value::Array(Array::String(tags)));
    }
}

/// The tokens of one call, each counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    /// All input, cached or not.
    pub(super) input: i64,
    /// `None` where the stream never told.
    pub(super) output: Option<i64>,
    pub(super) cache_read: i64,
    /// Written to the cache for five minutes.
    pub(super) cache_write_5m: i64,
    /// Written to the cache for an hour.
    pub(super) cache_write_1h: i64,
    /// Written to the cache for nobody told how long.
    pub(super) cache_write: i64,
}

impl Usage {
    /// `None` for what is no chat, and for one that got no answer.
    pub(super) fn of(span: &FinishedSpan) -> Option<Self> {
        if Role::of(span) != Role::Chat {
            return None;
        }
        let tokens = |key| count(span, key).unwrap_or(0).max(0);
        let all_writes = tokens(key::GEN_AI_CACHE_CREATION).max(tokens(CACHE_WRITE));
        // A split that does not fit its sum is not believed.
        let (five, hour) = (
            tokens(key::USAGE_CACHE_CREATION_5M),
            tokens(key::USAGE_CACHE_CREATION_1H),
        );
        let (five, hour) = match five.saturating_add(hour) <= all_writes {
            true => (five, hour),
            false => (0, 0),
        };
        Some(Self {
            input: count(span, key::GEN_AI_INPUT_TOKENS)?,
            output: count(span, key::GEN_AI_OUTPUT_TOKENS),
            cache_read: tokens(key::GEN_AI_CACHE_READ),
            cache_write_5m: five,
            cache_write_1h: hour,
            cache_write: all_writes - five - hour,
        })
    }

    /// Input that no cache had.
    pub(super) fn fresh(&self) -> i64 {
        let cached = self.cache_read + self.cache_write_5m + self.cache_write_1h + self.cache_write;
        self.input.saturating_sub(cached).max(0)
    }
}

/// A JSON object that leaves out what is not known, and zeros where they say nothing.
#[derive(Debug, Default)]
pub(super) struct Object(Map<String, Json>);

impl Object {
    pub(super) fn with(mut self, key: &str, value: impl Into<Json>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    pub(super) fn with_some(self, key: &str, value: Option<impl Into<Json>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Only a count above zero.
    pub(super) fn with_count(self, key: &str, count: i64) -> Self {
        self.with_some(key, (count > 0).then_some(count))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn json(self) -> Json {
        Json::Object(self.0)
    }

    pub(super) fn text(self) -> String {
        self.json().to_string()
    }
}
