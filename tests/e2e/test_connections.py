# SPDX-License-Identifier: Apache-2.0
"""Clients that go, half or whole, whatever they sent before; and connections that stand still."""

import json
import socket
import threading
import time

import pytest
from conftest import wait_until
from test_http import HEALTH, JSON, completion, post

LONG = dict(prompt=[5] * 100, max_tokens=1900, ignore_eos=True)
SHORT = dict(prompt=[5], max_tokens=200, ignore_eos=True)
NOTICED_SECONDS = 1.5


def start_long(daemon, wire, behind=b"", stream=False):
    """A stream is as long as its buffers hold, a whole answer as long as it takes to go."""
    n = 4 if stream else 16
    wire.send(completion(**LONG, n=n, stream=stream))
    wait_until(lambda: daemon.metric("vllm:num_requests_running") == n)
    if behind:
        wire.socket.setblocking(False)
        try:
            while behind:
                behind = behind[wire.socket.send(behind):]
        except BlockingIOError:
            pass
        time.sleep(0.2)


def reset(wire):
    wire.reset()


def close(wire):
    wire.socket.close()


def half_close_then_close(wire):
    wire.socket.shutdown(socket.SHUT_WR)
    time.sleep(0.1)
    wire.socket.close()


def read_then_close(wire):
    """Reads what comes at once, so that its system has no unread bytes to reset for."""
    wire.socket.setblocking(True)
    wire.socket.settimeout(0.1)
    wire.socket.shutdown(socket.SHUT_WR)
    end = time.monotonic() + 0.1
    try:
        while time.monotonic() < end and wire.socket.recv(65536):
            pass
    except TimeoutError:
        pass
    wire.socket.close()


@pytest.mark.parametrize("go", [close, reset, half_close_then_close, read_then_close])
@pytest.mark.parametrize("behind", [0, 1 << 10, 100 << 10, 1 << 20, 64 << 20])
@pytest.mark.parametrize("streams", [True, False], ids=["stream", "whole"])
def test_a_client_that_goes_is_noticed(daemon, go, behind, streams):
    """... also behind so much input that the server does not read on."""
    wire = daemon.wire()
    start_long(daemon, wire, (HEALTH * (1 + behind // len(HEALTH))).encode()[:behind],
               stream=streams)
    gone = daemon.metric("kvasir_http_connections_ended_total", reason="client_gone")
    go(wire)
    daemon.wait_idle(NOTICED_SECONDS)
    assert daemon.metric("kvasir_http_connections_ended_total", reason="client_gone") == gone + 1


def test_memory_is_back_when_a_client_goes(daemon):
    wires = [daemon.wire() for _ in range(4)]
    for wire in wires:
        wire.send(post("/v1/completions", b"a" * 1000000)[:-1])
    wait_until(lambda: daemon.metric("kvasir_requests_memory_bytes") > 4000000)
    for wire in wires:
        wire.socket.close()
    wait_until(lambda: daemon.metric("kvasir_requests_memory_bytes") < 10000, NOTICED_SECONDS)


# Half-closed clients that wait.


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("streams", [True, False], ids=["stream", "whole"])
def test_a_half_closed_client_gets_its_answer(daemon, version, streams):
    with daemon.wire() as wire:
        wire.send(completion(**SHORT, stream=streams).replace(b"HTTP/1.1", version.encode()))
        wire.socket.shutdown(socket.SHUT_WR)
        assert not wire.ended()
    head, body = wire.buffer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    if streams:
        assert b"data: [DONE]\n\n" in body
    else:
        assert json.loads(body)["usage"]["completion_tokens"] == 200


def test_a_half_closed_client_that_waits_long(daemon):
    """The probes are part of the answer: it is whole, whenever they were sent."""
    with daemon.wire(timeout_s=60) as wire:
        wire.send(completion(prompt=[5], max_tokens=600, ignore_eos=True, n=16))
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.reply().json()["usage"]["completion_tokens"] == 9600
        assert wire.ended()


def test_a_half_closed_client_gets_all_that_it_asked_for(daemon):
    with daemon.wire() as wire:
        wire.send(completion(**SHORT) + HEALTH.encode() + completion(**SHORT, stream=True)
                  + HEALTH.encode())
        wire.socket.shutdown(socket.SHUT_WR)
        replies = [wire.reply() for _ in range(4)]
        assert [reply.status for reply in replies] == [200] * 4
        assert replies[2].body.endswith(b"data: [DONE]\n\n")
        assert wire.ended()


def test_a_half_closed_client_of_half_a_request_is_refused(daemon):
    with daemon.wire() as wire:
        wire.send(completion(**SHORT) + completion(**SHORT)[:-1])
        wire.socket.shutdown(socket.SHUT_WR)
        assert [wire.reply().status for _ in range(2)] == [200, 400]
        assert wire.ended()


def test_much_pipelined_input_is_answered_in_the_end(daemon):
    """A client that sends more than the server reads ahead, and waits, loses nothing."""
    n = 20000
    with daemon.wire(timeout_s=60) as wire:
        requests = completion(**SHORT) + (HEALTH * n).encode()
        sender = threading.Thread(target=wire.send, args=(requests,))
        sender.start()
        assert wire.reply().json()["usage"]["completion_tokens"] == 200
        assert all(wire.reply().status == 200 for _ in range(n))
        sender.join()


# Connections that stand still.


def unsent_bytes(daemon, wire):
    """What the server's system holds for this client."""
    client, server = f":{wire.socket.getsockname()[1]:04X}", f":{daemon.port:04X}"
    for line in open("/proc/net/tcp").readlines()[1:]:
        _, local, remote, state, queues = line.split()[:5]
        if local.endswith(server) and remote.endswith(client):
            return int(queues.split(":")[0], 16)
    return 0


def test_a_blocked_continue_has_a_timer(start):
    """A client that reads nothing: its first answer fills the system's buffer to the last bytes, so
    the "100 Continue" of its next request is what waits. The phase's timer ends it all the same."""
    daemon = start("--request-timeout", "1s", "--write-timeout", "1s", "--idle-timeout", "1s")
    text = {"prompt": "a", "add_special_tokens": False}
    [letter] = daemon.request("/tokenize", text)[1]["tokens"]
    ask = post("/tokenize", b"{}", "Expect: 100-continue")

    def fill(n):
        wire = daemon.wire(receive_bytes=4096)
        wire.send(post("/detokenize", json.dumps({"tokens": [letter] * n}).encode()))
        wait_until(lambda: unsent_bytes(daemon, wire) > n - 20000)
        time.sleep(0.1)
        return wire, unsent_bytes(daemon, wire)

    wire, n = fill(60000)
    wire.socket.close()
    blocked = 0
    wires = []
    for spare in range(0, 24, 2):
        wire, held = fill(60000 + 65536 - n - spare)
        wires.append(wire)
        wire.send(ask[:-2])
        time.sleep(0.05)
        blocked += unsent_bytes(daemon, wire) == held
        wire.send(ask[-2:])
    assert blocked
    wait_until(lambda: daemon.metric("kvasir_http_open_connections") == 1, 10)
    for wire in wires:
        wire.socket.close()


@pytest.mark.parametrize("what", [
    b"", b"\r\n", b"GET /he", HEALTH.encode()[:-2],
    post("/tokenize", b"{}", "Expect: 100-continue")[:-2],
    post("/tokenize", b"{}")[:-1],
    f"POST /tokenize HTTP/1.1\r\nHost: k\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n1".encode(),
    b"BAD\r\n\r\n",
    HEALTH.encode(),
], ids=["nothing", "an empty line", "a target", "headers", "expect", "a body", "a chunk", "refused",
        "a request"])
def test_every_state_ends_by_itself(start, what):
    daemon = start("--header-timeout", "500ms", "--request-timeout", "500ms",
                   "--idle-timeout", "500ms", "--write-timeout", "500ms")
    with daemon.wire() as wire:
        wire.send(what)
        wait_until(lambda: daemon.metric("kvasir_http_open_connections") == 1, 5)


def test_streams_that_all_wait_are_bounded_together(start):
    """Readers that stop: each stream may hold much, all of them only what the account allows."""
    daemon = start("--max-requests-memory", "2MiB", "--stream-buffer-bytes", "64MiB",
                   "--write-timeout", "1m", "--kv-tokens", 65536)
    stream = completion(prompt=[5], max_tokens=2000, ignore_eos=True, stream=True, logprobs=20, n=8)
    wires = [daemon.wire(receive_bytes=4096) for _ in range(3)]
    for wire in wires:
        wire.send(stream)
    wait_until(
        lambda: daemon.metric("kvasir_http_connections_ended_total", reason="stream_buffer"), 60)
    assert daemon.metric("kvasir_requests_memory_bytes") <= 2 << 20
    assert daemon.request("/health")[0] == 200
    for wire in wires:
        wire.socket.close()
    daemon.wait_idle()
    wait_until(lambda: daemon.metric("kvasir_requests_memory_bytes") < 10000)


@pytest.mark.parametrize("client, code, option", [("1MiB", 503, "max_requests_memory"),
                                                  ("150KiB", 429, "max_client_memory")])
def test_a_whole_answer_that_does_not_fit_is_an_error(start, client, code, option):
    daemon = start("--max-requests-memory", "300KiB", "--max-client-memory", client)
    status, answer = daemon.request(
        "/v1/completions",
        dict(prompt=[5] * 1000, max_tokens=0, echo=True, logprobs=20))
    assert status == code and option in answer["error"]["message"]
    assert daemon.request("/health")[0] == 200
