# SPDX-License-Identifier: Apache-2.0
"""The prefix cache and a cache that is too small, as clients and operators see them."""

from concurrent.futures import ThreadPoolExecutor

import pytest

PAGE_BYTES = 3 * 2 * 2 * 64 * 64 * 2  # of the tiny model in f16; a tail takes the same
N_REQUESTS, N_PREFIXES = 64, 4


def tokens_of(kind, n):
    return [2 + (i * 31 + kind * 977 + i * i * (kind + 3)) % 500 for i in range(n)]


def body_of(i):
    return {
        "prompt": tokens_of(i % N_PREFIXES, 130 + 20 * (i % N_PREFIXES)) + tokens_of(9 + i, i % 23),
        "max_tokens": 30 + i * 29 % 331,
        "ignore_eos": True,
        "temperature": 0,
    }


def run_all(daemon):
    with ThreadPoolExecutor(N_REQUESTS) as pool:
        answers = list(pool.map(lambda i: daemon.complete(**body_of(i)), range(N_REQUESTS)))
    daemon.wait_idle()
    return answers


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_a_crowd_fits_into_memory_far_too_small_for_it(start):
    ample = start("--kv-tokens", 64 * 1024, "--no-prefix-caching")
    expected = [answer["choices"] for answer in run_all(ample)]
    assert ample.metric("vllm:num_preemptions_total") == 0
    assert ample.metric("vllm:prefix_cache_hits_total") == 0

    small = start("--kv", "f16", "--kv-memory", 40 * PAGE_BYTES, "--max-num-seqs", 16)
    assert small.metric("kvasir_memory_bytes", purpose="kv_pages") == 24 * PAGE_BYTES
    answers = run_all(small)
    assert [answer["choices"] for answer in answers] == expected
    for i, answer in enumerate(answers):
        assert answer["usage"]["completion_tokens"] == body_of(i)["max_tokens"]
    assert small.metric("vllm:kv_cache_usage_perc") == 0
    assert small.metric("vllm:num_preemptions_total") > 0
    hits = small.metric("vllm:prefix_cache_hits_total")
    assert hits == sum(map(cached, answers)) > 0
    queries = small.metric("vllm:prefix_cache_queries_total")
    assert queries == sum(answer["usage"]["prompt_tokens"] for answer in answers)


def test_usage_tells_what_was_cached(start):
    daemon = start("--kv-tokens", 4096)
    body = {"prompt": tokens_of(1, 200), "max_tokens": 2}
    assert cached(daemon.complete(**body)) == 0
    assert cached(daemon.complete(**body)) == 192
    assert cached(daemon.complete(**{**body, "prompt": body["prompt"][:130] + [7]})) == 128
    # The prompt's own logprobs are asked for: it is computed again.
    assert cached(daemon.complete(**body, echo=True, logprobs=0)) == 0


def test_salts_keep_tenants_apart(start):
    daemon = start("--kv-tokens", 4096)
    body = {"prompt": tokens_of(1, 200), "max_tokens": 2}
    salts = [{}, {"cache_salt": "a"}, {"cache_salt": "b\N{SNOWMAN}"}]
    assert [cached(daemon.complete(**body, **salt)) for salt in salts] == [0, 0, 0]
    assert [cached(daemon.complete(**body, **salt)) for salt in salts] == [192, 192, 192]
    assert cached(daemon.complete(**body, cache_salt=None)) == 192


@pytest.mark.parametrize("salt", ["", "a\0b", 1, ["a"], True])
def test_bad_salts_are_refused(daemon, salt):
    status, answer = daemon.request(
        "/v1/completions", {"prompt": [5], "max_tokens": 1, "cache_salt": salt})
    assert status == 400 and answer["error"]["param"] == "cache_salt"


def test_what_can_never_fit_is_refused_with_what_would(start):
    daemon = start("--kv", "f16", "--kv-memory", 12 * PAGE_BYTES, "--max-num-seqs", 8)
    body = {"prompt": tokens_of(1, 200), "max_tokens": 57}
    status, answer = daemon.request("/v1/completions", body)
    assert status == 400
    assert "at most 256 tokens" in answer["error"]["message"]
    assert "kv_memory" in answer["error"]["message"]
    daemon.complete(**{**body, "max_tokens": 56})
    daemon.wait_idle()
