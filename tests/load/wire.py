# SPDX-License-Identifier: Apache-2.0
"""A raw connection to a server: bytes out, answers in. The scripts of tests/load and the tests of
tests/e2e share it; standard library only.
"""

import json
import socket
import struct
from typing import NamedTuple

CLIENT_ADDRESS = "127.0.0.1"
OTHER_ADDRESS = "127.0.0.2"  # where another client comes from


class Reply(NamedTuple):
    """An HTTP answer; names of headers are in lower case."""

    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)


class Wire:
    """One connection. What came and was not read yet is in `buffer`."""

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
        self.socket.sendall(data.encode() if isinstance(data, str) else data)

    def _fill(self):
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError(f"the connection ended after {self.buffer[-1000:]!r}")
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

    def _read_line_end(self):
        end = self.read(2)
        if end != b"\r\n":
            raise ValueError(f"a chunk ends in {end!r}")

    def _read_chunks(self):
        body = []
        while size := int(self.read_until(b"\r\n"), 16):
            body.append(self.read(size))
            self._read_line_end()
        self._read_line_end()
        return b"".join(body)

    def reply(self, has_body=True):
        """The next answer, which may be a 100."""
        lines = self.read_until(b"\r\n\r\n").decode().split("\r\n")
        version, status = lines[0].split(" ")[:2]
        if version != "HTTP/1.1":
            raise ValueError(f"an answer begins with {lines[0]!r}")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
        body = b""
        if has_body and headers.get("transfer-encoding") == "chunked":
            body = self._read_chunks()
        elif has_body and int(status) >= 200:
            body = self.read(int(headers["content-length"]))
        return Reply(int(status), headers, body)

    def ended(self):
        """Whether the server closes, with nothing more to say."""
        try:
            while data := self.socket.recv(1 << 20):
                self.buffer += data
        except ConnectionResetError:
            pass
        return self.buffer == b""
