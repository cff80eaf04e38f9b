# SPDX-License-Identifier: Apache-2.0
"""What stands around the API: who may ask from where, what is said at "/" and at paths that are
not there, request ids, the access log, and what is said of refusals."""

import json
import os
import re
import signal
import subprocess
import threading

import pytest
from conftest import program, wait_until
from test_http import HEALTH, completion, post

PAGE = "https://chat.example.com"


def ask(wire, method, path, *lines):
    wire.send("".join(line + "\r\n" for line in
                      (f"{method} {path} HTTP/1.1", "Host: k", *lines, "")))
    return wire.reply(has_body=method != "HEAD")


# CORS.


def preflight(wire, origin, *lines):
    wire.send("".join(line + "\r\n" for line in
                      ("OPTIONS /v1/chat/completions HTTP/1.1", "Host: k", f"Origin: {origin}",
                       "Access-Control-Request-Method: POST", *lines, "")))
    return wire.read_until(b"\r\n\r\n").decode()


def test_without_the_option_nobody_is_allowed(daemon):
    with daemon.wire() as wire:
        reply = ask(wire, "GET", "/health", f"Origin: {PAGE}")
        assert not [name for name in reply.headers if name.startswith("access-control")]
        assert "vary" not in reply.headers
        reply = ask(wire, "OPTIONS", "/v1/completions", f"Origin: {PAGE}",
                    "Access-Control-Request-Method: POST")
        assert reply.status == 405 and reply.headers["allow"] == "POST"


@pytest.fixture
def open_daemon(start):
    return start("--allowed-origins", f"http://localhost:3000, {PAGE}")


def test_a_preflight_is_answered(open_daemon):
    with open_daemon.wire() as wire:
        head = preflight(wire, PAGE)
        assert head.startswith("HTTP/1.1 204 No Content\r\n")
        assert f"Access-Control-Allow-Origin: {PAGE}" in head and "Vary: Origin" in head
        assert "POST" in head.split("Access-Control-Allow-Methods: ")[1].split("\r\n")[0]
        allowed = head.split("Access-Control-Allow-Headers: ")[1].split("\r\n")[0].split(", ")
        assert {"authorization", "content-type", "x-request-id", "x-stainless-os",
                "x-stainless-retry-count"} <= set(allowed)
        assert int(head.split("Access-Control-Max-Age: ")[1].split("\r\n")[0]) > 0
        assert "content-length" not in head.lower()
        head = preflight(wire, PAGE, "Access-Control-Request-Headers: x-stainless-new,a")
        assert "Access-Control-Allow-Headers: x-stainless-new,a\r\n" in head
        assert ask(wire, "GET", "/health").status == 200  # the connection goes on


def test_other_pages_are_not_allowed(open_daemon):
    with open_daemon.wire() as wire:
        for origin in ("https://evil.example", "https://chat.example.com.evil.example", "null",
                       "http://chat.example.com", PAGE + ":8443", "http://localhost:30000"):
            reply = ask(wire, "GET", "/health", f"Origin: {origin}")
            assert reply.status == 200 and reply.headers["vary"] == "Origin"
            assert "access-control-allow-origin" not in reply.headers
            reply = ask(wire, "OPTIONS", "/v1/completions", f"Origin: {origin}",
                        "Access-Control-Request-Method: POST")
            assert reply.status == 405 and "access-control-allow-origin" not in reply.headers


def test_every_answer_says_who_may_read_it(open_daemon):
    origin = f"Origin: {PAGE}"
    body = json.dumps(dict(prompt=[5], max_tokens=2, stream=True)).encode()
    for request, status in (
        (post("/v1/completions", body, origin), 200),
        (post("/v1/completions", b"{", origin), 400),
        (post("/nothing", b"{}", origin), 404),
        (f"DELETE /health HTTP/1.1\r\nHost: k\r\n{origin}\r\n\r\n".encode(), 405),
        (f"GET /health HTTP/1.1\r\nHost: k\r\n{origin}\r\nBad Name: x\r\n\r\n".encode(), 400),
    ):
        with open_daemon.wire() as wire:
            wire.send(request)
            reply = wire.reply()
            assert reply.status == status
            assert reply.headers["access-control-allow-origin"] == PAGE
            assert reply.headers["vary"] == "Origin"
            assert "x-request-id" in reply.headers["access-control-expose-headers"]


def test_any_origin(start):
    daemon = start("--allowed-origins", "*")
    with daemon.wire() as wire:
        reply = ask(wire, "GET", "/health", "Origin: https://anything.example")
        assert reply.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-origin" not in ask(wire, "GET", "/health").headers


@pytest.mark.parametrize("origins", ["chat.example.com", f"{PAGE}/", f"{PAGE},", "https://*.a.b"])
def test_an_origin_that_is_none_is_said_at_start(tiny_model, origins):
    ended = subprocess.run(
        [program(), "serve", "--port", "0", "--model", tiny_model, "--allowed-origins", origins],
        capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "allowed_origins" in ended.stderr


# Paths.


def test_a_browser_sees_a_page(start):
    daemon = start("--served-model-name", "a<b>&\"c'")
    with daemon.wire() as wire:
        reply = ask(wire, "GET", "/", "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")
        assert reply.status == 200 and reply.headers["content-type"].startswith("text/html")
        page = reply.body.decode()
        assert "a&#60;b&#62;&#38;&#34;c&#39;" in page and "a<b>" not in page
        assert "curl http://k/v1/chat/completions" in page and "/v1/models" in page
        assert "ready" in page and "src=" not in page
        assert re.findall(r"href=[^>]*", page) == ['href="docs"']
        told = ask(wire, "GET", "/", "Accept: application/json").json()
        assert told["model"] == "a<b>&\"c'"
        assert {"method": "POST", "path": "/v1/chat/completions"} in told["paths"]
        assert ask(wire, "GET", "/").json() == told
        assert ask(wire, "HEAD", "/").status == 200


def test_unknown_paths_say_what_there_is(daemon):
    with daemon.wire() as wire:
        for path, near in (("/chat/completions", "/v1/chat/completions"),
                           ("/v1/v1/models", "/v1/models"), ("/helth", "/health"),
                           ("/" + "%C3%A9" * 300, None), ("/%FF%FE" + "a" * 88 + "%C3%A9", None)):
            reply = ask(wire, "GET", path)
            message = reply.json()["error"]["message"]
            assert reply.status == 404
            assert "POST /v1/chat/completions" in message and "GET /health" in message
            assert ("nearest" in message) == (near is not None)
            assert not near or f"nearest path is {near}." in message


def test_ping(start):
    daemon = start(wait=False)
    states = set()

    def ready():
        with daemon.wire() as wire:
            states.add(ask(wire, "GET", "/ping").status)
            return ask(wire, "HEAD", "/ping").status == 200

    wait_until(ready, 60)
    assert states <= {200, 503}
    assert daemon.request("/ping") == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize",
                                  "/detokenize"])
def test_a_body_must_say_that_it_is_json(daemon, path):
    with daemon.wire() as wire:
        for lines in ((), ("Content-Type:",), ("Content-Type: text/plain",),
                      ("Content-Type: application/x-www-form-urlencoded",)):
            reply = ask(wire, "POST", path, *lines, "Content-Length: 0")
            assert reply.status == 415
            assert "application/json" in reply.json()["error"]["message"]


def test_errors_are_json_and_utf8_whatever_comes(daemon):
    with daemon.wire() as wire:
        for size in range(60, 110):
            for name in ("é" * size, "😀" * size, "a" + "€" * size, "\u0000" * size):
                for body in ({name: 1}, {"stream_options": {name: 1}}, {"model": name},
                             {"logit_bias": {name: 1}}, {"messages": [{name: name}]}):
                    for path in ("/v1/completions", "/v1/chat/completions"):
                        data = json.dumps(body, ensure_ascii=False).encode()
                        wire.send(post(path, data))
                        reply = wire.reply()
                        assert reply.status in (400, 404)
                        assert json.loads(reply.body.decode("utf-8"))["error"]["message"]


# Request ids.


def test_the_clients_id_comes_back(daemon):
    with daemon.wire() as wire:
        for sent in ("a", "req-1~{x}", "x" * 128):
            assert ask(wire, "GET", "/health", f"X-Request-Id: {sent}").headers[
                "x-request-id"] == sent
        made = set()
        for sent in ("", "a b", "a\"b", "a'b", "a\\b", "x" * 129, "é", "a\tb"):
            got = ask(wire, "GET", "/health", f"X-Request-Id: {sent}").headers["x-request-id"]
            assert len(got) == 32 and int(got, 16) >= 0
            made.add(got)
        assert len(made) == 8


def test_every_answer_has_an_id(daemon):
    for request in (HEALTH.encode(), post("/v1/completions", b"{"), b"BAD\r\n\r\n",
                    completion(prompt=[5], max_tokens=1, stream=True),
                    b"GET /x HTTP/1.1\r\nHost: k\r\n\r\n", b"PUT / HTTP/1.1\r\nHost: k\r\n\r\n"):
        with daemon.wire() as wire:
            wire.send(request)
            assert wire.reply().headers["x-request-id"]


# The access log.


def entries(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_access_log(start, tmp_path):
    path = tmp_path / "access.log"
    daemon = start("--access-log", path)
    with daemon.wire() as wire:
        wire.send(post("/v1/completions", b"{", "X-Request-Id: mine"))
        sent = wire.reply()
        assert sent.status == 400
    wait_until(lambda: len(entries(path)) == 1)
    [entry] = entries(path)
    assert entry["id"] == "mine" and entry["client"] == "127.0.0.1"
    assert entry["method"] == "POST" and entry["path"] == "/v1/completions"
    assert entry["status"] == 400 and entry["duration_ms"] >= 0
    assert entry["bytes_received"] == len(post("/v1/completions", b"{", "X-Request-Id: mine"))
    assert entry["bytes_sent"] > len(sent.body) and "aborted" not in entry
    assert len(entry["time"]) == 24 and entry["time"].endswith("Z")


def test_access_log_of_the_odd_ones(start, tmp_path):
    path = tmp_path / "access.log"
    daemon = start("--access-log", path)
    with daemon.wire() as wire:
        wire.send("BAD\r\n\r\n")
        wire.reply()
    with daemon.wire() as wire:
        wire.send(HEALTH * 3 + "GET /%01%22%FF HTTP/1.1\r\nHost: k\r\n\r\n")
        assert [wire.reply().status for _ in range(4)] == [200, 200, 200, 404]
    with daemon.wire() as wire:
        wire.send(completion(prompt=[5], max_tokens=2000, ignore_eos=True, n=4))
        wait_until(lambda: daemon.metric("vllm:num_requests_running") == 4)
    wait_until(lambda: any("aborted" in e for e in entries(path)))
    with daemon.wire() as wire:
        wire.send(completion(prompt=[5], max_tokens=2000, ignore_eos=True, n=4, stream=True))
        wire.read_until(b"data: ")
    wait_until(lambda: sum("aborted" in e for e in entries(path)) == 2)
    all_of_them = [e for e in entries(path) if e["path"] != "/metrics"]
    assert [(e["method"], e["status"]) for e in all_of_them] == [
        (None, 400), ("GET", 200), ("GET", 200), ("GET", 200), ("GET", 404),
        ("POST", None), ("POST", 200)]
    assert all_of_them[4]["path"] == "/\x01\"\ufffd"
    assert len({e["id"] for e in all_of_them}) == 7


def test_access_log_on_standard_error_and_moved_away(start, tmp_path):
    daemon = start("--access-log", "-")
    daemon.request("/version")
    daemon.wait_log(r'\n\{"time":".*"path":"/version","status":200', 10)
    path, moved = tmp_path / "a", tmp_path / "b"
    daemon = start("--access-log", path)
    daemon.request("/version")
    wait_until(lambda: len(entries(path)) == 1)
    path.rename(moved)
    daemon.signal(signal.SIGHUP)
    daemon.wait_log("read the configuration again")
    daemon.request("/health")
    wait_until(lambda: path.exists() and len(entries(path)) == 1)
    assert entries(path)[0]["path"] == "/health" and len(entries(moved)) == 1


def test_an_access_log_that_cannot_be_written_is_said_at_start(tiny_model, tmp_path):
    for path in (tmp_path, tmp_path / "no" / "file"):
        ended = subprocess.run(
            [program(), "serve", "--port", "0", "--model", tiny_model, "--access-log", path],
            capture_output=True, text=True, timeout=60)
        assert ended.returncode == 1 and "access_log" in ended.stderr


def test_a_reader_of_the_access_log_that_stops_holds_nobody_up(start, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    daemon = start("--access-log", path)
    with daemon.wire() as wire:
        wire.send(HEALTH * 2000)
        assert all(wire.reply().status == 200 for _ in range(2000))
    daemon.wait_log("lines of the access log are being lost")
    os.close(reader)
    assert daemon.request("/health")[0] == 200


# What is said of refusals.


def test_refused_requests_leave_a_line(start):
    daemon = start("--log-level", "debug")
    for request, status, reason in (
        ("BAD\r\n\r\n", 400, "Not valid HTTP"),
        ("GET / RTSP/1.0\r\n\r\n", 400, "The request line"),
        ("GET /nothing HTTP/1.1\r\nHost: k\r\n\r\n", 404, "There is nothing at /nothing"),
        ("PUT /health HTTP/1.1\r\nHost: k\r\n\r\n", 405, "This path takes GET, HEAD"),
        (post("/v1/completions", b"{"), 400, "The body is"),
        (post("/v1/completions", b'{"model": "x", "prompt": "a"}'), 404, "There is no model"),
        ("POST /tokenize HTTP/1.1\r\nHost: k\r\nContent-Length: 0\r\n\r\n", 415, "The body must"),
    ):
        with daemon.wire() as wire:
            wire.send(request)
            id = wire.reply().headers["x-request-id"]
        daemon.wait_log(rf"debug: refusing a request id={id} .*status={status} reason={reason}", 10)


def test_many_at_once_have_ids_of_their_own(daemon):
    ids = []

    def run():
        with daemon.wire() as wire:
            for _ in range(50):
                ids.append(ask(wire, "GET", "/health").headers["x-request-id"])

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 400
