# SPDX-License-Identifier: Apache-2.0
"""A kvasird under load: the process, what it holds, and raw connections to it.

Standard library only; everything goes over the loopback interface.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import struct
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
CLIENT_ADDRESS = "127.0.0.1"
OTHER_ADDRESS = "127.0.0.2"  # where another client comes from

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


class Wire:
    """A raw connection: bytes out, answers in."""

    def __init__(self, port, source=CLIENT_ADDRESS, timeout_s=30, receive_bytes=None):
        self.socket = socket.socket()
        try:
            self.socket.settimeout(timeout_s)
            if receive_bytes:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            self.socket.bind((source, 0))
            self.socket.connect(("127.0.0.1", port))
        except BaseException:
            self.socket.close()
            raise
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def reset(self):
        """Ends the connection with a RST instead of a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def _fill(self):
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError("the connection ended")
        self.buffer += data

    def read_until(self, mark):
        while mark not in self.buffer:
            self._fill()
        text, self.buffer = self.buffer.split(mark, 1)
        return text

    def read(self, size):
        while len(self.buffer) < size:
            self._fill()
        text, self.buffer = self.buffer[:size], self.buffer[size:]
        return text

    def _read_chunks(self):
        body = []
        while size := int(self.read_until(b"\r\n"), 16):
            body.append(self.read(size))
            self.read(2)
        self.read(2)
        return b"".join(body)

    def reply(self):
        """(status, body) of the next answer; a 100 is passed over."""
        while True:
            lines = self.read_until(b"\r\n\r\n").decode().lower().split("\r\n")
            status = int(lines[0].split(" ")[1])
            if status != 100:
                break
        headers = dict(line.split(": ", 1) for line in lines[1:])
        if headers.get("transfer-encoding") == "chunked":
            return status, self._read_chunks()
        return status, self.read(int(headers.get("content-length", 0)))
