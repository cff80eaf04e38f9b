# SPDX-License-Identifier: Apache-2.0
"""Anthropic's messages: whole answers, streams event by event, calls of tools, thinking, and what
is counted and refused. How a body becomes a chat is in tests/unit/test_api_messages.c; what a model
writes, in test_tool_calls.py."""

import http.client
import json

import jsonschema
import pytest
import scripted_model
from conftest import Daemon, wait_until
from test_tool_calls import ONE, SCRIPTS, SPECIAL
from test_tool_grammar import SCHEMAS

WEATHER = {"name": "get_weather", "description": "Tells it.", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string"}}}}
LOOKUP = {"name": "lookup", "input_schema": {"type": "object"}}
TOOLS = [{"name": name, "input_schema": schema} for name, schema in SCHEMAS.items()]
ANSWER = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
          "additionalProperties": False}
FORMAT = {"format": {"type": "json_schema", "schema": ANSWER}}
HEADERS = {"x-api-key": "none", "anthropic-version": "2023-06-01", "anthropic-beta": "x,y"}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    path = tmp_path_factory.mktemp("scripted") / "model"
    scripted_model.make(path, SCRIPTS, "tools <tool_call> <think>", SPECIAL)
    running = Daemon(path, "--kv-tokens", 16 * 1024, "--tool-call-parser", "granite")
    yield running
    assert running.stop() == 0, running.log
    assert "ERROR" not in running.log, running.log


@pytest.fixture(scope="module")
def tiny(tiny_model):
    """Writes noise, so that what comes of it is the grammar's doing; its template tells all."""
    path = tiny_model.parent / "told.jinja"
    path.write_text(
        "{#<tool_call> <think>#}"
        "{% if messages[-1].content == 'tell' %}{{ raise_exception({'messages': messages, "
        "'tools': tools | default(none), 'thinking': enable_thinking | default('-'), "
        "'budget': thinking_budget | default('-'), 'effort': reasoning_effort | default('-')} "
        "| tojson) }}{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}{{ tools | default('') }}")
    running = Daemon(tiny_model, "--kv-tokens", 64 * 1024, "--chat-template", path,
                     "--tool-call-parser", "hermes")
    yield running
    assert running.stop() == 0, running.log
    assert "ERROR" not in running.log, running.log


@pytest.fixture(scope="module")
def grammars(tiny):
    status, answer = tiny.request("/v1/messages", body_of("x", output_config=FORMAT))
    if status == 400 and "without grammars" in answer["error"]["message"]:
        pytest.skip("a build without grammars")
    assert status == 200, answer


def body_of(content, **more):
    body = {"max_tokens": 300, "temperature": 0,
            "messages": [{"role": "user", "content": content}], **more}
    return {key: value for key, value in body.items() if value is not None}


def ask(daemon, content, **more):
    status, answer = daemon.request("/v1/messages", body_of(content, **more), headers=HEADERS)
    assert status == 200, answer
    assert answer["type"] == "message" and answer["role"] == "assistant"
    assert answer["id"].startswith("msg_") and answer["model"] == daemon.model
    return answer


def events_of(text):
    """[(name, data)] of a stream."""
    assert text.endswith("\n\n")
    events = []
    for event in text[:-2].split("\n\n"):
        name, data = event.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        assert events[-1][0] == events[-1][1]["type"]
    return events


def stream(daemon, content, **more):
    status, text = daemon.request("/v1/messages", body_of(content, stream=True, **more),
                                  headers=HEADERS)
    assert status == 200, text
    return events_of(text)


DELTAS = {"text_delta": ("text", "text"), "thinking_delta": ("thinking", "thinking"),
          "input_json_delta": ("tool_use", "partial_json")}


def joined(events):
    """The message that a stream comes to; its events must stand in Anthropic's order."""
    names = [name for name, _ in events]
    assert names[:2] == ["message_start", "ping"] and names[-2:] == ["message_delta",
                                                                     "message_stop"]
    message = events[0][1]["message"]
    assert message["content"] == [] and message["stop_reason"] is None
    assert message["stop_sequence"] is None
    block = None
    for name, data in events[2:-2]:
        if name == "content_block_start":
            assert block is None and data["index"] == len(message["content"])
            block = data["content_block"]
            message["content"].append(block)
            assert block.get("input", {}) == {} and not block.get("text")
            partial = ""
            continue
        assert data["index"] == len(message["content"]) - 1 and block is not None
        if name == "content_block_delta":
            kind, key = DELTAS[data["delta"]["type"]]
            assert kind == block["type"] and data["delta"][key]
            if kind == "tool_use":
                partial += data["delta"][key]
            else:
                block[key] += data["delta"][key]
            continue
        assert name == "content_block_stop"
        if block["type"] == "tool_use":
            block["raw"] = partial
        block = None
    assert block is None
    end = events[-2][1]
    start_usage = message["usage"]
    message.update(end["delta"], usage=end["usage"])
    for key in ("input_tokens", "cache_read_input_tokens"):
        assert start_usage[key] == end["usage"][key]
    return message


def shown(message):
    """What does not change from answer to answer, nor with what the cache has."""
    usage = dict(message["usage"])
    usage["input_tokens"] += usage.pop("cache_read_input_tokens")
    content = []
    for block in message["content"]:
        block = {key: value for key, value in block.items() if key != "id"}
        if "raw" in block:
            block["input"] = json.loads(block.pop("raw"))
        content.append(block)
    return content, message["stop_reason"], message["stop_sequence"], usage


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "special"])
@pytest.mark.parametrize("tools", [None, [WEATHER, LOOKUP]])
def test_a_stream_comes_to_the_whole_answer(scripted, name, tools):
    whole = ask(scripted, name, tools=tools)
    assert shown(joined(stream(scripted, name, tools=tools))) == shown(whole)
    assert (whole["stop_reason"] == "tool_use") == any(
        block["type"] == "tool_use" for block in whole["content"])


def test_an_answer(scripted):
    answer = ask(scripted, "plain")
    assert answer["content"] == [{"type": "text", "text": SCRIPTS["plain"]}]
    assert answer["stop_reason"] == "end_turn" and answer["stop_sequence"] is None
    assert answer["usage"]["output_tokens"] > 5
    assert answer["usage"]["output_tokens_details"] == {"thinking_tokens": 0}
    answer = ask(scripted, "plain", max_tokens=2)
    assert answer["stop_reason"] == "max_tokens" and answer["usage"]["output_tokens"] == 2


def test_blocks_stand_in_the_order_of_the_text(scripted):
    first, second, third = ask(scripted, "two", tools=[WEATHER, LOOKUP])["content"]
    assert first == {"type": "text", "text": "Both.\n"}
    assert (second["name"], second["input"]) == ("lookup", {"key": 1.5})
    assert (third["name"], third["input"]) == ("get_weather", {})
    assert second["id"] != third["id"]
    call, text = ask(scripted, "tail", tools=[LOOKUP])["content"]
    assert call["type"] == "tool_use"
    assert text == {"type": "text", "text": " What more is there to say?"}
    thinking, call = ask(scripted, "thinkscalls", tools=[LOOKUP])["content"]
    assert thinking == {"type": "thinking", "thinking": "Ask then.", "signature": ""}
    assert call["input"] == {"s": "ü"}


def test_numbers_keep_their_digits(scripted):
    status, text = scripted.request("/v1/messages", body_of("two", tools=[LOOKUP], stream=True))
    assert status == 200
    (call,) = [b for b in joined(events_of(text))["content"] if b.get("name") == "lookup"]
    assert call["raw"] == '{"key": 1.50}'
    connection = http.client.HTTPConnection("127.0.0.1", scripted.port)
    connection.request("POST", "/v1/messages", json.dumps(body_of("two", tools=[LOOKUP])),
                       {"Content-Type": "application/json"})
    assert b'"input":{"key":1.50}' in connection.getresponse().read().replace(b" ", b"")
    connection.close()


def test_one_call_at_a_time(scripted):
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    for message in (ask(scripted, "two", tools=[WEATHER, LOOKUP], tool_choice=choice),
                    joined(stream(scripted, "two", tools=[WEATHER, LOOKUP], tool_choice=choice))):
        assert [block["type"] for block in message["content"]] == ["text", "tool_use"]
        assert message["stop_reason"] == "tool_use"
    scripted.wait_idle()


def test_calls_that_nobody_looks_for_stay_in_the_text(scripted):
    for more in ({}, {"tools": []}, {"tools": [WEATHER], "tool_choice": {"type": "none"}}):
        answer = ask(scripted, "one", **more)
        assert answer["content"] == [{"type": "text", "text": ONE}]
        assert answer["stop_reason"] == "end_turn"


def test_stop_sequences(scripted):
    text = SCRIPTS["plain"]
    for message in (ask(scripted, "plain", stop_sequences=["nothing", "with"]),
                    joined(stream(scripted, "plain", stop_sequences=["nothing", "with"]))):
        assert message["content"][0]["text"] == text[:text.index("with")]
        assert message["stop_reason"] == "stop_sequence" and message["stop_sequence"] == "with"
    answer = ask(scripted, "one", tools=[WEATHER], stop_sequences=["</tool_call>"])
    assert answer["stop_reason"] == "tool_use" and answer["stop_sequence"] is None


# Thinking.


def test_thinking(scripted):
    for name, thinking, text, n in (("thinks", "Let me see.", "So it is done.", 5),
                                    ("begun", "Hm, well.", "Fine then", 3)):
        for more in ({}, {"thinking": {"type": "adaptive"}},
                     {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1025}):
            answer = ask(scripted, name, **more)
            assert answer["content"] == [
                {"type": "thinking", "thinking": thinking, "signature": ""},
                {"type": "text", "text": text}]
            assert answer["usage"]["output_tokens_details"] == {"thinking_tokens": n}
        for shown_not in ({"type": "disabled"}, {"type": "adaptive", "display": "omitted"}):
            for message in (ask(scripted, name, thinking=shown_not),
                            joined(stream(scripted, name, thinking=shown_not))):
                assert message["content"] == [{"type": "text", "text": text}]
                assert message["usage"]["output_tokens_details"] == {"thinking_tokens": n}


def test_thinking_that_is_cut_off(scripted):
    answer = ask(scripted, "thinks", max_tokens=2)
    assert answer["content"] == [{"type": "thinking", "thinking": "Let me ", "signature": ""}]
    assert answer["stop_reason"] == "max_tokens"


# What the model is told.


def told(daemon, messages, path="/v1/messages", **more):
    """What the chat template is shown."""
    messages = [*messages, {"role": "user", "content": "tell"}]
    status, answer = daemon.request(path, {"messages": messages, **more})
    assert status == 400 and "template refused: " in answer["error"]["message"], answer
    shown = json.loads(answer["error"]["message"].split("refused: ", 1)[1])
    assert shown["messages"].pop() == {"role": "user", "content": "tell"}
    return shown


def test_a_result_goes_back_to_the_model(tiny):
    call = {"type": "tool_use", "id": "toolu_1", "name": "lookup", "input": {"a": [1.50, "ü"]}}
    messages = [
        {"role": "user", "content": "How warm is it?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Look.", "signature": ""},
            {"type": "text", "text": "I look."}, call]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "19"},
            {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": True,
             "content": [{"type": "text", "text": "None"}, {"type": "text", "text": "such"}]},
            {"type": "text", "text": "Well?"}]},
        {"role": "assistant", "content": "Warm."},
    ]
    shown = told(tiny, messages, system="Be brief.", max_tokens=5, tools=[LOOKUP])
    assert [m["role"] for m in shown["messages"]] == [
        "system", "user", "assistant", "tool", "tool", "user", "assistant"]
    assert shown["messages"][0]["content"] == "Be brief."
    assistant, one, two, user = shown["messages"][2:6]
    assert assistant["content"] == "I look." and assistant["reasoning_content"] == "Look."
    (sent,) = assistant["tool_calls"]
    assert sent["id"] == "toolu_1" and sent["function"]["name"] == "lookup"
    assert sent["function"]["arguments"] == {"a": [1.5, "ü"]}
    assert one == {"role": "tool", "tool_call_id": "toolu_1", "content": "19"}
    assert two == {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: None\nsuch"}
    assert user["content"] == "Well?"
    assert shown["tools"] == [{"type": "function", "function": {
        "name": "lookup", "parameters": {"type": "object"}}}]


def test_templates_hear_how_to_think(tiny):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    for more, thinking, budget, effort in (
        ({}, "-", "-", "-"),
        ({"thinking": {"type": "disabled"}}, False, "-", "-"),
        ({"thinking": {"type": "adaptive"}}, True, "-", "-"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, True, 2000, "-"),
        ({"output_config": {"effort": "low"}}, "-", "-", "low"),
    ):
        for path, length in (("/v1/messages", {"max_tokens": 2001}),
                             ("/v1/messages/count_tokens", {})):
            shown = told(tiny, messages, path, **length, **more)
            assert (shown["thinking"], shown["budget"], shown["effort"]) == (
                thinking, budget, effort)


def test_what_the_assistant_has_begun_is_continued(tiny):
    begun = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It is"}]
    prompt = "<user>Hi<assistant>It is"
    status, counted = tiny.request("/v1/messages/count_tokens", {"messages": begun})
    assert status == 200
    _, tokens = tiny.request("/tokenize", {"prompt": prompt, "add_special_tokens": False})
    assert counted == {"input_tokens": tokens["count"]}
    status, answer = tiny.request("/v1/messages", {"messages": begun, "max_tokens": 3})
    assert status == 200 and answer["usage"]["output_tokens"] == 3, answer
    for content in (" ", [{"type": "text", "text": ""}]):
        refuse(tiny, "/v1/messages", "no text", messages=[
            begun[0], {"role": "assistant", "content": content}], max_tokens=3)


# Calls that must come.


def test_a_call_must_come(tiny, grammars):
    n_calls = 0
    for choice, names in (({"type": "any"}, set(SCHEMAS)), ({"type": "tool", "name": "stop"},
                                                            {"stop"})):
        for said in ("Go on.", "What?", "Tell me."):
            more = {"tools": TOOLS, "tool_choice": choice}
            for message in (ask(tiny, said, **more), joined(stream(tiny, said, **more))):
                content = message["content"]
                if message["stop_reason"] == "max_tokens":
                    content.pop()
                for block in content:
                    arguments = json.loads(block["raw"]) if "raw" in block else block["input"]
                    assert block["type"] == "tool_use" and block["name"] in names
                    jsonschema.validate(arguments, SCHEMAS[block["name"]])
                n_calls += len(content)
    assert n_calls


def test_a_call_that_is_cut_off_has_no_input(tiny, grammars):
    more = {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "weather"}, "max_tokens": 45}
    seen = 0
    for n in range(30, 60):
        answer = ask(tiny, "Go on.", **{**more, "max_tokens": n})
        if answer["stop_reason"] == "max_tokens" and answer["content"]:
            (call,) = answer["content"][-1:]
            assert call["type"] == "tool_use" and call["name"] == "weather"
            seen += call["input"] == {}
    assert seen


def test_the_answer_is_of_a_schema(tiny, grammars):
    (block,) = ask(tiny, "Go on.", output_config=FORMAT)["content"]
    jsonschema.validate(json.loads(block["text"]), ANSWER)
    refuse(tiny, "/v1/messages", "`output_config.format`", **body_of("x", output_config={
        "format": {"type": "json_schema", "schema": {"not": {}}}}))


# What is counted.


@pytest.mark.parametrize("more", [
    {}, {"system": "Be brief."}, {"system": [{"type": "text", "text": "Be brief."}]},
    {"tools": [WEATHER, LOOKUP]}, {"tools": TOOLS, "tool_choice": {"type": "none"}},
], ids=str)
def test_counted_tokens_are_those_of_messages(tiny, more):
    body = {"messages": [{"role": "user", "content": "Hello there, " * 20}], **more}
    status, counted = tiny.request("/v1/messages/count_tokens", body, headers=HEADERS)
    assert status == 200, counted
    for _ in range(2):  # the second time from the cache
        status, answer = tiny.request("/v1/messages", {**body, "max_tokens": 1})
        usage = answer["usage"]
        assert counted == {
            "input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}
    assert usage["cache_read_input_tokens"] > 0
    streamed = joined(stream(tiny, "", **{**body, "max_tokens": 1}))
    assert shown(streamed)[3] == shown(answer)[3]


def test_counting_is_not_bound_to_what_the_model_reads(tiny):
    long = {"messages": [{"role": "user", "content": "Hello " * 5000}]}
    status, counted = tiny.request("/v1/messages/count_tokens", long)
    assert status == 200 and counted["input_tokens"] > 5000
    refuse(tiny, "/v1/messages", "tokens", **long, max_tokens=1)


# What is refused.


def refuse(daemon, path, words, status=400, kind="invalid_request_error", **body):
    got, answer = daemon.request(path, body, headers=HEADERS)
    assert got == status, answer
    assert set(answer) == {"type", "error"} and answer["type"] == "error"
    assert set(answer["error"]) == {"type", "message"} and answer["error"]["type"] == kind
    assert words in answer["error"]["message"], answer


def test_refusals_are_in_anthropics_form(tiny):
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        length = {"max_tokens": 5} if path == "/v1/messages" else {}
        refuse(tiny, path, "`messages` is missing", **length)
        refuse(tiny, path, "no model", 404, "not_found_error", **body_of(
            "x", model="claude", temperature=None, max_tokens=length.get("max_tokens")))
        refuse(tiny, path, "`messages[0].content[1]`", **length, messages=[
            {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image"}]}])
        refuse(tiny, path, "did you mean `system`", **length, sistem="x")
    refuse(tiny, "/v1/messages", "`max_tokens` is missing", messages=[])
    status, answer = tiny.request("/v1/messages", raw=b"{")
    assert status == 400 and answer["type"] == "error"
    status, answer = tiny.request("/v1/messages", raw=b"{}", headers={"Content-Type": "text/x"})
    assert status == 415 and answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("more, words", [
    ({"temperature": 1.5}, "`temperature`"), ({"max_tokens": 0}, "`max_tokens`"),
    ({"top_k": -1}, "`top_k`"), ({"top_p": 2}, "`top_p`"), ({"stream": 1}, "`stream`"),
    ({"stop_sequences": "x"}, "`stop_sequences`"), ({"stop_sequences": [""]}, "`stop_sequences`"),
    ({"metadata": "x"}, "`metadata`"), ({"service_tier": 1}, "`service_tier`"),
    ({"container": "x"}, "`container`"), ({"mcp_servers": [{}]}, "`mcp_servers`"),
    ({"n": 2}, "parameter \"n\""), ({"logprobs": True}, "parameter \"logprobs\""),
], ids=str)
def test_parameters_that_cannot_be(tiny, more, words):
    refuse(tiny, "/v1/messages", words, **body_of("x", **more))


@pytest.mark.parametrize("more", [
    {"metadata": {"user_id": "x"}}, {"service_tier": "auto"}, {"mcp_servers": []},
    {"cache_control": {"type": "ephemeral"}}, {"system": None, "tools": None, "thinking": None},
    {"top_k": 0, "top_p": 0.5}, {"speed": "fast"},
], ids=str)
def test_what_changes_nothing_is_taken(tiny, more):
    assert ask(tiny, "x", max_tokens=1, **more)


@pytest.mark.parametrize("tools, choice, words", [
    ([LOOKUP, LOOKUP], None, "`tools[1].name`"),
    ([{**LOOKUP, "name": "a b"}], None, "`tools[0].name`"),
    ([{"name": "f", "input_schema": {"not": {}}, "strict": True}], None,
     "`tools[0].input_schema`"),
    ([{"name": "f", "input_schema": {"not": {}}}], {"type": "any"}, "`tools[0].input_schema`"),
    ([LOOKUP], {"type": "tool", "name": "nobody"}, "`tool_choice`"),
    ([], {"type": "any"}, "no `tools`"),
], ids=str)
def test_tools_that_cannot_be(tiny, grammars, tools, choice, words):
    refuse(tiny, "/v1/messages", words, **body_of("x", tools=tools, tool_choice=choice))


# How answers end before their time.


# An answer of 1,900 characters and more.
LONG = {"max_tokens": 1900, "temperature": 1, "output_config": {"format": {
    "type": "json_schema", "schema": {"type": "string", "minLength": 1900}}}}


def send_stream(wire, body):
    text = json.dumps({**body, "stream": True})
    wire.send("POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
              f"Content-Length: {len(text)}\r\n\r\n{text}")


def test_a_client_that_leaves_ends_its_answer(tiny, grammars):
    def leave():
        with tiny.wire() as wire:
            send_stream(wire, body_of("Go on.", **LONG))
            wire.read_until(b"event: content_block_delta")

    assert any(tiny.count_aborts(1, leave) for _ in range(10))
    wait_until(lambda: tiny.metric("kvasir_requests_memory_bytes") < 1 << 20)


def test_a_stream_that_takes_too_long_ends_with_an_error_event(start, grammars):
    """One of many behind each other is under way at that time."""
    daemon = start("--answer-timeout", "1500ms", "--max-num-seqs", 1)
    wires = [daemon.wire() for _ in range(16)]
    for wire in wires:
        send_stream(wire, body_of("Go on.", **LONG))
    replies = [wire.reply() for wire in wires]
    error = {"type": "error", "error": {
        "type": "timeout_error",
        "message": "The answer took longer than it may (option answer_timeout)."}}
    cut = 0
    for wire, reply in zip(wires, replies):
        wire.close()
        if reply.status != 200:
            assert reply.status == 503 and reply.json() == error
            continue
        events = events_of(reply.body.decode())
        assert events[0][0] == "message_start"
        if events[-1][0] == "error":
            assert events[-1][1] == error and events[-2][0] != "message_stop"
            cut += 1
    assert cut
    daemon.wait_idle()


def test_a_request_that_takes_too_much_memory_is_too_large(start):
    daemon = start("--max-request-memory", "1MiB")
    call = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": "\\" * 100000}}
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        refuse(daemon, path, "max_request_memory", 413, "request_too_large", **{
            "messages": [{"role": "assistant", "content": [call]}, {"role": "user", "content": ""}],
            **({"max_tokens": 5} if path == "/v1/messages" else {})})
    wait_until(lambda: daemon.metric("kvasir_requests_memory_bytes") < 10000)


def test_memory_is_given_back(scripted):
    def use():
        for name in ("two", "thinkscalls", "wrong"):
            ask(scripted, name, tools=[WEATHER, LOOKUP])
            stream(scripted, name, tools=[WEATHER, LOOKUP])
        scripted.wait_idle()
        return scripted.metric("kvasir_requests_memory_bytes")

    assert use() == use()  # the first may compile what is kept
