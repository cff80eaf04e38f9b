# SPDX-License-Identifier: Apache-2.0
"""A tool that must be called, its result given back, an answer; whole and streamed."""

import json
import os

from openai import OpenAI
from questions import DEGREES, WEATHER, Thermometer

TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "Tells the weather of a city.", "strict": True,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
                   "required": ["city"], "additionalProperties": False}}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
chats = OpenAI(max_retries=0).chat.completions


def ask_whole(**options):
    return chats.create(**options).choices[0]


def ask_streamed(**options):
    with chats.stream(**options) as stream:
        for _ in stream:
            pass
        return stream.get_final_completion().choices[0]


def converse(ask, tool_choice):
    thermometer = Thermometer()
    messages = [{"role": "user", "content": WEATHER}]
    options = dict(model=os.environ["SERVER_MODEL"], temperature=0, max_tokens=80, tools=[TOOL])
    choice = ask(**options, messages=messages, tool_choice=tool_choice, parallel_tool_calls=False)
    assert choice.finish_reason == "tool_calls" and not choice.message.content, choice
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather" and call.id, call
    result = thermometer.read(**json.loads(call.function.arguments))
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": result}]
    answer = ask(**options, messages=messages, tool_choice="none")
    print(tool_choice, thermometer.cities, repr(answer.message.content))
    assert DEGREES in answer.message.content and not answer.message.tool_calls, answer
    return thermometer.cities, answer.message.content


heard = [converse(ask, choice) for choice in ("required", NAMED)
         for ask in (ask_whole, ask_streamed)]
assert heard[0] == heard[1] and heard[2] == heard[3], heard
print(f"{heard[0][0][0]}: {heard[0][1]!r}")
