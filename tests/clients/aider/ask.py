# SPDX-License-Identifier: Apache-2.0
"""`aider --message` in a git repository, with its repository map."""

import os
import subprocess
from pathlib import Path

repository = Path("repository")
repository.mkdir()
(repository / "hello.py").write_text('print("hello")\n')
identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "begin"]):
    subprocess.run(["git", *command], cwd=repository, check=True)

# Without this file, it asks a server of its maker's whether the model is known.
(repository / "metadata.json").write_text(
    '{"openai/%s": {"max_tokens": 2048, "max_input_tokens": 8192, "max_output_tokens": 2048,'
    '"input_cost_per_token": 0, "output_cost_per_token": 0, "litellm_provider": "openai",'
    '"mode": "chat"}}' % os.environ["SERVER_MODEL"])
# So small a model may never stop by itself; at a limit, aider says that it was hit.
(repository / "settings.yml").write_text(
    f"- name: openai/{os.environ['SERVER_MODEL']}\n  edit_format: ask\n"
    "  extra_params:\n    max_tokens: 200\n    stop: ['```']\n")
run = subprocess.run(
    ["aider", "--model", f"openai/{os.environ['SERVER_MODEL']}",
     "--openai-api-base", os.environ["OPENAI_BASE_URL"], "--openai-api-key", "none",
     "--model-metadata-file", "metadata.json", "--model-settings-file", "settings.yml",
     "--no-show-model-warnings", "--analytics-disable",
     "--no-check-update", "--no-show-release-notes", "--no-gitignore", "--no-auto-commits",
     "--no-suggest-shell-commands", "--no-detect-urls", "--yes-always", "--no-pretty",
     "--edit-format", "ask", "--map-tokens", "512", "--timeout", "120",
     "--message", "What does hello.py print? Answer in one sentence.", "hello.py"],
    cwd=repository, stdin=subprocess.DEVNULL, capture_output=True, text=True)
print(run.stdout, run.stderr)
assert run.returncode == 0, run.returncode
counts = [line for line in run.stdout.split("\n") if line.startswith("Tokens:")]
assert counts, "aider counts no tokens: there was no answer"
print(counts[0])
