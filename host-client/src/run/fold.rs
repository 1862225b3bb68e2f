//! How each event changes what is known of a run.

use serde_json::{Map, Value};

use super::state::{OpenSpan, State, Tool, Turn};
use super::{Conclusion, LastEvent, Run, resources};
use crate::agent::{AgentLine, Said};
use crate::attribute::{self, span};
use crate::event::{Content, Event};
use crate::wire::{Body, RunFinished, RunStarted, SpanEnded, SpanStarted, Stamp, Warning};

const TURNS: usize = 1_000;
const OPEN_SPANS: usize = 4_096;
const WARNINGS: usize = 256;

impl Run {
    pub(super) fn fold(&mut self, event: &Event) {
        let stamp = event.stamp();
        self.last_event = Some(LastEvent {
            seq: stamp.seq,
            time: stamp.time.clone(),
            kind: event.kind().unwrap_or("a line of the agent").to_owned(),
        });
        if !matches!(event.content(), Content::Supervisor(Body::SpanEnded(_))) {
            self.leave_returned();
        }
        let is_activity = match event.content() {
            Content::Supervisor(body) => self.on_supervisor(stamp, body),
            Content::Agent(line) => {
                self.on_agent(stamp, line);
                true
            }
            Content::Unknown { .. } => {
                self.unknown += 1;
                false
            }
        };
        if is_activity {
            self.last_activity = Some(stamp.time.clone());
        }
    }

    /// Says whether it was the agent's doing.
    fn on_supervisor(&mut self, stamp: &Stamp, body: &Body) -> bool {
        match body {
            Body::RunStarted(started) => self.on_started(started),
            Body::SpanStarted(started) => self.on_span_started(stamp, started),
            Body::SpanEnded(ended) => self.on_span_ended(ended),
            Body::Resources(resources) => {
                resources::note(&mut self.peaks, resources);
                self.resources = Some(resources.as_ref().clone());
                return false;
            }
            Body::AgentExited(exited) => self.exited = Some(exited.clone()),
            Body::Heartbeat(heartbeat) => {
                self.told = State::from_wire(&heartbeat.state);
                self.heartbeat = Some(heartbeat.clone());
                return false;
            }
            Body::Warning(warning) => {
                self.on_warning(warning);
                return false;
            }
            Body::RunFinished(finished) => self.on_finished(finished),
            Body::Output(_) => {}
            Body::Otlp(_) => return false,
        }
        true
    }

    fn on_started(&mut self, started: &RunStarted) {
        if started.forked_from.is_some() {
            // What was open goes on in the original. What is open here is announced anew, in a trace of its own.
            self.open_spans.clear();
            self.tools.clear();
        }
        self.started = Some(started.clone());
    }

    fn on_warning(&mut self, warning: &Warning) {
        self.warning_count += 1;
        if self.warnings.len() == WARNINGS {
            self.warnings.remove(0);
        }
        self.warnings.push(warning.clone());
    }

    fn on_span_started(&mut self, stamp: &Stamp, started: &SpanStarted) {
        self.hear();
        let open = OpenSpan {
            trace_id: stamp.trace_id.clone(),
            span_id: started.span_id.clone(),
            parent_span_id: started.parent_span_id.clone(),
            name: started.name.clone(),
            kind: started.kind.clone(),
            start_time: started.start_time.clone(),
            attributes: started.attributes.clone(),
        };
        match kind(&open.name) {
            span::INVOKE_AGENT => self.on_turn_started(&open),
            span::EXECUTE_TOOL => self.on_tool_started(&open),
            span::APPROVAL => {
                let tool = open.parent_span_id.as_ref();
                let tool = tool.and_then(|parent| self.tools.get(parent));
                self.approvals.on_span(&open, tool);
            }
            _ => {}
        }
        if self.open_spans.len() < OPEN_SPANS {
            self.open_spans.push(open);
        } else {
            self.untracked_spans += 1;
        }
    }

    /// A subagent's span has no turn's number.
    fn on_turn_started(&mut self, open: &OpenSpan) {
        let Some(ordinal) = number(&open.attributes, attribute::TURN) else {
            return;
        };
        if let Some(turn) = self.turns.iter_mut().find(|turn| turn.ordinal == ordinal) {
            // The run was forked in this turn.
            turn.span_id.clone_from(&open.span_id);
            return;
        }
        self.turn_count = self.turn_count.max(ordinal);
        self.answer.clear();
        if self.turns.len() == TURNS {
            self.turns.remove(0);
        }
        self.turns.push(Turn {
            span_id: open.span_id.clone(),
            ordinal,
            started: open.start_time.clone(),
            duration_ms: None,
            failed: None,
            error_type: None,
            cost_usd: None,
        });
    }

    fn on_tool_started(&mut self, open: &OpenSpan) {
        // It is an open span, and there are no more of it than of these.
        if self.tools.len() == OPEN_SPANS {
            return;
        }
        let call = open.text(attribute::TOOL_CALL_ID);
        let named = open.name.split_once(' ').map(|(_, name)| name);
        let name = open.text(attribute::TOOL_NAME).or(named);
        let tool = Tool {
            tool_use_id: call.unwrap_or(&open.span_id).to_owned(),
            span_id: open.span_id.clone(),
            name: name.unwrap_or("tool").to_owned(),
            started: open.start_time.clone(),
            subagent: self.subagent_above(open),
            in_background: false,
        };
        self.tools.insert(open.span_id.clone(), tool);
    }

    /// The name of the subagent that a span belongs to.
    fn subagent_above(&self, open: &OpenSpan) -> Option<String> {
        let parent = open.parent_span_id.as_ref()?;
        let parent = self
            .open_spans
            .iter()
            .find(|open| open.span_id == *parent)?;
        let is_subagent = parent
            .attributes
            .contains_key(attribute::PARENT_TOOL_CALL_ID);
        let name = parent.text(attribute::AGENT_NAME).unwrap_or("subagent");
        is_subagent.then(|| name.to_owned())
    }

    fn on_span_ended(&mut self, ended: &SpanEnded) {
        self.hear();
        self.open_spans.retain(|open| open.span_id != ended.span_id);
        let tool = self.tools.remove(&ended.span_id);
        self.approvals.on_span_end(&ended.span_id, tool.as_ref());
        match kind(&ended.name) {
            span::CHAT => self.spending.on_call(&ended.attributes),
            span::INVOKE_AGENT if ended.attributes.contains_key(attribute::TURN) => {
                self.on_turn_ended(ended);
            }
            _ => {}
        }
    }

    fn on_turn_ended(&mut self, ended: &SpanEnded) {
        self.spending.on_turn(&ended.attributes);
        let is_it = |turn: &&mut Turn| turn.span_id == ended.span_id;
        if let Some(turn) = self.turns.iter_mut().rev().find(is_it) {
            turn.duration_ms = Some(ended.duration_ms);
            turn.failed = Some(ended.status == "error");
            let text = |key| ended.attributes.get(key).and_then(Value::as_str);
            turn.error_type = text(attribute::ERROR_TYPE).map(str::to_owned);
            turn.cost_usd = ended
                .attributes
                .get(attribute::COST_USD)
                .and_then(Value::as_f64);
        }
    }

    fn on_finished(&mut self, finished: &RunFinished) {
        self.spending
            .on_finish(finished.usage, finished.cost.clone());
        if let Some(peaks) = &finished.resources {
            self.peaks = Some(peaks.clone());
        }
        self.conclusion = Some(Conclusion::of(finished));
    }

    fn on_agent(&mut self, stamp: &Stamp, line: &AgentLine) {
        self.hear();
        if line.brings_result() && self.tools.contains_key(&stamp.span_id) {
            self.returned = Some(stamp.span_id.clone());
        }
        if !line.concerns_run() {
            return;
        }
        let is_own = line.parent_tool_use_id().is_none();
        for said in line.said() {
            match &said {
                Said::ApprovalRequest(request) => self.approvals.on_request(stamp, request),
                Said::ApprovalDecision(decision) => self.approvals.on_decision(decision),
                Said::SessionState(state) => self.approvals.on_session_state(state),
                said if is_own => self.answer.hear(said),
                _ => {}
            }
        }
    }

    /// The end of the tool whose result came did not follow: its work goes on without anybody waiting.
    fn leave_returned(&mut self) {
        let returned = self.returned.take();
        if let Some(tool) = returned.and_then(|span_id| self.tools.get_mut(&span_id)) {
            tool.in_background = true;
        }
    }

    /// Something was heard: what a heartbeat said before is old, but that the run was asked to stop.
    fn hear(&mut self) {
        self.told = self.told.filter(|told| *told == State::Stopping);
    }
}

/// The first word of a span's name says what it is.
fn kind(name: &str) -> &str {
    name.split(' ').next().unwrap_or_default()
}

fn number(attributes: &Map<String, Value>, key: &str) -> Option<u64> {
    attributes.get(key)?.as_u64()
}
