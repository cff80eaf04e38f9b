# SPDX-License-Identifier: Apache-2.0
"""bind_tools with a tool that must be called, its result given back, an answer; invoke and
stream."""

import os

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from questions import DEGREES, WEATHER, Thermometer

thermometer = Thermometer()


@tool
def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return thermometer.read(city)


def invoke(model, messages):
    return model.invoke(messages)


def stream(model, messages):
    whole = None
    for chunk in model.stream(messages):
        whole = chunk if whole is None else whole + chunk
    return whole


def converse(ask, tool_choice):
    model = ChatOpenAI(model=os.environ["SERVER_MODEL"], temperature=0, max_retries=0,
                       max_tokens=80)
    messages = [HumanMessage(WEATHER)]
    call = ask(model.bind_tools([get_weather], tool_choice=tool_choice, strict=True,
                                parallel_tool_calls=False), messages)
    assert len(call.tool_calls) == 1 and not call.invalid_tool_calls, call
    messages += [call, get_weather.invoke(call.tool_calls[0])]
    answer = ask(model.bind_tools([get_weather], tool_choice="none"), messages)
    print(tool_choice, call.tool_calls, repr(answer.content))
    assert DEGREES in answer.content and not answer.tool_calls, answer
    return answer.content


answers = {converse(ask, choice) for choice in ("any", "get_weather") for ask in (invoke, stream)}
assert len(thermometer.cities) == 4, thermometer.cities
print(f"{thermometer.cities[0]}: {answers.pop()!r}")
