#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A thousand clients that go away at random moments; afterwards nothing is left of them.

    tests/load/aborts.py [--kvasird build/kvasird] [--model PATH] [--aborts 1000] [--seed 1]

starts the daemon itself. Several threads ask random things and leave while they send the head or
the body, while they wait, while the answer streams, with more requests behind the one that is
answered, by FIN, by RST, or with only their sending side closed. Then queue, pages and the
requests' account must be as before, an ordinary request must be answered, and the daemon must end
with status 0, which sanitizers change if they have found anything. The same seed plays the same
requests; what meets what is up to the threads.
"""

import argparse
import collections
import contextlib
import os
import random
import sys
import tempfile
import threading
import time

from abuse_cases import CHAT, COMPLETIONS
from bodies import TEXTS, chat, chat_of_many, placed
from daemon import ROOT, Daemon, post, unpack_tiny_model
from wire import CLIENT_ADDRESS, OTHER_ADDRESS, Wire

TIMEOUT_S = 120  # sanitizers take their time
BACK_S = 120


def make_completion(rng):
    return post(COMPLETIONS, {
        "prompt": [[rng.randrange(5, 500) for _ in range(rng.choice((1, 10, 70, 400)))]
                   for _ in range(rng.choice((1, 1, 1, 4, 40)))],
        "n": rng.choice((1, 1, 2, 16)),
        "max_tokens": rng.choice((1, 8, 100, 1000)),
        "temperature": rng.choice((0, 1)),
        "logprobs": rng.choice((None, 0, 5)),
        "stop": rng.choice((None, "a", ["zzz", "yyyy"])),
        "logit_bias": rng.choice((None, {"7": 5, "8": -100})),
        "cache_salt": rng.choice((None, "salt")),
        "stream": rng.random() < 0.6,
        "ignore_eos": rng.random() < 0.7,
    })


def make_chat(rng):
    return post(CHAT, {
        **rng.choice((chat("Hello"), chat("a b c " * 2000), chat_of_many(rng.randrange(1, 40)))),
        "max_tokens": rng.choice((1, 8, 100, 1000)),
        "n": rng.choice((1, 1, 4)),
        "logprobs": rng.random() < 0.3,
        "stream": rng.random() < 0.6,
    })


def make_tokenize(rng):
    kind, size = rng.choice(sorted(TEXTS)), rng.choice((100, 100_000))
    return post("/tokenize", {"prompt": TEXTS[kind](size)})


def make_detokenize(rng):
    n = rng.choice((3, 3000))
    return post("/detokenize", {"tokens": [rng.randrange(500) for _ in range(n)]})


def make_costly(rng):
    kind = rng.choice(("empty objects", "ones", "deep arrays", "distinct keys", "cut short"))
    place = rng.choice(("unknown member", "prompt", "messages", "content", "tools"))
    return post(*placed(place, kind, rng.choice((200, 200_000))))


def make_heavy_chat(rng):
    return post(CHAT, rng.choice((chat_of_many(2000), chat(" " * 100_000))))


def make_get(rng):
    path = rng.choice(("/health", "/metrics", "/v1/models", "/version", "/nothing"))
    return f"GET {path} HTTP/1.1\r\nHost: k\r\n\r\n".encode()


def make_chunked(rng):
    body = make_completion(rng).split(b"\r\n\r\n", 1)[1]
    pieces, at = [], 0
    while at < len(body):
        n = rng.randrange(1, 200)
        piece = body[at:at + n]
        pieces.append(b"%x\r\n%s\r\n" % (len(piece), piece))
        at += n
    return (b"POST /v1/completions HTTP/1.1\r\nHost: k\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(pieces) + b"0\r\n\r\n")


MAKERS = (make_completion, make_completion, make_completion, make_chat, make_chat, make_tokenize,
          make_detokenize, make_costly, make_heavy_chat, make_get, make_chunked)


# Moments of leaving. Each gets the connection, the request and the generator.


def in_head(wire, request, rng):
    end = request.index(b"\r\n\r\n") + 4
    wire.send(request[: rng.randrange(end)])


def in_body(wire, request, rng):
    start = request.index(b"\r\n\r\n") + 4
    wire.send(request[: rng.randrange(start, len(request) + 1)])
    time.sleep(rng.random() * 0.01)


def at_once(wire, request, rng):
    wire.send(request)


def while_waiting(wire, request, rng):
    wire.send(request)
    time.sleep(rng.random() ** 3)


def while_it_streams(wire, request, rng):
    wire.send(request)
    for _ in range(rng.randrange(1, 6)):
        if not wire.socket.recv(rng.choice((1, 100, 10_000))):
            break


def with_more_behind(wire, request, rng):
    behind = b"".join(rng.choice(MAKERS)(rng) for _ in range(rng.randrange(1, 8)))
    wire.send(request + behind[: rng.randrange(len(behind))])
    time.sleep(rng.random() * 0.3)


def after_half_closing(wire, request, rng):
    wire.send(request)
    wire.socket.shutdown(1)
    if rng.random() < 0.5:
        wire.socket.recv(1000)


def after_the_answer(wire, request, rng):
    """The longest is not waited for."""
    wire.socket.settimeout(2)
    wire.send(request)
    with contextlib.suppress(EOFError):
        wire.reply()


MOMENTS = (in_head, in_body, at_once, while_waiting, while_it_streams, with_more_behind,
           after_half_closing, after_the_answer)


class Aborts:
    """Threads share a count of what is still to be done."""

    def __init__(self, port, n, seed):
        self.port = port
        self.n_left = n
        self.rng = random.Random(seed)
        self.lock = threading.Lock()
        self.counts = collections.Counter()

    def next_seed(self):
        """None at the end."""
        with self.lock:
            self.n_left -= 1
            return self.rng.randrange(1 << 60) if self.n_left >= 0 else None

    def abort(self, seed):
        rng = random.Random(seed)
        request, moment, resets = rng.choice(MAKERS)(rng), rng.choice(MOMENTS), rng.random() < 0.5
        wire = Wire(self.port, source=rng.choice((CLIENT_ADDRESS, OTHER_ADDRESS)),
                    timeout_s=5, receive_bytes=rng.choice((None, 4096)))
        with contextlib.suppress(OSError):
            moment(wire, request, rng)
        wire.reset() if resets else wire.close()
        with self.lock:
            self.counts[f"{moment.__name__} {'RST' if resets else 'FIN'}"] += 1

    def run(self):
        while (seed := self.next_seed()) is not None:
            self.abort(seed)

    def run_threads(self, n):
        threads = [threading.Thread(target=self.run) for _ in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def is_answered(port):
    with Wire(port, timeout_s=TIMEOUT_S) as wire:
        wire.send(post(CHAT, {**chat("Hello"), "max_tokens": 4}))
        return wire.reply().status == 200


def play(daemon, args):
    """What is wrong afterwards: a list of sentences."""
    is_answered(daemon.port)
    before = daemon.gauges()
    aborts = Aborts(daemon.port, args.aborts, args.seed)
    aborts.run_threads(args.threads)
    for name, n in sorted(aborts.counts.items()):
        print(f"{n:6d} {name.replace('_', ' ')}")
    wrong = []
    if sum(aborts.counts.values()) != args.aborts:
        wrong.append(f"{sum(aborts.counts.values())} of {args.aborts} aborts were played")
    start = time.monotonic()
    while daemon.gauges() != before and time.monotonic() < start + BACK_S:
        time.sleep(0.05)
    took = time.monotonic() - start
    print(f"queue, pages and account as before after {took:.2f} s: {daemon.gauges()}")
    if daemon.gauges() != before:
        wrong.append(f"after {BACK_S} s there is still {daemon.gauges()}; before, {before}")
    if "kvasir_requests_memory_bytes" not in before:
        wrong.append("no gauge tells what requests hold")
    if not is_answered(daemon.port):
        wrong.append("an ordinary request was not answered")
    return wrong


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kvasird", default=os.environ.get("KVASIRD", ROOT / "build" / "kvasird"))
    parser.add_argument("--model", help="default: a tiny one")
    parser.add_argument("--aborts", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--option", dest="options", action="append", default=[],
                        help="one more argument for the daemon, such as --option=--kv=k4v4")
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse_arguments(arguments)
    with tempfile.TemporaryDirectory() as directory:
        model = args.model or unpack_tiny_model(directory)
        daemon = Daemon(args.kvasird, model, "--kv-tokens", 16 * 1024, "--state-dir", directory,
                        *args.options)
        try:
            wrong = play(daemon, args)
        except (OSError, EOFError) as error:
            wrong = [f"the daemon answers no more: {error!r}"]
        finally:
            status = daemon.stop()
    if status:
        wrong.append(f"the daemon ended with status {status}")
    if wrong:
        print(daemon.log()[-20_000:])
    for what in wrong:
        print(f"FAILED: {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
