# SPDX-License-Identifier: Apache-2.0
"""Calls that a grammar holds the model to. The tiny model writes noise, so whatever comes of it is
the grammar's doing; and what a scripted model would write is let through, or is not."""

import json

import jsonschema
import openai
import pytest
import scripted_model
from conftest import Daemon
from test_tool_calls import joined, message_of

PARSERS = ("hermes", "llama3_json", "mistral", "mistral_args", "deepseek", "deepseek_v31",
           "granite", "smollm")
SCHEMAS = {
    "weather": {
        "type": "object", "properties": {
            "city": {"type": "string", "minLength": 1, "maxLength": 8},
            "days": {"type": "integer", "minimum": 1, "maximum": 20},
            "unit": {"enum": ["c", "f"]}},
        "required": ["city", "days", "unit"], "additionalProperties": False},
    "stop": {"type": "object", "properties": {"now": {"type": "boolean"}}, "required": ["now"],
             "additionalProperties": False},
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": schema}}
         for name, schema in SCHEMAS.items()]
STOP = {"type": "function", "function": {"name": "stop"}}
CHAT = [{"role": "user", "content": "Go on."}]
ANSWER = {"type": "json_schema", "json_schema": {"name": "a", "schema": {
    "type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
    "additionalProperties": False}}}


@pytest.fixture(scope="module", autouse=True)
def has_grammars(daemon):
    status, answer = daemon.request("/v1/chat/completions", body_of(max_tokens=1))
    if status == 400 and "build with grammars" in answer["error"]["message"]:
        pytest.skip("a build without grammars")
    assert status == 200, answer


def body_of(**more):
    return {"messages": CHAT, "max_tokens": 300, "temperature": 1.2, "seed": 3, "tools": TOOLS,
            "tool_choice": "required", "tool_call_parser": "hermes", "parallel_tool_calls": False,
            **more}


def ask(daemon, **more):
    status, answer = daemon.request("/v1/chat/completions", body_of(**more))
    assert status == 200, answer
    return answer


def refusal(daemon, param, **more):
    status, answer = daemon.request("/v1/chat/completions", body_of(**more))
    assert status == 400 and answer["error"]["param"] == param, answer
    return answer["error"]["message"]


def stream(daemon, **more):
    status, text = daemon.request("/v1/chat/completions", body_of(stream=True, **more))
    assert status == 200, text
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n")
            if line and not line.endswith("[DONE]")]


def check(calls, names=SCHEMAS):
    for call in calls:
        name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
        assert name in names
        jsonschema.validate(arguments, SCHEMAS[name])


def check_forced(message, finish, names=SCHEMAS):
    assert not message.get("content") and message["tool_calls"]
    if finish == "length":
        message["tool_calls"].pop()
    else:
        assert finish == "tool_calls"
    check(message["tool_calls"], names)


@pytest.mark.parametrize("parser", PARSERS)
def test_required_in_every_form(daemon, parser):
    more = {"tool_call_parser": parser}
    finished = 0
    for seed in range(4):
        message, finish = message_of(ask(daemon, seed=seed, **more))
        check_forced(message, finish)
        finished += finish == "tool_calls"
        streamed, streamed_finish = joined(stream(daemon, seed=seed, **more))
        assert finish == streamed_finish
        check_forced(streamed, streamed_finish)
    assert finished


def test_a_named_tool_is_the_one(daemon):
    named = {"type": "function", "function": {"name": "stop"}}
    for answer in (ask(daemon, tool_choice=named, n=2, seed=s) for s in range(3)):
        for choice in answer["choices"]:
            check_forced(choice["message"], choice["finish_reason"], ("stop",))
    chunks = stream(daemon, tool_choice=named, n=2)
    for index in (0, 1):
        check_forced(*joined(chunks, index), ("stop",))


def test_several_calls_or_one(daemon):
    numbers = set()
    for parser in ("hermes", "mistral", "deepseek"):
        for seed in range(6):
            more = {"seed": seed, "tool_call_parser": parser}
            message, finish = message_of(ask(daemon, parallel_tool_calls=True, **more))
            numbers.add(len(message["tool_calls"]))
            check_forced(message, finish)
            message, finish = message_of(ask(daemon, **more))
            assert len(message["tool_calls"]) == 1
    assert len(numbers) > 1


def test_arguments_come_in_pieces(daemon):
    chunks = stream(daemon, seed=5)
    pieces = [call for chunk in chunks for choice in chunk["choices"]
              for call in choice["delta"].get("tool_calls", ())]
    assert "name" in pieces[0]["function"] and len(pieces) > 3
    assert all("name" not in piece["function"] for piece in pieces[1:])


def test_json_answers_beside_tools(daemon):
    """As OpenAI has it: the model calls, or answers in the form."""
    called = answered = 0
    for seed in range(12):
        message, finish = message_of(ask(daemon, tool_choice="auto", response_format=ANSWER,
                                         seed=seed))
        if message.get("tool_calls"):
            check_forced(message, finish)
            called += 1
        elif finish == "stop":
            jsonschema.validate(json.loads(message["content"]),
                                ANSWER["json_schema"]["schema"])
            answered += 1
    assert called and answered


def test_what_is_refused(daemon):
    wrong = {"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "not": {"type": "object"}}}}
    strict = {"type": "function", "function": {**wrong["function"], "strict": True}}
    path = "tools[1].function.parameters"
    assert "`not`" in refusal(daemon, path, tools=[STOP, wrong])
    assert "`not`" in refusal(daemon, path, tools=[STOP, strict], tool_choice="auto")
    ask(daemon, tools=[STOP, wrong], tool_choice="auto", max_tokens=5)
    ask(daemon, tools=[STOP, wrong], max_tokens=5,
        tool_choice={"type": "function", "function": {"name": "stop"}})
    assert "can have one" in refusal(daemon, "response_format", response_format=ANSWER)
    assert "none" in refusal(daemon, "guided_regex", tool_choice="auto", guided_regex="a+")
    nothing = {"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer", "minimum": 3, "maximum": 2}},
        "required": ["a"]}}}
    assert "tools" in refusal(daemon, "tools", tools=[nothing])
    long = {"type": "function", "function": {"name": "f", "parameters": {
        "enum": ["x" * 1000 + str(i) for i in range(2000)]}}}
    assert "max_grammar" in refusal(daemon, "tools", tools=[long], tool_call_parser="mistral")


def test_memory_is_given_back(daemon):
    ask(daemon)
    daemon.wait_idle()
    before = daemon.metric("kvasir_requests_memory_bytes")
    for _ in range(3):
        ask(daemon, n=3)
    daemon.wait_idle()
    assert daemon.metric("kvasir_requests_memory_bytes") == before


def test_a_call_its_result_and_an_answer(daemon):
    client = openai.OpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0)
    messages = [{"role": "user", "content": "Stop."}]
    more = {"extra_body": {"tool_call_parser": "smollm"}, "max_tokens": 200, "seed": 1,
            "model": daemon.model, "tools": TOOLS}
    answer = client.chat.completions.create(
        messages=messages, tool_choice="required", parallel_tool_calls=False, **more)
    message = answer.choices[0].message
    (call,) = message.tool_calls
    check([call.model_dump()])
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    answer = client.chat.completions.create(messages=messages, tool_choice="none", **more)
    assert isinstance(answer.choices[0].message.content, str)


# What a script writes.

CALL = '<tool_call>\n{"name": "lookup", "arguments": {"key": "v", "n": 12}}\n</tool_call>'
LOOKUP = {"type": "function", "function": {"name": "lookup", "strict": True, "parameters": {
    "type": "object", "properties": {"key": {"enum": ["v", "w"]}, "n": {"type": "integer"}},
    "required": ["key", "n"]}}}
SCRIPTS = {
    "calls": "Let me look.\n\tSo: " + CALL,
    "wrong": ["A ", "<tool_", 'call>\n{"name": "look', 'up", "argume', 'nts": {"key"', ': "x"}}'],
    "special": ["[TOOL_CALLS]", "lookup", "[ARGS]", '{"ke', 'y": "v"', ', "n": 7', b"}"],
    "begun": ["Hm, {", '"a": 1.\n</th', "ink>\n\n", '{"ok": ', "true", b"}"],
    "thinks": ["[THINK]", " I say: ", "wait. ", "[/THINK]", "\n\n", '{"ok"', ": fa", "lse", b"}"],
}
# A token has one successor here: those that a grammar forces would lead away from the script.
SPECIAL = ("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]")


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    path = tmp_path_factory.mktemp("scripted") / "model"
    scripted_model.make(path, SCRIPTS, "tools <tool_call> <think>", SPECIAL)
    running = Daemon(path, "--kv-tokens", 16 * 1024)
    yield running
    assert running.stop() == 0, running.log
    assert "ERROR" not in running.log, running.log


def script(daemon, name, **more):
    more = {"messages": [{"role": "user", "content": name}], "temperature": 0, "tools": [LOOKUP],
            "tool_choice": "auto", "tool_call_parser": None, "max_tokens": 60,
            "logprobs": True, **more}  # with these each token is drawn
    whole = message_of(ask(daemon, **more))
    streamed = joined(stream(daemon, **more))
    assert whole[1] == streamed[1] and whole[0].get("reasoning") == streamed[0].get("reasoning")
    assert (whole[0]["content"] or "") == streamed[0]["content"]
    return whole


def test_auto_is_free_but_for_calls(scripted):
    message, finish = script(scripted, "calls")
    (call,) = message["tool_calls"]
    assert message["content"] == "Let me look.\n\tSo: " and finish == "tool_calls"
    assert call["function"] == {"name": "lookup", "arguments": '{"key": "v", "n": 12}'}


def test_auto_holds_a_call_to_its_schema(scripted):
    message, finish = script(scripted, "wrong")
    (call,) = message["tool_calls"]
    assert message["content"] == "A "
    assert call["function"]["arguments"].startswith('{"key"')
    assert '"x"' not in call["function"]["arguments"]


def test_marks_that_are_special_tokens(scripted):
    for choice in ("auto", "required"):
        message, finish = script(scripted, "special", tool_call_parser="mistral_args",
                                 tool_choice=choice)
        (call,) = message["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"key": "v", "n": 7}
        assert finish == "tool_calls" and not message["content"]


@pytest.mark.parametrize("name, parser, reasoning, ok", [
    ("begun", "think", 'Hm, {"a": 1.', True), ("thinks", "mistral", " I say: wait. ", False)])
def test_a_form_begins_behind_reasoning(scripted, name, parser, reasoning, ok):
    for more in ({"tools": None, "tool_choice": None}, {}):
        message, finish = script(scripted, name, response_format=ANSWER, reasoning_parser=parser,
                                 **more)
        assert message["reasoning"] == reasoning
        assert json.loads(message["content"]) == {"ok": ok} and finish == "stop"


def test_calls_begin_behind_reasoning(scripted):
    message, finish = script(scripted, "begun", tool_choice="required")
    assert message["reasoning"] == 'Hm, {"a": 1.' and message["tool_calls"]
    assert message["tool_calls"][0]["function"]["name"] == "lookup"


def test_reasoning_that_is_not_told_apart_is_no_answer(scripted):
    message, _ = script(scripted, "thinks", response_format=ANSWER, tools=None, tool_choice=None,
                        reasoning_parser="none")
    assert message["content"].startswith("{") and "reasoning" not in message
