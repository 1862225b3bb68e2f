"""The scripted conversations: one entry per scenario. messages_api.py describes the step format.

Two strings are filled in when a scenario is played: `{{CWD}}` is the agent's working directory (`--cwd`), and any other
`{{NAME}}` comes from `--var NAME=value`. With `--cwd` the server also lays out the scenario's seed files there.
"""

from __future__ import annotations

from typing import Any

Step = dict[str, Any]
Lanes = dict[str, list[Step]]

LANES: dict[str, Lanes] = {}
DOCS: dict[str, str] = {}
SEEDS: dict[str, dict[str, str]] = {}

DEFAULT_SEED = {"seed.txt": "seed line\n"}


# ---- step builders ---------------------------------------------------------------
def text(words: str) -> Step:
    return {"type": "text", "text": words}


def think(words: str) -> Step:
    return {"type": "thinking", "thinking": words}


def tool(tool_name: str, **tool_input: Any) -> Step:
    return {"type": "tool_use", "name": tool_name, "input": tool_input}


def reply(*blocks: Step, **step: Any) -> Step:
    return {"blocks": list(blocks), **step}


def say(words: str, **step: Any) -> Step:
    return reply(text(words), **step)


def err(status: int, kind: str, message: str, **headers: Any) -> Step:
    return {"error": {"status": status, "type": kind, "message": message,
                      "headers": {k.replace("_", "-"): str(v) for k, v in headers.items()}}}


def usage(fresh: int, write: int, read: int, out: int) -> dict[str, int]:
    return {"input_tokens": fresh, "cache_creation_input_tokens": write,
            "cache_read_input_tokens": read, "output_tokens": out}


def scenario(name: str, doc: str, lanes: Lanes | list[Step], seed: dict[str, str] | None = None) -> None:
    LANES[name] = lanes if isinstance(lanes, dict) else {"main": lanes}
    DOCS[name] = doc
    SEEDS[name] = DEFAULT_SEED if seed is None else seed


BASH = "Bash"
RATE_LIMIT = "This request would exceed your organization's rate limit of 50,000 input tokens per minute."
# The CLI refuses a bare foreground `sleep N` of more than a second or so.
PYSLEEP = "python3 -c 'import time; time.sleep(%d); print(1)'"


# ---- the demo --------------------------------------------------------------------
ORDERS = """id,customer,status,amount
1001,Adler,paid,120.00
1002,Brandt,paid,75.50
1003,Costa,refunded,-75.50
1004,Dietz,paid,310.25
1005,Evans,open,42.00
1006,Adler,paid,18.90
"""

# One of everything a trace can show, paced like a real model. Cache use is as in real life too: the first call of each
# thread writes the cache, later calls read it. The usage rows are fresh input, cache write, cache read, output.
# scripts/phoenix-check asserts these numbers.
scenario("tour", "the demo: thinking, parallel tools, a failing tool, a 429, a subagent with two tools", {
    "match:SUBAGENT-AUDIT": [
        reply(text("Looking at the refund first."),
              tool(BASH, command="sleep 0.5; grep refunded orders.csv", description="Find the refunds"),
              usage=usage(3, 5120, 0, 71), delay_ms=150, event_ms=22),
        reply(tool("Read", file_path="{{CWD}}/orders.csv"),
              usage=usage(5, 388, 5120, 64), delay_ms=120, event_ms=22),
        say("Order 1003 refunds order 1002 in full; the two cancel out. No other refund is in the file.",
            usage=usage(6, 241, 5508, 122), delay_ms=120, event_ms=25)],
    "main": [
        reply(think("The totals may be off because of the refund. I should look at the file from three sides at once "
                    "before I run the reconciliation."),
              text("I will look at the orders from three sides at once."),
              tool(BASH, command="sleep 0.3; wc -l orders.csv", description="Count the orders"),
              tool(BASH, command="sleep 0.7; cut -d, -f2 orders.csv | sort | uniq -c", description="By customer"),
              tool(BASH, command="sleep 1.2; cut -d, -f3 orders.csv | sort | uniq -c", description="By status"),
              usage=usage(412, 14210, 0, 286), delay_ms=250, event_ms=20),
        reply(text("Now the reconciliation."),
              tool(BASH, command="python3 reconcile.py orders.csv", description="Reconcile the totals"),
              usage=usage(7, 1046, 14210, 93), delay_ms=150, event_ms=22),
        err(429, "rate_limit_error", RATE_LIMIT, retry_after=1),
        reply(text("There is no such script. An auditor shall look at the refund instead."),
              tool("Agent", description="Audit the refund", subagent_type="general-purpose", run_in_background=False,
                   prompt="SUBAGENT-AUDIT: find out which order the refund in orders.csv belongs to, and report."),
              usage=usage(6, 312, 15256, 148), delay_ms=150, event_ms=22),
        reply(think("The auditor's answer settles it: 120.00 + 310.25 + 18.90 paid, 42.00 still open."),
              text("Six orders. Paid and kept: 449.15. Order 1002 was refunded in full by order 1003, and order 1005 "
                   "(42.00) is still open. There was no reconcile.py, so I reckoned the totals from the file itself."),
              usage=usage(8, 905, 15568, 167), delay_ms=200, event_ms=30)]},
    seed={"orders.csv": ORDERS})

LOAD = ("python3 -c \"import time; x = b'x' * (80 << 20)\nwhile time.process_time() < 1: pass\ntime.sleep(1)\"; "
        "echo 'it is done'")

# ---- happy paths -----------------------------------------------------------------
scenario("plain_text", "one turn, one text block", [say("Hello! The answer is 42.")])

scenario("bash_tool", "one Bash call, then text", [
    reply(text("I will list the files."), tool(BASH, command="ls -la && sleep 0.3", description="List files")),
    say("There is one file.")])

scenario("sequential_tools", "Write, Read, Edit, Bash, Grep, Glob one after another", [
    reply(tool("Write", file_path="{{CWD}}/notes.txt", content="alpha\nbeta\ngamma\n")),
    reply(tool("Read", file_path="{{CWD}}/notes.txt")),
    reply(tool("Edit", file_path="{{CWD}}/notes.txt", old_string="beta", new_string="BETA")),
    reply(tool(BASH, command="cat notes.txt | wc -l", description="Count lines")),
    reply(tool("Grep", pattern="BETA", path="{{CWD}}")),
    reply(tool("Glob", pattern="*.txt", path="{{CWD}}")),
    say("Done: wrote, read, edited, counted, searched.")])

scenario("parallel_tools", "three tool_use blocks in one assistant message", [
    reply(text("Running three things at once."),
          tool(BASH, command="sleep 1.0; echo one", description="first"),
          tool(BASH, command="sleep 0.2; echo two", description="second"),
          tool("Read", file_path="{{CWD}}/seed.txt"), usage=usage(9, 1800, 0, 131)),
    say("All three finished.", usage=usage(7, 210, 1800, 24))])

scenario("tool_cpu", "a Bash call that uses CPU and memory, beside one that only waits", [
    reply(tool(BASH, command=LOAD, description="burn")),
    reply(tool(BASH, command=LOAD, description="burn again"),
          tool(BASH, command="sleep 2.5; echo waited", description="wait")),
    say("That took a while.")])

scenario("tool_error", "a Bash call that exits 3, a Read of a missing file, and an unknown tool", [
    reply(tool(BASH, command="echo partial output; echo boom >&2; exit 3", description="fail")),
    reply(tool("Read", file_path="{{CWD}}/does-not-exist.txt")),
    reply(tool("NoSuchTool", x=1)),
    reply(tool(BASH, cmd_typo="ls")),
    say("Several things failed.")])

scenario("subagent", "Agent tool; the subagent runs Bash and Read, then reports", {
    "match:SUBAGENT-ALPHA": [
        reply(text("Subagent looking around."), tool(BASH, command="ls; sleep 0.3", description="list"),
              usage=usage(3, 5000, 0, 41)),
        reply(think("Now read the seed file."), tool("Read", file_path="{{CWD}}/seed.txt"),
              usage=usage(5, 100, 5000, 52)),
        say("Subagent report: the seed file has one line.", usage=usage(6, 80, 5100, 63))],
    "main": [
        reply(text("Delegating."), tool("Agent", description="Inspect the folder",
              prompt="SUBAGENT-ALPHA: inspect the folder and report", subagent_type="general-purpose",
              run_in_background=False), usage=usage(20, 3000, 0, 90)),
        say("The subagent says the seed file has one line.", usage=usage(7, 150, 3000, 25))]})

scenario("subagent_background", "Agent tool with run_in_background true", {
    "match:SUBAGENT-ALPHA": [
        reply(tool(BASH, command="sleep 1; echo alpha", description="alpha work")),
        say("alpha background report")],
    "main": [
        reply(tool("Agent", description="Alpha job", prompt="SUBAGENT-ALPHA do it", subagent_type="general-purpose",
                   run_in_background=True)),
        say("I started a background agent and will wait for it."),
        say("The background agent finished.")]})

scenario("thinking", "thinking block, then tool, then thinking and text, paced", [
    reply(think("The user wants the date. I should run the date command, carefully."),
          text("Let me check."), tool(BASH, command="date -u +%Y", description="year"),
          usage=usage(10, 2000, 0, 77), delay_ms=200, event_ms=20),
    reply(think("Got it."), text("It is that year."), usage=usage(4, 120, 2000, 33), delay_ms=300, event_ms=20)])

scenario("partial_messages", "slow paced deltas for --include-partial-messages", [
    reply(think("Thinking slowly about the plan. " * 4), text("Streaming text arrives in small pieces. " * 8),
          tool(BASH, command="echo streamed", description="echo"), event_ms=15, chunk=12),
    say("End of the stream. " * 6) | {"event_ms": 15, "chunk": 12}])

scenario("max_turns", "never stops calling tools", [
    reply(tool(BASH, command="echo again", description="loop"))])

scenario("max_budget", "expensive usage on every turn", [
    reply(tool(BASH, command="echo pricey", description="loop"),
          usage={"input_tokens": 50000, "output_tokens": 8000})])

scenario("max_tokens", "stop_reason max_tokens cut", [
    say("This text is cut off because", stop_reason="max_tokens")])

scenario("unicode", "emoji, CJK, newlines, ANSI, NUL-ish escapes in text and tool output", [
    reply(text("Héllo 👩‍👩‍👧‍👦 日本語 \u2028line-sep\u2029 tab\t \"quoted\" \\back\nnew\r\nline \u001b[31mred\u001b[0m"),
          tool(BASH, command="printf 'caf\\xc3\\xa9 \\xf0\\x9f\\x98\\x80 \\x1b[1;32mgreen\\x1b[0m bad:\\xff\\xfe nul:\\x00 end\\n\\r\\nline2\\n'",
               description="éàü — odd bytes")),
    say("Done ✅\nsecond line")])

scenario("big_tool_result", "Read of a big file and 1.5 MB Bash output", [
    reply(tool(BASH, command="python3 -c \"print('x'*1500000)\"", description="1.5 MB on one line")),
    reply(tool("Read", file_path="{{CWD}}/big.txt")),
    say("That was a lot.")])

scenario("todo", "TodoWrite / TaskCreate style planning tools", [
    reply(tool("TodoWrite", todos=[
        {"content": "First thing", "status": "in_progress", "activeForm": "Doing the first thing"},
        {"content": "Second thing", "status": "pending", "activeForm": "Doing the second thing"}])),
    reply(tool(BASH, command="echo working", description="work")),
    reply(tool("TodoWrite", todos=[
        {"content": "First thing", "status": "completed", "activeForm": "Doing the first thing"},
        {"content": "Second thing", "status": "completed", "activeForm": "Doing the second thing"}])),
    say("Plan finished.")])

scenario("structured_output", "StructuredOutput tool call (with --json-schema)", [
    reply(tool("StructuredOutput", answer="42", confidence=0.9)),
    say("done")])

scenario("refusal", "stop_reason refusal", [
    reply(text("I can't help with that."), stop_reason="refusal")])

scenario("multi_turn", "three user turns on one session", [
    say("First answer."),
    reply(tool(BASH, command="echo turn2", description="second turn tool")), say("Second answer."),
    say("Third answer.")])

scenario("background_work", "a Bash call in the background that outlasts the turn", [
    reply(tool(BASH, command=PYSLEEP % 600, description="the server", run_in_background=True)),
    say("The server runs.")])

scenario("interrupt", "a long Bash call to be interrupted, then a follow-up turn", [
    reply(text("Starting a long job."), tool(BASH, command=PYSLEEP % 30, description="long job")),
    say("Follow-up answer after the interrupt.")])

scenario("permissions", "Bash allow, Bash deny, Write slow-allow", [
    reply(tool(BASH, command="touch allowed.txt", description="allow me")),
    reply(tool(BASH, command="rm -f seed.txt", description="deny me")),
    reply(tool("Write", file_path="{{CWD}}/slow.txt", content="slow approval\n")),
    say("One was denied.")])

scenario("session", "the example of docs/sessions.md: one call denied, the next allowed, then a second turn", [
    reply(tool(BASH, command="rm -r build", description="Remove the folder")),
    reply(tool(BASH, command="rm build/*.log", description="Remove the logs")),
    say("The logs are gone."),
    say("You are welcome.")], seed={"build/app": "app\n", "build/make.log": "made\n"})

scenario("hooks", "Bash and a failing Bash, to fire hooks", [
    reply(tool(BASH, command="echo hooked", description="ok")),
    reply(tool(BASH, command="exit 4", description="fails")),
    say("Hooks fired.")])

scenario("sdk_mcp", "in-process SDK MCP tool: ok, then error", [
    reply(tool("mcp__calc__add", a=2, b=3)),
    reply(tool("mcp__calc__fail", why="because")),
    say("2+3=5")])

scenario("skill", "Skill tool", [
    reply(tool("Skill", skill="demo-skill")),
    say("skill used")])

scenario("compact", "huge reported usage so that auto-compaction fires", {
    "side": [say("<summary>Compacted: the user asked for things and we did them.</summary>")],
    "main": [
        reply(tool(BASH, command="echo step1", description="s1"),
              usage={"input_tokens": 1000, "cache_read_input_tokens": 100000, "output_tokens": 300}),
        reply(tool(BASH, command="echo step2", description="s2"),
              usage={"input_tokens": 1000, "cache_read_input_tokens": 960000, "output_tokens": 300}),
        say("<summary>Compacted: earlier work was done.</summary>"),
        say("Finished after compaction.")]})

scenario("kill_mid", "long slow stream so the run can be killed part-way", [
    reply(text("step one"), tool(BASH, command="echo one", description="one")),
    say("word " * 2000) | {"event_ms": 20, "chunk": 5}])

scenario("long_tool", "one Bash call that runs 20 s", [
    reply(tool(BASH, command=PYSLEEP % 20, description="long")),
    say("finally")])

scenario("tool_oom", "Bash tool that allocates without end (run in a memory cgroup)", [
    reply(tool(BASH, command="python3 -c \"x=[]\nwhile True: x.append(bytearray(b'1'*(8<<20)))\"", description="hog")),
    say("The command was killed.")])

scenario("rate_limit_headers", "success with subscription-style rate limit headers that change", [
    reply(tool(BASH, command="echo one", description="one"), headers={
        "anthropic-ratelimit-unified-status": "allowed", "anthropic-ratelimit-unified-reset": "1893456000",
        "anthropic-ratelimit-unified-representative-claim": "five_hour",
        "anthropic-ratelimit-unified-5h-status": "allowed", "anthropic-ratelimit-unified-5h-reset": "1893456000",
        "anthropic-ratelimit-unified-5h-utilization": "0.42",
        "anthropic-ratelimit-unified-fallback-percentage": "0.5"}),
    say("warned", headers={
        "anthropic-ratelimit-unified-status": "allowed_warning", "anthropic-ratelimit-unified-reset": "1893456000",
        "anthropic-ratelimit-unified-representative-claim": "five_hour",
        "anthropic-ratelimit-unified-5h-status": "allowed_warning",
        "anthropic-ratelimit-unified-5h-reset": "1893456000",
        "anthropic-ratelimit-unified-5h-surpassed-threshold": "0.9",
        "anthropic-ratelimit-unified-5h-utilization": "0.91"})])

scenario("env_probe", "Bash prints its own trace / agent environment", [
    reply(tool(BASH, command="env | grep -E '^(TRACEPARENT|TRACESTATE|CLAUDE|AI_AGENT|OTEL|GIT_EDITOR)' | sort",
               description="print trace env")),
    say("printed")])

scenario("otel_tour", "a bit of everything, for looking at native telemetry", {
    "match:SUBAGENT-ALPHA": [
        reply(text("Looking."), tool(BASH, command="ls; sleep 0.3", description="list")),
        say("Subagent report: fine.")],
    "main": [
        reply(think("Let me look at the environment first."), text("Probing."),
              tool(BASH, command="env | grep -E '^(TRACEPARENT|TRACESTATE|CLAUDE|AI_AGENT|OTEL)' | sort; sleep 0.2",
                   description="print trace env"),
              tool("Read", file_path="{{CWD}}/seed.txt")),
        reply(tool(BASH, command="echo partial; exit 3", description="fails")),
        err(529, "overloaded_error", "Overloaded"),
        reply(tool("Agent", description="Inspect", prompt="SUBAGENT-ALPHA: inspect", subagent_type="general-purpose",
                   run_in_background=False)),
        reply(tool("Write", file_path="{{CWD}}/out.txt", content="needs approval\n")),
        say("Tour finished.")]})

# ---- failures --------------------------------------------------------------------
scenario("api_401", "invalid x-api-key", [err(401, "authentication_error", "invalid x-api-key")])
scenario("api_403", "permission error", [err(403, "permission_error",
         "Your API key does not have permission to use the specified resource.")])
scenario("api_400_prompt_too_long", "context too long", [err(400, "invalid_request_error",
         "prompt is too long: 214321 tokens > 200000 maximum")])
scenario("api_429_then_ok", "429 with retry-after 1, then success", [
    err(429, "rate_limit_error", RATE_LIMIT, retry_after=1), say("Recovered after the rate limit.")])
scenario("api_429_persistent", "429 for ever, retry-after 1", [
    err(429, "rate_limit_error", RATE_LIMIT, retry_after=1)])
scenario("api_500_persistent", "500 for ever", [err(500, "api_error", "Internal server error")])
scenario("api_529_persistent", "overloaded for ever", [err(529, "overloaded_error", "Overloaded")])
scenario("api_hang", "accepts the request and never answers", [{"fault": "hang", "after": -1, "seconds": 600}])
scenario("api_hang_mid_stream", "sends some events, then stalls", [
    say("This stream will stall. " * 20) | {"fault": "hang", "after": 8, "seconds": 600}])
scenario("reset_mid_stream", "TCP reset after some events, then ok on retry", [
    say("This stream will be reset. " * 20) | {"fault": "reset", "after": 8}, say("Recovered after the reset.")])
scenario("reset_mid_stream_persistent", "TCP reset mid-stream for ever", [
    say("This stream will be reset. " * 20) | {"fault": "reset", "after": 8, "nonstream": True}])
scenario("api_400_credit", "credit balance too low", [err(400, "invalid_request_error",
         "Your credit balance is too low to access the Anthropic API.")])
scenario("api_402", "billing error", [err(402, "billing_error", "Billing is not set up for this organization.")])
scenario("api_404_model", "unknown model", [err(404, "not_found_error", "model: no-such-model")])


def listing() -> list[tuple[str, str]]:
    return list(DOCS.items())
