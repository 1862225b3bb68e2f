//! The last exception an agent wrote to stderr.
//!
//! Python prints the exception's line last, but noise may follow ("Exception ignored in …" blocks, a closed event
//! loop), and the message may go on over several lines. What counts is the last line of the shape
//! `package.SomethingError: message` (`reference/agent-streams.md` §4).

use std::collections::VecDeque;

/// Lines of stderr that are kept for the verdict.
const LINES: usize = 64;
/// Bytes kept of each of them.
const LINE_BYTES: usize = 2048;

/// The end of the agent's stderr.
#[derive(Debug, Default)]
pub(super) struct StderrTail {
    lines: VecDeque<String>,
}

/// An exception as its line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exception {
    /// For instance `claude_agent_sdk._errors.ProcessError`.
    pub(super) class: String,
    /// What followed the colon, with the lines after it.
    pub(super) message: String,
}

impl Exception {
    /// The class without its modules.
    pub(super) fn short_class(&self) -> &str {
        self.class.rsplit('.').next().unwrap_or(&self.class)
    }
}

impl StderrTail {
    pub(super) fn push(&mut self, line: &[u8]) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        let kept = &line[..line.len().min(LINE_BYTES)];
        self.lines
            .push_back(String::from_utf8_lossy(kept).trim_end().to_owned());
    }

    /// The last line that is not empty, for a message to people.
    pub(super) fn last_line(&self) -> Option<&str> {
        self.lines
            .iter()
            .rev()
            .map(|line| line.trim())
            .find(|line| !line.is_empty())
    }

    /// The last exception that ended something: those in "Exception ignored in" blocks ended nothing.
    pub(super) fn exception(&self) -> Option<Exception> {
        self.exception_from(0)
    }

    /// The same, of those below the last line that contains one of `needles`.
    pub(super) fn exception_after(&self, needles: &[&str]) -> Option<Exception> {
        let has = |line: &String| needles.iter().any(|needle| line.contains(needle));
        self.exception_from(self.lines.iter().rposition(has)? + 1)
    }

    fn exception_from(&self, first: usize) -> Option<Exception> {
        let mut ignored = false;
        let mut found: Option<Exception> = None;
        for line in self.lines.iter().skip(first) {
            if line.starts_with("Exception ignored in") {
                ignored = true;
                continue;
            }
            let Some((class, message)) = split_exception(line) else {
                let indented = line.starts_with([' ', '\t']);
                if line.starts_with("Traceback ") && !ignored {
                    found = None;
                } else if let (false, false, Some(exception)) = (ignored, indented, &mut found)
                    && !line.is_empty()
                {
                    exception.message.push('\n');
                    exception.message.push_str(line);
                }
                continue;
            };
            if ignored {
                ignored = false;
                continue;
            }
            found = Some(Exception {
                class: class.to_owned(),
                message: message.trim().to_owned(),
            });
        }
        found
    }

    /// Whether any kept line contains one of `needles`.
    pub(super) fn find(&self, needles: &[&str]) -> Option<&str> {
        self.lines
            .iter()
            .rev()
            .map(String::as_str)
            .find(|line| needles.iter().any(|needle| line.contains(needle)))
    }
}

/// Splits `a.b.CError: message`; the class must end in a word that exceptions end in.
fn split_exception(line: &str) -> Option<(&str, &str)> {
    let end = line
        .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'))
        .unwrap_or(line.len());
    let (class, rest) = line.split_at(end);
    let word = class.rsplit('.').next()?;
    let known = ["Error", "Exception", "Interrupt", "SystemExit"]
        .iter()
        .any(|suffix| word.ends_with(suffix));
    if !known || !(rest.is_empty() || rest.starts_with(':')) {
        return None;
    }
    Some((class, rest.strip_prefix(':').unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(text: &str) -> StderrTail {
        let mut tail = StderrTail::default();
        text.lines().for_each(|line| tail.push(line.as_bytes()));
        tail
    }

    #[test]
    fn the_last_exception_is_found() {
        let cases = [
            (
                "Traceback (most recent call last):\n  File \"a.py\"\nValueError: bad",
                Some(("ValueError", "bad")),
            ),
            ("MemoryError", Some(("MemoryError", ""))),
            (
                "Traceback (most recent call last):\nKeyError: 1\n\nDuring handling of the above exception, another \
                 exception occurred:\n\nTraceback (most recent call last):\na.b.ProcessError: Command failed (exit code: 1)\n\
                 Error output: Check stderr output for details",
                Some((
                    "a.b.ProcessError",
                    "Command failed (exit code: 1)\nError output: Check stderr output for details",
                )),
            ),
            (
                "ValueError: real\nException ignored in: <function x>\nTraceback (most recent call last):\n  File \"b\"\n\
                 RuntimeError: Event loop is closed",
                Some(("ValueError", "real")),
            ),
            (
                "warning: something\n  _warn_if_can_use_tool_shadowed(options)",
                None,
            ),
            ("Errors were found: 3", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let found = tail(text).exception();
            let found = found
                .as_ref()
                .map(|exception| (exception.class.as_str(), exception.message.as_str()));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn only_a_bounded_tail_is_kept() {
        let mut tail = StderrTail::default();
        for _ in 0..10_000 {
            tail.push(&[b'x'; 10_000]);
        }
        assert_eq!(tail.lines.len(), LINES);
        assert!(tail.lines.iter().all(|line| line.len() <= LINE_BYTES));
    }
}
