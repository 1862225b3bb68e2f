#!/usr/bin/env python3
"""A Claude agent for a sandbox: one prompt in, one JSON line per SDK message out.

    python3 agent.py "Summarise this repository"
    git diff | python3 agent.py --tools Read,Grep --max-budget-usd 0.50 -

Each line on stdout is one message of the Claude Agent SDK with every field that it has, its class name in `type`,
and so are the blocks within it:

    {"type":"AssistantMessage","content":[{"type":"TextBlock","text":"Hello"}],"model":"claude-...",...}

Exit codes: 0 the run succeeded; 1 it failed, and the last line on stderr says why; 2 bad usage. SIGTERM, SIGINT and
SIGHUP end Claude and its tools first; then the agent dies of that same signal, so that its parent sees the truth.

Nothing here knows of sandtrace. Copy it, change it: `options_for` is where an agent gets its character, and what it
prints can be traced as long as it prints whole messages and flushes each one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, ClaudeSDKError, ResultMessage
from claude_agent_sdk.types import PermissionMode, SystemPromptPreset

# The SDK's own limit of 1 MiB for a line ends the whole run when a tool returns something larger.
MAX_LINE_BYTES = 64 << 20

# A stop asks first (the turn ends, and its cost is still reported), then insists. Together well under the 10 s that
# supervisors usually wait before they kill.
INTERRUPT_SECONDS = 2.0
WIND_DOWN_SECONDS = 2.0
TERMINATE_SECONDS = 4.0

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
    parser.add_argument("--model", help="model name or alias; the CLI's default if not given")
    parser.add_argument("--fallback-model", help="model to use while the first one is overloaded")
    parser.add_argument("--tools", type=names, metavar="A,B", help="only these exist, and they run without asking")
    parser.add_argument("--disallowed-tools", type=names, default=[], metavar="A,B", help="these do not exist")
    parser.add_argument("--permission-mode", choices=get_args(PermissionMode), help="default: bypassPermissions inside "
                        "an E2B sandbox, which is the boundary there and where nobody could answer; else the CLI's own")
    parser.add_argument("--max-turns", type=positive(int), metavar="N", help="stop after N turns")
    parser.add_argument("--max-budget-usd", type=positive(float), metavar="USD", help="stop when it has cost this much")
    parser.add_argument("--system-prompt", metavar="TEXT", help="in place of Claude Code's own system prompt")
    parser.add_argument("--cwd", type=directory, metavar="DIR", help="working directory of Claude and its tools")
    parser.add_argument("--resume", metavar="SESSION", help="go on with an earlier session")
    parser.add_argument("--no-partial", dest="partial", action="store_false",
                        help="no StreamEvent lines; a trace then lacks exact output tokens and times to first token")
    args = parser.parse_args(argv)
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
    permission_mode: PermissionMode | None = args.permission_mode or ("bypassPermissions" if in_e2b else None)
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
        yield {"type": "user", "message": {"role": "user", "content": prompt}, "parent_tool_use_id": None}
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


async def run(options: ClaudeAgentOptions, prompt: str) -> signal.Signals | None:
    """Runs the agent; returns the signal that stopped it, if one did. Raises if the run failed."""
    loop = asyncio.get_running_loop()
    stops: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a job in the background: stay deaf
            loop.add_signal_handler(number, stops.put_nowait, number)
    client = ClaudeSDKClient(options)
    work = asyncio.create_task(converse(client, prompt))
    asked = asyncio.create_task(stops.get())
    await asyncio.wait([work, asked], return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        await stop(client, work)
        return asked.result()
    asked.cancel()
    result = work.result()
    if result is None:
        raise Failure("Claude ended without a result")
    if result.is_error:
        # `subtype` says "success" for many a failure; `is_error` is what counts.
        why = result.result or "; ".join(result.errors or []) or result.subtype
        raise Failure(f"the run failed ({result.terminal_reason or result.subtype}): {why}")
    return None


async def stop(client: ClaudeSDKClient, work: asyncio.Task[Any]) -> None:
    """Ends the CLI and its tools. Left alone they would outlive us: the CLI notices our death only between turns."""
    with contextlib.suppress(Exception):
        await asyncio.wait_for(client.interrupt(), INTERRUPT_SECONDS)
        await asyncio.wait({work}, timeout=WIND_DOWN_SECONDS)
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
        stopped_by = asyncio.run(run(options_for(args), args.prompt))
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
