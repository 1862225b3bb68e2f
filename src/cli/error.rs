//! What can be wrong with a call, each as one sentence that says what, where, and what to do.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use thiserror::Error;

use super::duration::DurationError;
use super::settings::{Origin, SettingsError};
use crate::telemetry::redaction::PatternError;

/// Why there is no command to carry out.
#[derive(Debug, Error)]
pub enum CliError {
    /// Not an error: the text that was asked for, which belongs on stdout.
    #[error("{0}")]
    Help(String),
    /// Not an error either.
    #[error("{0}")]
    Version(String),
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{origin}: {} {problem}", quoted(value))]
    Value {
        origin: Origin,
        value: String,
        problem: ValueProblem,
    },
}

impl CliError {
    /// The code to exit with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Help(_) | Self::Version(_) => 0,
            Self::Usage(_) | Self::Settings(_) | Self::Value { .. } => 125,
        }
    }
}

/// Why the command line has the wrong form.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UsageError {
    #[error("no subcommand was given, see `sandtrace --help`")]
    NoSubcommand,
    #[error("{} is no subcommand, see `sandtrace --help`", quoted(.0))]
    UnknownSubcommand(String),
    #[error("{} is no option here, {hint}", quoted(argument))]
    UnknownOption { argument: String, hint: String },
    #[error("{} stands before --, put the command after it: sandtrace run [OPTIONS] -- COMMAND", quoted(.0))]
    CommandBeforeDashes(String),
    #[error("{} is one argument too many, see `sandtrace --help`", quoted(.0))]
    ExtraArgument(String),
    #[error("there is no command to run, put one after --: sandtrace run [OPTIONS] -- COMMAND")]
    NoCommand,
    #[error(
        "{subcommand}: no run was given, name one by its id or its directory: sandtrace {subcommand} RUN"
    )]
    NoRun { subcommand: &'static str },
    #[error("{option} was given without a value, write {option} VALUE")]
    NoValue { option: String },
    #[error("{option} was given a value but takes none, write {option} alone")]
    ValueForSwitch { option: String },
    #[error("{option} was given more than once, keep one")]
    Repeated { option: String },
    #[error("the arguments are not understood ({0}), see `sandtrace --help`")]
    Other(String),
}

/// Why a value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ValueProblem {
    #[error("is not UTF-8 text, write it in UTF-8")]
    NotUtf8,
    #[error("is empty, give a value or leave it out")]
    Empty,
    #[error("has a control character, write plain text")]
    ControlCharacter,
    #[error(transparent)]
    Duration(#[from] DurationError),
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error("is no moment of RFC 3339, write one such as 2026-01-31T12:00:00Z")]
    NoMoment,
    #[error("is no line's number, write the seq of the last line that you have, or 0 for all")]
    NoSeq,
    #[error("is none of the choices, write {0}")]
    NoChoice(&'static str),
    #[error("is no run id, use 1 to 64 of A-Z a-z 0-9 . _ - but neither . nor ..")]
    BadRunId,
    #[error("is no attribute, write KEY=VALUE with a key")]
    NotKeyValue,
    #[error("is no variable's name, write the name alone with A-Z a-z 0-9 _")]
    NotVariableName,
}

/// A value as a message shows it: on one line, and no longer than a person reads.
fn quoted(value: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = value.chars().take(SHOWN).collect();
    if value.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    format!("{shown:?}")
}

impl From<clap::Error> for CliError {
    fn from(error: clap::Error) -> Self {
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            Some(ContextValue::Strings(texts)) => texts.first().cloned(),
            _ => None,
        };
        let argument = || text(ContextKind::InvalidArg).unwrap_or_default();
        // clap names an option with its value, as `--grace <DUR>`; some errors append it with `=`.
        let option = || {
            let argument = argument();
            let end = argument.find([' ', '=']).unwrap_or(argument.len());
            argument[..end].to_owned()
        };
        let given_no_value =
            || text(ContextKind::InvalidValue).is_none_or(|value| value.is_empty());
        let usage = match error.kind() {
            ErrorKind::DisplayHelp => return Self::Help(error.to_string()),
            ErrorKind::DisplayVersion => return Self::Version(error.to_string()),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
                UsageError::NoSubcommand
            }
            ErrorKind::InvalidSubcommand => UsageError::UnknownSubcommand(
                text(ContextKind::InvalidSubcommand).unwrap_or_default(),
            ),
            ErrorKind::UnknownArgument => unknown(argument(), text(ContextKind::SuggestedArg)),
            // clap does not say whose argument it is; `explained` does.
            ErrorKind::MissingRequiredArgument => UsageError::NoRun {
                subcommand: "report",
            },
            ErrorKind::InvalidValue if given_no_value() => UsageError::NoValue { option: option() },
            ErrorKind::TooManyValues => UsageError::ValueForSwitch { option: option() },
            ErrorKind::ArgumentConflict => UsageError::Repeated { option: option() },
            kind => UsageError::Other(kind.as_str().unwrap_or("unknown reason").to_owned()),
        };
        Self::Usage(usage)
    }
}

fn unknown(argument: String, suggestion: Option<String>) -> UsageError {
    if !argument.starts_with('-') {
        return UsageError::ExtraArgument(argument);
    }
    let hint = match suggestion {
        Some(suggestion) => format!("did you mean {suggestion}?"),
        None => "see `sandtrace run --help`, and put the command after --".to_owned(),
    };
    UsageError::UnknownOption { argument, hint }
}
