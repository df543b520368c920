#!/usr/bin/env python3
"""What a host costs that does nothing, and how long it takes to notice a file.

    target/bench/venv/bin/python tests/bench/moments.py [--rounds 10] [--seconds 30]

Measures target/release/rpchost with a broker of its own: the CPU and memory of a host with three
plugins that nobody calls; the time from the renaming of a new component of 300 KB into the folder
to the first result, of one with little code and of one that is full of it; and the 99th percentile of the second in which the plugin is replaced, at full
load, beside that of the other seconds. tests/bench/run.sh and tests/run.sh --quick build and install
what this needs; nothing else should run on the machine.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pika

ROOT = Path(__file__).resolve().parents[2]
RPCHOST = ROOT / "target/release/rpchost"
GUESTS = ROOT / "target/guests"

# Bytes of the component that is dropped.
SIZE = 300_000

# Seconds that a host is left alone before it is measured: it has just started.
CALM = 5

# Seconds of a run under load, and the one in which the file is replaced.
LOAD, SWAP = 12, 6

# Longest wait for a first result, and the pause between two calls until then, in seconds.
PATIENCE, PAUSE = 30, 0.005


def leb128(number):
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def component(guest, size=0):
    """A guest that no cache knows, of at least `size` bytes: with a custom section of noise."""
    wasm = (GUESTS / f"{guest}.wasm").read_bytes()
    noise = os.urandom(max(16, size - len(wasm)))
    section = b"\x05noise" + noise
    return wasm + b"\x00" + leb128(len(section)) + section


def rename_into(folder, name, wasm):
    staged = folder.parent / f"{name}.staged"
    staged.write_bytes(wasm)
    staged.rename(folder / f"{name}.wasm")


class Host:
    """A host with a broker of its own."""

    def __init__(self, plugins):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        self.child = subprocess.Popen(
            [RPCHOST, "dev", "--admin", "off", "--plugins", plugins],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )
        deadline = time.monotonic() + 60
        while not (said := re.search(r"broker +(amqp://\S+)", Path(self.log.name).read_text())):
            if time.monotonic() > deadline or self.child.poll() is not None:
                sys.exit(f"`rpchost dev` did not start:\n{Path(self.log.name).read_text()}")
            time.sleep(0.1)
        self.url = said[1]

    def ticks(self):
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def rss(self):
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.child.pid}/status").read_text())[1])

    def stop(self):
        self.child.send_signal(signal.SIGINT)
        self.child.wait(60)


def idle(host, seconds):
    time.sleep(CALM)
    before = host.ticks()
    time.sleep(seconds)
    share = (host.ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds
    print(f"idle, three plugins            {100 * share:8.2f} % of a core    bar < 0.5")
    print(f"                               {host.rss() / 1000:8.1f} MB             bar < 60")


def dropped(host, folder, guest, rounds):
    """Milliseconds from a rename to the first result, each time of another plugin."""
    connection = pika.BlockingConnection(pika.URLParameters(host.url))
    channel = connection.channel()
    answers = []
    channel.basic_consume(
        "amq.rabbitmq.reply-to", lambda *answer: answers.append(answer), auto_ack=True
    )

    def works(method):
        channel.basic_publish(
            "", "rpc_queue", b"x",
            pika.BasicProperties(type=method, reply_to="amq.rabbitmq.reply-to"),
        )
        while not answers:
            connection.process_data_events(time_limit=1)
        _, _, properties, _ = answers.pop()
        return properties.type != "error" and "x-rpchost-error" not in (properties.headers or {})

    took = []
    for number in range(rounds):
        name = f"dropped-{guest}-{number}"
        assert not works(name)
        wasm = component(guest, SIZE)
        begun = time.monotonic()
        rename_into(folder, name, wasm)
        while not works(name):
            if time.monotonic() - begun > PATIENCE:
                sys.exit(f"`{name}` does not serve")
            time.sleep(PAUSE)
        took.append(1000 * (time.monotonic() - begun))
        time.sleep(0.2)
    connection.close()
    return took


def replaced(host, folder):
    """The 99th percentile of the second of a swap, and of the others, in milliseconds."""
    bench = subprocess.Popen(
        [RPCHOST, "bench", "echo", "--size", "16B", "--duration", f"{LOAD}s", "--amqp-url", host.url,
         "-o", "json"],
        stdout=subprocess.PIPE, text=True,
    )
    # It warms up for a second, after it has connected.
    time.sleep(1 + SWAP + 0.5)
    rename_into(folder, "echo", component("echo", SIZE))
    report = json.loads(bench.communicate()[0])
    assert report["ok"], report
    p99 = {second["second"]: second["p99"] / 1000 for second in report["seconds"]}
    # Compiled, and taken over, within two seconds.
    swap = max(p99[SWAP], p99[SWAP + 1])
    return swap, statistics.median(
        value for second, value in p99.items() if second not in (SWAP, SWAP + 1)
    )


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=10)
    arguments.add_argument("--seconds", type=int, default=30)
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plugins = Path(folder) / "plugins"
        plugins.mkdir()
        for name in ("echo", "fib", "math"):
            shutil.copy(GUESTS / f"{name}.wasm", plugins)
        host = Host(plugins)
        try:
            idle(host, arguments.seconds)
            for guest, what in (("echo", "little code"), ("misbehave", "all code")):
                took = dropped(host, plugins, guest, arguments.rounds)
                print(
                    f"renamed to result, {what:<11} {statistics.median(took):8.0f} ms, longest "
                    f"{max(took):.0f}    bar <= 150"
                )
            rounds = [replaced(host, plugins) for _ in range(max(3, arguments.rounds // 3))]
            ratio = statistics.median(swap / normal for swap, normal in rounds)
            swap, normal = (statistics.median(of) for of in zip(*rounds))
            print(
                f"p99 of the second of a swap    {swap:8.1f} ms, else {normal:.1f}: {ratio:.2f} x"
                "    bar <= 2"
            )
        finally:
            host.stop()


if __name__ == "__main__":
    main()
