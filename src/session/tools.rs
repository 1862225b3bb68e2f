//! Tool calls and the subagents that some of them start.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::Value;
use opentelemetry::trace::{SpanId, SpanKind};

use super::id::SpanKey;
use super::semconv::{key, span as span_name, value};
use super::tree::{Closing, Draft, SpanChanges};
use super::{Capture, Session, clipped, int, millis};
use crate::agent::event::{Decision, TaskEnded, TaskStarted, ToolResult, ToolUse, User};
use crate::time::{Now, UnixNanos};

/// A call whose result has not come, or whose work goes on in the background.
#[derive(Debug)]
pub(super) struct OpenTool {
    pub(super) span_id: SpanId,
    pub(super) name: String,
    lane: Option<String>,
    background: bool,
    denied: bool,
}

/// A subagent at work; its key is the tool call that started it, which is also its lane.
#[derive(Debug)]
struct Subagent {
    span_id: SpanId,
    /// Its type, which names it on the spans of its lane.
    name: String,
    background: bool,
}

/// The calls in flight.
#[derive(Debug, Default)]
pub(super) struct Tools {
    open: HashMap<String, OpenTool>,
    subagents: HashMap<String, Subagent>,
    /// Task ids of background shells and subagents, to their tool call.
    tasks: HashMap<String, String>,
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
        let mut tools: Vec<_> = self
            .open
            .iter()
            .filter(|(_, tool)| !tool.background)
            .map(|(id, tool)| (id.as_str(), tool))
            .collect();
        tools.sort_by_key(|(id, _)| *id);
        tools
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
        if self.config.capture == Capture::Full {
            attributes.extend(
                self.config
                    .capture
                    .clip(tool.input)
                    .map(|input| (key::GEN_AI_TOOL_ARGUMENTS, input.into())),
            );
        }
        let name = format!("{} {}", span_name::EXECUTE_TOOL, clipped(&tool.name));
        let draft = Draft {
            span_id,
            parent,
            name: name.into(),
            kind: SpanKind::Internal,
            start: now.wall,
            attributes,
        };
        self.tree.open(draft, changes)?;
        self.counts.tools += 1;
        self.mark_active(lane);
        self.tools.open.insert(
            call_id.clone(),
            OpenTool {
                span_id,
                name: clipped(&tool.name).to_owned(),
                lane: lane.map(str::to_owned),
                background: false,
                denied: false,
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
        let mut unnamed: Vec<_> = self
            .tools
            .open
            .keys()
            .filter_map(|id| Some((id.strip_prefix('#')?.parse::<u64>().ok()?, id)))
            .collect();
        unnamed.sort_unstable();
        unnamed.first().map(|(_, id)| (*id).clone())
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
        let span_id = tool.span_id;
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
        if let Some(span) = self.tree.get_mut(span_id) {
            span.set(key::TOOL_OUTPUT_BYTES, int(result.content_bytes as u64));
            if result.is_error {
                let (error_type, message) = tool_failure(&result.text, denied, result.interrupted);
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
        self.tools.clock(now.uptime);
        self.tree
            .close(span_id, now.wall, Closing::Finished, changes);
    }

    fn put_in_background(&mut self, id: &str) {
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
        let mut attributes: Vec<(&'static str, Value)> = vec![
            (key::GEN_AI_OPERATION, span_name::INVOKE_AGENT.into()),
            (key::GEN_AI_AGENT_NAME, kind.to_owned().into()),
            (key::PARENT_TOOL_CALL_ID, tool_use_id.to_owned().into()),
        ];
        let description = description.and_then(|text| self.config.capture.clip(text));
        attributes.extend(description.map(|text| (key::SUBAGENT_DESCRIPTION, text.into())));
        let name: Cow<'static, str> = format!("{} {kind}", span_name::INVOKE_AGENT).into();
        self.tree.open(
            Draft {
                span_id,
                parent,
                name,
                kind: SpanKind::Internal,
                start: now.wall,
                attributes,
            },
            changes,
        )?;
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
    fn end_subagent(
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
            lanes,
            hooks,
            ..
        } = self;
        tools.open.retain(|_, tool| tree.is_open(tool.span_id));
        tools.subagents.retain(|id, subagent| {
            let open = tree.is_open(subagent.span_id);
            if !open {
                lanes.remove(id);
            }
            open
        });
        lanes.retain(|id| tools.subagents.contains_key(id));
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

    /// A call or a tool of the main thread makes the turn one that owes a result.
    pub(super) fn mark_active(&mut self, lane: Option<&str>) {
        if let (None, Some(turn)) = (lane, self.turns.back_mut()) {
            turn.active = true;
        }
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
    fn preview_prompt(&mut self, lane: &str, text: &str) {
        let Some(subagent) = self.tools.subagents.get(lane) else {
            return;
        };
        let (span_id, preview) = (subagent.span_id, self.config.capture.clip(text));
        if let Some(span) = self.tree.get_mut(span_id)
            && !span
                .attributes
                .iter()
                .any(|(known, _)| known.as_str() == key::PROMPT_PREVIEW)
        {
            span.set_opt(key::PROMPT_PREVIEW, preview);
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
