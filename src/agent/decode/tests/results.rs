//! Results and rate limits, in each dialect.

use super::{event, result, text};
use crate::agent::event::*;

#[test]
fn a_result_in_three_dialects() {
    let common = r#""subtype":"success","duration_ms":1301,"duration_api_ms":95,"is_error":true,"num_turns":4,"session_id":"s1","stop_reason":"end_turn","total_cost_usd":0.007096,"usage":{"input_tokens":24,"output_tokens":120},"result":"API Error","api_error_status":429,"terminal_reason":"api_error","permission_denials":[{"tool_name":"Bash","tool_use_id":"toolu_1","tool_input":{}}],"errors":["one","two"],"origin":{"kind":"task-notification"}"#;
    let models = r#"{"claude-opus-5-5":{"inputTokens":24,"outputTokens":120,"cacheReadInputTokens":8000,"cacheCreationInputTokens":600,"costUSD":0.007096,"cacheCreationEphemeral5mInputTokens":0,"cacheCreationEphemeral1hInputTokens":600}}"#;
    let model_usage = vec![ModelUsage {
        model: "claude-opus-5-5".into(),
        usage: Usage {
            input_tokens: 24,
            output_tokens: 120,
            cache_read_input_tokens: 8000,
            cache_creation_input_tokens: 600,
            cache_creation_5m: Some(0),
            cache_creation_1h: Some(600),
        },
        cost_usd: Some(0.007096),
    }];
    let expected = ResultMessage {
        subtype: "success".into(),
        is_error: true,
        api_error_status: Some(429),
        terminal_reason: text("api_error"),
        stop_reason: text("end_turn"),
        num_turns: Some(4),
        duration_ms: Some(1301),
        duration_api_ms: Some(95),
        result: text("API Error"),
        errors: vec!["one".into(), "two".into()],
        total_cost_usd: Some(0.007096),
        usage: Some(Usage {
            input_tokens: 24,
            output_tokens: 120,
            ..Usage::default()
        }),
        model_usage: model_usage.clone(),
        permission_denials: vec!["toolu_1".into()],
        session_id: text("s1"),
        origin: text("task-notification"),
        ..ResultMessage::default()
    };
    let tagged = format!(r#"{{"type":"ResultMessage",{common},"model_usage":{models}}}"#);
    let plain = format!(r#"{{{common},"model_usage":{models}}}"#);
    assert_eq!(result(&tagged), expected);
    assert_eq!(result(&plain), expected);
    let cli = format!(
        r#"{{{common},"modelUsage":{models},"model_usage_since_last_result":{models},"subagent_stats":{{"spawned":2}},"type":"result"}}"#
    );
    assert_eq!(
        result(&cli),
        ResultMessage {
            model_usage_delta: model_usage,
            subagents_spawned: Some(2),
            ..expected
        }
    );
    let nulls = r#"{"type":"ResultMessage","subtype":"error_max_turns","is_error":true,"result":null,"errors":null,"permission_denials":null,"model_usage":null,"usage":null,"origin":null}"#;
    assert_eq!(
        result(nulls),
        ResultMessage {
            subtype: "error_max_turns".into(),
            is_error: true,
            ..ResultMessage::default()
        }
    );
}

#[test]
fn a_rate_limit_in_three_dialects() {
    let expected = AgentEvent::RateLimit(RateLimit {
        status: "rejected".into(),
        rate_limit_type: text("five_hour"),
        resets_at: Some(1_893_456_000),
        utilization: Some(0.91),
    });
    for line in [
        r#"{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1893456000,"rateLimitType":"five_hour","utilization":0.91}}"#,
        r#"{"type":"RateLimitEvent","rate_limit_info":{"type":"RateLimitInfo","status":"rejected","resets_at":1893456000,"rate_limit_type":"five_hour","utilization":0.91,"raw":{"status":"allowed"}}}"#,
        r#"{"rate_limit_info":{"status":"rejected","resets_at":1893456000,"rate_limit_type":"five_hour","utilization":0.91},"uuid":"u","session_id":"s"}"#,
    ] {
        assert_eq!(event(line), expected, "{line}");
    }
}
