//! The failure matrix of `reference/agent-streams.md` §4, each row with the fields that the real CLI gave it.

use super::*;

/// A row of the matrix: what it is called there, its fields, the verdict.
#[rustfmt::skip]
#[test]
fn every_row_of_the_failure_matrix_has_its_verdict() {
    let auth = "authentication_failed";
    let cli_killed =
        "claude_agent_sdk._errors.ProcessError: Command failed with exit code -9 (exit code: -9)";
    let table: Vec<(&str, Row, &str)> = vec![
        ("401 invalid key", call(401, auth, "", "authentication_error", "Invalid API key · Fix external API key"), "api.auth"),
        ("no key", call(0, auth, "", "", "Not logged in · Please run /login"), "api.auth"),
        ("403 permission", call(403, auth, "", "permission_error", "API Error: 403 no permission"), "api.auth"),
        ("403 billing", call(403, auth, "", "billing_error", "API Error: 403"), "api.billing"),
        ("402 billing", call(402, "unknown", "", "billing_error", "API Error: 402"), "api.billing"),
        ("402 billing, dataclass", call(402, "unknown", "", "", "API Error: 402"), "api.billing"),
        ("400 credit too low", call(400, "billing_error", "", "invalid_request_error", "Credit balance is too low"), "api.billing"),
        ("404 model", call(404, "model_not_found", "", "not_found_error", "There's an issue with the selected model"), "api.model_not_found"),
        ("404 model, stderr", call(404, "model_not_found", "", "", "").said("[claude-code:unrecognized_model] {}"), "api.model_not_found"),
        ("400 prompt too long", call(400, "invalid_request", "", "", "Prompt is too long").terminal("prompt_too_long"), "api.context_too_long"),
        ("413", call(413, "invalid_request", "", "request_too_large", "Request too large").terminal("image_error"), "api.invalid_request"),
        ("400 other", call(400, "unknown", "", "invalid_request_error", "API Error: 400 tools.0.name"), "api.invalid_request"),
        ("429 persistent", call(429, "rate_limit", "", "rate_limit_error", "API Error: 429"), "api.rate_limit"),
        ("429 then ok", ended(0).well().retried(1, Some(429), "api.rate_limit"), "-"),
        ("usage limit", call(429, "rate_limit", "usage_limit_reached", "", "You've hit your limit"), "api.usage_limit"),
        ("500", call(500, "server_error", "", "api_error", "API Error: 500"), "api.server_error"),
        ("503 html", call(503, "server_error", "", "", "API Error: 503 <html>"), "api.server_error"),
        ("529", call(529, "server_error", "", "overloaded_error", "Repeated 529 Overloaded errors"), "api.overloaded"),
        ("refused", refused(), "network.connect"),
        ("DNS, no resolver", call(0, "server_error", "connection_failed", "", "(EAI_AGAIN)"), "network.dns"),
        ("DNS, NXDOMAIN", call(0, "server_error", "connection_failed", "", "(ENOTFOUND)"), "network.dns"),
        ("RST", call(0, "server_error", "connection_failed", "", "(ECONNRESET)"), "network.reset"),
        ("TLS untrusted", call(0, "server_error", "tls_untrusted_ca", "", "(DEPTH_ZERO_SELF_SIGNED_CERT)"), "network.tls"),
        ("TLS untrusted, dataclass", call(0, "server_error", "", "", "(DEPTH_ZERO_SELF_SIGNED_CERT)"), "network.tls"),
        ("TLS before its time", call(0, "server_error", "", "", "(CERT_NOT_YET_VALID)"), "network.tls"),
        ("no response", unanswered(), "timeout.api"),
        ("reset mid-stream once", ended(0).well().retried(1, None, "network.reset"), "-"),
        ("mid-stream for ever, connection", call(0, "server_error", "connection_failed", "", "Connection closed mid-response"), "network.connect"),
        ("mid-stream for ever, 529", call(529, "server_error", "", "overloaded_error", "529"), "api.overloaded"),
        ("stream stalls, then answers", ended(0).well(), "-"),
        ("refusal", call(0, "invalid_request", "", "", "declined").stopped("refusal"), "api.refusal"),
        ("max_tokens cut", call(0, "max_output_tokens", "max_output_tokens", "", "exceeded the 32000 output token maximum"), "api.max_output"),
        ("max_turns", result(1, "error_max_turns", "max_turns", "Reached maximum number of turns (3)"), "limit.turns"),
        ("budget", result(1, "error_max_budget_usd", "budget_exhausted", ""), "limit.budget"),
        ("structured output", result(1, "error_max_structured_output_retries", "structured_output_retry_exhausted", ""), "limit.structured_output"),
        ("bad resume id, CLI", result(1, "error_during_execution", "", "No conversation found with session ID: x"), "crash.bad_session"),
        ("bad resume id, SDK", ended(1).silent().said("No conversation found with session ID: x"), "crash.bad_session"),
        ("unknown flag", ended(1).silent().said("error: unknown option '--nope'"), "crash.exit_code"),
        ("interrupt()", result(0, "error_during_execution", "aborted_streaming", "[ede_diagnostic]"), "cancelled.user"),
        ("CLI SIGINT", result(0, "error_during_execution", "aborted_tools", "[ede_diagnostic]"), "cancelled.user"),
        ("CLI SIGTERM", ended(143).open(), "crash.signal"),
        ("CLI SIGKILL", signalled(9), "crash.signal"),
        ("CLI child killed under the SDK", ended(1).open().said(cli_killed), "crash.signal"),
        ("python OOM by the kernel, without its evidence", signalled(9), "crash.signal"),
        ("python OOM by rlimit", ended(1).open().said("MemoryError"), "oom.heap"),
        ("python exception", ended(1).open().said("ValueError: bad"), "crash.exception"),
        ("no module", ended(1).silent().said("ModuleNotFoundError: No module named 'x'"), "crash.exception"),
        ("CLI missing", ended(1).silent().said("claude_agent_sdk._errors.CLINotFoundError: Claude Code not found"), "crash.exception"),
        ("syntax", ended(1).silent().said("SyntaxError: invalid syntax"), "crash.exception"),
        ("segfault", signalled(11), "crash.signal"),
        ("SIGTERM", signalled(15), "crash.signal"),
        ("SIGINT", signalled(2), "crash.signal"),
        ("os._exit(0) mid-run", ended(0).open(), "crash.no_result"),
    ];
    let wrong: Vec<String> = table
        .iter()
        .filter(|(_, row, expected)| row.name() != *expected)
        .map(|(name, row, expected)| format!("{name}: {}, not {expected}", row.name()))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // Neither a probe nor a socket changes what an answer, a certificate or a success says.
    for (name, row, expected) in table {
        if row.doubt() != Doubt::None {
            continue;
        }
        let before = row.failure();
        let row = row
            .failed()
            .probed(ProbeOutcome::Refused)
            .stuck(SocketOwner::Agent, Trouble::Silent);
        assert_eq!(row.name(), expected, "{name}");
        let confidence = |failure: Option<Failure>| failure.map(|failure| failure.confidence);
        assert_eq!(confidence(row.failure()), confidence(before), "{name}");
    }
}
