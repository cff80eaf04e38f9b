# SPDX-License-Identifier: Apache-2.0
"""OpenAILike: chat and stream_chat, a system message and history."""

import os

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

model = OpenAILike(model=os.environ["SERVER_MODEL"], api_base=os.environ["OPENAI_BASE_URL"],
                   api_key="none", is_chat_model=True, temperature=0, max_tokens=40, max_retries=0)
messages = [
    ChatMessage(role="system", content="You are a helpful assistant."),
    ChatMessage(role="user", content="Hello."),
    ChatMessage(role="assistant", content="Hello! How can I help you?"),
    ChatMessage(role="user", content="What is the capital of France?"),
]
answer = model.chat(messages).message.content
assert "Paris" in answer, answer
streamed = "".join(piece.delta for piece in model.stream_chat(messages))
assert streamed == answer, (streamed, answer)
print(repr(answer))
