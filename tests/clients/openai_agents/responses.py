# SPDX-License-Identifier: Apache-2.0
"""An Agent over responses: a text, an `output_type`, a tool that must be called first with its
result given back; run and streamed."""

import asyncio
import os

from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool
from openai import AsyncOpenAI
from questions import BOOK, DEGREES, WEATHER, Book, Thermometer, check_book

thermometer = Thermometer()


@function_tool
def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return thermometer.read(city)


def make_agent(max_tokens, tool_choice=None, **more):
    return Agent(
        name="Guide",
        model=OpenAIResponsesModel(os.environ["SERVER_MODEL"], AsyncOpenAI(max_retries=0)),
        model_settings=ModelSettings(temperature=0, max_tokens=max_tokens, store=False,
                                     tool_choice=tool_choice,
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
    caller = make_agent(80, tool_choice, tools=[get_weather],
                        tool_use_behavior="stop_on_first_tool")
    called = await ask(caller, WEATHER)
    answer = (await ask(make_agent(80), called.to_input_list())).final_output
    print(tool_choice, thermometer.cities, repr(answer))
    assert DEGREES in called.final_output and DEGREES in answer, (called, answer)
    return answer


async def main():
    guide = make_agent(40, instructions="Answer in one sentence.")
    librarian = make_agent(400, output_type=Book)
    texts = [(await ask(guide, "What is the capital of France?")).final_output
             for ask in (run, run_streamed)]
    assert "Paris" in texts[0] and texts[0] == texts[1], texts
    books = [check_book((await ask(librarian, BOOK)).final_output) for ask in (run, run_streamed)]
    assert books[0] == books[1], books
    answers = {await converse(ask, choice)
               for choice in ("required", "get_weather") for ask in (run, run_streamed)}
    assert thermometer.cities == 4 * thermometer.cities[:1], thermometer.cities
    print(f"{thermometer.cities[0]}: {answers.pop()!r}")


asyncio.run(main())
