# SPDX-License-Identifier: Apache-2.0
"""`aiperf profile` of a streamed chat on synthetic data, five requests."""

import json
import os
import shutil
import subprocess
from pathlib import Path

# Offline, it takes a tokenizer only from where the hub's client would have put it.
cached = Path.home() / ".cache/huggingface/hub/models--local--tokenizer"
shutil.copytree(os.environ["TOKENIZER"], cached / "snapshots" / ("0" * 40))
(cached / "refs").mkdir()
(cached / "refs" / "main").write_text("0" * 40)

subprocess.run(
    ["aiperf", "profile", "--model", os.environ["SERVER_MODEL"], "--url", os.environ["SERVER_URL"],
     "--endpoint-type", "chat", "--streaming", "--tokenizer", "local/tokenizer",
     "--request-count", "5", "--concurrency", "2", "--synthetic-input-tokens-mean", "64",
     "--output-tokens-mean", "16", "--ui", "none", "--output-artifact-dir", "artifacts"],
    check=True)
report = json.loads(next(Path("artifacts").rglob("profile_export_aiperf.json")).read_text())
n = report["request_count"]["avg"]
assert n == 5, report
print(f"{n:.0f} of 5 requests, first token after {report['time_to_first_token']['avg']:.0f} ms")
