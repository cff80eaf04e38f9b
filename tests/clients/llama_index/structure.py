# SPDX-License-Identifier: Apache-2.0
"""OpenAILike.structured_predict and as_structured_llm: by a schema
(`should_use_structured_outputs`), whole and streamed, and by a tool's call."""

import os

from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike
from questions import BOOK, Book, check_book, told

for by_schema in (True, False):
    model = OpenAILike(model=os.environ["SERVER_MODEL"], api_base=os.environ["OPENAI_BASE_URL"],
                       api_key="none", is_chat_model=True, is_function_calling_model=True,
                       should_use_structured_outputs=by_schema, temperature=0, max_tokens=400,
                       max_retries=0)
    book = check_book(model.structured_predict(Book, PromptTemplate(BOOK)))
    if by_schema:  # else, in streams, it leaves to the model whether to call
        *_, last = model.stream_structured_predict(Book, PromptTemplate(BOOK))
        assert check_book(last) == book, (last, book)
    structured = model.as_structured_llm(Book)
    assert check_book(structured.chat([ChatMessage(role="user", content=BOOK)]).raw) == book
    print(told(book))
