# SPDX-License-Identifier: Apache-2.0
"""completion(), plain and streamed, as provider hosted_vllm and as openai."""

import os

import litellm

messages = [{"role": "user", "content": "What is the capital of France?"}]
texts = []
for provider in ("openai", "hosted_vllm"):
    options = dict(model=f"{provider}/{os.environ['SERVER_MODEL']}", messages=messages,
                   api_base=os.environ["OPENAI_BASE_URL"], api_key="none", temperature=0,
                   max_tokens=40, num_retries=0)
    texts.append(litellm.completion(**options).choices[0].message.content)
    chunks = litellm.completion(**options, stream=True, stream_options={"include_usage": True})
    texts.append("".join(c.choices[0].delta.content or "" for c in chunks if c.choices))
assert "Paris" in texts[0] and len(set(texts)) == 1, texts
print(repr(texts[0]))
