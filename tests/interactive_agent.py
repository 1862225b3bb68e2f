#!/usr/bin/env python3
"""Plays a session of template/agent.py --interactive without a model: the same lines, from a script. For what follows and
answers runs, where Claude is beside the point. It asks before each tool, as said by its input.

The user says what happens: `slowly` streams an answer piece by piece until it is interrupted, `fail` raises an exception,
`markup` answers with HTML, and anything else is a turn of thinking, a tool that needs an approval, and an answer.
"""
import json
import queue
import sys
import threading
import time

said: "queue.Queue[dict | None]" = queue.Queue()


def emit(kind, **members):
    print(json.dumps({"type": kind, **members}), flush=True)


def listen():
    for line in sys.stdin:
        if line.strip():
            said.put(json.loads(line))
    said.put(None)


def expect(*kinds):
    """The next line of these types; what comes before it is of no use."""
    while (line := said.get()) is not None:
        if line["type"] in kinds:
            return line
    sys.exit(0)


class Message:
    """One answer of the model, streamed."""
    number = 0

    def __init__(self):
        Message.number += 1
        self.id = f"msg_{Message.number:04}"
        self.event(type="message_start", message={"id": self.id, "model": "claude-sonnet-5", "role": "assistant",
                                                   "content": [], "usage": {"input_tokens": 900, "output_tokens": 1}})

    def event(self, **event):
        emit("stream_event", event=event, session_id="scripted", parent_tool_use_id=None)

    def block(self, block):
        emit("assistant", session_id="scripted", parent_tool_use_id=None, message={
            "id": self.id, "type": "message", "role": "assistant", "model": "claude-sonnet-5", "content": [block],
            "stop_reason": None, "usage": {"input_tokens": 900, "output_tokens": 1}})

    def text(self, text, pause=0.03):
        self.event(type="content_block_start", index=0, content_block={"type": "text", "text": ""})
        told = ""
        for word in text.split(" "):
            piece = word if not told else " " + word
            told += piece
            self.event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
            time.sleep(pause)
            if not said.empty() and said.queue[0] and said.queue[0]["type"] == "interrupt":
                said.get()
                return False
        self.event(type="content_block_stop", index=0)
        self.block({"type": "text", "text": text})
        return True

    def stop(self, reason, tokens):
        self.event(type="message_delta", delta={"stop_reason": reason}, usage={"input_tokens": 900, "output_tokens": tokens})
        self.event(type="message_stop")


def result(text, is_error=False, subtype="success"):
    emit("result", subtype=subtype, is_error=is_error, result=text, num_turns=1, duration_ms=1000, duration_api_ms=800,
         session_id="scripted", total_cost_usd=0.0123 * max(1, Message.number), usage={"input_tokens": 900, "output_tokens": 60})


def tool(message, name, given, number):
    """Asks, and says whether it was allowed."""
    call = f"toolu_{number:04}"
    message.block({"type": "tool_use", "id": call, "name": name, "input": given})
    emit("approval_request", data={"id": f"approval-{number}", "tool_use_id": call, "tool_name": name, "input": given})
    answer = expect("approve", "deny")
    emit("approval_decision", data={"id": answer["id"], "decision": answer["type"], "by": answer.get("by"),
                                    "reason": answer.get("reason")})
    allowed = answer["type"] == "approve"
    if allowed:
        time.sleep(1.5)
    text = "3 files changed" if allowed else answer["reason"]
    emit("user", session_id="scripted", parent_tool_use_id=None, message={"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": call, "content": text, "is_error": not allowed}]})
    return allowed


def turn(text, number):
    emit("system", subtype="init", session_id="scripted", model="claude-sonnet-5", tools=["Bash"], cwd="/")
    message = Message()
    if text == "fail":
        message.text("Let me look at that.")
        raise RuntimeError("the disk is on fire")
    if text == "markup":
        message.text("<img src=x onerror=\"document.title='owned'\"><b>bold</b> & <script>document.title='owned'</script>")
        message.stop("end_turn", 20)
        return result("done")
    if text == "slowly":
        if message.text(" ".join(f"word {n}" for n in range(1000)), pause=0.05):
            message.stop("end_turn", 500)
            return result("done")
        message.stop("end_turn", 20)
        return result("interrupted", is_error=True, subtype="error_during_execution")
    message.block({"type": "thinking", "thinking": "The notes are spread over three folders. Moving them is safe, deleting is not.",
                   "signature": "x"})
    message.text("I looked through your notes. Three of them belong together, so I would move them into one folder. "
                 "That changes files, so I ask first.")
    allowed = tool(message, "Bash", {"command": "mkdir -p archive && mv notes-2025-*.md archive/", "description":
                                     "Move last year's notes into archive/"}, number)
    message.stop("tool_use", 80)
    message = Message()
    message.text("Done: three notes moved to archive/, nothing deleted." if allowed else
                 "All right, I have left everything where it was.")
    message.stop("end_turn", 40)
    return result("done")


def main():
    threading.Thread(target=listen, daemon=True).start()
    print("scripted agent: no model, no network", file=sys.stderr, flush=True)
    number = 0
    while True:
        line = expect("user_message", "close")
        if line["type"] == "close":
            return
        number += 1
        turn(line["text"], number)


if __name__ == "__main__":
    main()
