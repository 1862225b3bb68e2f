//! `reference/observability.md` §0, §2 and §9 as checks over every span of every recording in every dialect.

use std::collections::HashSet;
use std::sync::LazyLock;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry::{Array, Value};
use opentelemetry_sdk::Resource;
use serde_json::Value as Json;

use super::super::{Dialect, Semconv};
use super::spans::{
    ANSWER, CHAT, DIALECTS, Options, PROMPT, TOOL, TURN, everything, play, recordings, span,
    translated, value,
};
use crate::session::{FinishedSpan, SpanStatus};

static EVERYTHING: LazyLock<Vec<(String, Vec<FinishedSpan>)>> = LazyLock::new(everything);

/// Shows `check` every span before and after each dialect, under both vintages of the conventions.
fn for_all(check: impl Fn(&str, Dialect, &FinishedSpan, &FinishedSpan)) {
    for (run, spans) in EVERYTHING.iter() {
        for dialect in DIALECTS {
            for semconv in [Semconv::V1_41, Semconv::Latest] {
                for span in spans {
                    let place = format!("{run}, {}, {dialect:?}, {semconv:?}", span.name);
                    check(&place, dialect, span, &translated(span, semconv, dialect));
                }
            }
        }
    }
}

fn text<'a>(span: &'a FinishedSpan, key: &str) -> Option<&'a str> {
    match value(span, key)? {
        Value::String(text) => Some(text.as_str()),
        other => panic!("{key} is no text: {other}"),
    }
}

fn json(span: &FinishedSpan, key: &str) -> Option<Json> {
    let text = text(span, key)?;
    Some(serde_json::from_str(text).unwrap_or_else(|error| panic!("{key} = {text}: {error}")))
}

fn operation(span: &FinishedSpan) -> Option<&str> {
    text(span, "gen_ai.operation.name")
}

#[test]
fn only_a_chat_has_tokens_a_model_or_a_cost() {
    const PRICED: [&str; 15] = [
        "gen_ai.usage.",
        "gen_ai.request.model",
        "gen_ai.response.model",
        "gen_ai.aggregated_usage",
        "llm.token_count",
        "llm.cost",
        "llm.model_name",
        "operation.cost",
        "langfuse.observation.usage_details",
        "langfuse.observation.cost_details",
        "langfuse.observation.model",
        "braintrust.metrics",
        "langsmith.usage_metadata",
        "langsmith.metadata.ls_model_name",
        "model",
    ];
    let mut chats = 0;
    for (_, spans) in EVERYTHING.iter() {
        let are_chats = spans.iter().filter(|it| operation(it) == Some("chat"));
        chats += are_chats.count();
    }
    assert!(chats > 300, "{chats}");
    for_all(|place, _, _, span| {
        if operation(span) == Some("chat") {
            return;
        }
        for (key, _) in &span.attributes {
            let priced = PRICED.iter().any(|prefix| key.as_str().starts_with(prefix));
            assert!(!priced, "{place}: {key}");
        }
    });
}

#[test]
fn a_tool_alone_is_named_as_one() {
    for_all(|place, _, _, span| {
        let named = value(span, "gen_ai.tool.name").is_some()
            || value(span, "gen_ai.tool.call.id").is_some();
        assert!(!named || operation(span) == Some("execute_tool"), "{place}");
    });
}

#[test]
fn no_dialect_touches_what_a_span_is() {
    for_all(|place, _, before, after| {
        let is = |span: &FinishedSpan| FinishedSpan {
            attributes: Vec::new(),
            events: Vec::new(),
            ..span.clone()
        };
        assert_eq!(is(before), is(after), "{place}");
        let kept = &after.events[..before.events.len()];
        assert_eq!(kept, before.events, "{place}");
    });
}

#[test]
fn translating_twice_is_translating_once() {
    for_all(|place, dialect, _, once| {
        assert_eq!(dialect.span()(once.clone()), *once, "{place}");
    });
}

#[test]
fn no_key_stands_twice_on_a_span() {
    for_all(|place, _, _, span| {
        let mut seen = HashSet::new();
        for (key, _) in &span.attributes {
            assert!(seen.insert(key), "{place}: {key}");
        }
    });
}

#[test]
fn nothing_that_was_said_is_lost() {
    for_all(|place, _, before, after| {
        for (key, was) in &before.attributes {
            let kept = after.attributes.iter().any(|(_, is)| {
                is == was
                    || match (is, was) {
                        (Value::String(is), Value::String(was)) => {
                            // As a JSON string, without its quotes.
                            let quoted = Json::from(was.as_str()).to_string();
                            is.as_str().contains(&quoted[1..quoted.len() - 1])
                                || serde_json::from_str::<Json>(was.as_str()).ok()
                                    == serde_json::from_str::<Json>(is.as_str()).ok()
                        }
                        _ => false,
                    }
            });
            assert!(kept, "{place}: {key} = {was}");
        }
    });
}

#[test]
fn input_and_output_stand_together_or_not_at_all() {
    const PAIRS: [(&str, &str); 3] = [
        ("input.value", "output.value"),
        ("braintrust.input_json", "braintrust.output_json"),
        ("traceloop.entity.input", "traceloop.entity.output"),
    ];
    let mut seen = HashSet::new();
    for (run, spans) in EVERYTHING.iter() {
        for dialect in DIALECTS {
            for span in spans {
                let after = translated(span, Semconv::V1_41, dialect);
                for (input, output) in PAIRS {
                    let both = value(&after, input).is_some();
                    let place = format!("{run}, {}, {dialect:?}", span.name);
                    assert_eq!(both, value(&after, output).is_some(), "{place}: {input}");
                    if both {
                        seen.insert((input, format!("{dialect:?}")));
                    }
                }
            }
        }
    }
    for dialect in ["Langfuse", "Phoenix", "Langsmith"] {
        assert!(
            seen.contains(&("input.value", dialect.to_owned())),
            "{dialect}"
        );
    }
    assert_eq!(seen.len(), DIALECTS.len() - 8, "all but eight: {seen:?}");
}

#[test]
fn messages_are_not_hidden_by_a_preview_of_them() {
    for_all(|place, dialect, before, after| {
        if value(before, "gen_ai.input.messages").is_some() {
            assert_eq!(value(after, "input.value"), None, "{place}, {dialect:?}");
            assert_eq!(
                value(before, "gen_ai.input.messages"),
                value(after, "gen_ai.input.messages"),
                "{place}"
            );
        }
    });
}

#[test]
fn what_holds_json_parses() {
    let mut seen = HashSet::new();
    for (_, spans) in EVERYTHING.iter() {
        for dialect in DIALECTS {
            for span in spans {
                let after = translated(span, Semconv::V1_41, dialect);
                for key in [
                    "langfuse.observation.usage_details",
                    "langfuse.observation.cost_details",
                    "braintrust.span_attributes",
                    "braintrust.metrics",
                    "braintrust.input_json",
                    "braintrust.output_json",
                    "langsmith.usage_metadata",
                    "logfire.json_schema",
                    "traceloop.entity.input",
                    "traceloop.entity.output",
                    "gen_ai.input.messages",
                    "gen_ai.output.messages",
                ] {
                    if json(&after, key).is_some() {
                        seen.insert(key);
                    }
                }
            }
        }
    }
    assert_eq!(seen.len(), 12, "{seen:?}");
}

#[test]
fn every_genai_span_says_its_agent_and_conversation() {
    for (run, spans) in EVERYTHING.iter() {
        for dialect in DIALECTS {
            let mut is_known = false;
            for span in spans {
                let after = translated(span, Semconv::V1_41, dialect);
                let place = format!("{run}, {}, {dialect:?}", span.name);
                let is_genai = operation(&after).is_some();
                assert!(
                    !is_genai || text(&after, "gen_ai.agent.name").is_some(),
                    "{place}"
                );
                // Before the agent has told its session nobody can, and none is invented.
                let has_conversation = text(&after, "gen_ai.conversation.id").is_some();
                assert!(has_conversation || !is_known, "{place}");
                is_known |= has_conversation;
            }
        }
    }
}

/// Attributes of a user who knows nothing of Langfuse.
const HIJACKED: [&str; 9] = [
    "model",
    "input",
    "output",
    "prompt",
    "events",
    "tool_arguments",
    "gen_ai.prompt.name",
    "gen_ai.completion.0.content",
    "llm.input_messages.0.message.role",
];

#[test]
fn langfuse_finds_nothing_to_hijack() {
    let options = Options {
        attributes: HIJACKED.iter().map(|key| (*key, "mine")).collect(),
        ..Options::default()
    };
    for recording in ["tour", "subagent", "api_401", "compact", "hooks"] {
        let spans = play(&recordings().join(recording), "sdk", &options).unwrap();
        for span in &spans {
            assert_eq!(text(span, "model"), Some("mine"), "{recording}");
            let after = translated(span, Semconv::V1_41, Dialect::Langfuse);
            for (key, _) in &after.attributes {
                let key = key.as_str();
                assert!(
                    !HIJACKED.contains(&key),
                    "{recording}, {}: {key}",
                    span.name
                );
                assert!(!key.starts_with("gen_ai.prompt"), "{recording}: {key}");
            }
            for key in HIJACKED {
                let metadata = format!("langfuse.observation.metadata.{key}");
                assert_eq!(text(&after, &metadata), Some("mine"), "{recording}: {key}");
            }
        }
    }
}

#[test]
fn langfuse_knows_type_trace_session_and_user_of_every_observation() {
    for_all(|place, dialect, _, span| {
        let is_langfuse = matches!(dialect, Dialect::Langfuse | Dialect::LangfuseGuest);
        if !is_langfuse || place.starts_with("by hand") {
            return;
        }
        let kind = match operation(span) {
            Some("chat") => "generation",
            Some("execute_tool") => "tool",
            Some("invoke_agent") => "agent",
            _ => "span",
        };
        assert_eq!(
            text(span, "langfuse.observation.type"),
            Some(kind),
            "{place}"
        );
        assert_eq!(text(span, "user.id"), Some("ada"), "{place}");
        let conversation = text(span, "gen_ai.conversation.id");
        assert_eq!(text(span, "session.id"), conversation, "{place}");
        let is_error = matches!(span.status, SpanStatus::Error { .. });
        let level = text(span, "langfuse.observation.level");
        assert_eq!(level == Some("ERROR"), is_error, "{place}");
    });
}

#[test]
fn langfuse_hears_of_a_trace_from_a_run_that_has_one_of_its_own() {
    for_all(|place, dialect, _, span| {
        // By the caller's span: the trace is the caller's, and so are its name, its input and its output.
        let of_trace = |key: &str| {
            let is_head = key == "langfuse.internal.as_root";
            is_head || key.starts_with("langfuse.trace.")
        };
        let found = span.attributes.iter().find(|it| of_trace(it.0.as_str()));
        assert_eq!(found, None, "{place}, {dialect:?}");
    });
    let alone = play(&recordings().join("tour"), "sdk", &Options::default()).unwrap();
    for span in alone {
        for dialect in [Dialect::Langfuse, Dialect::LangfuseGuest] {
            let after = translated(&span, Semconv::V1_41, dialect);
            assert_eq!(text(&after, "langfuse.trace.name"), Some("auditor"));
        }
    }
}

#[test]
fn a_caller_that_has_told_langfuse_of_its_trace_has_the_only_head() {
    let trace_id = TraceId::from(0xabcd);
    let baggage =
        |key: &str, value: String| vec![("user.id".into(), "ada".into()), (key.into(), value)];
    let claim = "langfuse_trace_id";
    for (baggage, dialect) in [
        (baggage(claim, trace_id.to_string()), Dialect::LangfuseGuest),
        (
            baggage(claim, trace_id.to_string().to_uppercase()),
            Dialect::LangfuseGuest,
        ),
        (
            baggage(claim, TraceId::from(0xabce).to_string()),
            Dialect::Langfuse,
        ),
        (baggage("trace_id", trace_id.to_string()), Dialect::Langfuse),
        (Vec::new(), Dialect::Langfuse),
    ] {
        assert_eq!(
            Dialect::Langfuse.under(trace_id, &baggage),
            dialect,
            "{baggage:?}"
        );
        assert_eq!(Dialect::Phoenix.under(trace_id, &baggage), Dialect::Phoenix);
    }
}

#[test]
fn langfuse_counts_every_token_and_cent_once() {
    let mut priced = 0;
    for (run, spans) in EVERYTHING.iter() {
        for span in spans {
            let after = translated(span, Semconv::V1_41, Dialect::Langfuse);
            let Some(usage) = json(&after, "langfuse.observation.usage_details") else {
                assert_eq!(value(&after, "gen_ai.usage.input_tokens"), None, "{run}");
                continue;
            };
            let tokens = |key: &str| match value(&after, key) {
                Some(Value::I64(count)) => *count,
                _ => 0,
            };
            let details = usage.as_object().unwrap().iter();
            let details = details.map(|(key, count)| (key.as_str(), count.as_i64().unwrap()));
            let (output, input): (Vec<_>, Vec<_>) = details.partition(|(key, _)| *key == "output");
            assert!(
                input.iter().all(|(key, _)| key.starts_with("input")),
                "{usage}"
            );
            let sum = |parts: Vec<(&str, i64)>| parts.iter().map(|(_, count)| count).sum::<i64>();
            assert_eq!(
                sum(input),
                tokens("gen_ai.usage.input_tokens"),
                "{run}: {usage}"
            );
            assert_eq!(
                sum(output),
                tokens("gen_ai.usage.output_tokens"),
                "{run}: {usage}"
            );
            let Some(cost) = json(&after, "langfuse.observation.cost_details") else {
                continue;
            };
            priced += 1;
            let parts = cost.as_object().unwrap().iter();
            let parts = parts.filter(|(key, _)| *key != "total");
            let parts: f64 = parts.map(|(_, usd)| usd.as_f64().unwrap()).sum();
            let total = cost["total"].as_f64().unwrap();
            assert!(total > 0.0 && (parts - total).abs() < 1e-9, "{run}: {cost}");
            for key in cost
                .as_object()
                .unwrap()
                .keys()
                .filter(|key| *key != "total")
            {
                assert!(
                    usage.get(key).is_some(),
                    "{run}: {key} in {cost}, not in {usage}"
                );
            }
        }
    }
    assert!(priced > 20, "{priced}");
}

#[test]
fn a_cache_write_is_told_by_its_life_or_as_one_sum() {
    const FIVE: &str = "sandtrace.usage.cache_creation_5m_input_tokens";
    const HOUR: &str = "sandtrace.usage.cache_creation_1h_input_tokens";
    let chat = |split: &[(&'static str, i64)]| {
        let mut chat = span("chat claude-next", &[CHAT]);
        for (key, count) in [
            ("gen_ai.usage.input_tokens", 100_i64),
            ("gen_ai.usage.output_tokens", 5),
            ("gen_ai.usage.cache_read.input_tokens", 20),
            ("gen_ai.usage.cache_creation.input_tokens", 40),
        ] {
            chat.attributes.push((key.into(), count.into()));
        }
        let split = split
            .iter()
            .map(|(key, count)| ((*key).into(), (*count).into()));
        chat.attributes.extend(split);
        chat
    };
    for (split, langfuse, braintrust, langsmith) in [
        (
            vec![(FIVE, 30), (HOUR, 10)],
            r#"{"input":40,"input_cache_creation_1h":10,"input_cache_creation_5m":30,"input_cache_read":20,"output":5}"#,
            r#"{"completion_tokens":5,"prompt_cache_creation_1h_tokens":10,"prompt_cache_creation_5m_tokens":30,"prompt_cached_tokens":20,"prompt_tokens":100,"tokens":105}"#,
            r#"{"cache_read":20,"ephemeral_1h_input_tokens":10,"ephemeral_5m_input_tokens":30}"#,
        ),
        (
            vec![],
            r#"{"input":40,"input_cache_creation":40,"input_cache_read":20,"output":5}"#,
            r#"{"completion_tokens":5,"prompt_cache_creation_tokens":40,"prompt_cached_tokens":20,"prompt_tokens":100,"tokens":105}"#,
            r#"{"cache_creation":40,"cache_read":20}"#,
        ),
        (
            // More than all writes together: not believed.
            vec![(FIVE, 30), (HOUR, 11)],
            r#"{"input":40,"input_cache_creation":40,"input_cache_read":20,"output":5}"#,
            r#"{"completion_tokens":5,"prompt_cache_creation_tokens":40,"prompt_cached_tokens":20,"prompt_tokens":100,"tokens":105}"#,
            r#"{"cache_creation":40,"cache_read":20}"#,
        ),
    ] {
        for semconv in [Semconv::V1_41, Semconv::Latest] {
            let after = |dialect| translated(&chat(&split), semconv, dialect);
            let usage = after(Dialect::Langfuse);
            let usage = text(&usage, "langfuse.observation.usage_details");
            assert_eq!(usage, Some(langfuse), "{semconv:?}");
            let metrics = after(Dialect::Braintrust);
            assert_eq!(text(&metrics, "braintrust.metrics"), Some(braintrust));
            let usage = json(&after(Dialect::Langsmith), "langsmith.usage_metadata").unwrap();
            assert_eq!(usage["input_token_details"].to_string(), langsmith);
            assert_eq!(
                (&usage["input_tokens"], &usage["total_tokens"]),
                (&100.into(), &105.into())
            );
        }
    }
}

#[test]
fn phoenix_is_told_the_kinds_it_cannot_derive_and_no_others() {
    for_all(|place, dialect, _, span| {
        if dialect != Dialect::Phoenix {
            assert_eq!(value(span, "openinference.span.kind"), None, "{place}");
            return;
        }
        let kind = text(span, "openinference.span.kind");
        assert_eq!(kind.is_none(), operation(span).is_some(), "{place}");
        let is_error = matches!(span.status, SpanStatus::Error { .. });
        let told = span.events.iter().filter(|event| event.name == "exception");
        assert_eq!(told.count(), usize::from(is_error), "{place}");
        let foreign = |key: &str| key.starts_with("llm.");
        assert!(
            !span.attributes.iter().any(|(key, _)| foreign(key.as_str())),
            "{place}"
        );
    });
}

#[test]
fn phoenix_shows_what_went_into_a_tool_and_what_came_out() {
    let arguments = ("gen_ai.tool.call.arguments", "{\"command\":\"ls\"}");
    let result = ("gen_ai.tool.call.result", "total 4");
    let tool = span("execute_tool Bash", &[TOOL, arguments, result]);
    let after = translated(&tool, Semconv::V1_41, Dialect::Phoenix);
    assert_eq!(text(&after, "input.value"), Some(arguments.1));
    assert_eq!(text(&after, "input.mime_type"), Some("application/json"));
    assert_eq!(text(&after, "output.value"), Some("total 4"));
    assert_eq!(text(&after, "output.mime_type"), None);
}

#[test]
fn phoenix_gets_a_project_named_after_the_service() {
    let resource = |attributes: &[(&'static str, &'static str)]| {
        let attributes = attributes
            .iter()
            .map(|(key, value)| opentelemetry::KeyValue::new(*key, *value));
        Resource::builder_empty()
            .with_attributes(attributes)
            .build()
    };
    let books = resource(&[("service.name", "books")]);
    for dialect in DIALECTS {
        let expected = match dialect {
            Dialect::Phoenix => vec![("openinference.project.name".into(), "books".into())],
            _ => vec![],
        };
        assert_eq!(dialect.resource(&books), expected, "{dialect:?}");
    }
    assert_eq!(Dialect::Phoenix.resource(&resource(&[])), vec![]);
}

#[test]
fn signoz_and_phoenix_keep_their_cache_writes_whatever_the_conventions_say() {
    const OLD: &str = "gen_ai.usage.cache_creation.input_tokens";
    const NEW: &str = "gen_ai.usage.cache_write.input_tokens";
    for_all(|place, dialect, before, after| {
        let read = match dialect {
            Dialect::Signoz | Dialect::Phoenix => OLD,
            _ if place.ends_with("Latest") => NEW,
            _ => OLD,
        };
        assert_eq!(value(after, read), value(before, OLD), "{place}");
        let is_old = place.ends_with("V1_41");
        assert!(!is_old || value(after, NEW).is_none(), "{place}");
        if dialect == Dialect::Otlp && !is_old {
            assert_eq!(value(after, OLD), None, "{place}");
        }
        if dialect == Dialect::Signoz {
            let ttft = value(before, "gen_ai.response.time_to_first_chunk");
            assert_eq!(value(after, "gen_ai.server.ttft"), ttft, "{place}");
        }
    });
}

#[test]
fn a_run_under_a_callers_span_is_a_head_of_its_own_where_it_would_be_lost() {
    for_all(|place, dialect, _, span| {
        let is_root = span.parent_is_remote;
        assert!(!is_root || span.name == "agent.run", "{place}");
        let marked = |key: &str| value(span, key) == Some(&Value::Bool(true));
        let langfuse = marked("langfuse.internal.is_app_root");
        assert_eq!(langfuse, is_root && dialect == Dialect::Langfuse, "{place}");
        let langsmith = marked("langsmith.is_root");
        assert_eq!(
            langsmith,
            is_root && dialect == Dialect::Langsmith,
            "{place}"
        );
    });
    let alone = play(&recordings().join("tour"), "sdk", &Options::default()).unwrap();
    for span in alone {
        for dialect in DIALECTS {
            let after = translated(&span, Semconv::V1_41, dialect);
            let marks = after.attributes.iter();
            let mut marks = marks.filter(|(key, _)| key.as_str().ends_with("root"));
            assert_eq!(marks.next(), None);
        }
    }
}

#[test]
fn langsmith_renames_the_run_alone_and_opens_no_project() {
    for_all(|place, dialect, _, span| {
        if dialect != Dialect::Langsmith {
            return;
        }
        let renamed = text(span, "langsmith.trace.name").is_some();
        let is_run = span.name == "agent.run" && !place.starts_with("by hand");
        assert_eq!(renamed, is_run, "{place}");
        assert_eq!(value(span, "langsmith.trace.session_id"), None, "{place}");
        let kind = match operation(span) {
            Some("chat") => "llm",
            Some("execute_tool") => "tool",
            _ => "chain",
        };
        assert_eq!(text(span, "langsmith.span.kind"), Some(kind), "{place}");
        let session = text(span, "session.id");
        assert_eq!(
            text(span, "langsmith.metadata.session_id"),
            session,
            "{place}"
        );
    });
}

#[test]
fn a_users_tags_are_each_backends_own() {
    let tagged = span("invoke_agent auditor", &[TURN, ("tags", "nightly, audit,")]);
    let list = Value::Array(Array::String(vec!["nightly".into(), "audit".into()]));
    for (dialect, key, tags) in [
        (Dialect::Langfuse, "langfuse.trace.tags", list.clone()),
        (Dialect::Phoenix, "tag.tags", list.clone()),
        (Dialect::Braintrust, "braintrust.tags", list),
        (
            Dialect::Langsmith,
            "langsmith.span.tags",
            "nightly,audit".into(),
        ),
    ] {
        let after = translated(&tagged, Semconv::V1_41, dialect);
        assert_eq!(value(&after, key), Some(&tags), "{dialect:?}");
        assert_eq!(value(&after, "tags"), None, "{dialect:?}");
    }
}

#[test]
fn what_the_user_set_for_a_backend_stays() {
    for (dialect, key) in [
        (Dialect::Langfuse, "langfuse.trace.name"),
        (Dialect::Langfuse, "langfuse.observation.type"),
        (Dialect::Phoenix, "openinference.span.kind"),
        (Dialect::Langsmith, "langsmith.trace.name"),
        (Dialect::Braintrust, "braintrust.span_attributes"),
        (Dialect::Traceloop, "traceloop.workflow.name"),
    ] {
        let options = Options {
            attributes: vec![(key, "mine")],
            ..Options::default()
        };
        for span in play(&recordings().join("tour"), "sdk", &options).unwrap() {
            let after = translated(&span, Semconv::V1_41, dialect);
            assert_eq!(
                text(&after, key),
                Some("mine"),
                "{dialect:?}: {}",
                span.name
            );
        }
    }
}

#[test]
fn datadog_reads_a_preview_as_a_message() {
    let turn = span("invoke_agent auditor", &[TURN, PROMPT, ANSWER]);
    let after = translated(&turn, Semconv::V1_41, Dialect::Datadog);
    let input = json(&after, "gen_ai.input.messages").unwrap();
    assert_eq!(input[0]["role"], "user");
    assert_eq!(input[0]["parts"][0]["content"], PROMPT.1);
    let output = json(&after, "gen_ai.output.messages").unwrap();
    assert_eq!(output[0]["parts"][0]["content"], ANSWER.1);
    assert_eq!(output[0]["finish_reason"], "stop");
}

#[test]
fn logfire_prices_a_chat_and_knows_which_attributes_are_json() {
    for_all(|place, dialect, before, after| {
        if dialect != Dialect::Logfire {
            return;
        }
        let cost =
            value(before, "sandtrace.cost.usd").filter(|_| operation(before) == Some("chat"));
        assert_eq!(value(after, "operation.cost"), cost, "{place}");
        if let Some(schema) = json(after, "logfire.json_schema") {
            for key in schema["properties"].as_object().unwrap().keys() {
                assert!(json(after, key).is_some(), "{place}: {key}");
            }
        }
    });
}

#[test]
fn the_time_of_the_first_chunk_is_within_its_span() {
    let mut chat = span("chat claude-next", &[CHAT]);
    let key = "gen_ai.response.time_to_first_chunk";
    chat.attributes.push((key.into(), 0.25.into()));
    let time = |chat: &FinishedSpan| {
        let after = translated(chat, Semconv::V1_41, Dialect::Langfuse);
        text(&after, "langfuse.observation.completion_start_time")
            .unwrap()
            .to_owned()
    };
    assert_eq!(time(&chat), "2026-01-31T12:00:00.250000Z");
    // Carried into a fork: its request is older than its span.
    chat.attributes.last_mut().unwrap().1 = 30.0.into();
    assert_eq!(time(&chat), "2026-01-31T12:00:01.000000Z");
}

#[test]
fn the_latest_conventions_are_opted_in_to_by_their_word_alone() {
    for (value, semconv) in [
        (None, Semconv::V1_41),
        (Some(""), Semconv::V1_41),
        (Some("http"), Semconv::V1_41),
        (Some("gen_ai_latest_experimental_not"), Semconv::V1_41),
        (Some("gen_ai_latest_experimental"), Semconv::Latest),
        (
            Some("http/dup, gen_ai_latest_experimental"),
            Semconv::Latest,
        ),
    ] {
        assert_eq!(Semconv::opted_in(value), semconv, "{value:?}");
    }
}

#[test]
fn a_remote_parent_alone_makes_a_head() {
    let mut run = span("agent.run", &[]);
    run.parent_span_id = Some(SpanId::from(9));
    run.parent_is_remote = true;
    let after = translated(&run, Semconv::V1_41, Dialect::Langfuse);
    assert_eq!(
        value(&after, "langfuse.internal.is_app_root"),
        Some(&true.into())
    );
}
