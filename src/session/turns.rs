//! User turns, and what happens in one besides calls and tools: hooks and compaction.

use opentelemetry::Value;
use opentelemetry::trace::{SpanId, SpanKind};
use sandtrace_client::FailureKind;

use super::exception::StderrTail;
use super::failure::{Intent, LastResult, by_result};
use super::id::SpanKey;
use super::ledger::TurnCalls;
use super::messages::Role;
use super::semconv::{key, span as span_name, value};
use super::span::{Content, SpanEvent};
use super::tree::{Closing, Draft, SpanChanges};
use super::{Session, clipped, int, millis};
use crate::agent::event::{Block, CompactBoundary, Hook, Init, ResultMessage, Status};
use crate::time::{Now, UnixNanos};

/// A user turn whose result has not come.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) span_id: SpanId,
    /// From 1.
    pub(super) ordinal: u64,
    /// Its `init` was seen.
    initialised: bool,
    /// It has calls or tools, so that a further `init` begins another turn.
    pub(super) active: bool,
    /// The next turn began before this one's result came.
    superseded: Option<UnixNanos>,
    answer: Option<Content>,
    /// The session that its `init` named.
    session: Option<String>,
    /// A result came after its last line: nothing of it is known to be missing.
    answered: bool,
}

impl Turn {
    /// It began, and its result is still to come.
    pub(super) fn awaits_result(&self) -> bool {
        (self.initialised || self.active) && !self.answered
    }
}

/// A compaction in progress, or over and waiting for the line with its numbers.
#[derive(Debug)]
pub(super) struct Compaction {
    span_id: SpanId,
    ended: Option<UnixNanos>,
}

impl Session {
    /// The turn in progress, opened if there is none.
    pub(super) fn ensure_turn(&mut self, now: Now, changes: &mut SpanChanges) -> SpanId {
        if let Some(turn) = self.turns.back_mut() {
            turn.answered = false;
            return turn.span_id;
        }
        self.open_turn(now, changes)
    }

    fn open_turn(&mut self, now: Now, changes: &mut SpanChanges) -> SpanId {
        self.turn_count += 1;
        self.counts.turns = self.turn_count;
        let ordinal = self.turn_count;
        let span_id = self.id(SpanKey::Turn, &[&ordinal.to_string()]);
        let start = self.expected_turn.take().unwrap_or(now.wall);
        let attributes: Vec<(&'static str, Value)> = vec![
            (key::GEN_AI_OPERATION, span_name::INVOKE_AGENT.into()),
            (key::TURN, int(ordinal).into()),
        ];
        let name = format!("{} {}", span_name::INVOKE_AGENT, self.config.agent_name);
        let draft = Draft {
            span_id,
            parent: self.root,
            name: name.into(),
            kind: SpanKind::Internal,
            start,
            attributes,
        };
        let gap = self.turn_ended.take().filter(|_| self.turns.is_empty());
        let start = match self.tree.open(draft, changes) {
            Some(span) => {
                let start = span.start;
                span.set_opt(
                    key::TURN_GAP_MS,
                    gap.map(|ended| millis(start.since(ended))),
                );
                start
            }
            None => start,
        };
        self.turns.push_back(Turn {
            span_id,
            ordinal,
            initialised: false,
            active: false,
            superseded: None,
            answer: None,
            session: None,
            answered: false,
        });
        self.touch_lane(None, start);
        span_id
    }

    /// The session runs again: the next turn, whose first line is yet to come, began now.
    pub(super) fn expect_turn(&mut self, now: Now) {
        self.expected_turn.get_or_insert(now.wall);
    }

    pub(super) fn on_init(
        &mut self,
        now: Now,
        init: &Init<'_>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        if let Some(session) = &init.session_id {
            self.learn_conversation(session);
        }
        if let Some(model) = &init.model {
            self.model = Some(model.to_string());
        }
        // A turn with nothing in it yet takes a second `init`, as `/compact` causes.
        let begins = self
            .turns
            .back()
            .is_some_and(|turn| turn.initialised && turn.active);
        if begins {
            self.supersede_turn(now, changes);
        }
        let span = if begins {
            self.open_turn(now, changes)
        } else {
            self.ensure_turn(now, changes)
        };
        let session = self.conversation.clone();
        if let Some(turn) = self.turns.back_mut() {
            turn.initialised = true;
            turn.session = session;
        }
        span
    }

    /// The next turn begins though this one's result is still to come: what this one waited for is over.
    fn supersede_turn(&mut self, now: Now, changes: &mut SpanChanges) {
        let Some(turn) = self.turns.back_mut() else {
            return;
        };
        turn.superseded = Some(now.wall);
        let span_id = turn.span_id;
        self.close_chat(None, Closing::Finished, changes);
        self.close_below(now.wall, span_id, changes);
        self.tools.clock(now.uptime);
    }

    pub(super) fn on_start(
        &mut self,
        now: Now,
        prompt: Option<&str>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        let span_id = self.ensure_turn(now, changes);
        let Some(prompt) = prompt else { return span_id };
        self.hear(None, |heard| heard.text(Role::User, prompt));
        let capture = self.config.capture;
        if let Some(span) = self.tree.get_mut(span_id) {
            span.add(capture.content(key::PROMPT_PREVIEW, prompt));
        }
        span_id
    }

    pub(super) fn remember_answer(&mut self, blocks: &[Block<'_>]) {
        let text = blocks.iter().rev().find_map(|block| match block {
            Block::Text(text) => Some(text),
            _ => None,
        });
        let capture = self.config.capture;
        let answer = text.and_then(|text| capture.content(key::ANSWER_PREVIEW, text));
        if let (Some(turn), Some(answer)) = (self.turns.back_mut(), answer) {
            turn.answer = Some(answer);
        }
    }

    pub(super) fn on_result(
        &mut self,
        now: Now,
        result: &ResultMessage<'_>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        if let Some(session) = &result.session_id {
            self.learn_conversation(session);
        }
        self.ensure_turn(now, changes);
        self.phases.result_ms = Some(millis(now.uptime));
        self.drop_turns_of_dead_sessions(now, result.session_id.as_deref(), changes);
        let Some(turn) = self.turns.pop_front() else {
            return self.root;
        };
        for later in &mut self.turns {
            later.answered = true;
        }
        if turn.superseded.is_none() {
            self.complete_last_chat(result);
            self.close_chat(None, Closing::Finished, changes);
        }
        self.book_open_chats();
        self.on_running(now, changes);
        // The first of two results that come together has the cost of both.
        let cost = self
            .ledger
            .settle(result)
            .filter(|cost| cost.usd > 0.0 || !turn.active);
        self.turn_calls = TurnCalls::default();
        let last = last_result(result);
        self.result_error = self.api_error.take();
        let error_type = last
            .is_error
            .then(|| by_result(&last, self.result_error.as_ref(), &StderrTail::default()))
            .map(|failure| {
                // An interrupt that followed from our own decision was nobody else's.
                let ours = self.stop.intent().and_then(Intent::kind);
                let kind = match (failure.kind, ours) {
                    (FailureKind::CancelledUser, Some(ours)) => ours,
                    (kind, _) => kind,
                };
                let message = self.words_for_span(&kind, &failure.message);
                (kind.to_string(), message)
            });
        let orphaned = self.orphan_retries();
        if let Some(span) = self.tree.get_mut(turn.span_id) {
            for retry in orphaned {
                span.event(retry);
            }
            span.set(key::RESULT_SUBTYPE, last.subtype.clone());
            span.set_opt(key::TERMINAL_REASON, last.terminal_reason.clone());
            span.set_opt(key::TURN_STEPS, result.num_turns.map(int));
            span.set_opt(key::TURN_API_MS, result.duration_api_ms.map(int));
            span.set_opt(
                key::TURN_ORIGIN,
                result.origin.as_deref().map(str::to_owned),
            );
            span.add(turn.answer);
            if let Some(cost) = cost {
                span.set(key::COST_USD, cost.usd);
                span.set(key::COST_SOURCE, cost.source);
            }
            if let Some((error_type, message)) = error_type {
                span.fail(error_type, message);
            }
        }
        self.last_result = Some(last);
        let end = turn.superseded.unwrap_or(now.wall);
        self.turn_ended = Some(end);
        self.close_below(end, turn.span_id, changes);
        self.tools.clock(now.uptime);
        self.tree
            .close(turn.span_id, end, Closing::Finished, changes);
        turn.span_id
    }

    /// A result of a later session says that what an earlier one still owed will not come.
    fn drop_turns_of_dead_sessions(
        &mut self,
        now: Now,
        session: Option<&str>,
        changes: &mut SpanChanges,
    ) {
        let of_session = |turn: &Turn| session.is_some() && turn.session.as_deref() == session;
        if !self.turns.iter().any(of_session) {
            return;
        }
        while self.turns.front().is_some_and(|turn| !of_session(turn)) {
            let Some(turn) = self.turns.pop_front() else {
                return;
            };
            let end = turn.superseded.unwrap_or(now.wall);
            self.close_below(end, turn.span_id, changes);
            self.tree
                .close(turn.span_id, end, Closing::Abandoned, changes);
        }
    }

    /// `result.usage` has the true output of the turn, and so of its last chat if the others' are known.
    fn complete_last_chat(&mut self, result: &ResultMessage<'_>) {
        if let Some(usage) = result.usage.as_ref().filter(|_| !result.is_error) {
            self.complete_only_unknown(usage);
        }
    }

    /// The boilerplate's last word. Its `result` has closed the turn before, unless there was none.
    pub(super) fn on_complete(
        &mut self,
        now: Now,
        success: bool,
        changes: &mut SpanChanges,
    ) -> SpanId {
        let Some(turn) = self.turns.pop_front() else {
            return self.root;
        };
        self.close_chat(None, Closing::Finished, changes);
        if success {
            self.phases.result_ms = Some(millis(now.uptime));
            self.last_result.get_or_insert_with(|| LastResult {
                subtype: "success".to_owned(),
                ..LastResult::default()
            });
        } else if let Some(span) = self.tree.get_mut(turn.span_id) {
            span.fail(value::OTHER, "the agent reported an error");
        }
        self.turn_ended = Some(now.wall);
        self.close_below(now.wall, turn.span_id, changes);
        self.tools.clock(now.uptime);
        self.tree
            .close(turn.span_id, now.wall, Closing::Finished, changes);
        turn.span_id
    }

    pub(super) fn on_status(
        &mut self,
        now: Now,
        status: &Status<'_>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        match status.status.as_deref() {
            Some("requesting") => {
                // Without a turn, the next one began now.
                if self.turns.is_empty() {
                    self.expect_turn(now);
                }
                self.on_requesting(now, changes);
                self.current_span()
            }
            Some("compacting") => {
                self.open_compaction(now, status.uuid.as_deref(), now.wall, changes)
            }
            None if status.compact_result.is_some() => self.end_compaction(now, status, changes),
            _ => self.current_span(),
        }
    }

    fn open_compaction(
        &mut self,
        now: Now,
        uuid: Option<&str>,
        start: UnixNanos,
        changes: &mut SpanChanges,
    ) -> SpanId {
        self.finish_compaction(now.wall, changes);
        let parent = self.ensure_turn(now, changes);
        let ordinal = format!("#{}", self.tree.finished);
        let span_id = self.id(SpanKey::Compact, &[uuid.unwrap_or(&ordinal)]);
        let draft = Draft {
            span_id,
            parent,
            name: span_name::COMPACT.into(),
            kind: SpanKind::Internal,
            start,
            attributes: Vec::new(),
        };
        if self.tree.open(draft, changes).is_none() {
            return parent;
        }
        self.ledger.note_unseen_call();
        self.compaction = Some(Compaction {
            span_id,
            ended: None,
        });
        span_id
    }

    fn end_compaction(
        &mut self,
        now: Now,
        status: &Status<'_>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        let Some(compaction) = &mut self.compaction else {
            return self.current_span();
        };
        compaction.ended = Some(now.wall);
        let span_id = compaction.span_id;
        self.touch_lane(None, now.wall);
        if status.compact_result.as_deref() != Some("success") {
            if let Some(span) = self.tree.get_mut(span_id) {
                let reason = status.compact_error.as_deref().unwrap_or("no reason given");
                span.fail(
                    value::OTHER,
                    format!("compaction failed: {}", clipped(reason)),
                );
            }
            self.finish_compaction(now.wall, changes);
        }
        span_id
    }

    pub(super) fn on_compact_boundary(
        &mut self,
        now: Now,
        boundary: &CompactBoundary<'_>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        let span_id = match &self.compaction {
            Some(compaction) => compaction.span_id,
            None => {
                let took = std::time::Duration::from_millis(boundary.duration_ms.unwrap_or(0));
                let start = UnixNanos(now.wall.0.saturating_sub(UnixNanos(0).plus(took).0));
                self.open_compaction(now, boundary.uuid.as_deref(), start, changes)
            }
        };
        if let Some(span) = self.tree.get_mut(span_id) {
            span.set_opt(
                key::COMPACT_TRIGGER,
                boundary.trigger.as_deref().map(str::to_owned),
            );
            span.set_opt(key::COMPACT_PRE_TOKENS, boundary.pre_tokens.map(int));
            span.set_opt(key::COMPACT_POST_TOKENS, boundary.post_tokens.map(int));
        }
        self.finish_compaction(now.wall, changes);
        span_id
    }

    fn finish_compaction(&mut self, now: UnixNanos, changes: &mut SpanChanges) {
        if let Some(Compaction { span_id, ended }) = self.compaction.take() {
            self.tree
                .close(span_id, ended.unwrap_or(now), Closing::Finished, changes);
        }
    }

    pub(super) fn on_hook_started(
        &mut self,
        now: Now,
        hook: &Hook<'_>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        // Its span closes before the first `init` could tell.
        if let Some(session) = &hook.session_id {
            self.learn_conversation(session);
        }
        // Hooks of a session's start come before its first `init`; those of its end after the last result.
        let begins = matches!(
            hook.hook_event.as_deref(),
            Some("SessionStart" | "UserPromptSubmit" | "Setup")
        );
        let parent = if begins {
            self.ensure_turn(now, changes)
        } else {
            self.current_span()
        };
        let span_id = self.id(SpanKey::Hook, &[&hook.hook_id]);
        let event = clipped(hook.hook_event.as_deref().unwrap_or("unknown"));
        let mut attributes: Vec<(&'static str, Value)> =
            vec![(key::HOOK_EVENT, event.to_owned().into())];
        attributes.extend(
            hook.hook_name
                .as_deref()
                .map(|name| (key::HOOK_NAME, name.to_owned().into())),
        );
        let name = format!("{} {event}", span_name::HOOK);
        let draft = Draft {
            span_id,
            parent,
            name: name.into(),
            kind: SpanKind::Internal,
            start: now.wall,
            attributes,
        };
        if self.tree.open(draft, changes).is_none() {
            return parent;
        }
        self.hooks.insert(hook.hook_id.to_string(), span_id);
        span_id
    }

    pub(super) fn on_hook_response(
        &mut self,
        now: Now,
        hook: &Hook<'_>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        let Some(span_id) = self.hooks.remove(hook.hook_id.as_ref()) else {
            return self.current_span();
        };
        if let Some(span) = self.tree.get_mut(span_id) {
            span.set_opt(key::HOOK_EXIT_CODE, hook.exit_code);
            if hook.exit_code.is_some_and(|code| code != 0) {
                span.fail(
                    value::OTHER,
                    format!(
                        "the hook ended with {}",
                        hook.outcome.as_deref().unwrap_or("an error")
                    ),
                );
            }
        }
        self.tree
            .close(span_id, now.wall, Closing::Finished, changes);
        span_id
    }

    /// The agent's session id is the conversation of every span, and their session unless the user named one.
    pub(super) fn learn_conversation(&mut self, session_id: &str) {
        if self.conversation.as_deref() == Some(session_id) || session_id.is_empty() {
            return;
        }
        self.conversation = Some(session_id.to_owned());
        self.tree
            .set_common(key::GEN_AI_CONVERSATION_ID, session_id.to_owned());
        if self.config.session_id.is_none() {
            self.tree.set_common(key::SESSION_ID, session_id.to_owned());
        }
    }

    /// A chat without stream events ends when its last tool has reported.
    pub(super) fn end_block_chat(&mut self, lane: Option<&str>, changes: &mut SpanChanges) {
        let is_block_chat = self
            .lanes
            .existing(lane)
            .and_then(|lane| lane.chat.as_ref())
            .is_some_and(|chat| chat.detail == super::lane::Detail::Blocks);
        if is_block_chat {
            self.close_chat(lane, Closing::Finished, changes);
        }
    }

    /// Retries that no call followed: they belong to the turn.
    pub(super) fn orphan_retries(&mut self) -> Vec<SpanEvent> {
        self.lanes
            .existing(None)
            .map(super::lane::Lane::take_retries)
            .unwrap_or_default()
    }
}

fn last_result(result: &ResultMessage<'_>) -> LastResult {
    let owned = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
    let text = result
        .result
        .as_deref()
        .filter(|text| !text.is_empty())
        .or(result.errors.first().map(AsRef::as_ref));
    LastResult {
        subtype: result.subtype.to_string(),
        is_error: result.is_error || result.subtype.starts_with("error_"),
        terminal_reason: owned(&result.terminal_reason),
        stop_reason: owned(&result.stop_reason),
        api_error_status: result.api_error_status,
        text: text.unwrap_or_default().chars().take(1000).collect(),
        denied_permission: !result.permission_denials.is_empty(),
    }
}
