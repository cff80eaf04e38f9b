# SPDX-License-Identifier: Apache-2.0
"""`aiperf profile` of a streamed chat on synthetic data, five requests."""

import json
import os
import subprocess
from pathlib import Path

subprocess.run(
    ["aiperf", "profile", "--model", os.environ["SERVER_MODEL"], "--url", os.environ["SERVER_URL"],
     "--endpoint-type", "chat", "--streaming", "--tokenizer", os.environ["TOKENIZER"],
     "--request-count", "5", "--concurrency", "2", "--synthetic-input-tokens-mean", "64",
     "--output-tokens-mean", "16", "--ui", "none", "--output-artifact-dir", "artifacts"],
    check=True)
report = json.loads(next(Path("artifacts").rglob("profile_export_aiperf.json")).read_text())
n = report["request_count"]["avg"]
assert n == 5, report
print(f"{n:.0f} of 5 requests, first token after {report['time_to_first_token']['avg']:.0f} ms")
