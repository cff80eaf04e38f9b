# SPDX-License-Identifier: Apache-2.0
"""`kvasird plan`, and --kv auto of the daemon: from bytes and tokens to formats."""

import html.parser
import json
import os
import re
import signal
import subprocess

import pytest
from conftest import ROOT, program, unpack_model

PAPER = json.loads((ROOT / "tests" / "data" / "paper_allocations.json").read_text())
N_LAYERS, N_KV_HEADS, HEAD_DIM = 3, 2, 64
PAGE_BYTES = N_LAYERS * N_KV_HEADS * HEAD_DIM * 64 * 2 * 2  # in f16; a tail's, too
WIDTHS = {16, 8, 6, 5, 4, 3, 2}


CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("KVASIR_")}


def run(*arguments, status=0, environment=CLEAN):
    result = subprocess.run([program(), *map(str, arguments)], capture_output=True, text=True,
                            timeout=120, stdin=subprocess.DEVNULL, env=environment)
    assert result.returncode == status, result.stderr
    return result.stderr if status else result.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return unpack_model("llama", tmp_path_factory.mktemp("plan_models"))


@pytest.fixture(scope="module")
def profile(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan_profiles") / "llama.profile"
    run("profile", "--model", model, "-o", path)
    return path


@pytest.fixture
def plan(model, tmp_path):
    """Plans of the tiny model, without a profile unless one is given."""
    def plan_it(*options, status=0):
        told = run("plan", model, "--state-dir", tmp_path, *options, status=status)
        return json.loads(told) if "--json" in options and not status else told

    return plan_it


# the paper's method


@pytest.fixture(scope="module")
def norms(tmp_path_factory):
    directory = tmp_path_factory.mktemp("norms")
    for name, content in PAPER["norms"].items():
        (directory / name).write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize("case", PAPER["cases"],
                         ids=lambda c: f"{c['norm']}-{len(c['menu'])}-{c['budget']}")
def test_the_papers_own_allocations(norms, case):
    menu = ",".join(map(str, case["menu"]))
    told = run("plan", "--method", "paper", "--norms", norms / case["norm"], "--budget",
               case["budget"], "--menu", menu, "--json")
    assert json.loads(told) == {"k": case["k"], "v": case["v"]}


def test_norms_in_words(norms):
    told = run("plan", "--method", "paper", "--norms", norms / "frobenius", "--budget", "2.5")
    assert re.fullmatch(r"K bits {6}( 3){32}\nV bits {6}( 2){32}\n", told)


@pytest.mark.parametrize("content, words", [
    ('{"w_k": [1, 2], "w_v": [1]}', ["2 norms", "has 1"]),
    ('{"w_k": [1, NaN], "w_v": [1, 1]}', ["norms.json"]),
    ('{"w_k": [1, -1], "w_v": [1, 1]}', ["layer 1", "-1"]),
    ('{"w_k": [1, 1e300], "w_v": [1, 1]}', ["layer 1", "1e300"]),
    ('{"w_k": ["1"], "w_v": [1]}', ["layer 0", "norm"]),
    ('{"w_q": [1]}', ["w_k"]),
    ("[]", ["w_k"]),
    ("", ["norms.json"]),
])
def test_norms_that_are_none(tmp_path, content, words):
    path = tmp_path / "norms.json"
    path.write_text(content)
    why = run("plan", "--method", "paper", "--norms", path, "--budget", "4", status=1)
    assert why.startswith("kvasird: flag --norms: ") and why.count("\n") == 1
    for word in words:
        assert word in why


@pytest.mark.parametrize("options, words", [
    (["--budget", "0"], ["--budget", '"0"', "1 to 16"]),
    (["--budget", "-1"], ["--budget", '"-1"']),
    (["--budget", "8 gigs"], ["--budget", '"8 gigs"']),
    (["--budget", "nan"], ["--budget", '"nan"']),
    (["--budget", "17"], ["--budget", '"17"', "1 to 16"]),
    (["--budget", "2.0000001"], ["--budget", "6 decimals"]),
    (["--budget", "1.5"], ["budget: 1.5", "narrowest", "2"]),
    ([], ["give --budget"]),
    (["--budget", "4", "--menu", "8,7"], ["menu", '"7" is no width', "1.58"]),
    (["--budget", "4", "--menu", ""], ["menu"]),
    (["--budget", "4", "--menu", "8,8"], ["menu", "twice"]),
    (["--budget", "4", "--bits", "4"], ["--budget", "--bits"]),
    (["--budget", "4", "--html", "x.html"], ["--html", "model"]),
    (["--budget", "4", "--method", "uniform"], ["--budget", "--method paper"]),
])
def test_bad_options_of_the_papers_method(norms, options, words):
    command = [program(), "plan", "--method", "paper", "--norms", norms / "frobenius", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=CLEAN)
    assert ended.returncode in (1, 2) and ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    for word in words:
        assert word in ended.stderr, ended.stderr


def test_a_model_of_the_environment_is_not_the_norms_model(norms, model):
    options = ["plan", "--method", "paper", "--norms", norms / "spectral", "--budget", "4",
               "--json"]
    assert run(*options) == run(*options, environment={**CLEAN, "KVASIR_MODEL": str(model)})
    assert "32 layers; the model has 3" in run(*options, model, status=1)


def test_no_model_and_no_norms():
    assert "--model" in run("plan", "--method", "paper", "--budget", "4", status=1)
    assert "--model" in run("plan", status=1)


# memory and tokens


def pairs_of(result):
    return list(zip(result["k"], result["v"]))


def test_f16_where_all_fits(plan):
    result = plan("--kv-memory", 40 * PAGE_BYTES, "--kv-tokens", 1000, "--max-num-seqs", 4,
                  "--json")
    assert pairs_of(result) == [(16, 16)] * N_LAYERS
    assert result["expected_kld"] == 0 and result["expected_by"] == "exact"
    assert result["kv_tokens"] == 36 * 64 and result["max_num_seqs"] == 4
    assert "nothing is quantized" in plan("--kv-memory", 40 * PAGE_BYTES, "--kv-tokens", 1000)


def test_fewer_bytes_do_more_damage(plan):
    damages, last = [], None
    for memory in (60, 36, 30, 24, 20, 18):
        result = plan("--kv-memory", memory * PAGE_BYTES, "--kv-tokens", 64 * 64,
                      "--max-num-seqs", 2, "--json")
        assert result["kv_tokens"] >= 64 * 64 and result["kv_bytes"] <= memory * PAGE_BYTES
        assert result["method"] == "auto" and result["expected_by"] == "typical"
        for k, v in pairs_of(result):
            assert k >= v and {k, v} <= WIDTHS
        assert last is None or result["bits"] <= last
        last = result["bits"]
        damages.append(result["expected_kld"])
    assert damages == sorted(damages) and damages[-1] > 10 * damages[0] > 0


def missing(why):
    match = re.search(r"(\d+) bytes are missing, and (\d+) tokens would fit", why)
    assert match, why
    return map(int, match.groups())


def test_what_is_missing_is_told_to_the_byte(plan):
    options = ["--kv-tokens", 100_000, "--max-num-seqs", 3]
    memory = 40 * PAGE_BYTES
    why = plan("--kv-memory", memory, *options, status=1)
    for word in ("kv_memory", "kv_tokens", "max_num_seqs", "k2v2", "100000"):
        assert word in why
    n_bytes, n_tokens = missing(why)
    assert plan("--kv-memory", memory + n_bytes, *options, "--json")["kv_tokens"] >= 100_000
    assert next(missing(plan("--kv-memory", memory + n_bytes - 1, *options, status=1))) == 1
    held = plan("--kv-memory", memory, "--kv-tokens", n_tokens, "--max-num-seqs", 3, "--json")
    assert held["kv_tokens"] == n_tokens
    assert "missing" in plan("--kv-memory", memory, "--kv-tokens", n_tokens + 1, "--max-num-seqs",
                             3, status=1)


def test_a_given_format_must_hold_the_tokens_as_well(plan):
    options = ["--kv", "k4v4", "--max-num-seqs", 2, "--kv-memory", 20 * PAGE_BYTES]
    why = plan(*options, "--kv-tokens", 64 * 200, status=1)
    n_bytes = int(re.search(r"(\d+) bytes are missing", why).group(1))
    for word in ("kv_memory", "kv_tokens", "kv"):
        assert word in why
    options[-1] += n_bytes
    assert plan(*options, "--kv-tokens", 64 * 200, "--json")["kv_tokens"] == 64 * 200


def test_sequences_follow_from_the_memory(plan):
    assert plan("--kv-memory", 1000 * PAGE_BYTES, "--json")["max_num_seqs"] == 64
    assert plan("--kv-memory", 40 * PAGE_BYTES, "--json")["max_num_seqs"] == 10
    assert plan("--kv", "f16", "--kv-memory", 40 * PAGE_BYTES, "--json")["max_num_seqs"] == 10
    # For tokens that must fit more of the tails are given up, down to one.
    tokens = 64 * 240
    result = plan("--kv-memory", 40 * PAGE_BYTES, "--kv-tokens", tokens, "--json")
    assert 1 <= result["max_num_seqs"] < 10 and result["kv_tokens"] >= tokens


def test_nobody_asked_for_tokens(plan):
    """Then none of them is worth a format below 4 bits."""
    result = plan("--kv-memory", 60 * PAGE_BYTES, "--json")
    assert min(result["k"] + result["v"]) == 4
    both = plan("--kv-memory", 90 * PAGE_BYTES, "--max-model-len", 512, "--max-num-seqs", 32,
                "--json")
    assert both["kv_tokens"] >= 512 * 32 and min(both["k"] + both["v"]) < 4


@pytest.mark.parametrize("options, words", [
    (["--kv-memory", "0"], ["--kv-memory", '"0"', "64TiB"]),
    (["--kv-memory", "-1"], ["--kv-memory", '"-1"']),
    (["--kv-memory", "8 gigs"], ["--kv-memory", '"8 gigs"', "8GiB"]),
    (["--kv-memory", "64TiB"], ["kv_memory", "70368744177664", "only"]),
    (["--kv-tokens", "0"], ["--kv-tokens", '"0"']),
    (["--kv-tokens", "-5"], ["--kv-tokens", '"-5"']),
    (["--bits", "0"], ["--bits", '"0"']),
    (["--bits", "1.5"], ["bits: 1.5", "narrowest", "2.1875"]),
    (["--bits", "three"], ["--bits", '"three"']),
    (["--menu", "9"], ["menu", '"9" is no width']),
    (["--menu", "1.58,4"], ["menu", '"1.58" is no width']),
    (["--method", "magic"], ["--method", '"magic"', "ratequant"]),
    (["--method", "paper", "--bits", "4"], ["norms", "--norms"]),
    (["--kv", "k4v2", "--bits", "4"], ["k4v2", "--bits"]),
    (["--kv", "k4v2", "--menu", "4"], ["k4v2", "--menu"]),
    (["--profile", "/nowhere/profile"], ["--profile", "/nowhere/profile"]),
    (["--norms", "/nowhere/norms"], ["--norms", "/nowhere/norms"]),
])
def test_bad_options(model, tmp_path, options, words):
    command = [program(), "plan", model, "--state-dir", tmp_path, *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=CLEAN)
    assert ended.returncode in (1, 2) and ended.stdout == ""
    for word in words:
        assert word in ended.stderr, ended.stderr


# methods and profiles


@pytest.mark.parametrize("method", ["auto", "paper", "ratequant", "uniform"])
@pytest.mark.parametrize("bits", ["2.1875", "2.75", "3.5", "4.25", "6.5", "16"])
def test_methods_keep_to_the_bits(plan, profile, method, bits):
    result = plan("--profile", profile, "--method", method, "--bits", bits, "--json")
    assert result["method"] == method and 0 < result["bits"] <= float(bits)
    best = plan("--profile", profile, "--bits", bits, "--json")
    if method != "paper":  # which may give values more bits than keys
        assert best["expected_kld"] <= result["expected_kld"] + 1e-12
        assert all(k >= v for k, v in pairs_of(result))
    if method == "uniform":
        assert len(set(pairs_of(result))) == 1
    if bits == "16":
        assert best["expected_kld"] == 0


def test_the_profiles_norms_are_used(plan, profile):
    assert plan("--bits", "3.5", "--json")["expected_by"] == "typical"
    with_profile = plan("--bits", "3.5", "--json", "--profile", profile)
    assert with_profile["expected_by"].endswith("norms")


def test_norms_for_a_model(plan, tmp_path):
    path = tmp_path / "norms.json"
    path.write_text(json.dumps({"w_k": [9, 1, 1], "w_v": [1, 1, 1]}))
    result = plan("--bits", "3", "--norms", path, "--json")
    assert result["expected_by"] == "frobenius norms" and result["k"][0] == max(result["k"])
    paper = plan("--method", "paper", "--budget", "3", "--menu", "8,4,2", "--norms", path, "--json")
    assert paper["k"] == [8, 2, 2] and paper["v"] == [2, 2, 2]
    path.write_text(json.dumps({"w_k": [9, 1], "w_v": [1, 1]}))
    assert "2 layers" in plan("--bits", "3", "--norms", path, status=1)


def test_values_are_wider_only_if_asked(plan, tmp_path):
    path = tmp_path / "norms.json"
    path.write_text(json.dumps({"w_k": [9, 1, 1], "w_v": [1, 1, 30]}))
    options = ["--bits", "4.2", "--norms", path, "--json"]
    guarded = plan(*options)
    assert all(k >= v for k, v in pairs_of(guarded)) and guarded["wider_values"] == []
    asked = plan(*options, "--wider-values")
    assert 2 in asked["wider_values"] and asked["expected_kld"] < guarded["expected_kld"]
    assert "as was asked for" in plan(*options[:-1], "--wider-values")


@pytest.fixture(scope="module")
def measured(model, tmp_path_factory):
    """A profile with damages. On this model values are the more sensitive side."""
    path = tmp_path_factory.mktemp("plan_measured") / "llama.profile"
    run("profile", "--model", model, "--full", "--quick", "--max-tokens", "256", "-o", path)
    return path


@pytest.mark.parametrize("method", ["auto", "ratequant", "uniform"])
def test_there_are_5_bits_between_4_and_6(plan, profile, method):
    result = plan("--profile", profile, "--method", method, "--bits", "5.25", "--json")
    assert 5 in result["k"] + result["v"]
    if method == "uniform":
        assert set(result["k"] + result["v"]) == {5} and result["bits"] == 5.25
    menu = ["--menu", "8,6,4,3,2"]
    without = plan("--profile", profile, "--method", method, "--bits", "5.25", "--json", *menu)
    assert 5 not in without["k"] + without["v"]


def test_the_papers_menu_has_5_bits_where_asked_for(plan, profile):
    options = ["--profile", profile, "--method", "paper", "--bits", "5.25", "--json"]
    assert 5 not in plan(*options)["k"] + plan(*options)["v"]
    assert 5 in plan(*options, "--menu", "5")["k"]


@pytest.mark.parametrize("bits", ["2.5", "3", "3.75", "5"])
def test_measured_damage_proves_that_values_come_first(plan, measured, bits):
    result = plan("--profile", measured, "--bits", bits, "--json")
    assert result["expected_by"] == "measured"
    assert result["expected_kld"] <= result["swapped_kld"]
    assert result["wider_values"] == [i for i, (k, v) in enumerate(pairs_of(result)) if v > k]
    assert result["wider_values"]
    told = plan("--profile", measured, "--bits", bits)
    assert "swapping K and V there does more damage, as measured" in told
    for method in ("ratequant", "uniform", "paper"):
        other = plan("--profile", measured, "--bits", bits, "--method", method, "--json")
        assert other["expected_by"] == "measured"
        assert other["chosen_by"] == {"ratequant": "distortions", "uniform": "measured",
                                      "paper": "frobenius norms"}[method]
        assert result["expected_kld"] <= other["expected_kld"] + 1e-12


def test_a_profile_of_another_model_is_refused(tmp_path_factory, profile):
    mistral = unpack_model("mistral", tmp_path_factory.mktemp("plan_others"))
    why = run("plan", mistral, "--profile", profile, "--bits", "4", status=1)
    assert str(profile) in why and "model" in why


# files


def test_a_plan_file_is_read_again(plan, tmp_path):
    path = tmp_path / "plan.json"
    made = plan("--bits", "3.4", "-o", path, "--json")
    assert json.loads(path.read_text())["layers"] == [{"k": k, "v": v} for k, v in pairs_of(made)]
    read = plan("--kv", f"plan:{path}", "--json")
    assert pairs_of(read) == pairs_of(made) and read["method"] == "given"
    assert read["expected_kld"] == made["expected_kld"]
    (tmp_path / "told.json").write_text(json.dumps(made))
    assert pairs_of(plan("--kv", f"plan:{tmp_path / 'told.json'}", "--json")) == pairs_of(made)


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_the_page(plan, profile, tmp_path):
    path = tmp_path / "plan.html"
    made = plan("--bits", "3.4", "--profile", profile, "--html", path, "--json")
    page = Page()
    page.feed(path.read_text())
    page.close()
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert "http" not in path.read_text() and "url(" not in path.read_text()
    cells = [attributes["class"] for tag, attributes in page.tags
             if tag == "g" and attributes.get("class", "").startswith("b ")]
    assert cells == [f"b b{bits}" for pair in pairs_of(made) for bits in pair]
    assert {f"k{k}v{v}" for k in WIDTHS for v in WIDTHS} - {"k16v16"} <= set(page.words.split())
    assert f"{made['expected_kld']:.4g}" in page.words
    assert "nan" not in path.read_text() and "inf" not in path.read_text()


# the daemon


def test_the_daemon_plans(start, plan, profile):
    options = ["--kv-memory", 30 * PAGE_BYTES, "--kv-tokens", 64 * 64, "--max-num-seqs", 2,
               "--profile", profile]
    planned = plan(*options, "--json")
    assert planned["bits"] < 8
    daemon = start(*options)
    status, told = daemon.request("/v1/kv")
    assert status == 200
    same = {"kv", "method", "bits", "k", "v", "layers", "expected_kld", "expected_by", "kv_tokens",
            "max_num_seqs", "kv_bytes"}
    assert {key: told[key] for key in same} == {key: planned[key] for key in same}
    for layer, pair in enumerate(pairs_of(planned)):
        for side, bits in zip("kv", pair):
            assert daemon.metric("kvasir_kv_bits", layer=str(layer), side=side) == bits
    assert daemon.metric("kvasir_kv_expected_kld") == planned["expected_kld"] > 0
    assert daemon.metric("kvasir_kv_bits_per_element") == planned["bits"]
    log = daemon.read_log()
    for side in "kv":
        assert f"{side.upper()} bits       " + " ".join(map(str, planned[side])) + "\n" in log
    assert "expected KLD about" in log
    assert daemon.complete(prompt=[5, 6, 7], max_tokens=4)["usage"]["completion_tokens"] == 4


def test_no_profile_is_made_where_f16_fits(start, tmp_path):
    daemon = start("--kv-memory", 200 * PAGE_BYTES, "--kv-tokens", 1024, "--state-dir", tmp_path)
    assert daemon.request("/v1/kv")[1]["bits"] == 16
    assert list(tmp_path.iterdir()) == []


def test_tokens_that_do_not_fit_end_the_start(tiny_model, tmp_path):
    ended = subprocess.run(
        [program(), "serve", tiny_model, "--port", "0", "--kv-memory", "2MiB", "--kv-tokens",
         "20000", "--state-dir", tmp_path], capture_output=True, text=True, timeout=60)
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 1 and "kv_tokens" in last and "kv_memory" in last
    n_bytes, n_tokens = missing(last)
    assert n_bytes > 0 and 0 < n_tokens < 20000
    assert "profile" not in ended.stderr and "weights" not in ended.stderr


def test_auto_of_commands_that_run_one_sequence(model, tmp_path):
    prompts, text = tmp_path / "prompts.json", tmp_path / "text"
    prompts.write_text('{"input_ids": [[2, 3, 5]]}')
    command = [program(), "generate", model, "--input", prompts, "--max-tokens", "4"]
    told = [subprocess.run([*command, *options], capture_output=True, text=True, timeout=60,
                           env={**os.environ, **variables}, check=True).stdout
            for options, variables in (([], {"KVASIR_KV": "auto"}), (["--kv", "f16"], {}))]
    assert told[0] == told[1] and "ids" in told[0]
    text.write_text("words " * 100)
    why = run("eval", model, "--text", text, "--kv", "auto", status=1)
    assert "auto" in why and "plan:FILE" in why


def test_sighup_changes_no_plan(start, tmp_path, profile):
    config = tmp_path / "kvasird.json"
    config.write_text(json.dumps({"kv_memory": 30 * PAGE_BYTES, "kv_tokens": 4096}))
    daemon = start("--config", config, "--max-num-seqs", 2, "--profile", profile)
    before = daemon.request("/v1/kv")[1]
    config.write_text(json.dumps({"kv_memory": 300 * PAGE_BYTES, "kv_tokens": 4096}))
    daemon.signal(signal.SIGHUP)
    daemon.wait_log(r"waits for a restart.*kv_memory")
    assert daemon.request("/v1/kv")[1] == before and before["bits"] < 16
