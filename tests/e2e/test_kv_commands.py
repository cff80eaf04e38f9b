# SPDX-License-Identifier: Apache-2.0
"""plan, profile and eval, and --kv of the other commands, on the tiny models of the tree."""

import json
import re
import subprocess
import tarfile

import numpy as np
import pytest
from conftest import ROOT, program

SPECS = ["k8v8", "k6v6", "k5v5", "k4v4", "k3v3", "k2v2"]
FIGURES = {"kv", "bits", "bits_with_tails", "ppl", "kld", "kld_se", "kld_p99", "top1",
           "bytes_per_token", "tokens_per_gib"}
N_LAYERS, N_KV_HEADS, HEAD_DIM = 3, 2, 64
PURPOSES = {"pages": "kv_pages", "tails": "kv_tails", "sinks": "kv_sinks",
            "rounding": "kv_roundings", "transform": "kv_transforms", "padding": "kv_padding"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kv_models")
    for name in ("llama", "mistral"):
        with tarfile.open(ROOT / "tests" / "data" / "models" / f"{name}.tar.xz") as archive:
            # Python 3.11.2, which Debian 12 has, knows no filters yet.
            safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(directory, **safely)
    return directory


def run(*arguments, status=0):
    result = subprocess.run([program(), *map(str, arguments)], capture_output=True, text=True,
                            timeout=120, stdin=subprocess.DEVNULL)
    assert result.returncode == status, result.stderr
    return result.stderr if status else result.stdout


@pytest.fixture(scope="module")
def profiles(models, tmp_path_factory):
    directory = tmp_path_factory.mktemp("profiles")
    for name in ("llama", "mistral"):
        told = run("profile", "--model", models / name, "-o", directory / name)
        assert re.search(r": model [0-9a-f]{32}, (\d+) of \1 tokens of built-in\n", told)
    return directory


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text((ROOT / "LICENSE").read_text())
    return path


def evaluate(model, text, profile, path, specs, tokens=3072):
    flags = [flag for spec in specs for flag in ("--kv", spec)]
    table = run("eval", "--model", model, "--text", text, "--window", 512, "--max-tokens", tokens,
                "--profile", profile, "--json", path, *flags)
    result = json.loads(path.read_text())
    assert result["profile_tokens"] == result["profile_tokens_wanted"] > 0
    assert f"a profile of {result['profile_tokens']} of {result['profile_tokens']} tokens" in table
    assert [row["kv"] for row in result["specs"]] == ["bf16", *specs]
    for row in result["specs"]:
        assert row["kv"] in table
    return result


@pytest.fixture(scope="module")
def figures(models, profiles, text, tmp_path_factory):
    path = tmp_path_factory.mktemp("figures")
    return {name: evaluate(models / name, text, profiles / name, path / name, SPECS)
            for name in ("llama", "mistral")}


# plan


def ledger_of(text):
    rows = re.findall(r"^(?:KV |prefix )(\w+) +(\d+) ", text, re.MULTILINE)
    return {name: int(value) for name, value in rows}


@pytest.mark.parametrize("spec", ["bf16", "k4v2", "k8v8"])
def test_plan_prints_what_the_daemon_takes(start, models, profiles, spec):
    options = ["--kv", spec, "--kv-memory", "6000000", "--max-num-seqs", "8"]
    planned = ledger_of(run("plan", "--model", models / "llama", *options))
    daemon = start(*options, "--profile", profiles / "llama", model=models / "llama")
    assert ledger_of(daemon.read_log()) == planned
    for row, purpose in PURPOSES.items():
        assert daemon.metric("kvasir_memory_bytes", purpose=purpose) == planned.get(row, 0)
    assert sum(planned.get(row, 0) for row in PURPOSES) <= 6000000
    assert daemon.metric("kvasir_memory_bytes", purpose="prefix_index") == planned["index"] > 0
    assert planned["tokens"] % 64 == 0


def test_plan_refuses_what_cannot_be(models):
    assert "k7v4" in run("plan", "--model", models / "llama", "--kv", "k7v4", status=1)
    assert "missing" in run("plan", "--model", models / "llama", "--kv-memory", "1MiB",
                            "--max-num-seqs", "64", status=1)
    why = run("plan", "--model", models / "llama", "--max-model-len", "1000000", status=1)
    assert "1000000" in why and "max" in why


def test_plan_files(models, tmp_path):
    plan = tmp_path / "plan.json"
    pairs = [{"k": 8, "v": 4}, {"k": 16, "v": 2}, {"k": 3, "v": 3}]
    plan.write_text(json.dumps({"layers": pairs}))
    told = run("plan", "--model", models / "llama", "--kv", f"plan:{plan}")
    mixed = float(re.search(r"([\d.]+) bits per element", told).group(1))
    assert 5.9 < mixed < 6.4
    plan.write_text(json.dumps({"layers": pairs[:2]}))
    why = run("plan", "--model", models / "llama", "--kv", f"plan:{plan}", status=1)
    assert "3 layers" in why and str(plan) in why


# eval


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_eval_figures(figures, name):
    result = figures[name]
    assert result["tokens"] == 3072 and result["window"] == 512
    n_elements = N_LAYERS * 2 * N_KV_HEADS * HEAD_DIM
    for row in result["specs"]:
        assert FIGURES <= row.keys()
        assert row["bytes_per_token"] == pytest.approx(row["bits"] * n_elements / 8)
        assert row["tokens_per_gib"] == pytest.approx(2**30 / row["bytes_per_token"])
        assert row["bits_with_tails"] > row["bits"]
        assert 0 <= row["top1"] <= 1 and row["kld_p99"] >= row["kld"] >= 0
        assert row["kld_by_position"] == [{"below": 512, "kld": pytest.approx(row["kld"])}]
    exact, bf16 = result["reference"], result["specs"][0]
    assert exact["kv"] == "f16" and exact.keys() == bf16.keys()
    assert (exact["kld"], exact["kld_p99"], exact["top1"], exact["bits"]) == (0, 0, 1, 16)
    assert bf16["kld"] > 0 and bf16["bits"] == 16


def test_another_reference(models, profiles, text, tmp_path):
    path = tmp_path / "figures"
    arguments = ["eval", "--model", models / "llama", "--text", text, "--window", 512,
                 "--max-tokens", 512, "--profile", profiles / "llama", "--json", path]
    run(*arguments, "--reference", "bf16", "--kv", "f16")
    result = json.loads(path.read_text())
    assert [row["kv"] for row in result["specs"]] == ["bf16", "f16"]
    assert result["reference"]["kv"] == "bf16"
    assert result["specs"][0]["kld"] == 0 < result["specs"][1]["kld"]
    assert "k7v7" in run(*arguments, "--reference", "k7v7", status=1)


def test_the_reference_is_not_run_twice(models, profiles, text, tmp_path):
    path = tmp_path / "figures"
    run("eval", "--model", models / "llama", "--text", text, "--window", 512, "--max-tokens", 512,
        "--profile", profiles / "llama", "--json", path, "--reference", "k4v2", "--kv", "k4v2",
        "--kv", "f16")
    result = json.loads(path.read_text())
    _, same, other = result["specs"]
    assert same == result["reference"] and same["kv"] == "k4v2" and same["kld"] == 0
    assert other["kld"] > 0 and other["bits"] > same["bits"] and other["bits_with_tails"] > 16


def test_a_quick_look_reads_8192_tokens(models, tmp_path):
    path, text = tmp_path / "figures", tmp_path / "text"
    text.write_text((ROOT / "LICENSE").read_text() * 4)
    run("eval", "--model", models / "llama", "--text", text, "--quick", "--json", path,
        "--kv", "bf16")
    assert json.loads(path.read_text())["tokens"] == 8192


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_fewer_bits_cost_more(figures, name):
    rows = figures[name]["specs"][1:]
    for wide, narrow in zip(rows, rows[1:]):
        assert narrow["bits"] < wide["bits"]
        assert narrow["kld"] + 2 * narrow["kld_se"] >= wide["kld"]
    assert rows[-1]["kld"] > 5 * rows[0]["kld"] > 0


def test_line_ends_do_not_matter(models, profiles, text, tmp_path):
    dos = tmp_path / "dos"
    dos.write_bytes(text.read_bytes().replace(b"\n", b"\r\n"))
    unix, other = (evaluate(models / "llama", path, profiles / "llama", tmp_path / "figures",
                            ["k4v2"], tokens=512)["specs"] for path in (text, dos))
    assert unix == other


def test_bits_are_those_of_the_format(figures):
    """A scale and a center for a key's channel of 64 tokens and for a value's token of 64 channels;
    two bytes each at 8 bits, one below; no center for values at 4 bits and below."""
    for row, bits in zip(figures["llama"]["specs"][1:], (8, 6, 5, 4, 3, 2)):
        meta_bytes = 2 if bits == 8 else 1
        k_bits = bits + 2 * 8 * meta_bytes / 64
        v_bits = bits + (1 if bits <= 4 else 2) * 8 * meta_bytes / HEAD_DIM
        assert row["bits"] == pytest.approx((k_bits + v_bits) / 2, abs=1e-9)


# profiles that are not taken


def refuse_profile(models, path, model="llama"):
    return run("eval", "--model", models / model, "--text", ROOT / "LICENSE", "--window", 64,
               "--max-tokens", 64, "--profile", path, "--kv", "k4v4", status=1)


def test_a_profile_of_another_model_is_refused(models, profiles):
    assert "model" in refuse_profile(models, profiles / "mistral")


def test_a_damaged_profile_is_refused(models, profiles, tmp_path):
    data = (profiles / "llama").read_bytes()
    path = tmp_path / "profile"
    damaged = [data[:7], data[:100], data[:-1], data + b"\0", b"",
               data[:200] + bytes([data[200] ^ 1]) + data[201:],
               data[:-40] + bytes([data[-40] ^ 0x80]) + data[-39:]]
    for bad in damaged:
        path.write_bytes(bad)
        why = refuse_profile(models, path)
        assert str(path) in why and why.count("\n") == 1
    assert "/nowhere" in refuse_profile(models, "/nowhere/profile")


def test_a_damaged_profile_of_our_own_is_made_anew(models, prompts, tmp_path):
    def generate():
        command = [program(), "generate", "--model", models / "llama", "--kv", "k3v3", "--input",
                   prompts, "--max-tokens", "4", "--state-dir", tmp_path]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True,
                                timeout=120, stdin=subprocess.DEVNULL)
        assert result.returncode == 0, result.stderr
        return result.stdout, result.stderr

    ids, told = generate()
    assert "measuring the model's profile" in told
    [kept] = tmp_path.glob("*.profile")
    whole = kept.read_bytes()
    assert generate() == (ids, "")
    kept.write_bytes(whole[:-1])
    again, told = generate()
    assert again == ids and "of no use and will be replaced" in told
    assert kept.read_bytes() == whole


# the other commands


def logits_of(model, profile, prompts, path, spec):
    run("logits", "--model", model, "--input", prompts, "-o", path, "--kv", spec, "--chunk", 64,
        "--profile", profile)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    start, end = json.loads(data[8:8 + size])["logits.0"]["data_offsets"]
    return np.frombuffer(data[8 + size:][start:end], np.float32)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"input_ids": [[2 + i * i % 500 for i in range(300)]]}))
    return path


def test_logits_come_closer_with_bits(models, profiles, prompts, tmp_path):
    model, profile = models / "llama", profiles / "llama"
    exact = logits_of(model, profile, prompts, tmp_path / "logits", "bf16")
    errors = [np.linalg.norm(logits_of(model, profile, prompts, tmp_path / "logits", spec) - exact)
              / np.linalg.norm(exact) for spec in ("k8v8", "k4v4", "k2v2")]
    assert 0 < errors[0] < 0.01
    assert errors[0] < errors[1] < errors[2]


def test_the_default_is_f16(models, prompts, tmp_path):
    def written(*options):
        path = tmp_path / "logits"
        run("logits", "--model", models / "llama", "--input", prompts, "-o", path, *options)
        return path.read_bytes()

    assert written() == written("--kv", "f16") != written("--kv", "bf16")
    assert run("plan", "--model", models / "llama").startswith("kv auto: ")


def test_generate(models, profiles, prompts):
    told = run("generate", "--model", models / "llama", "--input", prompts, "--kv", "k4v4",
               "--max-tokens", 80, "--ignore-eos", "--profile", profiles / "llama")
    assert re.findall(r"\d+", told)
