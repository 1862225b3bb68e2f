//! What the agent said, freed of the dialect it said it in.
//!
//! Text is borrowed from the line wherever the JSON allows it. Names are those of Claude Code's own stream
//! (`reference/agent-streams.md` §3); a dialect that drops a field leaves it `None`.

use std::borrow::Cow;

/// Text that is borrowed from the line unless JSON escapes force a copy.
pub type Text<'a> = Cow<'a, str>;

/// One event of the agent's stream.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentEvent<'a> {
    /// `system/init`: a user turn starts (it repeats with every turn).
    Init(Init<'a>),
    /// A line of an assistant message; one API response has one line per content block.
    Assistant(Assistant<'a>),
    /// A user message: tool results, a subagent's prompt, a nudge by the CLI.
    User(User<'a>),
    /// A raw API event (partial messages on).
    Stream(StreamEvent<'a>),
    /// `result`: the turn is over.
    Result(Box<ResultMessage<'a>>),
    /// `system/status`.
    Status(Status<'a>),
    /// `system/compact_boundary`.
    CompactBoundary(CompactBoundary<'a>),
    /// `system/api_retry`, or a subagent's retry inside `tool_progress`.
    ApiRetry(ApiRetry<'a>),
    /// `system/session_state_changed`.
    SessionState(SessionState),
    /// `system/task_started`.
    TaskStarted(TaskStarted<'a>),
    /// `system/task_updated` with a final status, or `system/task_notification`.
    TaskEnded(TaskEnded<'a>),
    /// `system/hook_started`.
    HookStarted(Hook<'a>),
    /// `system/hook_response`.
    HookResponse(Hook<'a>),
    /// `system/permission_denied`.
    PermissionDenied { tool_use_id: Text<'a> },
    /// A tool waits for a human: agent.py's `approval_request`, or the wire's `control_request` / `can_use_tool`.
    ApprovalRequest(ApprovalRequest<'a>),
    /// The human's answer: agent.py's `approval_decision`, or the wire's `control_response`.
    ApprovalDecision(ApprovalDecision<'a>),
    /// `rate_limit_event`.
    RateLimit(RateLimit<'a>),
    /// The boilerplate's `start`: a turn without a session.
    Start { prompt: Option<Text<'a>> },
    /// The boilerplate's or an agent's own `error` event.
    Error { message: Text<'a> },
    /// The boilerplate's `complete`: says whether the script thinks it succeeded.
    Complete { success: bool },
    /// A known type that changes no span: `thinking_tokens`, `task_progress`, a heartbeat, `informational`, …
    Note {
        kind: Text<'a>,
        /// The call it speaks of.
        tool_use_id: Option<Text<'a>>,
    },
}

/// See [`AgentEvent::Init`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Init<'a> {
    pub session_id: Option<Text<'a>>,
    pub model: Option<Text<'a>>,
    pub claude_code_version: Option<Text<'a>>,
    pub permission_mode: Option<Text<'a>>,
    /// Names of MCP servers whose status is `failed`.
    pub failed_mcp_servers: Vec<Text<'a>>,
}

/// See [`AgentEvent::Assistant`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Assistant<'a> {
    /// `message.id`; absent in the boilerplate's dialect.
    pub message_id: Option<Text<'a>>,
    /// `<synthetic>` on lines the CLI makes up to report an error.
    pub model: Option<Text<'a>>,
    /// The Agent tool call this lane belongs to; `None` is the main thread.
    pub parent_tool_use_id: Option<Text<'a>>,
    pub blocks: Vec<Block<'a>>,
    /// The `message_start` snapshot: its `output_tokens` is a placeholder unless `stop_reason` is set.
    pub usage: Option<Usage>,
    pub stop_reason: Option<Text<'a>>,
    pub session_id: Option<Text<'a>>,
    pub request_id: Option<Text<'a>>,
    /// The CLI's own class of an API error, for instance `authentication_failed`.
    pub error: Option<Text<'a>>,
    /// For instance `connection_failed`, `tls_untrusted_ca` (CLI wire only).
    pub api_error: Option<Text<'a>>,
    /// The API's error type, for instance `billing_error` (CLI wire only).
    pub api_error_type: Option<Text<'a>>,
    pub api_error_status: Option<u16>,
}

/// A content block of an assistant message.
#[derive(Debug, Clone, PartialEq)]
pub enum Block<'a> {
    Text(Text<'a>),
    Thinking {
        chars: usize,
        /// The text as the JSON string it stands in, `""` if there is none.
        json: &'a str,
    },
    ToolUse(ToolUse<'a>),
    /// `redacted_thinking`, `server_tool_use`, `web_search_tool_result`, tomorrow's kinds.
    Other {
        kind: Text<'a>,
    },
}

/// A call of a tool.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ToolUse<'a> {
    pub id: Text<'a>,
    pub name: Text<'a>,
    /// The raw JSON of `input`, `""` if there is none.
    pub input: &'a str,
    /// `input.subagent_type`, where the tool starts a subagent.
    pub subagent_type: Option<Text<'a>>,
    /// `input.description`.
    pub description: Option<Text<'a>>,
}

/// See [`AgentEvent::User`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct User<'a> {
    pub parent_tool_use_id: Option<Text<'a>>,
    pub results: Vec<ToolResult<'a>>,
    /// The text blocks (or the plain string content), joined only if there is one: the first.
    pub text: Option<Text<'a>>,
    /// A nudge that the CLI wrote itself.
    pub synthetic: bool,
    /// "[Request interrupted by user…]".
    pub interrupted: bool,
    pub session_id: Option<Text<'a>>,
}

/// What a tool returned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ToolResult<'a> {
    pub tool_use_id: Text<'a>,
    pub is_error: bool,
    /// The first 400 characters of the text, enough to classify a failure.
    pub text: Text<'a>,
    /// The raw JSON of `content`, `""` if there is none.
    pub content: &'a str,
    /// `tool_result_meta[].permission_decision` (CLI wire only).
    pub decision: Option<Decision>,
    /// `permission_decision.source`, for instance `config`, `user_temporary`, `hook`.
    pub decision_source: Option<Text<'a>>,
    /// `tool_use_result.backgroundTaskId` or `isAsync`: the call returned, its work goes on.
    pub background: bool,
    /// `tool_use_result.interrupted`.
    pub interrupted: bool,
}

/// A permission decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
}

/// Token counts as the API reports them; `input_tokens` excludes the cached ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cache_read_input_tokens: u64,
    pub cache_creation_input_tokens: u64,
    /// The part of the cache write with a five-minute life, where reported.
    pub cache_creation_5m: Option<u64>,
    /// The part of the cache write with a one-hour life, where reported.
    pub cache_creation_1h: Option<u64>,
}

/// See [`AgentEvent::Stream`].
#[derive(Debug, Clone, PartialEq)]
pub struct StreamEvent<'a> {
    pub parent_tool_use_id: Option<Text<'a>>,
    pub kind: StreamKind<'a>,
}

/// The raw API events that matter.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamKind<'a> {
    MessageStart {
        message_id: Text<'a>,
        model: Option<Text<'a>>,
        usage: Option<Usage>,
    },
    /// A first token: `content_block_start` or a delta.
    Content,
    /// Cumulative and true.
    MessageDelta {
        stop_reason: Option<Text<'a>>,
        usage: Option<Usage>,
    },
    MessageStop,
    /// `ping`, `content_block_stop`, tomorrow's kinds.
    Other,
}

/// See [`AgentEvent::Result`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResultMessage<'a> {
    /// `success` even after a fatal API error: never use it alone.
    pub subtype: Text<'a>,
    pub is_error: bool,
    pub api_error_status: Option<u16>,
    pub terminal_reason: Option<Text<'a>>,
    pub stop_reason: Option<Text<'a>>,
    pub num_turns: Option<u64>,
    pub duration_ms: Option<u64>,
    pub duration_api_ms: Option<u64>,
    /// The answer, or the text of the error.
    pub result: Option<Text<'a>>,
    pub errors: Vec<Text<'a>>,
    /// Cumulative over the session, subagents included.
    pub total_cost_usd: Option<f64>,
    /// The main thread of this turn only.
    pub usage: Option<Usage>,
    /// Per model, cumulative over the session, subagents included.
    pub model_usage: Vec<ModelUsage<'a>>,
    /// Per model, this result only (CLI wire only); empty where absent.
    pub model_usage_delta: Vec<ModelUsage<'a>>,
    /// `permission_denials[].tool_use_id`.
    pub permission_denials: Vec<Text<'a>>,
    pub session_id: Option<Text<'a>>,
    /// `origin.kind`, for instance `task-notification`.
    pub origin: Option<Text<'a>>,
    /// Subagents that were spawned, `subagent_stats.spawned` (CLI wire only).
    pub subagents_spawned: Option<u64>,
}

/// One model's share of a session.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelUsage<'a> {
    pub model: Text<'a>,
    pub usage: Usage,
    pub cost_usd: Option<f64>,
}

/// See [`AgentEvent::Status`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status<'a> {
    /// `requesting`, `compacting`; `None` clears.
    pub status: Option<Text<'a>>,
    pub compact_result: Option<Text<'a>>,
    pub compact_error: Option<Text<'a>>,
    pub uuid: Option<Text<'a>>,
}

/// See [`AgentEvent::CompactBoundary`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CompactBoundary<'a> {
    pub uuid: Option<Text<'a>>,
    /// `auto` or `manual`.
    pub trigger: Option<Text<'a>>,
    pub pre_tokens: Option<u64>,
    pub post_tokens: Option<u64>,
    pub duration_ms: Option<u64>,
}

/// See [`AgentEvent::ApiRetry`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ApiRetry<'a> {
    /// The Agent tool call, for a subagent's retry.
    pub parent_tool_use_id: Option<Text<'a>>,
    pub attempt: Option<u64>,
    pub max_retries: Option<u64>,
    pub retry_delay_ms: Option<f64>,
    /// HTTP status; `None` for a failed connection.
    pub error_status: Option<u16>,
    pub error: Option<Text<'a>>,
    /// There was no answer at all within the CLI's time limit.
    pub no_response: Option<NoResponse>,
}

/// See [`ApiRetry::no_response`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoResponse {
    /// How long the CLI had waited.
    pub waited_ms: Option<u64>,
}

/// See [`AgentEvent::SessionState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    Running,
    RequiresAction,
    Idle,
    Other,
}

/// See [`AgentEvent::TaskStarted`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskStarted<'a> {
    pub task_id: Text<'a>,
    pub tool_use_id: Option<Text<'a>>,
    pub description: Option<Text<'a>>,
    pub subagent_type: Option<Text<'a>>,
    /// `local_agent` or `local_bash`.
    pub task_type: Option<Text<'a>>,
    pub is_backgrounded: bool,
}

/// See [`AgentEvent::TaskEnded`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskEnded<'a> {
    pub task_id: Text<'a>,
    /// Absent on `task_updated`.
    pub tool_use_id: Option<Text<'a>>,
    /// `completed`, `failed`, `killed`, `stopped`.
    pub status: Text<'a>,
    /// `usage.total_tokens`: the last context's size, not a sum.
    pub total_tokens: Option<u64>,
}

/// See [`AgentEvent::HookStarted`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hook<'a> {
    pub hook_id: Text<'a>,
    /// For instance `PreToolUse:Bash`.
    pub hook_name: Option<Text<'a>>,
    pub hook_event: Option<Text<'a>>,
    pub session_id: Option<Text<'a>>,
    pub exit_code: Option<i64>,
    pub outcome: Option<Text<'a>>,
}

/// See [`AgentEvent::ApprovalRequest`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ApprovalRequest<'a> {
    /// Joins request and decision.
    pub id: Text<'a>,
    pub tool_use_id: Option<Text<'a>>,
    pub tool_name: Option<Text<'a>>,
}

/// See [`AgentEvent::ApprovalDecision`].
#[derive(Debug, Clone, PartialEq)]
pub struct ApprovalDecision<'a> {
    pub id: Text<'a>,
    pub decision: Decision,
    /// Who decided, where the agent says.
    pub by: Option<Text<'a>>,
    /// The human's words.
    pub reason: Option<Text<'a>>,
}

/// See [`AgentEvent::RateLimit`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RateLimit<'a> {
    /// `allowed`, `allowed_warning`, `rejected`.
    pub status: Text<'a>,
    pub rate_limit_type: Option<Text<'a>>,
    /// Epoch seconds.
    pub resets_at: Option<u64>,
    pub utilization: Option<f64>,
}
