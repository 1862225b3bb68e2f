//! What a result that is an error says went wrong.

use sandtrace_client::failure::{Failure, FailureKind};

use super::LastResult;
use super::verdict::{Because, clip, sentence, verdict};
use crate::session::api_error::{ApiError, contains_any};
use crate::session::exception::StderrTail;

/// What a result that is an error says went wrong.
pub(in crate::session) fn by_result(
    result: &LastResult,
    api_error: Option<&ApiError>,
    stderr: &StderrTail,
) -> Failure {
    use FailureKind as K;
    let subtype = format!("result: subtype {}, is_error true", result.subtype);
    let reason = result.terminal_reason.as_deref();
    let limit = match (result.subtype.as_str(), reason) {
        ("error_max_turns", _) | (_, Some("max_turns")) => Some(K::LimitTurns),
        ("error_max_budget_usd", _) | (_, Some("budget_exhausted")) => Some(K::LimitBudget),
        ("error_max_structured_output_retries", _)
        | (_, Some("structured_output_retry_exhausted")) => Some(K::LimitStructuredOutput),
        (_, Some("aborted_tools")) if result.denied_permission => Some(K::CancelledPermission),
        (_, Some("aborted_tools" | "aborted_streaming")) => Some(K::CancelledUser),
        _ => None,
    };
    if let Some(kind) = limit {
        let message = match kind {
            K::CancelledUser => "The turn was interrupted.".to_owned(),
            K::CancelledPermission => "A denied permission ended the run.".to_owned(),
            _ => sentence(&result.text),
        };
        return verdict(kind, 0.97, message)
            .because("result", subtype)
            .because_some("result", reason, "terminal_reason");
    }
    let text = if result.text.is_empty() {
        stderr.last_line().unwrap_or_default()
    } else {
        &result.text
    };
    if contains_any(text, &["No conversation found"]) {
        return verdict(
            K::CrashBadSession,
            0.95,
            "The session to resume does not exist.".to_owned(),
        )
        .because("message", clip(text));
    }
    let mut error = api_error.cloned().unwrap_or_default();
    error.status = error.status.or(result.api_error_status);
    error.stop_reason = result.stop_reason.clone().or(error.stop_reason);
    error.terminal_reason.clone_from(&result.terminal_reason);
    if error.text.is_empty() {
        text.clone_into(&mut error.text);
    }
    if result.subtype == "error_during_execution" && api_error.is_none() && error.status.is_none() {
        return verdict(
            K::CrashException,
            0.6,
            format!("The turn failed while it ran: {}", sentence(text)),
        )
        .because("result", subtype)
        .because("message", clip(text));
    }
    let (kind, confidence) = error.kind();
    let alternative = match kind {
        K::TimeoutApi => Some((K::NetworkTimeout, 0.4)),
        K::NetworkTimeout => Some((K::TimeoutApi, 0.3)),
        K::ApiServerError if error.status.is_none() => Some((K::NetworkConnect, 0.3)),
        _ => None,
    };
    let mut failure = verdict(kind, confidence, sentence(text)).because("result", subtype);
    if let Some(status) = error.status {
        failure = failure.because("result", format!("HTTP status {status}"));
    }
    failure = failure
        .because_some("result", error.api_error_type.as_deref(), "API error type")
        .because_some("result", error.api_error.as_deref(), "api_error")
        .because_some("result", error.error.as_deref(), "error")
        .because_some("result", error.stop_reason.as_deref(), "stop_reason")
        .because("message", clip(text));
    match alternative {
        Some((kind, confidence)) => failure.or(kind, confidence),
        None => failure,
    }
}
