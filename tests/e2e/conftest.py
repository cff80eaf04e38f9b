# SPDX-License-Identifier: Apache-2.0
"""The daemon as its users meet it: a process, a port, sockets and the openai package.

KVASIRD names the program (else build/kvasird); without it these tests are skipped. They run on a
tiny model that is in the tree. KVASIR_MODEL names a real one, for the tests that ask for text.
"""

import json
import os
import re
import resource
import signal
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from wire import Wire

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120
STOP_SECONDS = 60


def wait_until(condition, seconds=20, what="the condition"):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true in {seconds} s")


class Daemon:
    def __init__(self, model, *options, environment=None, wait=True, files=None):
        def limit_files():
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        self.log = ""
        self.process = subprocess.Popen(
            [program(), "serve", "--model", str(model), "--port", "0", *map(str, options)],
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            preexec_fn=limit_files if files else None,
        )
        os.set_blocking(self.process.stderr.fileno(), False)
        self.port = int(self.wait_log(r"listening url=http://[^ ]*:(\d+)\n").group(1))
        self.url = f"http://127.0.0.1:{self.port}"
        self.model = Path(model).name
        if wait:
            self.wait_log(r"ready url=.*\n")

    def read_log(self):
        if not self.process.stderr.closed:
            self.log += (self.process.stderr.read() or b"").decode(errors="replace")
        return self.log

    def wait_log(self, pattern, seconds=START_SECONDS):
        def found():
            ended = self.process.poll() is not None
            match = re.search(pattern, self.read_log())
            assert match or not ended, f"the daemon ended: {self.log}"
            return match

        return wait_until(found, seconds, f"/{pattern}/ in the log")

    def wire(self, **options):
        return Wire(self.port, **options)

    def request(self, path, body=None, raw=None, headers=None):
        """(status, JSON or text)"""
        data = json.dumps(body).encode() if body is not None else raw
        headers = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                status, kind, text = answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as answer:
            with answer:
                status, kind, text = answer.code, answer.headers["Content-Type"], answer.read()
        return status, json.loads(text) if kind == "application/json" else text.decode()

    def complete(self, **body):
        status, answer = self.request("/v1/completions", body)
        assert status == 200, answer
        return answer

    def metric(self, name, **labels):
        """One value of /metrics; 0 where it is not there yet."""
        _, text = self.request("/metrics")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return 0

    def is_idle(self):
        return (
            self.metric("vllm:num_requests_running") == 0
            and self.metric("vllm:num_requests_waiting") == 0
            and self.metric("vllm:kv_cache_usage_perc") == 0
        )

    def count_aborts(self, n, leave):
        """How many of n sequences end unfinished when their client leaves; others were quicker."""
        def ended():
            aborts, *others = (self.metric("vllm:request_success_total", finished_reason=reason)
                               for reason in ("abort", "length", "stop"))
            return aborts, aborts + sum(others)

        before, all_before = ended()
        leave()
        self.wait_idle()
        # The engine is idle a moment before the loop hears of its last ends.
        wait_until(lambda: ended()[1] == all_before + n)
        return ended()[0] - before

    def wait_idle(self, seconds=20):
        wait_until(self.is_idle, seconds, "an idle engine with all pages back")

    def signal(self, number):
        self.process.send_signal(number)

    def wait_end(self, seconds=STOP_SECONDS):
        def ended():
            self.read_log()
            return self.process.poll() is not None

        wait_until(ended, seconds, "the end of the daemon")
        self.read_log()
        return self.process.returncode

    def stop(self):
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        status = self.wait_end()
        self.process.stderr.close()
        return status


def program():
    path = os.environ.get("KVASIRD", ROOT / "build" / "kvasird")
    if not Path(path).exists():
        pytest.skip("no kvasird: set KVASIRD, or build into build/")
    return str(path)


def unpack_model(arch, directory):
    with tarfile.open(ROOT / "tests" / "data" / "models" / f"{arch}.tar.xz") as archive:
        # Python 3.11.2, which Debian 12 has, knows no filters yet.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(directory, **safely)
    return directory / arch


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return unpack_model("llama", tmp_path_factory.mktemp("models"))


@pytest.fixture
def start(tiny_model):
    """Starts daemons with options of the test's own; each must end well."""
    daemons = []

    def start_one(*options, model=tiny_model, **arguments):
        daemons.append(Daemon(model, *options, **arguments))
        return daemons[-1]

    yield start_one
    for daemon in daemons:
        assert daemon.stop() == 0, daemon.log
        assert "ERROR" not in daemon.log, daemon.log


@pytest.fixture(scope="session")
def daemon(tiny_model):
    """One for all tests that leave it as they found it."""
    running = Daemon(tiny_model, "--kv-tokens", 64 * 1024)
    yield running
    assert running.stop() == 0, running.log
    assert "ERROR" not in running.log, running.log


@pytest.fixture(scope="session")
def real_daemon():
    """A model that writes English."""
    model = os.environ.get("KVASIR_MODEL")
    if not model:
        pytest.skip("no real model: set KVASIR_MODEL")
    running = Daemon(model, "--kv-tokens", 32 * 1024)
    yield running
    assert running.stop() == 0, running.log
