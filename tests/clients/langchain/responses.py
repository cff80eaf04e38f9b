# SPDX-License-Identifier: Apache-2.0
"""ChatOpenAI with `use_responses_api`: a text, with_structured_output by schema and by call, a tool
that must be called with its result given back; invoke and stream."""

import os

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from questions import BOOK, DEGREES, WEATHER, Book, Thermometer, check_book

thermometer = Thermometer()
model = ChatOpenAI(model=os.environ["SERVER_MODEL"], temperature=0, max_retries=0, max_tokens=400,
                   use_responses_api=True)


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


def converse(ask):
    messages = [HumanMessage(WEATHER)]
    call = ask(model.bind_tools([get_weather], tool_choice="any", strict=True,
                                parallel_tool_calls=False), messages)
    assert len(call.tool_calls) == 1 and not call.invalid_tool_calls, call
    messages += [call, get_weather.invoke(call.tool_calls[0])]
    answer = ask(model, messages).text
    assert DEGREES in answer, answer
    return answer


history = [
    SystemMessage("You are a helpful assistant."),
    HumanMessage("Hello."),
    AIMessage("Hello! How can I help you?"),
    HumanMessage("What is the capital of France?"),
]
answers = [ask(model, history) for ask in (invoke, stream)]
assert "Paris" in answers[0].text and answers[0].text == answers[1].text, answers
assert answers[0].usage_metadata == answers[1].usage_metadata, answers

for method in ("json_schema", "function_calling"):
    structured = model.with_structured_output(Book, method=method)
    book = check_book(structured.invoke(BOOK))
    *_, last = structured.stream(BOOK)
    assert check_book(last) == book, (method, last, book)

heard = {converse(invoke), converse(stream)}
assert len(thermometer.cities) == 2, thermometer.cities
print(f"{thermometer.cities[0]}: {heard.pop()!r}")
