# SPDX-License-Identifier: Apache-2.0
"""A response model in the modes JSON_SCHEMA, TOOLS and JSON, whole and as partial objects."""

import os

import instructor
from openai import OpenAI
from questions import BOOK, PERSON, Book, Person, check_book, check_person, told

CASES = (
    (instructor.Mode.JSON_SCHEMA, Book, BOOK, check_book),
    (instructor.Mode.TOOLS, Book, BOOK, check_book),
    (instructor.Mode.JSON, Person, PERSON, check_person),  # tells the model the schema, no more
)
found = []
for mode, model, question, check in CASES:
    chats = instructor.from_openai(OpenAI(max_retries=0), mode=mode).chat.completions
    options = dict(model=os.environ["SERVER_MODEL"], temperature=0, max_tokens=400, max_retries=0,
                   messages=[{"role": "user", "content": question}], response_model=model)
    found.append(check(chats.create(**options)))
    # Strictly, a part would have to hold members of enumerations, which JSON cannot. It may be
    # another object than the whole one: the schema that is sent for parts is another.
    *_, last = chats.create_partial(**options, strict=False)
    check(last)
print(f"{told(found[0])}; {told(found[1])}; {found[2]!r}")
