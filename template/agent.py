#!/usr/bin/env python3
"""A Claude agent for a sandbox: one prompt in, one JSON line per SDK message out.

    python3 agent.py "Summarise this repository"
    git diff | python3 agent.py --tools Read,Grep --max-budget-usd 0.50 -

Each line on stdout is one message of the Claude Agent SDK with every field that it has, its class name in `type`,
and so are the blocks within it:

    {"type":"AssistantMessage","content":[{"type":"TextBlock","text":"Hello"}],"model":"claude-...",...}

With --interactive one session goes on over stdin, one JSON object a line: user messages, answers to Claude's requests
for permission, interrupts. docs/sessions.md has the lines, and `Session` the code.

Exit codes: 0 the run succeeded; 1 it failed, and the last line on stderr says why; 2 bad usage. SIGTERM, SIGINT and
SIGHUP end Claude and its tools first; then the agent dies of that same signal, so that its parent sees the truth.

Nothing here knows of sandtrace. Copy it, change it: `options_for` is where an agent gets its character, and what it
prints can be traced as long as it prints whole messages and flushes each one.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import warnings
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    ClaudeSDKError,
    Message,
    PermissionResult,
    PermissionResultAllow,
    PermissionResultDeny,
    ResultMessage,
    SystemMessage,
    ToolPermissionContext,
    ToolUseBlock,
)
from claude_agent_sdk.types import PermissionMode, SystemPromptPreset

# The SDK's own limit of 1 MiB for a line ends the whole run when a tool returns something larger.
MAX_LINE_BYTES = 64 << 20

# A stop asks first (the turn ends, and its cost is still reported), then insists. Together well under the 10 s that
# supervisors usually wait before they kill.
INTERRUPT_SECONDS = 2.0
WIND_DOWN_SECONDS = 2.0
TERMINATE_SECONDS = 4.0

# Longest wait of a request for permission for the message that it is about.
SHOW_SECONDS = 2.0

# How soon after the end of a turn Claude begins the next one, if it has been given a message meanwhile.
NEXT_TURN_SECONDS = 1.0

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# Each of these, when set, gives the CLI a way in. A base URL counts: a gateway of one's own may want no key at all.
CREDENTIALS = """
    ANTHROPIC_API_KEY ANTHROPIC_AUTH_TOKEN ANTHROPIC_BASE_URL ANTHROPIC_IDENTITY_TOKEN ANTHROPIC_IDENTITY_TOKEN_FILE
    CLAUDE_CODE_OAUTH_TOKEN CLAUDE_CODE_OAUTH_TOKEN_FILE_DESCRIPTOR CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR
    CLAUDE_CODE_USE_ANTHROPIC_AWS CLAUDE_CODE_USE_BEDROCK CLAUDE_CODE_USE_FOUNDRY CLAUDE_CODE_USE_GATEWAY
    CLAUDE_CODE_USE_VERTEX
""".split()


class Failure(Exception):
    """The run did not succeed; the message is one sentence for people."""


# ---- command line ----------------------------------------------------------------
def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run one prompt and print each message of the SDK as a JSON line.")
    parser.add_argument("prompt", nargs="?", help="the prompt; '-' or nothing reads it from stdin")
    parser.add_argument("--interactive", action="store_true", help="keep a session: user messages, approvals and "
                        "interrupts come as JSON lines on stdin (docs/sessions.md); the prompt, if any, is the first one")
    parser.add_argument("--approve", type=names, metavar="A,B", help="with --interactive: these tools, or uses of them "
                        "such as 'Bash(git push:*)', wait for a person's yes, whatever else is allowed")
    parser.add_argument("--model", help="model name or alias; the CLI's default if not given")
    parser.add_argument("--fallback-model", help="model to use while the first one is overloaded")
    parser.add_argument("--tools", type=names, metavar="A,B", help="only these exist, and they run without asking")
    parser.add_argument("--disallowed-tools", type=names, default=[], metavar="A,B", help="these do not exist")
    parser.add_argument("--permission-mode", choices=get_args(PermissionMode), help="default: bypassPermissions inside "
                        "an E2B sandbox, which is the boundary there, unless a person can answer (--interactive without "
                        "--approve); else the CLI's own")
    parser.add_argument("--max-turns", type=positive(int), metavar="N", help="stop after N turns")
    parser.add_argument("--max-budget-usd", type=positive(float), metavar="USD", help="stop when it has cost this much")
    parser.add_argument("--system-prompt", metavar="TEXT", help="in place of Claude Code's own system prompt")
    parser.add_argument("--cwd", type=directory, metavar="DIR", help="working directory of Claude and its tools")
    parser.add_argument("--resume", metavar="SESSION", help="go on with an earlier session")
    parser.add_argument("--no-partial", dest="partial", action="store_false",
                        help="no StreamEvent lines; a trace then lacks exact output tokens and times to first token")
    args = parser.parse_args(argv)
    if args.interactive:
        if args.prompt == "-":
            parser.error("with --interactive stdin holds the session's lines: give the prompt as an argument or not at all")
        return args
    if args.approve:
        parser.error("--approve needs --interactive: nobody could answer")
    if args.prompt == "-" or (args.prompt is None and not sys.stdin.isatty()):
        args.prompt = sys.stdin.read()
    if not (args.prompt or "").strip():
        parser.error("no prompt: give it as an argument or on stdin")
    return args


def names(text: str) -> list[str]:
    # A comma inside parentheses belongs to a rule such as Bash(git log:*, git diff:*).
    parts, depth = [""], 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def positive(number: type[int] | type[float]) -> Any:
    def parse(text: str) -> int | float:
        value = number(text)
        if not 0 < value < float("inf"):
            raise ValueError(text)
        return value

    parse.__name__ = f"positive {number.__name__}"  # argparse names it in its message
    return parse


def directory(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"no such directory: {text}")
    return Path(text)


def options_for(args: argparse.Namespace) -> ClaudeAgentOptions:
    in_e2b = os.environ.get("E2B_SANDBOX") == "true"
    unattended = in_e2b and (not args.interactive or args.approve is not None)
    permission_mode: PermissionMode | None = args.permission_mode or ("bypassPermissions" if unattended else None)
    env: dict[str, str] = {}
    if "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS" not in os.environ:
        # The stream then tells when Claude waits for a person, which nothing else in it does.
        env["CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS"] = "1"
    if in_e2b and permission_mode == "bypassPermissions":
        # Root may not bypass permissions unless it vouches for the sandbox. E2B's variable is that voucher.
        env["IS_SANDBOX"] = "1"
    return ClaudeAgentOptions(
        model=args.model,
        fallback_model=args.fallback_model,
        # A rule such as Bash(git log:*) allows some uses of a tool; the tool itself is its first word.
        tools=None if args.tools is None else list(dict.fromkeys(t.split("(")[0] for t in args.tools)),
        allowed_tools=args.tools or [],
        disallowed_tools=args.disallowed_tools,
        permission_mode=permission_mode,
        # An `ask` rule is stronger than any permission mode, and than a tool's being allowed.
        settings=json.dumps({"permissions": {"ask": args.approve}}) if args.approve else None,
        max_turns=args.max_turns,
        max_budget_usd=args.max_budget_usd,
        system_prompt=args.system_prompt or SystemPromptPreset(type="preset", preset="claude_code"),
        cwd=args.cwd,
        resume=args.resume,
        include_partial_messages=args.partial,
        # Else a subagent's text, and with it its last call of the model, is not in the stream at all.
        forward_subagent_text=True,
        max_buffer_size=MAX_LINE_BYTES,
        env=env,
    )


def check_credentials() -> None:
    # A login or an apiKeyHelper in a settings file serves as well; the CLI knows best whether it is good.
    home = Path(os.environ.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude")
    files = (home / ".credentials.json", home / "settings.json", Path("/etc/claude-code/managed-settings.json"))
    if not any(map(os.environ.get, CREDENTIALS)) and not any(f.exists() for f in files):
        raise Failure("no credentials: set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN")


# ---- output ----------------------------------------------------------------------
def tagged(value: Any) -> Any:
    """A dataclass as a dict that begins with its class name, all the way down; anything unknown by its repr."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: tagged(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__} | fields
    if isinstance(value, dict):
        return {str(k): tagged(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [tagged(v) for v in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    return repr(value)


def emit(message: Any) -> None:
    # ASCII only: a sandbox's transport may cut the stream anywhere, also within a UTF-8 sequence. Flushed line by line:
    # a trace takes its times from when lines arrive.
    line = json.dumps(tagged(message), ensure_ascii=True, separators=(",", ":"))
    sys.stdout.buffer.write(line.encode("ascii") + b"\n")
    sys.stdout.buffer.flush()


# ---- the run ---------------------------------------------------------------------
async def converse(client: ClaudeSDKClient, prompt: str) -> ResultMessage | None:
    """Plays the whole conversation and returns its last result."""
    answered = asyncio.Event()

    async def prompts() -> AsyncIterator[dict[str, Any]]:
        yield user_message(prompt)
        # The CLI can be interrupted only as long as its stdin is open. Once it is closed the CLI ends by itself, but
        # not before its background tasks have: so there may be further turns, and results, after the first one.
        await answered.wait()

    result = None
    try:
        await client.connect(prompts())
        async for message in client.receive_messages():
            emit(message)
            if isinstance(message, ResultMessage):
                result = message
                answered.set()
    finally:
        answered.set()
        await client.disconnect()
    return result


def user_message(text: str) -> dict[str, Any]:
    return {"type": "user", "message": {"role": "user", "content": text}, "parent_tool_use_id": None}


async def run(options: ClaudeAgentOptions, args: argparse.Namespace) -> signal.Signals | None:
    """Runs the agent; returns the signal that stopped it, if one did. Raises if the run failed."""
    loop = asyncio.get_running_loop()
    stops: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a job in the background: stay deaf
            loop.add_signal_handler(number, stops.put_nowait, number)
    session = Session(options, args.prompt) if args.interactive else None
    client = session.client if session else ClaudeSDKClient(options)
    work = asyncio.create_task(session.converse() if session else converse(client, args.prompt))
    asked = asyncio.create_task(stops.get())
    await asyncio.wait([work, asked], return_when=asyncio.FIRST_COMPLETED)
    if session and not work.done() and session.idle and asked.result() == signal.SIGTERM:
        # Nothing is under way that would be cut short: to be asked to end is to be asked to close.
        session.close()
        await asyncio.wait({work}, timeout=WIND_DOWN_SECONDS)
        if not work.done():
            # What its tools left in the background keeps the CLI from ending. The last turn stands all the same.
            await terminate(work)
            return None if session.succeeded() else asked.result()
    if not work.done():
        await stop(client, work, session)
        return asked.result()
    asked.cancel()
    result = work.result()
    if result is None:
        if session and session.idle:
            return None  # nobody asked for anything
        raise Failure("Claude ended without a result")
    if session and session.interrupted and (result.terminal_reason or "").startswith("aborted"):
        return None  # as somebody wished
    if result.is_error:
        # `subtype` says "success" for many a failure; `is_error` is what counts.
        why = result.result or "; ".join(result.errors or []) or result.subtype
        raise Failure(f"the run failed ({result.terminal_reason or result.subtype}): {why}")
    return None


async def stop(client: ClaudeSDKClient, work: asyncio.Task[Any], session: Session | None) -> None:
    """Ends the turn, then the CLI."""
    why = "the agent was asked to stop"
    if session:
        session.deny_all(why, interrupt=True)
    with contextlib.suppress(Exception):
        await asyncio.wait_for(client.interrupt(), INTERRUPT_SECONDS)
    if session:
        session.close(why, interrupt=True)  # not before, or the CLI could no longer be interrupted
    await asyncio.wait({work}, timeout=WIND_DOWN_SECONDS)
    await terminate(work)


async def terminate(work: asyncio.Task[Any]) -> None:
    """Ends the CLI and its tools. Left alone they would outlive us: the CLI notices our death only between turns."""
    clock = asyncio.get_running_loop().time
    give_up, told = clock() + TERMINATE_SECONDS, set[int]()
    while not work.done() and clock() < give_up:
        # Looked for again and again: when the stop came early, the CLI may only just be starting.
        for pid in children() - told:
            kill(pid, signal.SIGTERM)
            told.add(pid)
        await asyncio.wait({work}, timeout=0.1)
    if not work.done():
        for pid in children():
            kill(pid, signal.SIGKILL)
        work.cancel()
        await asyncio.wait({work}, timeout=1)
    if work.done() and not work.cancelled():
        work.exception()  # how it ended no longer matters; asking keeps asyncio from complaining


def children() -> set[int]:
    # The SDK does not tell the CLI's pid, but it is our only child. On SIGTERM it takes its tools along.
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, path.read_text().split()))
    return found


def kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# ---- a session over stdin --------------------------------------------------------
class Session:
    """One conversation of many turns, in which a person answers Claude's requests for permission."""

    def __init__(self, options: ClaudeAgentOptions, prompt: str | None) -> None:
        # The SDK warns that a permission mode may leave nothing to ask for. Here `ask` rules see to that.
        warnings.filterwarnings("ignore", "can_use_tool will not be invoked")
        self.client = ClaudeSDKClient(dataclasses.replace(options, can_use_tool=self.ask))
        self.idle = True  # no turn is under way
        self.owed = False  # a message was given that no turn has begun with yet
        self.begun = 0  # how often Claude has set to work
        self.result: ResultMessage | None = None  # the last one
        self.interrupted = False  # the last turn was, by request
        self.closed = False
        self.prompts: asyncio.Queue[str | None] = asyncio.Queue()  # None: no more will come
        self.approvals: dict[str, asyncio.Future[dict[str, Any]]] = {}  # those that wait, by id
        self.shown: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)  # calls that were printed, by id
        self.asked = 0
        if prompt:
            self.say(prompt)

    async def converse(self) -> ResultMessage | None:
        """Plays the session until it is closed, and returns its last result."""
        listening = asyncio.create_task(self.listen())
        try:
            await self.client.connect(self.user_messages())
            async for message in self.client.receive_messages():
                emit(message)
                self.follow(message)
        except ClaudeSDKError:
            # The CLI's exit code, and so the SDK, call an interrupted turn an error. It is none if it was the last one.
            if self.result is None or not self.interrupted:
                raise
        finally:
            self.close()
            listening.cancel()
            await self.client.disconnect()
        return self.result

    def succeeded(self) -> bool:
        return self.result is None or not self.result.is_error

    async def user_messages(self) -> AsyncIterator[dict[str, Any]]:
        # When these end, the SDK closes the CLI's stdin once all that was said is answered. Then the CLI ends by itself.
        while (text := await self.prompts.get()) is not None:
            yield user_message(text)
            self.prompts.task_done()  # Claude has it
        self.prompts.task_done()

    def follow(self, message: Message) -> None:
        if isinstance(message, AssistantMessage):
            for block in message.content:
                if isinstance(block, ToolUseBlock):
                    self.shown[block.id].set()
        elif isinstance(message, ResultMessage):
            self.result = message
            self.shown.clear()
            self.rest()
        elif isinstance(message, SystemMessage) and message.subtype == "session_state_changed":
            if message.data.get("state") == "idle":
                self.rest()
            else:
                self.begin()
        elif isinstance(message, SystemMessage) and message.subtype == "init":
            self.begin()

    def begin(self) -> None:
        self.idle = self.owed = False
        self.begun += 1

    def rest(self) -> None:
        # A message that came meanwhile was answered in this turn, or begins the next one very soon.
        self.idle = not self.owed
        if self.owed:
            asyncio.get_running_loop().call_later(NEXT_TURN_SECONDS, self.settle, self.begun)

    def settle(self, begun: int) -> None:
        if self.begun == begun:
            self.idle, self.owed = True, False

    def say(self, text: str) -> None:
        self.idle = self.interrupted = False
        self.owed = True
        self.prompts.put_nowait(text)

    def close(self, why: str = "the session was closed before anybody answered", interrupt: bool = False) -> None:
        """Lets the turn under way come to its end, in which nobody is there to answer any more."""
        if not self.closed:
            self.closed = True
            self.prompts.put_nowait(None)
        self.deny_all(why, interrupt=interrupt)

    def deny_all(self, reason: str, by: str = "agent", interrupt: bool = False) -> None:
        for answer in self.approvals.values():
            if not answer.done():
                answer.set_result({"type": "deny", "by": by, "reason": reason, "interrupt": interrupt})

    async def ask(self, tool: str, tool_input: dict[str, Any], context: ToolPermissionContext) -> PermissionResult:
        """The SDK's `can_use_tool`: asks by a line on stdout, and waits for the answer on stdin as long as it takes."""
        # The SDK asks beside the stream of messages, and may be ahead of it. People want to see what they are asked about.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.shown[context.tool_use_id or ""].wait(), SHOW_SECONDS)
        self.asked += 1
        name = f"approval-{self.asked}"
        self.approvals[name] = asyncio.get_running_loop().create_future()
        emit({"type": "approval_request", "data": {
            "id": name, "tool_use_id": context.tool_use_id, "tool_name": tool, "input": tool_input}})
        if self.closed:
            self.deny_all("the session is closed, so nobody can answer")
        answer: dict[str, Any] = {"type": "deny", "by": "agent", "reason": "Claude no longer waits for the answer"}
        try:
            answer = await self.approvals[name]
        finally:  # the SDK cancels us when Claude withdraws its request
            del self.approvals[name]
            emit({"type": "approval_decision", "data": {
                "id": name, "decision": answer["type"], "by": answer.get("by"), "reason": answer.get("reason")}})
        if answer["type"] == "approve":
            return PermissionResultAllow(updated_input=answer.get("updated_input"))
        why = answer.get("reason") or "A person denied this tool call."
        return PermissionResultDeny(message=why, interrupt=answer.get("interrupt", False))

    async def listen(self) -> None:
        """Takes in what comes on stdin, line by line, until it ends."""
        lines: asyncio.Queue[bytes] = asyncio.Queue(maxsize=16)
        loop = asyncio.get_running_loop()

        def read() -> None:
            # A thread, since stdin may be a file, which cannot be waited for. It waits until a line is taken.
            gone = (OSError, RuntimeError, concurrent.futures.CancelledError)  # the session ends without asking stdin
            with contextlib.suppress(*gone), open(0, "rb", closefd=False) as stdin:
                while line := stdin.readline(MAX_LINE_BYTES):
                    asyncio.run_coroutine_threadsafe(lines.put(line), loop).result()
            with contextlib.suppress(*gone):
                asyncio.run_coroutine_threadsafe(lines.put(b""), loop)

        threading.Thread(target=read, daemon=True).start()
        number = 0
        try:
            while line := await lines.get():
                number += 1
                try:
                    if line.strip():
                        await self.take(line)
                except Exception as error:
                    # Whoever wrote a line that cannot be followed is told so, and the session goes on.
                    emit({"type": "input_error", "data": {"line": number, "message": one_line(error) or repr(error)}})
        finally:
            self.close()

    async def take(self, line: bytes) -> None:
        said = json.loads(line)
        kind = said.get("type") if isinstance(said, dict) else None
        if kind == "user_message":
            if self.closed:
                raise ValueError("the session is closed: a user message comes too late")
            self.say(field(said, "text", str, needed=True))
        elif kind in ("approve", "deny"):
            field(said, "by", str)
            field(said, "reason", str)
            field(said, "updated_input", dict)
            answer = self.approvals.get(field(said, "id", str, needed=True))
            if answer is None or answer.done():
                raise ValueError(f"{kind}: no approval waits under the id {said['id']!r}")
            answer.set_result({key: said[key] for key in ("type", "by", "reason", "updated_input") if key in said})
        elif kind == "interrupt":
            await self.interrupt(field(said, "by", str))
        elif kind == "close":
            self.close()
        else:
            raise ValueError("not one of the lines of docs/sessions.md: a JSON object whose type is user_message, "
                             "approve, deny, interrupt or close")

    async def interrupt(self, by: str | None) -> None:
        if self.idle:
            return
        self.interrupted = True
        self.deny_all("the turn was interrupted", by or "human", interrupt=True)
        try:
            # Else it would overtake the message that it is about.
            await asyncio.wait_for(self.prompts.join(), INTERRUPT_SECONDS)
            await asyncio.wait_for(self.client.interrupt(), INTERRUPT_SECONDS)
        except Exception as error:
            self.interrupted = False
            raise ValueError(f"interrupt: Claude did not take it ({one_line(error) or type(error).__name__})") from error


def field(said: dict[str, Any], key: str, kind: type, needed: bool = False) -> Any:
    value = said.get(key)
    if needed and not value:
        raise ValueError(f"{said['type']}: {key} is missing or empty")
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{said['type']}: {key} is no {'object' if kind is dict else 'string'}")
    return value


# ---- endings ---------------------------------------------------------------------
def one_line(words: object) -> str:
    return " ".join(str(words).split())


def die_of(number: signal.Signals) -> int:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number  # only a container's first process gets here: the kernel spares it


def main() -> int:
    args = parse_args()
    try:
        check_credentials()
        stopped_by = asyncio.run(run(options_for(args), args))
    except Failure as failure:
        print(f"agent: {one_line(failure)}", file=sys.stderr)
        return 1
    except ClaudeSDKError as error:
        # One line in the shape of a traceback's last: people read the sentence, tools the class.
        kind = type(error)
        print(f"{kind.__module__}.{kind.__qualname__}: {one_line(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Nobody reads us any more. Python would stumble over the closed stdout once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("agent: stdout was closed by its reader", file=sys.stderr)
        return 1
    return die_of(stopped_by) if stopped_by else 0


if __name__ == "__main__":
    sys.exit(main())
