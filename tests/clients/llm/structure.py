# SPDX-License-Identifier: Apache-2.0
"""The command line's `--schema`, as JSON and in its short form, streamed and not."""

import json
import os
import subprocess
from pathlib import Path

from questions import BOOK, Book, check_book, told

directory = Path("llm")
directory.mkdir()
(directory / "extra-openai-models.yaml").write_text(
    f"- model_id: kvasir\n  model_name: {os.environ['SERVER_MODEL']}\n"
    f"  api_base: {os.environ['OPENAI_BASE_URL']}\n  supports_schema: true\n")
environment = {**os.environ, "LLM_USER_PATH": str(directory.resolve())}


def llm(schema, *options):
    return subprocess.run(
        ["llm", "-m", "kvasir", "-o", "temperature", "0", "-o", "max_tokens", "400",
         "--schema", schema, *options, BOOK],
        env=environment, stdin=subprocess.DEVNULL, check=True, capture_output=True, text=True,
    ).stdout.strip()


schema = json.dumps(Book.model_json_schema())
streamed, answer = llm(schema), llm(schema, "--no-stream")
assert streamed == answer, (streamed, answer)
book = check_book(Book.model_validate_json(answer))

short = json.loads(llm("title, year int, good bool"))
assert set(short) == {"title", "year", "good"} and isinstance(short["year"], int), short
assert isinstance(short["title"], str) and isinstance(short["good"], bool), short
print(told(book))
