# SPDX-License-Identifier: Apache-2.0
"""An Agent whose output is a model, as a tool's call, natively and prompted; run and streamed."""

import asyncio
import os

from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from questions import BOOK, PERSON, Book, Person, check_book, check_person, told

CASES = (
    (ToolOutput(Book), BOOK, check_book),
    (NativeOutput(Book), BOOK, check_book),
    (PromptedOutput(Person), PERSON, check_person),  # tells the model the schema, no more
)
provider = OpenAIProvider(base_url=os.environ["OPENAI_BASE_URL"], api_key="none")
model = OpenAIChatModel(os.environ["SERVER_MODEL"], provider=provider)


async def main():
    found = []
    for output, question, check in CASES:
        agent = Agent(model, output_type=output, retries=0,
                      model_settings={"temperature": 0, "max_tokens": 400})
        found.append(check((await agent.run(question)).output))
        async with agent.run_stream(question) as stream:
            streamed = await stream.get_output()
        assert check(streamed) == found[-1], (output, streamed, found)
    print(f"{told(found[0])}; {told(found[1])}; {found[2]!r}")


asyncio.run(main())
