//! Tools that wait for a human.
//!
//! An agent that prints `approval_request` and `approval_decision` is exact. Without them Claude Code's
//! `session_state_changed` brackets the wait: `requires_action` starts it, `running` ends it. That names no tool, so it
//! is taken for the only open one; if several are open, the wait becomes a span of its own under the turn once it is
//! over. Whether the human said yes shows in the tool's result, so a bracketed approval is finished then, with the
//! moment of `running` as its end.

use std::collections::HashMap;

use opentelemetry::Value;
use opentelemetry::trace::{SpanId, SpanKind};

use super::id::SpanKey;
use super::semconv::{key, span as span_name};
use super::tree::{Closing, Draft, SpanChanges};
use super::{Capture, Session, clipped, int, millis};
use crate::agent::event::{ApprovalDecision, ApprovalRequest, Decision, SessionState};
use crate::order::by_name;
use crate::time::{Now, UnixNanos};

/// One wait.
#[derive(Debug)]
struct Approval {
    span_id: SpanId,
    started: UnixNanos,
    /// When `running` came; the span is finished with the tool's result.
    ended: Option<UnixNanos>,
    /// It came from an `approval_request`, so `running` does not end it.
    exact: bool,
}

/// The waits in progress.
#[derive(Debug, Default)]
pub(super) struct Approvals {
    /// By `tool_use_id`, else by request id.
    open: HashMap<String, Approval>,
    /// Request ids to the key above.
    requests: HashMap<String, String>,
    /// A bracketed wait that no single tool explains.
    unassigned: Option<UnixNanos>,
    ordinal: u64,
}

impl Approvals {
    /// Whether a human is being waited for.
    pub(super) fn waiting(&self) -> bool {
        self.unassigned.is_some() || self.open.values().any(|approval| approval.ended.is_none())
    }

    /// Whether a human was asked about this call.
    pub(super) fn was_asked(&self, tool_use_id: &str) -> bool {
        self.open.contains_key(tool_use_id)
    }
}

impl Session {
    pub(super) fn on_session_state(
        &mut self,
        now: Now,
        state: SessionState,
        changes: &mut SpanChanges,
    ) -> SpanId {
        match state {
            SessionState::RequiresAction => self.on_requires_action(now, changes),
            SessionState::Running => {
                self.on_running(now, changes);
                if self.turns.is_empty() {
                    self.expect_turn(now);
                }
                self.current_span()
            }
            SessionState::Idle => {
                // Nobody is waited for any more, and what began to run was no turn.
                self.on_running(now, changes);
                self.expected_turn = None;
                self.current_span()
            }
            SessionState::Other => self.current_span(),
        }
    }

    fn on_requires_action(&mut self, now: Now, changes: &mut SpanChanges) -> SpanId {
        if self.approvals.waiting() {
            return self.current_span();
        }
        let unasked: Vec<(String, String)> = self
            .tools
            .awaited()
            .into_iter()
            .filter(|(id, _)| !self.approvals.was_asked(id))
            .map(|(id, tool)| (id.to_owned(), tool.name.clone()))
            .collect();
        match unasked.as_slice() {
            [(id, name)] => {
                let (id, name) = (id.clone(), name.clone());
                self.open_approval(now.wall, &id, &name, false, changes)
            }
            _ => {
                self.approvals.unassigned = Some(now.wall);
                self.current_span()
            }
        }
    }

    /// Ends every wait that the session's state began.
    pub(super) fn on_running(&mut self, now: Now, changes: &mut SpanChanges) {
        for approval in self
            .approvals
            .open
            .values_mut()
            .filter(|approval| !approval.exact)
        {
            approval.ended.get_or_insert(now.wall);
        }
        if let Some((since, span_id)) = self.open_unassigned_wait(changes) {
            if let Some(span) = self.tree.get_mut(span_id) {
                span.set(key::APPROVAL_DECISION, "unknown");
                span.set(key::APPROVAL_WAIT_MS, millis(now.wall.since(since)));
            }
            self.tree
                .close(span_id, now.wall, Closing::Finished, changes);
        }
    }

    /// Gives a wait that no single tool explains its span, which is known to be one only once it is over, or the run is.
    pub(super) fn open_unassigned_wait(
        &mut self,
        changes: &mut SpanChanges,
    ) -> Option<(UnixNanos, SpanId)> {
        let since = self.approvals.unassigned.take()?;
        self.approvals.ordinal += 1;
        let ordinal = self.approvals.ordinal.to_string();
        let turn = self.turns.back().map_or(0, |turn| turn.ordinal).to_string();
        let span_id = self.id(SpanKey::Approval, &[&turn, &ordinal]);
        let draft = Draft {
            span_id,
            parent: self.current_span(),
            name: span_name::APPROVAL.into(),
            kind: SpanKind::Internal,
            start: since,
            attributes: vec![(key::APPROVAL_SOURCE, "session_state".into())],
        };
        self.tree.open(draft, changes)?;
        Some((since, span_id))
    }

    pub(super) fn on_approval_request(
        &mut self,
        now: Now,
        request: &ApprovalRequest<'_>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        let key = request
            .tool_use_id
            .as_deref()
            .unwrap_or(&request.id)
            .to_owned();
        self.approvals
            .requests
            .insert(request.id.to_string(), key.clone());
        let since = self.approvals.unassigned.take().unwrap_or(now.wall);
        let name = clipped(request.tool_name.as_deref().unwrap_or("tool")).to_owned();
        let span = self.open_approval(since, &key, &name, true, changes);
        if let Some(approval) = self.approvals.open.get_mut(&key) {
            approval.exact = true;
            approval.ended = None;
        }
        span
    }

    pub(super) fn on_approval_decision(
        &mut self,
        now: Now,
        answer: &ApprovalDecision<'_>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        let key = self
            .approvals
            .requests
            .remove(answer.id.as_ref())
            .unwrap_or_else(|| answer.id.to_string());
        let Some(approval) = self.approvals.open.get_mut(&key) else {
            return self.current_span();
        };
        approval.ended = Some(now.wall);
        let span_id = approval.span_id;
        let reason = answer.reason.as_deref().unwrap_or_default();
        let capture = self.config.capture;
        if let Some(span) = self.tree.get_mut(span_id) {
            let chars = reason.chars().count();
            span.set(key::APPROVAL_FEEDBACK_CHARS, int(chars as u64));
            if capture == Capture::Full {
                span.add(capture.content(key::APPROVAL_FEEDBACK, reason));
            }
        }
        if answer.decision == Decision::Deny {
            self.tools.deny(&key);
        }
        self.finish_approval(
            now,
            &key,
            Some(answer.decision),
            Some(answer.by.as_deref().map_or("human", clipped)),
            changes,
        );
        span_id
    }

    fn open_approval(
        &mut self,
        since: UnixNanos,
        key: &str,
        tool: &str,
        exact: bool,
        changes: &mut SpanChanges,
    ) -> SpanId {
        if let Some(approval) = self.approvals.open.get(key) {
            return approval.span_id;
        }
        let parent = self
            .tools
            .span_of(key)
            .unwrap_or_else(|| self.current_span());
        let span_id = self.id(SpanKey::Approval, &[key]);
        let attributes: Vec<(&'static str, Value)> = vec![(
            key::APPROVAL_SOURCE,
            if exact { "agent" } else { "session_state" }.into(),
        )];
        let name = format!("{} {tool}", span_name::APPROVAL);
        let draft = Draft {
            span_id,
            parent,
            name: name.into(),
            kind: SpanKind::Internal,
            start: since,
            attributes,
        };
        let Some(span) = self.tree.open(draft, changes) else {
            return parent;
        };
        let started = span.start;
        self.approvals.open.insert(
            key.to_owned(),
            Approval {
                span_id,
                started,
                ended: None,
                exact,
            },
        );
        span_id
    }

    /// Ends the wait for a call, with what is known of the answer.
    pub(super) fn finish_approval(
        &mut self,
        now: Now,
        key: &str,
        decision: Option<Decision>,
        source: Option<&str>,
        changes: &mut SpanChanges,
    ) {
        let Some(approval) = self.approvals.open.remove(key) else {
            return;
        };
        self.close_approval(approval, now.wall, decision, source, changes);
    }

    fn close_approval(
        &mut self,
        approval: Approval,
        now: UnixNanos,
        decision: Option<Decision>,
        source: Option<&str>,
        changes: &mut SpanChanges,
    ) {
        let end = approval.ended.unwrap_or(now);
        if let Some(span) = self.tree.get_mut(approval.span_id) {
            let word = match decision {
                Some(Decision::Allow) => "allow",
                Some(Decision::Deny) => "deny",
                None => "unknown",
            };
            span.set(key::APPROVAL_DECISION, word);
            span.set(key::APPROVAL_WAIT_MS, millis(end.since(approval.started)));
            span.set_opt(key::APPROVAL_SOURCE, source.map(str::to_owned));
        }
        self.tree
            .close(approval.span_id, end, Closing::Finished, changes);
    }

    /// Finishes waits that are over but whose tool will not report; those still waiting are left to be abandoned.
    pub(super) fn settle_approvals(&mut self, below: &[SpanId], changes: &mut SpanChanges) {
        let ids: Vec<String> = self
            .approvals
            .open
            .iter()
            .filter(|(_, approval)| below.contains(&approval.span_id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in by_name(ids, |id| id) {
            let Some(approval) = self.approvals.open.remove(&id) else {
                continue;
            };
            if let Some(ended) = approval.ended {
                self.close_approval(approval, ended, None, None, changes);
            }
        }
        let open = &self.approvals.open;
        self.approvals
            .requests
            .retain(|_, key| open.contains_key(key));
    }
}
