# SPDX-License-Identifier: Apache-2.0
"""`guidellm benchmark` with its defaults on synthetic data, five requests."""

import json
import os
import subprocess
from pathlib import Path

subprocess.run(
    ["guidellm", "benchmark", "--target", os.environ["SERVER_URL"],
     "--profile", "synchronous", "--max-requests", "5",
     "--processor", os.environ["TOKENIZER"], "--data", "prompt_tokens=64,output_tokens=16",
     "--output-dir", "."], check=True)
report = json.loads(next(Path(".").glob("*.json")).read_text())
requests = report["benchmarks"][0]["requests"]
assert len(requests["successful"]) == 5 and not requests["errored"], {
    kind: len(found) for kind, found in requests.items()}
print("5 of 5 requests succeeded")
