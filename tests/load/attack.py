# SPDX-License-Identifier: Apache-2.0
"""The attacker's side of one case: what it may do to a daemon, and the books on what came back."""

import collections
import contextlib
import threading
import time

from daemon import post
from wire import Wire

MIB = 1 << 20


AFTER_LEAVING_S = 0.3  # while others are still watched


class Attack:
    """One attacker at one running daemon.

    `statuses` counts the answers, and "left" where the attacker went without one; `complaints`
    holds what the case itself found wrong. `body_bytes` is the largest body sent, `ended_at` when
    the last answer came or the last client left.
    """

    def __init__(self, daemon, is_full, vocabulary):
        self.daemon = daemon
        self.port = daemon.port
        self.is_full = is_full
        self.vocabulary = vocabulary  # number of token ids that the model has
        self.patience_s = 20 if is_full else 4
        self.statuses = collections.Counter()
        self.complaints = []
        self.body_bytes = 0
        self.ended_at = time.monotonic()
        self.lock = threading.Lock()

    def size(self, full, quick):
        return full if self.is_full else quick

    def note(self, status, body_bytes=0):
        with self.lock:
            self.statuses[status] += 1
            self.body_bytes = max(self.body_bytes, body_bytes)
            self.ended_at = time.monotonic()

    def complain(self, what):
        with self.lock:
            self.complaints.append(what)

    def wire(self, **options):
        return Wire(self.port, timeout_s=self.patience_s, **options)

    def ask(self, path, body, patience_s=None):
        """Sends a request and waits for the whole answer; leaves when out of patience."""
        request = post(path, body)
        status = "left"
        with contextlib.suppress(OSError, EOFError), self.wire() as wire:
            wire.socket.settimeout(patience_s or self.patience_s)
            with contextlib.suppress(ConnectionError):  # refused while it is being sent
                wire.send(request)
            status, _, answer = wire.reply()
            if status >= 500 and status != 503:
                self.complain(f"{status}: {answer[:200].decode(errors='replace')}")
        self.note(status, len(request))
        return status

    def ask_and_leave(self, path, body, sent=1.0, stays_s=0.0):
        """Sends that part of a request, stays a while, and is gone."""
        request = post(path, body)
        with contextlib.suppress(OSError), self.wire() as wire:
            wire.send(memoryview(request)[: int(len(request) * sent)])
            time.sleep(stays_s)
        self.note("left", len(request))
        time.sleep(AFTER_LEAVING_S)

    def at_once(self, n, play):
        """Calls play(i) for each i below n, all at the same time."""
        threads = [threading.Thread(target=play, args=(i,)) for i in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def wait(self, condition, seconds, what):
        """Whether it comes true in time; a complaint if not."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.05)
        self.complain(f"{what} did not come true in {seconds:g} s")
        return False
