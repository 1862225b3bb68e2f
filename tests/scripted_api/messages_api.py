#!/usr/bin/env python3
"""A scripted Anthropic Messages API, for tests and the demo. Standard library only; listens on loopback.

    python3 messages_api.py --scenario tour --port 0 --port-file port --cwd DIR
    python3 messages_api.py --list
    python3 messages_api.py --script my_steps.json

and point the real Claude Code CLI or SDK at it:

    ANTHROPIC_BASE_URL=http://127.0.0.1:PORT ANTHROPIC_API_KEY=fake-key

How a scenario plays
--------------------
A scenario is a dict of *lanes*; a lane is a list of *steps*. Every POST /v1/messages is routed to a lane and takes
that lane's next step. The last step repeats for ever, so `[error]` is a persistent error.

  lane choice   "match:TEXT" if TEXT occurs in the request's first user message (this tells a subagent's thread from
                the main one); else "side" for a request that carries no tools (titles, summaries, probes); else "main".
  step kinds    {"blocks": [...], "usage": {...}, "stop_reason": "..."}   a reply
                {"error": {"status", "type", "message", "headers"}}       an HTTP error
                {"sse_error": {"type", "message"}, "after": N}            an error event after N events
                {"fault": "reset"|"close"|"hang", "after": N}             a broken stream after N events; -1 = before
                                                                          the first byte; "nonstream": true breaks the
                                                                          client's retry without streaming as well
  block kinds   {"type": "text"|"thinking"|"tool_use", ...} as in the API
  pacing        "delay_ms" before the first byte, "event_ms" between events, "chunk" = characters in a delta

`message_start` carries output_tokens 1 and only `message_delta` the true number, as the real API does.
`--log FILE` gets one JSON line per request, with the `usage` that the reply bills.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import scenarios

DEFAULT_USAGE = scenarios.usage(fresh=12, write=300, read=4000, out=60)
SIDE_ANSWER = scenarios.say("ok", usage=scenarios.usage(fresh=5, write=0, read=0, out=2))
FOR_EVER = 600

Json = dict[str, Any]


class Script:
    """Which step comes next: the only state that a scenario has."""

    def __init__(self, lanes: scenarios.Lanes, variables: dict[str, str]) -> None:
        self.lanes = lanes
        self.variables = variables
        self.cursor: dict[str, int] = {}

    def lane_for(self, body: Json) -> str:
        users = (m.get("content") for m in body.get("messages", []) if m.get("role") == "user")
        first = json.dumps(next(users, ""), ensure_ascii=False)
        for name in self.lanes:
            if name.startswith("match:") and name.removeprefix("match:") in first:
                return name
        return "main" if body.get("tools") else "side"

    def take(self, lane: str) -> Json:
        steps = self.lanes.get(lane)
        if steps is None:
            return SIDE_ANSWER
        at = self.cursor.get(lane, 0)
        self.cursor[lane] = at + 1
        step: Json = self.fill_in(steps[min(at, len(steps) - 1)])
        return step

    def fill_in(self, value: Any) -> Any:
        if isinstance(value, str):
            for name, text in self.variables.items():
                value = value.replace("{{" + name + "}}", text)
            return value
        if isinstance(value, list):
            return [self.fill_in(v) for v in value]
        if isinstance(value, dict):
            return {k: self.fill_in(v) for k, v in value.items()}
        return value


class Reply:
    """One step as the API would answer it: whole, or as server-sent events."""

    def __init__(self, step: Json, model: str | None, number: int) -> None:
        self.step = step
        self.number = number
        self.usage = DEFAULT_USAGE | step.get("usage", {})
        self.blocks = [self.complete(block, i) for i, block in enumerate(step.get("blocks", []))]
        self.message = {"id": f"msg_fake_{number:04d}", "type": "message", "role": "assistant",
                        "model": step.get("model") or model}

    def complete(self, block: Json, index: int) -> Json:
        defaults = {"tool_use": {"id": f"toolu_fake_{self.number:04d}_{index}"},
                    "thinking": {"signature": "c2lnbmF0dXJlLWZha2U="}}
        return defaults.get(block["type"], {}) | block

    @property
    def stop_reason(self) -> str:
        uses_tools = any(block["type"] == "tool_use" for block in self.blocks)
        return self.step.get("stop_reason") or ("tool_use" if uses_tools else "end_turn")

    def whole(self) -> Json:
        return self.message | {"content": self.blocks, "stop_reason": self.stop_reason, "stop_sequence": None,
                               "usage": self.usage}

    def events(self) -> Iterator[Json]:
        yield {"type": "message_start", "message": self.message | {
            "content": [], "stop_reason": None, "stop_sequence": None, "usage": self.usage | {"output_tokens": 1}}}
        yield {"type": "ping"}
        for i, block in enumerate(self.blocks):
            empty, deltas = self.deltas(block)
            yield {"type": "content_block_start", "index": i, "content_block": empty}
            for delta in deltas:
                yield {"type": "content_block_delta", "index": i, "delta": delta}
            yield {"type": "content_block_stop", "index": i}
        end: Json = {"stop_reason": self.stop_reason, "stop_sequence": None}
        if self.step.get("stop_details"):
            end["stop_details"] = self.step["stop_details"]
        yield {"type": "message_delta", "delta": end, "usage": self.usage}
        yield {"type": "message_stop"}

    def deltas(self, block: Json) -> tuple[Json, list[Json]]:
        kind = block["type"]
        if kind == "text":
            return block | {"text": ""}, self.cut("text_delta", "text", block["text"])
        if kind == "thinking":
            signature = {"type": "signature_delta", "signature": block["signature"]}
            return (block | {"thinking": "", "signature": ""},
                    [*self.cut("thinking_delta", "thinking", block["thinking"]), signature])
        if kind in ("tool_use", "server_tool_use"):
            # `raw_input` lets a script send arguments that are no valid JSON.
            payload = block["raw_input"] if "raw_input" in block else json.dumps(block["input"], ensure_ascii=False)
            empty = {"type": kind, "id": block["id"], "name": block["name"], "input": {}}
            return empty, self.cut("input_json_delta", "partial_json", payload)
        return block, []  # anything else is sent whole

    def cut(self, kind: str, field: str, payload: str) -> list[Json]:
        size = self.step.get("chunk", 24)
        return [{"type": kind, field: payload[at:at + size]} for at in range(0, len(payload), size)]


def unread(connection: socket.socket) -> int:
    """Bytes that wait in the receive queue of the other end, which is on this machine; 0 if it is not to be found."""
    def name(address: tuple[str, int]) -> str:
        return f"{struct.unpack('=I', socket.inet_aton(address[0]))[0]:08X}:{address[1]:04X}"

    ends = [name(connection.getpeername()), name(connection.getsockname())]
    with open("/proc/net/tcp") as sockets:
        for fields in map(str.split, sockets):
            if fields[1:3] == ends:
                return int(fields[4].split(":")[1], 16)
    return 0


class Connection:
    """One client connection: HTTP/1.1, kept alive until the client or a fault ends it."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer

    async def serve(self) -> None:
        try:
            while await self.one_request():
                pass
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # the client is gone, which is how most of them say goodbye
        finally:
            with contextlib.suppress(Exception):
                self.writer.close()

    async def one_request(self) -> bool:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        fields = (line.partition(":") for line in head[1:] if ":" in line)
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        raw = await self.read_body(headers)
        path = target.split("?")[0]
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            body = {}
        if method == "POST" and path.endswith("/v1/messages"):
            return await self.messages(headers, body)
        self.server.note(kind="other", method=method, path=path, bytes=len(raw))
        if path.endswith("/count_tokens"):
            return await self.send_json(200, {"input_tokens": 4321})
        if path.endswith("/v1/models"):
            return await self.send_json(200, {"data": [], "has_more": False})
        return await self.send_json(404, api_error("not_found_error", "not served by the scripted API"))

    async def read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self.reader.readexactly(int(headers.get("content-length") or 0))
        raw = b""
        while True:
            size = int((await self.reader.readline()).split(b";")[0], 16)
            raw += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
            if size == 0:
                return raw

    async def messages(self, headers: dict[str, str], body: Json) -> bool:
        server = self.server
        server.count += 1
        lane = server.script.lane_for(body)
        step = server.script.take(lane)
        breaks_at_once = step.get("after", -1) < 0 or (step.get("nonstream") and not body.get("stream"))
        answers = "blocks" in step and not ("fault" in step and breaks_at_once)
        server.note(kind="messages", n=server.count, lane=lane, model=body.get("model"), stream=body.get("stream"),
                    n_messages=len(body.get("messages", [])), tools=[t.get("name") for t in body.get("tools", [])],
                    retry_count=headers.get("x-stainless-retry-count"), traceparent=headers.get("traceparent"),
                    usage=DEFAULT_USAGE | step.get("usage", {}) if answers else None,
                    step={k: v for k, v in step.items() if k != "blocks"} |
                         {"blocks": [b.get("type") for b in step.get("blocks", [])]})
        await asyncio.sleep(step.get("delay_ms", 0) / 1000)
        if "error" in step:
            e = step["error"]
            body = e.get("body") or api_error(e["type"], e["message"])
            return await self.send_json(e["status"], body, e.get("headers"))
        if "fault" in step and breaks_at_once:
            return await self.break_off(step)
        if not body.get("stream"):
            if step.get("nonstream") and "sse_error" in step:
                return await self.send_json(529, {"type": "error", "error": step["sse_error"]})
            return await self.send_json(200, Reply(step, body.get("model"), server.count).whole())
        return await self.stream(step, Reply(step, body.get("model"), server.count))

    async def stream(self, step: Json, reply: Reply) -> bool:
        self.send_head(200, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache",
                             "transfer-encoding": "chunked"} | step.get("headers", {}))
        breaks_after = step.get("after")
        for n, event in enumerate(reply.events()):
            if breaks_after is not None and n >= breaks_after:
                if "sse_error" in step:
                    self.send_event({"type": "error", "error": step["sse_error"]})
                    break
                await self.writer.drain()
                await self.until_read()
                return await self.break_off(step)
            self.send_event(event)
            if step.get("event_ms"):
                await self.writer.drain()
                await asyncio.sleep(step["event_ms"] / 1000)
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        return True

    async def until_read(self) -> None:
        """What was sent must arrive before the break: a reset destroys what the other side has not read yet."""
        until = time.monotonic() + 10
        await asyncio.sleep(0.05)
        with contextlib.suppress(OSError):  # it may be gone
            while unread(self.writer.get_extra_info("socket")) and time.monotonic() < until:
                await asyncio.sleep(0.005)

    async def break_off(self, step: Json) -> bool:
        if step["fault"] == "hang":
            await asyncio.sleep(step.get("seconds", FOR_EVER))
        elif step["fault"] == "reset":
            # Linger 0 makes close() send RST in place of FIN.
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.writer.transport.abort()
        return False

    async def send_json(self, status: int, body: Json, headers: dict[str, str] | None = None) -> bool:
        data = json.dumps(body).encode()
        self.send_head(status, {"content-type": "application/json", "content-length": str(len(data))} | (headers or {}))
        self.writer.write(data)
        await self.writer.drain()
        return True

    def send_head(self, status: int, headers: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} X", f"request-id: req_fake_{self.server.count:04d}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())

    def send_event(self, event: Json) -> None:
        raw = f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
        self.writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")


class Server:
    def __init__(self, script: Script, log: Path | None) -> None:
        self.script = script
        self.count = 0
        self.start = time.monotonic()
        self.log = log.open("a", buffering=1) if log else None

    def note(self, **entry: Any) -> None:
        if self.log:
            entry["t_ms"] = round((time.monotonic() - self.start) * 1000)
            self.log.write(json.dumps(entry, ensure_ascii=False) + "\n")

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(self, reader, writer).serve()


def api_error(kind: str, message: str) -> Json:
    return {"type": "error", "error": {"type": kind, "message": message}}


def lay_out_seed(directory: Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = directory / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)


async def serve(args: argparse.Namespace) -> None:
    if args.script:
        lanes = json.loads(args.script.read_text())
        lanes = lanes if isinstance(lanes, dict) else {"main": lanes}
    else:
        lanes = scenarios.LANES[args.scenario]
    variables = dict(v.split("=", 1) for v in args.var)
    if args.cwd:
        lay_out_seed(args.cwd, scenarios.SEEDS.get(args.scenario, scenarios.DEFAULT_SEED))
        variables.setdefault("CWD", str(args.cwd.resolve()))
    server = Server(Script(lanes, variables), args.log)
    listener = await asyncio.start_server(server.accept, args.host, args.port, limit=1 << 26)
    port = listener.sockets[0].getsockname()[1]
    if args.port_file:
        # Renamed into place, so that whoever waits for the file never reads half a number.
        half = args.port_file.with_name(args.port_file.name + ".tmp")
        half.write_text(str(port))
        os.replace(half, args.port_file)
    print(f"listening on http://{args.host}:{port}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    # No orderly close: a hanging connection would outlast it.
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="plain_text", choices=list(scenarios.LANES), metavar="NAME")
    parser.add_argument("--script", type=Path, help="a JSON file of lanes, instead of a named scenario")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8787, help="0 = any free port; see --port-file")
    parser.add_argument("--port-file", type=Path, help="where to write the port, once it listens")
    parser.add_argument("--cwd", type=Path, help="the agent's directory: {{CWD}}, and where the seed files go")
    parser.add_argument("--log", type=Path, help="append one JSON line per request")
    parser.add_argument("--var", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    args = parser.parse_args()
    if args.list:
        for name, doc in scenarios.listing():
            print(f"{name:28} {doc}")
        return
    asyncio.run(serve(args))


if __name__ == "__main__":
    main()
