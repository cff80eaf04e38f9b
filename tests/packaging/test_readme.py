# SPDX-License-Identifier: Apache-2.0
"""README.md against the tree: its commands, its folders, its links."""

import re
import subprocess

import pytest


@pytest.fixture(scope="module")
def readme(root):
    return (root / "README.md").read_text()


def test_names_every_command(readme, kvasird, clean_environment):
    text = subprocess.run([kvasird, "--help"], check=True, capture_output=True, text=True,
                          env=clean_environment).stdout
    commands = re.findall(r"^  ([a-z-]+)  +", text[text.index("Commands:"):], re.MULTILINE)
    table = readme[readme.index("## Commands"):readme.index("## Layout")]
    assert set(re.findall(r"`([a-z-]+)`", table)) == set(commands)


def test_names_every_layer(readme, root):
    layers = {path.parent.name for path in root.glob("*/*.[ch]")}
    layers = {name for name in layers if not name.startswith("build")}
    assert layers | {"tests"} == set(re.findall(r"^\| `(\w+)/` \|", readme, re.MULTILINE))


def test_links_lead_somewhere(readme, root):
    for target in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (root / target).exists(), target


def test_begins_with_the_two_commands(readme):
    head = readme[:readme.index("## ")]
    assert re.search(r"^    \./dev serve .*\n    \./dev test ", head, re.MULTILINE)


def test_files_it_speaks_of_exist(readme, root):
    for name in re.findall(r"`((?:server|config|model|backend|cpu|tests)/[\w/.]+\.[ch])`", readme):
        assert "cmd_x" in name or (root / name).exists(), name
