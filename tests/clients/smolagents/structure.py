# SPDX-License-Identifier: Apache-2.0
"""OpenAIServerModel with `response_format` a schema, plain and streamed; and with the schema of a
CodeAgent's steps (`use_structured_outputs_internally`)."""

import json
import os

from questions import BOOK, Book, check_book, told
from smolagents import ChatMessage, MessageRole, OpenAIServerModel
from smolagents.models import CODEAGENT_RESPONSE_FORMAT

FORMAT = {"type": "json_schema",
          "json_schema": {"name": "Book", "strict": True, "schema": Book.model_json_schema()}}
model = OpenAIServerModel(model_id=os.environ["SERVER_MODEL"],
                          api_base=os.environ["OPENAI_BASE_URL"], api_key="none",
                          client_kwargs={"max_retries": 0}, temperature=0, max_tokens=400)


def ask(question, form):
    messages = [ChatMessage(MessageRole.USER, [{"type": "text", "text": question}])]
    answer = model.generate(messages, response_format=form).content
    streamed = "".join(delta.content or ""
                       for delta in model.generate_stream(messages, response_format=form))
    assert streamed == answer, (streamed, answer)
    return json.loads(answer)


step = ask("Print the sum of 2 and 3 in Python, in one line.", CODEAGENT_RESPONSE_FORMAT)
assert set(step) == {"thought", "code"} and step["code"], step
print(step)
print(told(check_book(ask(BOOK, FORMAT))))
