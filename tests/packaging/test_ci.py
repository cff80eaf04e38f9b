# SPDX-License-Identifier: Apache-2.0
""".ci/run over a ./dev of the test's own, which only takes down what it was asked for."""

import os
import re
import shutil
import subprocess

import pytest

FAKE_DEV = """#!/bin/sh
echo "$1" >>asked
echo "out of $1"
echo "error of $1" >&2
[ "$1" != "$FAILING" ] || exit "$STATUS"
"""


@pytest.fixture
def ci(root, tmp_path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(root / ".ci/run", tmp_path / ".ci/run")
    (tmp_path / "dev").write_text(FAKE_DEV)
    (tmp_path / "dev").chmod(0o755)

    def run(failing="", status=1):
        done = subprocess.run([tmp_path / ".ci/run"], capture_output=True, text=True, timeout=60,
                              env=os.environ | {"FAILING": failing, "STATUS": str(status)})
        asked = (tmp_path / "asked").read_text().split()
        table = re.findall(r"^(\w+) +\d+\.\d +\d+\.\d  (.+)$", done.stdout, re.MULTILINE)
        for job in asked:
            assert f"out of {job}\n" in done.stdout and f"error of {job}\n" in done.stderr
        return done, asked, dict(table)
    return run


def jobs_of(root):
    text = (root / ".ci/run").read_text()
    return re.search(r"^jobs=\((.*)\)$", text, re.MULTILINE).group(1).split()


def test_every_job_runs(ci, root):
    done, asked, table = ci()
    assert done.returncode == 0, done.stderr
    assert asked == jobs_of(root)
    assert set(asked) == {"test", "clang", "sanitize", "fuzz", "cross"}
    assert table == dict.fromkeys(asked, "passed")
    assert re.search(r"^all +\d+\.\d$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("job", ["test", "cross", "fuzz"])
def test_the_first_failure_is_the_last_job_and_is_named(ci, root, job):
    done, asked, table = ci(failing=job)
    jobs = jobs_of(root)
    assert done.returncode == 1
    assert asked == jobs[:jobs.index(job) + 1]
    assert table == dict.fromkeys(asked, "passed") | {job: "failed"}
    assert f"FAILED: ./dev {job}" in done.stdout.split("\n")[-2]


def test_a_job_without_its_packages_is_told_and_the_rest_goes_on(ci, root):
    done, asked, table = ci(failing="cross", status=77)
    assert done.returncode == 0 and asked == jobs_of(root)
    assert table["cross"].startswith("not tried")


def test_the_tests_themselves_are_never_left_out(ci):
    done, asked, table = ci(failing="test", status=77)
    assert done.returncode == 1 and asked == ["test"] and table == {"test": "failed"}


def test_jobs_are_commands_of_dev(root):
    usage = subprocess.run([root / "dev", "help"], check=True, capture_output=True, text=True)
    assert set(jobs_of(root)) <= set(re.findall(r"^  ([a-z]+) ", usage.stdout, re.MULTILINE))
