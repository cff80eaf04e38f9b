# SPDX-License-Identifier: Apache-2.0
"""How many steps a prompt takes: rows that attend to more make steps of fewer rows."""

import json

import pytest

ROWS = 64  # max_batched_tokens
N_PROMPT = 1900


def prompt_of(n):
    return [2 + (i * 31 + i * i * 3) % 500 for i in range(n)]


@pytest.fixture
def work(tiny_model):
    """Work of the rows from one position to another, as the model's shape says."""
    c = json.loads((tiny_model / "config.json").read_text())
    query_dim = c["num_attention_heads"] * c["head_dim"]
    kv_dim = c["num_key_value_heads"] * c["head_dim"]
    products = c["hidden_size"] * (2 * query_dim + 2 * kv_dim + 3 * c["intermediate_size"])
    n_layers = c["num_hidden_layers"]
    return lambda begin, end: sum(n_layers * (products // (2 * query_dim) + position)
                                  for position in range(begin, end))


def n_steps_of(work, position, end):
    """Each step has rows until it has used up what the first rows of a prompt cost."""
    n_steps = 0
    while position < end:
        begin, n_steps = position, n_steps + 1
        while (position < end and position - begin < ROWS
               and work(begin, position) < work(0, ROWS)):
            position += 1
    return n_steps


def steps_for(daemon, prompt):
    before = daemon.metric("kvasir_steps_total")
    answer = daemon.complete(prompt=prompt, max_tokens=1)
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return daemon.metric("kvasir_steps_total") - before, cached


def test_steps_deep_in_a_prompt_have_fewer_rows(start, work):
    daemon = start("--max-batched-tokens", ROWS)
    expected = n_steps_of(work, 0, N_PROMPT)
    assert expected > 1.5 * N_PROMPT / ROWS
    assert steps_for(daemon, prompt_of(N_PROMPT)) == (expected, 0)


def test_steps_behind_a_cached_prefix_have_fewer_rows(start, work):
    daemon = start("--max-batched-tokens", ROWS)
    steps_for(daemon, prompt_of(N_PROMPT))
    n_cached, n_longer = N_PROMPT // 64 * 64, N_PROMPT + 8
    expected = n_steps_of(work, n_cached, n_longer)
    assert expected > n_steps_of(work, 0, n_longer - n_cached)
    assert steps_for(daemon, prompt_of(n_longer)) == (expected, n_cached)
