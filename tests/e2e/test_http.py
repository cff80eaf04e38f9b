# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 on the wire: what clients may do, and what they must not."""

import json
import time

import pytest
from conftest import wait_until

HEALTH = "GET /health HTTP/1.1\r\nHost: k\r\n\r\n"


JSON = "Content-Type: application/json"


def post(path, body, *lines):
    head = "".join(
        line + "\r\n" for line in (f"POST {path} HTTP/1.1", "Host: k", JSON, *lines)
    )
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def completion(**body):
    return post("/v1/completions", json.dumps(body).encode())


# What works.


def test_keep_alive_answers_one_after_the_other(daemon):
    with daemon.wire() as wire:
        for _ in range(3):
            wire.send(HEALTH)
            assert wire.reply().status == 200


def test_pipelined_answers_keep_the_order_of_requests(daemon):
    slow = completion(prompt=[5, 6, 7], max_tokens=40, ignore_eos=True)
    with daemon.wire() as wire:
        wire.send(slow + HEALTH.encode() + slow + b"GET /version HTTP/1.1\r\nHost: k\r\n\r\n")
        objects = [wire.reply().json() for _ in range(4)]
    assert [sorted(o)[0] for o in objects] == ["choices", "status", "choices", "version"]


def test_a_thousand_pipelined_requests(daemon):
    with daemon.wire() as wire:
        wire.send(HEALTH * 1000)
        assert all(wire.reply().status == 200 for _ in range(1000))


def test_half_closed_client_gets_what_is_ready(daemon):
    with daemon.wire() as wire:
        wire.send(HEALTH * 2)
        wire.socket.shutdown(1)
        assert wire.reply().status == 200
        assert wire.reply().status == 200
        assert wire.ended()


def test_request_cut_into_single_bytes(daemon):
    request = completion(prompt=[5], max_tokens=1)
    with daemon.wire() as wire:
        for byte in request:
            wire.send(bytes([byte]))
        assert wire.reply().status == 200


def test_chunked_request_body(daemon):
    body = json.dumps({"prompt": [5], "max_tokens": 1}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: k\r\n{JSON}\r\n{CHUNKED}\r\n\r\n"
    chunks = b"".join(b"1;x=y\r\n" + body[i : i + 1] + b"\r\n" for i in range(len(body)))
    with daemon.wire() as wire:
        wire.send(head.encode() + chunks + b"0\r\nTrailer: t\r\n\r\n")
        assert wire.reply().status == 200
        wire.send(HEALTH)
        assert wire.reply().status == 200


def test_expect_continue(daemon):
    body = json.dumps({"prompt": [5], "max_tokens": 1}).encode()
    request = post("/v1/completions", body, "Expect: 100-continue")
    with daemon.wire() as wire:
        wire.send(request[: -len(body)])
        assert wire.reply(has_body=False).status == 100
        wire.send(body)
        assert wire.reply().status == 200


def test_http_1_0_closes_after_the_answer(daemon):
    with daemon.wire() as wire:
        wire.send("GET /health HTTP/1.0\r\n\r\n")
        assert wire.reply().headers["connection"] == "close"
        assert wire.ended()


def test_http_1_0_keep_alive(daemon):
    with daemon.wire() as wire:
        for _ in range(2):
            wire.send("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert wire.reply().headers["connection"] == "keep-alive"


def test_http_1_0_stream_ends_with_the_connection(daemon):
    body = json.dumps({"prompt": [5], "max_tokens": 3, "stream": True}).encode()
    with daemon.wire() as wire:
        wire.send(post("/v1/completions", body).replace(b"HTTP/1.1", b"HTTP/1.0"))
        head = wire.read_until(b"\r\n\r\n")
        assert b"chunked" not in head
        assert not wire.ended()
        assert wire.buffer.endswith(b"data: [DONE]\n\n")


def test_head_has_the_length_and_no_body(daemon):
    with daemon.wire() as wire:
        wire.send("HEAD /health HTTP/1.1\r\nHost: k\r\n\r\n" + HEALTH)
        first, second = wire.reply(has_body=False), wire.reply()
        assert first.headers["content-length"] == second.headers["content-length"]


def test_absolute_and_escaped_targets(daemon):
    with daemon.wire() as wire:
        for target in ("http://k/health", "/he%61lth", "/health?x=1", "/health#f"):
            wire.send(f"GET {target} HTTP/1.1\r\nHost: k\r\n\r\n")
            assert wire.reply().status == 200, target


def test_an_offer_to_upgrade_is_declined(daemon):
    with daemon.wire() as wire:
        wire.send(
            "GET /health HTTP/1.1\r\nHost: k\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        )
        assert wire.reply().status == 200


def test_unknown_paths_and_methods(daemon):
    with daemon.wire() as wire:
        wire.send("GET /nothing HTTP/1.1\r\nHost: k\r\n\r\n")
        reply = wire.reply()
        assert reply.status == 404 and "message" in reply.json()["error"]
        wire.send("DELETE /v1/completions HTTP/1.1\r\nHost: k\r\n\r\n")
        reply = wire.reply()
        assert reply.status == 405 and reply.headers["allow"] == "POST"
        wire.send("POST /health HTTP/1.1\r\nHost: k\r\nContent-Length: 0\r\n\r\n")
        reply = wire.reply()
        assert reply.status == 405 and reply.headers["allow"] == "GET, HEAD"


# What is refused, each with a clear answer and the end of the connection.

CHUNKED = "Transfer-Encoding: chunked"
REFUSED = {
    "no HTTP": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "garbage": ("hello\r\n\r\n", 400),
    "no version": ("GET /health\r\n\r\n", 505),
    "HTTP/2 preface": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "version 2": ("GET / HTTP/2.0\r\nHost: k\r\n\r\n", 505),
    "version 9": ("GET / HTTP/9.9\r\nHost: k\r\n\r\n", 505),
    "no host": ("GET /health HTTP/1.1\r\n\r\n", 400),
    "two hosts": ("GET /health HTTP/1.1\r\nHost: k\r\nHost: l\r\n\r\n", 400),
    "an empty host and another": ("GET /health HTTP/1.1\r\nHost:\r\nHost: l\r\n\r\n", 400),
    "space before colon": ("GET /health HTTP/1.1\r\nHost : k\r\n\r\n", 400),
    "folded length": (
        "POST /tokenize HTTP/1.1\r\nHost: k\r\nContent-Length:\r\n 2\r\n\r\n{}", 400),
    "bare line feeds": ("GET /health HTTP/1.1\nHost: k\n\n", 400),
    "folded header": ("GET /health HTTP/1.1\r\nHost: k\r\nX: a\r\n b\r\n\r\n", 400),
    "NUL in a header": ("GET /health HTTP/1.1\r\nHost: k\r\nX: a\0b\r\n\r\n", 400),
    "control character in a header": ("GET /health HTTP/1.1\r\nHost: k\r\nX: a\x0bb\r\n\r\n", 400),
    "carriage return in a header": ("GET /health HTTP/1.1\r\nHost: k\r\nX: a\rY: b\r\n\r\n", 400),
    "space in the target": ("GET /hea lth HTTP/1.1\r\nHost: k\r\n\r\n", 400),
    "NUL in the target": ("GET /%00 HTTP/1.1\r\nHost: k\r\n\r\n", 400),
    "broken escape": ("GET /%zz HTTP/1.1\r\nHost: k\r\n\r\n", 400),
    "authority target": ("CONNECT k:80 HTTP/1.1\r\nHost: k\r\n\r\n", 501),
    "asterisk target": ("OPTIONS * HTTP/1.1\r\nHost: k\r\n\r\n", 400),
    "unknown expectation": (
        "POST /tokenize HTTP/1.1\r\nHost: k\r\nExpect: tea\r\nContent-Length: 2\r\n\r\n{}", 417),
    "two lengths": (
        "POST /tokenize HTTP/1.1\r\nHost: k\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        400),
    "two different lengths": (
        "POST /tokenize HTTP/1.1\r\nHost: k\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}",
        400),
    "list of lengths": (
        "POST /tokenize HTTP/1.1\r\nHost: k\r\nContent-Length: 2, 2\r\n\r\n{}", 400),
    "length with a sign": (
        "POST /tokenize HTTP/1.1\r\nHost: k\r\nContent-Length: +2\r\n\r\n{}", 400),
    "negative length": ("POST /tokenize HTTP/1.1\r\nHost: k\r\nContent-Length: -1\r\n\r\n", 400),
    "length in hexadecimal": (
        "POST /tokenize HTTP/1.1\r\nHost: k\r\nContent-Length: 0x2\r\n\r\n{}", 400),
    "length of 2^64 + 2": (
        "POST /tokenize HTTP/1.1\r\nHost: k\r\nContent-Length: 18446744073709551618\r\n\r\n{}",
        400),
    "length and chunked": (
        f"POST /tokenize HTTP/1.1\r\nHost: k\r\nContent-Length: 2\r\n{CHUNKED}\r\n\r\n"
        "2\r\n{}\r\n0\r\n\r\n", 400),
    "chunked and length": (
        f"POST /tokenize HTTP/1.1\r\nHost: k\r\n{CHUNKED}\r\nContent-Length: 2\r\n\r\n"
        "2\r\n{}\r\n0\r\n\r\n", 400),
    "chunked twice": (
        f"POST /tokenize HTTP/1.1\r\nHost: k\r\n{CHUNKED}\r\n{CHUNKED}\r\n\r\n0\r\n\r\n", 400),
    "chunked under another name": (
        "POST /tokenize HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "chunked before another coding": (
        "POST /tokenize HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        400),
    "a coding before chunked": (
        "POST /tokenize HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501),
    "chunked in HTTP/1.0": (
        f"POST /tokenize HTTP/1.0\r\nHost: k\r\n{CHUNKED}\r\n\r\n0\r\n\r\n", 400),
    "chunk size that is none": (
        f"POST /tokenize HTTP/1.1\r\nHost: k\r\n{CHUNKED}\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n", 400),
    "chunk size too large to count": (
        f"POST /tokenize HTTP/1.1\r\nHost: k\r\n{CHUNKED}\r\n\r\n" + "f" * 17 + "\r\n", 400),
    "chunk longer than its size": (
        f"POST /tokenize HTTP/1.1\r\nHost: k\r\n{CHUNKED}\r\n\r\n1\r\n{{}}\r\n0\r\n\r\n", 400),
    "very long target": ("GET /" + "a" * (80 << 10) + " HTTP/1.1\r\nHost: k\r\n\r\n", 414),
    "very long header": (
        "GET /health HTTP/1.1\r\nHost: k\r\nX: " + "a" * (80 << 10) + "\r\n\r\n", 431),
    "very many headers": (
        "GET /health HTTP/1.1\r\nHost: k\r\n" + "X: a\r\n" * (20 << 10) + "\r\n", 431),
    "endless empty lines": ("\r\n" * (40 << 10), 431),
    "endless chunk extension": (
        f"POST /tokenize HTTP/1.1\r\nHost: k\r\n{CHUNKED}\r\n\r\n1;" + "a" * (200 << 10), 431),
    "endless trailers": (
        f"POST /tokenize HTTP/1.1\r\nHost: k\r\n{CHUNKED}\r\n\r\n0\r\n" + "X: a\r\n" * (40 << 10),
        431),
    "body announced too long": (
        "POST /tokenize HTTP/1.1\r\nHost: k\r\nContent-Length: 99999999999\r\n\r\n", 413),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(daemon, case):
    request, status = REFUSED[case]
    with daemon.wire() as wire:
        try:
            wire.send(request.encode("latin-1"))
        except (BrokenPipeError, ConnectionResetError):
            pass
        reply = wire.reply()
        assert reply.status == status, reply.body
        assert reply.headers["connection"] == "close"
        assert reply.json()["error"]["message"]
        assert wire.ended()
    assert daemon.request("/health")[0] == 200


def test_request_cut_anywhere(daemon):
    request = completion(prompt=[5], max_tokens=1)
    for n in range(len(request)):
        with daemon.wire() as wire:
            wire.send(request[:n])
            wire.socket.shutdown(1)
            if n:
                assert wire.reply().status == 400
            assert wire.ended()


def test_client_that_leaves_without_a_word(daemon):
    for n in (0, 1, 40, 100):
        with daemon.wire() as wire:
            wire.send(completion(prompt=[5], max_tokens=1)[:n])
    assert daemon.request("/health")[0] == 200


# Limits of time and number.


def test_body_limit_counts_chunks(start):
    daemon = start("--max-body-bytes", "1KiB")
    with daemon.wire() as wire:
        wire.send("POST /tokenize HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: chunked\r\n\r\n")
        wire.send("400\r\n" + "a" * 1024 + "\r\n")
        wire.send("1\r\na\r\n")
        assert wire.reply().status == 413


def test_all_requests_together_are_limited(start):
    daemon = start("--max-requests-memory", "300KiB", "--max-client-memory", "1MiB")
    with daemon.wire() as first, daemon.wire() as second:
        body = b"a" * 120000
        first.send(post("/tokenize", body)[:-20000])
        wait_until(lambda: daemon.metric("kvasir_requests_memory_bytes") >= 100000)
        second.send(post("/tokenize", body * 3)[:-20000])
        reply = second.reply()
        assert reply.status == 503 and "max_requests_memory" in reply.json()["error"]["message"]
        first.send("a" * 20000)
        assert first.reply().status == 400  # not JSON
    wait_until(lambda: daemon.metric("kvasir_requests_memory_bytes") < 10000)


def test_one_request_is_limited(start):
    daemon = start("--max-request-memory", "64KiB")
    with daemon.wire() as wire:
        wire.send(post("/tokenize", b"a" * 100000))
        reply = wire.reply()
        assert reply.status == 413 and "max_request_memory" in reply.json()["error"]["message"]
    assert daemon.request("/health")[0] == 200
    assert daemon.metric("kvasir_requests_memory_bytes") < 10000


def test_one_byte_a_second_is_too_slow(start):
    daemon = start("--header-timeout", "500ms", "--request-timeout", "1s")
    request = completion(prompt=[5], max_tokens=1)
    for already in (0, request.index(b"\r\n\r\n") + 4):
        with daemon.wire() as wire:
            wire.send(request[:already])
            begin = time.monotonic()
            try:
                for byte in request[already:]:
                    wire.send(bytes([byte]))
                    time.sleep(0.2)
            except OSError:
                pass
            assert 0.3 < time.monotonic() - begin < 4
            assert wire.reply().status == 408


def test_idle_connections_are_closed(start):
    daemon = start("--idle-timeout", "300ms")
    with daemon.wire() as wire:
        wire.send(HEALTH)
        assert wire.reply().status == 200
        assert wire.ended()
    assert daemon.metric("kvasir_http_connections_ended_total", reason="idle_timeout") == 1


def test_a_thousand_idle_connections(daemon):
    wires = [daemon.wire() for _ in range(1000)]
    try:
        wait_until(lambda: daemon.metric("kvasir_http_open_connections") >= 1000)
        assert daemon.complete(prompt=[5], max_tokens=2)["usage"]["completion_tokens"] <= 2
        for wire in wires[::100]:
            wire.send(HEALTH)
            assert wire.reply().status == 200
    finally:
        for wire in wires:
            wire.socket.close()
    wait_until(lambda: daemon.metric("kvasir_http_open_connections") < 10)


def test_idle_connections_make_room_and_busy_ones_do_not(start):
    daemon = start("--max-connections", 4, "--idle-timeout", "1m")
    idle = [daemon.wire() for _ in range(4)]
    assert daemon.request("/health")[0] == 200
    assert idle[0].ended()
    busy = [daemon.wire() for _ in range(4)]
    for wire in busy:
        wire.send(HEALTH[:10])
        time.sleep(0.05)
    with daemon.wire() as wire:
        assert wire.reply(has_body=False).status == 503
    for wire in idle + busy:
        wire.socket.close()


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--stream-buffer-bytes", "16KiB", "--write-timeout", "1m"], "stream_buffer"),
        (["--stream-buffer-bytes", "1GiB", "--write-timeout", "300ms"], "write_timeout"),
    ],
    ids=["too much waits", "it waits too long"],
)
def test_client_that_stops_reading_loses_its_sequence(start, options, reason):
    daemon = start(*options, "--kv-tokens", 4096)
    # Sixteen that cannot all run at once: none of the limits is raced by the end of the work.
    stream = completion(
        prompt=[5], max_tokens=2000, ignore_eos=True, stream=True, logprobs=20, n=16)
    with daemon.wire(receive_bytes=4096) as wire:
        wire.send(stream)
        wait_until(
            lambda: daemon.metric("kvasir_http_connections_ended_total", reason=reason), seconds=60)
        daemon.wait_idle()
    wait_until(lambda: daemon.metric("vllm:request_success_total", finished_reason="abort"))
    wait_until(lambda: daemon.metric("kvasir_http_open_connections") == 1)


def test_client_that_stops_reading_a_whole_answer_is_cut_off(start):
    daemon = start("--write-timeout", "500ms")
    body = json.dumps({"prompt": "tokens " * (3 << 20)}).encode()
    with daemon.wire(receive_bytes=4096) as wire:
        wire.send(post("/tokenize", body))
        wait_until(
            lambda: daemon.metric("kvasir_http_connections_ended_total", reason="write_timeout"),
            seconds=60)


def test_slow_reader_of_a_whole_answer_gets_it(start):
    daemon = start("--stream-buffer-bytes", "4KiB", "--write-timeout", "2s")
    body = completion(prompt=[5] * 1000, max_tokens=0, echo=True, logprobs=20)
    with daemon.wire(receive_bytes=4096) as wire:
        wire.send(body)
        time.sleep(1)
        reply = wire.reply()
    assert len(reply.json()["choices"][0]["logprobs"]["tokens"]) == 1000


@pytest.mark.parametrize("streams", [True, False])
def test_client_that_leaves_frees_its_pages(daemon, streams):
    def leave():
        before = daemon.metric("vllm:generation_tokens_total")
        with daemon.wire() as wire:
            wire.send(completion(
                prompt=[5] * 100, max_tokens=1900, ignore_eos=True, n=4, stream=streams))
            wait_until(lambda: daemon.metric("vllm:generation_tokens_total") > before)

    assert any(daemon.count_aborts(4, leave) == 4 for _ in range(10))
