# SPDX-License-Identifier: Apache-2.0
"""A chat, streamed, with its usage."""

import os

from openai import OpenAI

stream = OpenAI(max_retries=0).chat.completions.create(
    model=os.environ["SERVER_MODEL"],
    messages=[{"role": "user", "content": "What is the capital of France?"}],
    temperature=0,
    stream=True,
    stream_options={"include_usage": True},
)
text, usage = "", None
for chunk in stream:
    text += "".join(choice.delta.content or "" for choice in chunk.choices)
    usage = chunk.usage or usage
assert "Paris" in text, text
assert usage.completion_tokens > 0, usage
print(f"{text!r}, {usage.completion_tokens} tokens")
