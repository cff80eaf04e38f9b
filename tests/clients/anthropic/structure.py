# SPDX-License-Identifier: Apache-2.0
"""messages.parse and messages.stream with `output_format` a pydantic model; a strict tool.

The client takes bounds out of the schemas that it sends, so the model is one without.
"""

import os

from anthropic import Anthropic
from questions import BOOK, PERSON, Book, Person, check_book, check_person, told

messages = Anthropic(max_retries=0).messages
options = dict(model=os.environ["SERVER_MODEL"], max_tokens=400, extra_body={"temperature": 0})


def said(question):
    return [{"role": "user", "content": question}]


person = check_person(messages.parse(**options, messages=said(PERSON),
                                     output_format=Person).parsed_output)
with messages.stream(**options, messages=said(PERSON), output_format=Person) as stream:
    final = stream.get_final_message()
assert check_person(final.parsed_output) == person, (final, person)

TOOL = {"name": "list_book", "strict": True, "input_schema": Book.model_json_schema()}
answer = messages.create(**options, messages=said(BOOK), tools=[TOOL],
                         tool_choice={"type": "tool", "name": "list_book"})
(block,) = answer.content
print(f"{person!r}; {told(check_book(block.input))}")
