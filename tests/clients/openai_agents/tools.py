# SPDX-License-Identifier: Apache-2.0
"""An Agent over chat completions with a tool that must be called first, its result given back, an
answer; run and streamed."""

import asyncio
import os

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool
from openai import AsyncOpenAI
from questions import DEGREES, WEATHER, Thermometer

thermometer = Thermometer()


@function_tool
def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return thermometer.read(city)


def make_agent(tool_choice=None, **more):
    return Agent(
        name="Guide",
        model=OpenAIChatCompletionsModel(os.environ["SERVER_MODEL"], AsyncOpenAI(max_retries=0)),
        model_settings=ModelSettings(temperature=0, max_tokens=80, tool_choice=tool_choice,
                                     parallel_tool_calls=False if tool_choice else None),
        **more,
    )


async def run(agent, question):
    return await Runner.run(agent, question)


async def run_streamed(agent, question):
    result = Runner.run_streamed(agent, question)
    async for _ in result.stream_events():
        pass
    return result


async def converse(ask, tool_choice):
    """One agent calls and another answers: an agent that has a tool may call it again, which so
    small a model does."""
    caller = make_agent(tool_choice, tools=[get_weather], tool_use_behavior="stop_on_first_tool")
    called = await ask(caller, WEATHER)
    answer = (await ask(make_agent(), called.to_input_list())).final_output
    print(tool_choice, thermometer.cities, repr(answer))
    assert DEGREES in called.final_output and DEGREES in answer, (called, answer)
    return answer


async def main():
    answers = {await converse(ask, choice)
               for choice in ("required", "get_weather") for ask in (run, run_streamed)}
    assert thermometer.cities == 4 * thermometer.cities[:1], thermometer.cities
    print(f"{thermometer.cities[0]}: {answers.pop()!r}")


asyncio.run(main())
