# SPDX-License-Identifier: Apache-2.0
"""A plain answer through its client, with no response model."""

import os

import instructor
from openai import OpenAI

client = instructor.from_openai(OpenAI(max_retries=0), mode=instructor.Mode.MD_JSON)
answer = client.chat.completions.create(
    model=os.environ["SERVER_MODEL"], response_model=None, temperature=0, max_tokens=40,
    messages=[{"role": "user", "content": "What is the capital of France?"}])
text = answer.choices[0].message.content
assert "Paris" in text, answer
print(repr(text))
