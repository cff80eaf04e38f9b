# SPDX-License-Identifier: Apache-2.0
"""An Agent over chat completions whose `output_type` is a model, run and streamed."""

import asyncio
import os

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner
from openai import AsyncOpenAI
from questions import BOOK, Book, check_book, told

agent = Agent(
    name="Librarian",
    output_type=Book,
    model=OpenAIChatCompletionsModel(os.environ["SERVER_MODEL"], AsyncOpenAI(max_retries=0)),
    model_settings=ModelSettings(temperature=0, max_tokens=400),
)


async def main():
    book = check_book((await Runner.run(agent, BOOK)).final_output)
    streamed = Runner.run_streamed(agent, BOOK)
    async for _ in streamed.stream_events():
        pass
    assert check_book(streamed.final_output) == book, (streamed.final_output, book)
    print(told(book))


asyncio.run(main())
