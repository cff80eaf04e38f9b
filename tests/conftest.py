# SPDX-License-Identifier: Apache-2.0
"""What every Python test may ask for: the program, the default model, optional material.

./dev sets KVASIRD (the program) and KVASIR_MODEL (the default model, where it could be fetched).
KVASIR_SHARED names a directory with further vectors; without it, one named `shared` beside the
tree is looked for. What is not there is skipped by name.
"""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def kvasird():
    """Path of the program."""
    path = pathlib.Path(os.environ.get("KVASIRD", ROOT / "build" / "kvasird"))
    assert path.is_file(), f"{path} is not built; run ./dev build"
    return path


@pytest.fixture(scope="session")
def default_model():
    """Path of SmolLM2-135M-Instruct, Q4_1, GGUF."""
    path = os.environ.get("KVASIR_MODEL")
    if not path or not os.path.exists(path):
        pytest.skip("the default model was not fetched (KVASIR_MODEL)")
    return pathlib.Path(path)


@pytest.fixture(scope="session")
def shared():
    """Directory of optional test material."""
    path = pathlib.Path(os.environ.get("KVASIR_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip("no directory of optional test material (KVASIR_SHARED)")
    return path


@pytest.fixture
def clean_environment():
    """The environment without options of kvasird."""
    return {k: v for k, v in os.environ.items() if not k.startswith("KVASIR_")}
