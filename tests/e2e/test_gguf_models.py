# SPDX-License-Identifier: Apache-2.0
"""GGUF files of every architecture and weight type against the same weights as safetensors.

The files are made here from the checkpoints in the tree, as llama.cpp's converter would make them
(tests/tools/make_gguf.py).
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, program, unpack_model

sys.path.insert(0, str(ROOT / "tests" / "tools"))
make_gguf = pytest.importorskip("make_gguf", reason="the gguf package is not installed")

ARCHS = ["llama", "mistral", "qwen2", "qwen3", "gemma3_text"]
TYPES = "f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q4_k q5_k q6_k".split()
N_PROMPTS = 3  # the fourth is long, and tells nothing more about weights
# Of the logits, as a whole: what the backend may round, whatever the weights.
ERROR_MAX = 5e-3
# Of the two short prompts: a bf16 cache alone errs by 1.4e-3 and more.
SHORT_ERROR_MAX = 8e-4


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """The checkpoints in Hugging Face layout, with their prompts and logits."""
    directory = tmp_path_factory.mktemp("sources")
    for arch in ARCHS:
        unpack_model(arch, directory)
    return directory


def expected(source):
    tensors = make_gguf.read_safetensors(source / "expected.safetensors")
    prompts = [tensors[f"input_ids.{i}"].tolist() for i in range(N_PROMPTS)]
    return prompts, [tensors[f"logits.{i}"] for i in range(N_PROMPTS)]


def logits(model, prompts, directory):
    request, answer = directory / "prompts.json", directory / f"{model.name}.logits"
    request.write_text(json.dumps({"input_ids": prompts}))
    command = [program(), "logits", "--model", model, "--input", request, "--output", answer]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    tensors = make_gguf.read_safetensors(answer)
    return [tensors[f"logits.{i}"] for i in range(len(prompts))]


def error(found, wanted):
    found, wanted = np.concatenate(found), np.concatenate(wanted)
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("arch", ARCHS)
def test_f32_gives_the_reference_logits(sources, tmp_path, arch):
    prompts, reference = expected(sources / arch)
    make_gguf.convert(sources / arch, tmp_path / "model.gguf", "f32", None, 1)
    found = logits(tmp_path / "model.gguf", prompts, tmp_path)
    assert error(found, reference) <= ERROR_MAX
    assert error(found[:2], reference[:2]) <= SHORT_ERROR_MAX


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("arch", ARCHS)
def test_type_gives_the_logits_of_its_values(sources, tmp_path, arch, kind):
    prompts, _ = expected(sources / arch)
    model, values = tmp_path / "model.gguf", tmp_path / "values"
    make_gguf.convert(sources / arch, model, kind, values, 1)
    wanted = logits(values, prompts, tmp_path)
    assert error(logits(model, prompts, tmp_path), wanted) <= ERROR_MAX
