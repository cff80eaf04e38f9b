# SPDX-License-Identifier: Apache-2.0
"""`kvasird profile`: norms against numpy's SVD, damages and what is said of them, interruption, and
profiles that come with the program."""

import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import ROOT, program, unpack_model

ROLES = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
         "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
         "down": "mlp.down_proj"}
WIDTHS = ["8", "6", "5", "4", "3", "2"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("profile_models")
    return {name: unpack_model(name, directory) for name in ("llama", "mistral", "qwen3")}


@pytest.fixture(scope="module")
def llama(models):
    return models["llama"]


def run(*arguments, status=0, **options):
    result = subprocess.run([options.pop("program", None) or program(), *map(str, arguments)],
                            capture_output=True, text=True, timeout=300,
                            stdin=subprocess.DEVNULL, **options)
    assert result.returncode == status, result.stderr
    return result


def head_of(path):
    data = path.read_bytes()
    size = int.from_bytes(data[12:16], "little")
    return json.loads(data[16:16 + size])


# norms


def tensors(model):
    """Every matrix of a checkpoint, in float64."""
    for path in model.glob("*.safetensors"):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8:8 + size]).items():
            if name == "__metadata__" or len(entry["shape"]) != 2:
                continue
            raw = data[8 + size:][slice(*entry["data_offsets"])]
            if entry["dtype"] == "BF16":
                values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(raw, {"F32": np.float32, "F16": np.float16}[entry["dtype"]])
            yield name, values.astype(np.float64).reshape(entry["shape"])


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3"])
def test_norms_are_those_of_an_svd(models, name, tmp_path):
    path = tmp_path / "figures"
    told = run("profile", "--model", models[name], "-o", tmp_path / "p", "--profile-seconds", 1,
               "--all-matrices", "--json", path).stdout
    figures = json.loads(path.read_text())
    weights = dict(tensors(models[name]))
    assert len(figures["matrices"]) == figures["n_layers"] > 1
    for layer, matrices in enumerate(figures["matrices"]):
        assert matrices.keys() == ROLES.keys()
        for role, norms in matrices.items():
            weight = weights[f"model.layers.{layer}.{ROLES[role]}.weight"]
            largest = np.linalg.svd(weight, compute_uv=False)[0]
            assert norms["spectral"] == pytest.approx(largest, rel=1e-4)
            assert norms["frobenius"] == pytest.approx(np.linalg.norm(weight), rel=1e-9)
            assert f"{norms['frobenius']:.3f}/{norms['spectral']:8.4f}" in told
        for side in "kv":
            assert figures[f"{side}_norms"][layer] == matrices[side]["frobenius"]
            assert figures[f"{side}_spectral_norms"][layer] == matrices[side]["spectral"]
    head = head_of(tmp_path / "p")
    assert head["k_spectral_norms"] == figures["k_spectral_norms"]
    assert "damages" not in head and "damages" not in figures


# damages


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Some 2,300 tokens: a window and a piece of another."""
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text((ROOT / "LICENSE").read_text()[:3000])
    return path


@pytest.fixture(scope="module")
def full(llama, text, tmp_path_factory):
    directory = tmp_path_factory.mktemp("full")
    told = run("profile", "--model", llama, "--full", "--text", text, "-o", directory / "profile",
               "--json", directory / "figures").stdout
    return directory, told, json.loads((directory / "figures").read_text())


def test_full_measures_every_layer_side_and_format(full):
    directory, told, figures = full
    assert figures["damages_measured"] == [4, 3, 2]
    assert figures["damage_tokens"] % 64 == 0 and 2048 < figures["damage_tokens"] < 4096
    assert len(figures["damages"]) == figures["n_layers"]
    for damages, errors, distortions in zip(figures["damages"], figures["damage_errors"],
                                            figures["distortions"]):
        for side in "kv":
            assert list(damages[side]) == WIDTHS
            for values in (damages[side], errors[side], distortions[side]):
                assert all(x > 0 for x in values.values())
            for table in (damages, distortions):
                assert list(table[side].values()) == sorted(table[side].values())
            for width in ("8", "6", "5"):
                assert damages[side][width] / damages[side]["4"] == pytest.approx(
                    distortions[side][width] / distortions[side]["4"])
            shown = f"{1e6 * damages[side]['3']:9.4g}"
            assert shown in told
    assert head_of(directory / "profile")["damages"]["tokens"] == figures["damage_tokens"]


def test_full_says_what_damages_to_expect(full):
    """What is sure stays; all of it is of the size that was measured."""
    for expected, damages, errors in zip(full[2]["damage_estimates"], full[2]["damages"],
                                         full[2]["damage_errors"]):
        for side in "kv":
            for width in ("4", "3", "2"):
                measured, error = damages[side][width], errors[side][width]
                assert abs(expected[side][width] - measured) < 0.1 * measured + 2 * error


def test_full_fits_a_law_to_each_side(full):
    _, told, figures = full
    for side, name in (("k", "keys"), ("v", "values")):
        law = figures["distortion_laws"][side]
        points = [(int(width), np.log(x)) for layer in figures["distortions"]
                  for width, x in layer[side].items()]
        # one slope for all layers, an offset for each
        columns = [[b, *(i // len(WIDTHS) == layer for layer in range(figures["n_layers"]))]
                   for i, (b, _) in enumerate(points)]
        solution, *_ = np.linalg.lstsq(np.array(columns, float), [y for _, y in points])
        left = np.array(columns, float) @ solution - [y for _, y in points]
        assert law["beta"] == pytest.approx(np.exp(-solution[0]))
        assert law["alpha"] == pytest.approx(np.exp(np.mean(solution[1:])))
        assert law["residual"] == pytest.approx(np.sqrt(np.mean(left**2)))
        assert f"distortion of {name}: {law['alpha']:.4g} * {law['beta']:.3f}^-bits" in told


def test_full_lists_the_swaps_where_values_deserve_more(full):
    _, told, figures = full
    assert len(figures["swaps"]) == 15 * figures["n_layers"]
    failed = 0
    for swap in figures["swaps"]:
        damages = figures["damages"][swap["layer"]]
        wide, narrow = str(swap["wide"]), str(swap["narrow"])
        for_keys = damages["k"][wide] + damages["v"][narrow]
        for_values = damages["v"][wide] + damages["k"][narrow]
        assert (swap["for_keys"], swap["for_values"]) == pytest.approx((for_keys, for_values))
        assert swap["holds"] == (for_keys <= for_values)
        failed += not swap["holds"]
        line = f"layer {swap['layer']:2}: k{wide}v{narrow} "
        assert (line in told) == (not swap["holds"])
    assert f"keys in {len(figures['swaps']) - failed} of {len(figures['swaps'])} cases" in told


def test_quick_measures_two_bits(llama, full, text, tmp_path):
    run("profile", "--model", llama, "--quick", "--text", text, "-o", tmp_path / "p", "--json",
        tmp_path / "f")
    figures = json.loads((tmp_path / "f").read_text())
    assert figures["damages_measured"] == [2] and figures["damage_tokens"] == 1024
    ratios = [quick[side]["2"] / whole[side]["2"] for side in "kv"
              for quick, whole in zip(figures["damages"], full[2]["damages"])]
    assert all(0.2 < ratio < 5 for ratio in ratios), ratios


def interrupt(llama, text, path):
    """Ends a measurement when its first layer is kept."""
    process = subprocess.Popen(
        [program(), "profile", "--model", llama, "--full", "--text", text, "-o", path, "--threads",
         "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    while process.poll() is None and not (path.exists() and "damages" in head_of(path)):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    return process.returncode, told


def test_an_interrupted_measurement_goes_on_to_the_same_bits(llama, full, text, tmp_path):
    path = tmp_path / "profile"
    status, told = interrupt(llama, text, path)
    assert status == 130 and "the same command goes on" in told
    kept = head_of(path)["damages"]["values"]
    assert 1 <= len(kept) < head_of(path)["n_layers"]
    whole = full[0] / "profile"
    assert kept == head_of(whole)["damages"]["values"][:len(kept)]
    run("profile", "--model", llama, "--full", "--text", text, "-o", path)
    assert path.read_bytes() == whole.read_bytes()


def test_a_text_that_is_too_short(llama, tmp_path):
    text = tmp_path / "text"
    text.write_text("A few words only.")
    told = run("profile", "--model", llama, "--full", "--text", text, "-o", tmp_path / "p",
               status=1).stderr
    assert "too few tokens" in told and "128 at least" in told


def test_one_standard_output_for_one_thing(llama):
    told = run("profile", "--model", llama, "-o", "-", "--json", "-", status=1).stderr
    assert "--json" in told and "standard output" in told


def test_json_on_the_standard_output_is_all_there_is(llama, tmp_path):
    told = run("profile", "--model", llama, "-o", tmp_path / "p", "--profile-seconds", 1, "--json",
               "-")
    assert json.loads(told.stdout)["model"] in told.stderr


# profiles that come with the program


@pytest.mark.parametrize("place", ["share/kvasir/profiles", "config/profiles"])
def test_a_shipped_profile_is_found_beside_the_program(llama, full, tmp_path, place):
    """Installed, bin/ and share/ lie side by side; in a source tree build/ and config/ do."""
    (tmp_path / "bin").mkdir()
    kvasird = shutil.copy(program(), tmp_path / "bin" / "kvasird")
    shipped = tmp_path / place / f"{full[2]['model']}.profile"
    shipped.parent.mkdir(parents=True)
    shutil.copy(full[0] / "profile", shipped)
    prompts = tmp_path / "prompts"
    prompts.write_text('{"input_ids": [[5, 6, 7]]}')
    command = ["generate", "--model", llama, "--kv", "k3v3", "--input", prompts, "--max-tokens", 4,
               "--state-dir", tmp_path / "state"]
    told = run(*command, program=kvasird)
    assert f"came with kvasird file={tmp_path}/bin/../{place}/{shipped.name}\n" in told.stderr
    assert not (tmp_path / "state").exists()
    shipped.write_bytes(shipped.read_bytes()[:-1])
    again = run(*command, program=kvasird)
    assert "of no use" in again.stderr and "measuring the model's profile" in again.stderr
    assert len(list((tmp_path / "state").iterdir())) == 1


def test_the_default_model_has_a_profile():
    [path] = (ROOT / "config" / "profiles").glob("*.profile")
    head = head_of(path)
    assert path.stem == head["model"]
    assert head["n_tokens"] == head["n_tokens_wanted"] and head["text"] == "built-in"
    assert head["damages"]["measured"] == [4, 3, 2]
    rows = (head["damages"]["values"], head["damages"]["errors"], head["distortions"])
    assert all(len(table) == head["n_layers"] == 30 for table in rows)
    assert all(len(row) == 2 * len(WIDTHS) for table in rows for row in table)
    assert path.read_bytes()[8] == 4


def test_the_default_model_is_not_measured(tmp_path):
    model = os.environ.get("KVASIR_MODEL", "")
    if not model.endswith("SmolLM2-135M-Instruct.Q4_1.gguf"):
        pytest.skip("no default model: set KVASIR_MODEL")
    prompts = tmp_path / "prompts"
    prompts.write_text('{"input_ids": [[5, 6, 7]]}')
    told = run("generate", "--model", model, "--kv", "k3v3", "--input", prompts, "--max-tokens", 4,
               "--state-dir", tmp_path / "state").stderr
    assert "came with kvasird" in told and "measuring" not in told
    assert not (tmp_path / "state").exists()
