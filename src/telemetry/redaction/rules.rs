//! Well-known formats of credentials: `rules.tsv`, compiled one by one as their keywords turn up.

use std::sync::OnceLock;

use regex_lite::{Regex, RegexBuilder};

use super::needles::{Case, Needles};

static TABLE: &str = include_str!("rules.tsv");

/// A compiled rule takes no more memory than this; the largest of the table takes a third.
const PROGRAM_BYTES: usize = 256 << 10;

/// The most of a text that is looked at from a keyword on: a private key of 16384 bits fits in.
const REACH: usize = 16 << 10;

/// One line of the table.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: &'static str,
    keywords: &'static str,
    before: Before,
    check: Check,
    pattern: &'static str,
    compiled: OnceLock<Option<Regex>>,
}

/// What may stand before the keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Any,
    NoWord,
    Digit,
}

/// What a match must be like to be a secret.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Check {
    Nothing,
    /// Bits of entropy a character, at least.
    Entropy(f64),
    /// Likewise, and a digit and a letter.
    EntropyMixed(f64),
    /// It stands after a name and an equals sign: see [`is_assigned_secret`].
    Assigned,
}

/// The whole table. A line that cannot be read is left out; a test reads them all.
pub(super) fn all() -> Vec<Rule> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(rule).collect()
}

fn rule(line: &'static str) -> Option<Rule> {
    let mut columns = line.split('\t');
    let rule = Rule {
        id: columns.next()?,
        keywords: columns.next()?,
        before: match columns.next()? {
            "any" => Before::Any,
            "word" => Before::NoWord,
            "digit" => Before::Digit,
            _ => return None,
        },
        check: check(columns.next()?)?,
        pattern: columns.next()?,
        compiled: OnceLock::new(),
    };
    columns.next().is_none().then_some(rule)
}

fn check(text: &str) -> Option<Check> {
    match (text, text.strip_suffix('d')) {
        ("-", _) => Some(Check::Nothing),
        ("assigned", _) => Some(Check::Assigned),
        (_, Some(bits)) => bits.parse().ok().map(Check::EntropyMixed),
        (bits, None) => bits.parse().ok().map(Check::Entropy),
    }
}

impl Rule {
    /// Puts its keywords into the set, under the number `of`.
    pub(super) fn enlist(&self, needles: &mut Needles, of: u32) {
        for keyword in self.keywords.split(',') {
            needles.add(keyword.as_bytes().to_vec(), Case::Ignored, of);
        }
    }

    /// What begins with the keyword at `start` and has this rule's form; `None` if nothing does.
    pub(super) fn find(&self, text: &str, start: usize) -> Option<Match> {
        let before = text.as_bytes()[..start].last().copied();
        let fits = match self.before {
            Before::Any => true,
            Before::NoWord => !before.is_some_and(is_in_word) || is_after_escape(text, start),
            Before::Digit => before.is_some_and(|byte| byte.is_ascii_digit()),
        };
        if !fits {
            return None;
        }
        let regex = self.compiled.get_or_init(|| self.compile()).as_ref()?;
        let reach = text.floor_char_boundary((start + REACH).min(text.len()));
        let (whole, secret) = if regex.captures_len() == 1 {
            let whole = regex.find(&text[start..reach])?;
            (whole, whole)
        } else {
            let captures = regex.captures(&text[start..reach])?;
            let whole = captures.get(0)?;
            (whole, captures.get(1).unwrap_or(whole))
        };
        let (from, to) = (start + secret.start(), start + secret.end());
        let secret = &text[from..to];
        let is_secret = match self.check {
            Check::Nothing => true,
            Check::Entropy(least) => entropy(secret) >= least,
            Check::EntropyMixed(least) => is_mixed(secret) && entropy(secret) >= least,
            Check::Assigned => {
                let is_called = text[to..].starts_with('(');
                !is_called && is_assigned_secret(is_password(&text[start..from]), secret)
            }
        };
        Some(Match {
            end: start + whole.end(),
            secret: is_secret.then_some((from, to)),
        })
    }

    fn compile(&self) -> Option<Regex> {
        RegexBuilder::new(&format!("^(?:{})", self.pattern))
            .size_limit(PROGRAM_BYTES)
            .build()
            .ok()
    }
}

/// What a rule's pattern matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) end: usize,
    /// Where the secret stands; `None` if it does not look like one.
    pub(super) secret: Option<(usize, usize)>,
}

/// A hyphen counts, for credentials hold them: else each keyword in a chain of them would begin a match that reaches to
/// the end of the chain, and a text would take a time that grows with the square of its length.
fn is_in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// Whether the letter before `start` belongs to an escape: in `"\nAKIA…"`, spelled with a backslash.
fn is_after_escape(text: &str, start: usize) -> bool {
    let before = &text.as_bytes()[..start];
    matches!(before, [.., b'\\', b'n' | b't' | b'r'])
}

/// Whether a name is that of something a person made up, which is shorter and less random than what a machine made.
pub(super) fn is_password(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains("pass") || name.contains("pwd")
}

/// Whether what stands after `name =` is a secret rather than code, a path, a placeholder or a word.
pub(super) fn is_assigned_secret(is_password: bool, value: &str) -> bool {
    let value = value.trim_end_matches(['.', ',', ';', ':', '!', '?', ')']);
    if value.starts_with(['/', '~', '$', '%', '<', '*', '{', '.']) || value.contains("://") {
        return false;
    }
    let has_digit = value.bytes().any(|byte| byte.is_ascii_digit());
    let has_letter = value.bytes().any(|byte| byte.is_ascii_alphabetic());
    if is_password {
        let has_symbol = value.bytes().any(|byte| b"@!#%^&*$+~".contains(&byte));
        let is_code = value.contains(['.', '_']) && is_words(value);
        value.len() >= 8
            && (has_digit || has_symbol)
            && has_letter
            && !is_code
            && entropy(value) >= 2.0
    } else {
        value.len() >= 16 && has_digit && has_letter && !is_words(value) && entropy(value) >= 3.0
    }
}

/// Whether it consists of names as programs have them: `settings.api_key2`, `content-type`, `v1/users/42`.
fn is_words(value: &str) -> bool {
    value.split(['.', '_', '-', '/', '=']).all(|piece| {
        let word = piece.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = piece.len() - word.len();
        let is_word = word.bytes().all(|byte| byte.is_ascii_alphabetic());
        // A capital in the midst of a word now and then, but not at random.
        let capitals = word.bytes().skip(1).filter(u8::is_ascii_uppercase).count();
        let is_name = capitals * 4 <= word.len() || word.bytes().all(|b| b.is_ascii_uppercase());
        is_word && is_name && digits <= 4
    })
}

fn is_mixed(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_digit())
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// Shannon's, in bits a byte, of the bytes' own frequencies.
fn entropy(text: &str) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in text.bytes() {
        counts[usize::from(byte)] += 1;
    }
    let length = text.len() as f64;
    let counts = counts.into_iter().filter(|count| *count > 0);
    let bits = counts.map(|count| {
        let share = f64::from(count) / length;
        -share * share.log2()
    });
    bits.sum()
}

#[cfg(test)]
mod tests;
