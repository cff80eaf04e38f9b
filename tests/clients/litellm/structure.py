# SPDX-License-Identifier: Apache-2.0
"""completion() with `response_format` a pydantic model, and a schema's own form, as provider
hosted_vllm and as openai; plain and streamed."""

import os

import litellm
from questions import BOOK, Book, check_book, told

litellm.enable_json_schema_validation = True
NAMED = {"type": "json_schema",
         "json_schema": {"name": "Book", "strict": True, "schema": Book.model_json_schema()}}
books = []
for provider in ("openai", "hosted_vllm"):
    for form in (Book, NAMED):
        options = dict(model=f"{provider}/{os.environ['SERVER_MODEL']}", temperature=0,
                       messages=[{"role": "user", "content": BOOK}], response_format=form,
                       api_base=os.environ["OPENAI_BASE_URL"], api_key="none", max_tokens=400,
                       num_retries=0)
        text = litellm.completion(**options).choices[0].message.content
        chunks = litellm.completion(**options, stream=True)
        streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert streamed == text, (streamed, text)
        books.append(check_book(Book.model_validate_json(text)))
print(told(books[0]))
