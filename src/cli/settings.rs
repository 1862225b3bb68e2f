//! The two sources below the flags: the environment, and the file that stands in for it.
//!
//! E2B keeps no template `ENV` at run time, so a template writes `/etc/sandtrace/env` instead. Whoever reads a variable
//! through [`Settings`] need not know which of the two it came from, but can say it in a message.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::{fmt, io, str};

use nix::fcntl::OFlag;
use thiserror::Error;

/// Where a template keeps its settings.
pub const SETTINGS_FILE: &str = "/etc/sandtrace/env";

/// More than any template says; a file that is larger is not meant.
const LARGEST_FILE: u64 = 1 << 20;

/// Reads the settings file for [`Settings::merge`]. It must be a regular file of at most 1 MiB: reading a pipe could
/// take forever.
pub fn read_settings(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    // Opening a pipe without a writer would wait for one.
    let file = File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut contents = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(contents)
}

/// Why the settings file cannot be used. A value is never quoted: the file holds secrets.
#[derive(Debug, Error)]
pub enum SettingsError {
    #[error("cannot read {}: {source}; make it readable or remove it", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {problem}", path.display())]
    Malformed {
        path: PathBuf,
        line: usize,
        problem: LineProblem,
    },
}

/// What is wrong with a line of the settings file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LineProblem {
    #[error("the line is no KEY=VALUE, write one or put a # before it")]
    NoEquals,
    #[error("the name before = is no variable's name, use only A-Z a-z 0-9 _ and no space")]
    BadName,
    #[error("the value's quote is never closed, close it on the same line")]
    OpenQuote,
    #[error("something follows the value's closing quote, remove it or quote all of the value")]
    AfterQuote,
    #[error("the line is not UTF-8 text, save the file as UTF-8")]
    NotUtf8,
    #[error("the line holds a NUL character, remove it")]
    Nul,
}

/// Variables of the environment and of the settings file. The environment wins; an empty value is no value.
#[derive(Clone, Default)]
pub struct Settings {
    environment: BTreeMap<OsString, OsString>,
    file: BTreeMap<OsString, FileValue>,
    path: PathBuf,
}

#[derive(Clone)]
struct FileValue {
    value: OsString,
    line: usize,
}

/// Where a value was given, as a message names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag, with its dashes.
    Flag(&'static str),
    /// A variable of the environment.
    Environment(String),
    /// A variable of the settings file.
    File {
        name: String,
        path: PathBuf,
        line: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Environment(name) => f.write_str(name),
            Self::File { name, path, line } => write!(f, "{name} ({}:{line})", path.display()),
        }
    }
}

impl Settings {
    /// Merges the environment with what reading the settings file gave. A file that is not there is an empty one.
    pub fn merge(
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        path: impl AsRef<Path>,
        contents: io::Result<Vec<u8>>,
    ) -> Result<Self, SettingsError> {
        let path = path.as_ref();
        let contents = match contents {
            Ok(contents) => contents,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => {
                return Err(SettingsError::Unreadable {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        Ok(Self {
            environment: environment
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .collect(),
            file: parse_file(path, &contents)?,
            path: path.to_owned(),
        })
    }

    /// The value of a variable. One that is not UTF-8 counts as unset here; [`Self::get_os`] has it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_os(name)?.to_str()
    }

    /// The value of a variable, as its bytes are.
    #[must_use]
    pub fn get_os(&self, name: &str) -> Option<&OsStr> {
        let name = OsStr::new(name);
        let in_file = || self.file.get(name).map(|found| &found.value);
        self.environment
            .get(name)
            .or_else(in_file)
            .map(OsString::as_os_str)
    }

    /// Every variable of both sources, name and value; one that both have comes twice.
    pub fn all(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        let environment = self.environment.iter();
        let environment = environment.map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let file = self.file.iter();
        environment.chain(file.map(|(name, found)| (name.as_os_str(), found.value.as_os_str())))
    }

    /// Where a variable has its value from, for messages about that value.
    #[must_use]
    pub fn origin(&self, name: &str) -> Option<Origin> {
        self.layers(name).last().map(|(origin, _)| origin)
    }

    /// Every value of a variable with its origin, the weakest first.
    pub(super) fn layers(&self, name: &str) -> impl Iterator<Item = (Origin, &OsStr)> {
        let file = self.file.get(OsStr::new(name)).map(|found| {
            let origin = Origin::File {
                name: name.to_owned(),
                path: self.path.clone(),
                line: found.line,
            };
            (origin, found.value.as_os_str())
        });
        let environment = self
            .environment
            .get(OsStr::new(name))
            .map(|value| (Origin::Environment(name.to_owned()), value.as_os_str()));
        file.into_iter().chain(environment)
    }
}

impl fmt::Debug for Settings {
    /// Names only: the values are exporters' keys and the agent's secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("environment", &self.environment.keys())
            .field("file", &self.file.keys())
            .field("path", &self.path)
            .finish()
    }
}

fn parse_file(
    path: &Path,
    contents: &[u8],
) -> Result<BTreeMap<OsString, FileValue>, SettingsError> {
    let contents = contents.strip_prefix(b"\xef\xbb\xbf").unwrap_or(contents);
    let mut values = BTreeMap::new();
    for (index, line) in contents.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let parsed = str::from_utf8(line)
            .map_err(|_| LineProblem::NotUtf8)
            .and_then(parse_line);
        match parsed {
            Ok(None) => {}
            Ok(Some((name, value))) => {
                // As in a shell, the last line about a name counts, also when it empties it.
                values.insert(
                    OsString::from(name),
                    FileValue {
                        value: OsString::from(value),
                        line: number,
                    },
                );
            }
            Err(problem) => {
                return Err(SettingsError::Malformed {
                    path: path.to_owned(),
                    line: number,
                    problem,
                });
            }
        }
    }
    values.retain(|_, found| !found.value.is_empty());
    Ok(values)
}

/// Reads one line; `None` for an empty line or a comment.
fn parse_line(line: &str) -> Result<Option<(&str, String)>, LineProblem> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if line.contains('\0') {
        return Err(LineProblem::Nul);
    }
    let line = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => line,
    };
    let (name, value) = line.split_once('=').ok_or(LineProblem::NoEquals)?;
    if !is_variable_name(name) {
        return Err(LineProblem::BadName);
    }
    Ok(Some((name, unquote(value.trim())?)))
}

/// Whether a shell could export it.
pub(super) fn is_variable_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Removes a pair of quotes. Within double quotes a backslash takes the next `"` or `\` literally, as in a shell; an
/// unquoted value is taken as it stands, `#` included, for keys and passwords have them.
fn unquote(value: &str) -> Result<String, LineProblem> {
    let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        return Ok(value.to_owned());
    };
    let mut text = String::with_capacity(value.len());
    let mut chars = value[1..].chars();
    while let Some(c) = chars.next() {
        if c == quote {
            let rest = chars.as_str().trim_start();
            return if rest.is_empty() || rest.starts_with('#') {
                Ok(text)
            } else {
                Err(LineProblem::AfterQuote)
            };
        }
        let escaped = chars
            .clone()
            .next()
            .filter(|next| matches!(next, '"' | '\\'));
        match escaped {
            Some(next) if c == '\\' && quote == '"' => {
                text.push(next);
                chars.next();
            }
            _ => text.push(c),
        }
    }
    Err(LineProblem::OpenQuote)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: impl AsRef<[u8]>) -> Result<Settings, SettingsError> {
        Settings::merge([], SETTINGS_FILE, Ok(text.as_ref().to_vec()))
    }

    #[test]
    fn lines_of_the_file_read_as_a_shell_would_read_them() {
        let table = [
            ("K=v", Some("v")),
            ("  K=v  \r", Some("v")),
            ("export K=v", Some("v")),
            ("export\tK=v", Some("v")),
            ("K=a=b", Some("a=b")),
            ("K=a#b", Some("a#b")),
            ("K='a b # c'", Some("a b # c")),
            (r#"K="a \"b\" \\ \n""#, Some(r#"a "b" \ \n"#)),
            (r"K='a\b'", Some(r"a\b")),
            ("K=\"v\" # why", Some("v")),
            ("K=\"v\"# why", Some("v")),
            ("# K=v", None),
            ("K=", None),
            ("K=''", None),
            ("K=1\nK=2", Some("2")),
            ("K=1\nK=", None),
            ("\u{feff}K=v", Some("v")),
            ("", None),
        ];
        for (text, value) in table {
            assert_eq!(file(text).unwrap().get("K"), value, "{text:?}");
        }
    }

    #[test]
    fn a_malformed_line_is_named_by_its_number_and_never_quoted() {
        let table: [(&[u8], &str); 8] = [
            (
                b"\n# x\nhunter2",
                "/etc/sandtrace/env:3: the line is no KEY=VALUE",
            ),
            (b"=hunter2", "/etc/sandtrace/env:1: the name before ="),
            (b"K =hunter2", "/etc/sandtrace/env:1: the name before ="),
            (b"1K=hunter2", "/etc/sandtrace/env:1: the name before ="),
            (
                b"K='hunter2",
                "/etc/sandtrace/env:1: the value's quote is never",
            ),
            (b"K='hunter2' x", "/etc/sandtrace/env:1: something follows"),
            (
                b"K=\xffhunter2",
                "/etc/sandtrace/env:1: the line is not UTF-8",
            ),
            (
                b"K=1\nK=hunter2\0",
                "/etc/sandtrace/env:2: the line holds a NUL",
            ),
        ];
        for (text, start) in table {
            let sentence = file(text).unwrap_err().to_string();
            assert!(sentence.starts_with(start), "{sentence}");
            assert!(!sentence.contains("hunter2"), "{sentence}");
            assert!(!sentence.contains('\n'), "{sentence}");
        }
    }

    #[test]
    fn an_absent_file_is_empty_and_an_unreadable_one_an_error() {
        let read = |kind: io::ErrorKind| Settings::merge([], SETTINGS_FILE, Err(kind.into()));
        assert_eq!(read(io::ErrorKind::NotFound).unwrap().get("K"), None);
        assert_eq!(
            read(io::ErrorKind::PermissionDenied)
                .unwrap_err()
                .to_string(),
            "cannot read /etc/sandtrace/env: permission denied; make it readable or remove it"
        );
    }

    #[test]
    fn only_a_regular_file_of_bounded_size_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let refused = |name: &str| read_settings(file(name)).unwrap_err().to_string();
        nix::unistd::mkfifo(&file("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(refused("pipe"), "it is no regular file");
        assert_eq!(refused("."), "it is no regular file");
        std::fs::write(file("large"), vec![b'\n'; (1 << 20) + 1]).unwrap();
        assert_eq!(refused("large"), "it is larger than 1 MiB");
        std::fs::write(file("largest"), vec![b'\n'; 1 << 20]).unwrap();
        assert_eq!(read_settings(file("largest")).unwrap().len(), 1 << 20);
        let absent = read_settings(file("absent")).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_environment_wins_unless_it_is_empty() {
        let environment = [("A", "env"), ("B", "")].map(|(k, v)| (k.into(), v.into()));
        let settings = Settings::merge(
            environment,
            SETTINGS_FILE,
            Ok(b"A=file\nB=file\nC=file".to_vec()),
        )
        .unwrap();
        assert_eq!(settings.get("A"), Some("env"));
        assert_eq!(settings.get("B"), Some("file"));
        assert_eq!(settings.get("C"), Some("file"));
        let origin = |name| settings.origin(name).map(|origin| origin.to_string());
        assert_eq!(origin("A").as_deref(), Some("A"));
        assert_eq!(origin("B").as_deref(), Some("B (/etc/sandtrace/env:2)"));
        assert_eq!(origin("D"), None);
    }

    #[test]
    fn debug_output_shows_no_value() {
        let settings = file("LANGFUSE_SECRET_KEY=hunter2").unwrap();
        let debug = format!("{settings:?}");
        assert!(
            debug.contains("LANGFUSE_SECRET_KEY") && !debug.contains("hunter2"),
            "{debug}"
        );
    }
}
