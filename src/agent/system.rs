//! `system` lines of the CLI, which the SDK's system messages carry whole in `data`.
//!
//! New subtypes appear with every release of the CLI. One that is not named here changes no span and is a
//! [`AgentEvent::Note`].

use super::decode::{note, note_on};
use super::event::{
    AgentEvent, ApiRetry, CompactBoundary, Hook, Init, NoResponse, SessionState, Status, TaskEnded,
    TaskStarted, Text,
};
use super::json::{Json, fields};

fields! {
    System {
        subtype: "subtype",
        session_id: "session_id",
        uuid: "uuid",

        model: "model",
        claude_code_version: "claude_code_version",
        permission_mode: "permissionMode",
        mcp_servers: "mcp_servers",

        status: "status",
        compact_result: "compact_result",
        compact_error: "compact_error",
        compact_metadata: "compact_metadata",

        attempt: "attempt",
        max_retries: "max_retries",
        retry_delay_ms: "retry_delay_ms",
        error_status: "error_status",
        error: "error",
        no_response: "no_response",

        state: "state",

        task_id: "task_id",
        tool_use_id: "tool_use_id",
        description: "description",
        subagent_type: "subagent_type",
        task_type: "task_type",
        is_backgrounded: "is_backgrounded",
        patch: "patch",
        usage: "usage",

        hook_id: "hook_id",
        hook_name: "hook_name",
        hook_event: "hook_event" | "hook_event_name",
        exit_code: "exit_code",
        outcome: "outcome",
    }
}

/// Reads the CLI's object. `None` if it has no subtype.
pub(super) fn event(object: Json<'_>) -> Option<AgentEvent<'_>> {
    let system: System<'_> = object.fields();
    let subtype = system.subtype.text()?;
    Some(match subtype.as_ref() {
        "init" => init(&system),
        "status" => AgentEvent::Status(Status {
            status: system.status.text(),
            compact_result: system.compact_result.text(),
            compact_error: system.compact_error.text(),
            uuid: system.uuid.text(),
        }),
        "compact_boundary" => compact_boundary(&system),
        "api_retry" => AgentEvent::ApiRetry(ApiRetry {
            parent_tool_use_id: None,
            attempt: system.attempt.unsigned(),
            max_retries: system.max_retries.unsigned(),
            retry_delay_ms: system.retry_delay_ms.number(),
            error_status: system.error_status.status(),
            error: system.error.text(),
            no_response: no_response(&system),
        }),
        "session_state_changed" => AgentEvent::SessionState(session_state(system.state)),
        "task_started" => AgentEvent::TaskStarted(TaskStarted {
            task_id: system.task_id.text_or_empty(),
            tool_use_id: system.tool_use_id.text(),
            description: system.description.text(),
            subagent_type: system.subagent_type.text(),
            task_type: system.task_type.text(),
            is_backgrounded: system.is_backgrounded.is_true(),
        }),
        "task_updated" => match final_status(&system) {
            Some(status) => task_ended(&system, status),
            None => note(subtype),
        },
        "task_notification" => task_ended(&system, system.status.text_or_empty()),
        "hook_started" => AgentEvent::HookStarted(hook(&system)),
        "hook_response" => AgentEvent::HookResponse(hook(&system)),
        "permission_denied" => AgentEvent::PermissionDenied {
            tool_use_id: system.tool_use_id.text_or_empty(),
        },
        "task_progress" => note_on(subtype, system.tool_use_id.text()),
        _ => note(subtype),
    })
}

fields! {
    McpServer {
        name: "name",
        status: "status",
    }
}

fn init<'a>(system: &System<'a>) -> AgentEvent<'a> {
    let mut failed_mcp_servers = Vec::new();
    system.mcp_servers.elements(&mut |element| {
        let server: McpServer<'_> = element.fields();
        if server.status.text().as_deref() == Some("failed") {
            failed_mcp_servers.extend(server.name.text());
        }
    });
    AgentEvent::Init(Init {
        session_id: system.session_id.text(),
        model: system.model.text(),
        claude_code_version: system.claude_code_version.text(),
        permission_mode: system.permission_mode.text(),
        failed_mcp_servers,
    })
}

fields! {
    Silence {
        waited_ms: "waited_ms",
    }
}

fields! {
    CompactMetadata {
        trigger: "trigger",
        pre_tokens: "pre_tokens",
        post_tokens: "post_tokens",
        duration_ms: "duration_ms",
    }
}

fn no_response(system: &System<'_>) -> Option<NoResponse> {
    let silence: Silence<'_> = system.no_response.fields();
    system.no_response.is_object().then(|| NoResponse {
        waited_ms: silence.waited_ms.unsigned(),
    })
}

fn compact_boundary<'a>(system: &System<'a>) -> AgentEvent<'a> {
    let metadata: CompactMetadata<'_> = system.compact_metadata.fields();
    AgentEvent::CompactBoundary(CompactBoundary {
        uuid: system.uuid.text(),
        trigger: metadata.trigger.text(),
        pre_tokens: metadata.pre_tokens.unsigned(),
        post_tokens: metadata.post_tokens.unsigned(),
        duration_ms: metadata.duration_ms.unsigned(),
    })
}

fn session_state(state: Json<'_>) -> SessionState {
    match state.text().as_deref() {
        Some("running") => SessionState::Running,
        Some("requires_action") => SessionState::RequiresAction,
        Some("idle") => SessionState::Idle,
        _ => SessionState::Other,
    }
}

fields! {
    Patch {
        status: "status",
    }
}

/// The status of a patch after which the task is over. A patch without a status changes something else.
fn final_status<'a>(system: &System<'a>) -> Option<Text<'a>> {
    let patch: Patch<'_> = system.patch.fields();
    let status = patch.status.text()?;
    matches!(
        status.as_ref(),
        "completed" | "failed" | "killed" | "stopped"
    )
    .then_some(status)
}

fields! {
    TaskUsage {
        total_tokens: "total_tokens",
    }
}

fn task_ended<'a>(system: &System<'a>, status: Text<'a>) -> AgentEvent<'a> {
    let usage: TaskUsage<'_> = system.usage.fields();
    AgentEvent::TaskEnded(TaskEnded {
        task_id: system.task_id.text_or_empty(),
        tool_use_id: system.tool_use_id.text(),
        status,
        total_tokens: usage.total_tokens.unsigned(),
    })
}

fn hook<'a>(system: &System<'a>) -> Hook<'a> {
    Hook {
        hook_id: system.hook_id.text_or_empty(),
        hook_name: system.hook_name.text(),
        hook_event: system.hook_event.text(),
        session_id: system.session_id.text(),
        exit_code: system.exit_code.signed(),
        outcome: system.outcome.text(),
    }
}
