use std::borrow::Cow;
use std::time::Duration;

use opentelemetry::Key;
use opentelemetry::trace::{SpanId, SpanKind, TraceId};

use super::*;
use crate::time::UnixNanos;

fn span(name: &'static str, attributes: &[(&'static str, Value)]) -> FinishedSpan {
    let attributes = attributes.iter().cloned();
    FinishedSpan {
        trace_id: TraceId::from(1),
        span_id: SpanId::from(2),
        parent_span_id: None,
        parent_is_remote: false,
        name: Cow::Borrowed(name),
        kind: SpanKind::Internal,
        start: UnixNanos(0),
        end: UnixNanos(0).plus(Duration::from_millis(1_500)),
        status: SpanStatus::Unset,
        attributes: attributes
            .map(|(key, value)| (Key::from_static_str(key), value))
            .collect(),
        events: Vec::new(),
        dropped_events: 0,
        link: None,
        content: Vec::new(),
    }
}

fn failed(mut span: FinishedSpan, error: Option<&'static str>) -> FinishedSpan {
    span.status = SpanStatus::Error { message: "".into() };
    let error = error.map(|error| (Key::from_static_str(key::ERROR_TYPE), error.into()));
    span.attributes.extend(error);
    span
}

/// A chat whose stream told everything.
fn chat(extra: &[(&'static str, Value)]) -> FinishedSpan {
    let told = [
        (key::GEN_AI_OPERATION, "chat".into()),
        (key::GEN_AI_PROVIDER, value::ANTHROPIC.into()),
        (key::GEN_AI_REQUEST_MODEL, "claude-opus-5-5".into()),
        (key::GEN_AI_AGENT_NAME, "main".into()),
        (key::GEN_AI_INPUT_TOKENS, 4_312.into()),
        (key::GEN_AI_CACHE_READ, 4_000.into()),
        (key::GEN_AI_CACHE_CREATION, 300.into()),
        // What must never become a label.
        (key::SESSION_ID, "a-session".into()),
        (key::RUN_ID, "a-run".into()),
        (key::GEN_AI_CONVERSATION_ID, "a-conversation".into()),
        (key::GEN_AI_RESPONSE_ID, "msg_1".into()),
    ];
    span("chat claude-opus-5-5", &[&told, extra].concat())
}

/// A line for each: which, how much, of what.
fn lines(measurements: &[Measurement]) -> Vec<String> {
    let line = |it: &Measurement| {
        let pairs = it.attributes.iter();
        let pairs: Vec<_> = pairs
            .map(|pair| format!("{}={}", pair.key, pair.value))
            .collect();
        format!("{:?} {} {}", it.measure, it.figure.real(), pairs.join(" "))
    };
    measurements.iter().map(line).collect()
}

#[test]
fn each_kind_of_span_is_measured_by_its_own_row() {
    const REQUEST: &str = "gen_ai.operation.name=chat gen_ai.provider.name=anthropic gen_ai.request.model=claude-opus-5-5";
    let tool = |extra: &[(&'static str, Value)]| {
        let own = [
            (key::GEN_AI_OPERATION, "execute_tool".into()),
            (key::GEN_AI_TOOL_NAME, "Bash".into()),
            (key::GEN_AI_TOOL_TYPE, "function".into()),
            (key::GEN_AI_TOOL_CALL_ID, "toolu_1".into()),
        ];
        span("execute_tool Bash", &[&own, extra].concat())
    };
    let table: Vec<(FinishedSpan, Vec<String>)> = vec![
        (
            chat(&[
                (key::GEN_AI_OUTPUT_TOKENS, 60.into()),
                (key::GEN_AI_TIME_TO_FIRST_CHUNK, 0.25.into()),
                (key::COST_USD, 0.003_548.into()),
                (key::USER_ID, "ada".into()),
            ]),
            vec![
                format!("OperationDuration 1.5 {REQUEST}"),
                format!("TimeToFirstChunk 0.25 {REQUEST}"),
                format!("TokenUsage 4312 {REQUEST} gen_ai.token.type=input"),
                format!("TokenUsage 60 {REQUEST} gen_ai.token.type=output"),
                format!("CacheTokens 4000 {REQUEST} sandtrace.cache=read"),
                format!("CacheTokens 300 {REQUEST} sandtrace.cache=creation"),
                "Cost 0.003548 gen_ai.request.model=claude-opus-5-5 gen_ai.agent.name=main user.id=ada".to_owned(),
            ],
        ),
        (
            failed(
                span("chat", &[(key::GEN_AI_OPERATION, "chat".into())]),
                Some("api.overloaded"),
            ),
            vec![
                "OperationDuration 1.5 gen_ai.operation.name=chat error.type=api.overloaded".to_owned(),
                "Errors 1 error.type=api.overloaded sandtrace.span=chat".to_owned(),
            ],
        ),
        (
            failed(tool(&[]), Some("tool_error")),
            vec![
                "ExecuteToolDuration 1.5 gen_ai.operation.name=execute_tool gen_ai.tool.name=Bash gen_ai.tool.type=function error.type=tool_error".to_owned(),
                "Errors 1 error.type=tool_error sandtrace.span=execute_tool".to_owned(),
            ],
        ),
        (
            span(
                "invoke_agent main",
                &[
                    (key::GEN_AI_OPERATION, "invoke_agent".into()),
                    (key::GEN_AI_AGENT_NAME, "main".into()),
                    (key::TURN, 1.into()),
                ],
            ),
            vec![
                "InvokeAgentDuration 1.5 gen_ai.operation.name=invoke_agent gen_ai.agent.name=main".to_owned(),
            ],
        ),
        (
            span("approval Bash", &[(key::APPROVAL_DECISION, "deny".into())]),
            vec!["ApprovalDuration 1.5 sandtrace.approval.decision=deny".to_owned()],
        ),
        // Cancelled is no error, though it says what cancelled it.
        (
            span(
                "agent.run",
                &[
                    (key::OUTCOME, "cancelled".into()),
                    (key::ERROR_TYPE, "cancelled.host".into()),
                ],
            ),
            vec!["Runs 1 sandtrace.outcome=cancelled error.type=cancelled.host".to_owned()],
        ),
        (
            failed(span("hook PreToolUse", &[]), None),
            vec!["Errors 1 error.type=_OTHER sandtrace.span=hook".to_owned()],
        ),
        (span("compact", &[]), vec![]),
    ];
    for (span, expected) in table {
        assert_eq!(lines(&measurements(&span)), expected, "{}", span.name);
    }
}

/// Cost, input and output tokens, as they add up.
fn sums(measurements: &[Measurement]) -> (f64, f64, f64) {
    let of = |wanted: &str| -> f64 {
        let all = measurements.iter().zip(lines(measurements));
        let found = all.filter(|(_, line)| line.contains(wanted));
        found.map(|(it, _)| it.figure.real()).sum()
    };
    (of("Cost"), of("type=input"), of("type=output"))
}

fn turn(usd: f64) -> FinishedSpan {
    let attributes = [(key::TURN, 1.into()), (key::COST_USD, usd.into())];
    span("invoke_agent main", &attributes)
}

fn run(usd: f64, input: i64, output: i64) -> FinishedSpan {
    span(
        "agent.run",
        &[
            (key::COST_USD, usd.into()),
            (key::USAGE_INPUT, input.into()),
            (key::USAGE_OUTPUT, output.into()),
            (key::USAGE_CACHE_READ, 4_000.into()),
            (key::USAGE_CACHE_CREATION, 300.into()),
        ],
    )
}

#[test]
fn what_calls_told_is_not_measured_again_by_the_turn_or_the_run() {
    let mut books = Books::default();
    let mut all = books.measure(&chat(&[
        (key::GEN_AI_OUTPUT_TOKENS, 60.into()),
        (key::COST_USD, 0.003_548.into()),
    ]));
    all.extend(books.measure(&turn(0.003_548)));
    all.extend(books.measure(&run(0.003_548, 4_312, 60)));
    assert_eq!(sums(&all), (0.003_548, 4_312.0, 60.0));
}

#[test]
fn what_calls_did_not_tell_is_measured_when_it_is_known_for_their_model() {
    let mut books = Books::default();
    let mut all = books.measure(&chat(&[]));
    assert_eq!(sums(&all), (0.0, 4_312.0, 0.0));
    let at_turn = books.measure(&turn(0.003_548));
    assert!(
        lines(&at_turn).contains(&"Cost 0.003548 gen_ai.request.model=claude-opus-5-5".to_owned()),
        "{:?}",
        lines(&at_turn)
    );
    all.extend(at_turn);
    let at_end = books.measure(&run(0.003_548, 4_312, 60));
    assert!(
        lines(&at_end)
            .iter()
            .any(|line| line.starts_with("TokenUsage 60 ")
                && line.contains("gen_ai.request.model=claude-opus-5-5")),
        "{:?}",
        lines(&at_end)
    );
    all.extend(at_end);
    assert_eq!(sums(&all), (0.003_548, 4_312.0, 60.0));
}

#[test]
fn calls_that_nobody_saw_belong_to_no_model() {
    let mut books = Books::default();
    let mut all = books.measure(&chat(&[
        (key::GEN_AI_OUTPUT_TOKENS, 60.into()),
        (key::COST_USD, 0.003_548.into()),
    ]));
    let at_turn = books.measure(&turn(0.010));
    let owed: Vec<_> = lines(&at_turn);
    let cost = owed.iter().find(|line| line.starts_with("Cost")).unwrap();
    assert!(!cost.contains("model"), "{cost}");
    all.extend(at_turn);
    all.extend(books.measure(&run(0.010, 9_000, 100)));
    let (usd, input, output) = sums(&all);
    assert!((usd - 0.010).abs() < 1e-12, "{usd}");
    assert_eq!((input, output), (9_000.0, 100.0));
}

#[test]
fn a_counter_does_not_fall_when_the_agent_says_less_than_the_price_table() {
    let mut books = Books::default();
    let told = chat(&[
        (key::GEN_AI_OUTPUT_TOKENS, 60.into()),
        (key::COST_USD, 0.5.into()),
    ]);
    let mut all = books.measure(&told);
    all.extend(books.measure(&turn(0.2)));
    // The next turn's cost is set off against it.
    all.extend(books.measure(&turn(0.6)));
    assert!((sums(&all).0 - 0.8).abs() < 1e-12, "{:?}", sums(&all));
}
