# SPDX-License-Identifier: Apache-2.0
"""Limits on what requests may make the server do: the queue, memory, time. Each refusal names its
option, says whether to come again, and leaves nothing behind."""

import http.client
import json
import socket
import time

import pytest
from conftest import wait_until

LONG = dict(prompt=[5] * 10, max_tokens=1900, ignore_eos=True)
SHORT = dict(prompt=[5] * 10, max_tokens=1)


def ask(daemon, path="/v1/completions", raw=None, **body):
    """(status, headers, JSON)"""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
    connection.request("POST", path, raw or json.dumps(body).encode(),
                       {"Content-Type": "application/json"})
    answer = connection.getresponse()
    status, headers, text = answer.status, answer.headers, answer.read()
    connection.close()
    return status, headers, json.loads(text)


class Hog:
    """Requests that are under way until it is closed."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.connections = []

    def send(self, **body):
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port)
        connection.request("POST", "/v1/completions", json.dumps({**LONG, **body}),
                           {"Content-Type": "application/json"})
        self.connections.append(connection)

    def close(self):
        for connection in self.connections:
            connection.close()


@pytest.fixture
def hog():
    hogs = []

    def new(daemon):
        hogs.append(Hog(daemon))
        return hogs[-1]

    yield new
    for one in hogs:
        one.close()


def refused(daemon, limit):
    return daemon.metric("kvasir_requests_refused_total", limit=limit)


def expect_full(daemon, limit, **body):
    before = refused(daemon, limit)
    status, headers, answer = ask(daemon, **body)
    assert status == 429, answer
    assert answer["error"]["code"] == "queue_full" and limit in answer["error"]["message"]
    assert 1 <= int(headers["Retry-After"]) <= 120
    assert refused(daemon, limit) == before + 1


def test_a_full_queue_is_a_429_that_says_when_to_come_again(start, hog):
    daemon = start("--max-num-seqs", 1, "--max-waiting-requests", 3)
    one = hog(daemon)
    one.send()
    wait_until(lambda: daemon.metric("vllm:num_requests_running") == 1)
    one.send(n=2)
    wait_until(lambda: daemon.metric("vllm:num_requests_waiting") == 2)
    expect_full(daemon, "max_waiting_requests", **SHORT, n=2)
    one.send()
    wait_until(lambda: daemon.metric("vllm:num_requests_waiting") == 3)
    expect_full(daemon, "max_waiting_requests", **SHORT)
    expect_full(daemon, "max_waiting_requests", **SHORT, stream=True)
    one.close()
    daemon.wait_idle()
    assert ask(daemon, **SHORT, n=3)[0] == 200  # what was refused took no place


def test_waiting_tokens_are_limited_too(start, hog):
    daemon = start("--max-num-seqs", 1, "--max-waiting-tokens", 100)
    one = hog(daemon)
    one.send()
    wait_until(lambda: daemon.metric("vllm:num_requests_running") == 1)
    one.send(prompt=[5] * 80)
    wait_until(lambda: daemon.metric("vllm:num_requests_waiting") == 1)
    expect_full(daemon, "max_waiting_tokens", prompt=[5] * 30, max_tokens=1)
    one.close()
    daemon.wait_idle()
    assert ask(daemon, prompt=[5] * 30, max_tokens=1)[0] == 200


@pytest.mark.parametrize("limit, value, body", [
    ("max_waiting_requests", 4, dict(SHORT, n=5)),
    ("max_waiting_requests", 4, dict(SHORT, prompt=[[5]] * 5)),
    ("max_waiting_tokens", 64, dict(SHORT, prompt=[5] * 65)),
    ("max_waiting_tokens", 64, dict(SHORT, prompt=[5] * 33, n=2)),
])
def test_what_never_fits_is_a_413(start, limit, value, body):
    daemon = start(f"--{limit.replace('_', '-')}", value)
    status, headers, answer = ask(daemon, **body)
    assert status == 413, answer
    assert limit in answer["error"]["message"] and str(value) in answer["error"]["message"]
    assert "Retry-After" not in headers  # coming again does not help


def test_an_answer_that_takes_too_long_is_ended(start):
    daemon = start("--answer-timeout", "500ms", "--max-num-seqs", 2)
    started = time.monotonic()
    status, _, answer = ask(daemon, **LONG, n=16)
    assert status == 503 and answer["error"]["code"] == "timeout", answer
    assert "answer_timeout" in answer["error"]["message"]
    assert 0.4 < time.monotonic() - started < 5
    daemon.wait_idle()
    assert ask(daemon, **SHORT)[0] == 200


def test_a_stream_that_takes_too_long_ends_with_an_error_event(start):
    daemon = start("--answer-timeout", "500ms", "--max-num-seqs", 1)
    with daemon.wire() as wire:
        body = json.dumps({**LONG, "n": 16, "stream": True})
        wire.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                  f"Content-Length: {len(body)}\r\n\r\n{body}")
        events = wire.reply().body.decode().split("\n\n")
    assert json.loads(events[-3].removeprefix("data: "))["error"]["code"] == "timeout"
    assert events[-2:] == ["data: [DONE]", ""]
    daemon.wait_idle()


def test_a_request_that_takes_too_much_memory_is_a_413(start):
    daemon = start("--max-request-memory", "1MiB")
    raw = json.dumps({**SHORT, "metadata": {str(i): "x" * 20 for i in range(20000)}}).encode()
    status, _, answer = ask(daemon, raw=raw)
    assert status == 413 and "max_request_memory" in answer["error"]["message"], answer
    assert answer["error"]["code"] == "request_memory"
    assert refused(daemon, "max_request_memory") == 1
    wait_until(lambda: daemon.metric("kvasir_requests_memory_bytes") < 10000)
    assert ask(daemon, **SHORT)[0] == 200


def test_an_answer_that_takes_too_much_memory_is_a_413(start):
    """Nothing about the request is large: logprobs of many tokens of many choices are."""
    daemon = start("--max-request-memory", "1MiB")
    status, _, answer = ask(daemon, **LONG, n=16, logprobs=20)
    assert status == 413 and "max_request_memory" in answer["error"]["message"], answer
    daemon.wait_idle()
    wait_until(lambda: daemon.metric("kvasir_requests_memory_bytes") < 10000)


def half_a_body(address, port):
    """A client that holds some 800 KB of the server's memory."""
    client = socket.create_connection(("127.0.0.1", port), source_address=(address, 0))
    client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                   b"Content-Length: 900000\r\n\r\n" + 800000 * b"x")
    return client


def test_one_client_cannot_take_all_memory(start):
    daemon = start("--max-requests-memory", "3MiB")  # half of it for one client
    with half_a_body("127.0.0.2", daemon.port):
        wait_until(lambda: daemon.metric("kvasir_requests_memory_bytes") > 800000)
        with half_a_body("127.0.0.2", daemon.port) as second:
            head = second.recv(65536).decode()
            assert head.startswith("HTTP/1.1 429 ") and "max_client_memory" in head
        assert ask(daemon, prompt="a " * 1500, max_tokens=1)[0] == 200
    wait_until(lambda: daemon.metric("kvasir_requests_memory_bytes") < 10000)


def test_requests_that_take_too_much_memory_together_are_a_503(start):
    daemon = start("--max-requests-memory", "2MiB", "--max-client-memory", "2MiB")
    with half_a_body("127.0.0.2", daemon.port):
        wait_until(lambda: daemon.metric("kvasir_requests_memory_bytes") > 800000)
        status, headers, answer = ask(daemon, prompt="a " * 300000, max_tokens=1)
        assert status == 503 and "max_requests_memory" in answer["error"]["message"], answer
        assert ask(daemon, **SHORT)[0] == 200  # small ones still pass
        assert daemon.request("/health")[0] == 200
    wait_until(lambda: daemon.metric("kvasir_requests_memory_bytes") < 10000)


def test_one_client_cannot_take_all_connections(start):
    daemon = start("--max-connections", 16)  # seven eighths for one client
    wires = [daemon.wire() for _ in range(14)]
    for wire in wires:
        wire.send("GET ")  # not idle, so that no place can be made
    time.sleep(0.2)
    with daemon.wire() as one_more:
        assert one_more.reply().status == 503
    elsewhere = ("127.0.0.2", 0)
    with socket.create_connection(("127.0.0.1", daemon.port), source_address=elsewhere) as other:
        other.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert other.recv(65536).startswith(b"HTTP/1.1 200 ")
    for wire in wires:
        wire.socket.close()


def test_idle_connections_of_a_client_make_room_for_its_own(start):
    daemon = start("--max-connections", 16, "--max-client-connections", 3)
    idle = [daemon.wire() for _ in range(3)]
    assert daemon.request("/health")[0] == 200
    assert idle[0].ended()
    for wire in idle:
        wire.socket.close()


def test_metrics_are_answered_while_all_memory_is_taken(start):
    """They are larger than what is left, and say who has the rest."""
    daemon = start("--max-requests-memory", "16KiB")
    status, text = daemon.request("/metrics")
    assert status == 200 and len(text) > 16 << 10
