//! What must hold of every stream, however mad: each span closes exactly once, children start inside their parents and
//! end inside them unless they run in the background, and a deadline that has fired is not named again.

use proptest::prelude::*;

use super::*;
use crate::agent::event::{
    ApiRetry, ApprovalDecision, ApprovalRequest, Assistant, Block, CompactBoundary, Decision, Hook,
    Init, ResultMessage, Status, StreamEvent, StreamKind, TaskEnded, TaskStarted, ToolResult,
    ToolUse, Usage, User,
};

type Event = AgentEvent<'static>;

/// Few names, so that events meet.
fn id(prefix: &'static str) -> impl Strategy<Value = String> {
    (0..4_u8).prop_map(move |n| format!("{prefix}{n}"))
}

fn lane() -> impl Strategy<Value = Option<std::borrow::Cow<'static, str>>> {
    prop_oneof![3 => Just(None), 2 => id("tool").prop_map(|id| Some(id.into()))]
}

fn usage() -> impl Strategy<Value = Usage> {
    (0..100_u64, 0..100_u64, 0..100_u64).prop_map(|(input, output, cached)| Usage {
        input_tokens: input,
        output_tokens: output,
        cache_read_input_tokens: cached,
        ..Usage::default()
    })
}

fn block() -> impl Strategy<Value = Block<'static>> {
    prop_oneof![
        Just(Block::Text("hello".into())),
        Just(Block::Thinking {
            chars: 3,
            json: r#""hmm""#
        }),
        (id("tool"), any::<bool>()).prop_map(|(id, agent)| Block::ToolUse(ToolUse {
            id: id.into(),
            name: if agent { "Agent".into() } else { "Bash".into() },
            input: "{}",
            subagent_type: agent.then(|| "general-purpose".into()),
            description: None,
        })),
    ]
}

fn assistant() -> impl Strategy<Value = Event> {
    let synthetic = prop::bool::weighted(0.1);
    (
        lane(),
        prop::option::of(id("msg")),
        prop::collection::vec(block(), 0..3),
        usage(),
        synthetic,
    )
        .prop_map(|(lane, message, blocks, usage, synthetic)| {
            AgentEvent::Assistant(Assistant {
                message_id: message.map(Into::into),
                model: Some(if synthetic {
                    "<synthetic>".into()
                } else {
                    "claude-opus-5-5".into()
                }),
                parent_tool_use_id: lane,
                blocks,
                usage: Some(usage),
                error: synthetic.then(|| "server_error".into()),
                ..Assistant::default()
            })
        })
}

fn stream() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        (id("msg"), usage()).prop_map(|(id, usage)| StreamKind::MessageStart {
            message_id: id.into(),
            model: Some("claude-opus-5-5".into()),
            usage: Some(usage),
        }),
        Just(StreamKind::Content),
        usage().prop_map(|usage| StreamKind::MessageDelta {
            stop_reason: None,
            usage: Some(usage)
        }),
        Just(StreamKind::MessageStop),
        Just(StreamKind::Other),
    ];
    (lane(), kind).prop_map(|(lane, kind)| {
        AgentEvent::Stream(StreamEvent {
            parent_tool_use_id: lane,
            kind,
        })
    })
}

fn user() -> impl Strategy<Value = Event> {
    let result =
        (id("tool"), any::<bool>(), any::<bool>()).prop_map(|(id, is_error, background)| {
            ToolResult {
                tool_use_id: id.into(),
                is_error,
                background,
                ..ToolResult::default()
            }
        });
    (lane(), prop::collection::vec(result, 0..3)).prop_map(|(lane, results)| {
        AgentEvent::User(User {
            parent_tool_use_id: lane,
            results,
            ..User::default()
        })
    })
}

fn task() -> impl Strategy<Value = Event> {
    prop_oneof![
        (id("task"), id("tool"), any::<bool>(), any::<bool>()).prop_map(
            |(task, tool, agent, background)| {
                AgentEvent::TaskStarted(TaskStarted {
                    task_id: task.into(),
                    tool_use_id: Some(tool.into()),
                    task_type: Some(if agent {
                        "local_agent".into()
                    } else {
                        "local_bash".into()
                    }),
                    is_backgrounded: background,
                    ..TaskStarted::default()
                })
            }
        ),
        (id("task"), prop::option::of(id("tool"))).prop_map(|(task, tool)| {
            AgentEvent::TaskEnded(TaskEnded {
                task_id: task.into(),
                tool_use_id: tool.map(Into::into),
                status: "completed".into(),
                total_tokens: None,
            })
        }),
    ]
}

fn approval() -> impl Strategy<Value = Event> {
    prop_oneof![
        (id("req"), prop::option::of(id("tool"))).prop_map(|(id, tool)| {
            AgentEvent::ApprovalRequest(ApprovalRequest {
                id: id.into(),
                tool_use_id: tool.map(Into::into),
                tool_name: None,
            })
        }),
        id("req").prop_map(|id| {
            AgentEvent::ApprovalDecision(ApprovalDecision {
                id: id.into(),
                decision: Decision::Deny,
                by: None,
                reason: Some("why".into()),
            })
        }),
        Just(AgentEvent::SessionState(
            crate::agent::event::SessionState::RequiresAction
        )),
        Just(AgentEvent::SessionState(
            crate::agent::event::SessionState::Running
        )),
        Just(AgentEvent::SessionState(
            crate::agent::event::SessionState::Idle
        )),
    ]
}

fn note() -> impl Strategy<Value = Event> {
    let status = |status: Option<&'static str>, result: Option<&'static str>| {
        AgentEvent::Status(Status {
            status: status.map(Into::into),
            compact_result: result.map(Into::into),
            ..Status::default()
        })
    };
    let hook = |hook: String| Hook {
        hook_id: hook.into(),
        hook_event: Some("SessionStart".into()),
        ..Hook::default()
    };
    prop_oneof![
        Just(status(Some("requesting"), None)),
        Just(status(Some("compacting"), None)),
        Just(status(None, Some("success"))),
        Just(status(None, Some("failed"))),
        Just(AgentEvent::CompactBoundary(CompactBoundary {
            duration_ms: Some(50),
            ..CompactBoundary::default()
        })),
        lane().prop_map(|lane| AgentEvent::ApiRetry(ApiRetry {
            parent_tool_use_id: lane,
            ..ApiRetry::default()
        })),
        id("hook").prop_map(move |id| AgentEvent::HookStarted(hook(id))),
        id("hook").prop_map(move |id| AgentEvent::HookResponse(hook(id))),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => assistant(),
        4 => stream(),
        3 => user(),
        2 => task(),
        2 => approval(),
        2 => note(),
        1 => Just(AgentEvent::Init(Init { model: Some("claude-opus-5-5".into()), ..Init::default() })),
        1 => (any::<bool>(), usage()).prop_map(|(is_error, usage)| AgentEvent::Result(Box::new(ResultMessage {
            subtype: "success".into(),
            is_error,
            usage: Some(usage),
            ..ResultMessage::default()
        }))),
        1 => any::<bool>().prop_map(|success| AgentEvent::Complete { success }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_closes_every_span_once(
        events in prop::collection::vec((0..30_u64, event()), 0..60),
        code in 0..3_i32,
    ) {
        let mut replay = Replay::spawned();
        let mut millis = 10;
        for (pause, event) in events {
            millis += pause;
            replay.event(millis, event);
            prop_assert!(replay.line_span.is_some());
        }
        replay.exit(millis + 5, Termination::Exited(code));
        replay.check();
        let run = replay.finished();
        prop_assert_eq!(run.failure.is_none(), run.outcome == sandtrace_client::Outcome::Success);
    }

    #[test]
    fn a_deadline_that_has_fired_is_not_named_again(
        inputs in prop::collection::vec(0..7_u8, 0..20),
        deadline in prop::option::of(0..500_u64),
        idle in prop::option::of(0..500_u64),
        grace in 0..300_u64,
    ) {
        let mut replay = Replay::new(SessionConfig {
            deadline: deadline.map(Duration::from_millis),
            idle_timeout: idle.map(Duration::from_millis),
            grace: Duration::from_millis(grace),
            ..config()
        });
        replay.input(1, Input::Spawned { pid: 42 });
        let mut exited = false;
        for input in inputs {
            let now = replay.now + 20;
            match input {
                0 => replay.input(now, Input::StdoutClosed),
                1 => replay.input(now, Input::StderrClosed),
                2 => replay.input(now, Input::StopSignal(15)),
                3 => replay.event(now, AgentEvent::Init(Init::default())),
                4 => replay.event(now, AgentEvent::Result(Box::default())),
                5 => replay.input(now, Input::Tick),
                _ => {
                    exited = true;
                    replay.input(now, Input::Exited(Termination::Exited(0)));
                }
            }
        }
        // Only ticks from here on: every one of them must move things forward.
        let mut last = None;
        let mut ticks = 0;
        while let Some(due) = replay.session.deadline() {
            let millis = u64::try_from(due.as_millis()).unwrap().max(replay.now);
            // Two deadlines may fall on one moment, but then the first has had its effect.
            let progress = (due, replay.actions.len());
            prop_assert!(last != Some(progress), "{due:?} was named again, and nothing happened");
            last = Some(progress);
            replay.input(millis, Input::Tick);
            ticks += 1;
            prop_assert!(ticks < 20, "the machine does not come to rest");
        }
        if exited {
            replay.input(replay.now, Input::StdoutClosed);
            replay.input(replay.now, Input::StderrClosed);
            replay.input(replay.now, Input::TreeEmpty);
            replay.check();
        }
    }
}
