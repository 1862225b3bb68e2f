//! Names of what the host itself records. Those of the supervisor are its own; where both say the same thing, they say it
//! with the same word.

/// Span names.
pub mod span {
    /// A sandbox is made.
    pub const SANDBOX_CREATE: &str = "sandbox.create";
    /// A sandbox is ended.
    pub const SANDBOX_KILL: &str = "sandbox.kill";
}

/// Attribute keys.
pub mod key {
    /// What went wrong, in one word of few.
    pub const ERROR_TYPE: &str = "error.type";
    /// The sandbox.
    pub const SANDBOX_ID: &str = "sandbox.id";
    /// What it was made from.
    pub const SANDBOX_TEMPLATE_ID: &str = "sandbox.template.id";
    /// The run.
    pub const RUN_ID: &str = "sandtrace.run.id";
    /// A span that nobody was there to end.
    pub const ABANDONED: &str = "sandtrace.abandoned";
    /// How the run ended, in one word.
    pub const OUTCOME: &str = "sandtrace.outcome";
    /// The failure's class.
    pub const FAILURE_CLASS: &str = "sandtrace.failure.class";
    /// The failure's reason within its class.
    pub const FAILURE_REASON: &str = "sandtrace.failure.reason";
    /// How far its evidence carries, 0 to 1.
    pub const FAILURE_CONFIDENCE: &str = "sandtrace.failure.confidence";
    /// The facts that it rests on.
    pub const FAILURE_EVIDENCE: &str = "sandtrace.failure.evidence";
    /// A line's type: the supervisor's, or `agent`.
    pub const EVENT_TYPE: &str = "sandtrace.event.type";
}

/// Metric names; units are in the table of the module.
pub mod metric {
    /// How long it takes to make a sandbox.
    pub const SANDBOX_CREATE_DURATION: &str = "sandtrace.sandbox.create.duration";
    /// Sandboxes that there are.
    pub const SANDBOX_ACTIVE: &str = "sandtrace.sandbox.active";
    /// Events that the application was given.
    pub const EVENTS_SENT: &str = "sandtrace.events.sent";
}

/// `error.type` of a span that was open when the run ended: the supervisor's word.
pub(super) const ABANDONED: &str = "abandoned";
/// `error.type` where nothing more is known, by OpenTelemetry's conventions.
pub(super) const OTHER: &str = "_OTHER";
