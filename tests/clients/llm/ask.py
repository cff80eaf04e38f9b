# SPDX-License-Identifier: Apache-2.0
"""The command line with extra-openai-models.yaml: `llm -m kvasir`, streamed and not."""

import os
import subprocess
from pathlib import Path

directory = Path("llm")
directory.mkdir()
(directory / "extra-openai-models.yaml").write_text(
    f"- model_id: kvasir\n  model_name: {os.environ['SERVER_MODEL']}\n"
    f"  api_base: {os.environ['OPENAI_BASE_URL']}\n")
environment = {**os.environ, "LLM_USER_PATH": str(directory.resolve())}


def llm(*options):
    return subprocess.run(
        ["llm", "-m", "kvasir", "-o", "temperature", "0", "-s", "Answer in one sentence.",
         *options, "What is the capital of France?"],
        env=environment, stdin=subprocess.DEVNULL, check=True, capture_output=True, text=True,
    ).stdout.strip()


streamed, answer = llm(), llm("--no-stream")
assert "Paris" in answer and streamed == answer, (streamed, answer)
print(repr(answer))
