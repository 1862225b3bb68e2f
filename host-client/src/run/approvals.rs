//! Questions that wait for a person.
//!
//! An agent that asks by `approval_request` says everything. Where none does, the span `approval` of the supervisor
//! tells that somebody is asked.

use serde_json::Value;

use super::state::{ApprovalSource, OpenSpan, PendingApproval, Tool};
use crate::agent::{ApprovalDecision, ApprovalRequest};
use crate::attribute::{self, span};
use crate::wire::Stamp;

/// More would be a flood, not questions.
const MOST: usize = 256;

#[derive(Debug, Clone, Default)]
pub(super) struct Approvals {
    pending: Vec<PendingApproval>,
    /// Somebody is asked, and nobody says about what: several tools are open.
    unassigned: bool,
}

impl Approvals {
    pub(super) fn pending(&self) -> &[PendingApproval] {
        &self.pending
    }

    /// Whether a person is waited for.
    pub(super) fn waiting(&self) -> bool {
        self.unassigned || !self.pending.is_empty()
    }

    /// What Claude Code says of itself.
    pub(super) fn on_session_state(&mut self, state: &str) {
        match state {
            "requires_action" => self.unassigned = self.pending.is_empty(),
            _ => {
                self.unassigned = false;
                // Those that were only seen are over; the agent's own have their decision.
                self.pending.retain(PendingApproval::is_answerable);
            }
        }
    }

    pub(super) fn on_request(&mut self, stamp: &Stamp, request: &ApprovalRequest<'_>) {
        // What was only seen so far is now asked.
        self.unassigned = false;
        self.pending.retain(|pending| {
            let same_call =
                pending.tool_use_id.is_some() && pending.tool_use_id() == request.tool_use_id;
            pending.id != request.id && !same_call
        });
        self.push(PendingApproval {
            id: request.id.to_owned(),
            tool_use_id: request.tool_use_id.map(str::to_owned),
            tool_name: request.tool_name.unwrap_or("tool").to_owned(),
            input: request.input.clone(),
            source: match request.is_answerable {
                true => ApprovalSource::Agent,
                false => ApprovalSource::Observed,
            },
            asked: stamp.time.clone(),
            // The line belongs to the innermost span, which is the approval's.
            span_id: Some(stamp.span_id.clone()),
        });
    }

    pub(super) fn on_decision(&mut self, decision: &ApprovalDecision<'_>) {
        self.pending.retain(|pending| pending.id != decision.id);
    }

    /// A span `approval` has begun.
    pub(super) fn on_span(&mut self, open: &OpenSpan, tool: Option<&Tool>) {
        // The agent's own question is the line that follows.
        if open.text(attribute::APPROVAL_SOURCE) == Some("agent") {
            // Unless the run was forked, and the span is announced anew.
            let asked = self.pending.iter_mut().find(|pending| {
                tool.is_some_and(|tool| pending.tool_use_id() == Some(tool.tool_use_id.as_str()))
            });
            if let Some(asked) = asked {
                asked.span_id = Some(open.span_id.clone());
            }
            return;
        }
        let name = open.name.strip_prefix(span::APPROVAL).unwrap_or_default();
        self.push(PendingApproval {
            id: open.span_id.clone(),
            tool_use_id: tool.map(|tool| tool.tool_use_id.clone()),
            tool_name: match name.trim() {
                "" => "tool".to_owned(),
                name => name.to_owned(),
            },
            input: Value::Null,
            source: ApprovalSource::Observed,
            asked: open.start_time.clone(),
            span_id: Some(open.span_id.clone()),
        });
    }

    /// A span has ended: an approval, or the call that was asked about.
    pub(super) fn on_span_end(&mut self, span_id: &str, tool: Option<&Tool>) {
        self.pending.retain(|pending| {
            let is_its_own = pending.span_id.as_deref() == Some(span_id);
            let is_its_call =
                tool.is_some_and(|tool| pending.tool_use_id() == Some(tool.tool_use_id.as_str()));
            !is_its_own && !is_its_call
        });
    }

    fn push(&mut self, approval: PendingApproval) {
        self.unassigned = false;
        if self.pending.len() == MOST {
            self.pending.remove(0);
        }
        self.pending.push(approval);
    }
}

impl PendingApproval {
    fn tool_use_id(&self) -> Option<&str> {
        self.tool_use_id.as_deref()
    }
}
