"""An agent that traces itself: python3 tests/traced_agent.py sdk|plain

It prints a short Claude stream, and sends one span of its own, `own work`, to whatever OTEL_EXPORTER_OTLP_ENDPOINT and
OpenTelemetry's other variables name. With `sdk` by the stock opentelemetry-sdk and its OTLP exporter over HTTP, as an
agent's author would set them up; with `plain` by the standard library, for where there is no SDK. Both join the trace
that TRACEPARENT names, and neither knows of sandtrace.
"""

import json
import os
import secrets
import sys
import time
import urllib.request

NAME = "own work"
SERVICE = "traced-agent"
MODEL = "claude-sonnet-5"


def say(**line):
    print(json.dumps(line), flush=True)


def work():
    """One turn: what Claude Code prints of a tool call and an answer."""
    usage = {"input_tokens": 12, "cache_creation_input_tokens": 300, "cache_read_input_tokens": 4000,
             "output_tokens": 40}
    say(type="system", subtype="init", session_id="traced", model=MODEL)
    say(type="assistant", session_id="traced", message={"id": "m1", "model": MODEL, "usage": usage, "content": [
        {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "true"}}]})
    say(type="user", session_id="traced", message={"content": [
        {"type": "tool_result", "tool_use_id": "t1", "content": "done"}]})
    say(type="result", subtype="success", is_error=False, session_id="traced", usage=usage, modelUsage={})


def by_sdk():
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # A propagator reads names in lower case; that is all there is between the environment and it.
    carrier = {name.lower(): value for name, value in os.environ.items()}
    parent = TraceContextTextMapPropagator().extract(carrier)
    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
    # Endpoint and protocol are the environment's.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    with provider.get_tracer(SERVICE).start_as_current_span(NAME, context=parent):
        work()
    provider.shutdown()


def by_hand():
    _, trace_id, parent_id, flags = os.environ["TRACEPARENT"].split("-")
    start = time.time_ns()
    work()
    span = {"traceId": trace_id, "spanId": secrets.token_hex(8), "parentSpanId": parent_id, "flags": int(flags, 16),
            "name": NAME, "kind": 1, "startTimeUnixNano": str(start), "endTimeUnixNano": str(time.time_ns())}
    service = {"key": "service.name", "value": {"stringValue": SERVICE}}
    body = {"resourceSpans": [{"resource": {"attributes": [service]}, "scopeSpans": [
        {"scope": {"name": SERVICE}, "spans": [span]}]}]}
    request = urllib.request.Request(os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] + "/v1/traces",
                                     json.dumps(body).encode(), {"Content-Type": "application/json"})
    # No proxy: it is a receiver on loopback.
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10).close()


{"sdk": by_sdk, "plain": by_hand}[sys.argv[1]]()
