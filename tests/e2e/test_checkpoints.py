# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in Hugging Face layout against the reference: logits, and what is generated."""

import json
import subprocess

import numpy as np
import pytest
from conftest import program, unpack_model
from test_gguf_models import ARCHS, ERROR_MAX, error, make_gguf

N_PROMPTS = 4
# Between the two most likely tokens, in logits: less than that may turn out either way.
MARGIN_MIN = 0.3


@pytest.fixture(scope="module", params=ARCHS)
def checkpoint(request, tmp_path_factory):
    """Its directory, the prompts, and for each of them the reference's logits and 24 ids."""
    directory = unpack_model(request.param, tmp_path_factory.mktemp("checkpoint"))
    tensors = make_gguf.read_safetensors(directory / "expected.safetensors")
    names = [f"{{}}.{i}" for i in range(N_PROMPTS)]
    prompts, logits, greedy = (
        [tensors[name.format(kind)] for name in names] for kind in ("input_ids", "logits", "greedy")
    )
    return directory, [p.tolist() for p in prompts], logits, [g.tolist() for g in greedy]


def run(command, checkpoint, prompts, *options):
    request = checkpoint / "prompts.json"
    request.write_text(json.dumps({"input_ids": prompts}))
    return subprocess.run(
        [program(), command, "--model", checkpoint, "--input", request, *options],
        check=True, timeout=120, capture_output=True, text=True).stdout


def logits_of(directory, prompts):
    answer = directory / "answer.safetensors"
    run("logits", directory, prompts, "--output", answer)
    tensors = make_gguf.read_safetensors(answer)
    return [tensors[f"logits.{i}"] for i in range(len(prompts))]


def test_logits_are_the_references(checkpoint):
    directory, prompts, reference, _ = checkpoint
    assert error(logits_of(directory, prompts), reference) <= ERROR_MAX


def test_greedy_text_is_the_references(checkpoint):
    """Up to the first token that was a close call; what is generated is compared as far as that,
    what is likely next all the way."""
    directory, prompts, _, greedy = checkpoint
    lines = run("generate", directory, prompts, "--max-tokens", "24", "--ignore-eos").splitlines()
    texts = [prompt + ids for prompt, ids in zip(prompts, greedy)]
    n_sure = 0
    for prompt, ids, line, logits in zip(prompts, greedy, lines, logits_of(directory, texts)):
        generated, is_same = json.loads(line)["ids"], True
        for i, wanted in enumerate(ids):
            row = logits[len(prompt) - 1 + i]
            runner_up, best = np.partition(row, -2)[-2:]
            if best - runner_up < MARGIN_MIN:
                is_same = False
                continue
            n_sure += 1
            assert row.argmax() == wanted
            assert not is_same or generated[i] == wanted
    assert n_sure >= N_PROMPTS * 24 / 4
