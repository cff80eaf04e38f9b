# SPDX-License-Identifier: Apache-2.0
"""An Agent over responses: a text, a model as a tool's call and natively, a tool that must be
called first with its result given back; run and streamed."""

import asyncio
import os

from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from questions import BOOK, DEGREES, WEATHER, Book, Thermometer, check_book

provider = OpenAIProvider(base_url=os.environ["OPENAI_BASE_URL"], api_key="none")
model = OpenAIResponsesModel(os.environ["SERVER_MODEL"], provider=provider)
thermometer = Thermometer()


def settings(context):
    return {"temperature": 0, "max_tokens": 80, "parallel_tool_calls": False,
            "tool_choice": "required" if context.run_step == 1 else "none"}


async def ask(agent, question):
    answer = (await agent.run(question)).output
    async with agent.run_stream(question) as stream:
        streamed = await stream.get_output()
    assert streamed == answer, (streamed, answer)
    return answer


async def main():
    plain = {"temperature": 0, "max_tokens": 400}
    answer = await ask(Agent(model, model_settings=plain), "What is the capital of France?")
    assert "Paris" in answer, answer
    for output in (ToolOutput(Book), NativeOutput(Book)):
        check_book(await ask(Agent(model, output_type=output, retries=0, model_settings=plain),
                             BOOK))
    agent = Agent(model, model_settings=settings, retries=0)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Tells the weather of a city."""
        return thermometer.read(city)

    answer = await ask(agent, WEATHER)
    assert DEGREES in answer and len(thermometer.cities) == 2, (thermometer.cities, answer)
    print(f"{thermometer.cities[0]}: {answer!r}")


asyncio.run(main())
