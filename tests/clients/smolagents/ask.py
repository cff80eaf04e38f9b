# SPDX-License-Identifier: Apache-2.0
"""OpenAIServerModel: a chat of content parts, plain and streamed."""

import os

from smolagents import ChatMessage, MessageRole, OpenAIServerModel

model = OpenAIServerModel(model_id=os.environ["SERVER_MODEL"],
                          api_base=os.environ["OPENAI_BASE_URL"], api_key="none",
                          temperature=0, max_tokens=40)
messages = [
    ChatMessage(MessageRole.SYSTEM, [{"type": "text", "text": "Answer in one sentence."}]),
    ChatMessage(MessageRole.USER, [{"type": "text", "text": "What is the capital of France?"}]),
]
answer = model.generate(messages, stop_sequences=["Observation:"])
assert "Paris" in answer.content, answer
streamed = "".join(delta.content or "" for delta in model.generate_stream(messages))
assert streamed == answer.content, (streamed, answer.content)
print(repr(answer.content))
