"""Reads what the guest of scripts/cgroup2-guest left: prints the evidence and the verdict of each case, compares the
verdict with the expected one, and on request makes the fixtures.

    judge.py RESULTS EXPECTED yes|no FIXTURES
"""

import json
import pathlib
import shutil
import sys


def table(path):
    """`KEY NUMBER` lines, as of memory.events and vmstat."""
    if not path.exists():
        return {}
    words = (line.split() for line in path.read_text().splitlines())
    return {key: int(value) for key, value in words}


def changes(case, name):
    before, after = table(case / "before" / name), table(case / "after" / name)
    moved = {key: f"{before.get(key, 0)}->{value}" for key, value in after.items() if value != before.get(key, 0)}
    return " ".join(f"{key} {value}" for key, value in moved.items()) or "unchanged"


def lines(case):
    path = case / "events.ndjson"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def first(case, kind):
    return next((line["data"] for line in lines(case) if line.get("type") == kind), None)


def expectations(path):
    rows = (line.split(maxsplit=1) for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return {name: words.split(" or ") for name, words in rows}


def print_case(case, finished):
    for name in ["memory.events", "memory.events.local"]:
        for owner in ["", "parent/", "agent/"]:
            if (case / "after" / owner / name).exists():
                print(f"  {owner}{name}: {changes(case, owner + name)}")
    before, after = (table(case / side / "vmstat").get("oom_kill") for side in ["before", "after"])
    print(f"  vmstat oom_kill: {before}->{after}")
    kernel = [line for line in (case / "kmsg").read_text().splitlines() if "oom-kill:" in line or "illed process" in line]
    for line in kernel[:4]:
        print(f"  kmsg: {line}")
    if finished is None:
        print("  no sandtrace.run.finished")
        return
    print(f"  exit: {json.dumps(finished['exit'])}")
    failure = finished["failure"]
    if failure:
        print(f"  failure: {failure['message']} (confidence {failure['confidence']})")
        for item in failure["evidence"]:
            print(f"    evidence: {item['source']}: {item['fact']}")
        for item in failure["alternatives"]:
            print(f"    or else: {item['class']}.{item.get('reason')} ({item['confidence']})")


def make_fixture(case, finished, fixtures):
    """The raw files, and who the agent was and how it ended; no verdict of ours."""
    to = fixtures / case.name
    if to.exists():
        shutil.rmtree(to)
    to.mkdir(parents=True)
    for side in ["before", "after"]:
        shutil.copytree(case / side, to / side)
    shutil.copy(case / "kmsg", to / "kmsg")
    started = first(case, "sandtrace.run.started") or {}
    agent = {"pid": started.get("pid"), "exit": finished and finished["exit"]}
    (to / "agent.json").write_text(json.dumps(agent) + "\n")


def main():
    results, expected_file, record, fixtures = sys.argv[1:]
    results, fixtures = pathlib.Path(results), pathlib.Path(fixtures)
    expected = expectations(pathlib.Path(expected_file))
    wrong = []
    for name, verdicts in expected.items():
        case = results / name
        finished = first(case, "sandtrace.run.finished")
        if not (case / "kmsg").exists():
            print(f"{name}: the guest did not get that far")
            wrong.append(name)
            continue
        failure = (finished or {}).get("failure")
        verdict = "-" if failure is None else ".".join(filter(None, [failure["class"], failure.get("reason")]))
        if finished is None:
            verdict = "no verdict"
        right = verdict in verdicts
        print(f"{name}: {verdict}" + ("" if right else f", NOT {' or '.join(verdicts)}"))
        print_case(case, finished)
        if not right:
            wrong.append(name)
        if record == "yes":
            make_fixture(case, finished, fixtures)
    print(f"{len(expected) - len(wrong)} of {len(expected)} verdicts are right" + (f"; wrong: {', '.join(wrong)}" if wrong else ""))
    return 1 if wrong else 0


sys.exit(main())
