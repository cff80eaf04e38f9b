# SPDX-License-Identifier: Apache-2.0
"""The processes in which chat templates run; built into the daemon and started by chat_nursery.c.

The nursery is a Python with Jinja2 loaded that runs no template. For each byte that comes with a
socket it forks a worker, which answers on that socket until the other side closes it. Both end when
the daemon does, however it ends: their sockets close. A worker that waits sees that by itself; one
that runs a template is ended by a signal, SIGIO, whatever it is at. So that is also how the daemon
ends a worker: it closes the socket.

On the sockets, a frame is a header and a body. A question is answered, or the worker is gone.
"""

import fcntl
import gc
import json
import os
import resource
import signal
import socket
import struct
import sys
import types

# kind, 0, most bytes of the answer, memory for it in bytes, bytes of the body
QUESTION = struct.Struct("<IIQQQ")
# outcome, whether the worker ends with this answer, bytes of the body
ANSWER = struct.Struct("<IIQ")

OPEN, PROBE, LOAD, RENDER = range(4)
OUTCOMES = ("done", "none", "raised", "limit", "bad message", "invalid", "memory", "no jinja2",
            "broken")
OUTCOME_OF_EXCEPTION = {
    "NoTemplate": "none", "Raised": "raised", "OutputLimit": "limit", "BadMessage": "bad message",
    "Invalid": "invalid",
}
FILES_MAX = 32
GROWN_BYTES_MAX = 16 << 20  # a worker that holds more than this beside what it began with ends
WORDS_BYTES_MAX = 1000


class Ended(Exception):
    """The other side has closed."""


def receive(channel, size):
    body, at = bytearray(size), 0
    while at < size:
        n = channel.recv_into(memoryview(body)[at:], size - at)
        if n == 0:
            raise Ended
        at += n
    return body


def encoded_words(text):
    """UTF-8 of limited length, whole characters."""
    encoded = text.encode("utf-8", "replace")[:WORDS_BYTES_MAX]
    return encoded.decode("utf-8", "ignore").encode("utf-8")


def memory_sizes():
    """(address space, resident) in bytes."""
    with open("/proc/self/statm", "rb", buffering=0) as file:
        total, resident = file.read(128).split()[:2]
    return int(total) * resource.getpagesize(), int(resident) * resource.getpagesize()


def limit_memory(n_bytes):
    """None: no limit."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = hard if n_bytes is None else memory_sizes()[0] + n_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def triples(body):
    """Texts with their lengths in front, in threes: (tag, name, value)."""
    texts, at = [], 0
    while at < len(body):
        (size,) = struct.unpack_from("<I", body, at)
        texts.append(bytes(body[at + 4:at + 4 + size]))
        at += 4 + size
    return list(zip(*[iter(texts)] * 3))


def open_renderer(items):
    """A Renderer for what chat_template.c says about a model."""
    import chat_template

    templates, tokens, paths = {}, {}, {}
    for tag, name, value in items:
        if tag == b"template":
            templates[name.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        elif tag == b"token":
            tokens[name.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        else:
            paths[tag] = os.fsdecode(value)
    override = paths.get(b"override")
    if b"path" in paths:
        return chat_template.open_directory(paths[b"path"], override)
    return chat_template.open_parts(templates, tokens, override)


class Worker:
    def __init__(self, channel, failure):
        self.channel = channel
        self.failure = failure  # words about why there is no Jinja2; None: there is
        self.renderer = None
        self.resident_bytes = memory_sizes()[1]
        self.answers = {OPEN: self.open, PROBE: self.probe, LOAD: self.load, RENDER: self.render}

    # What questions are answered with. OPEN and PROBE answer with what LOAD takes.

    def open(self, body, _):
        self.renderer = open_renderer(triples(body))
        return self.state()

    def probe(self, _body, _):
        self.renderer.forms = self.renderer.find_forms()
        return self.state()

    def load(self, body, _):
        import chat_template

        self.renderer = chat_template.Renderer(*json.loads(body))
        return b""

    def render(self, body, size_max):
        return self.renderer.render(body, size_max)

    def state(self):
        renderer = self.renderer
        return json.dumps([renderer.sources, renderer.special_tokens, renderer.forms]).encode()

    # How they are answered.

    def end_if_alone(self):
        """From here on the signal comes; whether the other side had closed before, this tells."""
        try:
            if not self.channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise Ended
        except BlockingIOError:
            pass

    def outcome_of(self, kind, body, size_max):
        flags = fcntl.fcntl(self.channel, fcntl.F_GETFL)
        fcntl.fcntl(self.channel, fcntl.F_SETFL, flags | os.O_ASYNC)
        self.end_if_alone()
        try:
            return "done", self.answers[kind](body, size_max)
        except Exception as error:
            if isinstance(error, MemoryError):
                return "memory", b""
            known = OUTCOME_OF_EXCEPTION.get(type(error).__name__)
            words = str(error) if known else f"{type(error).__name__}: {error}"
            return known or "broken", encoded_words(words)
        finally:
            fcntl.fcntl(self.channel, fcntl.F_SETFL, flags)

    def answer(self):
        kind, _, size_max, memory_bytes, size = QUESTION.unpack(
            receive(self.channel, QUESTION.size))
        ends = False
        limit_memory(memory_bytes)
        try:
            body = receive(self.channel, size)
            outcome, answer = self.outcome_of(kind, body, size_max)
        except MemoryError:  # what was not read of the body stays unread
            outcome, answer, ends = "memory", b"", True
        limit_memory(None)
        if self.failure is not None:
            outcome, answer = "no jinja2", encoded_words(self.failure)
        if kind != RENDER:
            self.resident_bytes = memory_sizes()[1]
        elif memory_sizes()[1] > self.resident_bytes + GROWN_BYTES_MAX:
            ends = True
        self.channel.sendall(ANSWER.pack(OUTCOMES.index(outcome), ends, len(answer)))
        self.channel.sendall(answer)
        return not ends

    def work(self):
        fcntl.fcntl(self.channel, fcntl.F_SETOWN, os.getpid())
        try:
            while self.answer():
                pass
        except (Ended, ConnectionError):
            pass


def limit_process():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MAX, FILES_MAX))


def load_modules(channel, named_sizes):
    """Takes the other sources. What is missing, if they cannot be loaded."""
    failure = None
    for name, size in named_sizes:
        source = receive(channel, size)
        module = sys.modules[name] = types.ModuleType(name)
        try:
            exec(compile(source, f"{name}.py", "exec"), module.__dict__)
        except ImportError as error:
            failure = str(error)
    return failure


def nurse(channel, named_sizes):
    """The nursery's life. Children are never waited for, so nobody has to."""
    major, minor = sys.version_info[:2]
    sys.path += [f"{sys.prefix}/lib/python3/dist-packages",
                 f"{sys.prefix}/lib/python{major}.{minor}/site-packages"]
    limit_process()
    failure = load_modules(channel, named_sizes)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    while True:
        byte, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not byte:
            return
        with socket.socket(fileno=descriptors[0]) as other:
            if fork() == 0:
                channel.close()
                Worker(other, failure).work()
                os._exit(0)


def fork():
    try:
        return os.fork()
    except OSError:  # the socket closes, which says so
        return -1
