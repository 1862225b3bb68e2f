"""Plays one scene with E2B's unmodified SDK and the programs of docs/python.md, and prints what a user sees as JSON.

    python drive.py SCENE

tests/client/sdks.rs runs it, and says where the sandbox is: E2B_DEBUG and E2B_SANDBOX_URL. drive.ts is its twin.
"""

import json
import shlex
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from e2b import CommandExitException, Sandbox
from opentelemetry import context, trace

from approve import converse
from follow_agent import Lost, follow_agent
from run_agent import AGENT, environment
from sandtrace_events import Event, Events

PROMPT = "Do 'the' thing."
TRACE = 0x0AF7651916CD43DD8448EB211C80319C
PARENT = 0xB7AD6B7169203331

facts: dict[str, Any] = {"events": [], "exception": None, "exit_code": None}
sandbox = Sandbox.create()


def note(event: Event) -> None:
    facts["events"].append(event)


def run(command: str, timeout: float = 0, reaction: Callable[[Event], None] = note) -> None:
    """commands.run, and what becomes of it."""
    events = Events()

    def on_stdout(text: str) -> None:
        for event in events.feed(text):
            reaction(event)

    try:
        sandbox.commands.run(command, envs=envs, timeout=timeout, on_stdout=on_stdout, retain_output=False)
        facts["exit_code"] = 0
    except CommandExitException as ended:
        facts["exception"], facts["exit_code"] = type(ended).__name__, ended.exit_code
    except Exception as problem:
        facts["exception"], facts["message"] = type(problem).__name__, str(problem)


def at_first_tool(reaction: Callable[[], object]) -> Callable[[Event], None]:
    """Once, when the agent's first tool begins."""
    waiting = True

    def react(event: Event) -> None:
        nonlocal waiting
        note(event)
        if waiting and event["type"] == "sandtrace.span.started" and event["data"]["name"] == "execute_tool Bash":
            waiting = False
            reaction()

    return react


def agent_pid() -> int:
    started = facts["events"][0]
    assert started["type"] == "sandtrace.run.started", started
    return int(started["data"]["pid"])


def pieces() -> None:
    """No sandbox: the same lines in many pieces, with what else a stream may hold."""

    def line(seq: int) -> str:
        return json.dumps({"type": "text", "data": {"text": "\u00e9\u20ac"}, "sandtrace": {"seq": seq}}, ensure_ascii=False)

    lines = ["Welcome!", line(1), line(2), '{"type":"no stamp"}', "[3]", "17", "null", "{", line(2), line(1), line(3)]
    stream = "\n".join(lines) + "\n" + line(4)[:20]
    sequences = []
    for size in (1, 7, len(stream)):
        events = Events()
        told = [event for at in range(0, len(stream), size) for event in events.feed(stream[at : at + size])]
        events.reconnected()
        told += events.feed(line(4) + "\n" + line(5))
        sequences.append([event["sandtrace"]["seq"] for event in told])
    facts["sequences"] = sequences


def failure() -> None:
    run(f"sandtrace run -- {AGENT} {shlex.quote(PROMPT)}")


def kill() -> None:
    reaction = at_first_tool(lambda: sandbox.commands.run(f"kill -9 {agent_pid()}"))
    run(f"sandtrace run -- {AGENT} --tools Bash {shlex.quote(PROMPT)}", reaction=reaction)


def stop() -> None:
    reaction = at_first_tool(lambda: sandbox.commands.run("sandtrace stop stopped"))
    run(f"sandtrace run --run-id stopped -- {AGENT} --tools Bash {shlex.quote(PROMPT)}", reaction=reaction)


def timeout() -> None:
    run(f"sandtrace run --run-id limited -- {AGENT} --tools Bash {shlex.quote(PROMPT)}", timeout=4)
    facts["first"] = {"exception": facts["exception"], "message": facts["message"], "events": facts["events"]}
    facts["events"] = []
    run("sandtrace attach limited --after 0")


def follow() -> None:
    for event in follow_agent(sandbox, PROMPT, envs):
        note(event)


def lost() -> None:
    killed = False
    try:
        for event in follow_agent(sandbox, PROMPT, envs):
            note(event)
            if not killed:
                killed = True
                for process in sandbox.commands.list():
                    sandbox.commands.kill(process.pid)
    except Lost as problem:
        facts["exception"], facts["message"] = "Lost", str(problem)


def approve() -> None:
    asked = []

    def allows(tool: str, tool_input: dict[str, Any]) -> bool:
        asked.append([tool, tool_input["command"]])
        return len(asked) == 1

    for event in converse(sandbox, PROMPT, envs, allows):
        note(event)
    facts["asked"] = asked


parent = trace.SpanContext(TRACE, PARENT, is_remote=False, trace_flags=trace.TraceFlags(1))
token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(parent)))
envs = environment(datetime.now(timezone.utc) + timedelta(hours=1))
scenes = [pieces, failure, kill, stop, timeout, follow, lost, approve]
{scene.__name__: scene for scene in scenes}[sys.argv[1]]()
json.dump(facts, sys.stdout)
