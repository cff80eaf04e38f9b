# SPDX-License-Identifier: Apache-2.0
"""`kvasird bench` on a tiny model: every figure is there and its arithmetic holds. How large the
figures are is not tested: other tests run beside this one."""

import json
import math
import subprocess

import pytest
from conftest import program, unpack_model

SPECS = ["bf16", "f16", "k8v8", "k6v6", "k5v5", "k4v4", "k3v3", "k2v2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return unpack_model("llama", tmp_path_factory.mktemp("bench_model"))


def bench(*arguments):
    return subprocess.run([program(), "bench", *map(str, arguments)], capture_output=True,
                          text=True, timeout=300, stdin=subprocess.DEVNULL)


def numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [n for item in value for n in numbers(item)]
    return [value] if isinstance(value, float) else []


def test_every_figure_is_there_and_follows_from_the_others(model, tmp_path):
    path = tmp_path / "figures.json"
    result = bench("--model", model, "--threads", 2, "--kv", "k4v2", "--prompt-tokens",
                   300, "--json", path)
    assert result.returncode == 0, result.stderr
    for line in ("machine", "memory", "1 sequence", "16 sequences", "prompt", "attention alone"):
        assert line in result.stdout
    figures = json.loads(path.read_text())
    assert all(math.isfinite(n) for n in numbers(figures))

    assert figures["machine"]["threads"] == 2 and figures["kv"] == "k4v2"
    decode, model_figures = figures["decode"], figures["model"]
    assert decode["floor_tokens_per_s"] == pytest.approx(
        figures["machine"]["weights_read_bytes_per_s"] / model_figures["weight_bytes"])
    assert decode["reached"] == pytest.approx(
        decode["tokens_per_s"] / decode["floor_tokens_per_s"])
    assert decode["batch_gain"] == pytest.approx(
        decode["batch_tokens_per_s"] / decode["tokens_per_s"])
    assert figures["prompt"]["tokens"] == 300 and figures["prompt"]["f16_tokens_per_s"] > 0
    # bf16 weights: two bytes each.
    assert model_figures["weight_bytes"] == 2 * model_figures["parameters"]

    assert [row["kv"] for row in figures["cache"]] == SPECS
    floors = [row["attention_floor_s"] for row in figures["cache"]]
    assert floors == sorted(floors, reverse=True)
    base = figures["cache"][SPECS.index("f16")]
    assert base["attention_per_f16"] == 1 and base["sealing_share"] == 0
    assert all(row["prompt_attention_token_s"] > 0 for row in figures["cache"])

    grammar = figures["grammar"]
    if grammar is None:
        assert "grammars are not measured" in result.stdout
        return
    assert grammar["schema_lines"] == 199 and grammar["vocabulary"] == 512
    assert 0 < grammar["mask_p50_s"] <= grammar["mask_p99_s"] and grammar["compile_s"] > 0
    assert 0 < grammar["free_mask_p50_s"] <= grammar["free_mask_p99_s"]
    assert grammar["batch_share"] > 0 and grammar["compiled_bytes"] > 0


@pytest.mark.parametrize("arguments, complaint", [
    (["--kv", "k7v7"], "k7v7"),
    (["--json", "/nonexistent/figures.json"], "/nonexistent/figures.json"),
])
def test_what_cannot_be_done_is_said(model, arguments, complaint):
    result = bench("--model", model, *arguments)
    assert result.returncode in (1, 2) and complaint in result.stderr
