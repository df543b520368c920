#!/usr/bin/env python3
"""How many instructions the fixed paths of a request take, beside what they took before.

    python3 tests/bench/instructions.py [--write]

Counts with valgrind's callgrind, which gives the same number on a busy machine, too. Exits with 1
if a path takes over 3 % more than tests/bench/instructions.json says; `--write` notes the new
numbers there. Needs valgrind, tests/run.sh --quick for the guest, and
cargo build --release --locked --workspace --bins --examples.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "target/release/examples/bench-instructions"
NOTED = ROOT / "tests/bench/instructions.json"

# What each path is, and how often it is taken: what the beginning costs must not show.
PATHS = {
    "route": ("a method's name to its plugin", 10_000),
    "call": ("a fresh instance, the guest, its result", 200),
    "path": ("from delivery to settlement, 16 bytes", 200),
    "plain": ("read and answered, 1 KiB: plain", 2_000),
    "json-rpc": ("JSON-RPC 2.0", 2_000),
    "auto-json-rpc": ("JSON-RPC 2.0, found by itself", 2_000),
    "envelope": ("envelope", 2_000),
    "nameko": ("Nameko", 2_000),
    "nestjs": ("NestJS", 2_000),
    "celery": ("Celery", 2_000),
    "aio-pika": ("aio-pika", 2_000),
}

# Taken before anything counts: tables and caches are filled then.
WARM = 20

# How much more is a regression: the allocator's state makes up to one per cent.
MOST = 1.03


def count(path, times):
    ended = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", PROGRAM, path, str(times)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )
    collected = re.search(r"Collected : (\d+)", ended.stderr)
    if ended.returncode != 0 or not collected:
        sys.exit(f"{path}: exit {ended.returncode}\n{ended.stderr[-3000:]}")
    return int(collected[1])


def main():
    write = sys.argv[1:] == ["--write"]
    if sys.argv[1:] and not write:
        sys.exit(__doc__)
    noted = json.loads(NOTED.read_text()) if NOTED.exists() else {}
    counts, worse = {}, []
    print(f"{'path':<15}{'instructions':>13}{'before':>10}{'':>9}")
    for path, (what, times) in PATHS.items():
        counts[path] = round((count(path, WARM + times) - count(path, WARM)) / times)
        before = noted.get(path)
        ratio = counts[path] / before if before else 1.0
        if ratio > MOST:
            worse.append(path)
        print(f"{path:<15}{counts[path]:>13,}{before or 0:>10,}{100 * (ratio - 1):>+7.1f} %  {what}")
    if write:
        NOTED.write_text(json.dumps(counts, indent=4) + "\n")
    elif worse:
        sys.exit(f"over {100 * (MOST - 1):.0f} % more than before: {', '.join(worse)}")


if __name__ == "__main__":
    main()
