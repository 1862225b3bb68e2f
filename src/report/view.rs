//! How the reader sees the report: width, characters and colours, read once from the terminal and its environment.

use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::libc;

/// Narrower than this and the columns would say nothing.
const NARROWEST: usize = 60;
/// Wider than this and the eye loses the row.
const WIDEST: usize = 240;

/// What the renderer may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// In columns, from 60 to 240.
    width: usize,
    charset: Charset,
    colour: Colour,
}

/// The characters at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    Unicode,
    Ascii,
}

/// Whether meaning is repeated in colour; it never stands in colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Ansi,
    Off,
}

/// What a piece of text means, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Dim,
    Bold,
    Good,
    Bad,
    Warning,
    Chat,
    Tool,
    Waiting,
}

impl View {
    /// A width out of range is brought into it.
    #[must_use]
    pub fn new(width: usize, charset: Charset, colour: Colour) -> Self {
        Self {
            width: width.clamp(NARROWEST, WIDEST),
            charset,
            colour,
        }
    }

    /// The view that fits the environment and the file the report goes to. COLUMNS, when somebody set it, is a wish;
    /// the terminal's own width comes next, and whatever is no terminal is 80 wide.
    pub fn detect<'a>(variable: impl Fn(&str) -> Option<&'a str>, output: &impl AsFd) -> Self {
        let output = output.as_fd();
        let on_terminal = output.is_terminal();
        let wish = variable("COLUMNS")
            .and_then(|columns| columns.trim().parse().ok())
            .filter(|columns| *columns > 0);
        let width = wish.or_else(|| terminal_width(output)).unwrap_or(80);
        let plain = variable("NO_COLOR").is_some() || variable("TERM") == Some("dumb");
        let colour = if on_terminal && !plain {
            Colour::Ansi
        } else {
            Colour::Off
        };
        Self::new(width, charset(&variable), colour)
    }

    pub(super) fn width(self) -> usize {
        self.width
    }

    pub(super) fn charset(self) -> Charset {
        self.charset
    }

    pub(super) fn paint(self, paint: Paint, text: &str) -> String {
        let code = match paint {
            _ if text.is_empty() => return String::new(),
            Paint::Plain => return text.to_owned(),
            Paint::Dim => "2",
            Paint::Bold => "1",
            Paint::Good | Paint::Tool => "32",
            Paint::Bad => "31",
            Paint::Warning | Paint::Waiting => "33",
            Paint::Chat => "36",
        };
        match self.colour {
            Colour::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
            Colour::Off => text.to_owned(),
        }
    }
}

impl Charset {
    /// The character for each charset.
    pub(super) fn pick<T>(self, unicode: T, ascii: T) -> T {
        match self {
            Self::Unicode => unicode,
            Self::Ascii => ascii,
        }
    }

    pub(super) fn ellipsis(self) -> &'static str {
        self.pick("…", "..")
    }
}

/// As in `setlocale`: the first of these three that is set decides, and none set means the C locale.
fn charset<'a>(variable: impl Fn(&str) -> Option<&'a str>) -> Charset {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(variable);
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    if locale.contains("utf-8") || locale.contains("utf8") {
        Charset::Unicode
    } else {
        Charset::Ascii
    }
}

fn terminal_width(output: BorrowedFd<'_>) -> Option<usize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    #[expect(unsafe_code, reason = "nix has no safe call for the window's size")]
    // SAFETY: the descriptor is open for as long as it is borrowed, and TIOCGWINSZ writes one `winsize`, which `size` is.
    let result = unsafe { libc::ioctl(output.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    // A terminal that does not know its size says zero.
    (result == 0 && size.ws_col > 0).then(|| usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(environment: &[(&str, &'static str)]) -> View {
        let file = tempfile::tempfile().unwrap();
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| *value)
        };
        View::detect(variable, &file)
    }

    #[test]
    fn what_is_no_terminal_is_80_wide_and_has_no_colour() {
        assert_eq!(
            detect(&[("LANG", "C.UTF-8")]),
            View::new(80, Charset::Unicode, Colour::Off)
        );
    }

    #[test]
    fn columns_is_a_wish_within_limits() {
        for (columns, width) in [
            ("120", 120),
            ("10", 60),
            ("9999999", 240),
            ("0", 80),
            ("x", 80),
        ] {
            assert_eq!(detect(&[("COLUMNS", columns)]).width(), width, "{columns}");
        }
    }

    #[test]
    fn the_first_locale_variable_decides_on_the_characters() {
        use Charset::{Ascii, Unicode};
        let table: [(&[(&str, &str)], Charset); 6] = [
            (&[], Ascii),
            (&[("LANG", "en_GB.UTF-8")], Unicode),
            (&[("LANG", "de_DE.utf8")], Unicode),
            (&[("LC_ALL", "C"), ("LANG", "C.UTF-8")], Ascii),
            (&[("LC_CTYPE", "C.UTF-8"), ("LANG", "C")], Unicode),
            (&[("LANG", "POSIX")], Ascii),
        ];
        for (environment, expected) in table {
            let variable = |name: &str| {
                let found = environment.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| *value)
            };
            assert_eq!(charset(variable), expected, "{environment:?}");
        }
    }
}
