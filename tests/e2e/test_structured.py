# SPDX-License-Identifier: Apache-2.0
"""Answers that have a form. The tiny model writes noise, which is the hardest test of a grammar:
whatever it draws, a finished answer is what was asked for."""

import json
import random
import re
import threading

import jsonschema
import pytest

from conftest import wait_until
from schemas import random_root

CHAT = [{"role": "user", "content": "Go on."}]


@pytest.fixture(scope="module", autouse=True)
def has_grammars(daemon):
    status, answer = daemon.request(
        "/v1/completions", {"prompt": "a", "max_tokens": 1, "guided_choice": ["a"]})
    if status == 400 and "built without" in answer["error"]["message"]:
        pytest.skip("a build without grammars")
    assert status == 200, answer


def post(wire, body):
    data = json.dumps(body).encode()
    wire.send(f"POST /v1/completions HTTP/1.1\r\nHost: k\r\nContent-Type: application/json\r\n"
              f"Content-Length: {len(data)}\r\n\r\n".encode() + data)


def complete(daemon, **body):
    body = {"prompt": "Write: ", "max_tokens": 400, "temperature": 1.5, "seed": 5, **body}
    return daemon.complete(**body)["choices"]


def one(daemon, **body):
    choice, = complete(daemon, **body)
    return choice["text"], choice["finish_reason"]


def refusal(daemon, **body):
    status, answer = daemon.request("/v1/completions", {"prompt": "a", "max_tokens": 5, **body})
    assert status == 400, answer
    return answer["error"]["message"]


# ---- schemas at random

@pytest.mark.parametrize("i", range(50))
def test_random_schemas_are_kept(daemon, i):
    r = random.Random(i)
    schema = random_root(r)
    format = {"type": "json_schema",
              "json_schema": {"name": "s", "strict": True, "schema": schema}}
    text, finish = one(daemon, response_format=format, seed=i, max_tokens=1000)
    if finish == "length":
        pytest.skip("cut by its length")
    assert finish == "stop"
    jsonschema.validate(json.loads(text), schema)


def test_most_random_schemas_finish(daemon):
    """Or the test above would say nothing."""
    finished = 0
    for i in range(10):
        schema = random_root(random.Random(i))
        finished += one(daemon, guided_json=schema, seed=i, max_tokens=1000)[1] == "stop"
    assert finished >= 8


# ---- the other kinds

def test_recursive_schemas(daemon):
    schema = {"$defs": {"tree": {"type": "object", "properties": {
        "v": {"type": "boolean"}, "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
        "required": ["v", "next"], "additionalProperties": False}}, "$ref": "#/$defs/tree"}
    for seed in range(5):
        text, finish = one(daemon, structured_outputs={"json": schema}, seed=seed)
        if finish == "stop":
            jsonschema.validate(json.loads(text), schema)


def test_json_objects(daemon):
    for seed in range(5):
        text, finish = one(daemon, response_format={"type": "json_object"}, seed=seed)
        assert text.startswith("{")
        if finish == "stop":
            assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("ask, pattern", [
    ({"guided_regex": r"[0-9]{3}-(ab|c)*x"}, r"[0-9]{3}-(ab|c)*x"),
    ({"structured_outputs": {"regex": "(é|日本){2}"}}, "(é|日本){2}"),
    ({"guided_choice": ["yes", "no \"no\"", "ja\\nein"]}, r'yes|no "no"|ja\\nein'),
    ({"structured_outputs": {"choice": ["one"]}}, "one"),
    ({"guided_grammar": 'root ::= n "+" n\nn ::= [1-9] [0-9]{0,3}'},
     r"[1-9][0-9]{0,3}\+[1-9][0-9]{0,3}"),
    ({"structured_outputs": {"grammar": 'root ::= "(" root? ")"'}}, r"\(+\)+"),
], ids=str)
def test_other_kinds(daemon, ask, pattern):
    for seed in range(4):
        text, finish = one(daemon, seed=seed, **ask)
        assert finish == "length" or re.fullmatch(pattern, text), text


def test_chats_have_forms_too(daemon):
    status, answer = daemon.request("/v1/chat/completions", {
        "messages": CHAT, "max_tokens": 50, "guided_choice": ["blue", "red"]})
    assert status == 200, answer
    choice, = answer["choices"]
    assert choice["message"]["content"] in ("blue", "red")
    assert choice["finish_reason"] == "stop"


# ---- with everything else

ASK = {"guided_regex": "(ab|cd|ef){3}[0-9]{20}x"}
FULL = r"(ab|cd|ef){3}[0-9]{20}x"


def test_several_choices_differ_and_seeds_repeat(daemon):
    texts = [c["text"] for c in complete(daemon, n=4, **ASK)]
    assert all(re.fullmatch(FULL, text) for text in texts)
    assert len(set(texts)) > 1
    assert texts == [c["text"] for c in complete(daemon, n=4, **ASK)]


def test_greedy_is_the_same_alone_and_in_company(daemon):
    alone = one(daemon, temperature=0, **ASK)
    results = []

    def run(**body):
        results.append(one(daemon, temperature=0, **body))

    threads = [threading.Thread(target=run, kwargs=ASK) for _ in range(6)]
    threads += [threading.Thread(target=one, args=(daemon,), kwargs={"ignore_eos": True})
                for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [alone] * 6


def test_streams_are_the_same_text(daemon):
    whole = one(daemon, **ASK)
    with daemon.wire() as wire:
        post(wire, {"prompt": "Write: ", "max_tokens": 400, "temperature": 1.5, "seed": 5,
                    "stream": True, "stream_options": {"include_usage": True}, **ASK})
        lines = wire.reply().body.decode().split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines
              if line and line != "data: [DONE]"]
    text = "".join(c["text"] for e in events for c in e["choices"])
    finish = [c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]]
    assert (text, *finish) == whole


def test_logprobs_are_of_all_tokens(daemon):
    choice, = complete(daemon, logprobs=2, guided_regex="xy[0-9]{3}", seed=3)
    assert re.fullmatch("xy[0-9]{3}", choice["text"])
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"])
    assert all(p <= 0 for p in logprobs["token_logprobs"])
    # The best tokens are seldom those that fit.
    assert any(max(top.values()) > p
               for p, top in zip(logprobs["token_logprobs"], logprobs["top_logprobs"]))


def test_forced_text_takes_few_steps(daemon):
    """And is the same as if it had been drawn, as it is where logprobs are asked for."""
    word = "the quick brown fox jumps over the lazy dog"
    before = daemon.metric("vllm:iteration_tokens_total_count")
    forced = one(daemon, guided_choice=[word])
    steps = daemon.metric("vllm:iteration_tokens_total_count") - before
    choice, = complete(daemon, guided_choice=[word], logprobs=0)
    assert forced == (word, "stop") and choice["text"] == word
    assert steps < len(choice["logprobs"]["tokens"]) / 2


@pytest.mark.parametrize("more", [{"ignore_eos": True}, {"min_tokens": 300}], ids=str)
def test_nothing_comes_after_the_end(daemon, more):
    text, finish = one(daemon, guided_regex="[0-9]{5}", **more)
    assert re.fullmatch("[0-9]{5}", text) and finish == "stop"


@pytest.mark.parametrize("more", [{"ignore_eos": True}, {"min_tokens": 30}], ids=str)
def test_an_end_that_need_not_be_is_put_off(daemon, more):
    text, finish = one(daemon, guided_regex="[0-9]*", max_tokens=30, **more)
    assert re.fullmatch("[0-9]+", text) and finish == "length"


def test_stop_strings_cut_it(daemon):
    text, finish = one(daemon, guided_regex="[0-9]{20}abc", stop=["ab"])
    assert re.fullmatch("[0-9]{20}", text) and finish == "stop"


def test_penalties_and_biases_stay_within(daemon):
    text, finish = one(daemon, frequency_penalty=2, repetition_penalty=1.8,
                       logit_bias={"5": 100, "7": 100}, top_k=1, **ASK)
    assert re.fullmatch(FULL, text) and finish == "stop"


def test_max_tokens_cuts_it(daemon):
    choice, = complete(daemon, max_tokens=4, guided_choice=["abcdefghij" * 10])
    assert choice["finish_reason"] == "length" and ("abcdefghij" * 10).startswith(choice["text"])


def test_aborts_leave_nothing(daemon):
    for _ in range(5):
        with daemon.wire() as wire:
            post(wire, {"prompt": "a", "max_tokens": 2000, "stream": True,
                        "guided_regex": "[a-z]*"})
            wire.read_until(b"data: ")
    daemon.wait_idle()


def test_metrics_count_grammars(daemon):
    names = ["kvasir_grammars_compiled_total", "kvasir_grammar_cache_hits_total"]
    ask = {"guided_regex": "counted[0-9]{3}"}
    before = [daemon.metric(name) for name in names]
    complete(daemon, **ask)
    complete(daemon, **ask)
    assert [daemon.metric(name) for name in names] == [before[0] + 1, before[1] + 1]
    assert daemon.metric("kvasir_grammar_cache_bytes") > 0
    assert daemon.metric("kvasir_grammar_compile_seconds_total") > 0
    refused = daemon.metric("kvasir_grammars_refused_total")
    refusal(daemon, guided_regex="(a")
    assert daemon.metric("kvasir_grammars_refused_total") == refused + 1


# ---- refusals

def test_what_is_wrong_is_said(daemon):
    assert "strin" in refusal(daemon, guided_json={"type": "strin"})
    assert "not defined" in refusal(daemon, guided_grammar="root ::= nothing")
    assert "regular expression of `guided_regex`" in refusal(daemon, guided_regex="(a")
    assert "multipleOf" in refusal(daemon, guided_json={"type": "number", "multipleOf": 0.1})
    assert "both" in refusal(daemon, guided_regex="a", guided_choice=["b"])
    message = refusal(daemon, structured_outputs={"regx": "a"})
    assert "`structured_outputs.regx`" in message


def test_what_is_too_much_is_refused_soon(start):
    daemon = start("--kv-tokens", 4096, "--max-grammar", "1KiB", "--grammar-timeout", "300ms",
                   "--grammar-memory", "128MiB")
    assert "max_grammar" in refusal(daemon, guided_choice=["x" * 100] * 20)
    hostile = "([a-z]{1,90}x){1,90}" * 40
    assert "simpler" in refusal(daemon, guided_regex=hostile)
    assert one(daemon, guided_choice=["a"]) == ("a", "stop")


def test_a_client_that_leaves_ends_the_compiling(start):
    daemon = start("--kv-tokens", 4096, "--grammar-timeout", "60s", "--grammar-memory", "8GiB")
    hostile = "([a-z]{1,90}x){1,90}" * 40
    with daemon.wire() as wire:
        post(wire, {"prompt": "a", "guided_regex": hostile})
        wait_until(lambda: compilers(daemon) == 1, 20, "a compiler")
    wait_until(lambda: compilers(daemon) == 0, 10, "its end")


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


def compilers(daemon):
    """Processes three levels below the daemon: nursery, vocabulary, compiler."""
    return sum(len(children(vocab)) for nursery in children(daemon.process.pid)
               for vocab in children(nursery))


def test_processes_end_with_the_daemon(start):
    daemon = start("--kv-tokens", 4096)
    nursery = children(daemon.process.pid)
    assert nursery
    daemon.process.kill()
    daemon.process.wait()
    wait_until(lambda: not any(children(pid) for pid in nursery), 10, "the end of all")
    wait_until(lambda: not any(is_running(pid) for pid in nursery), 10, "the end of all")
    daemon.process.returncode = 0


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
