# SPDX-License-Identifier: Apache-2.0
"""chat_with_tools with a tool that must be called, its result given back, an answer; whole and
streamed."""

import os

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from questions import DEGREES, WEATHER, Thermometer

thermometer = Thermometer()


def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return thermometer.read(city)


TOOL = FunctionTool.from_defaults(get_weather)
model = OpenAILike(model=os.environ["SERVER_MODEL"], api_base=os.environ["OPENAI_BASE_URL"],
                   api_key="none", is_chat_model=True, is_function_calling_model=True,
                   temperature=0, max_tokens=80, max_retries=0)


def stream(tools, **options):
    *_, last = model.stream_chat_with_tools(tools, **options)
    return last


def converse(ask, **choice):
    messages = [ChatMessage(role="user", content=WEATHER)]
    call = ask([TOOL], chat_history=messages, **choice)
    (chosen,) = model.get_tool_calls_from_response(call)
    assert chosen.tool_name == "get_weather", chosen
    result = TOOL(**chosen.tool_kwargs)
    messages += [call.message, ChatMessage(role="tool", content=result.content,
                                           additional_kwargs={"tool_call_id": chosen.tool_id})]
    answer = ask([], chat_history=messages)
    print(choice, chosen.tool_kwargs, repr(answer.message.content))
    assert DEGREES in answer.message.content, answer
    assert not model.get_tool_calls_from_response(answer, error_on_no_tool_call=False), answer
    return answer.message.content


answers = {converse(ask, **choice)
           for choice in ({"tool_required": True}, {"tool_choice": "get_weather"})
           for ask in (model.chat_with_tools, stream)}
assert len(thermometer.cities) == 4, thermometer.cities
print(f"{thermometer.cities[0]}: {answers.pop()!r}")
