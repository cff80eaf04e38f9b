# SPDX-License-Identifier: Apache-2.0
"""The quick level of tests/load/abuse.py, and some of the aborts of tests/load/aborts.py."""

import os
import subprocess
import sys

LOAD_SECONDS = 280
# Other programs may run beside a test: its bars on time are looser than those that the script has
# by hand. Sanitizers take memory and time of their own: then what is left or refused is still seen.
LOOSER = ("--no-memory", "--slower=6") if "ASAN_OPTIONS" in os.environ else ("--slower=3",)


def play(root, kvasird, script, *arguments):
    run = subprocess.run(
        [sys.executable, root / "tests" / "load" / script, "--kvasird", kvasird, *arguments],
        capture_output=True, text=True, timeout=LOAD_SECONDS)
    assert run.returncode == 0, f"\n{run.stdout}{run.stderr}"


def test_abuse_by_one_client_meets_every_bar(root, kvasird):
    play(root, kvasird, "abuse.py", "--level", "quick", *LOOSER)


def test_nothing_is_left_of_clients_that_went_away(root, kvasird):
    play(root, kvasird, "aborts.py", "--aborts", "200")
