//! Subagents and background tasks: what a tool call starts and does not wait for in one line.
//!
//! A subagent is keyed by the call that started it, and that call's id is its lane. In the foreground it ends before the
//! call's result; in the background the call returns at once and the subagent goes on, as a moved shell does, until its
//! task is said to have ended. Whatever ends takes with it what it waited for, and nothing that runs by itself.

use std::borrow::Cow;

use opentelemetry::Value;
use opentelemetry::trace::{SpanId, SpanKind};

use super::id::SpanKey;
use super::semconv::{key, span as span_name, value};
use super::tree::{Closing, Draft, SpanChanges};
use super::{Session, clipped, int};
use crate::agent::event::{TaskEnded, TaskStarted};
use crate::time::{Now, UnixNanos};

/// A subagent at work; its key is the tool call that started it, which is also its lane.
#[derive(Debug)]
pub(super) struct Subagent {
    pub(super) span_id: SpanId,
    /// Its type, which names it on the spans of its lane.
    pub(super) name: String,
    pub(super) background: bool,
}

impl Session {
    pub(super) fn put_in_background(&mut self, id: &str) {
        if let Some(subagent) = self.tools.subagents.get_mut(id) {
            subagent.background = true;
            if let Some(span) = self.tree.get_mut(subagent.span_id) {
                span.put_in_background();
            }
        } else if let Some(tool) = self.tools.open.get_mut(id) {
            tool.background = true;
            if let Some(span) = self.tree.get_mut(tool.span_id) {
                span.put_in_background();
            }
        }
    }

    pub(super) fn on_task_started(
        &mut self,
        now: Now,
        task: &TaskStarted<'_>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        let Some(tool_use_id) = task.tool_use_id.as_deref() else {
            return self.current_span();
        };
        if !task.task_id.is_empty() {
            self.tools
                .tasks
                .insert(task.task_id.to_string(), tool_use_id.to_owned());
        }
        let is_agent =
            task.subagent_type.is_some() || task.task_type.as_deref() == Some("local_agent");
        if is_agent {
            self.open_subagent(
                now,
                tool_use_id,
                task.subagent_type.as_deref(),
                task.description.as_deref(),
                changes,
            );
        }
        if task.is_backgrounded {
            self.put_in_background(tool_use_id);
            self.tools.clock(now.uptime);
        }
        self.lane_span(Some(tool_use_id))
    }

    pub(super) fn on_task_ended(
        &mut self,
        now: Now,
        task: &TaskEnded<'_>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        let known = self.tools.tasks.get(task.task_id.as_ref()).cloned();
        let Some(id) = task.tool_use_id.as_deref().map(str::to_owned).or(known) else {
            return self.current_span();
        };
        let span = self.lane_span(Some(&id));
        if self.tools.subagents.contains_key(&id) {
            if let (Some(subagent), Some(tokens)) =
                (self.tools.subagents.get(&id), task.total_tokens)
                && let Some(span) = self.tree.get_mut(subagent.span_id)
            {
                span.set(key::SUBAGENT_CONTEXT_TOKENS, int(tokens));
            }
            self.end_subagent(now, &id, Some(&task.status), changes);
            return span;
        }
        let Some(tool) = self.tools.open.get(&id).filter(|tool| tool.background) else {
            return span;
        };
        let span_id = tool.span_id;
        if let Some(open) = self.tree.get_mut(span_id) {
            open.set(key::SUBAGENT_STATUS, task.status.to_string());
            if task.status == "failed" {
                open.fail(value::TOOL_ERROR, "the background command failed");
            }
        }
        self.tools.open.remove(&id);
        self.tool_usage.keep(|tool| tool != id);
        self.tools.clock(now.uptime);
        self.tree
            .close(span_id, now.wall, Closing::Finished, changes);
        span_id
    }

    /// Opens a subagent's span under its tool call, or completes it if it is open.
    pub(super) fn open_subagent(
        &mut self,
        now: Now,
        tool_use_id: &str,
        subagent_type: Option<&str>,
        description: Option<&str>,
        changes: &mut SpanChanges,
    ) -> Option<SpanId> {
        if let Some(subagent) = self.tools.subagents.get(tool_use_id) {
            return Some(subagent.span_id);
        }
        let parent = self
            .tools
            .span_of(tool_use_id)
            .unwrap_or_else(|| self.current_span());
        let span_id = self.id(SpanKey::Subagent, &[tool_use_id]);
        // The model chose the word, so it is as long as the model likes.
        let kind = clipped(subagent_type.unwrap_or("subagent"));
        let attributes: Vec<(&'static str, Value)> = vec![
            (key::GEN_AI_OPERATION, span_name::INVOKE_AGENT.into()),
            (key::GEN_AI_AGENT_NAME, kind.to_owned().into()),
            (key::PARENT_TOOL_CALL_ID, tool_use_id.to_owned().into()),
        ];
        let name: Cow<'static, str> = format!("{} {kind}", span_name::INVOKE_AGENT).into();
        let draft = Draft {
            span_id,
            parent,
            name,
            kind: SpanKind::Internal,
            start: now.wall,
            attributes,
        };
        let capture = self.config.capture;
        let span = self.tree.open(draft, changes)?;
        span.add(description.and_then(|text| capture.content(key::SUBAGENT_DESCRIPTION, text)));
        self.counts.subagents += 1;
        self.tools.subagents.insert(
            tool_use_id.to_owned(),
            Subagent {
                span_id,
                name: kind.to_owned(),
                background: false,
            },
        );
        self.lanes.get(Some(tool_use_id), now.wall).touch(now.wall);
        Some(span_id)
    }

    /// Ends a subagent and what is open in its lane. Without a status, only one that is waited for ends.
    pub(super) fn end_subagent(
        &mut self,
        now: Now,
        tool_use_id: &str,
        status: Option<&str>,
        changes: &mut SpanChanges,
    ) {
        let Some(subagent) = self.tools.subagents.get(tool_use_id) else {
            return;
        };
        if subagent.background && status.is_none() {
            return;
        }
        let span_id = subagent.span_id;
        self.close_below(now.wall, span_id, changes);
        self.close_chat(Some(tool_use_id), Closing::Finished, changes);
        let retries = self
            .lanes
            .remove(tool_use_id)
            .map(|mut lane| lane.take_retries());
        self.tools.subagents.remove(tool_use_id);
        if let Some(span) = self.tree.get_mut(span_id) {
            retries
                .into_iter()
                .flatten()
                .for_each(|retry| span.event(retry));
        }
        self.ledger.note_unseen_call();
        if let Some(span) = self.tree.get_mut(span_id) {
            span.set_opt(key::SUBAGENT_STATUS, status.map(str::to_owned));
            if let Some("failed" | "killed" | "stopped") = status {
                span.fail(
                    value::OTHER,
                    format!("the subagent {}", status.unwrap_or_default()),
                );
            }
        }
        self.tree
            .close(span_id, now.wall, Closing::Finished, changes);
    }

    /// Settles the chats, approvals and tools that end because the span above them does, and forgets them. Spans in the
    /// background, and what is below them, stay.
    pub(super) fn close_below(&mut self, at: UnixNanos, above: SpanId, changes: &mut SpanChanges) {
        let below = self.tree.awaited_below(above);
        for lane in self.lanes.keys() {
            let chat = self
                .lanes
                .existing(lane.as_deref())
                .and_then(|lane| lane.chat.as_ref())
                .map(|chat| chat.span_id);
            if chat.is_some_and(|chat| below.contains(&chat)) {
                self.close_chat(lane.as_deref(), Closing::Abandoned, changes);
            }
        }
        self.settle_approvals(&below, changes);
        for id in &below {
            self.tree.close(*id, at, Closing::Abandoned, changes);
        }
        self.forget_closed();
    }

    /// Drops what is known of spans that the tree has closed.
    pub(super) fn forget_closed(&mut self) {
        let Self {
            tree,
            tools,
            tool_usage,
            lanes,
            loops,
            hooks,
            ..
        } = self;
        tools.open.retain(|_, tool| tree.is_open(tool.span_id));
        tool_usage.keep(|id| tools.open.contains_key(id));
        tools.subagents.retain(|id, subagent| {
            let open = tree.is_open(subagent.span_id);
            if !open {
                lanes.remove(id);
            }
            open
        });
        lanes.retain(|id| tools.subagents.contains_key(id));
        loops.retain(|id| tools.subagents.contains_key(id));
        let (open, subagents) = (&tools.open, &tools.subagents);
        tools
            .tasks
            .retain(|_, tool| open.contains_key(tool) || subagents.contains_key(tool));
        hooks.retain(|_, span| tree.is_open(*span));
    }

    /// The span that a lane's chats and tools hang below, opened if need be.
    pub(super) fn lane_parent(
        &mut self,
        now: Now,
        lane: Option<&str>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        match lane {
            None => self.ensure_turn(now, changes),
            Some(tool_use_id) => {
                let opened = self.open_subagent(now, tool_use_id, None, None, changes);
                // Late lines of a subagent that is over belong to the call that started it, while that is open.
                opened.unwrap_or_else(|| self.lane_span(lane))
            }
        }
    }

    /// The agent's name in a subagent's lane; the main thread's is common to all spans.
    pub(super) fn lane_agent(&self, lane: Option<&str>) -> Option<String> {
        Some(self.tools.subagents.get(lane?)?.name.clone())
    }

    /// The span a lane's lines belong to, without opening any.
    pub(super) fn lane_span(&self, lane: Option<&str>) -> SpanId {
        let of_lane = lane.and_then(|id| match self.tools.subagents.get(id) {
            Some(subagent) => Some(subagent.span_id),
            None => self.tools.span_of(id),
        });
        of_lane.unwrap_or_else(|| self.current_span())
    }

    /// The first words of a subagent's prompt.
    pub(super) fn preview_prompt(&mut self, lane: &str, text: &str) {
        let Some(subagent) = self.tools.subagents.get(lane) else {
            return;
        };
        let capture = self.config.capture;
        if let Some(span) = self.tree.get_mut(subagent.span_id)
            && !span.has_content(key::PROMPT_PREVIEW)
        {
            span.add(capture.content(key::PROMPT_PREVIEW, text));
        }
    }
}
