# SPDX-License-Identifier: Apache-2.0
"""README.md and docs/ against the tree: commands, folders, links, files."""

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


def pages(root):
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def test_links_lead_somewhere(root):
    for page in pages(root):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_begins_with_the_two_commands(readme):
    head = readme[:readme.index("## ")]
    assert re.search(r"^    \./dev serve .*\n    \./dev test ", head, re.MULTILINE)


def test_files_they_speak_of_exist(root):
    folders = "server|config|grammar|text|model|backend|cpu|kvcache|util|tests"
    for page in pages(root):
        for name in re.findall(rf"`((?:{folders})/[\w/.]+\.(?:[ch]|py))\b", page.read_text()):
            assert "cmd_x" in name or (root / name).exists(), (page.name, name)


def test_picture_has_straight_edges(readme):
    """Every box of the picture is closed: its corners stand in the same columns."""
    picture = readme[readme.index("## How it works"):]
    lines = picture.split("```")[1].split("\n")
    corners = [(n, i) for n, line in enumerate(lines) for i, c in enumerate(line) if c == "┐"]
    assert len(corners) >= 2
    for n, i in corners:
        below = [line[i:i + 1] for line in lines[n + 1:]]
        assert set(below[:below.index("┘")]) == {"│"}, lines[n]
