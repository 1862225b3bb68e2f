#!/usr/bin/env python3
"""Builds the sandtrace template on E2B, from e2b.Dockerfile.

    scripts/build-static
    python3 -m venv target/e2b && target/e2b/bin/pip install -r template/build-requirements.txt
    E2B_API_KEY=e2b_... target/e2b/bin/python template/template.py

`--dry-run` prints the steps and their hashes instead; that needs neither a key nor a network. To build on top of this
template, import `template` from here and go on with E2B's builder: `template().apt_install("ripgrep")`.
"""

import argparse
import os
import sys
from pathlib import Path

from e2b import Template, TemplateClass, default_build_logger

ROOT = Path(__file__).resolve().parent.parent
BINARY = ROOT / "template/dist/sandtrace"


def template() -> TemplateClass:
    if not BINARY.is_file():
        sys.exit(f"template.py: {BINARY} is missing: build it with scripts/build-static, then start this again")
    # The paths after COPY are relative to the root of the repository.
    return Template(file_context_path=ROOT).from_dockerfile(str(ROOT / "e2b.Dockerfile"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the sandtrace template on E2B.")
    parser.add_argument("name", nargs="?", default="sandtrace-agent", help="name or name:tag (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=2, help="CPUs of each sandbox (default: %(default)s)")
    parser.add_argument("--memory-mb", type=int, default=4096, help="memory of each sandbox (default: %(default)s)")
    parser.add_argument("--skip-cache", action="store_true", help="build every step anew")
    parser.add_argument("--dry-run", action="store_true", help="print what would be built, as JSON")
    args = parser.parse_args()

    built = template()
    if args.dry_run:
        print(Template.to_json(built))
        return
    if not os.environ.get("E2B_API_KEY"):
        sys.exit("template.py: E2B_API_KEY is not set: take a key from your E2B dashboard, or use --dry-run")
    info = Template.build(built, args.name, cpu_count=args.cpus, memory_mb=args.memory_mb,
                          skip_cache=args.skip_cache, on_build_logs=default_build_logger())
    print(f"{info.name}: template {info.template_id}, build {info.build_id}")


if __name__ == "__main__":
    main()
