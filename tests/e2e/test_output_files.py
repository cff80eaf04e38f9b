# SPDX-License-Identifier: Apache-2.0
"""What commands write: whole files, in the place of regular files and of nothing else."""

import json
import os
import resource
import signal
import stat
import subprocess

import pytest
from conftest import ROOT, program

LICENSE = ROOT / "LICENSE"


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"input_ids": [[2, 3, 4, 5]]}))
    return path


def writers(model, prompts):
    """Every command that writes a file, without the file."""
    return {
        "profile": ["profile", "--model", model, "--profile-seconds", 1, "-o"],
        "logits": ["logits", "--model", model, "--input", prompts, "-o"],
        "eval": ["eval", "--model", model, "--text", LICENSE, "--window", 64, "--max-tokens", 64,
                 "--kv", "f16", "--json"],
        "bench": ["bench", "--model", model, "--json"],
    }


def run(*arguments, **options):
    return subprocess.run([program(), *map(str, arguments)], capture_output=True, timeout=120,
                          stdin=subprocess.DEVNULL, **options)


def refused(command, path, words):
    result = run(*command, path)
    error = result.stderr.decode()
    assert result.returncode == 1 and result.stdout == b""
    assert error.count("\n") == 1 and error.startswith("kvasird")
    assert str(path) in error and words in error


@pytest.mark.parametrize("name", ["profile", "logits", "eval", "bench"])
def test_what_is_no_regular_file_is_left_alone(tiny_model, prompts, tmp_path, name):
    command = writers(tiny_model, prompts)[name]
    fifo, directory, link = tmp_path / "fifo", tmp_path / "directory", tmp_path / "link"
    os.mkfifo(fifo)
    directory.mkdir()
    link.symlink_to("/dev/full")
    for path in (fifo, link, "/dev/full", "/dev/null"):
        refused(command, path, "is not a regular file")
    refused(command, directory, "is a directory")
    assert stat.S_ISFIFO(fifo.stat().st_mode) and link.is_symlink()
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert sorted(os.listdir(tmp_path)) == ["directory", "fifo", "link", "prompts.json"]


@pytest.mark.parametrize("name", ["logits", "eval", "bench"])
def test_a_missing_directory_is_said_before_work_begins(tiny_model, prompts, tmp_path, name):
    refused(writers(tiny_model, prompts)[name], tmp_path / "new" / "file", "No such file")


def test_a_device_node_stays(tiny_model, tmp_path):
    node = tmp_path / "node"
    try:
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no device node may be made here")
    refused(["profile", "--model", tiny_model, "-o"], node, "is not a regular file")
    assert stat.S_ISCHR(node.stat().st_mode)


def test_a_full_disk_leaves_the_old_file(tiny_model, tmp_path):
    """A limit on file sizes stands for it."""
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))

    prompts, output = tmp_path / "prompts.json", tmp_path / "file"
    prompts.write_text(json.dumps({"input_ids": [[2] * 100]}))
    for name in ("profile", "logits"):
        output.write_text("old")
        result = run(*writers(tiny_model, prompts)[name], output, preexec_fn=limit)
        assert result.returncode == 1
        assert f"{output}: " in result.stderr.decode() and b"File too large" in result.stderr
        assert output.read_text() == "old"
        assert sorted(os.listdir(tmp_path)) == ["file", "prompts.json"]


def test_dash_is_standard_output(tiny_model, prompts, tmp_path):
    for name in ("profile", "logits"):
        command = writers(tiny_model, prompts)[name]
        to_file, to_pipe = run(*command, tmp_path / "file"), run(*command, "-")
        assert to_file.returncode == to_pipe.returncode == 0
        if name == "logits": # a profile may rest on more tokens the next time
            assert to_pipe.stdout == (tmp_path / "file").read_bytes()
        else:
            assert to_pipe.stdout.startswith(b"KVASPROF")
    figures = run(*writers(tiny_model, prompts)["eval"], "-").stdout.decode()
    assert json.loads(figures[figures.index("{"):])["window"] == 64
    assert not os.path.exists("-")
