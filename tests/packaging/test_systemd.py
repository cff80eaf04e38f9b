# SPDX-License-Identifier: Apache-2.0
"""systemd/kvasird.service, judged by systemd itself; and the daemon's side of Type=notify."""

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest


@pytest.fixture(scope="module")
def unit(root):
    text = (root / "systemd/kvasird.service").read_text()
    settings = {}
    for line in text.split("\n"):
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            settings.setdefault(name, []).append(value)
    return settings


@pytest.fixture(scope="module")
def analyze(root, kvasird, tmp_path_factory):
    """Runs systemd-analyze on the unit with the built program in it."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    def run(*args, gpu=False):
        path = tmp_path_factory.mktemp("unit") / "kvasird.service"
        text = (root / "systemd/kvasird.service").read_text()
        path.write_text(text.replace("/usr/bin/kvasird", str(kvasird)))
        if gpu:
            drop_in = path.with_name("kvasird.service.d") / "gpu.conf"
            drop_in.parent.mkdir()
            drop_in.write_text((root / "systemd/gpu.conf").read_text())
        result = subprocess.run(["systemd-analyze", *args, str(path)], capture_output=True,
                                text=True, timeout=60)
        if "Failed to" in result.stderr and "manager" in result.stderr:
            pytest.skip("systemd-analyze does not work here: " + result.stderr.strip())
        return result
    return run


def test_unit_is_sound(analyze):
    result = analyze("verify", "--man=no")
    # Of the units that the unit refers to, this machine's own state is none of ours.
    complaints = [line for line in result.stderr.split("\n") if "kvasird" in line]
    assert not complaints and result.returncode == 0, result.stderr


def exposure(analyze, gpu):
    result = analyze("security", "--offline=true", "--no-pager", gpu=gpu)
    if "unrecognized option" in result.stderr:
        pytest.skip("this systemd-analyze cannot judge a file offline")
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)
    assert level, result.stderr
    return float(level.group(1)), result.stdout


def test_unit_exposes_little(analyze):
    level, text = exposure(analyze, gpu=False)
    assert level <= 2.0, text


def test_drop_in_for_gpus_is_sound(analyze):
    result = analyze("verify", "--man=no", gpu=True)
    complaints = [line for line in result.stderr.split("\n")
                  if ("kvasird" in line or "gpu.conf" in line) and "nvidia" not in line]
    assert not complaints, result.stderr


def test_drop_in_for_gpus_opens_their_devices_alone(analyze):
    without, _ = exposure(analyze, gpu=False)
    level, text = exposure(analyze, gpu=True)
    assert without < level <= 2.5, text  # it was read, and costs little
    assert "char-nvidia*" in text, text


def test_unit_waits_longer_than_the_daemon_drains(unit, kvasird, clean_environment):
    out = subprocess.run([kvasird, "config", "--json"], check=True, capture_output=True, text=True,
                         env=clean_environment).stdout
    drain = json.loads(out)["drain_timeout"]["value"]
    assert drain.endswith("s") and unit["TimeoutStopSec"][0].endswith("s")
    assert int(drain[:-1]) < int(unit["TimeoutStopSec"][0][:-1])


class Daemon:
    def __init__(self, program, model, environment, tmp_path, *args):
        address = str(tmp_path / "notify")
        self.messages = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.process = subprocess.Popen(
            [program, "serve", "--model", model, "--port", "0", *args],
            env=environment | {"NOTIFY_SOCKET": address, "STATE_DIRECTORY": str(tmp_path)},
            stderr=subprocess.PIPE, text=True)

    def wait_for(self, text, seconds):
        """Until a datagram holds a line `text`; returns the whole datagram."""
        deadline = time.monotonic() + seconds
        while True:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.01))
            message = self.socket.recv(4096).decode()
            self.messages.append(message)
            if text in message.split("\n"):
                return message

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        self.socket.close()


@pytest.fixture
def daemon(kvasird, default_model, clean_environment, tmp_path):
    d = Daemon(kvasird, default_model, clean_environment, tmp_path, "--max-model-len", "512",
               "--max-num-seqs", "4")
    yield d
    d.close()


def port_of(ready):
    return int(re.search(r"http://[\d.]+:(\d+)", ready).group(1))


def test_ready_after_loading_and_stopping_on_sigterm(daemon):
    ready = daemon.wait_for("READY=1", 120)
    connection = http.client.HTTPConnection("127.0.0.1", port_of(ready), timeout=10)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()
    assert not any("STOPPING=1" in message for message in daemon.messages)
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for("STOPPING=1", 10)
    assert daemon.process.wait(30) == 0


def test_sigterm_finishes_what_is_in_flight(daemon):
    port = port_of(daemon.wait_for("READY=1", 120))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(
        "POST", "/v1/completions", headers={"Content-Type": "application/json"},
        body=json.dumps({"prompt": "Once upon a time", "max_tokens": 60, "ignore_eos": True,
                         "stream": True}))
    response = connection.getresponse()
    assert response.readline().startswith(b"data: ")
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for("STOPPING=1", 10)
    rest = response.read().decode()
    assert rest.rstrip().endswith("data: [DONE]")
    assert daemon.process.wait(30) == 0


def test_a_model_that_is_missing_is_never_ready(kvasird, clean_environment, tmp_path):
    daemon = Daemon(kvasird, "/nonexistent.gguf", clean_environment, tmp_path)
    try:
        assert daemon.process.wait(30) == 1
        assert "/nonexistent.gguf" in daemon.process.stderr.read()
        daemon.socket.settimeout(0.01)
        with pytest.raises(TimeoutError):
            daemon.wait_for("READY=1", 0.1)
    finally:
        daemon.close()


def test_sighup_refuses_a_broken_file_and_goes_on(kvasird, default_model, clean_environment,
                                                  tmp_path):
    file = tmp_path / "kvasird.json"
    file.write_text('{"log_level": "info"}')
    daemon = Daemon(kvasird, default_model, clean_environment, tmp_path, "--max-model-len", "512",
                    "--max-num-seqs", "4", "--config", str(file))
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(daemon.process.stderr), daemon=True)
    try:
        daemon.wait_for("READY=1", 120)
        reader.start()
        file.write_text('{"log_level": "loud"}')
        daemon.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while not any(f"{file}:1: log_level" in line for line in lines):
            assert time.monotonic() < deadline and daemon.process.poll() is None, lines
            time.sleep(0.05)
    finally:
        daemon.process.kill()
        reader.join(10)
        daemon.close()
