# SPDX-License-Identifier: Apache-2.0
"""The openai package, unmodified, against the daemon."""

import asyncio

import openai
import pytest
from conftest import wait_until

CHAT = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(daemon):
    with openai.OpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models(client, daemon):
    [model] = client.models.list().data
    assert model.id == daemon.model and model.object == "model" and model.owned_by == "kvasir"
    assert client.models.retrieve(daemon.model).id == daemon.model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other/model")
    assert caught.value.code == "model_not_found"


def test_completion(client, daemon):
    answer = client.completions.create(
        model=daemon.model, prompt=["Hello", "World"], n=2, max_tokens=5, temperature=0.5, seed=1,
        logprobs=2, extra_body={"ignore_eos": True, "top_k": 5, "min_p": 0.01})
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.completion_tokens == 20
    assert len(answer.choices[0].logprobs.tokens) == 5


def test_chat(client, daemon):
    answer = client.chat.completions.create(
        model=daemon.model, messages=CHAT, max_completion_tokens=5, n=2, logprobs=True,
        top_logprobs=3, stop=["\n\n\n"], temperature=1, seed=3)
    assert len(answer.choices) == 2
    assert answer.choices[0].message.role == "assistant"
    entries = answer.choices[0].logprobs.content
    assert 1 <= len(entries) <= 5 and len(entries[0].top_logprobs) == 3


def test_chat_stream_with_usage(client, daemon):
    chunks = list(client.chat.completions.create(
        model=daemon.model, messages=CHAT, max_tokens=6, n=2, stream=True, seed=5,
        stream_options={"include_usage": True}, extra_body={"ignore_eos": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 12
    assert chunks[0].choices[0].delta.role == "assistant"
    finishes = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert finishes == ["length", "length"]


def test_completion_stream(client, daemon):
    whole = client.completions.create(model=daemon.model, prompt="Hi", max_tokens=9, temperature=0)
    chunks = client.completions.create(
        model=daemon.model, prompt="Hi", max_tokens=9, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


def test_stop(client, daemon):
    body = dict(model=daemon.model, prompt="Hi", temperature=0, max_tokens=20)
    text = client.completions.create(**body, extra_body={"ignore_eos": True}).choices[0].text
    stop = text[3:6]
    more = {"ignore_eos": True}
    choice = client.completions.create(**body, stop=[stop], extra_body=more).choices[0]
    assert choice.text == text[: text.index(stop)] and choice.finish_reason == "stop"


def test_errors(client, daemon):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=daemon.model, prompt="Hi", temperature=-1)
    assert caught.value.param == "temperature"
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="other", messages=CHAT)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=daemon.model, prompt="Hi", extra_body={"surprise": 1})
    assert caught.value.param == "surprise"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model=daemon.model, messages=CHAT, response_format={"type": "xml"})
    with pytest.raises(openai.BadRequestError) as caught:
        list(client.completions.create(model=daemon.model, prompt=[[1] * 5000], stream=True))
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=daemon.model, input="x")


def test_aborting_a_stream_frees_its_pages(client, daemon):
    stream = client.completions.create(
        model=daemon.model, prompt="Hi", max_tokens=2000, stream=True,
        extra_body={"ignore_eos": True})
    for _, _ in zip(range(3), stream):
        pass
    assert daemon.metric("vllm:kv_cache_usage_perc") > 0
    stream.close()
    daemon.wait_idle()


def test_a_client_that_times_out_frees_its_pages(client, daemon):
    with pytest.raises(openai.APITimeoutError):
        client.completions.create(
            model=daemon.model, prompt="Hi", max_tokens=2000, n=16, timeout=0.2,
            extra_body={"ignore_eos": True})
    daemon.wait_idle()


# Many at once: each hears what it would hear alone.

N = 64
SETTINGS = [
    dict(prompt=[3 + i] * (1 + 7 * i % 90), max_tokens=24, extra_body={"ignore_eos": True},
         **(dict(temperature=0) if i % 2 else dict(temperature=1.0, seed=i, top_p=0.9)))
    for i in range(N)
]


async def collect(client, model, streams, **settings):
    if not streams:
        return (await client.completions.create(model=model, **settings)).choices[0].text
    chunks = await client.completions.create(model=model, stream=True, **settings)
    return "".join([chunk.choices[0].text async for chunk in chunks])


async def collect_all(url, model, streams):
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        return await asyncio.gather(
            *(collect(client, model, streams, **settings) for settings in SETTINGS))


@pytest.mark.parametrize("streams", [True, False], ids=["streams", "whole"])
def test_64_at_once_say_what_each_says_alone(client, daemon, streams):
    alone = [
        client.completions.create(model=daemon.model, **settings).choices[0].text
        for settings in SETTINGS
    ]
    assert asyncio.run(collect_all(daemon.url, daemon.model, streams)) == alone
    daemon.wait_idle()


def test_the_same_with_little_cache(start, client, daemon):
    """Requests wait for pages and are put back for want of them; texts do not change."""
    alone = [
        client.completions.create(model=daemon.model, **settings).choices[0].text
        for settings in SETTINGS
    ]
    small = start("--kv-tokens", 1024)
    assert asyncio.run(collect_all(small.url, small.model, True)) == alone
    small.wait_idle()


def test_many_requests_wait_their_turn(start):
    daemon = start("--max-num-seqs", 2)

    async def run():
        async with openai.AsyncOpenAI(base_url=daemon.url + "/v1", api_key="none") as client:
            tasks = [
                asyncio.create_task(client.completions.create(
                    model=daemon.model, prompt="x", max_tokens=200,
                    extra_body={"ignore_eos": True}))
                for _ in range(8)
            ]
            await asyncio.to_thread(
                wait_until, lambda: daemon.metric("vllm:num_requests_waiting") > 0)
            assert daemon.metric("vllm:num_requests_running") <= 2
            return await asyncio.gather(*tasks)

    assert len(asyncio.run(run())) == 8


# A model that writes English.


def test_it_knows_the_capital_of_france(real_daemon):
    with openai.OpenAI(base_url=real_daemon.url + "/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            model=real_daemon.model, temperature=0, max_tokens=32,
            messages=[{"role": "user", "content": "What is the capital of France?"}])
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
