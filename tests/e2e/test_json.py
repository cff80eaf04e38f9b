# SPDX-License-Identifier: Apache-2.0
"""JSON through the daemon: what a body says reaches the template as it was written, and what is no
JSON, or nested too deep, is the client's error wherever it stands."""

import pytest

SHOW = "{{ messages | tojson }}{{ tools | tojson }}{{ extra | tojson }}"
DEEP = 1500


@pytest.fixture(scope="module")
def showing(tmp_path_factory, tiny_model):
    """A daemon whose prompts show what the template was given."""
    from conftest import Daemon

    path = tmp_path_factory.mktemp("template") / "show.jinja"
    path.write_text(SHOW)
    running = Daemon(tiny_model, "--chat-template", path)
    yield running
    assert running.stop() == 0, running.log
    assert "ERROR" not in running.log, running.log


def prompt_of(daemon, messages='[{"role":"user","content":"hi"}]', tools="null", extra="null"):
    raw = f'{{"messages":{messages},"tools":{tools},"chat_template_kwargs":{{"extra":{extra}}}}}'
    status, answer = daemon.request("/tokenize", raw=raw.encode())
    assert status == 200, answer
    status, answer = daemon.request("/detokenize", {"tokens": answer["tokens"]})
    assert status == 200, answer
    return answer["prompt"]


def tools_of(parameters):
    return f'[{{"type": "function", "function": {{"name": "f", "parameters": {parameters}}}}}]'


@pytest.mark.parametrize("number", [
    "1", "-0.0", "1.0", "9223372036854775807", "9223372036854775808", "18446744073709551616",
    "-9223372036854775809", "1" + 40 * "0",
])
def test_numbers_reach_the_template_as_they_were_written(showing, number):
    tools = tools_of(f'{{"minimum": 1, "maximum": {number}, "step": 0.5}}')
    assert f'"minimum": 1, "maximum": {number}, "step": 0.5' in prompt_of(showing, tools=tools)
    assert f"[1, {number}]" in prompt_of(showing, extra=f"[1, {number}]")
    messages = f'[{{"role": "user", "content": "hi", "n": [2, {number}]}}]'
    assert f'"n": [2, {number}]' in prompt_of(showing, messages=messages)


def test_numbers_in_arguments_are_kept(showing):
    messages = (
        '[{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f",'
        ' "arguments": "{\\"n\\": 1, \\"big\\": 100000000000000000000}"}}]}]'
    )
    prompt = prompt_of(showing, messages=messages)
    assert "1, " in prompt and "100000000000000000000" in prompt
    assert "1.0" not in prompt and "e+20" not in prompt


def test_a_nul_in_a_key_passes(showing):
    tools = tools_of(r'{"a\u0000b": {"\u0000": "\u0000c"}}')
    assert r'{"a\u0000b": {"\u0000": "\u0000c"}}' in prompt_of(showing, tools=tools)


def test_a_key_with_nul_is_another_key(showing):
    for raw in [
        rb'{"prompt": "hi", "max_tokens\u0000": 1}',
        rb'{"prompt": "hi", "max_tokens": 1, "logit_bias": {"5\u0000": 1}}',
        rb'{"prompt": "hi", "max_tokens": 1, "model": "llama\u0000"}',
        rb'{"prompt": "hi", "max_tokens": 1, "stream": true,'
        rb' "stream_options": {"include_usage\u0000": true}}',
    ]:
        status, answer = showing.request("/v1/completions", raw=raw)
        assert status == 400, (raw, answer)
        assert answer["error"]["message"]


@pytest.mark.parametrize("open_, close", [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("place", ["member", "kwargs", "tools", "content", "top", "arguments"])
def test_deep_json_is_the_clients_error(showing, place, open_, close):
    deep = DEEP * open_ + "1" + DEEP * close
    user = '{"role":"user","content":"hi"}'
    text = deep.replace('"', '\\"')
    raw = {
        "member": f'{{"messages":[{{"role":"user","content":"hi","x":{deep}}}]}}',
        "kwargs": f'{{"messages":[{user}],"chat_template_kwargs":{{"x":{deep}}}}}',
        "tools": f'{{"messages":[{user}],"tool_choice":"none","tools":[{deep}]}}',
        "content": f'{{"messages":[{{"role":"user","content":{deep}}}]}}',
        "top": f'{{"messages":[{user}],"x":{deep}}}',
        "arguments": f'{{"messages":[{{"role":"assistant","tool_calls":'
                     f'[{{"function":{{"name":"f","arguments":"{text}"}}}}]}}]}}',
    }[place]
    status, answer = showing.request("/v1/chat/completions", raw=raw.encode())
    assert status == 400, answer
    limit = "nested too deeply" if place == "arguments" else "nested deeper than 920 levels"
    assert limit in answer["error"]["message"]


def test_as_deep_as_allowed_is_answered(showing):
    depth = 490  # of 500 that a template may be given
    deep = depth * "[" + depth * "]"
    assert deep in prompt_of(showing, extra=deep)


@pytest.mark.parametrize("raw, words", [
    (b'{"prompt": "\xff"}', "column 13: byte 0xff is not UTF-8"),
    (b'{"prompt": "\xed\xa0\x80"}', "is not UTF-8"),
    (rb'{"prompt": "\ud800"}', "half a character"),
    (rb'{"prompt": "a", "\udc00": 1}', "half a character"),
    (b'{"prompt": "a", "prompt": "b"}', 'duplicate object key "prompt"'),
    (b'{"prompt": "a", "n": 1e999}', "beyond the range of double"),
    (b'{"prompt": "a"} "', "trailing garbage"),
    (b'{"prompt": "a"', "premature EOF"),
    (b"", "premature EOF"),
    (b"1", "an object or an array was expected"),
])
def test_what_is_no_json_is_named_with_its_place(showing, raw, words):
    status, answer = showing.request("/v1/completions", raw=raw)
    assert status == 400, answer
    assert "not valid JSON: line 1, column " in answer["error"]["message"]
    assert words in answer["error"]["message"]
