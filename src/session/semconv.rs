//! Every span name, attribute key and fixed value that we emit, in one place.
//!
//! The base is the OpenTelemetry GenAI semantic conventions 1.41, which is what today's backends read
//! (`reference/observability.md` §1.1), and the `process.*` conventions. What has no convention lives under
//! `sandtrace.`.

/// Span names. A `{}` is filled with the agent's, model's or tool's name.
pub mod span {
    pub const RUN: &str = "agent.run";
    pub const INVOKE_AGENT: &str = "invoke_agent";
    pub const CHAT: &str = "chat";
    pub const EXECUTE_TOOL: &str = "execute_tool";
    pub const APPROVAL: &str = "approval";
    pub const COMPACT: &str = "compact";
    pub const HOOK: &str = "hook";
}

/// Names of span events.
pub mod event {
    /// A request to the Messages API is tried again.
    pub const RETRY: &str = "sandtrace.retry";
    /// The subscription's rate-limit window changed.
    pub const RATE_LIMIT: &str = "sandtrace.rate_limit";
    /// The run stood still: the sandbox was paused, or we were stopped.
    pub const PAUSED: &str = "sandtrace.paused";
    /// No sign of life for minutes, though the agent lives.
    pub const STALLED: &str = "sandtrace.stalled";
    /// The same tool with the same input, again and again.
    pub const LOOP: &str = "sandtrace.loop";
    /// The sandbox is about to end.
    pub const SANDBOX_ENDING: &str = "sandtrace.sandbox_ending";

    // Of log records: the types of the wire's lines.
    pub const RUN_STARTED: &str = "sandtrace.run.started";
    pub const AGENT_EXITED: &str = "sandtrace.agent.exited";
    pub const WARNING: &str = "sandtrace.warning";
    /// What a call of the model was told and answered.
    pub const INFERENCE_DETAILS: &str = "gen_ai.client.inference.operation.details";
    /// A line of the agent's stderr.
    pub const STDERR: &str = "sandtrace.stderr";
}

/// Attribute keys.
pub mod key {
    pub const ERROR_TYPE: &str = "error.type";
    pub const SESSION_ID: &str = "session.id";
    pub const USER_ID: &str = "user.id";

    pub const GEN_AI_OPERATION: &str = "gen_ai.operation.name";
    pub const GEN_AI_PROVIDER: &str = "gen_ai.provider.name";
    pub const GEN_AI_AGENT_NAME: &str = "gen_ai.agent.name";
    pub const GEN_AI_CONVERSATION_ID: &str = "gen_ai.conversation.id";
    pub const GEN_AI_REQUEST_MODEL: &str = "gen_ai.request.model";
    pub const GEN_AI_REQUEST_STREAM: &str = "gen_ai.request.stream";
    pub const GEN_AI_RESPONSE_MODEL: &str = "gen_ai.response.model";
    pub const GEN_AI_RESPONSE_ID: &str = "gen_ai.response.id";
    pub const GEN_AI_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
    /// Seconds.
    pub const GEN_AI_TIME_TO_FIRST_CHUNK: &str = "gen_ai.response.time_to_first_chunk";
    /// Fresh + cache read + cache write.
    pub const GEN_AI_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
    pub const GEN_AI_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
    pub const GEN_AI_CACHE_READ: &str = "gen_ai.usage.cache_read.input_tokens";
    pub const GEN_AI_CACHE_CREATION: &str = "gen_ai.usage.cache_creation.input_tokens";
    pub const GEN_AI_TOOL_NAME: &str = "gen_ai.tool.name";
    pub const GEN_AI_TOOL_CALL_ID: &str = "gen_ai.tool.call.id";
    pub const GEN_AI_TOOL_TYPE: &str = "gen_ai.tool.type";
    pub const GEN_AI_TOOL_ARGUMENTS: &str = "gen_ai.tool.call.arguments";
    pub const GEN_AI_TOOL_RESULT: &str = "gen_ai.tool.call.result";
    /// What the model was told since its last answer, and what it answered: JSON by the conventions' schema.
    pub const GEN_AI_INPUT_MESSAGES: &str = "gen_ai.input.messages";
    pub const GEN_AI_OUTPUT_MESSAGES: &str = "gen_ai.output.messages";

    pub const PROCESS_PID: &str = "process.pid";
    pub const PROCESS_EXECUTABLE_NAME: &str = "process.executable.name";
    pub const PROCESS_EXIT_CODE: &str = "process.exit.code";

    pub const RUN_ID: &str = "sandtrace.run.id";
    /// The run's own agent, on its subagents' spans too: what a backend may call the trace.
    pub const RUN_AGENT: &str = "sandtrace.run.agent";
    pub const OUTCOME: &str = "sandtrace.outcome";
    pub const EXIT_SIGNAL: &str = "sandtrace.exit.signal";
    pub const FAILURE_CLASS: &str = "sandtrace.failure.class";
    pub const FAILURE_REASON: &str = "sandtrace.failure.reason";
    pub const FAILURE_CONFIDENCE: &str = "sandtrace.failure.confidence";
    pub const FAILURE_EVIDENCE: &str = "sandtrace.failure.evidence";
    /// The span was still open when the run ended.
    pub const ABANDONED: &str = "sandtrace.abandoned";
    /// The span's work goes on without its parent waiting for it.
    pub const BACKGROUND: &str = "sandtrace.background";
    pub const COST_USD: &str = "sandtrace.cost.usd";
    pub const COST_SOURCE: &str = "sandtrace.cost.source";
    /// What a single call's cost is made of, where the price table gave it.
    pub const COST_INPUT_USD: &str = "sandtrace.cost.input_usd";
    pub const COST_OUTPUT_USD: &str = "sandtrace.cost.output_usd";
    pub const COST_CACHE_READ_USD: &str = "sandtrace.cost.cache_read_usd";
    pub const COST_CACHE_CREATION_5M_USD: &str = "sandtrace.cost.cache_creation_5m_usd";
    pub const COST_CACHE_CREATION_1H_USD: &str = "sandtrace.cost.cache_creation_1h_usd";
    pub const USAGE_INPUT: &str = "sandtrace.usage.input_tokens";
    pub const USAGE_OUTPUT: &str = "sandtrace.usage.output_tokens";
    pub const USAGE_CACHE_READ: &str = "sandtrace.usage.cache_read_input_tokens";
    pub const USAGE_CACHE_CREATION: &str = "sandtrace.usage.cache_creation_input_tokens";
    /// Cache writes of a single call by the life they are paid for, where the API told: five minutes, an hour.
    pub const USAGE_CACHE_CREATION_5M: &str = "sandtrace.usage.cache_creation_5m_input_tokens";
    pub const USAGE_CACHE_CREATION_1H: &str = "sandtrace.usage.cache_creation_1h_input_tokens";
    pub const USAGE_INCOMPLETE_CALLS: &str = "sandtrace.usage.incomplete_calls";
    pub const CACHE_HIT_RATIO: &str = "sandtrace.cache_hit_ratio";
    pub const RETRIES: &str = "sandtrace.retries";
    pub const TURN: &str = "sandtrace.turn";
    /// `num_turns` of the result: Claude Code's own count of steps, not of user turns.
    pub const TURN_STEPS: &str = "sandtrace.turn.steps";
    /// Milliseconds between the end of the turn before and this one's beginning: how long the session waited for a
    /// person. Absent on the first, and where nothing lies between.
    pub const TURN_GAP_MS: &str = "sandtrace.turn.gap_ms";
    pub const TURN_API_MS: &str = "sandtrace.turn.api_duration_ms";
    pub const TURN_ORIGIN: &str = "sandtrace.turn.origin";
    pub const RESULT_SUBTYPE: &str = "sandtrace.result.subtype";
    pub const TERMINAL_REASON: &str = "sandtrace.result.terminal_reason";
    pub const TURNS: &str = "sandtrace.run.turns";
    pub const CHATS: &str = "sandtrace.run.chats";
    pub const TOOLS: &str = "sandtrace.run.tools";
    pub const SUBAGENTS: &str = "sandtrace.run.subagents";
    pub const PHASE_SPAWN_MS: &str = "sandtrace.phase.spawn_ms";
    pub const PHASE_FIRST_LINE_MS: &str = "sandtrace.phase.first_line_ms";
    pub const PHASE_FIRST_TOKEN_MS: &str = "sandtrace.phase.first_token_ms";
    pub const PHASE_TOOLS_MS: &str = "sandtrace.phase.tools_ms";
    pub const PHASE_RESULT_MS: &str = "sandtrace.phase.result_ms";
    pub const PHASE_EXIT_MS: &str = "sandtrace.phase.exit_ms";
    pub const PEAK_CPU: &str = "sandtrace.peak.cpu_utilization";
    pub const PEAK_MEMORY: &str = "sandtrace.peak.memory_used_bytes";
    /// CPU seconds of the agent and everything it started.
    pub const TREE_CPU_SECONDS: &str = "sandtrace.tree.cpu_seconds";
    /// The most memory that they had resident, bytes, summed over processes.
    pub const TREE_MEMORY_PEAK: &str = "sandtrace.tree.memory_peak_bytes";
    /// The most of them at once.
    pub const TREE_PROCESSES_PEAK: &str = "sandtrace.tree.processes_peak";
    /// The largest process at the peak of memory: the name of its executable.
    pub const LARGEST_PROCESS: &str = "sandtrace.peak.largest_process";
    /// The call whose own processes had the most memory resident.
    pub const LARGEST_TOOL: &str = "sandtrace.peak.largest_tool";
    pub const REQUEST_ID: &str = "sandtrace.request.id";
    /// A line the CLI made up to report an error; there was no answer of the model.
    pub const SYNTHETIC: &str = "sandtrace.synthetic";
    pub const THINKING_CHARS: &str = "sandtrace.thinking.chars";
    pub const TOOL_INPUT_BYTES: &str = "sandtrace.tool.input_bytes";
    pub const TOOL_OUTPUT_BYTES: &str = "sandtrace.tool.output_bytes";
    /// CPU seconds while it ran: see [`TOOL_RESOURCES`].
    pub const TOOL_CPU_SECONDS: &str = "sandtrace.tool.cpu_seconds";
    /// The most memory resident while it ran, bytes.
    pub const TOOL_MEMORY_PEAK: &str = "sandtrace.tool.memory_peak_bytes";
    /// Whose CPU time and memory that is: the tool's own processes', or the whole tree's.
    pub const TOOL_RESOURCES: &str = "sandtrace.tool.resources";
    pub const MCP_SERVER: &str = "sandtrace.mcp.server";
    pub const PARENT_TOOL_CALL_ID: &str = "sandtrace.agent.parent_tool_call_id";
    pub const SUBAGENT_DESCRIPTION: &str = "sandtrace.agent.description";
    pub const SUBAGENT_STATUS: &str = "sandtrace.agent.status";
    pub const SUBAGENT_CONTEXT_TOKENS: &str = "sandtrace.agent.context_tokens";
    pub const APPROVAL_DECISION: &str = "sandtrace.approval.decision";
    pub const APPROVAL_SOURCE: &str = "sandtrace.approval.source";
    pub const APPROVAL_WAIT_MS: &str = "sandtrace.approval.wait_ms";
    pub const APPROVAL_FEEDBACK_CHARS: &str = "sandtrace.approval.feedback_chars";
    /// The words themselves, only where everything is captured.
    pub const APPROVAL_FEEDBACK: &str = "sandtrace.approval.feedback";
    pub const COMPACT_TRIGGER: &str = "sandtrace.compact.trigger";
    pub const COMPACT_PRE_TOKENS: &str = "sandtrace.compact.pre_tokens";
    pub const COMPACT_POST_TOKENS: &str = "sandtrace.compact.post_tokens";
    pub const HOOK_NAME: &str = "sandtrace.hook.name";
    pub const HOOK_EVENT: &str = "sandtrace.hook.event";
    pub const HOOK_EXIT_CODE: &str = "sandtrace.hook.exit_code";
    pub const PROMPT_PREVIEW: &str = "sandtrace.prompt";
    pub const ANSWER_PREVIEW: &str = "sandtrace.answer";
    /// How many secrets were taken out of a span or a log record; absent if none.
    pub const REDACTIONS: &str = "sandtrace.redactions";
    pub const RETRY_ATTEMPT: &str = "sandtrace.retry.attempt";
    pub const RETRY_MAX: &str = "sandtrace.retry.max";
    pub const RETRY_DELAY_MS: &str = "sandtrace.retry.delay_ms";
    pub const HTTP_STATUS: &str = "http.response.status_code";
    pub const RATE_LIMIT_STATUS: &str = "sandtrace.rate_limit.status";
    pub const RATE_LIMIT_TYPE: &str = "sandtrace.rate_limit.type";
    pub const RATE_LIMIT_RESETS_AT: &str = "sandtrace.rate_limit.resets_at";
    pub const RATE_LIMIT_UTILIZATION: &str = "sandtrace.rate_limit.utilization";
    pub const PAUSE_MS: &str = "sandtrace.pause.duration_ms";
    pub const PAUSE_CAUSE: &str = "sandtrace.pause.cause";
    /// All pauses of the run together.
    pub const PHASE_PAUSED_MS: &str = "sandtrace.phase.paused_ms";
    /// The code of a warning.
    pub const WARNING_CODE: &str = "sandtrace.warning.code";
    pub const LOG_IOSTREAM: &str = "log.iostream";
    pub const SILENT_MS: &str = "sandtrace.silent_ms";
    pub const STATE: &str = "sandtrace.state";
    pub const LOOP_TOOL: &str = "sandtrace.loop.tool";
    pub const LOOP_TIMES: &str = "sandtrace.loop.times";
    /// How long the sandbox had left.
    pub const SANDBOX_LEFT_MS: &str = "sandtrace.sandbox.left_ms";

    // Of metrics alone.
    pub const GEN_AI_TOKEN_TYPE: &str = "gen_ai.token.type";
    /// Which kind of span an error closed: the first word of its name.
    pub const SPAN: &str = "sandtrace.span";
    /// Whether cached input was read or written.
    pub const CACHE: &str = "sandtrace.cache";
    pub const MEMORY_STATE: &str = "system.memory.state";
    pub const PAGING_STATE: &str = "system.paging.state";
    pub const FILESYSTEM_STATE: &str = "system.filesystem.state";
    /// What tasks waited for.
    pub const PRESSURE_RESOURCE: &str = "sandtrace.pressure.resource";
    /// Whether some tasks waited, or all that were not idle.
    pub const PRESSURE_SHARE: &str = "sandtrace.pressure.share";
    pub const DESTINATION: &str = "sandtrace.destination";
    pub const SIGNAL: &str = "sandtrace.signal";
}

/// Names of metrics. What each measures, and in which unit, stands where it is made: `telemetry/metrics/instruments.rs`.
pub mod metric {
    pub const TOKEN_USAGE: &str = "gen_ai.client.token.usage";
    pub const OPERATION_DURATION: &str = "gen_ai.client.operation.duration";
    pub const TIME_TO_FIRST_CHUNK: &str = "gen_ai.client.operation.time_to_first_chunk";
    pub const INVOKE_AGENT_DURATION: &str = "gen_ai.invoke_agent.duration";
    pub const EXECUTE_TOOL_DURATION: &str = "gen_ai.execute_tool.duration";
    pub const APPROVAL_DURATION: &str = "sandtrace.approval.duration";
    pub const COST: &str = "sandtrace.cost";
    pub const CACHE_TOKENS: &str = "sandtrace.cache.tokens";
    pub const RUNS: &str = "sandtrace.runs";
    pub const ERRORS: &str = "sandtrace.errors";

    pub const PROCESS_CPU_TIME: &str = "process.cpu.time";
    pub const PROCESS_CPU_UTILIZATION: &str = "process.cpu.utilization";
    pub const PROCESS_MEMORY_USAGE: &str = "process.memory.usage";
    pub const PROCESS_OPEN_FILES: &str = "process.unix.file_descriptor.count";
    pub const TREE_PROCESSES: &str = "sandtrace.tree.processes";
    pub const SYSTEM_CPU_UTILIZATION: &str = "system.cpu.utilization";
    pub const SYSTEM_CPU_COUNT: &str = "system.cpu.logical.count";
    /// No convention has the load; this is the OpenTelemetry Collector's name for it.
    pub const SYSTEM_LOAD: &str = "system.cpu.load_average.1m";
    pub const SYSTEM_MEMORY_USAGE: &str = "system.memory.usage";
    pub const SYSTEM_MEMORY_LIMIT: &str = "system.memory.limit";
    pub const SYSTEM_PAGING_USAGE: &str = "system.paging.usage";
    pub const SYSTEM_FILESYSTEM_USAGE: &str = "system.filesystem.usage";
    pub const CONTAINER_MEMORY_USAGE: &str = "container.memory.usage";
    pub const CONTAINER_MEMORY_AVAILABLE: &str = "container.memory.available";
    pub const STALL_RATIO: &str = "sandtrace.pressure.stall_ratio";
    pub const SANDBOX_OOM_KILLS: &str = "sandtrace.sandbox.oom_kills";
    pub const CGROUP_OOM_KILLS: &str = "sandtrace.cgroup.oom_kills";

    pub const TELEMETRY_EXPORTED: &str = "sandtrace.telemetry.exported";
    pub const TELEMETRY_DROPPED: &str = "sandtrace.telemetry.dropped";
    pub const TELEMETRY_QUEUED: &str = "sandtrace.telemetry.queued";
}

/// Fixed attribute values.
pub mod value {
    pub const ANTHROPIC: &str = "anthropic";
    pub const FUNCTION: &str = "function";
    pub const INPUT: &str = "input";
    pub const OUTPUT: &str = "output";
    pub const CACHE_READ: &str = "read";
    pub const CACHE_CREATION: &str = "creation";
    pub const USED: &str = "used";
    pub const FREE: &str = "free";
    pub const EXTENSION: &str = "extension";
    pub const OWN: &str = "own";
    pub const TREE: &str = "tree";
    /// `error.type` of a tool, by DESIGN §6.
    pub const TOOL_ERROR: &str = "tool_error";
    pub const TOOL_TIMEOUT: &str = "timeout";
    pub const TOOL_OOM: &str = "oom";
    pub const TOOL_NETWORK: &str = "network";
    pub const TOOL_DENIED: &str = "denied";
    /// `error.type` of what the end of the run found open.
    pub const ABANDONED: &str = "abandoned";
    /// `error.type` where nothing more is known, by the OTel conventions.
    pub const OTHER: &str = "_OTHER";
}

#[cfg(test)]
mod tests {
    use sandtrace_client::attribute;

    use super::{key, span};

    #[test]
    fn the_host_reads_attributes_by_the_names_that_we_write() {
        for (theirs, ours) in [
            (attribute::TURN, key::TURN),
            (attribute::TOOL_NAME, key::GEN_AI_TOOL_NAME),
            (attribute::TOOL_CALL_ID, key::GEN_AI_TOOL_CALL_ID),
            (attribute::AGENT_NAME, key::GEN_AI_AGENT_NAME),
            (attribute::PARENT_TOOL_CALL_ID, key::PARENT_TOOL_CALL_ID),
            (attribute::APPROVAL_SOURCE, key::APPROVAL_SOURCE),
            (attribute::INPUT_TOKENS, key::GEN_AI_INPUT_TOKENS),
            (attribute::OUTPUT_TOKENS, key::GEN_AI_OUTPUT_TOKENS),
            (attribute::CACHE_READ_TOKENS, key::GEN_AI_CACHE_READ),
            (attribute::CACHE_CREATION_TOKENS, key::GEN_AI_CACHE_CREATION),
            (attribute::COST_USD, key::COST_USD),
            (attribute::COST_SOURCE, key::COST_SOURCE),
            (attribute::ERROR_TYPE, key::ERROR_TYPE),
            (attribute::BACKGROUND, key::BACKGROUND),
            (attribute::ABANDONED, key::ABANDONED),
            (attribute::span::RUN, span::RUN),
            (attribute::span::INVOKE_AGENT, span::INVOKE_AGENT),
            (attribute::span::CHAT, span::CHAT),
            (attribute::span::EXECUTE_TOOL, span::EXECUTE_TOOL),
            (attribute::span::APPROVAL, span::APPROVAL),
        ] {
            assert_eq!(theirs, ours);
        }
    }
}
