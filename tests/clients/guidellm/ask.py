# SPDX-License-Identifier: Apache-2.0
"""`guidellm run` with its defaults on synthetic data, five requests."""

import json
import os
import subprocess
from pathlib import Path

subprocess.run(
    ["guidellm", "run", "--backend", f"kind=openai_http,target={os.environ['SERVER_URL']}",
     "--profile", "kind=synchronous", "--constraint", "kind=max_requests,count=5",
     "--tokenizer", f"kind=huggingface_auto,model={os.environ['TOKENIZER']}",
     "--data", "kind=synthetic_text,prompt_tokens=64,output_tokens=16",
     "--output", "kind=json,path=report.json", "--disable-console-interactive"], check=True)
report = json.loads(Path("report.json").read_text())
requests = report["benchmarks"][0]["requests"]
counts = {kind: len(found or ()) for kind, found in requests.items()}
assert counts["successful"] == 5 and not counts["errored"], counts
print("5 of 5 requests succeeded")
