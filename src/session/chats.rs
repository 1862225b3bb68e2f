//! Calls of the model: one span per (lane, message id).

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry::trace::{SpanId, SpanKind};
use opentelemetry::{Array, Key, StringValue, Value};
use sandtrace_client::FailureKind;

use super::api_error::ApiError;
use super::id::SpanKey;
use super::lane::{Chat, Detail};
use super::ledger::{Call, Output, Thread, table_source, total_input};
use super::messages::{Ending, Messages};
use super::semconv::{event, key, span as span_name, value};
use super::span::SpanEvent;
use super::tree::{Closing, Draft, OpenSpan, SpanChanges};
use super::{Capture, Session, int, millis};
use crate::agent::event::{ApiRetry, Assistant, Block, RateLimit, StreamEvent, StreamKind, Usage};
use crate::time::{Now, UnixNanos};

/// The model name on lines that the CLI makes up to report an error.
const SYNTHETIC_MODEL: &str = "<synthetic>";

/// What opening a chat needs to know.
struct Opening<'a> {
    lane: Option<&'a str>,
    message: Cow<'a, str>,
    model: Option<&'a str>,
    detail: Detail,
}

impl Session {
    pub(super) fn on_stream(
        &mut self,
        now: Now,
        stream: &StreamEvent<'_>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        let lane = stream.parent_tool_use_id.as_deref();
        match &stream.kind {
            StreamKind::MessageStart {
                message_id,
                model,
                usage,
            } => {
                let opening = Opening {
                    lane,
                    message: Cow::Borrowed(message_id),
                    model: model.as_deref(),
                    detail: Detail::Events,
                };
                let span = self.open_chat(now, opening, changes);
                if let (Some(chat), Some(usage)) = (self.chat_in(lane), usage) {
                    chat.call.usage = *usage;
                }
                span
            }
            StreamKind::Content => {
                let uptime = millis(now.uptime);
                let Some(chat) = self.chat_in(lane) else {
                    return self.lane_span(lane);
                };
                chat.last_line = now.wall;
                chat.first_token.get_or_insert(now.wall);
                let span = chat.span_id;
                self.phases.first_token_ms.get_or_insert(uptime);
                span
            }
            StreamKind::MessageDelta { stop_reason, usage } => {
                let Some(chat) = self.chat_in(lane) else {
                    return self.lane_span(lane);
                };
                chat.last_line = now.wall;
                if let Some(usage) = usage {
                    chat.call.usage = merged(chat.call.usage, *usage);
                    // The one that the CLI makes up for an answer cut short has the placeholder, and no reason.
                    if stop_reason.is_some() {
                        chat.call.output = Output::Exact;
                    }
                }
                let span = chat.span_id;
                self.set_finish_reason(span, stop_reason.as_deref());
                span
            }
            StreamKind::MessageStop => {
                let Some(chat) = self.chat_in(lane) else {
                    return self.lane_span(lane);
                };
                chat.last_line = now.wall;
                let span = chat.span_id;
                self.close_chat(lane, Closing::Finished, changes);
                span
            }
            StreamKind::Other => self
                .chat_in(lane)
                .map(|chat| chat.span_id)
                .unwrap_or_else(|| self.lane_span(lane)),
        }
    }

    pub(super) fn on_assistant(
        &mut self,
        now: Now,
        line: &Assistant<'_>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        let lane = line.parent_tool_use_id.as_deref();
        if let Some(session) = &line.session_id {
            self.learn_conversation(session);
        }
        let synthetic = line.model.as_deref() == Some(SYNTHETIC_MODEL);
        if !synthetic {
            self.network.answered();
        }
        let message = match &line.message_id {
            Some(id) => Cow::Borrowed(id.as_ref()),
            None => self.unnamed_message(now, lane, line),
        };
        let opening = Opening {
            lane,
            message: Cow::Borrowed(&message),
            model: line.model.as_deref().filter(|_| !synthetic),
            detail: Detail::Blocks,
        };
        let chat_span = self.open_chat(now, opening, changes);
        let capture = self.config.capture;
        let mut is_answer = false;
        if let Some(chat) = self.chat_in(lane).filter(|chat| chat.message == message) {
            chat.last_line = now.wall;
            // The per-line usage is the snapshot of `message_start`; only a line with a stop reason has the true output.
            if let Some(usage) = line
                .usage
                .filter(|_| !synthetic && chat.call.output == Output::Placeholder)
            {
                chat.call.usage = usage;
                if line.stop_reason.is_some() {
                    chat.call.output = Output::Exact;
                }
            }
            for block in &line.blocks {
                if capture == Capture::Full {
                    chat.said.block(block);
                }
                match block {
                    Block::Text(text) => {
                        is_answer = true;
                        if chat.answer.is_none() {
                            chat.answer = capture.content(key::ANSWER_PREVIEW, text);
                        }
                    }
                    Block::Thinking { chars, .. } => chat.thinking_chars += chars,
                    Block::ToolUse(_) | Block::Other { .. } => {}
                }
            }
        }
        if !synthetic {
            self.phases.first_token_ms.get_or_insert(millis(now.uptime));
        }
        if lane.is_none() && is_answer && !synthetic {
            self.remember_answer(&line.blocks);
        }
        if line.stop_reason.is_some() && !synthetic {
            self.set_finish_reason(chat_span, line.stop_reason.as_deref());
        }
        if let Some(span) = self.tree.get_mut(chat_span) {
            span.set_opt(
                key::REQUEST_ID,
                line.request_id.as_deref().map(str::to_owned),
            );
        }
        if synthetic || line.error.is_some() {
            self.fail_chat(lane, line, chat_span, changes);
        }
        let mut line_span = chat_span;
        for block in &line.blocks {
            if let Block::ToolUse(tool) = block {
                line_span = self
                    .open_tool(now, lane, tool, changes)
                    .unwrap_or(chat_span);
            }
        }
        line_span
    }

    /// A line the CLI made up: the call failed, and this says why.
    fn fail_chat(
        &mut self,
        lane: Option<&str>,
        line: &Assistant<'_>,
        chat_span: SpanId,
        changes: &mut SpanChanges,
    ) {
        let owned = |text: &Option<Cow<'_, str>>| text.as_deref().map(str::to_owned);
        let text = line.blocks.iter().find_map(|block| match block {
            Block::Text(text) => Some(text.chars().take(500).collect::<String>()),
            _ => None,
        });
        let error = ApiError {
            error: owned(&line.error),
            api_error: owned(&line.api_error),
            api_error_type: owned(&line.api_error_type),
            status: line.api_error_status,
            stop_reason: owned(&line.stop_reason),
            terminal_reason: None,
            text: text.unwrap_or_default(),
        };
        let synthetic = line.model.as_deref() == Some(SYNTHETIC_MODEL);
        let kind = error.kind().0;
        let first_line = error.text.lines().next().unwrap_or_default();
        let message = self.words_for_span(&kind, first_line);
        if let Some(span) = self.tree.get_mut(chat_span) {
            if synthetic {
                span.set(key::SYNTHETIC, true);
            }
            span.set_opt(key::HTTP_STATUS, line.api_error_status.map(i64::from));
            span.fail(kind.to_string(), message);
        }
        if lane.is_none() {
            self.api_error = Some(error);
        }
        self.close_chat(lane, Closing::Finished, changes);
    }

    /// Opens the chat of a message, or finds it open. A chat of another message in the lane is over.
    fn open_chat(&mut self, now: Now, opening: Opening<'_>, changes: &mut SpanChanges) -> SpanId {
        let Opening {
            lane,
            message,
            model,
            detail,
        } = opening;
        let parent = self.lane_parent(now, lane, changes);
        if let Some(chat) = self.chat_in(lane) {
            if chat.message == message {
                return chat.span_id;
            }
            self.close_chat(lane, Closing::Finished, changes);
        }
        let span_id = self.id(SpanKey::Chat, &[lane.unwrap_or(""), &message]);
        let named = model.map(str::to_owned).or_else(|| self.model.clone());
        let state = self.lanes.get(lane, now.wall);
        let requested = state.requesting.unwrap_or(state.boundary).min(now.wall);
        let name = named
            .as_ref()
            .map_or(Cow::Borrowed(span_name::CHAT), |model| {
                format!("{} {model}", span_name::CHAT).into()
            });
        let mut attributes = vec![
            (key::GEN_AI_OPERATION, Value::from(span_name::CHAT)),
            (key::GEN_AI_PROVIDER, Value::from(value::ANTHROPIC)),
        ];
        attributes.extend(
            self.lane_agent(lane)
                .map(|name| (key::GEN_AI_AGENT_NAME, name.into())),
        );
        attributes.extend(
            named
                .clone()
                .map(|model| (key::GEN_AI_REQUEST_MODEL, model.into())),
        );
        let draft = Draft {
            span_id,
            parent,
            name,
            kind: SpanKind::Client,
            start: requested,
            attributes,
        };
        let Some(span) = self.tree.open(draft, changes) else {
            // A late line of a message whose chat is closed.
            return if self.tree.is_open(span_id) {
                span_id
            } else {
                parent
            };
        };
        let requested = span.start;
        let state = self.lanes.get(lane, now.wall);
        let retries = state.take_retries();
        state.requesting = None;
        let retry_count = retries.len() as u64;
        for retry in retries {
            span.event(retry);
        }
        if detail == Detail::Events {
            span.set(key::GEN_AI_REQUEST_STREAM, true);
        }
        if model.is_some() {
            span.set(key::GEN_AI_RESPONSE_ID, message.to_string());
            span.set_opt(key::GEN_AI_RESPONSE_MODEL, model.map(str::to_owned));
        }
        state.chat = Some(Chat {
            span_id,
            message: message.into_owned(),
            detail,
            call: Call {
                model: model.map(str::to_owned),
                ..Call::default()
            },
            last_line: now.wall,
            requested,
            first_token: None,
            thinking_chars: 0,
            answer: None,
            heard: state.heard.take(),
            said: Messages::default(),
            retries: retry_count,
            broken: None,
            booked: false,
        });
        self.counts.chats += 1;
        self.mark_active(lane);
        span_id
    }

    /// Ends the lane's chat at the moment of its last line.
    pub(super) fn close_chat(
        &mut self,
        lane: Option<&str>,
        closing: Closing,
        changes: &mut SpanChanges,
    ) {
        let Some(state) = self.lanes.existing(lane) else {
            return;
        };
        let Some(mut chat) = state.chat.take() else {
            return;
        };
        state.touch(chat.last_line);
        // A message that never said it was over broke off without a word, as after a stalled stream.
        let broke_off = chat.detail == Detail::Events && chat.call.output == Output::Placeholder;
        if broke_off && closing == Closing::Finished {
            chat.broken.get_or_insert_with(|| value::OTHER.to_owned());
        }
        self.settle_chat(&mut chat);
        if chat.call.model.is_some() && !chat.booked {
            self.ledger.book(&chat.call, Thread::of(lane));
            if lane.is_none() {
                self.turn_calls.book(&chat.call);
            }
        }
        // Without stream events a message is over when something else follows, so the end of the run ends it well.
        let closing = if chat.detail == Detail::Blocks {
            Closing::Finished
        } else {
            closing
        };
        self.tree
            .close(chat.span_id, chat.last_line, closing, changes);
    }

    /// A result's figures hold every call whose blocks were shown, though no line has ended it yet.
    pub(super) fn book_open_chats(&mut self) {
        for lane in self.lanes.keys() {
            let Some(chat) = self.chat_in(lane.as_deref()) else {
                continue;
            };
            if chat.detail == Detail::Blocks && chat.call.model.is_some() && !chat.booked {
                chat.booked = true;
                let call = chat.call.clone();
                self.ledger.book(&call, Thread::of(lane.as_deref()));
            }
        }
    }

    /// Writes what is known of a call onto its span.
    fn settle_chat(&mut self, chat: &mut Chat) {
        let Some(span) = self.tree.get_mut(chat.span_id) else {
            return;
        };
        let usage = &chat.call.usage;
        if chat.call.model.is_some() {
            span.set(key::GEN_AI_INPUT_TOKENS, int(total_input(usage)));
            span.set(key::GEN_AI_CACHE_READ, int(usage.cache_read_input_tokens));
            span.set(
                key::GEN_AI_CACHE_CREATION,
                int(usage.cache_creation_input_tokens),
            );
            if chat.call.output == Output::Exact {
                span.set(key::GEN_AI_OUTPUT_TOKENS, int(usage.output_tokens));
            }
            span.set_opt(
                key::USAGE_CACHE_CREATION_5M,
                usage.cache_creation_5m.map(int),
            );
            span.set_opt(
                key::USAGE_CACHE_CREATION_1H,
                usage.cache_creation_1h.map(int),
            );
            if let Some(cost) = chat.call.cost() {
                span.set(key::COST_USD, cost.usd());
                span.set(key::COST_SOURCE, table_source());
                for (key, micros) in [
                    (key::COST_INPUT_USD, cost.input),
                    (key::COST_OUTPUT_USD, cost.output),
                    (key::COST_CACHE_READ_USD, cost.cache_read),
                    (key::COST_CACHE_CREATION_5M_USD, cost.cache_write_5m),
                    (key::COST_CACHE_CREATION_1H_USD, cost.cache_write_1h),
                ] {
                    if micros > 0.0 {
                        span.set(key, micros / 1e6);
                    }
                }
            }
        }
        if let Some(first) = chat.first_token {
            span.set(
                key::GEN_AI_TIME_TO_FIRST_CHUNK,
                first.since(chat.requested).as_secs_f64(),
            );
        }
        if chat.thinking_chars > 0 {
            span.set(key::THINKING_CHARS, int(chat.thinking_chars as u64));
        }
        if chat.retries > 0 {
            span.set(key::RETRIES, int(chat.retries));
        }
        span.add(chat.answer.take());
        span.add(chat.heard.take().input(key::GEN_AI_INPUT_MESSAGES));
        let reason = finish_reason(span);
        let ending = match &reason {
            Some(reason) => Ending::Stopped(reason),
            // Stream events say how an answer ends, if it does.
            None if chat.broken.is_some() || chat.detail == Detail::Events => Ending::Failed,
            None => Ending::Unknown,
        };
        span.add(chat.said.take().output(key::GEN_AI_OUTPUT_MESSAGES, ending));
        if let (Some(error), Output::Placeholder) = (&chat.broken, chat.call.output) {
            span.fail(error.clone(), "the answer broke off before its end");
        }
    }

    pub(super) fn on_retry(&mut self, now: Now, retry: &ApiRetry<'_>) -> SpanId {
        let lane = retry.parent_tool_use_id.as_deref();
        self.counts.retries += 1;
        let delay = retry.retry_delay_ms.unwrap_or_default().max(0.0) / 1e3;
        self.life.waits(
            now.uptime,
            Duration::try_from_secs_f64(delay).unwrap_or_default(),
        );
        // A straggler after the last result begins no turn.
        let parent = self.lane_span(lane);
        let error = ApiError {
            error: retry.error.as_deref().map(str::to_owned),
            status: retry.error_status,
            ..ApiError::default()
        };
        let chat = self.chat_in(lane);
        let mid_answer = chat.is_some_and(|chat| chat.detail == Detail::Events);
        let kind = match (retry.error_status, retry.error.as_deref()) {
            (None, _) if retry.no_response.is_some() => FailureKind::TimeoutApi,
            // Without a status it was the network: it broke an answer off, or none came.
            (None, None | Some("unknown")) if mid_answer => FailureKind::NetworkReset,
            (None, None | Some("unknown")) => FailureKind::NetworkConnect,
            _ => error.kind().0,
        }
        .to_string();
        self.network.retried(now.uptime, retry, &kind);
        let mut attributes = vec![(
            Key::from_static_str(key::ERROR_TYPE),
            Value::from(kind.clone()),
        )];
        let mut number = |name: &'static str, count: Option<i64>| {
            if let Some(count) = count {
                attributes.push((Key::from_static_str(name), count.into()));
            }
        };
        number(key::RETRY_ATTEMPT, retry.attempt.map(int));
        number(key::RETRY_MAX, retry.max_retries.map(int));
        number(key::HTTP_STATUS, retry.error_status.map(i64::from));
        if let Some(delay) = retry.retry_delay_ms {
            attributes.push((Key::from_static_str(key::RETRY_DELAY_MS), delay.into()));
        }
        let record = SpanEvent {
            name: Cow::Borrowed(event::RETRY),
            time: now.wall,
            attributes,
        };
        let state = self.lanes.get(lane, now.wall);
        match &mut state.chat {
            // An answer that is still coming was cut off.
            Some(chat) if chat.detail == Detail::Events => {
                chat.retries += 1;
                chat.broken = Some(kind);
                let span_id = chat.span_id;
                if let Some(span) = self.tree.get_mut(span_id) {
                    span.event(record);
                }
                span_id
            }
            _ => {
                state.retry(record);
                parent
            }
        }
    }

    pub(super) fn on_rate_limit(&mut self, now: Now, limit: &RateLimit<'_>) -> SpanId {
        let mut attributes = vec![(
            Key::from_static_str(key::RATE_LIMIT_STATUS),
            Value::from(limit.status.to_string()),
        )];
        if let Some(kind) = &limit.rate_limit_type {
            attributes.push((
                Key::from_static_str(key::RATE_LIMIT_TYPE),
                kind.to_string().into(),
            ));
        }
        if let Some(at) = limit.resets_at {
            attributes.push((
                Key::from_static_str(key::RATE_LIMIT_RESETS_AT),
                int(at).into(),
            ));
        }
        if let Some(share) = limit.utilization {
            attributes.push((
                Key::from_static_str(key::RATE_LIMIT_UTILIZATION),
                share.into(),
            ));
        }
        if limit.status == "rejected" {
            self.api_error
                .get_or_insert_with(ApiError::default)
                .api_error = Some("usage_limit_reached".to_owned());
        }
        let span = self.current_span();
        if let Some(open) = self.tree.get_mut(span) {
            open.event(SpanEvent {
                name: Cow::Borrowed(event::RATE_LIMIT),
                time: now.wall,
                attributes,
            });
        }
        span
    }

    /// The CLI sends a request now: what was open in the main lane is over.
    pub(super) fn on_requesting(&mut self, now: Now, changes: &mut SpanChanges) {
        if self.chat_in(None).is_some_and(|chat| chat.broken.is_none()) {
            self.close_chat(None, Closing::Finished, changes);
        }
        let lane = self.lanes.get(None, now.wall);
        lane.requesting.get_or_insert(now.wall);
    }

    fn chat_in(&mut self, lane: Option<&str>) -> Option<&mut Chat> {
        self.lanes.existing(lane)?.chat.as_mut()
    }

    /// The boilerplate's dialect has no message ids: what comes before the next tool result is one message.
    fn unnamed_message<'a>(
        &mut self,
        now: Now,
        lane: Option<&str>,
        line: &Assistant<'_>,
    ) -> Cow<'a, str> {
        let state = self.lanes.get(lane, now.wall);
        if let (Some(chat), None) = (&state.chat, &line.message_id) {
            return Cow::Owned(chat.message.clone());
        }
        state.unnamed += 1;
        Cow::Owned(format!("#{}", state.unnamed))
    }

    fn set_finish_reason(&mut self, span: SpanId, reason: Option<&str>) {
        let (Some(span), Some(reason)) = (self.tree.get_mut(span), reason) else {
            return;
        };
        let reasons = vec![StringValue::from(reason.to_owned())];
        span.set(
            key::GEN_AI_FINISH_REASONS,
            Value::Array(Array::String(reasons)),
        );
    }

    /// Notes what the next request of a lane tells the model, where whole messages are wanted.
    pub(super) fn hear(&mut self, lane: Option<&str>, note: impl FnOnce(&mut Messages)) {
        if self.config.capture == Capture::Full
            && let Some(lane) = self.lanes.existing(lane)
        {
            note(&mut lane.heard);
        }
    }

    /// The moment that bounds the next request of a lane.
    pub(super) fn touch_lane(&mut self, lane: Option<&str>, at: UnixNanos) {
        if let Some(lane) = self.lanes.existing(lane) {
            lane.touch(at);
        }
    }

    /// Without stream events a chat's output is unknown, but the last one of a turn can be told from the turn's total if
    /// it is the only unknown, and if the total has no call that the stream does not show.
    pub(super) fn complete_only_unknown(&mut self, turn: &Usage) {
        let known = self.turn_calls;
        let Some(chat) = self.chat_in(None) else {
            return;
        };
        let is_last_unknown = chat.detail == Detail::Blocks
            && chat.call.output == Output::Placeholder
            && chat.call.model.is_some()
            && known.unknown_outputs == 0;
        let input = known.input + total_input(&chat.call.usage);
        if is_last_unknown && total_input(turn) == input && turn.output_tokens >= known.output {
            chat.call.usage.output_tokens = turn.output_tokens - known.output;
            chat.call.output = Output::Exact;
        }
    }
}

/// `message_delta` repeats the input counts on newer APIs and leaves them out on older ones.
fn merged(start: Usage, delta: Usage) -> Usage {
    Usage {
        input_tokens: start.input_tokens.max(delta.input_tokens),
        output_tokens: delta.output_tokens,
        cache_read_input_tokens: start
            .cache_read_input_tokens
            .max(delta.cache_read_input_tokens),
        cache_creation_input_tokens: start
            .cache_creation_input_tokens
            .max(delta.cache_creation_input_tokens),
        cache_creation_5m: delta.cache_creation_5m.or(start.cache_creation_5m),
        cache_creation_1h: delta.cache_creation_1h.or(start.cache_creation_1h),
    }
}

/// As the API said it, if it has.
fn finish_reason(span: &OpenSpan) -> Option<String> {
    let mut attributes = span.attributes.iter();
    let (_, reasons) =
        attributes.find(|(known, _)| known.as_str() == key::GEN_AI_FINISH_REASONS)?;
    match reasons {
        Value::Array(Array::String(reasons)) => reasons.first().map(ToString::to_string),
        _ => None,
    }
}
