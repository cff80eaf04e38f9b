# SPDX-License-Identifier: Apache-2.0
"""GET /openapi.json against the daemon that it describes: by schemathesis, which asks what the
document allows and what it does not, and by values of our own for each parameter.

SCHEMATHESIS_EXAMPLES is how many cases of its own schemathesis makes for each path, beside those
that cover the schema one by one: 40 make more than 2,000 cases in a few minutes."""

import copy
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 1}
COMPLETION = {"prompt": [5, 6, 7], "max_completion_tokens": 1}
BODIES = {
    "/v1/completions": COMPLETION,
    "/v1/chat/completions": CHAT,
    "/v1/messages": {"messages": CHAT["messages"], "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": CHAT["messages"]},
    "/v1/responses": {"input": "hi", "max_output_tokens": 1},
    "/tokenize": {"messages": CHAT["messages"]},
    "/detokenize": {"tokens": [5]},
}


@pytest.fixture(scope="module")
def document(daemon):
    status, answer = daemon.request("/openapi.json")
    assert status == 200
    return answer


def body_schema(document, path):
    body = document["paths"][path]["post"]["requestBody"]
    return body["content"]["application/json"]["schema"]


def is_named(name, error):
    """Whether an error is about this parameter; Anthropic's have no member for it."""
    return error["param"] == name if "param" in error else f"`{name}`" in error["message"]


def validator(document, schema):
    return jsonschema.Draft202012Validator({**schema, "components": document["components"]})


def test_it_is_openapi(document):
    OpenAPIV31SpecValidator(document).validate()
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_it_is_there_before_the_model(start):
    daemon = start(wait=False)
    assert daemon.request("/openapi.json")[0] == 200
    status, page = daemon.request("/docs")
    assert status == 200 and page.startswith("<!doctype html>")
    daemon.wait_log(r"ready url=.*\n")
    assert "src=" not in page and page.count("href=\"http") == 0


def test_the_index_names_what_it_describes(daemon, document):
    _, index = daemon.request("/")
    paths = {re.sub(r"/\{\w+\}$", "/", path) for path in document["paths"]}
    assert {entry["path"] for entry in index["paths"]} == paths


# Answers.


@pytest.mark.parametrize("path", [
    "/v1/models", "/v1/kv", "/tokenizer_info", "/health", "/ping", "/version", "/",
    "/openapi.json"])
def test_answers_are_of_their_schemas(daemon, document, path):
    status, answer = daemon.request(path)
    content = document["paths"][path]["get"]["responses"][str(status)]["content"]
    validator(document, content["application/json"]["schema"]).validate(answer)


@pytest.mark.parametrize("path", BODIES)
def test_answers_to_bodies_are_of_their_schemas(daemon, document, path):
    responses = document["paths"][path]["post"]["responses"]
    for more in ({}, {"logprobs": True, "top_logprobs": 3}, {"logprobs": 3, "echo": True},
                 {"model": "x"}, {"return_token_strs": True}, {"n": 2, "stop_token_ids": [1]}):
        status, answer = daemon.request(path, {**BODIES[path], **more})
        schema = responses[str(status)]["content"]["application/json"]["schema"]
        validator(document, schema).validate(answer)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_events_are_of_their_schema(daemon, document, path):
    media = document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]
    event = media["schema"]["properties"]["data"]["anyOf"][0]["contentSchema"]
    for more in ({}, {"stream_options": {"include_usage": True}}, {"n": 2},
                 {"logprobs": True, "top_logprobs": 2} if "chat" in path else {"logprobs": 2}):
        _, text = daemon.request(path, {**BODIES[path], "stream": True, "ignore_eos": True,
                                        "max_completion_tokens": 4, **more})
        events = re.findall(r"data: (.*)\n\n", text)
        assert len(events) > 2 and events[-1] == "[DONE]"
        for data in events[:-1]:
            validator(document, event).validate(json.loads(data))


REFUSALS = {
    400: ["Host: k", "Host: l"],
    404: None,
    413: ["Host: k", "Content-Length: 99999999999"],
    415: ["Host: k", "Content-Length: 2", "Content-Type: text/plain", "", "{}"],
    417: ["Host: k", "Expect: wonders"],
    431: ["Host: k", "X: " + "x" * 70000],
    501: ["Host: k", "Transfer-Encoding: gzip, chunked"],
    505: None,
}


@pytest.mark.parametrize("status", REFUSALS)
def test_refusals_are_listed(daemon, document, status):
    lines = REFUSALS[status] or ["Host: k", "Content-Length: 29",
                                 "Content-Type: application/json", "",
                                 '{"model": "x", "prompt": [5]}']
    version = "HTTP/9.1" if status == 505 else "HTTP/1.1"
    with daemon.wire() as wire:
        wire.send("\r\n".join([f"POST /v1/completions {version}", *lines]) +
                  ("" if "" in lines else "\r\n\r\n"))
        reply = wire.reply()
    assert reply.status == status
    listed = document["paths"]["/v1/completions"]["post"]["responses"][str(status)]
    validator(document, listed["content"]["application/json"]["schema"]).validate(reply.json())


def test_events_with_names_are_of_their_schema(daemon, document):
    path = "/v1/messages"
    media = document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]
    (data,) = media["schema"]["properties"]["data"]["anyOf"]
    _, text = daemon.request(path, {**BODIES[path], "stream": True, "max_tokens": 20})
    events = re.findall(r"event: (.*)\ndata: (.*)\n\n", text)
    assert len(events) > 4 and events[-1][0] == "message_stop"
    for name, said in events:
        validator(document, media["schema"]).validate({"event": name, "data": said})
        validator(document, data["contentSchema"]).validate(json.loads(said))


# Parameters: what a schema takes is taken, and what it does not take is refused.

UNSUPPORTED = {
    "/v1/completions": {"suffix": "x", "bad_words": ["x"], "use_beam_search": True,
                        "truncate_prompt_tokens": 1, "prompt_logprobs": 1},
    "/v1/responses": {"store": True, "background": True, "previous_response_id": "resp_1",
                      "truncation": "auto", "conversation": "x", "max_tool_calls": 1},
    "/v1/chat/completions": {"audio": {}, "functions": [{}], "modalities": ["audio"],
                             "echo": True, "web_search_options": {}, "chat_template": "x"},
    "/v1/messages": {"container": "x", "context_management": {}, "mcp_servers": [{}],
                     "inference_geo": "us", "thread": {"type": "create"}},
}


@pytest.mark.parametrize("path", UNSUPPORTED)
def test_what_is_not_supported_is_absent_and_refused(daemon, document, path):
    properties = body_schema(document, path)["properties"]
    for name, value in UNSUPPORTED[path].items():
        status, answer = daemon.request(path, {**BODIES[path], name: value})
        assert name not in properties
        assert status == 400 and is_named(name, answer["error"])


@pytest.mark.parametrize("path", BODIES)
def test_what_must_be_given_is_asked_for(daemon, document, path):
    for name in body_schema(document, path)["required"]:
        others = {key: value for key, value in BODIES[path].items() if key != name}
        for body in (others, {**others, name: None}):
            status, answer = daemon.request(path, body)
            assert status == 400 and is_named(name, answer["error"])


def resolve(document, schema):
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**document["components"]["schemas"][name], **rest}
    return schema


def make_string(r, schema):
    n = r.randint(schema.get("minLength", 0), 8)
    return "".join(r.choice("abc0_é") if "pattern" not in schema else r.choice("abc0_")
                   for _ in range(n))


def make_object(r, document, schema):
    value = {name: make(r, document, inner) for name, inner in schema.get("properties", {}).items()
             if name in schema.get("required", ()) or r.random() < 0.5}
    if "propertyNames" in schema:
        value.update({str(r.randint(0, 500)): make(r, document, schema["additionalProperties"])
                      for _ in range(r.randint(0, 3))})
    return value


def make(r, document, schema):
    """A value of a schema, as far as this document's schemas go."""
    schema = resolve(document, schema)
    if "anyOf" in schema:
        return make(r, document, r.choice(schema["anyOf"]))
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return r.choice(schema["enum"])
    kind = schema.get("type", "null")
    kind = r.choice(kind) if isinstance(kind, list) else kind
    if kind == "array":
        n = r.randint(schema.get("minItems", 0), min(3, schema.get("maxItems", 3)))
        return [make(r, document, schema.get("items", {"type": "string"})) for _ in range(n)]
    if kind == "object":
        return make_object(r, document, schema)
    low, high = schema.get("minimum", -1000), schema.get("maximum", 1000)
    return {
        "null": lambda: None,
        "boolean": lambda: r.random() < 0.5,
        "string": lambda: make_string(r, schema),
        "integer": lambda: r.choice([low, high, r.randint(low, high), min(high, low + 5)]),
        "number": lambda: r.choice([low, high, r.uniform(low, high)]),
    }[kind]()


JUNK = [True, False, 0, -1, 1.5, 10**12, -10**12, "", "x", "a\0b", [], [None], [1], ["x"], {},
        {"x": 1}, {"x": None}, {"-1": 1}, {"type": "x"}, None]


def spoil(r, value):
    """The value with one thing in it changed, at any depth."""
    if isinstance(value, dict) and value and r.random() < 0.7:
        name = r.choice(list(value))
        change = r.random()
        if change < 0.2:
            return {key: item for key, item in value.items() if key != name}
        if change < 0.35:
            return {**value, "zzzz": r.choice(JUNK)}
        return {**value, name: spoil(r, value[name])}
    if isinstance(value, list) and value and r.random() < 0.7:
        i = r.randrange(len(value))
        if r.random() < 0.2:
            return value * 20
        return [*value[:i], spoil(r, value[i]), *value[i + 1:]]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and r.random() < 0.5:
        # Beyond 2^53 the daemon takes integers written as such only.
        return value + r.choice([-10**6, -1, 1, 10**6] + [0.5] * (abs(value) < 2**50))
    return r.choice(JUNK)


# What a value needs of other parameters to be taken.
COMPANIONS = {
    "stream_options": {"stream": True},
    "top_logprobs": {"logprobs": True},
    "max_completion_tokens": {"max_tokens": 2},  # for null
    "tool_choice": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "continue_final_message": {"messages": [{"role": "assistant", "content": "hi"}]},
    "prompt": {"messages": None},
}
COMPANIONS_OF_MESSAGES = {
    "tool_choice": {"tools": [{"name": "f", "input_schema": {}}]},
    "thinking": {"max_tokens": 1025},
}
COMPANIONS_OF_RESPONSES = {
    "stream_options": {"stream": True},
    "top_logprobs": {"include": ["message.output_text.logprobs"]},
    "tool_choice": {"tools": [{"type": "function", "name": "f"}]},
}
COMPANIONS_OF = {
    "/v1/messages": COMPANIONS_OF_MESSAGES,
    "/v1/messages/count_tokens": COMPANIONS_OF_MESSAGES,
    "/v1/responses": COMPANIONS_OF_RESPONSES,
}
# What no schema says: of the model, of its template and of other values at the same time.
OTHERWISE = re.compile(
    r"(built without|a build with) grammars|"
    r"cannot be used|token ids? (of this|that the) model|of the model's tokens|more than `max_"
    r"|as that of another tool|that is not in `tools`|for `echo` alone|less than `n`|has no tokens"
    r"|no text: there is nothing|has no text that|is the last one|of which it is a part"
    r"|at most \d+ tokens of one request|how this model writes calls")


def bodies(document, path, name, r):
    """The smallest body with values of one parameter, good and bad."""
    schema = body_schema(document, path)["properties"][name]
    companions = COMPANIONS_OF.get(path, COMPANIONS)
    for _ in range(12):
        value = make(r, document, schema)
        for one in (value, spoil(r, copy.deepcopy(value))):
            yield {**BODIES[path], **companions.get(name, {}), name: one}


@pytest.mark.parametrize("path", BODIES)
def test_schemas_and_readers_agree(daemon, document, path):
    r = random.Random(19)
    takes = validator(document, body_schema(document, path))
    n_taken = n_refused = 0
    for name in body_schema(document, path)["properties"]:
        for body in bodies(document, path, name, r):
            is_valid = takes.is_valid(body)
            status, answer = daemon.request(path, body)
            if status == 200:
                assert is_valid, (name, body[name])
                n_taken += 1
                continue
            error = answer["error"]
            assert status == 400 or (status == 404 and name == "model"), answer
            assert not is_valid or OTHERWISE.search(error["message"]), (name, body[name], error)
            n_refused += 1
    assert n_taken > 10 and n_refused > 10


# Everything, by somebody else's program.

CHECKS = ("not_a_server_error,status_code_conformance,content_type_conformance,"
          "response_headers_conformance,response_schema_conformance,negative_data_rejection")


@pytest.mark.timeout(1200)
def test_schemathesis(daemon, tmp_path):
    n = os.environ.get("SCHEMATHESIS_EXAMPLES")
    phases = "coverage,fuzzing" if n else "fuzzing"
    run = subprocess.run(
        [Path(sys.executable).with_name("schemathesis"), "run", f"{daemon.url}/openapi.json",
         "--phases", phases, "--checks", CHECKS, "--max-examples", n or "30", "--seed", "19",
         "--generation-database", "none", "--request-timeout", "60", "--no-color"],
        cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    made = int(re.search(r"(\d+) generated", run.stdout).group(1))
    print(made, "cases")
    assert made >= (2000 if n else 100)
    daemon.wait_idle()
