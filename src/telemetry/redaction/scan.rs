//! Finding what must not be told in one text, and writing the text without it.
//!
//! One pass looks for the keywords of the rules and for the secrets known by heart, both at once; most texts have
//! neither, and are done. Everything is found in the text as it came, and only then replaced: what stands for one
//! secret can neither hide nor break another.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;
use std::sync::OnceLock;

use super::environment;
use super::needles::{Hit, Needles};
use super::pattern::Pattern;
use super::rules::{self, Rule};

/// What the user's patterns are called.
const USERS: &str = "user-pattern";
/// The least of a known secret that counts as its beginning or end where a text was cut.
const LEAST_CUT: usize = 6;
/// How people and we mark that a text goes on.
const ELLIPSIS: &str = "…";

/// A secret known by heart, and the variable it comes from.
struct Known {
    variable: String,
    secret: String,
}

/// All that is looked for.
pub(super) struct Scanner {
    rules: Vec<Rule>,
    known: Vec<Known>,
    patterns: Vec<Pattern>,
    /// Keywords and known secrets; made when the first text comes.
    needles: OnceLock<Needles>,
}

/// One stretch of a text that is a secret, and what it is.
#[derive(Debug, Clone, Copy)]
struct Found {
    start: usize,
    end: usize,
    /// Rules are numbered first, then known secrets; what is beyond is of the user's patterns.
    of: usize,
}

impl Scanner {
    pub(super) fn new(
        variables: impl IntoIterator<Item = (String, String)>,
        patterns: Vec<Pattern>,
    ) -> Self {
        let rules = rules::all();
        let mut known: Vec<Known> = Vec::new();
        for (variable, value) in variables {
            for secret in environment::secrets_in(&variable, &value) {
                if !known.iter().any(|other| other.secret == secret) {
                    let variable = variable.clone();
                    known.push(Known { variable, secret });
                }
            }
        }
        Self {
            needles: OnceLock::new(),
            rules,
            known,
            patterns,
        }
    }

    fn needles(&self) -> &Needles {
        self.needles.get_or_init(|| {
            let mut needles = Needles::new();
            let number = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
            for (index, rule) in self.rules.iter().enumerate() {
                rule.enlist(&mut needles, number(index));
            }
            for (index, known) in self.known.iter().enumerate() {
                let of = number(self.rules.len() + index);
                environment::enlist(&known.secret, &mut needles, of);
            }
            needles
        })
    }

    fn name(&self, of: usize) -> &str {
        if let Some(rule) = self.rules.get(of) {
            return rule.id;
        }
        let known = self.known.get(of - self.rules.len());
        known.map_or(USERS, |known| &known.variable)
    }

    /// The text without its secrets, and how many there were.
    pub(super) fn clean<'a>(&self, text: &'a str, ends: Ends) -> (Cow<'a, str>, u64) {
        let found = self.find(text, ends);
        if found.is_empty() {
            return (Cow::Borrowed(text), 0);
        }
        let mut clean = String::with_capacity(text.len());
        let mut from = 0;
        for found in &found {
            clean.push_str(&text[from..found.start]);
            clean.push_str("<redacted:");
            clean.push_str(self.name(found.of));
            clean.push('>');
            from = found.end;
        }
        clean.push_str(&text[from..]);
        (Cow::Owned(clean), found.len() as u64)
    }

    /// Secrets in the order of the text, none overlapping another.
    fn find(&self, text: &str, ends: Ends) -> Vec<Found> {
        let mut found = Vec::new();
        // Where each rule goes on: what it matched once, secret or not, it is not asked about again.
        let mut resume = Vec::new();
        self.needles().find(text.as_bytes(), |hit| {
            if self.rules.get(hit.of as usize).is_some() {
                resume.resize(self.rules.len(), 0);
            }
            found.extend(self.judge(text, hit, &mut resume));
        });
        let users = self.rules.len() + self.known.len();
        for pattern in &self.patterns {
            pattern.find(text, |start, end| {
                found.extend((start < end).then_some(Found {
                    start,
                    end,
                    of: users,
                }));
            });
        }
        self.find_cut(text, ends, &mut found);
        // The name of a variable tells more than that of a rule, and a special rule more than a general one.
        found.sort_unstable_by_key(|found| {
            let is_rule = found.of < self.rules.len();
            (found.start, Reverse(found.end), is_rule, found.of)
        });
        merged(found)
    }

    fn judge(&self, text: &str, hit: Hit, resume: &mut [usize]) -> Option<Found> {
        let of = hit.of as usize;
        let Some(rule) = self.rules.get(of) else {
            return known(text, hit);
        };
        let resume = resume.get_mut(of)?;
        if hit.start < *resume {
            return None;
        }
        let matched = rule.find(text, hit.start)?;
        *resume = matched.end;
        let (start, end) = matched.secret?;
        Some(Found { start, end, of })
    }

    /// Known secrets of which a cut left but a part.
    fn find_cut(&self, text: &str, ends: Ends, found: &mut Vec<Found>) {
        if self.known.is_empty() {
            return;
        }
        let trimmed = text.strip_suffix(ELLIPSIS);
        if trimmed.is_some() || ends == Ends::Cut {
            let body = trimmed.unwrap_or(text);
            let hit = self.needles().cut_at_end(body.as_bytes(), LEAST_CUT);
            found.extend(hit.and_then(|hit| known(text, hit)));
        }
        if let Some(body) = text.strip_prefix(ELLIPSIS) {
            let hit = self.needles().cut_at_start(body.as_bytes(), LEAST_CUT);
            let start = text.len() - body.len();
            found.extend(hit.and_then(|hit| known(text, Hit { start, ..hit })));
        }
    }
}

/// A known secret at its place; one that is not ASCII might be found in the midst of a character of another text.
fn known(text: &str, hit: Hit) -> Option<Found> {
    let (start, end) = (hit.start, hit.start + hit.length);
    let is_whole = text.is_char_boundary(start) && text.is_char_boundary(end);
    is_whole.then_some(Found {
        start,
        end,
        of: hit.of as usize,
    })
}

/// Whether a text is all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    Whole,
    /// It may go on: its end may be in the midst of a secret. A text that ends with an ellipsis says so itself.
    Cut,
}

/// What overlaps is one, called by what comes first.
fn merged(found: Vec<Found>) -> Vec<Found> {
    let mut merged: Vec<Found> = Vec::with_capacity(found.len());
    for next in found {
        match merged.last_mut() {
            Some(last) if next.start < last.end => last.end = last.end.max(next.end),
            _ => merged.push(next),
        }
    }
    merged
}

impl fmt::Debug for Scanner {
    /// Names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables = self.known.iter().map(|known| known.variable.as_str());
        f.debug_struct("Scanner")
            .field("rules", &self.rules.len())
            .field("variables", &variables.collect::<Vec<_>>())
            .field("patterns", &self.patterns.len())
            .finish_non_exhaustive()
    }
}
