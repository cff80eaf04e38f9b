# SPDX-License-Identifier: Apache-2.0
"""ChatOpenAI: invoke and stream, a system message and history."""

import os

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model=os.environ["SERVER_MODEL"], temperature=0, max_retries=0, max_tokens=40)
messages = [
    SystemMessage("You are a helpful assistant."),
    HumanMessage("Hello."),
    AIMessage("Hello! How can I help you?"),
    HumanMessage("What is the capital of France?"),
]
answer = model.invoke(messages)
assert "Paris" in answer.content, answer
assert answer.usage_metadata["output_tokens"] > 0, answer
streamed = "".join(chunk.content for chunk in model.stream(messages))
assert streamed == answer.content, (streamed, answer.content)
print(repr(answer.content))
