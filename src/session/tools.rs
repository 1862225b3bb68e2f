//! Tool calls, from the model's asking to the result.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::trace::{SpanId, SpanKind};
use opentelemetry::{Array, StringValue, Value};

use super::id::SpanKey;
use super::messages::{Role, document};
use super::semconv::{key, span as span_name, value};
use super::subagents::Subagent;
use super::tree::{Closing, Draft, SpanChanges};
use super::{Capture, Session, clipped, int, millis};
use crate::agent::event::{Decision, ToolResult, ToolUse, User};
use crate::order::by_name;
use crate::time::Now;

/// A call whose result has not come, or whose work goes on in the background.
#[derive(Debug)]
pub(super) struct OpenTool {
    pub(super) span_id: SpanId,
    pub(super) name: String,
    lane: Option<String>,
    pub(super) background: bool,
    denied: bool,
    /// Uptime at which it was asked for.
    since: Duration,
}

/// The calls in flight.
#[derive(Debug, Default)]
pub(super) struct Tools {
    pub(super) open: HashMap<String, OpenTool>,
    pub(super) subagents: HashMap<String, Subagent>,
    /// Task ids of background shells and subagents, to their tool call.
    pub(super) tasks: HashMap<String, String>,
    /// Since when at least one awaited tool runs, and how long that was the case before.
    busy_since: Option<Duration>,
    busy: Duration,
}

impl Tools {
    pub(super) fn span_of(&self, tool_use_id: &str) -> Option<SpanId> {
        self.open.get(tool_use_id).map(|tool| tool.span_id)
    }

    pub(super) fn deny(&mut self, tool_use_id: &str) {
        if let Some(tool) = self.open.get_mut(tool_use_id) {
            tool.denied = true;
        }
    }

    /// Whether a tool runs that the agent waits for.
    pub(super) fn any_awaited(&self) -> bool {
        self.open.values().any(|tool| !tool.background)
    }

    /// The tools that may be waiting for an approval, in a stable order.
    pub(super) fn awaited(&self) -> Vec<(&str, &OpenTool)> {
        let tools: Vec<_> = self
            .open
            .iter()
            .filter(|(_, tool)| !tool.background)
            .map(|(id, tool)| (id.as_str(), tool))
            .collect();
        by_name(tools, |(id, _)| id)
    }

    fn any_in_lane(&self, lane: Option<&str>) -> bool {
        self.open
            .values()
            .any(|tool| !tool.background && tool.lane.as_deref() == lane)
    }

    /// Keeps the busy clock in step with [`Self::any_awaited`].
    pub(super) fn clock(&mut self, uptime: Duration) {
        match (self.any_awaited(), self.busy_since) {
            (true, None) => self.busy_since = Some(uptime),
            (false, Some(since)) => {
                self.busy += uptime.saturating_sub(since);
                self.busy_since = None;
            }
            _ => {}
        }
    }

    /// How long at least one tool ran, in milliseconds; `None` if none ever did.
    pub(super) fn busy_ms(&self, uptime: Duration) -> Option<f64> {
        let running = self
            .busy_since
            .map_or(Duration::ZERO, |since| uptime.saturating_sub(since));
        let busy = self.busy + running;
        (!busy.is_zero() || self.busy_since.is_some()).then(|| millis(busy))
    }
}

impl Session {
    /// Opens the span of a call; `None` if its id was used before.
    pub(super) fn open_tool(
        &mut self,
        now: Now,
        lane: Option<&str>,
        tool: &ToolUse<'_>,
        changes: &mut SpanChanges,
    ) -> Option<SpanId> {
        let parent = self.lane_parent(now, lane, changes);
        // Session mode of the boilerplate has no ids; such a call is told from the next by its number.
        let call_id = if tool.id.is_empty() {
            format!("#{}", self.counts.tools + 1)
        } else {
            tool.id.to_string()
        };
        let span_id = self.id(SpanKey::Tool, &[&call_id]);
        let mcp_server = tool
            .name
            .strip_prefix("mcp__")
            .and_then(|rest| rest.split_once("__"))
            .map(|(server, _)| server.to_owned());
        let kind = if mcp_server.is_some() {
            value::EXTENSION
        } else {
            value::FUNCTION
        };
        let mut attributes: Vec<(&'static str, Value)> = vec![
            (key::GEN_AI_OPERATION, span_name::EXECUTE_TOOL.into()),
            (key::GEN_AI_TOOL_NAME, clipped(&tool.name).to_owned().into()),
            (key::GEN_AI_TOOL_TYPE, kind.into()),
            (key::TOOL_INPUT_BYTES, int(tool.input.len() as u64).into()),
        ];
        attributes.extend(
            self.lane_agent(lane)
                .map(|name| (key::GEN_AI_AGENT_NAME, name.into())),
        );
        if !tool.id.is_empty() {
            attributes.push((key::GEN_AI_TOOL_CALL_ID, call_id.clone().into()));
        }
        attributes.extend(mcp_server.map(|server| (key::MCP_SERVER, server.into())));
        let name = format!("{} {}", span_name::EXECUTE_TOOL, clipped(&tool.name));
        let draft = Draft {
            span_id,
            parent,
            name: name.into(),
            kind: SpanKind::Internal,
            start: now.wall,
            attributes,
        };
        let span = self.tree.open(draft, changes)?;
        if self.config.capture == Capture::Full {
            span.add(document(key::GEN_AI_TOOL_ARGUMENTS, tool.input));
        }
        self.counts.tools += 1;
        self.count_call(now, lane, clipped(&tool.name), tool.input);
        self.mark_active(lane);
        self.tool_usage.opened(&call_id, tool);
        self.tools.open.insert(
            call_id.clone(),
            OpenTool {
                span_id,
                name: clipped(&tool.name).to_owned(),
                lane: lane.map(str::to_owned),
                background: false,
                denied: false,
                since: now.uptime,
            },
        );
        self.tools.clock(now.uptime);
        if let Some(subagent_type) = &tool.subagent_type {
            self.open_subagent(
                now,
                &call_id,
                Some(subagent_type),
                tool.description.as_deref(),
                changes,
            );
        }
        Some(span_id)
    }

    pub(super) fn on_user(
        &mut self,
        now: Now,
        user: &User<'_>,
        changes: &mut SpanChanges,
    ) -> SpanId {
        let lane = user.parent_tool_use_id.as_deref();
        if let Some(session) = &user.session_id {
            self.learn_conversation(session);
        }
        let mut line_span = None;
        for result in &user.results {
            let id = self.tool_id_of(result);
            line_span = line_span.or_else(|| id.as_deref().and_then(|id| self.tools.span_of(id)));
            if let Some(id) = id {
                self.close_tool(now, &id, result, changes);
            }
        }
        // A user's line opens a subagent, whose prompt it is, but no turn: one may straggle in after the last result.
        let parent = match lane {
            Some(_) if user.results.is_empty() => self.lane_parent(now, lane, changes),
            _ => self.lane_span(lane),
        };
        if let (Some(lane), Some(text)) = (lane, &user.text) {
            self.preview_prompt(lane, text);
        }
        self.hear(lane, |heard| {
            for result in &user.results {
                heard.result(result);
            }
            if let Some(text) = &user.text {
                heard.text(Role::User, text);
            }
        });
        self.touch_lane(lane, now.wall);
        if !user.results.is_empty() && !self.tools.any_in_lane(lane) {
            self.end_block_chat(lane, changes);
        }
        line_span.unwrap_or(parent)
    }

    /// The open call that a result answers; a result without an id answers the oldest call without one.
    fn tool_id_of(&self, result: &ToolResult<'_>) -> Option<String> {
        if !result.tool_use_id.is_empty() {
            return Some(result.tool_use_id.to_string());
        }
        let open = self.tools.open.keys();
        let unnamed = open.filter_map(|id| Some((id.strip_prefix('#')?.parse::<u64>().ok()?, id)));
        unnamed.min().map(|(_, id)| id.clone())
    }

    fn close_tool(
        &mut self,
        now: Now,
        id: &str,
        result: &ToolResult<'_>,
        changes: &mut SpanChanges,
    ) {
        let Some(tool) = self.tools.open.get_mut(id) else {
            return;
        };
        let (span_id, since) = (tool.span_id, tool.since);
        let denied = tool.denied
            || result.decision == Some(Decision::Deny)
            || reads_as_denial(&result.text, result.is_error);
        let waited = self.approvals.was_asked(id);
        let denied = denied || (waited && result.is_error && !reads_as_execution(&result.text));
        let decision = if denied {
            Decision::Deny
        } else {
            Decision::Allow
        };
        self.finish_approval(
            now,
            id,
            Some(decision),
            result.decision_source.as_deref(),
            changes,
        );
        let capture = self.config.capture;
        let killed = (result.is_error && !denied)
            .then(|| self.memory.blame_for_tool(since, &result.text))
            .flatten();
        if let Some(span) = self.tree.get_mut(span_id) {
            if capture == Capture::Full {
                span.add(document(key::GEN_AI_TOOL_RESULT, result.content));
            }
            span.set(key::TOOL_OUTPUT_BYTES, int(result.content.len() as u64));
            if let Some((message, facts)) = killed {
                span.fail(value::TOOL_OOM, message);
                let facts = facts.into_iter().map(StringValue::from).collect();
                span.set(key::FAILURE_EVIDENCE, Value::Array(Array::String(facts)));
            } else if result.is_error {
                let (error_type, message) = tool_failure(&result.text, denied, result.interrupted);
                if error_type == value::TOOL_NETWORK {
                    self.network.tool_failed(now.uptime);
                }
                span.fail(error_type, message);
            }
        }
        if result.background {
            self.put_in_background(id);
            // A background subagent's call is over, its subagent is not; a moved shell has no span but the call's.
            if !self.tools.subagents.contains_key(id) {
                self.tools.clock(now.uptime);
                return;
            }
        }
        self.end_subagent(now, id, None, changes);
        self.tools.open.remove(id);
        self.tool_usage.keep(|tool| tool != id);
        self.tools.clock(now.uptime);
        self.tree
            .close(span_id, now.wall, Closing::Finished, changes);
    }

    /// A call or a tool of the main thread makes the turn one that owes a result.
    pub(super) fn mark_active(&mut self, lane: Option<&str>) {
        if let (None, Some(turn)) = (lane, self.turns.back_mut()) {
            turn.active = true;
        }
    }
}

/// Words by which Claude Code reports that a call was not carried out.
fn reads_as_denial(text: &str, is_error: bool) -> bool {
    const WORDS: [&str; 5] = [
        "The user doesn't want to",
        "Permission to use",
        "requested permissions",
        "requires approval",
        "hook error",
    ];
    is_error && !was_stopped(text) && WORDS.iter().any(|words| text.contains(words))
}

/// A call that was stopped while it ran gets the words of a refusal, and then a correction.
fn was_stopped(text: &str) -> bool {
    text.contains("stopped while running")
}

/// Words by which it reports that a call was carried out and failed.
fn reads_as_execution(text: &str) -> bool {
    ["Exit code", "<tool_use_error>", "Error:"]
        .iter()
        .any(|words| text.starts_with(words))
        || was_stopped(text)
}

/// Words of resolvers and sockets; a file that is called "certificate" is none of them.
fn reads_as_network(text: &str) -> bool {
    const WORDS: [&str; 11] = [
        "ECONNREFUSED",
        "ECONNRESET",
        "EAI_AGAIN",
        "ENOTFOUND",
        "EHOSTUNREACH",
        "ENETUNREACH",
        "Connection refused",
        "Connection reset by peer",
        "Could not resolve host",
        "Temporary failure in name resolution",
        "Network is unreachable",
    ];
    WORDS.iter().any(|words| text.contains(words))
}

/// `error.type` of a failed tool (DESIGN §6) and a message that quotes no output.
fn tool_failure(text: &str, denied: bool, interrupted: bool) -> (&'static str, &'static str) {
    if denied {
        (value::TOOL_DENIED, "the call was denied")
    } else if text.contains("Command timed out") || text.contains("ETIMEDOUT") {
        (value::TOOL_TIMEOUT, "the call timed out")
    } else if text.starts_with("Exit code 137") {
        // Exit code 137 alone proves no OOM (DESIGN §1); the kernel's evidence decides that elsewhere.
        (value::TOOL_ERROR, "the command was killed (exit code 137)")
    } else if reads_as_network(text) {
        (value::TOOL_NETWORK, "the call failed on the network")
    } else if interrupted || was_stopped(text) {
        (value::TOOL_ERROR, "the call was interrupted")
    } else {
        (value::TOOL_ERROR, "the tool reported an error")
    }
}
