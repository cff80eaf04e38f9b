# SPDX-License-Identifier: Apache-2.0
"""ChatOpenAI.with_structured_output in its three methods, invoke and stream."""

import os

from langchain_openai import ChatOpenAI
from questions import BOOK, Book, check_book, told

model = ChatOpenAI(model=os.environ["SERVER_MODEL"], temperature=0, max_retries=0, max_tokens=400)
for method in ("json_schema", "function_calling"):
    structured = model.with_structured_output(Book, method=method)
    book = check_book(structured.invoke(BOOK))
    pieces = list(structured.stream(BOOK))
    assert check_book(pieces[-1]) == book, (method, pieces[-1], book)
    print(f"{method}: {told(book)}")

# This method asks for an object and says no schema: its members are the prompt's matter.
anything = model.with_structured_output(method="json_mode")
found = anything.invoke(BOOK)
assert isinstance(found, dict), found
*_, streamed = anything.stream(BOOK)
assert streamed == found, (streamed, found)
print(f"{told(book)}; json_mode: {list(found)}")
