//! The pieces of a JSON line.
//!
//! serde_json checks the whole line once. What it has checked can be walked without checking again, which costs a
//! fraction: an event needs a few members, three or four objects deep, and most of the bytes lie in strings between
//! them. Everything is read leniently: a value of another type than expected is an absent value, for an agent may print
//! what it likes, and a lone surrogate (Python prints them) becomes U+FFFD.

use std::borrow::Cow;

use memchr::{memchr, memchr2};
use serde::de::IgnoredAny;

use super::event::Text;

/// A JSON value as it stands in the line, without the white space around it; `""` is an absent one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Json<'a>(&'a str);

/// A table of the members that matter; see [`fields!`].
pub(super) trait Fields<'a>: Default {
    fn slot(&mut self, key: &str) -> Option<&mut Json<'a>>;
}

/// Declares a struct with one [`Json`] for each known key (`a | b` are two spellings of one key).
macro_rules! fields {
    ($(#[$attribute:meta])* $name:ident { $($field:ident: $($key:literal)|+),* $(,)? }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, Default)]
        pub(super) struct $name<'a> {
            $(pub(super) $field: $crate::agent::json::Json<'a>),*
        }

        impl<'a> $crate::agent::json::Fields<'a> for $name<'a> {
            fn slot(&mut self, key: &str) -> Option<&mut $crate::agent::json::Json<'a>> {
                match key {
                    $($($key)|+ => Some(&mut self.$field),)*
                    _ => None,
                }
            }
        }
    };
}
pub(super) use fields;

impl<'a> Json<'a> {
    /// The JSON object that `line` must be, with nothing but white space around it.
    pub(super) fn object(line: &'a [u8]) -> Option<Self> {
        // Most text is told from an object by its ends, before anything is scanned.
        let begin = line.iter().position(|byte| !is_space(byte))?;
        let end = line.iter().rposition(|byte| !is_space(byte))?;
        if line[begin] != b'{' || line[end] != b'}' {
            return None;
        }
        let line = str::from_utf8(&line[begin..=end]).ok()?;
        serde_json::from_str::<IgnoredAny>(line).ok()?;
        Some(Self(line))
    }

    pub(super) fn raw(self) -> &'a str {
        self.0
    }

    pub(super) fn is_present(self) -> bool {
        !self.0.is_empty()
    }

    pub(super) fn is_object(self) -> bool {
        self.0.starts_with('{')
    }

    pub(super) fn is_array(self) -> bool {
        self.0.starts_with('[')
    }

    pub(super) fn is_string(self) -> bool {
        self.0.starts_with('"')
    }

    pub(super) fn is_true(self) -> bool {
        self.0 == "true"
    }

    /// This value, or `other` where this one is absent or null.
    pub(super) fn or(self, other: Self) -> Self {
        if self.0.is_empty() || self.0 == "null" {
            other
        } else {
            self
        }
    }

    pub(super) fn text(self) -> Option<Text<'a>> {
        let inner = self.inner()?;
        Some(if has_escape(inner) {
            Cow::Owned(unescape(inner))
        } else {
            Cow::Borrowed(inner)
        })
    }

    pub(super) fn text_or_empty(self) -> Text<'a> {
        self.text().unwrap_or_default()
    }

    /// The first `chars` characters of a text, at a cost that does not grow with the text.
    pub(super) fn text_start(self, chars: usize) -> Option<Text<'a>> {
        // The longest way to write a character is an escaped surrogate pair.
        const LONGEST: usize = r"\ud83d\ude00".len();
        let inner = self.inner()?;
        let window = &inner[..inner.floor_char_boundary(chars.saturating_mul(LONGEST))];
        Some(if has_escape(window) {
            let mut text = unescape(window);
            text.truncate(byte_of_char(&text, chars));
            Cow::Owned(text)
        } else {
            Cow::Borrowed(&window[..byte_of_char(window, chars)])
        })
    }

    /// The length of a text in characters; 0 for anything else.
    pub(super) fn char_count(self) -> usize {
        self.text().map_or(0, |text| text.chars().count())
    }

    /// A number that is no negative one, cut to an integer.
    pub(super) fn unsigned(self) -> Option<u64> {
        if let Ok(number) = self.0.parse() {
            return Some(number);
        }
        // Compared as a float: 2^64 is the first that does not fit.
        let number = self.number()?;
        (0.0..18_446_744_073_709_551_616.0)
            .contains(&number)
            .then_some(number as u64)
    }

    pub(super) fn signed(self) -> Option<i64> {
        self.0.parse().ok()
    }

    /// An HTTP status.
    pub(super) fn status(self) -> Option<u16> {
        self.unsigned().and_then(|status| status.try_into().ok())
    }

    pub(super) fn number(self) -> Option<f64> {
        let is_number = self
            .0
            .starts_with(|first: char| first == '-' || first.is_ascii_digit());
        is_number
            .then(|| self.0.parse().ok())?
            .filter(|number: &f64| number.is_finite())
    }

    /// The known members of an object; all are absent for anything else.
    pub(super) fn fields<F: Fields<'a>>(self) -> F {
        let mut fields = F::default();
        self.members(&mut |key, value| {
            if let Some(slot) = fields.slot(key) {
                *slot = value;
            }
        });
        fields
    }

    /// Calls `each` for every member of an object; for none of anything else.
    pub(super) fn members(self, each: &mut dyn FnMut(&str, Self)) {
        if !self.is_object() {
            return;
        }
        let mut walk = Walk::into(self);
        while let Some(key) = walk.value() {
            walk.pass(b':');
            let Some(value) = walk.value() else { break };
            walk.pass(b',');
            each(&key.text_or_empty(), value);
        }
    }

    /// Calls `each` for every element of an array; for none of anything else.
    pub(super) fn elements(self, each: &mut dyn FnMut(Self)) {
        if !self.is_array() {
            return;
        }
        let mut walk = Walk::into(self);
        while let Some(element) = walk.value() {
            walk.pass(b',');
            each(element);
        }
    }

    fn inner(self) -> Option<&'a str> {
        self.0.strip_prefix('"')?.strip_suffix('"')
    }
}

/// What JSON takes for white space: less than ASCII has.
fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn has_escape(inner: &str) -> bool {
    inner.as_bytes().contains(&b'\\')
}

fn byte_of_char(text: &str, chars: usize) -> usize {
    text.char_indices()
        .nth(chars)
        .map_or(text.len(), |(byte, _)| byte)
}

/// The text of a JSON string's inner part. An escape that is cut off at the end is dropped.
fn unescape(inner: &str) -> String {
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(backslash) = memchr(b'\\', rest.as_bytes()) {
        text.push_str(&rest[..backslash]);
        rest = &rest[backslash + 1..];
        let mut escape = rest.chars();
        let Some(kind) = escape.next() else { break };
        rest = escape.as_str();
        match kind {
            'n' => text.push('\n'),
            't' => text.push('\t'),
            'r' => text.push('\r'),
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            'u' => match unicode_escape(rest) {
                Some((character, after)) => {
                    text.push(character);
                    rest = after;
                }
                None => break,
            },
            other => text.push(other),
        }
    }
    text.push_str(rest);
    text
}

/// The character after a `\u`, and what follows it.
fn unicode_escape(rest: &str) -> Option<(char, &str)> {
    let (high, after) = hex_unit(rest)?;
    if let Some(character) = char::from_u32(high) {
        return Some((character, after));
    }
    let pair = after
        .strip_prefix(r"\u")
        .and_then(hex_unit)
        .filter(|(low, _)| (0xd800..0xdc00).contains(&high) && (0xdc00..0xe000).contains(low));
    Some(match pair {
        Some((low, after)) => {
            let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            (
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER),
                after,
            )
        }
        None => (char::REPLACEMENT_CHARACTER, after),
    })
}

fn hex_unit(text: &str) -> Option<(u32, &str)> {
    let digits = text.get(..4)?;
    Some((u32::from_str_radix(digits, 16).ok()?, &text[4..]))
}

/// A walk through the values inside an object or array that was checked.
struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    fn into(container: Json<'a>) -> Self {
        Self {
            text: container.0,
            at: 1,
        }
    }

    /// The next value; `None` at the closing bracket.
    fn value(&mut self) -> Option<Json<'a>> {
        self.pass_space();
        let (bytes, start) = (self.text.as_bytes(), self.at);
        self.at = match bytes.get(start)? {
            b'"' => string_end(bytes, start)?,
            b'{' | b'[' => container_end(bytes, start)?,
            b'}' | b']' => return None,
            _ => scalar_end(bytes, start),
        };
        // A value without bytes is not JSON, and a walk that stood still would never end.
        let value = self.text.get(start..self.at).map(Json)?;
        value.is_present().then_some(value)
    }

    fn pass(&mut self, separator: u8) {
        self.pass_space();
        if self.text.as_bytes().get(self.at) == Some(&separator) {
            self.at += 1;
        }
    }

    fn pass_space(&mut self) {
        while self.text.as_bytes().get(self.at).is_some_and(is_space) {
            self.at += 1;
        }
    }
}

/// The index after the string that opens at `start`.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += quote_or_backslash(bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Where the first of the two bytes is. Most strings are short and so are most distances between escapes: for them,
/// eight bytes at a time are found sooner than memchr is set up.
fn quote_or_backslash(bytes: &[u8]) -> Option<usize> {
    const NEAR: usize = 64;
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // The lowest high bit of the result marks the first zero byte.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let mut at = 0;
    while at < NEAR
        && let Some(word) = bytes[at..].first_chunk()
    {
        let word = u64::from_le_bytes(*word);
        let found =
            zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    memchr2(b'"', b'\\', &bytes[at..]).map(|near| at + near)
}

/// The index after the object or array that opens at `start`.
fn container_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = start;
    loop {
        match bytes.get(at)? {
            b'"' => {
                at = string_end(bytes, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// The index after the number or word that begins at `start`.
fn scalar_end(bytes: &[u8], start: usize) -> usize {
    let ends = |byte: &u8| is_space(byte) || matches!(byte, b',' | b':' | b'}' | b']');
    bytes[start..]
        .iter()
        .position(ends)
        .map_or(bytes.len(), |length| start + length)
}

#[cfg(test)]
mod tests;
