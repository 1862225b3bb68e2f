"""Reads a trace from a Phoenix server and checks it: the tour's against the script that the model played, or that of an
agent that traces itself against its own span.

Phoenix makes its own sense of OpenTelemetry's GenAI attributes: `gen_ai.operation.name` becomes a span kind, the usage
becomes `llm.token_count.*`, and these with its own price table a cost. That is what its pages show, so that is what is
checked, and the names, the tree and the session. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "scripted_api"))
import scenarios  # found by the line above

Span = dict[str, Any]
Usage = dict[str, int]

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
class Phoenix:
    """A server, as a reader of one trace in one project sees it."""

    def __init__(self, url: str, trace_id: str) -> None:
        self.url = url
        self.trace_id = trace_id
        # No proxy: it is on our own loopback.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, **query: object) -> list[Any]:
        try:
            with self.opener.open(f"{self.url}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
                return list(json.load(answer)["data"])
        except urllib.error.HTTPError as error:
            if error.code == 404:  # a project appears with its first span
                return []
            raise

    def spans(self, project: str) -> list[Span]:
        return self.get(f"/v1/projects/{project}/spans", trace_id=self.trace_id, limit=1000)

    def settled_spans(self, project: str) -> list[Span]:
        """Phoenix stores spans in batches, a little after it took them: waits until the root is there and no more
        come."""
        spans: list[Span] = []
        for _ in range(60):
            before, spans = len(spans), self.spans(project)
            if len(spans) == before and any(s["name"] == "agent.run" for s in spans):
                break
            time.sleep(0.5)
        return sorted(spans, key=lambda s: str(s["start_time"]))

    def sessions(self, project: str) -> list[dict[str, Any]]:
        """Those that this trace is part of."""
        all_of_them = self.get(f"/v1/projects/{project}/sessions", limit=1000)
        return [it for it in all_of_them if any(t["trace_id"] == self.trace_id for t in it["traces"])]

    def costs(self) -> dict[str, tuple[float | None, float | None]]:
        """What Phoenix says that each span of the trace cost, prompt and completion, in USD. Its REST API does not
        tell; its pages ask GraphQL."""
        question = """query($id: String!) { getTraceByOtelId(traceId: $id) { spans(first: 1000) { edges { node {
            spanId costSummary { prompt { cost } completion { cost } } } } } } }"""
        body = json.dumps({"query": question, "variables": {"id": self.trace_id}}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with self.opener.open(request, timeout=10) as answer:
            nodes = [edge["node"] for edge in json.load(answer)["data"]["getTraceByOtelId"]["spans"]["edges"]]
        return {n["spanId"]: (n["costSummary"]["prompt"]["cost"], n["costSummary"]["completion"]["cost"])
                for n in nodes if n["costSummary"]}

    def settled_costs(self, chats: list[str]) -> dict[str, tuple[float | None, float | None]]:
        """It reckons them by and by. A model that is not in its table never gets one, so the wait has an end."""
        costs = self.costs()
        for _ in range(40):
            if all(costs.get(chat, (None, None))[0] is not None for chat in chats):
                break
            time.sleep(0.5)
            costs = self.costs()
        return costs


# ---- what the script says --------------------------------------------------------
def expected_chats(lane: str) -> list[Usage]:
    """The usage of each answered request: errors are retried within one chat span."""
    return [step["usage"] for step in scenarios.LANES["tour"][lane] if "usage" in step]


def expected_tools(lane: str) -> list[str]:
    blocks = [b for step in scenarios.LANES["tour"][lane] for b in step.get("blocks", [])]
    return sorted(b["name"] for b in blocks if b["type"] == "tool_use")


# ---- the checks ------------------------------------------------------------------
def operation(span: Span) -> str:
    return str(span["attributes"].get("gen_ai.operation.name", ""))


def check_chats(who: str, chats: list[Span], usages: list[Usage], output_known: bool) -> None:
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


def check_costs(phoenix: Phoenix, spans: list[Span]) -> None:
    """Phoenix prices the tokens by its own table; both tables are of the same price list, so they must agree."""
    chats = [s for s in spans if s["span_kind"] == "LLM"]
    told = phoenix.settled_costs([s["context"]["span_id"] for s in chats])
    if all(told.get(s["context"]["span_id"], (None, None))[0] is None for s in chats):
        print(f"  note  Phoenix does not know the price of {chats[0]['attributes'].get('llm.model_name')}: tokens only")
        return
    for n, span in enumerate(chats, start=1):
        a = span["attributes"]
        prompt, completion = told[span["context"]["span_id"]]
        ours = a.get("sandtrace.cost.usd")
        if ours is None:  # a subagent's chat, whose output nobody knows
            check(f"cost of chat {n}: prompt alone", (prompt is not None and prompt > 0, completion), (True, None))
        else:
            check(f"cost of chat {n}: Phoenix's is ours", round((prompt or 0) + (completion or 0), 9), round(ours, 9))
    others = [s["name"] for s in spans if s not in chats and s["context"]["span_id"] in told]
    check("nothing but chats has a cost", others, [])


def check_session(phoenix: Phoenix, project: str, spans: list[Span]) -> None:
    ids = {s["attributes"].get("session.id") for s in spans}
    check("every span has the same session", len(ids), 1)
    sessions = phoenix.sessions(project)
    check("Phoenix knows the session", [s["session_id"] for s in sessions], sorted(map(str, ids)))
    lanes = [(lane == "main", usage) for lane in scenarios.LANES["tour"] for usage in expected_chats(lane)]
    prompt = sum(u["input_tokens"] + u["cache_read_input_tokens"] + u["cache_creation_input_tokens"] for _, u in lanes)
    completion = sum(usage["output_tokens"] for is_main, usage in lanes if is_main)
    check("the session's tokens, prompt and completion",
          [(s["token_count_prompt"], s["token_count_completion"]) for s in sessions], [(prompt, completion)])


def check_trace(spans: list[Span], trace_id: str, parent_id: str, dialect: str) -> None:
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
    # GenAI's conventions have no operation for it; only the dialect can say what it is.
    check("agent.run's kind", root and root["span_kind"], "CHAIN" if dialect == "phoenix" else "UNKNOWN")
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
    if dialect == "phoenix":
        told = [e["name"] for s in tools if s["status_code"] == "ERROR" for e in s["events"]]
        check("the failure is an event that Phoenix shows", told, ["exception"])

    agent_tool = only([s for s in tools if s["attributes"].get("tool.name") == "Agent"], "Agent tool")
    subagent = only(under(agent_tool, "invoke_agent"), "subagent under its Agent tool")
    check("subagent's name", subagent and subagent["name"], f"invoke_agent {SUBAGENT}")
    lane = next(name for name in scenarios.LANES["tour"] if name != "main")
    # The last one is text alone: it is in the stream because agent.py asks for a subagent's text.
    check_chats("subagent", under(subagent, "chat"), expected_chats(lane), output_known=False)
    check("tools of the subagent", sorted(s["attributes"].get("tool.name") for s in under(subagent, "execute_tool")),
          expected_tools(lane))


def check_joined(spans: list[Span], trace_id: str) -> None:
    """An agent's own SDK knows of the run by TRACEPARENT alone."""
    check("trace id is the given one", {s["context"]["trace_id"] for s in spans}, {trace_id})
    root = [s for s in spans if s["name"] == "agent.run"]
    own = [s for s in spans if s["name"] == "own work"]
    check("one agent.run span, and one of the agent's own", (len(root), len(own)), (1, 1))
    if root and own:
        check("the agent's own span is a child of agent.run", own[0]["parent_id"], root[0]["context"]["span_id"])
        check("and lies within it", root[0]["start_time"] <= own[0]["start_time"] and
              own[0]["end_time"] <= root[0]["end_time"], True)
    beside = {s["name"] for s in spans if root and s["parent_id"] == root[0]["context"]["span_id"]}
    check("the turn that it printed is beside it", beside, {"own work", "invoke_agent claude"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tour", "joined"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--trace-id", required=True)
    parser.add_argument("--parent-id", required=True)
    parser.add_argument("--project", default="default")
    parser.add_argument("--dialect", choices=["otlp", "phoenix"], default="otlp")
    args = parser.parse_args()
    phoenix = Phoenix(args.url, args.trace_id)
    spans = phoenix.settled_spans(args.project)
    check(f"the trace is in the project {args.project}", bool(spans), True)
    if args.project != "default":
        check("and in no other", phoenix.spans("default"), [])
    if not spans:
        return 1
    if args.what == "joined":
        check_joined(spans, args.trace_id)
    else:
        check_trace(spans, args.trace_id, args.parent_id, args.dialect)
        check_costs(phoenix, spans)
        check_session(phoenix, args.project, spans)
    if failures:
        print(f"{failures} checks failed; the spans that Phoenix has:")
        for s in spans:
            print(f"  {s['context']['span_id']} in {s['parent_id']}  {s['span_kind']:8} {s['name']}")
        return 1
    print(f"  {len(spans)} spans, as expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
