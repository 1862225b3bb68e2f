//! What a session must know before it begins.

use std::time::Duration;

use super::span::{Content, ContentForm, REDACTION_SLACK};
use super::{Attribute, ProbePolicy, SurvivorPolicy, TraceContext};
use crate::time::UnixNanos;

/// How much of prompts and answers goes onto spans.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Capture {
    None,
    /// The first 100 characters of prompts and answers; never file contents or tool output.
    #[default]
    Preview,
    /// Prompts, answers, tool arguments and results, whole messages: up to 32 Ki characters each.
    Full,
}

impl Capture {
    /// How many characters of a text are kept.
    fn chars(self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Preview => Some(100),
            Self::Full => Some(FULL_CHARS),
        }
    }

    /// What is kept of a text of somebody's, with enough beyond it to find a secret that the cut would halve.
    pub(super) fn content(self, key: &'static str, text: &str) -> Option<Content> {
        let chars = self.chars()?;
        let text = first_chars(text, chars + REDACTION_SLACK);
        (!text.is_empty()).then(|| Content {
            key,
            text: text.to_owned(),
            form: ContentForm::Text { chars },
        })
    }

    /// Clips a text to what may be kept of it, at the end of a word.
    pub(super) fn clip(self, text: &str) -> Option<String> {
        let kept = first_chars(text, self.chars()?);
        // A word that the cut would halve might be half a secret, which nothing tells from a word any more.
        let kept = match kept.rfind(char::is_whitespace) {
            _ if kept.len() == text.len()
                || text[kept.len()..].starts_with(char::is_whitespace) =>
            {
                kept
            }
            Some(space) => &kept[..space],
            None => "",
        };
        (!text.is_empty()).then(|| kept.to_owned())
    }
}

/// The most characters that are kept of one text.
pub(super) const FULL_CHARS: usize = 32 * 1024;

pub(super) fn first_chars(text: &str, chars: usize) -> &str {
    let end = text.char_indices().nth(chars);
    end.map_or(text, |(end, _)| &text[..end])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clip_halves_no_word() {
        let clip = |text: &str| Capture::Preview.clip(text);
        assert_eq!(clip(""), None);
        assert_eq!(clip("short words").as_deref(), Some("short words"));
        let whole = "w".repeat(100);
        assert_eq!(clip(&whole), Some(whole.clone()));
        assert_eq!(clip(&format!("{whole} more")), Some(whole));
        let text = format!("{} sk-{}", "w".repeat(90), "s".repeat(40));
        assert_eq!(clip(&text), Some("w".repeat(90)));
        assert_eq!(clip(&"s".repeat(101)).as_deref(), Some(""));
    }

    #[test]
    fn content_is_kept_beyond_its_limit_for_the_redaction() {
        let text = "é".repeat(20_000);
        let content = Capture::Preview.content("k", &text).unwrap();
        assert_eq!(content.text.chars().count(), 100 + REDACTION_SLACK);
        assert_eq!(content.form, ContentForm::Text { chars: 100 });
        assert_eq!(Capture::None.content("k", &text), None);
        assert_eq!(Capture::Full.content("k", ""), None);
    }
}
