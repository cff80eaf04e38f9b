# SPDX-License-Identifier: Apache-2.0
"""`parse` and `stream` with `response_format` a pydantic model; `parse` with tools of
`pydantic_function_tool`."""

import os

from openai import OpenAI, pydantic_function_tool
from questions import BOOK, Book, check_book, told

options = dict(model=os.environ["SERVER_MODEL"], temperature=0, max_tokens=400,
               messages=[{"role": "user", "content": BOOK}])
chats = OpenAI(max_retries=0).chat.completions

parsed = check_book(chats.parse(**options, response_format=Book).choices[0].message.parsed)

with chats.stream(**options, response_format=Book) as stream:
    pieces = [event for event in stream if event.type == "content.delta"]
    final = stream.get_final_completion().choices[0].message
assert check_book(final.parsed) == parsed, (final.parsed, parsed)
assert len(pieces) > 3 and pieces[-1].snapshot == final.content, pieces[-1]

choice = chats.parse(**options, tools=[pydantic_function_tool(Book)], tool_choice="required",
                     parallel_tool_calls=False).choices[0]
assert choice.finish_reason == "tool_calls", choice
check_book(choice.message.tool_calls[0].function.parsed_arguments)
print(told(parsed))
