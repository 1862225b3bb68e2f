//! What a session must know before it begins.

use std::time::Duration;

use super::{Attribute, ProbePolicy, SurvivorPolicy, TraceContext};
use crate::time::UnixNanos;

/// How much of prompts and answers goes onto spans.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Capture {
    None,
    /// The first 100 characters of prompts and answers; never file contents or tool output.
    #[default]
    Preview,
    /// Prompts, answers and tool arguments, up to 32 Ki characters each.
    Full,
}

impl Capture {
    /// Clips a text to what may be kept of it.
    pub(super) fn clip(self, text: &str) -> Option<String> {
        let limit = match self {
            Self::None => return None,
            Self::Preview => 100,
            Self::Full => 32 * 1024,
        };
        let end = text
            .char_indices()
            .nth(limit)
            .map_or(text.len(), |(end, _)| end);
        (!text.is_empty()).then(|| text[..end].to_owned())
    }
}

/// What a session must know before the first input.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    pub run_id: String,
    pub context: TraceContext,
    pub agent_name: String,
    /// Overrides the agent's own session id on spans.
    pub session_id: Option<String>,
    pub user_id: Option<String>,
    /// On every span.
    pub attributes: Vec<Attribute>,
    pub capture: Capture,
    pub deadline: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    /// When the sandbox ends, unless its host extends it.
    pub sandbox_ends_at: Option<UnixNanos>,
    pub grace: Duration,
    pub survivors: Option<SurvivorPolicy>,
    pub probe: ProbePolicy,
    /// The executable's file name.
    pub executable: String,
    /// The command says that it goes on with an earlier session, whose cost is not this run's.
    pub resumed: bool,
}
