# SPDX-License-Identifier: Apache-2.0
"""The life of the daemon: loading, ready, draining, gone; what the service manager hears."""

import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest
from conftest import program, wait_until

LONG = {"prompt": [5], "max_tokens": 2000, "ignore_eos": True}


@pytest.fixture
def notifications(tmp_path):
    """A notify socket, and what it has received so far."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        received = []

        def read():
            try:
                while True:
                    received.append(listener.recv(4096).decode())
            except BlockingIOError:
                return received

        read.path = str(tmp_path / "notify")
        yield read


def send_completion(daemon, body, results):
    def run():
        try:
            results.append(daemon.request("/v1/completions", body))
        except OSError as error:
            results.append((0, error))

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: daemon.metric("vllm:num_requests_running") > 0)
    return thread


def test_service_manager_is_told(start, notifications):
    daemon = start(environment={"NOTIFY_SOCKET": notifications.path})
    wait_until(lambda: any("READY=1" in text for text in notifications()))
    daemon.stop()
    told = notifications()
    ready = next(i for i, text in enumerate(told) if "READY=1" in text)
    assert all(text.startswith("STATUS=") for text in told[:ready]) and ready >= 3
    assert f"STATUS=Serving {daemon.model} at {daemon.url}" in told[ready]
    assert told[-1].startswith("STOPPING=1\n")


def test_abstract_notify_socket(start):
    name = f"kvasir-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(60)
        start(environment={"NOTIFY_SOCKET": "@" + name})
        assert listener.recv(4096).startswith(b"STATUS=")


def test_a_notify_socket_that_is_not_there_hurts_nobody(start):
    for path in ("/nowhere/notify", "relative", "", "@", "/" + "x" * 200):
        assert start(environment={"NOTIFY_SOCKET": path}).request("/health")[0] == 200


def test_health_tells_loading_from_ready(start):
    daemon = start(wait=False)
    states = set()

    def ready():
        status, answer = daemon.request("/health")
        states.add((status, answer["status"]))
        if status == 503:
            code, refusal = daemon.request("/v1/completions", {"prompt": "x"})
            assert code in (200, 503)
            if code == 503:
                assert refusal["error"]["code"] == "model_loading"
            assert daemon.request("/version")[0] == 200
        return status == 200

    wait_until(ready)
    assert (200, "ok") in states
    assert states <= {(200, "ok"), (503, "loading")}


def test_a_signal_while_loading_ends_it(start):
    daemon = start(wait=False)
    assert daemon.stop() == 0


def test_sigterm_finishes_what_is_in_flight(start):
    daemon = start()
    results = []
    thread = send_completion(daemon, LONG, results)
    idle = daemon.wire()
    with daemon.wire() as busy:
        data = json.dumps({**LONG, "max_tokens": 400, "stream": True}).encode()
        busy.send("POST /v1/completions HTTP/1.1\r\nHost: k\r\n"
                  f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n")
        busy.send(data)
        busy.read_until(b"data: ")
        daemon.signal(signal.SIGTERM)
        assert idle.ended()
        with pytest.raises(OSError):
            wait_until(lambda: daemon.wire().socket.close(), seconds=5)
        busy.read_until(b"data: [DONE]\n\n")
    thread.join()
    [(status, answer)] = results
    assert status == 200 and answer["usage"]["completion_tokens"] == 2000
    assert daemon.wait_end() == 0


def test_draining_refuses_new_requests_of_old_connections(start):
    daemon = start()
    results = []
    with daemon.wire() as wire:
        wire.send("GET /heal")
        thread = send_completion(daemon, LONG, results)
        daemon.signal(signal.SIGTERM)
        daemon.wait_log("finishing what is in flight")
        wire.send("th HTTP/1.1\r\nHost: k\r\n\r\n")
        reply = wire.reply()
        assert reply.status == 503 and reply.json()["status"] == "draining"
        assert reply.headers["connection"] == "close"
    thread.join()
    assert results[0][0] == 200


def test_a_second_signal_cancels(start):
    daemon = start()
    results = []
    thread = send_completion(daemon, {**LONG, "n": 16}, results)
    daemon.signal(signal.SIGTERM)
    daemon.wait_log("finishing what is in flight")
    begin = time.monotonic()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_end() == 0
    thread.join()
    assert time.monotonic() - begin < 5
    assert results[0][0] == 503


def test_the_drain_timeout_cancels(start):
    daemon = start("--drain-timeout", "300ms")
    data = json.dumps({**LONG, "n": 16, "stream": True}).encode()
    with daemon.wire() as wire:
        wire.send("POST /v1/completions HTTP/1.1\r\nHost: k\r\n"
                  f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n")
        wire.send(data)
        wire.read_until(b"data: ")
        daemon.signal(signal.SIGTERM)
        assert b"server_error" in wire.read_until(b"data: [DONE]\n\n")
    assert daemon.wait_end() == 0


def test_a_reader_that_never_comes_back_does_not_hold_up_the_end(start):
    daemon = start("--drain-timeout", "300ms")
    wire = daemon.wire(receive_bytes=4096)
    body = json.dumps({"prompt": "tokens " * (3 << 20)}).encode()
    wire.send("POST /tokenize HTTP/1.1\r\nHost: k\r\n"
              f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")
    wire.send(body)
    wait_until(lambda: daemon.metric("kvasir_http_responses_total", code="200") >= 1, 60)
    time.sleep(1)
    assert daemon.stop() == 0
    wire.socket.close()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--model", "/nowhere"], ["/nowhere"]),
        (["--port", "x"], ["port"]),
        (["--host", "999.1.1.1"], ["999.1.1.1"]),
        (["--max-model-len", "1000000"], ["max_model_len", "1000000"]),
        (["--kv-memory", "1MiB", "--max-num-seqs", "64"], ["kv_memory"]),
        (["--device", "abacus"], ["device", '"abacus"', "has auto", ", cpu"]),
        (["--gpu-memory", "1GiB", "--device", "cpu"], ["gpu_memory", "the CPU", "leave it out"]),
    ],
    ids=lambda value: value[0],
)
def test_what_cannot_start_says_why(tiny_model, options, words):
    ended = subprocess.run(
        [program(), "serve", "--port", "0", "--model", str(tiny_model), *options],
        capture_output=True, timeout=120)
    assert ended.returncode in (1, 2)
    last = ended.stderr.decode().strip().splitlines()[-1]
    assert all(word in last for word in words), last


def test_too_little_memory_is_said_before_anything_takes_long(tiny_model, tmp_path):
    """No profile is measured for it, and no weights are read."""
    ended = subprocess.run(
        [program(), "serve", "--port", "0", str(tiny_model), "--kv", "k4v2", "--kv-memory", "1MiB",
         "--max-num-seqs", "64", "--state-dir", str(tmp_path)],
        capture_output=True, timeout=120)
    log = ended.stderr.decode()
    assert ended.returncode == 1 and "kv_memory" in log.splitlines()[-1]
    assert "profile" not in log and "weights" not in log
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_its_flag(tiny_model):
    command = [program(), "serve", str(tiny_model), "--port", "0", "--kv-tokens", "64"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert any("ready url=" in line for line in process.stderr)
    finally:
        process.terminate()
        process.stderr.close()
        assert process.wait(60) == 0


def test_a_port_that_is_taken(start):
    daemon = start()
    ended = subprocess.run(
        [program(), "serve", "--port", str(daemon.port), "--model", "x"],
        capture_output=True, timeout=120)
    assert ended.returncode == 1 and b"in use" in ended.stderr


def test_served_model_name(start):
    daemon = start("--served-model-name", 'a/"b"\\ é')
    name = 'a/"b"\\ é'
    assert daemon.request("/v1/models")[1]["data"][0]["id"] == name
    assert daemon.complete(model=name, prompt=[5], max_tokens=1)["model"] == name
    assert daemon.request("/v1/models/a/%22b%22%5C%20%C3%A9")[1]["id"] == name
    assert daemon.metric("vllm:num_requests_running", model_name=name) == 0
    assert "vllm:num_requests_running" in daemon.request("/metrics")[1]


def test_a_name_that_is_no_text(tiny_model, tmp_path):
    path = os.fsencode(tmp_path) + b"/mod\xffel"
    os.symlink(tiny_model, path)
    ended = subprocess.run([program(), "serve", "--model", path], capture_output=True, timeout=120)
    assert ended.returncode == 1 and b"--served-model-name" in ended.stderr


def test_few_files_are_no_disaster(start):
    """The system allows fewer files than max_connections: some clients are turned away."""
    daemon = start(files=64)
    wires = []
    for _ in range(200):
        try:
            wires.append(daemon.wire())
        except OSError:
            break
    time.sleep(0.5)
    for wire in wires:
        wire.socket.close()
    wait_until(lambda: daemon.request("/health")[0] == 200)
    assert "below what max_connections needs" in daemon.read_log()


def test_hangup_reads_the_log_level_again(start, tmp_path):
    file = tmp_path / "kvasird.json"
    file.write_text('{"log_level": "info"} // quiet')
    daemon = start("--config", file)
    file.write_text('{"log_level": "debug"}')
    daemon.signal(signal.SIGHUP)
    daemon.wait_log("read the configuration again")
    file.write_text("{")
    daemon.signal(signal.SIGHUP)
    daemon.wait_log("the configuration stays as it was")
    daemon.wait_log(r"debug: the reason was given here origin=config/config_file.c:\d+\n")
    assert daemon.request("/health")[0] == 200


def test_version(daemon):
    told = subprocess.run([program(), "--version"], capture_output=True, text=True).stdout.split()
    assert daemon.request("/version") == (200, {"version": told[-1]})
