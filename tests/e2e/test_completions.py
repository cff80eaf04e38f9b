# SPDX-License-Identifier: Apache-2.0
"""Answers of /v1/completions and /v1/chat/completions, member by member."""

import json
import math
import time

import pytest


def stream(daemon, path, **body):
    """The JSON events of a stream; [DONE] must end it."""
    with daemon.wire(timeout_s=120) as wire:
        data = json.dumps({**body, "stream": True}).encode()
        wire.send(
            f"POST {path} HTTP/1.1\r\nHost: k\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        reply = wire.reply()
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = reply.body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])
    return [json.loads(event[6:]) for event in events[:-2]]


def texts(events, n):
    parts = [""] * n
    for event in events:
        for choice in event["choices"]:
            parts[choice["index"]] += choice["text"]
    return parts


def test_shape_of_a_completion(daemon):
    before = int(time.time())
    answer = daemon.complete(prompt=[5, 6, 7], max_tokens=4, ignore_eos=True)
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    assert before <= answer["created"] <= time.time()
    assert answer["model"] == daemon.model
    [choice] = answer["choices"]
    assert choice["index"] == 0 and choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["usage"]["total_tokens"] == 7
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_sixteen_tokens_are_the_default(daemon):
    answer = daemon.complete(prompt=[5], ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 16


def test_every_form_of_prompt(daemon):
    greedy = dict(max_tokens=5, temperature=0, ignore_eos=True)
    _, answer = daemon.request("/tokenize", {"prompt": "abc"})
    ids = answer["tokens"]
    alone = daemon.complete(prompt="abc", **greedy)["choices"][0]["text"]
    for prompt in (["abc", "abc"], ids, [ids], [ids, ids]):
        choices = daemon.complete(prompt=prompt, **greedy)["choices"]
        assert [c["text"] for c in choices] == [alone] * len(choices)
        assert [c["index"] for c in choices] == list(range(len(choices)))


def test_n_choices_of_several_prompts(daemon):
    answer = daemon.complete(
        prompt=[[5, 6], [7, 8, 9]], n=3, max_tokens=4, seed=1, temperature=1, ignore_eos=True)
    assert [c["index"] for c in answer["choices"]] == list(range(6))
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["completion_tokens"] == 24
    again = daemon.complete(
        prompt=[[5, 6], [7, 8, 9]], n=3, max_tokens=4, seed=1, temperature=1, ignore_eos=True)
    assert [c["text"] for c in again["choices"]] == [c["text"] for c in answer["choices"]]
    assert len({c["text"] for c in answer["choices"]}) > 2


def test_seeds(daemon):
    def text(**more):
        answer = daemon.complete(prompt=[5], max_tokens=20, temperature=1, **more)
        return answer["choices"][0]["text"]

    assert text(seed=7) == text(seed=7)
    assert text(seed=7) != text(seed=8)
    assert text(seed=-7) == text(seed=-7)
    assert len({text() for _ in range(4)}) > 1


def test_streams_say_what_whole_answers_say(daemon):
    body = dict(prompt=[[5, 6], [7]], n=2, max_tokens=12, seed=3, temperature=1, ignore_eos=True)
    whole = daemon.complete(**body)
    events = stream(daemon, "/v1/completions", **body, stream_options={"include_usage": True})
    assert texts(events[:-1], 4) == [c["text"] for c in whole["choices"]]
    assert all(event["usage"] is None for event in events[:-1])
    assert events[-1]["choices"] == [] and events[-1]["usage"] == whole["usage"]
    assert len({event["id"] for event in events}) == 1
    finishes = [c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]]
    assert finishes == ["length"] * 4


def test_usage_so_far_in_every_chunk(daemon):
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = dict(
        prompt=[[5, 6], [7]], n=2, max_tokens=12, seed=3, temperature=1, ignore_eos=True, echo=True)
    *chunks, last = stream(daemon, "/v1/completions", **body, stream_options=options)
    seen = {}
    for chunk in chunks:
        [choice] = chunk["choices"]
        usage, n_prompt = chunk["usage"], 2 if choice["index"] < 2 else 1
        assert usage["prompt_tokens"] == n_prompt
        assert usage["total_tokens"] == n_prompt + usage["completion_tokens"]
        if choice["index"] not in seen:  # the prompt, by itself
            assert usage["completion_tokens"] == 0
        assert usage["completion_tokens"] >= seen.get(choice["index"], 0)
        seen[choice["index"]] = usage["completion_tokens"]
    assert seen == {i: 12 for i in range(4)}
    assert last["choices"] == [] and last["usage"]["prompt_tokens"] == 3
    assert last["usage"]["completion_tokens"] == 48


def test_usage_so_far_needs_usage(daemon):
    """As with vLLM, whose option it is."""
    events = stream(
        daemon, "/v1/completions", prompt=[5], max_tokens=3,
        stream_options={"continuous_usage_stats": True, "include_obfuscation": False})
    assert all("usage" not in event for event in events)


def test_streams_without_usage(daemon):
    events = stream(daemon, "/v1/completions", prompt=[5], max_tokens=3)
    assert all("usage" not in event for event in events)


def test_logprobs(daemon):
    answer = daemon.complete(
        prompt=[5, 6], max_tokens=6, temperature=0, logprobs=3, ignore_eos=True)
    [choice] = answer["choices"]
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == 6
    for value, top in zip(logprobs["token_logprobs"], logprobs["top_logprobs"]):
        assert value <= 0 and math.isclose(value, max(top.values()))
        assert len(top) <= 3
    events = stream(
        daemon, "/v1/completions", prompt=[5, 6], max_tokens=6, temperature=0, logprobs=3,
        ignore_eos=True)
    joined = {key: [] for key in logprobs}
    for event in events:
        for key in joined:
            joined[key] += event["choices"][0]["logprobs"][key]
    assert joined == logprobs


def test_the_drawn_token_is_among_its_logprobs(daemon):
    answer = daemon.complete(
        prompt=[5], max_tokens=30, temperature=5, seed=2, logprobs=0, ignore_eos=True)
    logprobs = answer["choices"][0]["logprobs"]
    columns = (logprobs[k] for k in ("tokens", "token_logprobs", "top_logprobs"))
    for token, value, top in zip(*columns):
        assert top == {token: value}


def test_echo_alone_scores_the_prompt(daemon):
    """What evaluation harnesses do: no new token, the prompt's own log probabilities."""
    prompt = [5, 6, 7, 8]
    answer = daemon.complete(prompt=prompt, max_tokens=0, echo=True, logprobs=1)
    [choice] = answer["choices"]
    logprobs = choice["logprobs"]
    assert [len(v) for v in logprobs.values()] == [4] * 4
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    assert all(value <= 0 for value in logprobs["token_logprobs"][1:])
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 0
    longer = daemon.complete(prompt=prompt, max_tokens=1, echo=True, logprobs=1, temperature=0)
    values = longer["choices"][0]["logprobs"]["token_logprobs"]
    assert values[1:4] == pytest.approx(logprobs["token_logprobs"][1:], abs=1e-4)
    assert len(values) == 5
    # The best continuation of a prefix is scored, as part of a prompt, as it was when drawn.
    best = daemon.complete(prompt=prompt[:2], max_tokens=1, temperature=0, logprobs=1)
    top = logprobs["top_logprobs"][2]
    assert max(top.values()) == pytest.approx(
        best["choices"][0]["logprobs"]["token_logprobs"][0], abs=1e-4)


def test_echo_of_text(daemon):
    text = "Some text, with ünïcödé."
    answer = daemon.complete(prompt=text, max_tokens=3, echo=True, logprobs=0, ignore_eos=True)
    [choice] = answer["choices"]
    assert choice["text"].startswith(text)
    offsets, tokens = choice["logprobs"]["text_offset"], choice["logprobs"]["tokens"]
    assert offsets == sorted(offsets) and offsets[0] == 0
    for offset, token in zip(offsets, tokens):
        if not token.startswith("bytes:") and offset < len(text) and not token.startswith("<|"):
            assert choice["text"][offset:].startswith(token)
    alone = daemon.complete(prompt=text, max_tokens=0, echo=True)["choices"][0]
    assert alone["text"] == text and alone["logprobs"] is None
    events = stream(daemon, "/v1/completions", prompt=text, max_tokens=3, echo=True, logprobs=0)
    assert events[0]["choices"][0]["text"] == text
    assert events[0]["choices"][0]["logprobs"]["token_logprobs"][0] is None


def test_stop_strings_and_tokens(daemon):
    greedy = dict(prompt=[5, 6], temperature=0, ignore_eos=True)
    whole = daemon.complete(**greedy, max_tokens=30, logprobs=0)["choices"][0]
    text = whole["text"]
    stop = text[5:9]
    [choice] = daemon.complete(**greedy, max_tokens=30, stop=stop)["choices"]
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop" and choice["stop_reason"] == stop
    [choice] = daemon.complete(
        **greedy, max_tokens=30, stop=["never there", stop], include_stop_str_in_output=True
    )["choices"]
    assert choice["text"] == text[: text.index(stop) + len(stop)]
    events = stream(daemon, "/v1/completions", **greedy, max_tokens=30, stop=[stop])
    assert texts(events, 1) == [text[: text.index(stop)]]


def test_min_tokens_and_ignore_eos(daemon):
    usage = daemon.complete(prompt=[5], max_tokens=40, min_tokens=40, seed=1)["usage"]
    assert usage["completion_tokens"] == 40


def test_logit_bias_decides(daemon):
    answer = daemon.complete(
        prompt=[5], max_tokens=5, logit_bias={"42": 100}, temperature=1, ignore_eos=True)
    _, back = daemon.request("/detokenize", {"tokens": [42] * 5})
    assert answer["choices"][0]["text"] == back["prompt"]


def test_generating_up_to_the_end_of_the_model(daemon):
    status, answer = daemon.request(
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "x"}], "ignore_eos": True, "temperature": 0})
    assert status == 200
    assert answer["usage"]["total_tokens"] == 2048
    assert answer["choices"][0]["finish_reason"] == "length"


# Chat.

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "ignore_eos": True}


def test_shape_of_a_chat(daemon):
    status, answer = daemon.request("/v1/chat/completions", {**CHAT, "max_tokens": 5})
    assert status == 200
    assert answer["id"].startswith("chatcmpl-") and answer["object"] == "chat.completion"
    [choice] = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    assert choice["finish_reason"] == "length" and choice["logprobs"] is None
    assert answer["usage"]["completion_tokens"] == 5


def test_usage_so_far_in_every_chunk_of_a_chat(daemon):
    *chunks, last = stream(
        daemon, "/v1/chat/completions", **CHAT, max_tokens=8,
        stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts[0] == 0 and counts == sorted(counts)
    assert counts[-1] == last["usage"]["completion_tokens"] == 8
    for chunk in chunks:
        usage = chunk["usage"]
        assert usage["prompt_tokens"] == last["usage"]["prompt_tokens"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def mean(values):
    return sum(values) / len(values)


def test_best_of_takes_the_likeliest(daemon):
    body = dict(
        prompt=[[5, 6], [7]], max_tokens=40, seed=11, temperature=1, stop_token_ids=[*range(16)])
    every = daemon.complete(**body, n=16, best_of=16, logprobs=0)
    best = daemon.complete(**body, n=3, best_of=16, logprobs=0)
    assert [c["index"] for c in best["choices"]] == list(range(6))
    assert best["usage"] == every["usage"]  # all were made
    for i in range(2):
        made = every["choices"][16 * i : 16 * i + 16]
        logprobs = [c["logprobs"]["token_logprobs"] for c in made]
        ranked = sorted(range(16), key=lambda j: -mean(logprobs[j]))
        assert ranked != sorted(range(16), key=lambda j: -sum(logprobs[j]))
        expected = [{**made[j], "index": 3 * i + k} for k, j in enumerate(ranked[:3])]
        assert best["choices"][3 * i : 3 * i + 3] == expected
    unasked = daemon.complete(**body, n=3, best_of=16)["choices"]
    assert unasked == [{**c, "logprobs": None} for c in best["choices"]]


def test_best_of_in_a_chat(daemon):
    body = {**CHAT, "max_tokens": 8, "seed": 5, "logprobs": True, "ignore_eos": True}
    _, every = daemon.request("/v1/chat/completions", {**body, "n": 6})
    _, best = daemon.request("/v1/chat/completions", {**body, "best_of": 6})
    [choice] = best["choices"]
    rank = [mean([t["logprob"] for t in c["logprobs"]["content"]]) for c in every["choices"]]
    likeliest = every["choices"][rank.index(max(rank))]
    assert choice == {**likeliest, "index": 0}
    assert best["usage"]["completion_tokens"] == 48


def test_chat_streams(daemon):
    _, whole = daemon.request("/v1/chat/completions", {**CHAT, "max_tokens": 8, "n": 2})
    events = stream(
        daemon, "/v1/chat/completions", **CHAT, max_tokens=8, n=2,
        stream_options={"include_usage": True})
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    for i in range(2):
        choices = [c for e in events for c in e["choices"] if c["index"] == i]
        deltas = [c["delta"] for c in choices]
        assert deltas[0]["role"] == "assistant" and deltas[0]["content"] == ""
        assert all("role" not in delta for delta in deltas[1:])
        content = "".join(delta.get("content", "") for delta in deltas)
        assert content == whole["choices"][i]["message"]["content"]
        assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["length"]
        assert deltas[-1] == {}
    assert events[-1]["usage"] == whole["usage"]


def test_chat_logprobs(daemon):
    body = {**CHAT, "max_tokens": 5, "logprobs": True, "top_logprobs": 4}
    _, answer = daemon.request("/v1/chat/completions", body)
    [choice] = answer["choices"]
    content = choice["logprobs"]["content"]
    assert len(content) == 5
    for entry in content:
        assert len(entry["top_logprobs"]) == 4
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"]
        assert entry["bytes"] == entry["top_logprobs"][0]["bytes"]
    spelled = b"".join(bytes(entry["bytes"]) for entry in content)
    assert spelled.decode(errors="replace") == choice["message"]["content"]
    events = stream(daemon, "/v1/chat/completions", **body)
    streamed = [
        entry
        for event in events
        for c in event["choices"]
        if c["logprobs"]
        for entry in c["logprobs"]["content"]
    ]
    assert streamed == content


def test_continuing_the_final_message(daemon):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": " Once upon"}]
    body = {"messages": messages, "continue_final_message": True}
    _, answer = daemon.request("/tokenize", body)
    _, back = daemon.request("/detokenize", {"tokens": answer["tokens"]})
    assert back["prompt"].endswith("Once upon")
    status, answer = daemon.request(
        "/v1/chat/completions",
        {"messages": [{"role": "assistant", "content": " "}], "continue_final_message": True})
    assert status == 400 and answer["error"]["param"] == "continue_final_message"
