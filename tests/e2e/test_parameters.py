# SPDX-License-Identifier: Apache-2.0
"""What a request may say, and what it hears when it says something else."""

import json

import pytest

PROMPT = {"prompt": [5, 6, 7]}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def refuse(daemon, path, body, param, status=400, code=None):
    got, answer = daemon.request(path, body)
    assert got == status, answer
    error = answer["error"]
    assert error["param"] == param, error
    assert error["code"] == code
    assert error["message"]
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return error["message"]


BAD = {
    "temperature": [-0.1, 101, "1", True, [], {}, 1e999],
    "top_p": [-1e-9, -1, 1.1, "x", False],
    "min_p": [-0.1, 1.5, "x"],
    "top_k": [-2, 1.5, "x", 1 << 64],
    "seed": [1.5, "1", 1 << 63, -(1 << 63) - 1, 1 << 80, True],
    "n": [0, -1, 1.5, "2", 1 << 40, 17],
    "max_tokens": [-1, 0, 1.5, "9", True, 1 << 33],
    "min_tokens": [-1, "x", 1.5],
    "repetition_penalty": [0, -1, 101, "x"],
    "presence_penalty": [-2.1, 2.1, "x"],
    "frequency_penalty": [-2.1, 2.1, "x"],
    "logit_bias": [
        [], "x", {"512": 1}, {"-1": 1}, {"x": 1}, {"": 1}, {"1e1": 1}, {"1": 101}, {"1": "x"},
        {"99999999999999999999999": 1}, {" 1": 1}, {"01": 1}, {"00": 1}, {"+1": 1}, {"1.0": 1},
        {"1": True}, {str(i): 1 for i in range(513)},
    ],
    "stop": ["", [""], [1], 1, {}, ["a\0b"], ["x"] * 17, [None]],
    "stop_token_ids": [5, ["x"], [512], [-1], [1.5], [1] * 17],
    "ignore_eos": [1, "true"],
    "skip_special_tokens": [1, "true"],
    "include_stop_str_in_output": ["x"],
    "add_special_tokens": ["x"],
    "stream": [1, "true"],
    "model": [1, ["x"]],
    "best_of": [17, "x", 0, True, 1.5],
    "user_id": [1, "x"],
    "user": [1, {}],
    "metadata": ["x", []],
    "store": ["true", 1],
    "service_tier": [1, True],
    "reasoning_effort": [1, {}],
    "verbosity": [1, []],
    "parallel_tool_calls": ["x", 1],
    "prompt_cache_key": [1, {}],
    "prediction": ["x", []],
    "guided_json": [5, []],
    "guided_choice": [[], [""], "a"],
    "guided_regex": ["", 5],
    "guided_grammar": ["", {}],
    "structured_outputs": [{}, 5],
    "response_format": [{"type": None}, "text"],
    "bad_words": [["x"]],
    "prompt_logprobs": [1],
    "use_beam_search": [True],
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_values_are_named(daemon, name):
    for value in BAD[name]:
        if value == 1e999:  # what JSON cannot say but text can
            raw = f'{{"prompt": [5], "{name}": 1e999}}'.encode()
            status, answer = daemon.request("/v1/completions", raw=raw)
            assert status == 400 and answer["error"]["message"]
            continue
        refuse(daemon, "/v1/completions", {**PROMPT, name: value}, name)
        refuse(daemon, "/v1/chat/completions", {**CHAT, name: value}, name)


def test_nan_and_infinity_are_no_json(daemon):
    for word in ("NaN", "Infinity", "-Infinity", "nan", "1e400", "0x10", "+1", ".5", "01"):
        raw = f'{{"prompt": [5], "temperature": {word}}}'.encode()
        status, answer = daemon.request("/v1/completions", raw=raw)
        assert status == 400 and "message" in answer["error"], word


@pytest.mark.parametrize(
    "body",
    [
        {"suffix": "x"}, {"logprobs": True}, {"logprobs": 21}, {"logprobs": -1}, {"echo": 1},
        {"messages": []}, {"top_logprobs": 2}, {"max_completion_tokens": 0}, {"tools": []},
    ],
    ids=str,
)
def test_wrong_for_completions(daemon, body):
    refuse(daemon, "/v1/completions", {**PROMPT, **body}, *body)


@pytest.mark.parametrize(
    "body",
    [
        {"logprobs": 2}, {"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 21},
        {"max_completion_tokens": 0}, {"prompt": "x"}, {"echo": True}, {"suffix": "x"},
        {"audio": {}}, {"modalities": ["audio"]}, {"functions": [{}]},
        {"documents": {}}, {"chat_template": "x"}, {"chat_template_kwargs": []},
        {"tool_choice": "required"}, {"tools": {}}, {"messages": 1},
    ],
    ids=str,
)
def test_wrong_for_chat(daemon, body):
    *_, name = body
    refuse(daemon, "/v1/chat/completions", {**CHAT, **body}, name)


CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("message, where", [
    ({"tool_calls": {}}, ".tool_calls"),
    ({"tool_calls": [None]}, ".tool_calls[0]"),
    ({"tool_calls": [{"name": "f"}]}, ".tool_calls[0]"),
    ({"tool_calls": [{"function": {"name": 1}}]}, ".tool_calls[0]"),
    ({"tool_calls": [CALL, {**CALL, "type": "custom"}]}, ".tool_calls[1].type"),
    ({"tool_calls": [CALL, {**CALL, "id": 5}]}, ".tool_calls[1].id"),
    ({"tool_calls": [{"function": {"name": "f", "arguments": []}}]},
     ".tool_calls[0].function.arguments"),
    ({"tool_call_id": 5}, ".tool_call_id"),
    ({"name": {}}, ".name"),
], ids=str)
def test_messages_of_the_wrong_form(daemon, message, where):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "", **message}]
    for path in ("/v1/chat/completions", "/tokenize"):
        refuse(daemon, path, {"messages": messages}, f"messages[1]{where}")


def test_what_a_chat_has_is_checked_for_every_endpoint(daemon):
    tool = {"type": "function", "function": {"name": "f", "description": 5}}
    for path, body in (("/tokenize", CHAT), ("/tokenize", {"prompt": "x"}),
                       ("/v1/chat/completions", {**CHAT, "tool_choice": "none"})):
        refuse(daemon, path, {**body, "tools": [tool]}, "tools[0]")
        refuse(daemon, path, {**body, "documents": ["x"]}, "documents")


def test_values_that_change_nothing_are_accepted(daemon):
    common = dict(
        model=daemon.model, n=1, best_of=1, max_tokens=1, temperature=None, top_p=1.0, top_k=-1,
        min_p=0, seed=None, stop=None, stream=False, stream_options=None, logit_bias={},
        presence_penalty=0, frequency_penalty=0.0, repetition_penalty=1, user="u",
        response_format={"type": "text"}, service_tier="auto", guided_json=None, priority=0,
        use_beam_search=False, length_penalty=1.0, ignore_eos=False, bad_words=[],
        allowed_token_ids=None, truncate_prompt_tokens=None, spaces_between_special_tokens=True,
        stop_token_ids=[], include_stop_str_in_output=False, skip_special_tokens=True,
    )
    assert daemon.complete(**common, **PROMPT, suffix=None, echo=False, logprobs=None)
    chat = dict(
        logprobs=False, top_logprobs=0, tools=None, tool_choice="none", store=False, metadata={},
        parallel_tool_calls=True, modalities=["text"], functions=None, documents=None,
        chat_template=None, chat_template_kwargs=None, add_generation_prompt=True,
        max_completion_tokens=None, reasoning_effort=None, prediction=None,
    )
    status, answer = daemon.request("/v1/chat/completions", {**common, **CHAT, **chat})
    assert status == 200, answer


HINTS = dict(
    user="u", safety_identifier="s", prompt_cache_key="k", prompt_cache_retention="24h",
    request_id="r", metadata={"a": "b"}, store=True, service_tier="flex",
    reasoning_effort="medium", verbosity="low", parallel_tool_calls=False,
    prediction={"type": "content", "content": "x"}, reasoning={"effort": "low"},
    include_reasoning=True, separate_reasoning=True, stream_reasoning=False, cache_prompt=True,
)


def test_hints_change_no_answer(daemon):
    greedy = dict(max_tokens=4, temperature=0)
    for path, body in (("/v1/completions", PROMPT), ("/v1/chat/completions", CHAT)):
        answers = [daemon.request(path, {**body, **greedy, **more}) for more in ({}, HINTS)]
        assert [status for status, _ in answers] == [200, 200], answers
        (_, plain), (_, hinted) = answers
        assert plain["choices"] == hinted["choices"]


@pytest.mark.parametrize("more", [
    {"mm_processor_kwargs": None, "anything": None},
    {"top_p": 0},
    {"n": 1, "seed": None, "stop": [], "tools": [], "tool_choice": "auto", "functions": [],
     "function_call": "auto", "logprobs": False, "top_logprobs": None, "prediction": None},
    {"modalities": ["text"], "response_format": {"type": "text", "json_schema": None},
     "frequency_penalty": 0, "echo": False, "suffix": None, "priority": 0},
    {"stream": False, "stream_options": None, "best_of": 1, "truncate_prompt_tokens": None},
], ids=lambda more: next(iter(more)))
def test_what_chat_clients_send(daemon, more):
    status, answer = daemon.request("/v1/chat/completions", {**CHAT, "max_tokens": 2, **more})
    assert status == 200, answer


def test_a_limit_under_both_names(daemon):
    for body in (dict(max_completion_tokens=3), dict(max_tokens=3, max_completion_tokens=3)):
        answer = daemon.complete(prompt=[5], ignore_eos=True, **body)
        assert answer["usage"]["completion_tokens"] == 3


def test_unknown_names_are_answered_with_the_nearest(daemon):
    for typed, meant in (
        ("max_token", "max_tokens"), ("temprature", "temperature"), ("Top_P", "top_p"),
        ("logit-bias", "logit_bias"), ("stream_option", "stream_options"),
    ):
        message = refuse(daemon, "/v1/completions", {**PROMPT, typed: 1}, typed)
        assert f"did you mean `{meant}`?" in message
    assert "did you mean" not in refuse(daemon, "/v1/completions", {**PROMPT, "zzzz": 1}, "zzzz")


def test_unknown_names_may_pass(start):
    daemon = start("--unknown-parameters", "warn", "--kv-tokens", 1024)
    assert daemon.complete(**PROMPT, max_tokens=1, max_token=7, mirostat=2)
    daemon.wait_log('warning: .*name="max_token" nearest=max_tokens')
    daemon.wait_log('warning: .*name="mirostat" nearest=none')
    refuse(daemon, "/v1/completions", {**PROMPT, "bad_words": ["x"]}, "bad_words")
    refuse(daemon, "/v1/completions", {**PROMPT, "max_tokens": "1"}, "max_tokens")


def test_the_smallest_set_is_the_best_token(daemon):
    body = dict(prompt=[5, 6, 7], max_tokens=20, ignore_eos=True)
    best = daemon.complete(**body, temperature=0)["choices"]
    assert daemon.complete(**body, top_p=0, temperature=2, seed=3)["choices"] == best


def test_whole_reals_count_as_whole(daemon):
    assert daemon.complete(prompt=[5], max_tokens=2.0, seed=1.0, n=1.0)


def test_bounds_are_inclusive(daemon):
    for values in (
        dict(temperature=100, top_p=1e-9, min_p=1, presence_penalty=-2, frequency_penalty=2),
        dict(temperature=1e-30, repetition_penalty=1e-5, seed=-(1 << 63), top_k=(1 << 32) - 1),
        dict(seed=(1 << 63) - 1, logit_bias={"511": -100, "0": 100}, n=16, logprobs=20),
    ):
        assert daemon.complete(prompt=[5], max_tokens=2, **values)


# Parameters that must fit together.


def test_parameters_that_exclude_each_other(daemon):
    refuse(daemon, "/v1/completions", {**PROMPT, "stream_options": {}}, "stream_options")
    refuse(daemon, "/v1/completions", {**PROMPT, "max_tokens": 0}, "max_tokens")
    refuse(daemon, "/v1/completions", {**PROMPT, "n": 3, "best_of": 2}, "best_of")
    refuse(daemon, "/v1/completions", {**PROMPT, "best_of": 2, "stream": True}, "best_of")
    refuse(daemon, "/v1/completions", {**PROMPT, "max_tokens": 2, "min_tokens": 3}, "min_tokens")
    refuse(
        daemon, "/v1/completions",
        {**PROMPT, "stream": True, "stream_options": {"x": True}}, "stream_options.x")
    both = {"add_generation_prompt": True, "continue_final_message": True}
    refuse(daemon, "/v1/chat/completions", {**CHAT, **both}, "continue_final_message")


def test_tools_that_nobody_looks_for_calls_of_are_refused(daemon):
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}], "max_tokens": 1}
    no_parser = {**CHAT, **tools, "tool_call_parser": "none"}
    for choice in ({}, {"tool_choice": "auto"}):
        refuse(daemon, "/v1/chat/completions", {**no_parser, **choice}, "tools")
        assert daemon.request("/v1/chat/completions", {**CHAT, **tools, **choice})[0] == 200
    assert daemon.request("/v1/chat/completions", {**no_parser, "tool_choice": "none"})[0] == 200


# Prompts.


@pytest.mark.parametrize(
    "prompt, param",
    [
        (None, "prompt"), ([], "prompt"), ([[]], "prompt[0]"), ([[5], []], "prompt[1]"),
        (5, "prompt"), ({}, "prompt"), ([5, "x"], "prompt"), (["x", 5], "prompt[1]"),
        ([512], "prompt"), ([-1], "prompt"), ([1 << 40], "prompt"), ([1.5], "prompt"),
        ([[5], [512]], "prompt[1]"), ([None], "prompt"), ([True], "prompt"),
        (["x"] * 257, "prompt"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_prompts(daemon, prompt, param):
    refuse(daemon, "/v1/completions", {"prompt": prompt}, param)


def test_prompt_longer_than_the_model(daemon):
    long = {"prompt": [5] * 3000}
    refuse(daemon, "/v1/completions", long, "prompt", code="context_length_exceeded")
    text = "word " * 5000
    message = refuse(
        daemon, "/v1/chat/completions", {"messages": [{"role": "user", "content": text}]},
        "messages", code="context_length_exceeded")
    assert "2048" in message
    over = {"prompt": [5] * 2040, "max_tokens": 9}
    refuse(daemon, "/v1/completions", over, "prompt", code="context_length_exceeded")
    fits = daemon.complete(prompt=[5] * 2040, max_tokens=8, ignore_eos=True)
    assert fits["usage"]["completion_tokens"] == 8
    fits = daemon.complete(prompt=[5] * 2047, ignore_eos=True)
    assert fits["usage"]["completion_tokens"] == 1


def test_prompt_larger_than_the_cache(start):
    daemon = start("--kv-tokens", 128)
    message = refuse(
        daemon, "/v1/completions", {"prompt": [5] * 200}, "prompt", code="context_length_exceeded")
    assert "KV cache" in message and "128" in message


@pytest.mark.parametrize(
    "messages, param",
    [
        ([], "messages"), (None, "messages"), (["x"], "messages[0]"), ([{}], "messages[0]"),
        ([{"role": 1, "content": "x"}], "messages[0]"),
        ([{"role": "user", "content": 1}], "messages[0].content"),
        ([{"role": "user", "content": {}}], "messages[0].content"),
        ([{"role": "user", "content": [1]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]"),
        ([{"role": "assistant", "content": "", "tool_calls": {"a": 1}}], "messages[0].tool_calls"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_wrong_messages(daemon, messages, param):
    refuse(daemon, "/v1/chat/completions", {"messages": messages}, param)


def test_text_parts_are_joined(daemon):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    counts = [
        daemon.request("/tokenize", {"messages": [{"role": "user", "content": content}]})[1]
        for content in (parts, "a\nb")
    ]
    assert counts[0]["tokens"] == counts[1]["tokens"]


# Bodies.


def deep(n):
    return b"[" * n + b"]" * n


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"{", b"[]", b"null", b'"x"', b"5", b'{"prompt": "x"', b'{"prompt": "x"}}',
        b'{"prompt": "x",}', b"{'prompt': 'x'}", b'{"prompt": "\\ud800"}',
        b'{"prompt": "\\udc00\\ud800"}', b'{"prompt": "\xff"}', b'{"prompt": "\xc0\x80"}',
        b'{"prompt": "\xed\xa0\x80"}', b'{"prompt": "\xf4\x90\x80\x80"}', b'{"prompt": "a\nb"}',
        b'{"prompt": "a\0b"}', b'{"prompt": [5], "prompt": [6]}', b'{"prompt\\u0000": [5]}',
        b'\xef\xbb\xbf{"prompt": [5]}', b'{"prompt": ' + deep(10000) + b"}", deep(10000),
        b'{"a":' * 10000 + b"1" + b"}" * 10000, b"[" * 100000, b'{"prompt": [' + b"[" * 50000,
        b'{"prompt": [5], "max_tokens": ' + b"9" * 5000 + b"}", b'{"prompt": [5], "x\xff": 1}',
    ],
    ids=lambda raw: repr(raw)[:48],
)
def test_bodies_that_are_no_request(daemon, raw):
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        status, answer = daemon.request(path, raw=raw)
        assert status == 400, answer
        assert answer["error"]["message"]


def test_deep_values_where_anything_goes(daemon):
    nested = json.loads(b'{"a":' * 900 + b"1" + b"}" * 900)
    body = {**CHAT, "metadata": nested, "max_tokens": 1}
    assert daemon.request("/v1/chat/completions", body)[0] == 200
    body = {**CHAT, "chat_template_kwargs": nested, "max_tokens": 1}
    assert daemon.request("/v1/chat/completions", body)[0] in (200, 400)


def test_unknown_names_of_any_kind(daemon):
    for name in ("x", "", "ü" * 200, "\x01\x1f\"\\", "prompt ", "Prompt", "a" * 5000):
        status, answer = daemon.request("/v1/completions", {**PROMPT, name: 1})
        assert status == 400
        assert name.startswith(answer["error"]["param"] or "")
        body = {**PROMPT, "stream": True, "stream_options": {name: True}}
        status, answer = daemon.request("/v1/completions", body)
        assert status == 400 and len(answer["error"]["message"]) < 300
        assert f"stream_options.{name}".startswith(answer["error"]["param"])
        status, answer = daemon.request("/v1/completions", {**PROMPT, "logit_bias": {name: 1}})
        assert status == 400 and len(answer["error"]["message"]) < 300
        assert answer["error"]["param"] == "logit_bias"


def test_nul_in_a_prompt_is_text_like_any_other(daemon):
    _, answer = daemon.request("/tokenize", {"prompt": "a\0b", "add_special_tokens": False})
    assert answer["count"] >= 3
    _, back = daemon.request("/detokenize", {"tokens": answer["tokens"]})
    assert back == {"prompt": "a\0b"}
    text = daemon.complete(prompt="a\0b", max_tokens=1, echo=True)["choices"][0]["text"]
    assert text.startswith("a\0b")


def test_other_media_types(daemon):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        status, _ = daemon.request("/tokenize", raw=b"{}", headers={"Content-Type": kind})
        assert status == 415
    kind = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert daemon.request("/tokenize", raw=b'{"prompt":"x"}', headers=kind)[0] == 200
    packed = {"Content-Encoding": "gzip"}
    assert daemon.request("/tokenize", raw=b'{"prompt":"x"}', headers=packed)[0] == 415


def test_unknown_model(daemon):
    for path, body in (
        ("/v1/completions", PROMPT), ("/v1/chat/completions", CHAT), ("/tokenize", {"prompt": "x"})
    ):
        for name in ("gpt-4", "", "llama ", "\u0000"):
            if name != "\u0000":
                refuse(daemon, path, {**body, "model": name}, "model", 404, "model_not_found")
            else:
                refuse(daemon, path, {**body, "model": name}, "model")


# /tokenize and /detokenize.


def test_tokenize_and_back(daemon):
    for text in ("Hello, world", "", "ünï¢ødé 😀", " a  b\n"):
        status, answer = daemon.request("/tokenize", {"prompt": text, "add_special_tokens": False})
        assert status == 200 and answer["count"] == len(answer["tokens"])
        assert answer["max_model_len"] == 2048
        assert daemon.request("/detokenize", {"tokens": answer["tokens"]})[1] == {"prompt": text}


def test_tokenize_strings_of_tokens(daemon):
    _, answer = daemon.request("/tokenize", {"prompt": "ab", "return_token_strs": True})
    assert len(answer["token_strs"]) == answer["count"]


def test_tokenize_messages(daemon):
    _, answer = daemon.request("/tokenize", CHAT)
    assert answer["count"] > 0
    _, without = daemon.request("/tokenize", {**CHAT, "add_generation_prompt": False})
    assert without["count"] < answer["count"]


def test_tokenize_refuses(daemon):
    refuse(daemon, "/tokenize", {}, "prompt")
    refuse(daemon, "/tokenize", {"prompt": 5}, "prompt")
    refuse(daemon, "/tokenize", {"prompt": "x", **CHAT}, "prompt")
    refuse(daemon, "/detokenize", {}, "tokens")
    refuse(daemon, "/detokenize", {"tokens": "x"}, "tokens")
    refuse(daemon, "/detokenize", {"tokens": [512]}, "tokens")
    refuse(daemon, "/detokenize", {"tokens": [-1]}, "tokens")
    refuse(daemon, "/detokenize", {"tokens": [None]}, "tokens")
