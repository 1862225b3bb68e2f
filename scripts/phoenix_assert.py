"""Reads the tour's trace from a Phoenix server and checks it against the script that the model played.

Phoenix makes its own sense of OpenTelemetry's GenAI attributes: `gen_ai.operation.name` becomes a span kind, and the
usage becomes `llm.token_count.*`. That is what its pages show, so that is what is checked, and the names and the tree.
Standard library only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "scripted_api"))
import scenarios  # found by the line above

Span = dict[str, Any]

KINDS = {"invoke_agent": "AGENT", "chat": "LLM", "execute_tool": "TOOL"}
SUBAGENT = "general-purpose"

failures = 0


def check(what: str, found: object, wanted: object) -> None:
    global failures
    if found == wanted:
        print(f"  ok    {what}")
    else:
        failures += 1
        print(f"  FAIL  {what}\n          found  {found}\n          wanted {wanted}")


# ---- Phoenix ---------------------------------------------------------------------
def fetch(url: str, trace_id: str) -> list[Span]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/v1/projects/default/spans?trace_id={trace_id}&limit=1000", timeout=10) as answer:
            return list(json.load(answer)["data"])
    except urllib.error.HTTPError as error:
        if error.code == 404:  # the project appears with its first span
            return []
        raise


def fetch_settled(url: str, trace_id: str) -> list[Span]:
    """Phoenix stores spans in batches, a little after it took them: wait until the root is there and no more come."""
    spans: list[Span] = []
    for _ in range(60):
        before, spans = len(spans), fetch(url, trace_id)
        if len(spans) == before and any(s["name"] == "agent.run" for s in spans):
            break
        time.sleep(0.5)
    return sorted(spans, key=lambda s: s["start_time"])


# ---- what the script says --------------------------------------------------------
def expected_chats(lane: str) -> list[dict[str, int]]:
    """The usage of each answered request: errors are retried within one chat span."""
    return [step["usage"] for step in scenarios.LANES["tour"][lane] if "usage" in step]


def expected_tools(lane: str) -> list[str]:
    blocks = [b for step in scenarios.LANES["tour"][lane] for b in step.get("blocks", [])]
    return sorted(b["name"] for b in blocks if b["type"] == "tool_use")


# ---- the checks ------------------------------------------------------------------
def operation(span: Span) -> str:
    return str(span["attributes"].get("gen_ai.operation.name", ""))


def check_chats(who: str, chats: list[Span], usages: list[dict[str, int]], output_known: bool) -> None:
    check(f"{who}: one chat span for each answer", len(chats), len(usages))
    for n, (span, usage) in enumerate(zip(chats, usages, strict=False), start=1):
        a = span["attributes"]
        read, write = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
        check(f"{who}, chat {n}: name", span["name"], f"chat {a.get('gen_ai.request.model')}")
        check(f"{who}, chat {n}: prompt tokens = fresh + cache read + cache write",
              a.get("llm.token_count.prompt"), usage["input_tokens"] + read + write)
        check(f"{who}, chat {n}: cache read and write", (a.get("llm.token_count.prompt_details.cache_read"),
              a.get("llm.token_count.prompt_details.cache_write")), (read, write))
        # The stream never tells a subagent's true output; a number here would be the API's placeholder.
        check(f"{who}, chat {n}: completion tokens", a.get("llm.token_count.completion"),
              usage["output_tokens"] if output_known else None)


def check_trace(spans: list[Span], trace_id: str, parent_id: str) -> None:
    by_id = {s["context"]["span_id"]: s for s in spans}
    children: dict[str | None, list[Span]] = {}
    for span in spans:
        children.setdefault(span["parent_id"], []).append(span)

    def under(parent: Span | None, wanted: str) -> list[Span]:
        own = children.get(parent["context"]["span_id"], []) if parent else []
        return [s for s in own if operation(s) == wanted]

    def only(found: list[Span], what: str) -> Span | None:
        check(f"one {what}", len(found), 1)
        return found[0] if found else None

    check("trace id is the given one", {s["context"]["trace_id"] for s in spans}, {trace_id})
    check("no span came twice", len(by_id), len(spans))
    root = only([s for s in spans if s["name"] == "agent.run"], "agent.run span")
    check("agent.run hangs under the given parent", root and root["parent_id"], parent_id)
    check("every other parent is in the trace", [s["name"] for s in spans
          if s["parent_id"] not in by_id and s is not root], [])
    check("Phoenix derives the kinds AGENT, LLM and TOOL", [(s["name"], s["span_kind"]) for s in spans
          if s is not root and s["span_kind"] != KINDS.get(operation(s))], [])

    turn = only(under(root, "invoke_agent"), "turn under agent.run")
    check("turn is named after the agent", turn and turn["name"], "invoke_agent claude")
    check_chats("main", under(turn, "chat"), expected_chats("main"), output_known=True)
    tools = under(turn, "execute_tool")
    check("tools of the turn", sorted(s["attributes"].get("tool.name") for s in tools), expected_tools("main"))
    check("tool spans are named after their tool", [s["name"] for s in tools],
          [f"execute_tool {s['attributes'].get('tool.name')}" for s in tools])
    ids = {s["attributes"].get("tool.id") for s in tools} - {None}
    check("tool call ids are there, each once", len(ids), len(tools))
    failed = [s["name"] for s in tools if s["status_code"] == "ERROR"]
    check("one tool failed, and says so", failed, ["execute_tool Bash"])

    agent_tool = only([s for s in tools if s["attributes"].get("tool.name") == "Agent"], "Agent tool")
    subagent = only(under(agent_tool, "invoke_agent"), "subagent under its Agent tool")
    check("subagent's name", subagent and subagent["name"], f"invoke_agent {SUBAGENT}")
    lane = next(name for name in scenarios.LANES["tour"] if name != "main")
    # The last one is text alone: it is in the stream because agent.py asks for a subagent's text.
    check_chats("subagent", under(subagent, "chat"), expected_chats(lane), output_known=False)
    check("tools of the subagent", sorted(s["attributes"].get("tool.name") for s in under(subagent, "execute_tool")),
          expected_tools(lane))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--trace-id", required=True)
    parser.add_argument("--parent-id", required=True)
    args = parser.parse_args()
    spans = fetch_settled(args.url, args.trace_id)
    check_trace(spans, args.trace_id, args.parent_id)
    if failures:
        print(f"{failures} checks failed; the spans that Phoenix has:")
        for s in spans:
            print(f"  {s['context']['span_id']} in {s['parent_id']}  {s['span_kind']:8} {s['name']}")
        return 1
    print(f"  {len(spans)} spans, as expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
