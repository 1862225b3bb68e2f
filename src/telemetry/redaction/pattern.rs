//! A pattern of the user's own (`--redact`).

use regex_lite::{Regex, RegexBuilder};

/// The longest pattern, in bytes: to find where a bad one breaks, each of its beginnings is tried.
const LONGEST: usize = 1_000;
/// The most memory that one compiled pattern takes; it bounds the time of a match, too.
const PROGRAM_BYTES: usize = 128 << 10;

/// A regular expression; its first group, if it has one, is what is taken out, else all that it matches.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is no regular expression.
    #[error("is no regular expression from character {position} on ({why}), mend it there")]
    Syntax {
        /// Counted from 1.
        position: usize,
        /// The engine's words.
        why: String,
    },
    /// It matches where there is nothing.
    #[error("matches the empty text and so every place of every text, make it match something")]
    Empty,
    /// It is longer than any that is meant.
    #[error("is longer than {LONGEST} bytes, give several patterns")]
    TooLong,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as the end of a sentence that begins with the pattern.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.len() > LONGEST {
            return Err(PatternError::TooLong);
        }
        let regex = compile(text).map_err(|error| PatternError::Syntax {
            position: position(text),
            why: error.to_string(),
        })?;
        if regex.is_match("") {
            return Err(PatternError::Empty);
        }
        Ok(Self(regex))
    }

    /// Reports where in `text` it stands.
    pub(super) fn find(&self, text: &str, mut report: impl FnMut(usize, usize)) {
        // Most patterns have no group, and finding is cheaper than capturing.
        if self.0.captures_len() == 1 {
            for found in self.0.find_iter(text) {
                report(found.start(), found.end());
            }
            return;
        }
        for captures in self.0.captures_iter(text) {
            if let Some(found) = captures.get(1).or_else(|| captures.get(0)) {
                report(found.start(), found.end());
            }
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

fn compile(text: &str) -> Result<Regex, regex_lite::Error> {
    RegexBuilder::new(text).size_limit(PROGRAM_BYTES).build()
}

/// The character, counted from 1, that follows the longest beginning which is a pattern.
fn position(text: &str) -> usize {
    let ends = text.char_indices().map(|(end, _)| end);
    let valid = ends
        .enumerate()
        .filter(|(_, end)| compile(&text[..*end]).is_ok());
    valid.last().map_or(1, |(characters, _)| characters + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_pattern_is_refused_with_the_place_where_it_breaks() {
        for (text, position) in [
            ("abc(", 4),
            ("a)b", 2),
            ("é[z", 2),
            ("a{5,2}", 2),
            ("*a", 1),
        ] {
            match Pattern::new(text) {
                Err(PatternError::Syntax {
                    position: found,
                    why,
                }) => {
                    assert_eq!(found, position, "{text}");
                    assert!(!why.is_empty());
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        for text in ["a*", "", "(x)?", "$"] {
            assert_eq!(Pattern::new(text), Err(PatternError::Empty), "{text}");
        }
        let long = "a".repeat(LONGEST + 1);
        assert_eq!(Pattern::new(&long), Err(PatternError::TooLong));
        // Small to write, too large to run.
        assert!(Pattern::new("(?:a{900}){900}").is_err());
    }

    #[test]
    fn the_first_group_is_what_is_taken_out() {
        let found = |pattern: &str, text: &str| {
            let mut all = Vec::new();
            Pattern::new(pattern)
                .unwrap()
                .find(text, |start, end| all.push(text[start..end].to_owned()));
            all
        };
        assert_eq!(
            found(r"ACME-\d{4}", "ACME-1234 ACME-5678"),
            ["ACME-1234", "ACME-5678"]
        );
        assert_eq!(found(r"(?i)pin: (\d+)", "PIN: 4711."), ["4711"]);
        assert_eq!(found("a(x)?b", "ab"), ["ab"]);
    }
}
