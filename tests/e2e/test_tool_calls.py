# SPDX-License-Identifier: Apache-2.0
"""Calls of tools and reasoning over HTTP, of a model that writes what is wanted.

What texts mean is tested by themselves (tests/data/tool_texts); here is what becomes of it in
answers and streams. Granite reads a mark that it is not held to, so the model may go wrong behind
it; what models are held to is in test_tool_grammar.py.
"""

import json

import pytest
import scripted_model
from conftest import Daemon

TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "Tells it.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
OTHER = {"type": "function", "function": {"name": "lookup"}}
ONE = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
TWO = ('Both.\n<tool_call>{"name": "lookup", "arguments": {"key": 1.50}}</tool_call>\n'
       '<tool_call>{"name": "get_weather"}</tool_call>')
SCRIPTS = {
    "one": ONE,
    "two": TWO,
    "wrong": '<tool_call>{"name": "get_weather", "arguments": {"city": Oslo}}</tool_call> sorry',
    "tail": '<tool_call>{"name": "lookup"}</tool_call> What more is there to say?',
    "plain": "Just a text, with no call in it at all.",
    "thinks": ["<thin", "k>\nLet me ", "see.\n", "</thi", "nk>\n", "\nSo it ", "is done."],
    "thinkscalls": ["<th", "ink>Ask ", "then.</th", "ink>", "<tool", '_call>{"na', 'me": "loo',
                    'kup", "arg', 'uments": {"s": "', b"\xc3", b"\xbc", "\"}}</tool_", "call>"],
    "begun": ["Hm, we", "ll.\n</", "think>\n\n", "Fine then"],
    "special": ["[TOOL_CALLS]", "lookup", "[ARGS]", '{"ke', 'y": "v"', b"}"],
    "again": ["Here: ", "<|hidden|>", "visible"],
}
WITH_ARGS = {"tool_call_parser": "mistral_args", "logprobs": True}  # with these nothing is forced
SPECIAL = ("[TOOL_CALLS]", "[ARGS]", "<|hidden|>")


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    path = tmp_path_factory.mktemp("scripted") / "model"
    scripted_model.make(path, SCRIPTS, "tools <tool_call> <think>", SPECIAL)
    running = Daemon(path, "--kv-tokens", 16 * 1024, "--tool-call-parser", "granite")
    yield running
    assert running.stop() == 0, running.log
    assert "ERROR" not in running.log, running.log


def body_of(name, **more):
    return {"messages": [{"role": "user", "content": name}], "temperature": 0, **more}


def ask(daemon, name, **more):
    status, answer = daemon.request("/v1/chat/completions", body_of(name, **more))
    assert status == 200, answer
    return answer


def message_of(answer):
    (choice,) = answer["choices"]
    return choice["message"], choice["finish_reason"]


def stream(daemon, name, **more):
    status, text = daemon.request("/v1/chat/completions", body_of(name, stream=True, **more))
    assert status == 200, text
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def joined(chunks, index=0):
    """The message that a stream comes to, with its finish_reason."""
    message, finish = {"content": ""}, None
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] != index:
                continue
            delta = choice["delta"]
            for key in ("content", "reasoning_content", "reasoning"):
                if delta.get(key):
                    message[key] = message.get(key, "") + delta[key]
            for piece in delta.get("tool_calls", ()):
                calls = message.setdefault("tool_calls", [])
                if piece["index"] == len(calls):
                    assert piece["id"] and piece["type"] == "function"
                    assert piece["function"]["arguments"] == ""
                    calls.append(piece)
                    continue
                assert set(piece) == {"index", "function"} and set(piece["function"]) == {
                    "arguments"}
                calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
            finish = choice["finish_reason"] or finish
    return message, finish


def shown(message):
    """What does not change from answer to answer."""
    calls = [(c["type"], c["function"]["name"], c["function"]["arguments"])
             for c in message.get("tool_calls", ())]
    return {"content": message.get("content") or "", "calls": calls,
            "reasoning": message.get("reasoning"),
            "reasoning_content": message.get("reasoning_content")}


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("tools", [None, [TOOL, OTHER]])
def test_a_stream_comes_to_the_whole_answer(scripted, name, tools):
    more = {"tools": tools, **(WITH_ARGS if name == "special" else {})}
    whole, finish = message_of(ask(scripted, name, **more))
    streamed, stream_finish = joined(stream(scripted, name, **more))
    assert shown(streamed) == shown(whole) and stream_finish == finish
    assert (finish == "tool_calls") == bool(whole.get("tool_calls"))


def test_a_call(scripted):
    message, finish = message_of(ask(scripted, "one", tools=[TOOL]))
    (call,) = message["tool_calls"]
    assert message["content"] is None and message["role"] == "assistant" and finish == "tool_calls"
    assert call["type"] == "function" and call["id"].startswith("call_") and len(call["id"]) == 29
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Oslo"}'}


def test_text_and_calls(scripted):
    message, finish = message_of(ask(scripted, "two", tools=[TOOL, OTHER]))
    first, second = message["tool_calls"]
    assert message["content"] == "Both.\n" and finish == "tool_calls"
    assert first["function"] == {"name": "lookup", "arguments": '{"key": 1.50}'}
    assert second["function"] == {"name": "get_weather", "arguments": "{}"}
    assert first["id"] != second["id"]


def test_one_call_at_a_time(scripted):
    for get in (lambda **m: message_of(ask(scripted, "two", **m)),
                lambda **m: joined(stream(scripted, "two", **m))):
        message, finish = get(tools=[TOOL, OTHER], parallel_tool_calls=False)
        (call,) = message["tool_calls"]
        assert call["function"]["name"] == "lookup" and finish == "tool_calls"
    tail = " What more is there to say?"
    for parallel, content in ((True, tail), (False, "")):
        more = dict(tools=[OTHER], parallel_tool_calls=parallel)
        for message, finish in (message_of(ask(scripted, "tail", **more)),
                                joined(stream(scripted, "tail", **more))):
            assert (message["content"] or "") == content and finish == "tool_calls"
    scripted.wait_idle()


def test_no_call_is_text_to_the_byte(scripted):
    for name in ("wrong", "plain"):
        message, finish = message_of(ask(scripted, name, tools=[TOOL]))
        assert message["content"] == SCRIPTS[name] and finish == "stop"
        assert "tool_calls" not in message


@pytest.mark.parametrize("more", [
    {}, {"tools": []}, {"tools": [TOOL], "tool_choice": "none"},
], ids=str)
def test_calls_that_nobody_looks_for_stay_in_the_content(scripted, more):
    message, finish = message_of(ask(scripted, "one", **more))
    assert message["content"] == ONE and finish == "stop" and "tool_calls" not in message


def test_a_call_that_is_cut_off_is_text(scripted):
    message, finish = message_of(ask(scripted, "one", tools=[TOOL], max_tokens=8))
    assert finish == "length" and ONE.startswith(message["content"]) and message["content"]


def test_marks_that_are_special_tokens_are_seen(scripted):
    more = {"tools": [OTHER], **WITH_ARGS}
    message, finish = message_of(ask(scripted, "special", **more))
    (call,) = message["tool_calls"]
    assert call["function"] == {"name": "lookup", "arguments": '{"key": "v"}'}
    assert len(call["id"]) == 9 and call["id"].isalnum()
    message, _ = message_of(ask(scripted, "again", **more))
    assert message["content"] == "Here: visible"
    message, _ = message_of(ask(scripted, "special"))
    assert message["content"] == 'lookup{"key": "v"}'


def test_reasoning(scripted):
    for name, reasoning, content in (("thinks", "Let me see.", "So it is done."),
                                     ("begun", "Hm, well.", "Fine then")):
        answer = ask(scripted, name)
        message, finish = message_of(answer)
        assert message["reasoning"] == message["reasoning_content"] == reasoning
        assert message["content"] == content and finish == "stop"
        chunks = stream(scripted, name, stream_options={"include_usage": True})
        assert chunks[-1]["usage"] == answer["usage"]
    # with all pieces of the marks
    assert ask(scripted, "thinks")["usage"]["completion_tokens_details"] == {"reasoning_tokens": 5}
    assert ask(scripted, "begun")["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}
    assert ask(scripted, "plain")["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_reasoning_and_a_call_with_a_character_of_two_tokens(scripted):
    message, finish = message_of(ask(scripted, "thinkscalls", tools=[OTHER]))
    (call,) = message["tool_calls"]
    assert message["reasoning"] == "Ask then." and message["content"] is None
    assert call["function"]["arguments"] == '{"s": "ü"}' and finish == "tool_calls"


def test_reasoning_that_is_cut_off_is_reasoning(scripted):
    message, finish = message_of(ask(scripted, "thinks", max_tokens=2))
    assert message["reasoning"] == "Let me " and message["content"] == "" and finish == "length"


@pytest.mark.parametrize("more", [{"reasoning_parser": "none"}, {"separate_reasoning": False}],
                         ids=str)
def test_reasoning_that_is_not_told_apart(scripted, more):
    answer = ask(scripted, "thinks", **more)
    message, _ = message_of(answer)
    assert message["content"] == "".join(SCRIPTS["thinks"]) and "reasoning" not in message
    assert "completion_tokens_details" not in answer["usage"]


def test_reasoning_that_nobody_wants_to_see(scripted):
    answer = ask(scripted, "thinks", include_reasoning=False)
    message, _ = message_of(answer)
    assert message["content"] == "So it is done." and "reasoning" not in message
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 5}
    for more in ({"include_reasoning": False}, {"reasoning": {"exclude": True, "effort": "low"}}):
        message, _ = joined(stream(scripted, "thinks", **more))
        assert message == {"content": "So it is done."}


def test_marks_are_in_no_delta(scripted):
    for name, more in (("two", {}), ("thinks", {}), ("special", WITH_ARGS)):
        chunks = stream(scripted, name, tools=[TOOL, OTHER], **more)
        text = json.dumps([choice["delta"] for chunk in chunks for choice in chunk["choices"]])
        for mark in ("tool_call>", "think", "TOOL_CALLS", "ARGS"):
            assert mark not in text, (name, text)


def test_choices_have_calls_of_their_own(scripted):
    answer = ask(scripted, "one", tools=[TOOL], n=3)
    calls = [choice["message"]["tool_calls"][0] for choice in answer["choices"]]
    assert len({call["id"] for call in calls}) == 3
    chunks = stream(scripted, "one", tools=[TOOL], n=2)
    for index in (0, 1):
        message, finish = joined(chunks, index)
        assert message["tool_calls"][0]["function"] == calls[0]["function"]
        assert finish == "tool_calls"


def test_logprobs_are_of_all_tokens(scripted):
    more = dict(tools=[TOOL], logprobs=True)
    (choice,) = ask(scripted, "one", **more)["choices"]
    tokens = [item["token"] for item in choice["logprobs"]["content"]]
    assert "".join(tokens).startswith(ONE)
    streamed = [item["token"] for chunk in stream(scripted, "one", **more)
                for choice in chunk["choices"] if choice["logprobs"]
                for item in choice["logprobs"]["content"]]
    assert streamed == tokens


def test_stop_strings_are_of_the_raw_text(scripted):
    message, finish = message_of(ask(scripted, "two", tools=[TOOL, OTHER], stop="</tool_call>"))
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "lookup" and finish == "tool_calls"
    message, finish = message_of(ask(scripted, "one", tools=[TOOL], stop='"city"'))
    assert message["content"] == ONE[:ONE.index('"city"')] and finish == "stop"


def test_memory_of_calls_is_given_back(scripted):
    before = scripted.metric("kvasir_requests_memory_bytes")
    for name in ("two", "thinkscalls", "wrong"):
        ask(scripted, name, tools=[TOOL, OTHER], n=4)
        stream(scripted, name, tools=[TOOL, OTHER], n=4)
    scripted.wait_idle()
    assert scripted.metric("kvasir_requests_memory_bytes") == before


# What is refused.


def refuse(daemon, param, words, **more):
    status, answer = daemon.request("/v1/chat/completions", body_of("plain", **more))
    assert status == 400, answer
    assert answer["error"]["param"] == param and words in answer["error"]["message"], answer


def function(**members):
    return {"type": "function", "function": {"name": "f", **members}}


@pytest.mark.parametrize("tool, words", [
    ({}, "`function`"), (5, "`function`"), ({"type": "function"}, "`function`"),
    ({"type": "web_search", "function": {"name": "f"}}, "`type`"),
    ({"type": "function", "name": "f"}, "`function`"), (function(name=""), "name"),
    (function(name="a b"), "name"), (function(name="x" * 129), "name"), (function(name=5), "name"),
    (function(name="f\0"), "name"), (function(parameters=[]), "parameters"),
    (function(parameters="x"), "parameters"), (function(strict=1), "strict"),
], ids=str)
def test_tools_that_are_none(scripted, tool, words):
    refuse(scripted, "tools[1]", words, tools=[OTHER, tool])


def test_names_twice(scripted):
    refuse(scripted, "tools[2]", "another tool", tools=[OTHER, TOOL, OTHER])
    refuse(scripted, "tools", "at most", tools=[OTHER] * 1025)


@pytest.mark.parametrize("choice, words", [
    ("any", "must be"), (True, "must be"), ({}, "must be"),
    ({"type": "function", "name": "lookup"}, "must be"),
    ({"type": "function", "function": {"name": "nobody"}}, "not in `tools`"),
    ({"type": "function", "function": {"name": "lookup\0"}}, "not in `tools`"),
], ids=str)
def test_choices_that_cannot_be(scripted, choice, words):
    refuse(scripted, "tool_choice", words, tools=[OTHER], tool_choice=choice)


def test_choices_without_tools(scripted):
    refuse(scripted, "tool_choice", "no `tools`", tool_choice="required")
    for choice in ("auto", "none"):
        assert ask(scripted, "plain", tool_choice=choice)


def test_parsers_have_names(scripted):
    for name in ("tool_call_parser", "reasoning_parser"):
        refuse(scripted, name, "auto, none", **{name: "nobody"})
        refuse(scripted, name, "auto, none", **{name: 5})
    refuse(scripted, "tools", "tool_call_parser", tools=[TOOL], tool_call_parser="none")
    refuse(scripted, "parallel_tool_calls", "true or false", parallel_tool_calls="yes")
    refuse(scripted, "reasoning_effort", "a string", reasoning_effort=1)
    for wrong in ({"effort": 1}, {"exclude": "x"}, {"max_tokens": 5}):
        refuse(scripted, "reasoning", "`effort`", reasoning=wrong)


def test_options_name_the_parsers(start):
    daemon = start("--kv-tokens", 1024, "--tool-call-parser", "none",
                   "--reasoning-parser", "granite")
    daemon.wait_log("tool_call_parser=none reasoning_parser=granite")
    refuse(daemon, "tools", "tool_call_parser", tools=[TOOL])


# What templates are shown.


def prompt_of(daemon, **more):
    status, answer = daemon.request(
        "/tokenize", {"messages": [{"role": "user", "content": "Hi"}], **more})
    assert status == 200, answer
    status, answer = daemon.request("/detokenize", {"tokens": answer["tokens"]})
    return answer["prompt"]


def test_templates_hear_how_much_to_think(start, tmp_path):
    source = tmp_path / "effort.jinja"
    source.write_text("{{ reasoning_effort | tojson if reasoning_effort is defined else '-' }} "
                      "{{ enable_thinking | tojson if enable_thinking is defined else '-' }}")
    daemon = start("--kv-tokens", 1024, "--chat-template", source)
    for more, prompt in (
        ({}, "- -"), ({"reasoning_effort": "high"}, '"high" -'),
        ({"reasoning_effort": "none"}, '"none" false'),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "- false"),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
         '"none" true'),
        ({"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}},
         '"high" -'),
    ):
        assert prompt_of(daemon, **more) == prompt


def test_templates_that_know_no_tools_are_told(start, tmp_path):
    source = tmp_path / "plain.jinja"
    source.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    daemon = start("--kv-tokens", 4096, "--chat-template", source)
    daemon.wait_log("tool_call_parser=smollm reasoning_parser=none")
    prompt = prompt_of(daemon, tools=[{**OTHER, "x": 12345678901234567890123}])
    assert prompt.startswith("<system>You are an expert") and prompt.endswith("<user>Hi")
    assert '<tools>[{"type": "function", "function": {"name": "lookup"}' in prompt
    assert "12345678901234567890123" in prompt
    prompt = prompt_of(daemon, tools=[OTHER], messages=[
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    assert prompt.startswith("<system>Be brief.\n\nYou are an expert")
    assert prompt_of(daemon) == "<user>Hi"
    call = {"id": "c", "type": "function",
            "function": {"name": "lookup", "arguments": '{"key": "\u00e9"}'}}
    written = '<tool_call>[{"name": "lookup", "arguments": {"key": "é"}}]</tool_call>'
    for content, text in ((None, written), ("", written), ("Well.", "Well.\n" + written)):
        prompt = prompt_of(daemon, tools=[OTHER], messages=[
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": content, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "19"}])
        assert prompt.endswith(f"<user>Hi<assistant>{text}<tool>19")
    other = start("--kv-tokens", 4096, "--chat-template", source, "--tool-call-parser", "deepseek")
    assert prompt_of(other, tools=[OTHER]) == "<user>Hi"
