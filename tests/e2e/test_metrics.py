# SPDX-License-Identifier: Apache-2.0
"""/metrics: names, types and buckets that dashboards made for vLLM ask for, and figures that fit
together."""

from math import inf, isclose

from conftest import wait_until
from prometheus_client.parser import text_string_to_metric_families

NAMES = {
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:num_requests_waiting_by_reason": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:cache_config_info": "gauge",
    "vllm:engine_sleep_state": "gauge",
    "vllm:prompt_tokens": "counter",
    "vllm:generation_tokens": "counter",
    "vllm:request_success": "counter",
    "vllm:prefix_cache_queries": "counter",
    "vllm:prefix_cache_hits": "counter",
    "vllm:prompt_tokens_cached": "counter",
    "vllm:num_preemptions": "counter",
    "vllm:time_to_first_token_seconds": "histogram",
    "vllm:time_per_output_token_seconds": "histogram",
    "vllm:e2e_request_latency_seconds": "histogram",
    "vllm:inter_token_latency_seconds": "histogram",
    "vllm:request_time_per_output_token_seconds": "histogram",
    "vllm:request_queue_time_seconds": "histogram",
    "vllm:request_prefill_time_seconds": "histogram",
    "vllm:request_decode_time_seconds": "histogram",
    "vllm:request_inference_time_seconds": "histogram",
    "vllm:request_prompt_tokens": "histogram",
    "vllm:request_prefill_kv_computed_tokens": "histogram",
    "vllm:request_generation_tokens": "histogram",
    "vllm:request_max_num_generation_tokens": "histogram",
    "vllm:request_params_max_tokens": "histogram",
    "vllm:request_params_n": "histogram",
    "vllm:iteration_tokens_total": "histogram",
    "kvasir_requests_refused": "counter",
    "kvasir_memory_bytes": "gauge",
    "kvasir_http_open_connections": "gauge",
    "kvasir_http_responses": "counter",
}


def check_histogram(family):
    buckets = [s for s in family.samples if s.name.endswith("_bucket")]
    [count] = [s.value for s in family.samples if s.name.endswith("_count")]
    bounds = [float(s.labels["le"]) for s in buckets]
    values = [s.value for s in buckets]
    assert bounds == sorted(bounds) and bounds[-1] == float("inf")
    assert values == sorted(values) and values[-1] == count


def test_metrics_are_what_prometheus_reads(daemon):
    daemon.complete(prompt=[5, 6], max_tokens=5, ignore_eos=True)
    text = daemon.request("/metrics")[1]
    families = {f.name: f for f in text_string_to_metric_families(text)}
    for name, kind in NAMES.items():
        assert families[name].type == kind, name
        assert families[name].documentation
        assert all(s.labels["model_name"] == daemon.model for s in families[name].samples)
        if kind == "histogram":
            check_histogram(families[name])
    for line in (
        'vllm:num_requests_running{model_name="llama",engine="0"}',
        'vllm:time_to_first_token_seconds_bucket{model_name="llama",engine="0",le="1.0"}',
        'vllm:time_to_first_token_seconds_bucket{model_name="llama",engine="0",le="0.25"}',
        'vllm:request_prompt_tokens_bucket{model_name="llama",engine="0",le="2000.0"}',
    ):
        assert line in text, line
    states = {s.labels["sleep_state"]: s.value for s in families["vllm:engine_sleep_state"].samples}
    assert states == {"awake": 1, "weights_offloaded": 0, "discard_all": 0}
    info = families["vllm:cache_config_info"].samples[0].labels
    assert info["block_size"] == "64" and int(info["num_gpu_blocks"]) == 1024


def test_metrics_count(start):
    daemon = start("--kv-tokens", 4096)
    daemon.complete(prompt=[5] * 10, max_tokens=20, n=3, ignore_eos=True)
    assert daemon.metric("vllm:prompt_tokens_total") == 30
    assert daemon.metric("vllm:generation_tokens_total") == 60
    assert daemon.metric("vllm:request_success_total", finished_reason="length") == 3
    assert daemon.metric("vllm:time_to_first_token_seconds_count") == 3
    assert daemon.metric("vllm:time_per_output_token_seconds_count") == 57
    assert daemon.metric("vllm:e2e_request_latency_seconds_count") == 3
    assert daemon.metric("vllm:e2e_request_latency_seconds_sum") > 0
    daemon.request("/v1/completions", {"prompt": 1})
    assert daemon.metric("kvasir_http_responses_total", code="400") == 1
    assert daemon.metric("kvasir_memory_bytes", purpose="kv_pages") > 0


class Figures:
    """Sums, counts and buckets of all histograms, as they are now."""

    def __init__(self, daemon):
        self.values = {}
        self.buckets = {}
        for family in text_string_to_metric_families(daemon.request("/metrics")[1]):
            for sample in family.samples:
                own = sample.labels.items() - {("model_name", daemon.model), ("engine", "0")}
                labels = dict(own)
                if sample.name.endswith("_bucket"):
                    of = self.buckets.setdefault(sample.name.removesuffix("_bucket"), {})
                    of[float(labels["le"])] = sample.value
                else:
                    self.values[(sample.name, *labels.values())] = sample.value

    def sum(self, name):
        return self.values[(f"vllm:{name}_sum",)]

    def count(self, name):
        return self.values[(f"vllm:{name}_count",)]

    def finished(self, reason):
        return self.values[("vllm:request_success_total", reason)]


OF_SEQUENCES = [
    "e2e_request_latency_seconds", "request_queue_time_seconds", "request_prefill_time_seconds",
    "request_decode_time_seconds", "request_inference_time_seconds",
    "request_time_per_output_token_seconds", "request_prompt_tokens",
    "request_prefill_kv_computed_tokens", "request_generation_tokens",
    "request_params_max_tokens",
]


def test_metrics_of_finished_requests_fit_together(start):
    daemon = start("--kv-tokens", 8192, "--max-num-seqs", 2, "--max-batched-tokens", 64)
    daemon.complete(prompt=[5] * 150, max_tokens=20, ignore_eos=True)
    daemon.complete(prompt=[5] * 150, max_tokens=1, ignore_eos=True)
    daemon.complete(prompt=[[5] * 10, [6] * 30], max_tokens=7, n=3, ignore_eos=True)
    daemon.complete(prompt=[7] * 3, max_tokens=9, best_of=4, n=2, ignore_eos=True)
    daemon.complete(prompt=[7] * 3, max_tokens=0, echo=True, logprobs=0)
    daemon.complete(prompt=[5, 6], max_tokens=30, stop_token_ids=[*range(16)], seed=1)
    now = Figures(daemon)

    n_sequences = 1 + 1 + 6 + 4 + 1 + 1
    assert now.finished("stop") + now.finished("length") == n_sequences
    for name in OF_SEQUENCES:
        assert now.count(name) == n_sequences, name
    for name in ("request_params_n", "request_max_num_generation_tokens"):
        assert now.count(name) == 7, name
    n_prompt = 150 + 150 + 3 * 40 + 4 * 3 + 3 + 2
    assert now.sum("request_prompt_tokens") == n_prompt
    assert now.values[("vllm:prompt_tokens_total",)] == n_prompt
    hits = now.values[("vllm:prefix_cache_hits_total",)]
    assert hits == 128  # the first two pages, the second time
    assert now.values[("vllm:prompt_tokens_cached_total",)] == hits
    assert now.sum("request_prefill_kv_computed_tokens") == n_prompt - hits
    n_output = now.values[("vllm:generation_tokens_total",)]
    assert now.sum("request_generation_tokens") == n_output
    last = n_output - 20 - 1 - 6 * 7 - 4 * 9
    assert 1 <= last <= 30
    assert now.sum("request_max_num_generation_tokens") == 20 + 1 + 2 * 7 + 9 + 0 + last
    assert now.sum("request_params_max_tokens") == 20 + 1 + 6 * 7 + 4 * 9 + 0 + 30
    assert now.sum("request_params_n") == 1 + 1 + 3 + 3 + 2 + 1 + 1
    assert now.count("time_to_first_token_seconds") == n_sequences - 1  # one generated none
    assert now.count("inter_token_latency_seconds") == n_output - (n_sequences - 1)
    assert now.sum("inter_token_latency_seconds") == now.sum("time_per_output_token_seconds")


def test_metrics_of_times_add_up(start):
    """A request waits, reads its prompt, writes its answer: that is all of its time."""
    daemon = start("--kv-tokens", 8192, "--max-num-seqs", 2, "--max-batched-tokens", 64)
    daemon.complete(prompt=[[5] * 100, [6] * 90], n=4, max_tokens=40, ignore_eos=True)
    now = Figures(daemon)
    parts = {
        part: now.sum(f"request_{part}_time_seconds")
        for part in ("queue", "prefill", "decode", "inference")
    }
    assert all(value > 0 for value in parts.values())
    assert isclose(parts["inference"], parts["prefill"] + parts["decode"])
    assert isclose(now.sum("e2e_request_latency_seconds"), parts["queue"] + parts["inference"])
    assert isclose(now.sum("time_to_first_token_seconds"), parts["queue"] + parts["prefill"])
    assert isclose(now.sum("inter_token_latency_seconds"), parts["decode"], rel_tol=0.05)
    mean = now.sum("request_time_per_output_token_seconds")
    assert isclose(mean, parts["decode"] / 39)
    # Six of the eight waited for two others to end.
    assert parts["queue"] > parts["inference"]


def test_metrics_of_steps(start):
    daemon = start("--kv-tokens", 4096, "--max-batched-tokens", 64)
    daemon.complete(prompt=[5] * 130, max_tokens=11, ignore_eos=True)
    now = Figures(daemon)
    steps = now.buckets["vllm:iteration_tokens_total"]
    assert now.count("iteration_tokens_total") == now.values[("kvasir_steps_total",)]
    assert now.sum("iteration_tokens_total") == 130 + 10  # the last token is not fed back
    assert steps[1] == 10 and steps[64] == steps[inf] == 13
    assert list(steps) == [1, *(1 << i for i in range(3, 15)), inf]


def test_metrics_have_buckets_up_to_the_models_length(start):
    daemon = start("--max-model-len", 300, "--kv-tokens", 1024)
    daemon.complete(prompt=[5] * 250, max_tokens=1)
    now = Figures(daemon)
    for name in ("request_prompt_tokens", "request_generation_tokens",
                 "request_max_num_generation_tokens", "request_params_max_tokens"):
        bounds = list(now.buckets[f"vllm:{name}"])
        assert bounds == [1, 2, 5, 10, 20, 50, 100, 200, inf], name
    prompts = now.buckets["vllm:request_prompt_tokens"]
    assert prompts[200] == 0 and prompts[inf] == 1
    assert list(now.buckets["vllm:request_params_n"]) == [1, 2, 5, 10, 20, inf]


def test_cancelled_requests_have_no_times(start):
    daemon = start("--kv-tokens", 4096)
    with daemon.wire() as wire:
        body = b'{"prompt": [5], "max_tokens": 2000, "ignore_eos": true, "stream": true}'
        wire.send(b"POST /v1/completions HTTP/1.1\r\nHost: k\r\nContent-Type: application/json\r\n"
                  b"Content-Length: %d\r\n\r\n" % len(body) + body)
        wire.read_until(b"data: ")
    wait_until(lambda: Figures(daemon).finished("abort") == 1)
    now = Figures(daemon)
    for name in OF_SEQUENCES:
        assert now.count(name) == 0, name
    assert now.count("request_params_n") == 0
