//! What a failed call of the Messages API was, from the fields Claude Code gives it and the words it prints.
//!
//! The fields disagree with each other: a refused connection calls itself `server_error`, and a billing problem
//! `authentication_failed`. The order of the rules is that of how telling a field is
//! (`reference/agent-streams.md` §0 and §4).

use sandtrace_client::FailureKind;

/// The fields of an API error; the dataclass dialect drops most of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ApiError {
    /// The CLI's class, for instance `authentication_failed`.
    pub(super) error: Option<String>,
    /// For instance `connection_failed`.
    pub(super) api_error: Option<String>,
    /// The API's own type, for instance `billing_error`.
    pub(super) api_error_type: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) stop_reason: Option<String>,
    pub(super) terminal_reason: Option<String>,
    /// What the CLI printed for people.
    pub(super) text: String,
}

/// A kind and how sure the rule that found it is.
pub(super) type Finding = (FailureKind, f64);

impl ApiError {
    /// The most telling rule that applies.
    pub(super) fn kind(&self) -> Finding {
        self.by_type()
            .or_else(|| self.by_text())
            .or_else(|| self.by_status())
            .or_else(|| self.by_class())
            .unwrap_or(match self.terminal_reason.as_deref() {
                Some("api_error") => (FailureKind::ApiServerError, 0.4),
                // A stop hook, a limit we do not know: nothing here speaks of the API.
                _ => (FailureKind::Unknown, 0.3),
            })
    }

    /// Fields that can mean only one thing.
    fn by_type(&self) -> Option<Finding> {
        use FailureKind as K;
        let kind = match (self.terminal_reason.as_deref(), self.stop_reason.as_deref()) {
            (Some("prompt_too_long"), _) => Some(K::ApiContextTooLong),
            (Some("image_error"), _) => Some(K::ApiInvalidRequest),
            (_, Some("refusal")) => Some(K::ApiRefusal),
            _ => None,
        };
        let kind = kind.or(match self.api_error_type.as_deref() {
            Some("billing_error") => Some(K::ApiBilling),
            Some("overloaded_error") => Some(K::ApiOverloaded),
            Some("not_found_error") => Some(K::ApiModelNotFound),
            Some("request_too_large") => Some(K::ApiInvalidRequest),
            _ => None,
        });
        let kind = kind.or(match self.api_error.as_deref() {
            Some("usage_limit_reached") => Some(K::ApiUsageLimit),
            Some("max_output_tokens") => Some(K::ApiMaxOutput),
            Some("tls_untrusted_ca") => Some(K::NetworkTls),
            _ => None,
        });
        let kind = kind.or(match self.error.as_deref() {
            Some("max_output_tokens") => Some(K::ApiMaxOutput),
            Some("billing_error") => Some(K::ApiBilling),
            Some("model_not_found") => Some(K::ApiModelNotFound),
            Some("overloaded") => Some(K::ApiOverloaded),
            _ => None,
        });
        kind.map(|kind| (kind, 0.97))
    }

    /// Words in the text: the only place where an errno survives the dataclass dialect.
    fn by_text(&self) -> Option<Finding> {
        use FailureKind as K;
        // A status means that an answer came, so that words about connections in it are somebody else's.
        if self.status.is_none() {
            let found = network_words(&self.text);
            if found.is_some() {
                return found;
            }
            if self.api_error.as_deref() == Some("connection_failed") {
                return Some((K::NetworkConnect, 0.7));
            }
        }
        let rules: [(&[&str], FailureKind); 4] = [
            (
                &["prompt is too long", "Prompt is too long"],
                K::ApiContextTooLong,
            ),
            (&["Credit balance is too low", "billing"], K::ApiBilling),
            (&["usage limit", "Usage limit"], K::ApiUsageLimit),
            (&["output token maximum"], K::ApiMaxOutput),
        ];
        rules
            .into_iter()
            .find(|(words, _)| contains_any(&self.text, words))
            .map(|(_, kind)| (kind, 0.85))
    }

    fn by_status(&self) -> Option<Finding> {
        use FailureKind as K;
        let kind = match self.status? {
            401 | 403 => K::ApiAuth,
            402 => K::ApiBilling,
            404 => K::ApiModelNotFound,
            429 => K::ApiRateLimit,
            529 => K::ApiOverloaded,
            400..=499 => K::ApiInvalidRequest,
            500..=599 => K::ApiServerError,
            _ => return None,
        };
        Some((kind, 0.95))
    }

    fn by_class(&self) -> Option<Finding> {
        use FailureKind as K;
        let kind = match self.error.as_deref()? {
            "authentication_failed"
            | "oauth_org_not_allowed"
            | "account_on_hold"
            | "verification_required"
            | "cloud_credential_error" => K::ApiAuth,
            "rate_limit" => K::ApiRateLimit,
            "invalid_request" => K::ApiInvalidRequest,
            "server_error" => return Some((K::ApiServerError, 0.5)),
            _ => return None,
        };
        Some((kind, 0.85))
    }
}

/// Finds a network failure in words that Node, Bun, Python and Claude Code print (`reference/supervision.md` §4.1).
pub(super) fn network_words(text: &str) -> Option<Finding> {
    use FailureKind as K;
    let rules: [(&[&str], FailureKind, f64); 8] = [
        (
            &[
                "EAI_AGAIN",
                "ENOTFOUND",
                "getaddrinfo",
                "Name or service not known",
                "Temporary failure in name resolution",
            ],
            K::NetworkDns,
            0.93,
        ),
        (
            &[
                "ECONNREFUSED",
                "EHOSTUNREACH",
                "ENETUNREACH",
                "Connection refused",
                "No route to host",
                "Network is unreachable",
            ],
            K::NetworkConnect,
            0.93,
        ),
        (
            &[
                "ECONNRESET",
                "EPIPE",
                "socket hang up",
                "UND_ERR_SOCKET",
                "Connection reset by peer",
            ],
            K::NetworkReset,
            0.9,
        ),
        (
            &[
                "SELF_SIGNED_CERT",
                "CERT_HAS_EXPIRED",
                "CERT_NOT_YET_VALID",
                "CERTIFICATE_VERIFY_FAILED",
                "UNABLE_TO_VERIFY_LEAF",
                "UNABLE_TO_GET_ISSUER",
                "ERR_TLS",
            ],
            K::NetworkTls,
            0.93,
        ),
        (
            &[
                "ETIMEDOUT",
                "UND_ERR_CONNECT_TIMEOUT",
                "UND_ERR_HEADERS_TIMEOUT",
                "UND_ERR_BODY_TIMEOUT",
                "Connection timed out",
            ],
            K::NetworkTimeout,
            0.85,
        ),
        (&["Request timed out"], K::TimeoutApi, 0.8),
        (&["certificate", "ssl.SSLError"], K::NetworkTls, 0.75),
        (
            &["fetch failed", "httpx.ConnectError"],
            K::NetworkConnect,
            0.6,
        ),
    ];
    rules
        .into_iter()
        .find(|(words, ..)| contains_any(text, words))
        .map(|(_, kind, confidence)| (kind, confidence))
}

pub(super) fn contains_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use FailureKind as K;

    use super::*;

    /// The failure matrix of `reference/agent-streams.md` §4, first in the CLI's fields, then in what the SDK leaves.
    #[test]
    fn every_row_of_the_failure_matrix_is_named() {
        let row = |error: &str, api_error: &str, kind: &str, status: u16, text: &str| {
            let field = |value: &str| (!value.is_empty()).then(|| value.to_owned());
            ApiError {
                error: field(error),
                api_error: field(api_error),
                api_error_type: field(kind),
                status: (status != 0).then_some(status),
                text: text.to_owned(),
                ..ApiError::default()
            }
        };
        let table = [
            (
                row(
                    "authentication_failed",
                    "",
                    "authentication_error",
                    401,
                    "Invalid API key",
                ),
                K::ApiAuth,
            ),
            (
                row("authentication_failed", "", "", 0, "Not logged in"),
                K::ApiAuth,
            ),
            (
                row("authentication_failed", "", "permission_error", 403, ""),
                K::ApiAuth,
            ),
            (
                row("authentication_failed", "", "billing_error", 403, ""),
                K::ApiBilling,
            ),
            (
                row(
                    "authentication_failed",
                    "",
                    "",
                    403,
                    "API Error: 403 billing problem",
                ),
                K::ApiBilling,
            ),
            (row("unknown", "", "billing_error", 402, ""), K::ApiBilling),
            (row("unknown", "", "", 402, ""), K::ApiBilling),
            (
                row(
                    "billing_error",
                    "",
                    "invalid_request_error",
                    400,
                    "Credit balance is too low",
                ),
                K::ApiBilling,
            ),
            (row("model_not_found", "", "", 404, ""), K::ApiModelNotFound),
            (
                row("invalid_request", "", "", 400, "Prompt is too long"),
                K::ApiContextTooLong,
            ),
            (
                row("invalid_request", "", "request_too_large", 413, ""),
                K::ApiInvalidRequest,
            ),
            (
                row(
                    "unknown",
                    "",
                    "invalid_request_error",
                    400,
                    "API Error: 400 tools.0.name",
                ),
                K::ApiInvalidRequest,
            ),
            (
                row("rate_limit", "", "rate_limit_error", 429, ""),
                K::ApiRateLimit,
            ),
            (
                row("rate_limit", "usage_limit_reached", "", 429, ""),
                K::ApiUsageLimit,
            ),
            (
                row(
                    "server_error",
                    "",
                    "api_error",
                    500,
                    "check your inference gateway",
                ),
                K::ApiServerError,
            ),
            (
                row("server_error", "", "", 503, "<html>"),
                K::ApiServerError,
            ),
            (
                row("server_error", "", "overloaded_error", 529, ""),
                K::ApiOverloaded,
            ),
            (
                row("server_error", "", "", 529, "Repeated 529 Overloaded"),
                K::ApiOverloaded,
            ),
            (
                row(
                    "server_error",
                    "connection_failed",
                    "",
                    0,
                    "refused (ECONNREFUSED)",
                ),
                K::NetworkConnect,
            ),
            (
                row(
                    "server_error",
                    "",
                    "",
                    0,
                    "Can't reach the API server (EAI_AGAIN)",
                ),
                K::NetworkDns,
            ),
            (
                row(
                    "server_error",
                    "",
                    "",
                    0,
                    "Can't reach the API server (ENOTFOUND)",
                ),
                K::NetworkDns,
            ),
            (
                row("server_error", "", "", 0, "Connection dropped (ECONNRESET)"),
                K::NetworkReset,
            ),
            (
                row("server_error", "tls_untrusted_ca", "", 0, ""),
                K::NetworkTls,
            ),
            (
                row("server_error", "", "", 0, "DEPTH_ZERO_SELF_SIGNED_CERT"),
                K::NetworkTls,
            ),
            (
                row("server_error", "", "", 0, "Request timed out"),
                K::TimeoutApi,
            ),
            (
                row("max_output_tokens", "max_output_tokens", "", 0, ""),
                K::ApiMaxOutput,
            ),
            (
                row(
                    "max_output_tokens",
                    "",
                    "",
                    0,
                    "exceeded the 128000 output token maximum",
                ),
                K::ApiMaxOutput,
            ),
            (row("server_error", "", "", 0, ""), K::ApiServerError),
            (row("", "", "", 0, ""), K::Unknown),
        ];
        for (error, expected) in table {
            assert_eq!(error.kind().0, expected, "{error:?}");
        }
    }

    #[test]
    fn words_of_an_answer_are_not_taken_for_the_network() {
        let error = ApiError {
            status: Some(400),
            text: "tool said ECONNREFUSED".to_owned(),
            ..ApiError::default()
        };
        assert_eq!(error.kind().0, K::ApiInvalidRequest);
    }
}
