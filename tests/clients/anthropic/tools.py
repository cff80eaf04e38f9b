# SPDX-License-Identifier: Apache-2.0
"""A tool that must be called, its result given back, an answer; messages.create and
messages.stream."""

import os

from anthropic import Anthropic
from questions import DEGREES, WEATHER, Thermometer

TOOL = {"name": "get_weather", "description": "Tells the weather of a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}},
                         "required": ["city"], "additionalProperties": False}}
messages = Anthropic(max_retries=0).messages


def stream(**options):
    with messages.stream(**options) as events:
        pieces = [event for event in events if event.type == "input_json"]
        final = events.get_final_message()
    if final.stop_reason == "tool_use":
        assert len(pieces) > 1 and pieces[-1].snapshot == final.content[-1].input, pieces
    return final


def converse(ask, tool_choice):
    thermometer = Thermometer()
    conversation = [{"role": "user", "content": WEATHER}]
    options = dict(model=os.environ["SERVER_MODEL"], max_tokens=80, tools=[TOOL],
                   extra_body={"temperature": 0})
    call = ask(**options, messages=conversation,
               tool_choice={**tool_choice, "disable_parallel_tool_use": True})
    (block,) = call.content
    assert call.stop_reason == "tool_use" and block.type == "tool_use", call
    assert block.name == "get_weather" and block.id, block
    result = thermometer.read(**block.input)
    conversation += [{"role": "assistant", "content": call.content},
                     {"role": "user", "content": [
                         {"type": "tool_result", "tool_use_id": block.id, "content": result}]}]
    answer = ask(**options, messages=conversation, tool_choice={"type": "none"})
    (block,) = answer.content
    print(tool_choice, thermometer.cities, repr(block.text))
    assert DEGREES in block.text and answer.stop_reason == "end_turn", answer
    return thermometer.cities, block.text


heard = [converse(ask, choice)
         for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"})
         for ask in (messages.create, stream)]
assert heard[0] == heard[1] and heard[2] == heard[3], heard
print(f"{heard[0][0][0]}: {heard[0][1]!r}")
