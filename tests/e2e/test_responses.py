# SPDX-License-Identifier: Apache-2.0
"""OpenAI's responses over HTTP: whole answers, and streams event by event, each as strict as the
openai package types it. A scripted model says what is wanted (test_tool_calls.py); what grammars
hold a model to is tried on one that writes noise."""

import json

import jsonschema
import openai
import pydantic
import pytest
import scripted_model
from conftest import Daemon, wait_until
from openai.types.responses import Response, ResponseStreamEvent
from test_tool_calls import SCRIPTS, SPECIAL

TOOL = {"type": "function", "name": "get_weather", "description": "Tells it.", "strict": None,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
OTHER = {"type": "function", "name": "lookup", "parameters": None}
LOGPROBS = ["message.output_text.logprobs"]
EVENT = pydantic.TypeAdapter(ResponseStreamEvent)
BY_ITEM = {"reasoning": "reasoning_text", "message": "output_text",
           "function_call": "function_call_arguments"}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    path = tmp_path_factory.mktemp("scripted") / "model"
    scripted_model.make(path, SCRIPTS, "tools <tool_call> <think>", SPECIAL)
    running = Daemon(path, "--kv-tokens", 16 * 1024, "--tool-call-parser", "granite")
    yield running
    assert running.stop() == 0, running.log
    assert "ERROR" not in running.log, running.log


@pytest.fixture(scope="module")
def described(scripted):
    """Checks of what /openapi.json says of bodies, answers and events."""
    _, document = scripted.request("/openapi.json")
    operation = document["paths"]["/v1/responses"]["post"]
    schemas = {"body": operation["requestBody"]["content"]["application/json"]["schema"],
               "answer": {"$ref": "#/components/schemas/Response"},
               "event": {"$ref": "#/components/schemas/ResponseEvent"}}
    return {name: jsonschema.Draft202012Validator({**schema, "components": document["components"]})
            for name, schema in schemas.items()}


def body_of(input, **more):
    return {"input": input, "temperature": 0, **more}


def checked(answer):
    """An answer that is one to the openai package, to the letter."""
    response = Response.model_validate(answer, strict=True)
    assert response.model_extra == {"store": False}
    for item in response.output:
        assert not item.model_extra
    return answer


def ask(daemon, input, **more):
    status, answer = daemon.request("/v1/responses", body_of(input, **more))
    assert status == 200, answer
    return checked(answer)


def refuse(daemon, param, words, **body):
    status, answer = daemon.request("/v1/responses", {"input": "plain", **body})
    assert status == 400, answer
    assert answer["error"]["param"] == param and words in answer["error"]["message"], answer


def events_of(text):
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        head, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert head == "event: " + event["type"]
        parsed = EVENT.validate_python(event, strict=True)
        assert not parsed.model_extra or event["type"].startswith("response.c"), event
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def stream(daemon, input, **more):
    status, text = daemon.request("/v1/responses", body_of(input, stream=True, **more))
    assert status == 200, text
    return events_of(text)


def pop(events, type):
    event = events.pop(0)
    assert event["type"] == type
    return event


def pop_item(events, index):
    """One item's events, in their order; they say the same."""
    added = pop(events, "response.output_item.added")
    item, deltas, logprobs = added["item"], [], []
    assert added["output_index"] == index and item["status"] == "in_progress"
    place = {"item_id": item["id"], "output_index": index}
    has_part = item["type"] != "function_call"
    if has_part:
        place["content_index"] = 0
        part = pop(events, "response.content_part.added")
        assert item["content"] == [] and part["part"]["text"] == ""
        assert place.items() <= part.items()
    else:
        assert item["arguments"] == ""
    kind = f"response.{BY_ITEM[item['type']]}"
    while events[0]["type"] == kind + ".delta":
        delta = events.pop(0)
        assert place.items() <= delta.items()
        deltas.append(delta["delta"])
        logprobs += delta.get("logprobs", [])
    done = pop(events, kind + ".done")
    assert place.items() <= done.items()
    assert done["text" if has_part else "arguments"] == "".join(deltas)
    assert done.get("logprobs", []) == logprobs
    if has_part:
        part = pop(events, "response.content_part.done")
        assert place.items() <= part.items()
    last = pop(events, "response.output_item.done")
    assert last["output_index"] == index
    same = {"id", "type", "call_id", "name", "role"} & set(item)
    assert all(last["item"][key] == item[key] for key in same)
    if has_part:
        assert last["item"]["content"] == [part["part"]]
        assert part["part"]["text"] == done["text"]
        assert part["part"].get("logprobs", []) == logprobs
    else:
        assert last["item"]["arguments"] == done["arguments"]
    return last["item"]


def last_of(events):
    """The response that a stream ends with, after all that comes before was looked at."""
    events = list(events)
    created = pop(events, "response.created")["response"]
    running = pop(events, "response.in_progress")["response"]
    assert created == running and created["status"] == "in_progress"
    assert created["output"] == [] and created["usage"] is None
    items = []
    while len(events) > 1:
        items.append(pop_item(events, len(items)))
    (event,) = events
    response = checked(event["response"])
    assert event["type"] == "response." + response["status"]
    assert response["output"] == items
    for key, value in created.items():
        if key not in ("status", "output", "usage", "incomplete_details"):
            assert response[key] == value
    return response


def shown(response):
    """What does not change from answer to answer."""
    items = []
    for item in response["output"]:
        text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        items.append((item["type"], item.get("name"), text, item["status"]))
    return items


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("tools", [None, [TOOL, OTHER]])
def test_a_stream_comes_to_the_whole_answer(scripted, name, tools):
    more = {"tools": tools}
    if name == "special":
        more.update(tool_call_parser="mistral_args", include=LOGPROBS)
    whole = ask(scripted, name, **more)
    streamed = last_of(stream(scripted, name, **more))
    assert shown(streamed) == shown(whole)
    same = set(whole) - {"id", "created_at", "completed_at", "output"}
    assert {key: whole[key] for key in same} == {key: streamed[key] for key in same}
    chat = {"messages": [{"role": "user", "content": name}], "temperature": 0,
            "tool_call_parser": more.get("tool_call_parser"), "logprobs": bool(more.get("include")),
            "tools": tools and [{"type": "function", "function": tool} for tool in tools]}
    _, answer = scripted.request("/v1/chat/completions", chat)
    message = answer["choices"][0]["message"]
    by_type = {type: [item for item in shown(whole) if item[0] == type] for type in BY_ITEM}
    assert "".join(text for _, _, text, _ in by_type["message"]) == (message["content"] or "")
    assert [(name, text) for _, name, text, _ in by_type["function_call"]] == [
        (call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls", ())]
    reasoning = message.get("reasoning")
    assert [text for _, _, text, _ in by_type["reasoning"]] == ([reasoning] if reasoning else [])


def test_a_text(scripted):
    answer = ask(scripted, "plain")
    (item,) = answer["output"]
    assert answer["id"].startswith("resp_") and len(answer["id"]) == 37
    assert item["id"].startswith("msg_") and item["role"] == "assistant"
    assert item["content"] == [{"type": "output_text", "text": SCRIPTS["plain"], "annotations": [],
                                "logprobs": []}]
    assert answer["status"] == "completed" and answer["completed_at"] >= answer["created_at"]
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}


def test_the_answer_says_what_was_asked(scripted):
    asked = {"instructions": "Be \"brief\".", "max_output_tokens": 50, "metadata": {"a": "ü"},
             "parallel_tool_calls": False, "prompt_cache_key": "k", "reasoning": {"effort": "low"},
             "safety_identifier": "s", "tools": [TOOL], "tool_choice": "none", "top_p": 0.5,
             "user": "u", "text": {"format": {"type": "text"}, "verbosity": "low"}}
    answer = ask(scripted, "plain", store=False, background=False, truncation="disabled", **asked)
    asked["reasoning"]["summary"] = None
    assert {key: answer[key] for key in asked} == asked
    assert answer["temperature"] == 0 and answer["model"] == scripted.model
    plain = ask(scripted, "plain", temperature=None)
    unsaid = {"instructions": None, "max_output_tokens": None, "metadata": {}, "tools": [],
              "parallel_tool_calls": True, "tool_choice": "auto", "temperature": 1, "top_p": 1,
              "text": {"format": {"type": "text"}, "verbosity": None}, "error": None,
              "previous_response_id": None, "truncation": "disabled", "background": False}
    assert {key: plain[key] for key in unsaid} == unsaid


def test_text_and_calls_are_items_in_their_order(scripted):
    answer = ask(scripted, "two", tools=[TOOL, OTHER])
    assert shown(answer) == [("message", None, "Both.\n", "completed"),
                             ("function_call", "lookup", '{"key": 1.50}', "completed"),
                             ("function_call", "get_weather", "{}", "completed")]
    ids = [item["id"] for item in answer["output"]]
    assert len(set(ids)) == 3 and [id.split("_")[0] for id in ids] == ["msg", "fc", "fc"]
    assert answer["output"][1]["call_id"] != answer["output"][2]["call_id"]
    assert [item[0] for item in shown(ask(scripted, "tail", tools=[OTHER]))] == [
        "function_call", "message"]
    for get in (ask, lambda *a, **m: last_of(stream(*a, **m))):
        (call,) = get(scripted, "tail", tools=[OTHER], parallel_tool_calls=False)["output"]
        assert call["type"] == "function_call" and call["status"] == "completed"
    scripted.wait_idle()


def test_reasoning(scripted):
    answer = ask(scripted, "thinks")
    assert shown(answer) == [("reasoning", None, "Let me see.", "completed"),
                             ("message", None, "So it is done.", "completed")]
    reasoning = answer["output"][0]
    assert reasoning["id"].startswith("rs_") and reasoning["summary"] == []
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": 5}
    assert [item[0] for item in shown(ask(scripted, "thinks", reasoning_parser="none"))] == [
        "message"]


def test_what_is_cut_off_is_incomplete(scripted):
    for get in (ask, lambda *a, **m: last_of(stream(*a, **m))):
        answer = get(scripted, "plain", max_output_tokens=3)
        (item,) = shown(answer)
        assert item[3] == "incomplete" and SCRIPTS["plain"].startswith(item[2]) and item[2]
        assert answer["status"] == "incomplete"
        assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
        assert "completed_at" not in answer
        answer = get(scripted, "thinks", max_output_tokens=2)
        assert shown(answer) == [("reasoning", None, "Let me ", "incomplete")]


def test_an_empty_answer_has_a_message(scripted):
    for get in (ask, lambda *a, **m: last_of(stream(*a, **m))):
        answer = get(scripted, "plain", stop=SCRIPTS["plain"][:4])
        assert shown(answer) == [("message", None, "", "completed")]
        assert answer["status"] == "completed"


def test_logprobs(scripted):
    for name, tools in (("plain", []), ("thinks", []), ("two", [TOOL, OTHER])):
        more = {"include": LOGPROBS, "top_logprobs": 2, "tools": tools}
        whole = ask(scripted, name, **more)
        assert whole["top_logprobs"] == 2
        streamed = last_of(stream(scripted, name, **more))
        assert shown(whole) == shown(streamed)
        for answer in (whole, streamed):
            for item in answer["output"]:
                if item["type"] != "message":
                    continue
                (part,) = item["content"]
                tokens = [entry["token"] for entry in part["logprobs"]]
                assert part["text"] in "".join(tokens) and "think" not in "".join(tokens)
                assert all(len(entry["top_logprobs"]) == 2 for entry in part["logprobs"])
                assert all(entry["bytes"] == list(entry["token"].encode())
                           for entry in part["logprobs"])


@pytest.mark.parametrize("name, more", [
    ("plain", {"instructions": "x", "metadata": {"a": "b"}, "reasoning": {"effort": "low"}}),
    ("two", {"tools": [TOOL, OTHER], "tool_choice": "auto", "include": LOGPROBS, "user": "u"}),
    ("thinks", {"include": LOGPROBS, "top_logprobs": 3, "text": {"format": {"type": "text"}}}),
    ("thinkscalls", {"tools": [OTHER], "max_output_tokens": 9, "seed": 5, "stop": ["x"]}),
    ("plain", {"input": [{"role": "assistant", "content": [
        {"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "plain"}]}),
], ids=str)
def test_bodies_answers_and_events_are_as_described(scripted, described, name, more):
    body = {**body_of(name), **more}
    described["body"].validate(body)
    status, answer = scripted.request("/v1/responses", body)
    assert status == 200, answer
    described["answer"].validate(answer)
    for event in stream(scripted, body.pop("input"), **body):
        described["event"].validate(event)


def test_what_is_refused_is_not_described(scripted, described):
    _, index = scripted.request("/")
    assert {"method": "POST", "path": "/v1/responses"} in index["paths"]
    assert all(path["path"] != "/v1/responses/" for path in index["paths"])
    for more in ({"store": False}, {"previous_response_id": "x"}, {"input": []}, {"tools": [{}]},
                 {"include": ["x"]}, {"top_logprobs": 21}, {"text": {"style": "x"}}):
        assert not described["body"].is_valid(body_of("plain") | more), more


# Items as input.


def test_all_ways_to_say_the_same(scripted):
    for input in ("plain", [{"role": "user", "content": "plain"}],
                  [{"type": "message", "role": "user", "content": "plain", "id": "msg_1"}],
                  [{"role": "user", "content": [{"type": "input_text", "text": "plain"}]}]):
        assert shown(ask(scripted, input)) == [("message", None, SCRIPTS["plain"], "completed")]
    answer = ask(scripted, [{"role": "assistant", "content": "Hm"}, {
        "role": "developer", "content": "plain"}], instructions="Be brief.")
    assert shown(answer) == [("message", None, SCRIPTS["plain"], "completed")]


@pytest.mark.parametrize("output", ["thinks", [{"type": "input_text", "text": "thinks"}]],
                         ids=str)
@pytest.mark.parametrize("name", ["one", "two", "thinkscalls"])
def test_what_was_answered_goes_back(scripted, name, output):
    first = ask(scripted, name, tools=[TOOL, OTHER])
    calls = [item for item in first["output"] if item["type"] == "function_call"]
    answer = ask(scripted, [
        {"role": "user", "content": name}, *first["output"],
        *({"type": "function_call_output", "call_id": call["call_id"], "output": output}
          for call in calls)], tools=[TOOL, OTHER])
    assert [item[0] for item in shown(answer)] == ["reasoning", "message"]
    assert answer["usage"]["input_tokens"] == 1  # the script's name


@pytest.mark.parametrize("input, place, words", [
    (None, "input", "is missing"), ([], "input", "not empty"), (5, "input", "a string or"),
    ({"role": "user"}, "input", "a string or"), (["x"], "input[0]", "an object"),
    ([{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}], "input[1].role", "must"),
    ([{"role": "user"}], "input[0].content", "a string or"),
    ([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}],
     "input[0].content[0]", "input_image"),
    ([{"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_file"}]}],
     "input[0].content[1]", "input_file"),
    ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text",
     "a string"),
    ([{"role": "user", "content": ["x"]}], "input[0].content[0]", "an object"),
    ([{"type": "item_reference", "id": "msg_1"}], "input[0]", "stores"),
    ([{"id": "msg_1"}], "input[0]", "stores"),
    ([{"type": "web_search_call", "id": "x"}], "input[0]", "web_search_call"),
    ([{"type": "computer_call_output", "call_id": "x"}], "input[0]", "computer_call_output"),
    ([{"type": "function_call", "name": "f", "arguments": "{}"}], "input[0].call_id", "a string"),
    ([{"type": "function_call", "call_id": "x", "name": "f", "arguments": {}}],
     "input[0].arguments", "a string"),
    ([{"type": "function_call_output", "output": "x"}], "input[0].call_id", "a string"),
    ([{"type": "function_call_output", "call_id": "x", "output": 5}], "input[0].output",
     "a string or"),
    ([{"type": "function_call_output", "call_id": "x", "output": [{"type": "input_image"}]}],
     "input[0].output[0]", "input_image"),
    ([{"type": "reasoning", "summary": [], "encrypted_content": "x"}],
     "input[0].encrypted_content", "cannot be read"),
    ([{"type": "reasoning", "content": "x"}], "input[0].content", "an array"),
    ([{"type": "reasoning", "summary": [{"type": "x", "text": "x"}]}], "input[0].summary[0]", "x"),
], ids=str)
def test_input_that_cannot_be_read(scripted, input, place, words):
    refuse(scripted, place, words, input=input)


def test_errors_of_the_chat_name_the_items(scripted):
    deep = "[" * 600 + "]" * 600
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    refuse(scripted, "input[3].arguments", "`input[3].arguments`", instructions="Say.", input=[
        {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, call,
        {**call, "arguments": deep}, {"role": "user", "content": "plain"}])
    refuse(scripted, "input", "`input`", input="plain " * 3000)
    refuse(scripted, "input", "in `input`", max_output_tokens=100000)
    refuse(scripted, "tools[1]", "`tools[1].name`", tools=[OTHER, {**TOOL, "name": "a b"}])


# Parameters.


@pytest.mark.parametrize("param, words, more", [
    ("previous_response_id", "no answer is stored", {"previous_response_id": "resp_1"}),
    ("conversation", "no answer is stored", {"conversation": "conv_1"}),
    ("background", "not supported", {"background": True}),
    ("store", "no answer is stored", {"store": True}),
    ("truncation", "not supported", {"truncation": "auto"}),
    ("prompt", "not supported", {"prompt": {"id": "x"}}),
    ("max_tool_calls", "not supported", {"max_tool_calls": 1}),
    ("include[0]", "must be", {"include": ["file_search_call.results"]}),
    ("top_logprobs", "needs `include`", {"top_logprobs": 1}),
    ("top_logprobs", "0 to 20", {"top_logprobs": 21, "include": LOGPROBS}),
    ("metadata", "strings", {"metadata": {"a": 5}}),
    ("max_output_tokens", "whole number", {"max_output_tokens": 0}),
    ("max_tokens", "no parameter", {"max_tokens": 5}),
    ("messages", "no parameter \"messages\"", {"messages": []}),
    ("max_output_token", "`max_output_tokens`", {"max_output_token": 5}),
    ("stream_options", "include_usage", {"stream": True,
                                         "stream_options": {"include_usage": True}}),
    ("text", "style", {"text": {"style": "x"}}),
    ("text.verbosity", "must be", {"text": {"verbosity": "x"}}),
    ("text.format.type", "must be", {"text": {"format": {"type": "x"}}}),
    ("text.format", "schema", {"text": {"format": {"type": "json_object", "schema": {}}}}),
    ("text.format.name", "a string", {"text": {"format": {"type": "json_schema", "schema": {}}}}),
    ("text.format.schema", "schema", {"text": {"format": {"type": "json_schema", "name": "x"}}}),
    ("text.format", "cannot be used", {"text": {"format": {
        "type": "json_schema", "name": "x", "schema": {"type": "nothing"}}}}),
    ("reasoning.summary", "\"auto\"", {"reasoning": {"summary": "detailed"}}),
    ("reasoning.effort", "a string", {"reasoning": {"effort": 5}}),
    ("reasoning", "budget", {"reasoning": {"budget": 5}}),
    ("tools[0]", "web_search", {"tools": [{"type": "web_search"}]}),
    ("tools[0]", "\"function\", which", {"tools": [{"type": "function", "function": {}}]}),
    ("tools[0]", "`tools[0].name`", {"tools": [{"type": "function"}], "tool_choice": "none"}),
    ("tools[0]", "defer_loading", {"tools": [{**TOOL, "defer_loading": True}]}),
    ("tools[1]", "`tools[1].name`", {"tools": [TOOL, TOOL]}),
    ("tool_choice", "must be", {"tools": [TOOL], "tool_choice": {"type": "web_search"}}),
    ("tool_choice", "not in `tools`", {"tools": [TOOL],
                                       "tool_choice": {"type": "function", "name": "x"}}),
], ids=str)
def test_what_is_refused(scripted, param, words, more):
    refuse(scripted, param, words, **more)


def test_what_says_nothing_new_is_taken(scripted):
    assert ask(scripted, "plain", include=["reasoning.encrypted_content"], service_tier="auto",
               reasoning={"effort": "high", "summary": "auto"}, prompt_cache_retention="24h")
    assert stream(scripted, "plain", stream_options={"include_obfuscation": False})


def test_nothing_is_stored(scripted):
    client = openai.OpenAI(base_url=scripted.url + "/v1", api_key="none", max_retries=0)
    id = ask(scripted, "plain")["id"]
    for call in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError, match="stores none"):
            call(id)
    with pytest.raises(openai.APIStatusError) as caught:
        client.responses.cancel(id)
    assert caught.value.status_code in (404, 405)


# Grammars, by the openai package.


@pytest.fixture
def client(daemon):
    with openai.OpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def grammars(daemon):
    status, answer = daemon.request("/v1/completions", {"prompt": "a", "max_tokens": 1,
                                                        "guided_choice": ["a"]})
    if status == 400 and "built without" in answer["error"]["message"]:
        pytest.skip("a build without grammars")
    assert status == 200, answer


class Reading(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    place: str = pydantic.Field(max_length=8)
    warm: bool


NOISE = {"max_output_tokens": 300, "temperature": 1.2, "extra_body": {"seed": 3}}
CALLING = {"tool_call_parser": "hermes", "seed": 3}
STRICT = {"type": "function", "name": "read", "strict": True,
          "parameters": {**Reading.model_json_schema(), "additionalProperties": False}}


def test_parse(client, daemon, grammars):
    answer = client.responses.parse(model=daemon.model, input="Go on.", text_format=Reading,
                                    **NOISE)
    assert answer.status == "completed" and isinstance(answer.output_parsed, Reading)
    with client.responses.stream(model=daemon.model, input="Go on.", text_format=Reading,
                                 **NOISE) as events:
        for event in events:
            pass
        assert events.get_final_response().output_parsed == answer.output_parsed
    assert event.type == "response.completed"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "read"}], ids=str)
def test_forced_calls(client, daemon, grammars, choice):
    other = {**STRICT, "name": "other"}
    more = {"tools": [other, STRICT], "tool_choice": choice, "parallel_tool_calls": False,
            **NOISE, "extra_body": CALLING}
    (call,) = client.responses.create(model=daemon.model, input="Go on.", **more).output
    jsonschema.validate(json.loads(call.arguments), STRICT["parameters"])
    assert call.name == "read" or choice == "required"
    events = client.responses.create(model=daemon.model, input="Go on.", stream=True, **more)
    *_, last = events
    (streamed,) = last.response.output
    assert (streamed.name, streamed.arguments) == (call.name, call.arguments)
    assert streamed.status == "completed"


def test_a_json_object(client, daemon, grammars):
    answer = client.responses.create(model=daemon.model, input="Go on.",
                                     text={"format": {"type": "json_object"}}, **NOISE)
    if answer.status == "completed":
        assert isinstance(json.loads(answer.output_text), dict)
    else:
        assert answer.output_text.startswith("{")


def test_pages_of_the_prompt_are_counted(client, daemon):
    input = "One two three. " * 40
    first, second = (client.responses.create(model=daemon.model, input=input, max_output_tokens=1)
                     for _ in range(2))
    n = first.usage.input_tokens // 64 * 64
    before = first.usage.input_tokens_details
    assert before.cached_tokens + before.cache_write_tokens == n > 0
    after = second.usage.input_tokens_details
    assert after.cached_tokens == n and after.cache_write_tokens == 0


# What goes wrong on the way.


LONG = {"input": "Go on.", "max_output_tokens": 1900, "ignore_eos": True}


def send(wire, **body):
    data = json.dumps({**LONG, **body}).encode()
    wire.send(f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
              f"Content-Length: {len(data)}\r\n\r\n".encode() + data)


def check_failed(events, words):
    *before, error, failed = events
    assert before[0]["type"] == "response.created" and error["type"] == "error"
    assert words in error["message"]
    assert failed["type"] == "response.failed" and failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": error["message"]}
    checked(failed["response"])
    return error


def test_answers_that_take_too_long_fail(start):
    """One of many streams behind each other is under way at that time; a whole answer is last."""
    daemon = start("--answer-timeout", "1500ms", "--max-num-seqs", 1)
    wires = [daemon.wire() for _ in range(16)]
    for wire in wires[:-1]:
        send(wire, stream=True)
    send(wires[-1])
    replies = [wire.reply() for wire in wires]
    cut = 0
    for wire, reply in zip(wires, replies):
        wire.close()
        if reply.status != 200:
            assert reply.status == 503 and reply.json()["error"]["code"] == "timeout"
            continue
        events = events_of(reply.body.decode())
        if events[-1]["type"] == "response.incomplete":  # all 1,900 tokens were in time
            continue
        assert check_failed(events, "answer_timeout")["code"] == "timeout"
        deltas = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
        (item,) = events[-1]["response"]["output"]
        assert item["content"][0]["text"] == deltas and item["status"] == "incomplete"
        cut += 1
    assert cut and replies[-1].status == 503
    daemon.wait_idle()


def test_an_answer_that_takes_too_much_memory(start):
    daemon = start("--max-request-memory", "256KiB")
    more = {"include": LOGPROBS, "top_logprobs": 20}
    status, answer = daemon.request("/v1/responses", {**LONG, **more})
    assert status == 413 and "max_request_memory" in answer["error"]["message"], answer
    status, text = daemon.request("/v1/responses", {**LONG, **more, "stream": True})
    assert status == 200 and check_failed(events_of(text), "max_request_memory")
    status, answer = daemon.request("/v1/responses", {"input": "x", "instructions": "y" * 200000})
    assert status == 413 and "max_request_memory" in answer["error"]["message"], answer
    daemon.wait_idle()
    wait_until(lambda: daemon.metric("kvasir_requests_memory_bytes") < 10000)


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_goes(daemon, streams):
    before = daemon.metric("kvasir_requests_memory_bytes")

    def leave():
        made = daemon.metric("vllm:generation_tokens_total")
        with daemon.wire() as wire:
            send(wire, stream=streams)
            wait_until(lambda: daemon.metric("vllm:generation_tokens_total") > made)

    assert any(daemon.count_aborts(1, leave) for _ in range(10))
    wait_until(lambda: daemon.metric("kvasir_requests_memory_bytes") <= before)


def test_memory_is_given_back(scripted):
    def use():
        more = {"tools": [TOOL, OTHER], "instructions": "x" * 10000, "include": LOGPROBS}
        for name in ("two", "thinkscalls", "wrong"):
            ask(scripted, name, **more)
            stream(scripted, name, **more)
        scripted.wait_idle()

    use()  # grammars that it compiles are kept
    before = scripted.metric("kvasir_requests_memory_bytes")
    use()
    wait_until(lambda: scripted.metric("kvasir_requests_memory_bytes") == before)
