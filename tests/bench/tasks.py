#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a cache's bits cost in tasks, over HTTP: LAMBADA's last word, and a pass key in a long text.

    tests/bench/tasks.py --model MODEL.gguf --lambada lambada_test.jsonl --kv f16 --kv k4v2
    tests/bench/tasks.py --model MODEL.gguf --passkey 10 --device cuda --kv f16 --kv k4v2

A daemon is started for each --kv, and asked:

  lambada   the last word of each passage, given the rest. The two are tokenized by themselves, the
            blank with the word, and the prompt is asked for with its log probabilities (echo), as
            lm-eval's task lambada_openai does. accuracy: the share of passages of which every token
            of the word is the likeliest; perplexity: of the words
  passkey   a number of five digits, told once in --passkey-tokens tokens of filler, at ten depths,
            with as many seeds as --passkey says. accuracy: the share of answers that begin with it

Standard errors are those of a share. A passage of LAMBADA is two or three pages, and what a step
has brought is read exactly while that step lasts: so steps are short unless --step-tokens says
otherwise.
Standard library only; not part of the tests: on a processor it takes hours.
"""

import argparse
import concurrent.futures
import http.client
import json
import math
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "load"))

from daemon import DEFAULT_MODEL, Daemon

FILLER = ("The grass is green. The sky is blue. The sun is yellow. Here we go. "
          "There and back again. ")
TASK = ("There is a pass key hidden in the text below. Find it and remember it: I will ask for it "
        "at the end.\n\n")
KEY = "The pass key is {0}. Remember it: {0} is the pass key. "
QUESTION = "\n\nWhat is the pass key? The pass key is"
DEPTHS = 10
ANSWER_TOKENS = 8
CLIENTS = 16


class Asker:
    """Requests to one daemon; each is a connection of its own."""

    def __init__(self, port):
        self.port = port

    def post(self, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {text}")
        return json.loads(text)

    def tokens(self, text):
        return self.post("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]

    def word(self, passage):
        """Whether the passage's last word is what the model would say, and its log probability."""
        context, _, word = passage.rpartition(" ")
        before, asked = self.tokens(context), self.tokens(" " + word)
        answer = self.post("/v1/completions", {
            "prompt": before + asked, "max_tokens": 1, "temperature": 0, "echo": True,
            "logprobs": 1})["choices"][0]["logprobs"]
        at = slice(len(before), len(before) + len(asked))
        chosen = answer["token_logprobs"][at]
        best = [max(top.values()) for top in answer["top_logprobs"][at]]
        return all(c >= b for c, b in zip(chosen, best)), sum(chosen)

    def passkey(self, n_tokens, depth, seed):
        """Whether the number told at that depth, in tenths of the text, comes back."""
        key = random.Random(f"{seed} {depth}").randrange(10000, 100000)
        task, told, question = (self.tokens(t) for t in (TASK, KEY.format(key), QUESTION))
        filler = self.tokens(FILLER)
        n = (n_tokens - len(task) - len(told) - len(question) - ANSWER_TOKENS) // len(filler)
        before = round(n * (depth + 0.5) / DEPTHS)
        prompt = task + before * filler + told + (n - before) * filler + question
        answer = self.post("/v1/completions", {
            "prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0})
        return answer["choices"][0]["text"].strip().startswith(str(key))


def share(hits):
    accuracy = sum(hits) / len(hits)
    return accuracy, math.sqrt(accuracy * (1 - accuracy) / len(hits))


def measure_lambada(pool, asker, passages):
    said = list(pool.map(asker.word, passages))
    accuracy, error = share([hit for hit, _ in said])
    perplexity = math.exp(-sum(logprob for _, logprob in said) / len(said))
    return {"lambada": accuracy, "lambada_error": error, "lambada_perplexity": perplexity}


def measure_passkey(pool, asker, n_tokens, n_seeds):
    asked = [(depth, seed) for seed in range(n_seeds) for depth in range(DEPTHS)]
    hits = list(pool.map(lambda a: asker.passkey(n_tokens, *a), asked))
    by_depth = [sum(h for h, (d, _) in zip(hits, asked) if d == depth) / n_seeds
                for depth in range(DEPTHS)]
    accuracy, error = share(hits)
    return {"passkey": accuracy, "passkey_error": error, "passkey_by_depth": by_depth}


def measure(args, kv, passages):
    options = ["--kv", kv, "--device", args.device, "--max-model-len", str(args.max_model_len),
               "--kv-tokens", str(args.clients * args.max_model_len), "--log-level", "info",
               "--max-batched-tokens", str(args.step_tokens)]
    daemon = Daemon(args.kvasird, args.model, *options)
    try:
        asker, found = Asker(daemon.port), {"kv": kv}
        with concurrent.futures.ThreadPoolExecutor(args.clients) as pool:
            if passages:
                found |= measure_lambada(pool, asker, passages)
            if args.passkey:
                found |= measure_passkey(pool, asker, args.passkey_tokens, args.passkey)
        return found
    finally:
        daemon.stop()


def percent(found, task):
    return f"{100 * found[task]:5.1f} (±{100 * found[task + '_error']:.1f}) %"


def line(found):
    parts = [f"{found['kv']:12}"]
    if "lambada" in found:
        parts.append(f"last word {percent(found, 'lambada')}, "
                     f"perplexity {found['lambada_perplexity']:7.3f}")
    if "passkey" in found:
        parts.append(f"pass key {percent(found, 'passkey')}, by depth "
                     + " ".join(f"{100 * p:.0f}" for p in found["passkey_by_depth"]))
    return "  ".join(parts)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kvasird", default="build/kvasird")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kv", action="append", required=True, help="as for serve; several times")
    parser.add_argument("--lambada", help="JSON lines with a \"text\" each")
    parser.add_argument("--passages", type=int, default=1000, help="of LAMBADA; default: 1000")
    parser.add_argument("--passkey", type=int, default=0, metavar="SEEDS", help="texts a depth")
    parser.add_argument("--passkey-tokens", type=int, default=8000)
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--step-tokens", type=int, default=64,
                        help="--max-batched-tokens; what a step has read of its own is exact")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--json", help="write the figures to this file, too")
    return parser.parse_args()


def main():
    args = parse_arguments()
    passages, results = [], []

    if args.lambada:
        with open(args.lambada, encoding="utf-8") as file:
            passages = [json.loads(row)["text"] for row in file][: args.passages]
    for kv in args.kv:
        results.append(measure(args, kv, passages))
        print(line(results[-1]), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
