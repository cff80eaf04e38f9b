#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Abuses a daemon as one client can, and measures what comes of it.

    tests/load/abuse.py [--kvasird build/kvasird] [--model PATH] [--level quick|full] [CASE ...]

starts the daemon itself and plays the cases (all of the level, or those whose names hold one of
the words given) one after the other. A row for each says
  status   what was answered, and how often; "left" where the attacker went without an answer
  body     the largest body sent, MiB
  peak     how far resident memory of the daemon and what it started rose, MiB, and what it may:
           16 MiB + 6 x body for one request; where there are many, 16 MiB above 110% of what
           max_requests_memory allows all of them
  back     seconds until queue, pages and the requests' account are as before; at most 2
  memory   seconds until resident memory is within 64 MiB of before; at most 10
  other    the longest that another client waited for one token, and for /tokenize of "hi"; seconds,
           at most 1, and every answer a 200
The exit status is 1 if a bar is missed. The quick level runs on a tiny model in under a minute; the
full one is for the default model, takes half an hour, and wants a machine that does little else.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from abuse_cases import CASES
from attack import MIB, Attack
from daemon import DEFAULT_MODEL, ROOT, Daemon, post, resident_bytes, unpack_tiny_model
from watch import SMALL, Watch, ask_once

ALONE_BYTES = 16 * MIB
ALONE_BODIES = 6
TOGETHER_FACTOR = 1.1
BACK_S = 2
MEMORY_BACK_S = 10
MEMORY_BACK_BYTES = 64 * MIB
OTHER_S = 1
LOOK_S = 0.02
KV_TOKENS = 32 * 1024


class Row:
    """One case's figures, and what is wrong with them."""

    def __init__(self, name):
        self.name = name
        self.statuses = ""
        self.body_mib = self.peak_mib = self.bar_mib = 0.0
        self.back_s = self.memory_s = None
        self.worst_s = {}
        self.wrong = []

    def judge(self, is_met, what):
        if not is_met:
            self.wrong.append(what)

    def cells(self):
        def seconds(value):
            return "-" if value is None else f"{value:.2f}"

        return (
            self.name, self.statuses, f"{self.body_mib:.1f}",
            f"{self.peak_mib:.0f}/{self.bar_mib:.0f}", seconds(self.back_s),
            seconds(self.memory_s), seconds(self.worst_s.get("completion")),
            seconds(self.worst_s.get("tokenize")), "FAILED" if self.wrong else "ok",
        )


HEADINGS = ("case", "status", "body", "peak/bar", "back", "memory", "other", "tokenize", "result")
WIDTHS = (38, 22, 6, 11, 6, 7, 6, 9, 6)


def print_cells(cells):
    print(" ".join(f"{cell:<{width}}" if i < 2 else f"{cell:>{width}}"
                   for i, (cell, width) in enumerate(zip(cells, WIDTHS))), flush=True)


def warm(daemon):
    """What a daemon takes once, whoever asks, is there before anything is measured."""
    requests = [
        *SMALL.values(),
        post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}],
                                      "max_tokens": 4, "n": 4}, "Connection: close"),
        post("/v1/completions", {"prompt": [5] * 500, "max_tokens": 4}, "Connection: close"),
        post("/detokenize", {"tokens": [5, 6]}, "Connection: close"),
    ]
    for _ in range(2):
        for request in requests:
            wrong = ask_once(daemon.port, request)
            if wrong:
                raise RuntimeError(f"an ordinary request failed: {wrong}")


def wait_back(row, daemon, args, ended_at, gauges, before_bytes):
    """Fills in when everything is as it was."""
    while row.back_s is None or row.memory_s is None:
        took = time.monotonic() - ended_at
        if row.back_s is None and daemon.gauges() == gauges:
            row.back_s = took
        if row.memory_s is None and resident_bytes(daemon.pid) <= before_bytes + MEMORY_BACK_BYTES:
            row.memory_s = took
        if took > MEMORY_BACK_S:
            break
        time.sleep(LOOK_S)
    row.judge(row.back_s is not None and row.back_s <= args.slower * BACK_S,
              f"queue, pages and account are not back within {BACK_S} s: "
              f"{daemon.gauges()} after, {gauges} before")
    row.judge(row.memory_s is not None or not args.judges_memory,
              f"resident memory is still {(resident_bytes(daemon.pid) - before_bytes) / MIB:.0f} "
              f"MiB above before after {MEMORY_BACK_S} s")
    row.judge("kvasir_requests_memory_bytes" in gauges, "no gauge tells what requests hold")


def bar_bytes(case, attack, limits):
    if not case.together:
        return ALONE_BYTES + ALONE_BODIES * attack.body_bytes
    return ALONE_BYTES + TOGETHER_FACTOR * limits["max_requests_memory"] + case.allowed_bytes


def play(case, daemon, args, vocabulary):
    row = Row(case.name)
    attack = Attack(daemon, args.level == "full", vocabulary)
    limits, gauges, before_bytes = daemon.limits(), daemon.gauges(), resident_bytes(daemon.pid)
    with Watch(daemon, case.kinds) as watch:
        case.play(attack)
        watch.send_others_away()
        if case.ends_daemon:
            pass
        elif daemon.is_alive():
            wait_back(row, daemon, args, attack.ended_at, gauges, before_bytes)
        else:
            row.wrong.append(f"the daemon ended:\n{daemon.log()[-2000:]}")
    seen = watch.seen
    row.statuses = " ".join(f"{n}x{status}" for status, n in attack.statuses.items())
    row.body_mib = attack.body_bytes / MIB
    row.peak_mib = max(0, seen.peak_bytes - before_bytes) / MIB
    row.bar_mib = bar_bytes(case, attack, limits) / MIB
    row.wrong += attack.complaints
    row.judge(row.peak_mib <= row.bar_mib or not args.judges_memory,
              "resident memory passed its bar")
    if case.kinds:
        row.worst_s = seen.worst_s
        row.judge(max(seen.worst_s.values()) <= args.slower * OTHER_S,
                  "another client waited too long")
        row.judge(not seen.refusals, f"another client was refused {len(seen.refusals)} times: "
                  f"{seen.refusals[:1]}")
    return row


def vocabulary_of(model):
    """Token ids that the model has: the default's, or what a config.json says."""
    path = Path(model) / "config.json"
    return json.loads(path.read_text())["vocab_size"] if path.is_file() else 49152


class Stage:
    """The daemon that the next case meets; it serves one after the other as long as each leaves it
    unharmed."""

    def __init__(self, args, model, state_directory):
        self.args, self.model = args, model
        self.options = ("--kv-tokens", KV_TOKENS, "--state-dir", state_directory)
        self.daemon = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.clear()

    def clear(self):
        if self.daemon:
            self.daemon.stop()
        self.daemon = None

    def daemon_for(self, case):
        options = [str(o) for o in (*self.options, *case.options, *self.args.options)]
        if self.daemon and (self.daemon.options != options or not self.daemon.is_alive()):
            self.clear()
        if not self.daemon:
            self.daemon = Daemon(self.args.kvasird, self.model, *options)
            warm(self.daemon)
        return self.daemon


def play_all(cases, args, model, state_directory):
    rows = []
    print_cells(HEADINGS)
    with Stage(args, model, state_directory) as stage:
        for case in cases:
            rows.append(play(case, stage.daemon_for(case), args, vocabulary_of(model)))
            print_cells(rows[-1].cells())
            for what in rows[-1].wrong:
                print(f"    {what}", flush=True)
            if rows[-1].wrong:
                stage.clear()
    return rows


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="CASE", help="part of a case's name")
    parser.add_argument("--kvasird", default=os.environ.get("KVASIRD", ROOT / "build" / "kvasird"))
    parser.add_argument("--model", help="default: a tiny one for quick, SmolLM2 for full")
    parser.add_argument("--level", choices=("quick", "full"), default="quick")
    parser.add_argument("--slower", type=float, default=1, metavar="FACTOR",
                        help="what bars of seconds are multiplied with, for sanitizers")
    parser.add_argument("--no-memory", dest="judges_memory", action="store_false",
                        help="no bars for resident memory, for sanitizers")
    parser.add_argument("--list", action="store_true", help="print the cases' names")
    parser.add_argument("--option", dest="options", action="append", default=[],
                        help="one more argument for the daemon, such as --option=--threads=1")
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse_arguments(arguments)
    cases = [case for case in CASES if args.level == "full" or case.quick or args.words]
    if args.words:
        cases = [case for case in cases if any(word in case.name for word in args.words)]
    if args.list:
        print("\n".join(case.name for case in cases))
        return 0
    if not cases:
        sys.exit("no case has such a name; see --list")
    with tempfile.TemporaryDirectory() as directory:
        model = args.model or (DEFAULT_MODEL if args.level == "full"
                               else unpack_tiny_model(directory))
        rows = play_all(cases, args, model, directory)
    failed = [row.name for row in rows if row.wrong]
    print(f"{len(rows) - len(failed)} of {len(rows)} cases met every bar")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
