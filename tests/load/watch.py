# SPDX-License-Identifier: Apache-2.0
"""What others see while a daemon is attacked: its memory, and how long a small request takes.

A process of its own, so that what the attacker computes is not mistaken for the daemon's slowness.
"""

import multiprocessing
import threading
import time

from daemon import post, resident_bytes
from wire import OTHER_ADDRESS, Wire

SAMPLE_S = 0.02
PAUSE_S = 0.02  # between two requests of another client
PATIENCE_S = 30

SMALL = {
    "completion": post("/v1/completions", {"prompt": "hi", "max_tokens": 1, "temperature": 0},
                       "Connection: close"),
    "tokenize": post("/tokenize", {"prompt": "hi"}, "Connection: close"),
}


class Seen:
    """What was seen from start to stop. Picklable: it crosses from the watching process."""

    def __init__(self):
        self.peak_bytes = 0
        self.worst_s = dict.fromkeys(SMALL, 0.0)
        self.n_asked = dict.fromkeys(SMALL, 0)
        self.refusals = []  # what another client got that was no 200


def ask_once(port, request):
    """None, or what was wrong with the answer."""
    try:
        with Wire(port, source=OTHER_ADDRESS, timeout_s=PATIENCE_S) as wire:
            wire.send(request)
            status, _, body = wire.reply()
            return None if status == 200 else f"{status} {body[:120].decode(errors='replace')}"
    except (OSError, EOFError, ValueError) as error:
        return repr(error)


def ask_again_and_again(port, kind, seen, stop):
    while not stop.is_set():
        start = time.monotonic()
        wrong = ask_once(port, SMALL[kind])
        seen.worst_s[kind] = max(seen.worst_s[kind], time.monotonic() - start)
        seen.n_asked[kind] += 1
        if wrong and len(seen.refusals) < 100:
            seen.refusals.append(f"{kind}: {wrong}")
        stop.wait(PAUSE_S)


def sample_memory(pid, seen, stop):
    while not stop.is_set():
        seen.peak_bytes = max(seen.peak_bytes, resident_bytes(pid))
        stop.wait(SAMPLE_S)


class Threads:
    """Threads that call the functions until they are stopped."""

    def __init__(self, *calls):
        self.event = threading.Event()
        self.threads = [threading.Thread(target=function, args=(*arguments, self.event))
                        for function, *arguments in calls]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.event.set()
        for thread in self.threads:
            thread.join()


def watch(pipe, pid, port, kinds):
    seen = Seen()
    memory = Threads((sample_memory, pid, seen))
    others = Threads(*((ask_again_and_again, port, kind, seen) for kind in kinds))
    pipe.send("watching")
    for stage in (others, memory):
        pipe.recv()
        stage.stop()
        pipe.send(seen)


class Watch:
    """Watches a daemon while the block runs. `seen` is there, as far as other clients go, once they
    are sent away, and whole after the block."""

    def __init__(self, daemon, kinds=tuple(SMALL)):
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(
            target=watch, args=(theirs, daemon.pid, daemon.port, kinds), daemon=True)
        self.seen = None
        self.has_others = True

    def __enter__(self):
        self.process.start()
        self.pipe.recv()
        return self

    def _next_stage(self):
        self.pipe.send("on")
        self.seen = self.pipe.recv()

    def send_others_away(self):
        self.has_others = False
        self._next_stage()

    def __exit__(self, *_):
        if self.has_others:
            self.send_others_away()
        self._next_stage()
        self.process.join()
