# SPDX-License-Identifier: Apache-2.0
"""An Agent with a tool that must be called first, its result given back, an answer; run and
streamed."""

import asyncio
import os

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from questions import DEGREES, WEATHER, Thermometer

provider = OpenAIProvider(base_url=os.environ["OPENAI_BASE_URL"], api_key="none")
thermometer = Thermometer()


def make_agent(first_choice):
    def settings(context):
        return {"temperature": 0, "max_tokens": 80, "parallel_tool_calls": False,
                "tool_choice": first_choice if context.run_step == 1 else "none"}

    agent = Agent(OpenAIChatModel(os.environ["SERVER_MODEL"], provider=provider),
                  model_settings=settings, retries=0)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Tells the weather of a city."""
        return thermometer.read(city)

    return agent


async def main():
    for choice in ("required", ["get_weather"]):
        agent = make_agent(choice)
        answer = (await agent.run(WEATHER)).output
        async with agent.run_stream(WEATHER) as stream:
            streamed = await stream.get_output()
        print(choice, thermometer.cities, repr(answer))
        assert DEGREES in answer and streamed == answer, (streamed, answer)
    assert len(thermometer.cities) == 4 and len(set(thermometer.cities)) == 1, thermometer.cities
    print(f"{thermometer.cities[0]}: {answer!r}")


asyncio.run(main())
