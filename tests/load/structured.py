# SPDX-License-Identifier: Apache-2.0
"""Random schemas, each with some seeds, several requests at once, on a daemon of its own.

    python tests/load/structured.py [--kvasird build/kvasird] [--model M.gguf] [--schemas 500]
        [--seeds 2]

Every finished answer must be JSON that its schema takes; those cut by their length are counted.
Needs jsonschema.
"""

import argparse
import concurrent.futures
import json
import random
import sys
import time
import urllib.request

import jsonschema
from daemon import DEFAULT_MODEL, Daemon
from schemas import random_root


def ask(daemon, i, seed):
    schema = random_root(random.Random(i))
    body = {"messages": [{"role": "user", "content": "Make something up, as JSON."}],
            "max_tokens": 500, "temperature": 1, "seed": seed,
            "response_format": {"type": "json_schema",
                                "json_schema": {"name": "s", "strict": True, "schema": schema}}}
    request = urllib.request.Request(f"http://127.0.0.1:{daemon.port}/v1/chat/completions",
                                     json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        choice = json.load(answer)["choices"][0]
    if choice["finish_reason"] == "stop":
        try:
            jsonschema.validate(json.loads(choice["message"]["content"]), schema)
        except Exception as fault:
            return f"schema {i}, seed {seed}: {choice['message']['content']!r}: {fault}"
    return choice["finish_reason"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kvasird", default="build/kvasird")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--schemas", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=16)
    options = parser.parse_args()
    begin = time.monotonic()
    daemon = Daemon(options.kvasird, options.model)
    try:
        with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
            jobs = [pool.submit(ask, daemon, i, seed)
                    for i in range(options.schemas) for seed in range(options.seeds)]
            results = [job.result() for job in jobs]
    finally:
        daemon.stop()
    faults = [result for result in results if result not in ("stop", "length")]
    for fault in faults:
        print(fault)
    print(f"{results.count('stop')} finished and valid, {results.count('length')} cut by length, "
          f"{len(faults)} faults, in {time.monotonic() - begin:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
