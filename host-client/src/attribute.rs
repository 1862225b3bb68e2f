//! Names of attributes and spans that a host reads from [`SpanStarted`](crate::wire::SpanStarted) and
//! [`SpanEnded`](crate::wire::SpanEnded). There are more; DESIGN §5 has the table.

/// On each user turn: its ordinal, from 1.
pub const TURN: &str = "sandtrace.turn";
/// On tools: the tool's name.
pub const TOOL_NAME: &str = "gen_ai.tool.name";
/// On tools: Claude's id of the call.
pub const TOOL_CALL_ID: &str = "gen_ai.tool.call.id";
/// On turns and subagents, and on what they do: whose it is.
pub const AGENT_NAME: &str = "gen_ai.agent.name";
/// On subagents: the call that started it.
pub const PARENT_TOOL_CALL_ID: &str = "sandtrace.agent.parent_tool_call_id";
/// On approvals: `agent` (asked by lines of the agent's), or `session_state` (seen from outside).
pub const APPROVAL_SOURCE: &str = "sandtrace.approval.source";
/// On model calls: all input tokens, cached ones included.
pub const INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
/// On model calls: output tokens; absent while nobody knows.
pub const OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
/// On model calls: the part of the input that was read from the cache.
pub const CACHE_READ_TOKENS: &str = "gen_ai.usage.cache_read.input_tokens";
/// On model calls: the part of the input that was written to the cache.
pub const CACHE_CREATION_TOKENS: &str = "gen_ai.usage.cache_creation.input_tokens";
/// On turns and model calls: US dollars.
pub const COST_USD: &str = "sandtrace.cost.usd";
/// Where the cost comes from.
pub const COST_SOURCE: &str = "sandtrace.cost.source";
/// On what failed: its class, for instance `tool_error`, `api.overloaded`.
pub const ERROR_TYPE: &str = "error.type";
/// On what goes on without its parent waiting for it.
pub const BACKGROUND: &str = "sandtrace.background";
/// On what the end of the run found open.
pub const ABANDONED: &str = "sandtrace.abandoned";

/// The first words of spans' names.
pub mod span {
    /// The whole run.
    pub const RUN: &str = "agent.run";
    /// A user turn, or a subagent.
    pub const INVOKE_AGENT: &str = "invoke_agent";
    /// A call of the model.
    pub const CHAT: &str = "chat";
    /// A tool.
    pub const EXECUTE_TOOL: &str = "execute_tool";
    /// A person is asked.
    pub const APPROVAL: &str = "approval";
}
