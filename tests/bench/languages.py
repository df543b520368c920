#!/usr/bin/env python3
"""From `rpchost new` to the first reply in each language, and what a call costs then.

    python3 tests/bench/languages.py [LANGUAGE...]

Begins with nothing but what the README asks for: whatever else is missing it installs as
`rpchost build` says, into an empty folder below target/languages/. Measures a typed handler that
greets by name, as `rpchost new` writes it, and puts the table into wit/README.md; with LANGUAGE,
only prints it. Needs target/release/rpchost; nothing else should run on the machine.
"""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RPCHOST = ROOT / "target/release/rpchost"
MANUAL = ROOT / "wit/README.md"
WORK = ROOT / "target/languages"

LANGUAGES = {
    "rust": "Rust",
    "c": "C",
    "zig": "Zig",
    "assemblyscript": "AssemblyScript",
    "go": "Go",
    "javascript": "JavaScript",
    "typescript": "TypeScript",
    "python": "Python",
}

# Where the table stands in the manual.
BEGIN, END = "<!-- languages: begin -->\n", "<!-- languages: end -->\n"

# What a language needs that is missing, of which each one names the next.
MOST_TOOLS = 4

# How long calls are measured.
DURATION = "3s"


def run(args, folder, **more):
    return subprocess.run(
        [str(arg) for arg in args], cwd=folder, capture_output=True, text=True, check=False, **more
    )


def must(args, folder, env):
    ended = run(args, folder, env=env)
    if ended.returncode != 0:
        sys.exit(f"{' '.join(map(str, args))}: exit {ended.returncode}\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def seconds(what):
    begun = time.monotonic()
    what()
    return time.monotonic() - begun


def build(project, env):
    """Builds, and installs what is said to be missing; the seconds that installing took."""
    installing = 0.0
    for _ in range(MOST_TOOLS):
        built = run([RPCHOST, "build"], project, env=env)
        if built.returncode == 0:
            return installing
        missing = re.search(r"; run: (.*)", built.stderr)
        if not missing:
            sys.exit(f"{project.name}: {built.stdout}{built.stderr}")
        installing += seconds(lambda: must(["sh", "-c", missing[1]], project, env))
    sys.exit(f"{project.name}: more than {MOST_TOOLS} tools are missing")


def metric(admin, name):
    with urllib.request.urlopen(f"http://{admin}/metrics") as answer:
        text = answer.read().decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
    return float(found[1]) if found else 0.0


class Dev:
    """A host with a broker of its own."""

    def __init__(self, folder, env):
        self.log = (folder / "dev.log").open("w+")
        self.child = subprocess.Popen(
            [str(RPCHOST), "dev", "--admin", "127.0.0.1:0", "--plugins", "served"],
            cwd=folder, env=env, stdout=self.log, stderr=subprocess.STDOUT,
        )
        self.url = self.wait_for(r"broker +(amqp://\S+)")
        self.admin = self.wait_for(r"admin(?:=| +)(?:http://)?([\d.:]+)")

    def wait_for(self, pattern):
        for _ in range(600):
            said = Path(self.log.name).read_text()
            if found := re.search(pattern, said):
                return found[1]
            if self.child.poll() is not None:
                break
            time.sleep(0.1)
        sys.exit(f"`rpchost dev` did not say {pattern}:\n{Path(self.log.name).read_text()}")

    def stop(self):
        self.child.send_signal(signal.SIGINT)
        self.child.wait(30)


def written(project):
    """The file that an author would change, among what tools have put beside it."""
    kinds = {".rs", ".py", ".js", ".ts", ".c", ".go", ".zig"}
    others = {"build", "target", ".venv", "node_modules"}
    for folder, folders, files in os.walk(project):
        folders[:] = [name for name in folders if name not in others]
        for file in map(Path(folder).joinpath, files):
            if file.suffix in kinds and "Hello" in file.read_text():
                return file
    sys.exit(f"{project.name}: nothing in it says hello")


def measured(language):
    folder = WORK / language
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "served").mkdir(parents=True)
    env = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    env.pop("CARGO_TARGET_DIR", None)
    project, wasm = folder / "hello", folder / "hello/build/hello.wasm"
    call = [RPCHOST, "call", "--timeout", "60s", "--file", wasm, "greet", "World"]

    def first_reply():
        must([RPCHOST, "new", "hello", "--lang", language], folder, env)
        nonlocal installing
        installing = build(project, env)
        assert must(call, folder, env) == '"Hello, World!"\n', language

    installing = 0.0
    first = seconds(first_reply) - installing
    assert must([RPCHOST, "test"], project, env).endswith("2 passed\n"), language
    # A version whose cases fail is not served, so they change with it.
    for file in [written(project), project / "rpchost-plugin.toml"]:
        file.write_text(file.read_text().replace("Hello", "Welcome"))

    def again():
        must([RPCHOST, "build"], project, env)
        assert must(call, folder, env) == '"Welcome, World!"\n', language

    changed = seconds(again)
    # A host that has never seen it, with a broker of its own.
    shutil.rmtree(folder / "state")
    dev = Dev(folder, env)
    try:
        shutil.copy(wasm, folder / "served/.hello")
        os.rename(folder / "served/.hello", folder / "served/hello.wasm")
        by_broker = [RPCHOST, "call", "--amqp-url", dev.url, "--timeout", "60s", "hello.greet", "World"]
        deadline = time.monotonic() + 120
        while run(by_broker, folder, env=env).returncode != 0:
            if time.monotonic() > deadline:
                sys.exit(f"{language}: no answer by the broker: {Path(dev.log.name).read_text()}")
        compiling = metric(dev.admin, "rpchost_compile_seconds_sum")
        name = 'rpchost_call_seconds_{}{{plugin="hello"}}'
        before = [metric(dev.admin, name.format(part)) for part in ("sum", "count")]
        bench = [
            RPCHOST, "bench", "hello.greet", '"World"', "--amqp-url", dev.url, "--in-flight", "1",
            "--duration", DURATION, "--pid", f"host={dev.child.pid}", "-o", "json",
        ]
        report = json.loads(must(bench, folder, env))
        after = [metric(dev.admin, name.format(part)) for part in ("sum", "count")]
    finally:
        dev.stop()
    in_host = (after[0] - before[0]) / (after[1] - before[1])
    return {
        "installing": installing, "first": first, "changed": changed, "size": wasm.stat().st_size,
        "compiling": compiling, "in_host": in_host, "report": report,
    }


def size(count):
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def row(language, found):
    report = found["report"]
    trip = report["latency_us"]["p50"] / 1000
    return (
        f"| {LANGUAGES[language]} | {found['installing']:.0f} s | {found['first']:.1f} s "
        f"| {found['changed']:.1f} s | {size(found['size'])} | {found['compiling'] * 1000:.0f} ms "
        f"| {found['in_host'] * 1000:.2f} ms | {trip:.2f} ms |"
    )


def table(rows):
    cpu = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.machine(),
    )
    version = run([RPCHOST, "--version"], ROOT).stdout.strip()
    return "\n".join([
        "| | tools | `new` to reply | change to reply | size | compiled | call | round trip |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *rows,
        "",
        f"{version}, {os.cpu_count()} cores of {cpu}, with the broker on them, too.",
        "",
    ])


def main():
    languages = sys.argv[1:] or list(LANGUAGES)
    unknown = [language for language in languages if language not in LANGUAGES]
    if unknown:
        sys.exit(f"no language {unknown[0]}; there are {', '.join(LANGUAGES)}")
    rows = []
    for language in languages:
        print(f"== {LANGUAGES[language]}", file=sys.stderr, flush=True)
        rows.append(row(language, measured(language)))
    text = table(rows)
    print(text)
    if not sys.argv[1:]:
        before, rest = MANUAL.read_text().split(BEGIN)
        _, after = rest.split(END)
        MANUAL.write_text(f"{before}{BEGIN}{text}{END}{after}")


if __name__ == "__main__":
    main()
