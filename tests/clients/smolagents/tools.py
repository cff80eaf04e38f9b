# SPDX-License-Identifier: Apache-2.0
"""A ToolCallingAgent, which requires a call in each step: a tool's, then final_answer's; plain and
with `stream_outputs`. A tool's argument may be null."""

import os

from questions import DEGREES, WEATHER, Thermometer
from smolagents import OpenAIServerModel, ToolCallingAgent, tool

thermometer = Thermometer()


@tool
def get_weather(city: str, unit: str | None = None) -> str:
    """Tells the weather of a city.

    Args:
        city: The name of the city.
        unit: The unit of degrees.
    """
    return thermometer.read(city)


def make_model(**options):
    return OpenAIServerModel(model_id=os.environ["SERVER_MODEL"],
                             api_base=os.environ["OPENAI_BASE_URL"], api_key="none",
                             client_kwargs={"max_retries": 0}, temperature=0, max_tokens=120,
                             parallel_tool_calls=False, **options)


def finish(step, agent):
    """Left alone, so small a model would call the same tool again."""
    agent.model = make_model(tool_choice={"type": "function",
                                          "function": {"name": "final_answer"}})


def converse(stream_outputs):
    agent = ToolCallingAgent([get_weather], make_model(), stream_outputs=stream_outputs,
                             step_callbacks=[finish], max_steps=2, verbosity_level=0)
    answer = agent.run(WEATHER)
    print(thermometer.cities, repr(answer))
    assert DEGREES in answer and thermometer.cities, answer
    return answer


answers = {converse(False), converse(True)}
assert len(thermometer.cities) == 2, thermometer.cities
print(f"{thermometer.cities[0]}: {answers.pop()!r}")
