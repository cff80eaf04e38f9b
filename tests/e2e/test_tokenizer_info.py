# SPDX-License-Identifier: Apache-2.0
"""GET /tokenizer_info, /tokenize and /detokenize as lm-eval's remote tokenizer uses them.

The class below says what lm_eval.utils.RemoteTokenizer 0.4.13 says, without the 40 packages that
come with it.
"""

import json
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "tools"))


class RemoteTokenizer:
    def __init__(self, daemon):
        self.daemon = daemon
        status, self.info = daemon.request("/tokenizer_info")
        assert status == 200

    def token_id(self, role):
        return self.encode(self.info[role])[0]

    def encode(self, text):
        body = {"prompt": text, "add_special_tokens": False}
        status, answer = self.daemon.request("/tokenize", body)
        assert status == 200 and isinstance(answer["tokens"], list), answer
        return answer["tokens"]

    def decode(self, tokens):
        status, answer = self.daemon.request("/detokenize", {"tokens": tokens})
        assert status == 200 and isinstance(answer["prompt"], str), answer
        return answer["prompt"]

    def apply_chat_template(self, messages, **variables):
        jinja2 = pytest.importorskip("jinja2")
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        template = environment.from_string(self.info["chat_template"])
        return template.render(messages=messages, add_generation_prompt=True, **variables)


def test_a_remote_tokenizer(daemon, tiny_model):
    remote = RemoteTokenizer(daemon)
    info = remote.info
    assert info["tokenizer_class"] == "TokenizersBackend"
    assert (info["bos_token"], info["eos_token"]) == ("<|begin|>", "<|end|>")
    assert info["pad_token"] is None and info["unk_token"] is None
    assert info["chat_template"] == (tiny_model / "chat_template.jinja").read_text()
    _, models = daemon.request("/v1/models")
    assert info["model_max_length"] == models["data"][0]["max_model_len"]
    assert info["vocab_size"] == 460
    assert remote.token_id("bos_token") == 0 and remote.token_id("eos_token") == 1
    assert remote.decode(remote.encode("Some words.")) == "Some words."
    _, whole = daemon.request("/tokenize", {"prompt": "Some words."})
    assert info["add_bos_token"] is (whole["tokens"][:1] == [0])
    assert info["add_eos_token"] is (whole["tokens"][-1:] == [1])


def test_the_template_makes_the_servers_prompt(daemon):
    messages = [{"role": "user", "content": "Hello?"}]
    remote = RemoteTokenizer(daemon)
    roles = {role: remote.info[role] for role in ("bos_token", "eos_token")}
    prompt = remote.apply_chat_template(messages, **roles)
    _, rendered = daemon.request(
        "/tokenize", {"model": daemon.model, "messages": messages, "add_generation_prompt": True}
    )
    assert remote.encode(prompt) == rendered["tokens"]


@pytest.mark.parametrize(
    "path, body",
    [
        ("/tokenize", {"prompt": "a", "return_token_strs": True}),
        ("/tokenize", {"prompt": "a", "return_token_strs": None, "model": None}),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}]}),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}], "tools": None}),
        ("/detokenize", {"model": "any", "tokens": [5, 6]}),
        ("/detokenize", {"tokens": []}),
    ],
)
def test_what_clients_send_is_taken(daemon, path, body):
    body = {**body, **({"model": daemon.model} if body.get("model") == "any" else {})}
    status, answer = daemon.request(path, body)
    assert status == 200, answer


def test_only_get(daemon):
    status, _ = daemon.request("/tokenizer_info", {})
    assert status == 405


def changed(model, directory, **config):
    for file in model.iterdir():
        (directory / file.name).symlink_to(file)
    path = directory / "tokenizer_config.json"
    old = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**old, **config}))
    return directory


def test_roles_and_templates_in_other_forms(start, tiny_model, tmp_path):
    templates = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "{{ messages[0].content }}"},
    ]
    model = changed(
        tiny_model,
        tmp_path,
        pad_token={"content": "<|end|>", "special": True},
        unk_token="<|user|>",
        chat_template=templates,
    )
    (model / "chat_template.jinja").unlink()
    info = RemoteTokenizer(start(model=model)).info
    assert info["pad_token"] == "<|end|>" and info["unk_token"] == "<|user|>"
    assert info["chat_template"] == templates[1]["template"]


def test_a_template_of_the_operators(start, tmp_path):
    (tmp_path / "own.jinja").write_text("{{ messages[-1].content }}")
    daemon = start("--chat-template", tmp_path / "own.jinja")
    assert RemoteTokenizer(daemon).info["chat_template"] == "{{ messages[-1].content }}"


def test_a_gguf_file(start, tiny_model, tmp_path):
    make_gguf = pytest.importorskip("make_gguf", reason="the gguf package is not installed")
    make_gguf.convert(tiny_model, tmp_path / "model.gguf", "f16", None, 1)
    remote = RemoteTokenizer(start(model=tmp_path / "model.gguf"))
    assert remote.info["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert remote.info["eos_token"] == "<|end|>" and remote.token_id("eos_token") == 1
    assert remote.decode(remote.encode("Some words.")) == "Some words."
