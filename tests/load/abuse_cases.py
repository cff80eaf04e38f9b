# SPDX-License-Identifier: Apache-2.0
"""What one client, or one with a few connections, may try. Each case ends by itself: loops, sizes
and patience are bounded.

A case alone may take 16 MiB and six times its body; cases of many requests may take what the
options allow all of them together. `Case.play` gets an Attack.
"""

import contextlib
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Callable

from attack import AFTER_LEAVING_S, MIB
from bodies import PLACES, SHAPES, TEXTS, chat, chat_of_many, placed
from daemon import head, post

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
EXIT_S = 1.0
TOGETHER_BYTES = 128 * MIB  # max_requests_memory of the daemons that many requests meet


@dataclass
class Case:
    name: str
    play: Callable
    quick: bool = False  # also part of the quick level
    together: bool = False  # judged by what all requests together may take
    options: tuple = ()  # of the daemon
    kinds: tuple = ("completion", "tokenize")  # what another client asks for meanwhile
    ends_daemon: bool = False
    allowed_bytes: int = 0  # above the bar, by another option that the case uses up


# ---- one body, many choices


def biases(a, padded):
    """20,000 entries; padded, they are many spellings of few ids."""
    if padded:
        return {str(i % 50).zfill(1 + i // 50): 1 for i in range(20000) if i // 50 < 64}
    return {str(i): 1 for i in range(min(20000, a.vocabulary))}


def prompts_and_choices(a, **members):
    return {"prompt": [[5 + i] for i in range(256)], "n": 16, "max_tokens": 2, "temperature": 1,
            **members}


def play_biases(a):
    a.ask(COMPLETIONS, prompts_and_choices(a, logit_bias=biases(a, padded=False)))


def play_padded_biases(a):
    a.ask(COMPLETIONS, prompts_and_choices(a, logit_bias=biases(a, padded=True)))


def play_salt(a):
    a.ask(COMPLETIONS, prompts_and_choices(a, cache_salt="s" * 400_000))


def play_stops(a):
    a.ask(COMPLETIONS, prompts_and_choices(
        a, stop=[chr(ord("a") + i) * 12_000 for i in range(16)]))


def play_stop_ids(a):
    a.ask(COMPLETIONS, prompts_and_choices(a, stop_token_ids=[i % 500 for i in range(16)]))


def play_long_user(a):
    a.ask(COMPLETIONS, prompts_and_choices(a, user="u" * 4 * MIB))


def play_long_prompts(a):
    ids = [random.Random(0).randrange(5, 500) for _ in range(1000)]
    a.ask(COMPLETIONS, {"prompt": [[i] + ids for i in range(5, 261)], "n": 16, "max_tokens": 2})


def play_one_long_prompt(a):
    ids = [random.Random(1).randrange(5, 500) for _ in range(1900)]
    a.ask(COMPLETIONS, {"prompt": ids, "n": 16, "max_tokens": 100})


def play_newcomer(a):
    """4,096 choices from 1,340 bytes; the other client's first token is what counts."""
    a.ask(COMPLETIONS, prompts_and_choices(a, max_tokens=64, ignore_eos=True))


def play_newcomer_of_long_prompts(a):
    ids = [random.Random(2).randrange(5, 500) for _ in range(1500)]
    a.ask(COMPLETIONS, {"prompt": [[5 + i] + ids for i in range(64)], "max_tokens": 2})


# ---- answers that are large, and not read


def large_answer(**members):
    return {"prompt": [[5 + i] for i in range(16)], "n": 16, "max_tokens": 1000, "logprobs": 5,
            "ignore_eos": True, **members}


def large_chat_answer(**members):
    return {"messages": [{"role": "user", "content": "a"}], "n": 16, "max_tokens": 1000,
            "logprobs": True, "top_logprobs": 20, "ignore_eos": True, **members}


def hold_unread(a, path, body):
    """Asks, reads nothing for a while, leaves."""
    request = post(path, body)
    with contextlib.suppress(OSError), a.wire(receive_bytes=4096) as wire:
        wire.send(request)
        time.sleep(a.size(10, 2))
    a.note("left", len(request))


def play_unread_answer(a):
    hold_unread(a, CHAT, large_chat_answer())


def play_unread_stream(a):
    hold_unread(a, CHAT, large_chat_answer(stream=True))


def play_echo(a):
    ids = [random.Random(3).randrange(5, 500) for _ in range(500)]
    a.ask(COMPLETIONS, {"prompt": [[5 + i] + ids for i in range(64)], "n": 16, "max_tokens": 1,
                        "echo": True, "logprobs": 5})


def play_detokenize(a):
    rng = random.Random(4)
    a.ask("/detokenize", {"tokens": [rng.randrange(5, 500) for _ in range(a.size(1_000_000,
                                                                                100_000))]})


def play_token_texts(a):
    a.ask("/tokenize", {"prompt": "a b " * a.size(MIB, MIB // 8), "return_token_strs": True})


def play_unread_streams(a):
    """Each holds what a stream may hold."""
    a.at_once(a.size(200, 40), lambda i: hold_unread(
        a, COMPLETIONS, large_answer(prompt=[5 + i], n=4, stream=True)))


def play_slow_reader(a):
    """Takes a little of a stream, again and again, so that no write ever stalls for long."""
    request = post(CHAT, large_chat_answer(stream=True))
    end = time.monotonic() + a.size(15, 3)
    with contextlib.suppress(OSError), a.wire(receive_bytes=4096) as wire:
        wire.send(request)
        while time.monotonic() < end and wire.socket.recv(512):
            time.sleep(0.1)
    a.note("left", len(request))


def play_unread_errors(a):
    """Answers to refused requests pile up, too: nothing is read but everything is asked."""
    request = post(COMPLETIONS, {"prompt": "a", "wrong" * 1000: 1})
    with contextlib.suppress(OSError), a.wire(receive_bytes=4096) as wire:
        wire.socket.settimeout(2)
        for _ in range(a.size(20000, 4000)):
            wire.send(request)
    a.note("left", len(request))


# ---- clients that leave


def large_json(size):
    return placed("unknown member", "empty objects", size)[1]


def play_bodies_left(a):
    body = large_json(a.size(30, 4) * MIB)
    a.at_once(30, lambda i: a.ask_and_leave(COMPLETIONS, body))


def play_bodies_left_halfway(a):
    body = large_json(a.size(30, 4) * MIB)
    a.at_once(30, lambda i: a.ask_and_leave(COMPLETIONS, body, sent=0.5))


def play_bodies_that_stall(a):
    body = large_json(a.size(30, 4) * MIB)
    a.at_once(30, lambda i: a.ask_and_leave(COMPLETIONS, body, sent=0.9, stays_s=a.size(8, 3)))


def play_bodies_left_in_turn(a):
    body = large_json(a.size(30, 4) * MIB)
    for _ in range(a.size(30, 10)):
        a.ask_and_leave(COMPLETIONS, body)


def leaving(path, make_body):
    return lambda a: a.ask_and_leave(path, make_body(a))


def play_left_generating(a):
    """Leaves when the answer has begun."""
    request = post(COMPLETIONS, large_answer(stream=True))
    for _ in range(a.size(10, 3)):
        with contextlib.suppress(OSError), a.wire() as wire:
            wire.send(request)
            wire.read(1)
            time.sleep(0.2)
        a.note("left", len(request))


def play_pipelined_and_left(a):
    """Much lies behind the request whose client goes: generation must stop all the same."""
    request = post(COMPLETIONS, {"prompt": [5], "max_tokens": 1900, "ignore_eos": True, "n": 16,
                                 "stream": True})
    for behind in (1, 64 * 1024, 256 * 1024, MIB):
        with contextlib.suppress(OSError), a.wire() as wire:
            wire.send(request)
            wire.read(1)
            wire.socket.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                wire.send(post("/tokenize", {"prompt": "a" * behind}))
        a.note("left", len(request))
        a.wait(lambda: a.daemon.metric("vllm:num_requests_running") <= 1, 1,
               f"the end of generating with {behind} bytes behind the request")


# ---- work for the pool


def play_chats_before_tokenize(a):
    body = chat("the cat sat on the mat and " * (a.size(11, 2) * MIB // 27))
    a.at_once(6, lambda i: a.ask(CHAT, body))


def play_emoji_chats(a):
    body = chat("\U0001f600" * (a.size(11, 2) * MIB // 4))
    a.at_once(6, lambda i: a.ask(CHAT, body))


def play_tokenizers(a):
    a.at_once(8, lambda i: a.ask("/tokenize", {"prompt": "ab cd " * a.size(MIB, MIB // 4)}))


def play_templates(a):
    body = chat_of_many(a.size(100_000, 20_000))
    a.at_once(8, lambda i: a.ask(CHAT, body))


# ---- connections


def play_tiny_requests(a):
    """Many in a row on one connection, all answered."""
    n = a.size(10_000, 2_000)
    request = post(COMPLETIONS, {"prompt": [5], "max_tokens": 1})
    with a.wire() as wire:
        def send():
            with contextlib.suppress(OSError):
                for _ in range(n):
                    wire.send(request)

        def receive():
            end = time.monotonic() + a.size(300, 30)
            with contextlib.suppress(OSError, EOFError):
                for _ in range(n):
                    a.note(wire.reply().status, len(request))
                    if time.monotonic() > end:
                        break

        a.at_once(2, lambda i: (send, receive)[i]())
    if sum(a.statuses.values()) < n:
        a.complain(f"{sum(a.statuses.values())} of {n} were answered")


def play_half_heads(a):
    """Connections that never finish their heads."""
    with contextlib.ExitStack() as stack:
        for _ in range(a.size(2000, 500)):
            with contextlib.suppress(OSError):
                wire = stack.enter_context(a.wire())
                wire.send(b"POST /v1/completions HTTP/1.1\r\nHost: k\r\nX: " + b"x" * 1000)
        time.sleep(a.size(8, 2))
    a.note("left")


def bytes_in_kernel(client_port, server_port):
    """What a connection's two sockets hold: sent and not taken by the client."""
    n = 0
    with open("/proc/net/tcp", encoding="ascii") as file:
        for fields in map(str.split, list(file)[1:]):
            ports = tuple(int(address.split(":")[1], 16) for address in fields[1:3])
            sent, received = (int(part, 16) for part in fields[4].split(":"))
            n += sent if ports == (server_port, client_port) else 0
            n += received if ports == (client_port, server_port) else 0
    return n


def play_blocked_continue(a):
    """Small answers fill the connection to the last byte, then the next request expects a 100.
    Every length around what the connection holds is tried, so that some 100 has no room. Whatever
    is blocked, all must be gone in time."""
    before = a.daemon.metric("kvasir_http_open_connections")
    requests = [f"{method} /health HTTP/1.1\r\nHost: k\r\n\r\n".encode()
                for method in ("GET", "HEAD")]
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(a.wire())
        sizes = []
        for request in requests:
            probe.send(request)
            time.sleep(0.1)
            sizes.append(len(probe.socket.recv(10_000)))
        full = stack.enter_context(a.wire(receive_bytes=2048))
        full.send(requests[0] * 3000)
        time.sleep(0.5)
        room = bytes_in_kernel(full.socket.getsockname()[1], a.port)
        step = sizes[0] - sizes[1]  # a HEAD instead of a GET
        for wanted in range(room - 600, room + a.size(6000, 3600), step):
            n = -(-wanted // sizes[0])
            n_heads = (n * sizes[0] - wanted) // step
            wire = stack.enter_context(a.wire(receive_bytes=2048))
            wire.send(requests[1] * n_heads + requests[0] * (n - n_heads)
                      + head(COMPLETIONS, 10, "Expect: 100-continue"))
        a.wait(lambda: a.daemon.metric("kvasir_http_open_connections") <= before, 15,
               "the end of connections whose 100 Continue is blocked")
    a.note("left")


def play_silent_states(a):
    """A connection stops in each state; each is ended in time."""
    before = a.daemon.metric("kvasir_http_open_connections")
    request = post(COMPLETIONS, {"prompt": [5], "max_tokens": 1})
    beginnings = {
        "nothing": b"",
        "line": b"POST /v1/com",
        "header": b"POST /v1/completions HTTP/1.1\r\nHost: k\r\nX",
        "body": request[:-3],
        "chunk": b"POST /v1/completions HTTP/1.1\r\nHost: k\r\nContent-Type: application/json\r\n"
                 b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        "trailer": b"POST /v1/completions HTTP/1.1\r\nHost: k\r\nContent-Type: application/json"
                   b"\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nA: b",
        "expect": head(COMPLETIONS, 10, "Expect: 100-continue"),
        "answered": request,
        "refused": b"NO\r\n\r\n",
        "refused and more": b"NO\r\n\r\n" + b"x" * 100_000,
        "too large": head(COMPLETIONS, 1 << 40),
    }
    with contextlib.ExitStack() as stack:
        for beginning in beginnings.values():
            wire = stack.enter_context(a.wire())
            with contextlib.suppress(ConnectionError):
                wire.send(beginning)
        a.wait(lambda: a.daemon.metric("kvasir_http_open_connections") <= before, 10,
               "the end of connections that stopped in " + ", ".join(beginnings))
    a.note("left")


def play_half_closed(a):
    """A client that has said all that it will say still wants its answer."""
    for body in ({"prompt": [5], "max_tokens": 20, "ignore_eos": True},
                 {"prompt": [5], "max_tokens": 20, "ignore_eos": True, "stream": True}):
        request = post(COMPLETIONS, body)
        with a.wire() as wire:
            wire.send(request)
            wire.socket.shutdown(1)
            try:
                a.note(wire.reply().status, len(request))
            except (OSError, EOFError) as error:
                a.complain(f"a half-closed client got no answer: {error!r}")


# ---- the end


def exit_case(name, make_request, sent=1.0):
    """Two SIGTERMs while there is work of a client that has left."""

    def play(a):
        request = make_request(a)
        with a.wire() as wire:
            wire.send(memoryview(request)[: int(len(request) * sent)])
        a.note("left", len(request))
        time.sleep(AFTER_LEAVING_S)
        start = time.monotonic()
        for _ in range(2):
            a.daemon.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            a.daemon.process.wait(30)
        took = time.monotonic() - start
        if took > EXIT_S:
            a.complain(f"the end took {took:.1f} s after two SIGTERMs")
        if a.daemon.is_alive() or a.daemon.process.returncode < 0:
            a.complain("the daemon did not end well")

    return Case(f"exit: {name}", play, quick=True, kinds=(), ends_daemon=True)


def json_case(place, shape, quick=False):
    def play(a):
        a.ask(*placed(place, shape, a.size(8 * MIB, 2 * MIB)))

    return Case(f"{shape} as {place}", play, quick=quick)


def text_case(endpoint, kind, quick=False):
    def play(a):
        text = TEXTS[kind](a.size(11 if endpoint == "chat" else 4, 1) * MIB)
        if endpoint == "chat":
            a.ask(CHAT, chat(text))
        elif endpoint == "completion":
            a.ask(COMPLETIONS, {"prompt": text, "max_tokens": 1})
        else:
            a.ask("/tokenize", {"prompt": text})

    return Case(f"{endpoint} of {kind}", play, quick=quick)


QUICK_JSON = {
    ("unknown member", "empty objects"), ("prompt", "empty objects"), ("prompt", "ones"),
    ("prompt", "empty arrays"), ("message member", "deep objects"), ("content", "empty objects"),
    ("unknown member", "distinct keys"), ("template arguments", "empty arrays"),
    ("tool arguments", "empty objects"), ("detokenize tokens", "ones"), ("messages", "messages"),
    ("unknown member", "deep arrays"), ("content", "emoji escapes"), ("logit_bias", "one key"),
}
QUICK_TEXTS = {("completion", "spaces"), ("completion", "one letter"), ("chat", "emoji"),
               ("tokenize", "words")}

SHORT_TIMES = ("--idle-timeout", "1s", "--header-timeout", "1s", "--request-timeout", "2s",
               "--write-timeout", "1s")


def together_case(name, play, quick=True, **members):
    return Case(name, play, quick=quick, together=True,
                options=("--max-requests-memory", TOGETHER_BYTES), **members)


CASES = [
    Case("biases x choices", play_biases, quick=True),
    Case("padded biases x choices", play_padded_biases, quick=True),
    Case("salt x choices", play_salt, quick=True),
    Case("stops x choices", play_stops, quick=True),
    Case("stop ids x choices", play_stop_ids),
    Case("user x choices", play_long_user),
    Case("long prompts x choices", play_long_prompts),
    Case("one long prompt x choices", play_one_long_prompt, quick=True),
    Case("newcomer behind 4,096 choices", play_newcomer, quick=True),
    Case("newcomer behind long prompts", play_newcomer_of_long_prompts, quick=True),
    *[json_case(place, shape, (place, shape) in QUICK_JSON)
      for place in PLACES for shape in SHAPES],
    *[text_case(endpoint, kind, (endpoint, kind) in QUICK_TEXTS)
      for endpoint in ("completion", "chat", "tokenize") for kind in TEXTS],
    Case("chat of many messages", lambda a: a.ask(CHAT, chat_of_many(a.size(100_000, 20_000))),
         quick=True),
    Case("unread answer", play_unread_answer, quick=True),
    Case("unread stream", play_unread_stream, quick=True),
    Case("unread errors", play_unread_errors, quick=True),
    Case("slow reader", play_slow_reader),
    Case("echo with logprobs", play_echo),
    Case("detokenize a million ids", play_detokenize, quick=True),
    Case("tokenize with texts", play_token_texts, quick=True),
    Case("left: large JSON", leaving(COMPLETIONS, lambda a: large_json(a.size(30, 8) * MIB)),
         quick=True),
    Case("left: spaces", leaving(COMPLETIONS, lambda a: {"prompt": " " * a.size(12, 4) * MIB}),
         quick=True),
    Case("left: emoji to tokenize",
         leaving("/tokenize", lambda a: {"prompt": "\U0001f600" * a.size(3 * MIB, MIB // 2)})),
    Case("left: chat of many messages",
         leaving(CHAT, lambda a: chat_of_many(a.size(100_000, 20_000))), quick=True),
    Case("left: 4,096 choices",
         leaving(COMPLETIONS, lambda a: prompts_and_choices(a, max_tokens=64)), quick=True),
    Case("left: while generating", play_left_generating, quick=True),
    Case("left: with more behind", play_pipelined_and_left, quick=True),
    together_case("30 bodies left", play_bodies_left),
    together_case("30 bodies left halfway", play_bodies_left_halfway),
    together_case("30 bodies that stall", play_bodies_that_stall),
    together_case("30 bodies left in turn", play_bodies_left_in_turn),
    together_case("six chats before tokenize", play_chats_before_tokenize),
    together_case("six chats of emoji", play_emoji_chats, quick=False),
    together_case("eight large tokenize", play_tokenizers),
    together_case("eight chats of many messages", play_templates),
    together_case("unread streams", play_unread_streams),
    together_case("tiny requests in a row", play_tiny_requests),
    together_case("connections with half a head", play_half_heads, allowed_bytes=128 * MIB),
    Case("blocked 100 Continue", play_blocked_continue, quick=True, together=True,
         options=SHORT_TIMES, kinds=()),
    Case("silent in each state", play_silent_states, quick=True, together=True,
         options=SHORT_TIMES, kinds=()),
    Case("half-closed client", play_half_closed, quick=True),
    exit_case("abandoned JSON", lambda a: post(COMPLETIONS, large_json(12 * MIB))),
    exit_case("abandoned spaces",
              lambda a: post(COMPLETIONS, {"prompt": " " * a.size(12, 4) * MIB})),
    exit_case("abandoned chat",
              lambda a: post(CHAT, chat("\U0001f600" * (a.size(12, 4) * MIB // 4)))),
    exit_case("abandoned template",
              lambda a: post(CHAT, chat_of_many(a.size(100_000, 50_000)))),
    exit_case("half a body", lambda a: post(COMPLETIONS, large_json(12 * MIB)), sent=0.5),
    exit_case("4,096 choices",
              lambda a: post(COMPLETIONS, prompts_and_choices(a, max_tokens=64))),
]
