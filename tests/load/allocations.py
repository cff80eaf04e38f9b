#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts what a daemon allocates while it is under load, by thread and by the code that asks.

    tests/load/allocations.py [--kvasird build/kvasird] [--model PATH] [--minutes 10] [OPTION ...]

Clients of every kind ask for MINUTES: whole answers and streams, several choices, long prompts,
logprobs, stop strings, and some that leave. Once they have all been served a first time the count
begins. OPTIONs go to the daemon.

The backend and the engine take their memory at start. Afterwards nothing may be allocated
  - on a thread of the backend, or below its code (cpu_..., decoder_...) on the engine's;
  - by the engine's thread, but for what belongs to a request and is counted on its account: its
    events, its ids and its text, from the code of its sequence on.
The exit status is 1 if anything else was. Needs gcc and nm.
"""

import argparse
import bisect
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from daemon import DEFAULT_MODEL, ROOT, Daemon
from wire import Wire

SOURCE = Path(__file__).with_name("count_allocations.c")
BACKEND_THREADS = "kvasir-cpu"
BACKEND_CODE = ("cpu_", "decoder_")
REQUEST_CODE = ("sequence_", "engine_queue_add", "engine_request_", "engine_event_", "receive",
                "enqueue", "take_mail")
WORDS = "one two three four five six seven eight nine ten, and on, and so on".split()


class Symbols:
    """Names of the functions of a program."""

    def __init__(self, program, pid):
        rows = subprocess.run(["nm", "-n", "--defined-only", program], check=True,
                              capture_output=True, text=True).stdout.splitlines()
        functions = [row.split() for row in rows if row.split()[1] in "tTwW"]
        self.addresses = [int(row[0], 16) for row in functions]
        self.names = [row[2] for row in functions]
        self.spans = []
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            fields = line.split()
            if fields[-1] == str(Path(program).resolve()):
                first, last = (int(x, 16) for x in fields[0].split("-"))
                self.spans.append((first, last))
        self.base = min(first for first, _ in self.spans)

    def name(self, address):
        if not any(first <= address < last for first, last in self.spans):
            return None
        i = bisect.bisect_right(self.addresses, address - self.base) - 1
        return self.names[i] if i >= 0 else None


def one_request(port, rng, is_over):
    prompt = " ".join(rng.choice(WORDS) for _ in range(rng.choice((5, 40, 300))))
    body = {"model": "", "prompt": prompt, "max_tokens": rng.choice((1, 16, 40)),
            "stream": rng.random() < 0.5, "n": rng.choice((1, 1, 3)),
            "temperature": rng.choice((0, 0.9))}
    if rng.random() < 0.3:
        body["logprobs"] = 3
    if rng.random() < 0.3:
        body["stop"] = ["seven", "\n\n"]
    if rng.random() < 0.2:
        body |= {"frequency_penalty": 0.5, "logit_bias": {"11": 2}}
    body.pop("model")
    with Wire(port, timeout_s=1200) as wire:
        text = json.dumps(body).encode()
        wire.socket.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                            % (len(text), text))
        leaves_s = rng.random() * 2 if rng.random() < 0.2 else None
        begin = time.monotonic()
        while not is_over():
            if leaves_s is not None and time.monotonic() - begin > leaves_s:
                return
            if not wire.socket.recv(1 << 16):
                return


def keep_asking(port, seed, is_over, counts):
    rng = random.Random(seed)
    while not is_over():
        one_request(port, rng, is_over)
        counts[seed] += 1


def who(frames):
    """The innermost function that is not a helper of memory or text."""
    for name in frames:
        if name and not name.startswith(("buffer_", "__")):
            return name
    return "?"


def judge(thread, frames):
    if thread.startswith(BACKEND_THREADS):
        return "backend"
    if thread != "engine":
        return "others"
    if any(name and name.startswith(BACKEND_CODE) for name in frames):
        return "backend"
    if any(name and name.startswith(REQUEST_CODE) for name in frames):
        return "requests"
    return "engine"


def read_counts(path, symbols, threads):
    sums = collections.Counter()
    for line in path.read_text().splitlines()[:-1]:
        thread, calls, *frames = line.split()
        names = [symbols.name(int(frame, 16)) for frame in frames]
        owner = judge(threads.get(int(thread), "gone"), names)
        sums[owner, who(names) if owner != "others" else "-"] += int(calls)
    return sums


def wait_for(path):
    for _ in range(600):
        if path.exists() and path.read_text().endswith("end\n"):
            return
        time.sleep(0.05)
    sys.exit("the daemon wrote no counts")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kvasird", type=Path, default=ROOT / "build" / "kvasird")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=12)
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as directory:
        library, counts_path = Path(directory, "count.so"), Path(directory, "counts")
        subprocess.run(["gcc", "-O1", "-fPIC", "-shared", "-o", library, SOURCE, "-ldl"],
                       check=True)
        os.environ |= {"LD_PRELOAD": str(library), "COUNT_ALLOCATIONS": str(counts_path)}
        daemon = Daemon(arguments.kvasird, arguments.model, "--kv-tokens", 16384, *options)
        try:
            del os.environ["LD_PRELOAD"]
            sums, metrics = run(daemon, arguments, counts_path)
        finally:
            daemon.stop()
    print(f"{arguments.minutes:g} minutes, {metrics['requests']} requests, "
          f"{metrics['tokens']:.0f} tokens, {metrics['steps']:.0f} steps\n")
    for (owner, name), calls in sorted(sums.items(), key=lambda item: (item[0][0], -item[1])):
        print(f"{owner:<10}{name:<40}{calls:>12}")
    wrong = sum(calls for (owner, _), calls in sums.items() if owner in ("backend", "engine"))
    print(f"\nby the backend and the engine: {wrong}")
    return 1 if wrong else 0


def run(daemon, arguments, counts_path):
    end = time.monotonic() + 1e9
    counts = collections.Counter()

    def is_over():
        return time.monotonic() > end

    clients = [threading.Thread(target=keep_asking, args=(daemon.port, seed, is_over, counts))
               for seed in range(arguments.clients)]
    for client in clients:
        client.start()
    while min(counts[seed] for seed in range(arguments.clients)) < 3:
        time.sleep(0.1)
        if not daemon.is_alive():
            sys.exit(daemon.log())
    symbols = Symbols(arguments.kvasird, daemon.pid)
    before = {name: daemon.metric(name) for name in
              ("vllm:generation_tokens_total", "kvasir_steps_total")}
    n_before = sum(counts.values())
    os.kill(daemon.pid, signal.SIGRTMIN)
    time.sleep(60 * arguments.minutes)
    os.kill(daemon.pid, signal.SIGRTMIN)
    wait_for(counts_path)
    metrics = {"requests": sum(counts.values()) - n_before}
    for key, name in (("tokens", "vllm:generation_tokens_total"), ("steps", "kvasir_steps_total")):
        metrics[key] = daemon.metric(name) - before[name]
    threads = {int(task.name): (task / "comm").read_text().strip()
               for task in Path(f"/proc/{daemon.pid}/task").iterdir()}
    sums = read_counts(counts_path, symbols, threads)
    end = 0
    for client in clients:
        client.join()
    return sums, metrics


if __name__ == "__main__":
    sys.exit(main())
