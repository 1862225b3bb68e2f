//! How the text of one value is read, whichever place it came from.

use std::time::Duration;

use super::config::{Capture, EchoMode, ProbePolicy, SurvivorPolicy};
use super::duration;
use super::error::ValueProblem;
use super::settings::is_variable_name;
use crate::telemetry::redaction::Pattern;
use crate::time::UnixNanos;

pub(super) fn length(text: &str) -> Result<Duration, ValueProblem> {
    Ok(duration::parse(text)?)
}

/// A length of time of which `off`, like zero, means that there is none.
pub(super) fn limit(text: &str) -> Result<Option<Duration>, ValueProblem> {
    match text {
        "off" => Ok(None),
        _ => Ok(Some(duration::parse(text)?).filter(|length| !length.is_zero())),
    }
}

/// A moment by RFC 3339, with the offset that makes it one.
pub(super) fn moment(text: &str) -> Result<UnixNanos, ValueProblem> {
    let time: jiff::Timestamp = text.parse().map_err(|_| ValueProblem::NoMoment)?;
    let nanos = u64::try_from(time.as_nanosecond()).map_err(|_| ValueProblem::NoMoment)?;
    Ok(UnixNanos(nanos))
}

pub(super) fn seq(text: &str) -> Result<u64, ValueProblem> {
    text.parse().map_err(|_| ValueProblem::NoSeq)
}

pub(super) fn echo(text: &str) -> Result<EchoMode, ValueProblem> {
    match text {
        "enriched" => Ok(EchoMode::Enriched),
        "raw" => Ok(EchoMode::Raw),
        "none" => Ok(EchoMode::Off),
        _ => Err(ValueProblem::NoChoice("enriched, raw or none")),
    }
}

pub(super) fn capture(text: &str) -> Result<Capture, ValueProblem> {
    match text {
        "none" => Ok(Capture::None),
        "preview" => Ok(Capture::Preview),
        "full" => Ok(Capture::Full),
        _ => Err(ValueProblem::NoChoice("none, preview or full")),
    }
}

pub(super) fn survivors(text: &str) -> Result<SurvivorPolicy, ValueProblem> {
    match text {
        "leave" => Ok(SurvivorPolicy::Leave),
        "kill" => Ok(SurvivorPolicy::Kill),
        _ => Err(ValueProblem::NoChoice("leave or kill")),
    }
}

pub(super) fn probe(text: &str) -> Result<ProbePolicy, ValueProblem> {
    match text {
        "on" => Ok(ProbePolicy::On),
        "off" => Ok(ProbePolicy::Off),
        _ => Err(ValueProblem::NoChoice("on or off")),
    }
}

pub(super) fn switch(text: &str) -> Result<bool, ValueProblem> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(ValueProblem::NoChoice("true or false")),
    }
}

pub(super) fn run_id(text: &str) -> Result<String, ValueProblem> {
    if is_run_id(text) {
        Ok(text.to_owned())
    } else {
        Err(ValueProblem::BadRunId)
    }
}

/// Whether a text can name a run: `[A-Za-z0-9._-]{1,64}`, and no directory of its own meaning.
#[must_use]
pub fn is_run_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(fits) && text != "." && text != ".."
}

pub(super) fn plain(text: &str) -> Result<String, ValueProblem> {
    if text.trim().is_empty() {
        Err(ValueProblem::Empty)
    } else if text.contains(char::is_control) {
        Err(ValueProblem::ControlCharacter)
    } else {
        Ok(text.to_owned())
    }
}

pub(super) fn attribute(text: &str) -> Result<(String, String), ValueProblem> {
    let (key, value) = text.split_once('=').ok_or(ValueProblem::NotKeyValue)?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() {
        Err(ValueProblem::NotKeyValue)
    } else if text.contains(char::is_control) {
        Err(ValueProblem::ControlCharacter)
    } else {
        Ok((key.to_owned(), value.to_owned()))
    }
}

pub(super) fn variable_name(text: &str) -> Result<String, ValueProblem> {
    if is_variable_name(text) {
        Ok(text.to_owned())
    } else {
        Err(ValueProblem::NotVariableName)
    }
}

pub(super) fn pattern(text: &str) -> Result<Pattern, ValueProblem> {
    Ok(Pattern::new(text)?)
}
