"""What scripts/template-check asserts: the template's steps, its settings file, its two Dockerfiles, and how runs in it ended.

Standard library only. Each check is a line on stdout; the exit code is 1 if one fails.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from pathlib import Path
from typing import Any

failures = 0


def check(what: str, found: object, wanted: object) -> None:
    global failures
    if found == wanted:
        print(f"  ok    {what}")
    else:
        failures += 1
        print(f"  FAIL  {what}\n          found  {found}\n          wanted {wanted}")


# ---- steps -----------------------------------------------------------------------
def without_hashes(template: dict[str, Any]) -> dict[str, Any]:
    """Without those of the files, which are other ones with each build."""
    steps = [{name: value for name, value in step.items() if name != "filesHash"} for step in template["steps"]]
    return template | {"steps": steps}


def steps(args: argparse.Namespace) -> None:
    python, typescript = (json.loads(path.read_text()) for path in (args.python, args.typescript))
    if args.record:
        args.expected.write_text(json.dumps(without_hashes(python), indent=2) + "\n")
    check("template.py and template.ts make the same request, file hashes included", typescript, python)
    found = json.dumps(without_hashes(python), indent=2)
    wanted = json.dumps(json.loads(args.expected.read_text()), indent=2)
    difference = "\n".join(difflib.unified_diff(wanted.split("\n"), found.split("\n"), "expected", "found", lineterm=""))
    check(f"its steps are those of {args.expected.name}", difference, "")
    kinds = [step["type"] for step in python["steps"]]
    check("every COPY has the hash of its files", sum("filesHash" in step for step in python["steps"]), kinds.count("COPY"))
    check("there is no start command", python.get("startCmd"), None)
    check("it ends as user", [step["args"][0] for step in python["steps"] if step["type"] == "USER"][-1], "user")


# ---- settings --------------------------------------------------------------------
def settings(args: argparse.Namespace) -> None:
    """Each option that the file names exists, and what it calls a default is what --help calls so."""
    text = args.file.read_text()
    check("the file sets nothing", [line for line in text.splitlines() if line and not line.startswith("#")], [])
    options: dict[str, str] = {}
    for entry in re.split(r"\n(?= {2,6}(?:-\w, )?--)", args.help.read_text()):
        if match := re.match(r"\s*(?:-\w, )?--([a-z-]+)", entry):
            default = re.search(r"\[default:\s+([^\]]*)\]", entry, re.S)
            options["SANDTRACE_" + match[1].upper().replace("-", "_")] = default[1] if default else ""
    defaults, examples = text.split("# ---- Examples")
    named = re.findall(r"^#([A-Z][A-Z0-9_]*)=(.*)$", defaults, re.M)
    ours = [(name, value) for name, value in named if name.startswith("SANDTRACE_")]
    told = [(name, re.split(r"[\s,;]", options.get(name, "no such option"))[0]) for name, _ in ours]
    check(f"what the file calls the defaults of {len(ours)} options is what --help calls so", ours, told)
    shown = re.findall(r"^#(SANDTRACE_[A-Z0-9_]*)=", examples, re.M)
    check(f"its {len(shown)} other examples are of options", [name for name in shown if name not in options], [])
    check("there is something of each", len(ours) > 5 and len(shown) > 3, True)


# ---- Dockerfiles -----------------------------------------------------------------
def instructions(path: Path) -> list[str]:
    lines = [line for line in path.read_text().split("\n") if line and not line.startswith("#")]
    return "\n".join(lines).replace("\\\n", "").split("\n")


def twins(args: argparse.Namespace) -> None:
    single, multi = instructions(args.single), instructions(args.multi)
    begins = max(index for index, line in enumerate(multi) if line.startswith("FROM "))
    from_build = [line.replace("COPY --from=build /src/", "COPY ") for line in multi[begins:]]
    check(f"the last stage of {args.multi.name} is {args.single.name}", from_build, single)
    pinned = re.search(r'^channel = "(.*)"', args.toolchain.read_text(), re.M)
    image = re.findall(r"^FROM rust:([0-9.]+)-\w+ AS build$", "\n".join(multi), re.M)
    variable = re.findall(r"^ENV RUSTUP_TOOLCHAIN=(.*)$", "\n".join(multi), re.M)
    check("it builds with the pinned toolchain", image + variable, [pinned and pinned[1]] * 2)


# ---- runs ------------------------------------------------------------------------
def run(args: argparse.Namespace) -> None:
    lines = [json.loads(line) for line in args.echo.read_text().splitlines()]
    data = lines[-1].get("data", {}) if lines else {}
    check("the last line is sandtrace.run.finished", lines[-1].get("type") if lines else None, "sandtrace.run.finished")
    check("no line is missing", [line["sandtrace"]["seq"] for line in lines], list(range(1, len(lines) + 1)))
    check(f"the outcome is {args.outcome}", data.get("outcome"), args.outcome)
    failure = data.get("failure")
    verdict = failure and ".".join(filter(None, (failure["class"], failure.get("reason"))))
    check(f"the verdict is {args.verdict or 'none'}", verdict, args.verdict)
    if failure:
        check("with evidence", bool(failure["evidence"]), True)
    started = lines[0].get("data", {}) if lines else {}
    if args.tools is not None:
        names = [line["data"]["name"] for line in lines if line["type"] == "sandtrace.span.ended"]
        found = sum(name.startswith("execute_tool ") for name in names)
        check(f"{args.tools} tools were traced", found, args.tools)
        check("with tokens", data.get("usage", {}).get("input_tokens", 0) > 0, True)
    for path, wanted in (pair.split("=", 1) for pair in args.started):
        value: Any = started
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        check(f"{path} is {wanted}", str(value).startswith(wanted), True)


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("steps")
    command.set_defaults(does=steps)
    command.add_argument("--python", type=Path, required=True)
    command.add_argument("--typescript", type=Path, required=True)
    command.add_argument("--expected", type=Path, required=True)
    command.add_argument("--record", action="store_true")

    command = commands.add_parser("settings")
    command.set_defaults(does=settings)
    command.add_argument("--file", type=Path, required=True)
    command.add_argument("--help-text", dest="help", type=Path, required=True)

    command = commands.add_parser("twins")
    command.set_defaults(does=twins)
    command.add_argument("--single", type=Path, required=True)
    command.add_argument("--multi", type=Path, required=True)
    command.add_argument("--toolchain", type=Path, required=True)

    command = commands.add_parser("run")
    command.set_defaults(does=run)
    command.add_argument("echo", type=Path)
    command.add_argument("--outcome", required=True)
    command.add_argument("--verdict")
    command.add_argument("--tools", type=int)
    command.add_argument("--started", action="append", default=[], metavar="PATH=BEGINNING")

    args = parser.parse_args()
    args.does(args)
    sys.exit(failures > 0)


main()
