//! Lines that stay, and one at the bottom that changes.

use std::io::{self, IsTerminal as _, Write as _};

/// How a piece of text looks on a terminal that has colours.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Look {
    Plain,
    Faint,
    Bold,
    Good,
    Bad,
    Wait,
    Busy,
}

/// Text with its looks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Text(Vec<(Look, String)>);

impl Text {
    /// Adds a piece. What could move the cursor, ring, or change the terminal is shown and not done.
    pub(crate) fn with(mut self, look: Look, piece: &str) -> Self {
        let clean = piece.chars().map(|char| match char {
            '\t' => ' ',
            // C0 and DEL by their pictures; C1, and what turns the direction of writing around, as unknown.
            '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(char)).unwrap_or('\u{fffd}'),
            '\u{7f}' => '\u{2421}',
            '\u{80}'..='\u{9f}' => '\u{fffd}',
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                '\u{fffd}'
            }
            char => char,
        });
        self.0.push((look, clean.collect()));
        self
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::default().with(Look::Plain, text)
    }
}

/// Where the lines go.
#[derive(Debug)]
pub(crate) struct Screen {
    is_terminal: bool,
    has_colours: bool,
    has_status: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            is_terminal: is_terminal && !is_dumb,
            has_colours: is_terminal && !is_dumb && !set("NO_COLOR"),
            has_status: false,
        }
    }

    /// A line that stays.
    pub(crate) fn line(&mut self, text: &Text) -> io::Result<()> {
        let mut line = String::new();
        self.clear(&mut line);
        self.write(text, &mut line);
        line.push('\n');
        put(&line)
    }

    /// What the line at the bottom says; only on a terminal. Nothing takes it away.
    pub(crate) fn status(&mut self, text: &str) -> io::Result<()> {
        if !self.is_terminal {
            return Ok(());
        }
        let mut line = String::new();
        self.clear(&mut line);
        if !text.is_empty() {
            // Without wrapping, the terminal itself cuts what is too long, so nobody needs to know how wide it is.
            line.push_str("\u{1b}[?7l");
            self.write(&Text::default().with(Look::Faint, text), &mut line);
            line.push_str("\u{1b}[?7h");
            self.has_status = true;
        }
        put(&line)
    }

    fn clear(&mut self, line: &mut String) {
        if std::mem::take(&mut self.has_status) {
            line.push_str("\r\u{1b}[2K");
        }
    }

    fn write(&self, text: &Text, line: &mut String) {
        for (look, piece) in &text.0 {
            let code = match look {
                Look::Plain => "",
                Look::Faint => "\u{1b}[2m",
                Look::Bold => "\u{1b}[1m",
                Look::Good => "\u{1b}[32m",
                Look::Bad => "\u{1b}[31m",
                Look::Wait => "\u{1b}[33m",
                Look::Busy => "\u{1b}[36m",
            };
            if self.has_colours && !code.is_empty() {
                line.push_str(code);
                line.push_str(piece);
                line.push_str("\u{1b}[0m");
            } else {
                line.push_str(piece);
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // An error ends us with the status still there.
        _ = self.status("");
    }
}

fn put(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_an_agent_prints_reaches_the_terminal_as_a_command() {
        let screen = |has_colours| Screen {
            is_terminal: has_colours,
            has_colours,
            has_status: false,
        };
        let every = (0..=0x10_ffff_u32).filter_map(char::from_u32);
        let every: String = every.filter(|char| *char != '\t').collect();
        let text = Text::default().with(Look::Bad, &every);
        let mut plain = String::new();
        screen(false).write(&text, &mut plain);
        assert!(!plain.chars().any(char::is_control));
        assert!(!plain.contains('\u{202e}'));
        assert_eq!(plain.chars().count(), every.chars().count());
        let mut coloured = String::new();
        screen(true).write(
            &Text::default().with(Look::Bad, "a\u{1b}[2Jb\tc"),
            &mut coloured,
        );
        assert_eq!(coloured, "\u{1b}[31ma␛[2Jb c\u{1b}[0m");
    }
}
