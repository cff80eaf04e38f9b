# SPDX-License-Identifier: Apache-2.0
"""responses.create, parse and stream: a text, a pydantic model, a tool that must be called with its
result given back."""

import json
import os

from openai import OpenAI, pydantic_function_tool
from questions import BOOK, DEGREES, WEATHER, Book, Thermometer, check_book

TOOL = {"type": "function", "name": "get_weather", "strict": True,
        "description": "Tells the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
                       "required": ["city"], "additionalProperties": False}}
responses = OpenAI(max_retries=0).responses
options = dict(model=os.environ["SERVER_MODEL"], temperature=0, store=False)


def stream(**request):
    with responses.stream(**request) as events:
        seen = list(events)
        final = events.get_final_response()
    assert seen[0].type == "response.created" and seen[-1].type == "response.completed", seen
    numbers = [event.sequence_number for event in seen]
    assert numbers == list(range(len(seen))), numbers
    text = "".join(e.delta for e in seen if e.type == "response.output_text.delta")
    assert text == final.output_text, (text, final.output_text)
    return final


def ask_text():
    texts = []
    for ask in (responses.create, stream):
        answer = ask(**options, instructions="Answer in one sentence.", max_output_tokens=40,
                     input="What is the capital of France?")
        assert answer.status == "completed" and answer.usage.output_tokens > 0, answer
        texts.append(answer.output_text)
    assert "Paris" in texts[0] and texts[0] == texts[1], texts
    cut = responses.create(**options, input="Tell me a long story.", max_output_tokens=16)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens", cut


def ask_book():
    request = dict(**options, input=BOOK, max_output_tokens=400)
    book = check_book(responses.parse(**request, text_format=Book).output_parsed)
    assert check_book(stream(**request, text_format=Book).output_parsed) == book
    # Chats' tools hold under `function` what stands beside `type` here.
    chat_tool = pydantic_function_tool(Book)
    answer = responses.parse(**request, tool_choice="required", parallel_tool_calls=False,
                             tools=[{"type": "function", **chat_tool["function"]}])
    check_book(json.loads(answer.output[-1].arguments))


def converse(ask, tool_choice):
    thermometer = Thermometer()
    items = [{"role": "user", "content": WEATHER}]
    request = dict(**options, tools=[TOOL], max_output_tokens=80)
    call = ask(**request, input=items, tool_choice=tool_choice, parallel_tool_calls=False)
    (item,) = call.output
    assert item.type == "function_call" and item.name == "get_weather" and item.call_id, item
    result = thermometer.read(**json.loads(item.arguments))
    items += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}),
              {"type": "function_call_output", "call_id": item.call_id, "output": result}]
    answer = ask(**request, input=items, tool_choice="none")
    print(tool_choice, thermometer.cities, repr(answer.output_text))
    assert DEGREES in answer.output_text, answer
    return thermometer.cities, answer.output_text


ask_text()
ask_book()
heard = [converse(ask, choice) for choice in ("required", {"type": "function",
                                                           "name": "get_weather"})
         for ask in (responses.create, stream)]
assert heard[0] == heard[1] and heard[2] == heard[3], heard
print(f"{heard[0][0][0]}: {heard[0][1]!r}")
