//! Values of options.

use std::time::Duration;

/// What is on the supervisor's stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Echo {
    /// The agent's lines and the supervisor's own: what this crate reads. The supervisor's default.
    Enriched,
    /// The agent's own bytes, nothing else.
    Raw,
    /// Nothing.
    None,
}

impl Echo {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Enriched => "enriched",
            Self::Raw => "raw",
            Self::None => "none",
        }
    }
}

/// How much of what was said goes into spans and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capture {
    /// Nothing.
    None,
    /// The first 100 characters of prompts and answers. The supervisor's default.
    Preview,
    /// Everything, tools' arguments and results too.
    Full,
}

impl Capture {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Preview => "preview",
            Self::Full => "full",
        }
    }
}

/// What becomes of processes that the agent leaves running. The supervisor's default: they stay after the agent's own
/// exit, for a development server is meant to, and are killed after a signal or a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Survivors {
    /// They stay.
    Leave,
    /// They are killed.
    Kill,
}

impl Survivors {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::Kill => "kill",
        }
    }
}

/// The longest that the supervisor takes: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A length of time as the supervisor reads it: whole seconds, or milliseconds. Less than one is one.
pub(super) fn length(length: Duration) -> String {
    let length = length.min(LONGEST);
    if length.subsec_nanos() == 0 {
        format!("{}s", length.as_secs())
    } else {
        format!("{}ms", length.as_millis().max(1))
    }
}

/// A limit that may be none.
pub(super) fn limit(limit: Option<Duration>) -> String {
    limit.map_or_else(|| "off".to_owned(), length)
}

/// What the supervisor would say against a value.
pub(super) fn problem(option: &str, value: &str) -> Option<&'static str> {
    if value.trim().is_empty() {
        return Some("it is empty");
    }
    let is_path = option == "--journal";
    if !is_path && value.contains(char::is_control) {
        return Some("it holds a control character");
    }
    let has_key = || {
        let key = value.split_once('=').map(|(key, _)| key.trim());
        key.is_some_and(|key| !key.is_empty())
    };
    if option == "--attribute" && !has_key() {
        return Some("it has no key before `=`");
    }
    None
}
