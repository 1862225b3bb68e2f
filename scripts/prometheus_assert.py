"""Asks a Prometheus what it knows of a run, and compares it with the run's last line. For scripts/prometheus-check."""

import argparse
import json
import pathlib
import sys
import time
import urllib.parse
import urllib.request

PATIENCE = 60.0
# No proxy: it is our own loopback.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def query(url, expression):
    """The values of an instant query, by labels."""
    with OPENER.open(f"{url}/api/v1/query?" + urllib.parse.urlencode({"query": expression}), timeout=5) as answer:
        result = json.load(answer)["data"]["result"]
    return [(row["metric"], float(row["value"][1])) for row in result]


def wait_for(what, attempt):
    deadline = time.monotonic() + PATIENCE
    last = None
    while time.monotonic() < deadline:
        try:
            found = attempt()
            if found:
                return found
        except (OSError, ValueError, KeyError) as error:
            last = error
        time.sleep(0.25)
    sys.exit(f"still waiting after {PATIENCE:.0f} s: {what} ({last})")


def last_line(echo):
    for line in pathlib.Path(echo).read_text().splitlines():
        line = json.loads(line)
        if line.get("type") == "sandtrace.run.finished":
            return line["data"]
    return None


def main():
    arguments = argparse.ArgumentParser()
    for name in ("--url", "--echo", "--asked"):
        arguments.add_argument(name, required=True)
    arguments.add_argument("--pid", type=int, required=True)
    given = arguments.parse_args()

    def total(expression):
        found = query(given.url, f"sum({expression})")
        return found[0][1] if found else None

    tokens = {kind: f'gen_ai_client_token_usage_sum{{gen_ai_token_type="{kind}"}}' for kind in ("input", "output")}
    # The last of the stream is a turn's end; what is measured at it is measured after the chats.
    wait_for("the turn's end", lambda: total("gen_ai_invoke_agent_duration_seconds_count"))
    wait_for("a sample of the agent", lambda: total("process_memory_usage_bytes"))
    known = {kind: total(expression) for kind, expression in tokens.items()}
    cost = total("sandtrace_cost_USD_total")
    tools = {labels["gen_ai_tool_name"]: value
             for labels, value in query(given.url, "gen_ai_execute_tool_duration_seconds_count")}
    up = query(given.url, "up")
    resources = {name: total(name) for name in (
        "process_cpu_time_seconds_total", "process_memory_usage_bytes", "sandtrace_tree_processes",
        "system_cpu_utilization_ratio", "system_memory_usage_bytes", "system_memory_limit_bytes",
        "system_filesystem_usage_bytes", "sandtrace_telemetry_exported_total")}
    payer = query(given.url, "sandtrace_cost_USD_total")
    who = query(given.url, "target_info")
    labels = {label for name in query(given.url, '{job="sandtrace"}') for label in name[0]}

    # Now the run may end, and say itself what it came to.
    pathlib.Path(given.asked).touch()
    wait_for("the end of the run", lambda: last_line(given.echo))
    finished = last_line(given.echo)

    problems = []

    def check(what, found, expected):
        good = abs(found - expected) < 1e-9 if found is not None else False
        print(f"  {'ok ' if good else 'BAD'} {what}: {found} in Prometheus, {expected} in the run's last line",
              file=sys.stderr)
        if not good:
            problems.append(what)

    usage = finished["usage"]
    check("input tokens", known["input"], usage["input_tokens"])
    # Each call of this recording tells its output. What none tells is measured when the run ends, and not scraped any more.
    check("output tokens", known["output"], usage["output_tokens"])
    check("cost in USD", cost, finished["cost"]["usd"])
    check("tool calls", sum(tools.values()), finished["counts"]["tools"])
    check("up", up[0][1] if up else None, 1)
    for name, value in resources.items():
        if value is None or value < 0 or (value == 0 and name not in (
                "sandtrace_telemetry_exported_total", "system_cpu_utilization_ratio")):
            problems.append(f"{name} is {value}")
    if not all(row[0].get("user_id") == "ada" for row in payer):
        problems.append(f"whom a cost is charged to: {payer}")
    if len(who) != 1 or who[0][0].get("service_name") != "sandtrace":
        problems.append(f"target_info: {who}")
    for label in ("sandtrace_run_id", "session_id", "gen_ai_conversation_id", "gen_ai_response_id", "trace_id"):
        if label in labels:
            problems.append(f"{label} is a label")
    if problems:
        sys.exit("; ".join(problems))


if __name__ == "__main__":
    main()
