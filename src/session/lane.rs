//! Lanes: the main thread and each subagent talk to the model one call at a time.

use std::collections::HashMap;

use opentelemetry::trace::SpanId;

use super::ledger::Call;
use super::messages::Messages;
use super::span::{Content, SpanEvent};
use crate::order::by_name;
use crate::time::UnixNanos;

/// Retries kept for a call that has not begun; a call has no more attempts than that.
const MAX_PENDING_RETRIES: usize = 64;

/// One thread of conversation with the model.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// The earliest moment the next request can have been sent: the turn's start, the last tool result, the last answer.
    pub(super) boundary: UnixNanos,
    /// When the CLI said that it sends a request (partial messages only): exact, and so preferred to the boundary.
    pub(super) requesting: Option<UnixNanos>,
    pub(super) chat: Option<Chat>,
    /// Retries of a request whose answer has not begun.
    retries: Vec<SpanEvent>,
    /// What the model is told with the next request.
    pub(super) heard: Messages,
    /// Chats without a message id are numbered.
    pub(super) unnamed: u64,
}

impl Lane {
    pub(super) fn touch(&mut self, at: UnixNanos) {
        self.boundary = self.boundary.max(at);
    }

    pub(super) fn retry(&mut self, event: SpanEvent) {
        if self.retries.len() < MAX_PENDING_RETRIES {
            self.retries.push(event);
        }
    }

    pub(super) fn take_retries(&mut self) -> Vec<SpanEvent> {
        std::mem::take(&mut self.retries)
    }
}

/// How much of a message the stream shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// One line per content block: when the message ends is known only by what follows.
    Blocks,
    /// Every event: the message ends when `message_stop` says so.
    Events,
}

/// The call of the model that a lane is in.
#[derive(Debug)]
pub(super) struct Chat {
    pub(super) span_id: SpanId,
    /// The message id, or the ordinal of a chat without one.
    pub(super) message: String,
    pub(super) detail: Detail,
    pub(super) call: Call,
    /// The moment of the last line of this message.
    pub(super) last_line: UnixNanos,
    pub(super) requested: UnixNanos,
    pub(super) first_token: Option<UnixNanos>,
    pub(super) thinking_chars: usize,
    pub(super) answer: Option<Content>,
    /// What the model was told since its last answer, and what it answered.
    pub(super) heard: Messages,
    pub(super) said: Messages,
    pub(super) retries: u64,
    /// What broke the stream, when a retry came in the middle of it.
    pub(super) broken: Option<String>,
    /// The ledger has it: a result came before its end was known.
    pub(super) booked: bool,
}

/// All lanes. `None` names the main thread, a tool call's id the subagent it started.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    main: Lane,
    subagents: HashMap<String, Lane>,
}

impl Lanes {
    /// The lane, made if it is new; `start` bounds its first request.
    pub(super) fn get(&mut self, key: Option<&str>, start: UnixNanos) -> &mut Lane {
        let Some(key) = key else {
            return &mut self.main;
        };
        // One allocation per subagent and call is what the map's entry costs; the main thread, where the deltas are, has
        // none.
        self.subagents
            .entry(key.to_owned())
            .or_insert_with(|| Lane {
                boundary: start,
                ..Lane::default()
            })
    }

    pub(super) fn existing(&mut self, key: Option<&str>) -> Option<&mut Lane> {
        match key {
            None => Some(&mut self.main),
            Some(key) => self.subagents.get_mut(key),
        }
    }

    /// Forgets the lanes of subagents that are over.
    pub(super) fn retain(&mut self, is_open: impl Fn(&str) -> bool) {
        self.subagents.retain(|id, _| is_open(id));
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Lane> {
        self.subagents.remove(key)
    }

    /// Every lane, the main thread first and the rest by name, so that a replay sees the same order.
    pub(super) fn keys(&self) -> Vec<Option<String>> {
        let names = by_name(self.subagents.keys().cloned().collect(), |name| name);
        let main = std::iter::once(None);
        main.chain(names.into_iter().map(Some)).collect()
    }
}
