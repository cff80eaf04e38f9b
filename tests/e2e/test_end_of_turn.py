# SPDX-License-Identifier: Apache-2.0
"""Where an answer ends: files that name no end or a wrong one; stops that are special tokens."""

import os
import struct
from pathlib import Path

import pytest

QUESTION = [{"role": "user", "content": "What is the capital of Norway?"}]
EOS_KEY = b"tokenizer.ggml.eos_token_id"
U32 = 4


@pytest.fixture(scope="session")
def real_model():
    model = os.environ.get("KVASIR_MODEL", "")
    if not model.endswith(".gguf"):
        pytest.skip("no real model: set KVASIR_MODEL")
    data = Path(model).read_bytes()
    assert data.count(EOS_KEY) == 1
    return data


def without_eos(data):
    return data.replace(EOS_KEY, b"tokenizer.ggml.eos_token_xx")


def with_eos(data, token):
    at = data.index(EOS_KEY) + len(EOS_KEY)
    kind, _ = struct.unpack_from("<II", data, at)
    assert kind == U32
    return data[: at + 4] + struct.pack("<I", token) + data[at + 8 :]


def ask(daemon, **more):
    body = dict(messages=QUESTION, temperature=0, max_tokens=100, **more)
    status, answer = daemon.request("/v1/chat/completions", body)
    assert status == 200, answer
    return answer["choices"][0], answer["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    "change, named",
    [
        (without_eos, "none"),
        (lambda data: with_eos(data, 0), "0 (<|endoftext|>)"),
        (lambda data: with_eos(data, 260), "260 ("),  # an ordinary token
    ],
)
def test_an_answer_ends_whatever_the_file_names(start, real_model, tmp_path, change, named):
    model = tmp_path / "changed.gguf"
    model.write_bytes(change(real_model))
    daemon = start("--kv-tokens", 4096, model=model)
    choice, n = ask(daemon)
    assert "Oslo" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop" and n < 40
    assert "<|im_" not in choice["message"]["content"]
    [line] = [line for line in daemon.read_log().splitlines() if "end of answers" in line]
    assert "WARN" in line.upper() and f"answer: {named}" in line and "<|im_end|>" in line


def test_a_stop_string_that_is_a_special_token(real_daemon):
    plain, n = ask(real_daemon)
    for more in (
        {},
        {"ignore_eos": True},
        {"ignore_eos": True, "skip_special_tokens": False},
    ):
        choice, n_now = ask(real_daemon, stop=["never there", "<|im_end|>"], **more)
        assert choice["message"] == plain["message"] and n_now == n
        assert choice["finish_reason"] == "stop" and choice["stop_reason"] == "<|im_end|>"
    choice, n_now = ask(real_daemon, ignore_eos=True)
    assert n_now == 100 and choice["finish_reason"] == "length"
    choice, n_now = ask(real_daemon, stop="<|im_end|>", ignore_eos=True, min_tokens=n + 5)
    assert n_now >= n + 5


def test_special_stops_of_a_tiny_model(daemon):
    """Without English: the token comes for sure because the bias leaves nothing else."""
    _, answer = daemon.request("/tokenize", {"prompt": "<|user|>", "add_special_tokens": False})
    [token] = answer["tokens"]
    body = dict(prompt="a", max_tokens=8, logit_bias={str(token): 100}, temperature=0)
    [choice] = daemon.complete(**body)["choices"]
    assert choice["finish_reason"] == "length"
    for more in ({}, {"ignore_eos": True}, {"skip_special_tokens": False}):
        answer = daemon.complete(**body, stop=["<|user|>"], **more)
        [choice] = answer["choices"]
        assert choice["finish_reason"] == "stop" and choice["stop_reason"] == "<|user|>"
        assert choice["text"] == "" and answer["usage"]["completion_tokens"] == 1
    shown = dict(include_stop_str_in_output=True, skip_special_tokens=False)
    [choice] = daemon.complete(**body, stop="<|user|>", **shown)["choices"]
    assert choice["text"] == "<|user|>" and choice["stop_reason"] == "<|user|>"
