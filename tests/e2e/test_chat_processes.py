# SPDX-License-Identifier: Apache-2.0
"""The processes that chat templates run in, as seen from outside of the daemon."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from conftest import wait_until

# Half a megabyte of it takes one call in C many seconds; every other text takes none.
STRIPTAGS = "{% for m in messages %}{{ m.content | striptags }}{% endfor %}"
HOSTILE = {"messages": [{"role": "user", "content": "<" * 524288}], "max_tokens": 1}
ORDINARY = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}


def parents():
    """{process: parent} of all that are there, without those that only wait to be reaped."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        if state != "Z":
            found[int(path.parent.name)] = int(parent)
    return found


def are_grammars(pid):
    """Processes that compile grammars: the daemon's too, but not these tests' subject."""
    return Path(f"/proc/{pid}/comm").read_text() == "grammars\n"


def descendants(pid):
    family, tree = {pid}, parents()
    while more := {child for child, parent in tree.items() if parent in family} - family:
        family |= more
    return family - {pid}


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "striptags.jinja"
    path.write_text(STRIPTAGS)
    return path


def post_hostile(daemon, answers):
    def run():
        try:
            answers.append(daemon.request("/v1/chat/completions", HOSTILE))
        except OSError as error:
            answers.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_hostile_chat_takes_chats_from_nobody(start, template):
    daemon = start("--chat-template", template, "--kv-tokens", 4096,
                   "--chat-template-timeout", "1500ms")
    answers, slowest, n = [], 0, 0
    thread = post_hostile(daemon, answers)
    time.sleep(0.2)
    while thread.is_alive():
        begin = time.monotonic()
        status, answer = daemon.request("/v1/chat/completions", ORDINARY)
        slowest = max(slowest, time.monotonic() - begin)
        assert status == 200, answer
        n += 1
    thread.join()
    status, answer = answers[0]
    assert status == 400 and "took longer than 1500 ms" in answer["error"]["message"]
    assert n > 3 and slowest < 1


def test_no_process_outlives_a_killed_daemon(start, template):
    daemon = start("--chat-template", template, "--kv-tokens", 4096,
                   "--chat-template-timeout", "60s")
    thread = post_hostile(daemon, [])
    time.sleep(0.5)
    assert daemon.request("/v1/chat/completions", ORDINARY)[0] == 200
    family = descendants(daemon.process.pid)
    # The nursery, a busy worker and an idle one.
    assert len([pid for pid in family if not are_grammars(pid)]) == 3
    daemon.signal(signal.SIGKILL)
    thread.join()
    wait_until(lambda: not family & parents().keys(), 3, "the end of all processes")
    daemon.process.wait()
    daemon.stop = lambda: 0


def test_processes_have_nothing_of_the_daemons(start, template):
    daemon = start("--chat-template", template, "--kv-tokens", 4096,
                   environment={"KVASIR_LOG_LEVEL": "info", "SECRET": "x", "TZ": "UTC"})
    assert daemon.request("/v1/chat/completions", ORDINARY)[0] == 200
    family = descendants(daemon.process.pid)
    assert len([pid for pid in family if not are_grammars(pid)]) == 2
    for pid in family:
        process = Path(f"/proc/{pid}")
        links = {os.readlink(fd).split(":")[0] for fd in (process / "fd").iterdir()}
        assert links <= {"socket", "/dev/null", "pipe"}
        assert len(list((process / "fd").iterdir())) <= 4
        environment = (process / "environ").read_bytes()
        assert not environment.strip(b"\0") if are_grammars(pid) else environment == b"TZ=UTC\0"
        status = (process / "status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert os.getsid(pid) != os.getsid(daemon.process.pid)
