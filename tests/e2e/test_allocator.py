# SPDX-License-Identifier: Apache-2.0
"""Which malloc serves, and that memory of a burst of requests goes back to the system."""

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import program, wait_until

MIB = 1 << 20
N_BODIES, BODY_BYTES = 20, 8 * MIB


def allocator():
    told = subprocess.run([program(), "version", "--verbose"], capture_output=True, text=True,
                          check=True, timeout=60).stdout
    return re.search(r"^allocator (system|jemalloc \d+\.\d+\.\d+)$", told, re.MULTILINE).group(1)


def memory_bytes(daemon, row):
    text = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(re.search(rf"^{row}:\s+(\d+) kB", text, re.MULTILINE).group(1)) * 1024


def test_the_log_says_what_the_version_says(start):
    assert re.search(rf'starting version=\S+ allocator="{allocator()}"\n', start().read_log())


def test_memory_of_a_burst_goes_back(start):
    if allocator() == "system":
        pytest.skip("built with -Dallocator=system, or with a sanitizer's own")
    daemon = start("--kv-tokens", 4096)
    daemon.complete(prompt=[5], max_tokens=1)
    before = memory_bytes(daemon, "VmRSS")

    # Many small things each, of which nothing can be answered; who is refused sooner is fine, too.
    body = json.dumps({"prompt": ["a"] * (BODY_BYTES // 4)}, separators=(",", ":")).encode()

    def send(_):
        return daemon.request("/v1/completions", raw=body)[0]

    with ThreadPoolExecutor(N_BODIES) as pool:
        assert set(pool.map(send, range(N_BODIES))) <= {400, 413, 429, 503}
    assert memory_bytes(daemon, "VmHWM") - before > N_BODIES * BODY_BYTES / 2
    wait_until(lambda: memory_bytes(daemon, "VmRSS") - before < 64 * MIB, 10,
               "resident memory as before")
