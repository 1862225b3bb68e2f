"""Plays a recording as if the agent ran once more: python3 tests/player.py DIRECTORY cli|sdk [SPEED]

What the agent printed comes from DIRECTORY/KIND.jsonl; stderr and the way it ended from DIRECTORY/meta.json. With a
SPEED the lines come at the times of DIRECTORY/KIND.times.txt (milliseconds since the start, one a line), that many
times faster; without one, or with 0, all at once.
"""

import json
import os
import resource
import signal
import sys
import time


def write(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def play(directory, kind, speed):
    with open(os.path.join(directory, kind + ".jsonl"), "rb") as file:
        stream = file.read()
    if not speed:
        write(1, stream)
        return
    with open(os.path.join(directory, kind + ".times.txt")) as file:
        times = [float(line) / 1000 / speed for line in file if line.strip()]
    began = time.monotonic()
    lines = stream.splitlines(keepends=True)
    for line, due in zip(lines, times):
        time.sleep(max(0.0, began + due - time.monotonic()))
        write(1, line)
    write(1, b"".join(lines[len(times):]))


def end(code):
    if code >= 0:
        sys.exit(code)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    number = -code
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def main():
    directory, kind = sys.argv[1:3]
    speed = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    with open(os.path.join(directory, "meta.json")) as file:
        meta = json.load(file)[kind]
    play(directory, kind, speed)
    write(2, (meta["stderr_head"] + meta["stderr_tail"]).encode())
    end(meta["exit_code"])


main()
