# SPDX-License-Identifier: Apache-2.0
"""A kvasird under load: the process, what it holds, and requests to it.

Standard library only; everything goes over the loopback interface.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TINY_MODEL = ROOT / "tests" / "data" / "models" / "llama.tar.xz"
DEFAULT_MODEL = (
    Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    / "kvasir"
    / "SmolLM2-135M-Instruct.Q4_1.gguf"
)
START_S = 120
STOP_S = 30
GET_S = 120

GAUGES = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "kvasir_requests_memory_bytes",
)


def unpack_tiny_model(directory):
    """A checkpoint of some 4 MB with random weights."""
    with tarfile.open(TINY_MODEL) as archive:
        # Python 3.11.2, which Debian 12 has, knows no filters yet.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(directory, **safely)
    return Path(directory) / "llama"


def process_tree(pid):
    """The process and what it has started, as far as they live."""
    yield pid
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                for child in file.read().split():
                    yield from process_tree(int(child))


def resident_bytes(pid):
    """Memory of the whole tree. A page that several share is counted once; pages of files are not
    counted: the system takes those back as it likes."""
    total_kib = 0
    for process in process_tree(pid):
        with contextlib.suppress(OSError):
            with open(f"/proc/{process}/smaps_rollup", encoding="ascii") as file:
                for line in file:
                    if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                        total_kib += int(line.split()[1])
    return total_kib * 1024


class Daemon:
    """A running server; what it writes to standard error is in `log()`."""

    def __init__(self, program, model, *options):
        self.program = str(program)
        self.options = [str(o) for o in options]
        self.log_file = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [self.program, "serve", "--model", str(model), "--port", "0", *self.options],
            stderr=self.log_file,
        )
        try:
            self.port = int(self.wait_log(r"listening url=http://[^ ]*:(\d+)\n").group(1))
            self.wait_log(r"ready url=.*\n")
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        return os.pread(self.log_file.fileno(), 1 << 24, 0).decode(errors="replace")

    def wait_log(self, pattern):
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            ended = self.process.poll() is not None
            match = re.search(pattern, self.log())
            if match:
                return match
            if ended:
                raise RuntimeError(f"the daemon ended:\n{self.log()}")
            time.sleep(0.02)
        raise RuntimeError(f"no /{pattern}/ within {START_S} s:\n{self.log()}")

    def is_alive(self):
        return self.process.poll() is None

    def limits(self):
        """The values of its options, by name."""
        text = subprocess.run(
            [self.program, "config", "--json", *self.options], check=True, capture_output=True
        ).stdout
        return {name: option["value"] for name, option in json.loads(text).items()}

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=GET_S)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def metric(self, name):
        """The value of a metric; None where there is no such one."""
        match = re.search(rf"^{name}(?:\{{.*\}})? (\S+)$", self.get("/metrics"), re.MULTILINE)
        return float(match.group(1)) if match else None

    def gauges(self):
        """What requests hold now, as far as it is told."""
        text = self.get("/metrics")
        found = {name: re.search(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
                 for name in GAUGES}
        return {name: float(match.group(1)) for name, match in found.items() if match}

    def stop(self):
        """Asks it to end, insists if it must; its exit status."""
        if self.is_alive():
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        if self.is_alive():
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def head(path, size, *lines):
    """The head of a POST of so many bytes."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: kvasir\r\nContent-Type: application/json\r\n"
        + "".join(line + "\r\n" for line in lines)
        + f"Content-Length: {size}\r\n\r\n"
    ).encode()


def post(path, body, *lines):
    """A whole request; body is bytes, or an object for JSON."""
    if not isinstance(body, bytes):
        body = json.dumps(body, separators=(",", ":")).encode()
    return head(path, len(body), *lines) + body
