//! The lines a supervised run prints, one JSON object each.
//!
//! A line of the agent keeps the agent's own bytes and gains one last member, `sandtrace` (a [`Stamp`]). A line of the
//! supervisor has the shape `{"type":"sandtrace.…","data":{…},"sandtrace":{…}}` and is one variant of [`Body`].
//!
//! The wire is versioned by [`WIRE_VERSION`] and grows only by addition: a reader passes over types and members that it
//! does not know.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::failure::Failure;

/// The version of the wire that this crate describes, `wire` in [`RunStarted`].
pub const WIRE_VERSION: u32 = 1;

/// Where a line stands in the run: appended to every line as the member `sandtrace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Stamp {
    /// Starts at 1, has no gaps, and is the journal's key.
    pub seq: u64,
    /// When the supervisor admitted the line: RFC 3339, UTC, microseconds.
    pub time: String,
    /// 32 lower-case hex digits.
    pub trace_id: String,
    /// 16 lower-case hex digits: the innermost span the line belongs to, else the run's.
    pub span_id: String,
}

/// A line of the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", content = "data")]
#[non_exhaustive]
pub enum Body {
    /// The first line.
    #[serde(rename = "sandtrace.run.started")]
    RunStarted(Box<RunStarted>),
    /// A span opened; stands before the line that caused it.
    #[serde(rename = "sandtrace.span.started")]
    SpanStarted(Box<SpanStarted>),
    /// A span closed; stands after the line that caused it.
    #[serde(rename = "sandtrace.span.ended")]
    SpanEnded(Box<SpanEnded>),
    /// What the sandbox and the agent's process tree use.
    #[serde(rename = "sandtrace.resources")]
    Resources(Box<Resources>),
    /// Output that cannot be passed on as a line of the agent's own.
    #[serde(rename = "sandtrace.output")]
    Output(Output),
    /// The agent is gone: the verdict, before the flush.
    #[serde(rename = "sandtrace.agent.exited")]
    AgentExited(Box<AgentExited>),
    /// Nothing else was printed for 20 seconds.
    #[serde(rename = "sandtrace.heartbeat")]
    Heartbeat(Heartbeat),
    /// Something was dropped, paused or degraded.
    #[serde(rename = "sandtrace.warning")]
    Warning(Warning),
    /// An OTLP request that the sandbox could not send itself: destination `host`.
    #[serde(rename = "sandtrace.otlp")]
    Otlp(Otlp),
    /// The last line, always.
    #[serde(rename = "sandtrace.run.finished")]
    RunFinished(Box<RunFinished>),
}

impl Body {
    /// The line's `type`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RunStarted(_) => "sandtrace.run.started",
            Self::SpanStarted(_) => "sandtrace.span.started",
            Self::SpanEnded(_) => "sandtrace.span.ended",
            Self::Resources(_) => "sandtrace.resources",
            Self::Output(_) => "sandtrace.output",
            Self::AgentExited(_) => "sandtrace.agent.exited",
            Self::Heartbeat(_) => "sandtrace.heartbeat",
            Self::Warning(_) => "sandtrace.warning",
            Self::Otlp(_) => "sandtrace.otlp",
            Self::RunFinished(_) => "sandtrace.run.finished",
        }
    }
}

/// `sandtrace.run.started`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct RunStarted {
    /// [`WIRE_VERSION`] of the supervisor.
    pub wire: u32,
    /// The run's id, `[A-Za-z0-9._-]{1,64}`.
    pub run_id: String,
    /// The agent's process id; `null` if the spawn failed.
    pub pid: Option<u32>,
    /// The executable's file name, never its arguments: they hold the prompt.
    pub executable: String,
    /// 32 hex digits.
    pub trace_id: String,
    /// The span `agent.run`, 16 hex digits.
    pub root_span_id: String,
    /// The caller's span, when TRACEPARENT named one.
    pub parent_span_id: Option<String>,
    /// Versions of the parts.
    pub versions: Versions,
    /// The run's journal directory, `null` with `--journal off`.
    pub journal: Option<String>,
    /// The limits in force.
    pub limits: Limits,
    /// What this sandbox allows the supervisor to do.
    pub abilities: Map<String, Value>,
    /// The run that this one was copied from in flight. Only in a second line of this type: its sandbox was forked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<ForkedFrom>,
}

/// A run that goes on elsewhere, in the sandbox that ours was copied from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct ForkedFrom {
    /// Its run id.
    pub run_id: String,
    /// 32 hex digits.
    pub trace_id: String,
    /// Its span `agent.run`, to which the new one's is linked.
    pub root_span_id: String,
    /// Its sandbox.
    pub sandbox_id: Option<String>,
}

/// Versions of the parts of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Versions {
    /// The supervisor's version.
    pub sandtrace: String,
}

/// The limits in force, so that a reader need not guess them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Limits {
    /// A longer line is passed on in fragments.
    pub line_bytes: u64,
    /// Milliseconds; `null` for none.
    pub deadline_ms: Option<u64>,
    /// Milliseconds; `null` for none.
    pub idle_timeout_ms: Option<u64>,
    /// When the sandbox ends as far as the supervisor was told, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_ends_at: Option<String>,
    /// Milliseconds from TERM to KILL.
    pub grace_ms: u64,
    /// Milliseconds for the final export.
    pub flush_timeout_ms: u64,
    /// Bytes of one run's journal.
    pub journal_bytes: u64,
}

/// `sandtrace.span.started`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct SpanStarted {
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits; `null` only for a run without a caller.
    pub parent_span_id: Option<String>,
    /// The span's name, for instance `execute_tool Bash`.
    pub name: String,
    /// `internal` or `client`.
    pub kind: String,
    /// When the span started, RFC 3339; it may lie before the line that revealed it.
    pub start_time: String,
    /// The attributes known at the start.
    pub attributes: Map<String, Value>,
}

/// `sandtrace.span.ended`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct SpanEnded {
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits; `null` only for a run without a caller.
    pub parent_span_id: Option<String>,
    /// The span's final name.
    pub name: String,
    /// `unset`, `ok` or `error`.
    pub status: String,
    /// The status message, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Milliseconds, with fractions.
    pub duration_ms: f64,
    /// The attributes at the end.
    pub attributes: Map<String, Value>,
}

/// `sandtrace.resources`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Resources {
    /// The whole sandbox.
    pub sandbox: SandboxResources,
    /// The agent and everything it started; `null` where processes cannot be seen.
    #[serde(default)]
    pub tree: Option<TreeResources>,
    /// The memory cgroup that the agent is charged to; `null` without one.
    #[serde(default)]
    pub cgroup: Option<CgroupResources>,
}

/// What the whole sandbox uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct SandboxResources {
    /// CPU in use since the last sample, as a fraction of all CPUs (0 to 1).
    pub cpu_utilization: f64,
    /// Number of logical CPUs.
    pub cpus: u64,
    /// Bytes.
    pub memory_total_bytes: u64,
    /// Bytes in use: total less available.
    pub memory_used_bytes: u64,
    /// Bytes of swap in use.
    pub swap_used_bytes: u64,
    /// Bytes of swap there are.
    #[serde(default)]
    pub swap_total_bytes: u64,
    /// The load average over one minute.
    pub load_1m: f64,
    /// Bytes that an ordinary user may still write where the agent works; `null` if the file system does not tell.
    #[serde(default)]
    pub disk_free_bytes: Option<u64>,
    /// Share of time stalled for lack of a resource; `null` where the kernel does not tell (no PSI).
    #[serde(default)]
    pub pressure: Option<Pressure>,
    /// Processes that the kernel killed for memory since boot, in the whole sandbox (`oom_kill` of /proc/vmstat).
    #[serde(default)]
    pub oom_kills: Option<u64>,
}

/// Pressure stall information over the last ten seconds, in percent (0 to 100).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Pressure {
    /// Some task waited for a CPU.
    pub cpu_some: f64,
    /// Some task waited for memory.
    pub memory_some: f64,
    /// All tasks that were not idle waited for memory.
    pub memory_full: f64,
    /// Some task waited for I/O.
    pub io_some: f64,
    /// All tasks that were not idle waited for I/O.
    pub io_full: f64,
}

/// What the agent and everything it started use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct TreeResources {
    /// Living processes.
    pub processes: u64,
    /// CPU seconds since the start of the run, of the dead too.
    pub cpu_seconds: f64,
    /// CPU in use since the last sample, in CPUs (1.0 is one core).
    pub cpu_used: f64,
    /// Resident bytes, summed over processes: memory that they share counts for each.
    pub rss_bytes: u64,
    /// Proportional share of memory, bytes; only at the end of a tool, for it is dear to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pss_bytes: Option<u64>,
    /// Open files; `null` where they cannot be counted.
    #[serde(default)]
    pub open_files: Option<u64>,
}

/// The memory cgroup that the agent is charged to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct CgroupResources {
    /// Bytes charged.
    pub memory_used_bytes: u64,
    /// The lowest limit that applies, bytes; `null` for none.
    #[serde(default)]
    pub memory_limit_bytes: Option<u64>,
    /// Processes in it that the kernel killed for memory, since it was made.
    #[serde(default)]
    pub oom_kills: Option<u64>,
}

/// Which stream an output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A word of a newer supervisor.
    #[cfg_attr(feature = "schema", schemars(skip))]
    #[serde(other)]
    Unknown,
}

/// `sandtrace.output`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Output {
    /// Where it was written.
    pub stream: Stream,
    /// The bytes, when they are UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes in base64, when they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// Whether a newline followed.
    pub newline: bool,
    /// Set when a line came in fragments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// One fragment of a long line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Part {
    /// Counts from 0.
    pub index: u64,
    /// Whether this fragment ends the line.
    pub last: bool,
}

/// How the run ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Outcome {
    /// The agent did what it was asked.
    Success,
    /// It did not.
    Failure,
    /// Somebody stopped it on purpose.
    Cancelled,
    /// A word of a newer supervisor.
    #[cfg_attr(feature = "schema", schemars(skip))]
    #[serde(other)]
    Unknown,
}

impl Outcome {
    /// The word on the wire and in `sandtrace.outcome`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

/// The agent's wait status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Exit {
    /// The agent's exit code, when it exited.
    pub code: Option<i32>,
    /// The signal's name, for instance `SIGKILL`, when one ended it.
    pub signal: Option<String>,
    /// Whether a core was dumped.
    pub core_dumped: bool,
    /// The code the supervisor itself exits with.
    pub reported_code: u8,
}

/// `sandtrace.agent.exited`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct AgentExited {
    /// How it ended.
    pub outcome: Outcome,
    /// Why, when it did not succeed.
    pub failure: Option<Failure>,
    /// The wait status; `null` if it never ran.
    pub exit: Option<Exit>,
}

/// `sandtrace.heartbeat`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Heartbeat {
    /// Milliseconds since the supervisor started.
    pub uptime_ms: u64,
    /// What the run is doing: `starting`, `waiting_for_model`, `in_tool`, `waiting_for_approval`, `between_turns`, `stopping`.
    pub state: String,
}

/// `sandtrace.warning`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Warning {
    /// A stable word, for instance `traceparent_invalid`.
    pub code: String,
    /// One sentence for a person.
    pub message: String,
    /// How much was concerned, by name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub counts: Map<String, Value>,
}

/// Token counts of the whole run. Input is fresh + cache read + cache write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Usage {
    /// All input tokens, cached ones included.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// The part of the input that was read from the cache.
    pub cache_read_input_tokens: u64,
    /// The part of the input that was written to the cache.
    pub cache_creation_input_tokens: u64,
    /// Calls whose output tokens are unknown, because the run ended before the agent told them: where this is not 0,
    /// `output_tokens` is a lower bound.
    #[serde(default)]
    pub incomplete_calls: u64,
}

/// A cost and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Cost {
    /// US dollars.
    pub usd: f64,
    /// `agent` (reported by Claude Code), `table@DATE` (our price table), or `agent+table@DATE`; with `+incomplete` where
    /// calls were made whose cost nobody knows.
    pub source: String,
}

/// When things happened, in milliseconds since the supervisor started. `null`: it never happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Phases {
    /// The agent was executed.
    pub spawn_ms: Option<f64>,
    /// Its first line.
    pub first_line_ms: Option<f64>,
    /// The model's first token.
    pub first_token_ms: Option<f64>,
    /// Time during which at least one tool ran (a length, not a moment).
    pub tools_ms: Option<f64>,
    /// The last result.
    pub result_ms: Option<f64>,
    /// The agent's exit.
    pub exit_ms: Option<f64>,
    /// Time in which the whole run stood still, which is in none of the others (a length, not a moment).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_ms: Option<f64>,
}

/// What became of the telemetry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Telemetry {
    /// Spans finished.
    pub spans: u64,
    /// Spans that never reached the exporter, with a warning each time.
    pub spans_dropped: u64,
    /// By destination.
    pub destinations: Vec<DestinationCounts>,
}

/// What became of the spans at one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct DestinationCounts {
    /// The destination's name, for instance `otlp`.
    pub name: String,
    /// Spans the destination acknowledged.
    pub exported: u64,
    /// Spans it refused, or that were given up.
    pub dropped: u64,
    /// Spans still waiting when the flush ended.
    pub queued: u64,
    /// Of these, spans that wait on disk, for the next run or `sandtrace doctor --resend`.
    #[serde(default)]
    pub spooled: u64,
    /// Spans that sampling kept back.
    #[serde(default)]
    pub not_sampled: u64,
    /// Requests that earlier runs had left and that were delivered now.
    #[serde(default)]
    pub resent: u64,
    /// What became of the data points of metrics; `null` where none are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SignalCounts>,
    /// What became of the log records; `null` where none are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<SignalCounts>,
    /// The last error, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// What became of one signal's items at one destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct SignalCounts {
    /// Acknowledged.
    pub exported: u64,
    /// Refused, given up, or without room.
    pub dropped: u64,
    /// Still waiting when the flush ended.
    pub queued: u64,
}

/// A process that the agent left running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Survivor {
    /// Its process id.
    pub pid: u32,
    /// Its command name (`comm`), never its arguments.
    pub command: String,
    /// Whether the supervisor ended it.
    pub killed: bool,
}

/// Counts of the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Counts {
    /// User turns.
    pub turns: u64,
    /// LLM calls seen.
    pub chats: u64,
    /// Tool calls seen.
    pub tools: u64,
    /// Subagents seen.
    pub subagents: u64,
    /// Retries of API requests.
    pub retries: u64,
    /// Lines on stdout that were agent events.
    pub events: u64,
    /// Lines on stdout that were JSON of an unknown shape.
    pub unrecognised: u64,
}

/// `sandtrace.otlp`: an OTLP/JSON request for the host to export, to `/v1/{signal}` of whatever takes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Otlp {
    /// `traces`, `metrics` or `logs`.
    pub signal: String,
    /// The request: `ExportTraceServiceRequest` and its likes, in OTLP's JSON.
    pub request: Value,
}

/// `sandtrace.run.finished`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct RunFinished {
    /// How it ended.
    pub outcome: Outcome,
    /// Why, when it did not succeed.
    pub failure: Option<Failure>,
    /// The wait status; `null` if it never ran.
    pub exit: Option<Exit>,
    /// Milliseconds from start to the agent's end.
    pub duration_ms: f64,
    /// Tokens of the whole run.
    pub usage: Usage,
    /// Cost of the whole run; `null` when it cannot be known.
    pub cost: Option<Cost>,
    /// Cache reads as a share of all input tokens; `null` without input.
    pub cache_hit_ratio: Option<f64>,
    /// When things happened.
    pub phases: Phases,
    /// Counts of the run.
    pub counts: Counts,
    /// Peaks of the run; `null` when nothing was sampled.
    pub resources: Option<ResourcePeaks>,
    /// What became of the telemetry.
    pub telemetry: Telemetry,
    /// What the agent left running.
    pub survivors: Vec<Survivor>,
}

/// Peaks and totals of the run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct ResourcePeaks {
    /// Samples taken.
    pub samples: u64,
    /// The highest fraction of all CPUs in use.
    pub cpu_utilization_max: f64,
    /// The most memory in use in the sandbox, bytes.
    pub memory_used_bytes_max: u64,
    /// CPU seconds of the agent and everything it started.
    #[serde(default)]
    pub tree_cpu_seconds: f64,
    /// The most memory they had resident, bytes, summed over processes.
    #[serde(default)]
    pub tree_rss_bytes_max: u64,
    /// The most processes at once.
    #[serde(default)]
    pub tree_processes_max: u64,
    /// The largest process when they had the most memory resident; `null` where processes cannot be seen.
    #[serde(default)]
    pub largest_process: Option<LargestProcess>,
    /// The tool whose own processes had the most memory resident; `null` where no tool's can be told apart.
    #[serde(default)]
    pub largest_tool: Option<LargestTool>,
}

/// The process that had the most memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct LargestProcess {
    /// The file name of its executable, else its command name; never its arguments.
    pub command: String,
    /// Bytes resident.
    pub rss_bytes: u64,
}

/// The tool call that had the most memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct LargestTool {
    /// The call's id.
    pub tool_use_id: String,
    /// The tool's name, for instance `Bash`.
    pub name: String,
    /// Bytes resident at its peak, summed over its own processes.
    pub memory_peak_bytes: u64,
}
