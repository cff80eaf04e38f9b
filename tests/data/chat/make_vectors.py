#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints chat requests, a JSON object a line, with what Transformers makes of each: MODEL SEED N.

MODEL is a directory with tokenizer.json and tokenizer_config.json; needs transformers 5.24 and
jinja2 (no torch). Some requests are good, most have something odd: missing or null content,
content of other types, reasoning, tool calls with ids too short, text that looks like markup.
`text` is the prompt; `error` is what the reference raised.
"""

import json
import random
import sys

from transformers import AutoTokenizer

TEXTS = (
    "Hi", "", " ", "\n", "<tool_response>x</tool_response>", "</think>", "<think>a</think>b",
    "Zürich", "日本語", "😀", "a\"b'c", "\\n", "<|im_end|>", "{{ x }}", "{% if %}", "&<>'\"",
    "\u2028", "\0", "\t tab", "trail  ", "</think>\n\n x", "\u200b", "\x7f", "[INST]", "y\u0308",
)
KEYS = ("a", "b", "city", "items", "keys", "name", "arguments", "type", "text", "ü")
SCALARS = (
    None, True, False, 0, -1, 2**63, 12345678901234567890123,
    0.1, 1e300, -0.0, 1.0, 1e-7, 3.141592653589793, 1e22,
)


class Maker:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def chance(self, p):
        return self.random.random() < p

    def text(self):
        return "".join(self.random.choice(TEXTS) for _ in range(self.random.randint(0, 4)))

    def value(self, depth=0):
        kind = self.random.randint(0, 9 if depth < 3 else 7)
        if kind < 4:
            return self.random.choice(SCALARS)
        if kind < 8:
            return self.text()
        values = [self.value(depth + 1) for _ in range(self.random.randint(0, 3))]
        return values if kind == 8 else {self.random.choice(KEYS): v for v in values}

    def content(self):
        if self.chance(0.85):
            return self.text()
        if self.chance(0.3):
            return None
        if self.chance(0.5):
            return [{"type": "text", "text": self.text()}]
        return self.value()

    def tool_call(self):
        arguments = self.random.choice(
            [self.value(), {"city": self.text()}, '{"a": 1}', {"a": self.value()}]
        )
        function = {"name": self.random.choice(["get_weather", "f", "ü"]), "arguments": arguments}
        if self.chance(0.05):
            function.pop("arguments")
        if self.chance(0.1):
            return function
        call = {"type": "function", "function": function}
        if self.chance(0.95):
            call["id"] = "abcdefghi" if self.chance(0.9) else "call_1"
        return call

    def message(self, role):
        message = {"role": role, "content": self.content()}
        if role == "assistant" and self.chance(0.3):
            n_calls = 1 if self.chance(0.7) else self.random.randint(0, 3)
            message["tool_calls"] = [self.tool_call() for _ in range(n_calls)]
        if role == "assistant" and self.chance(0.2):
            name = self.random.choice(["reasoning_content", "thinking", "reasoning"])
            message[name] = self.text() if self.chance(0.8) else None
        if role == "tool" and self.chance(0.95):
            message["tool_call_id"] = "abcdefghi" if self.chance(0.9) else "x"
        if self.chance(0.03):
            message.pop(self.random.choice(list(message)))
        if self.chance(0.03):
            message["extra"] = self.value()
        return message

    def messages(self):
        roles = ["system"] if self.chance(0.4) else []
        for _ in range(self.random.randint(1, 3)):
            roles += ["user", "assistant"]
            if self.chance(0.3):
                roles += ["tool"] * self.random.randint(1, 2)
        if self.chance(0.5):
            roles.append("user")
        if self.chance(0.1):
            self.random.shuffle(roles)
        return [self.message(role) for role in roles]

    def tool(self):
        properties = {"city": {"type": "string", "description": self.text()}}
        if self.chance(0.2):
            properties["x"] = self.value()
        function = {
            "name": "get_weather",
            "description": self.text(),
            "parameters": {"type": "object", "properties": properties, "required": ["city"]},
        }
        if self.chance(0.1):
            function["return"] = self.value()
        return {"type": "function", "function": function}

    def request(self):
        request = {"messages": self.messages()}
        if self.chance(0.5):
            request["tools"] = [self.tool() for _ in range(self.random.randint(0, 2))] or None
        if self.chance(0.8):
            request["add_generation_prompt"] = self.chance(0.5)
        if self.chance(0.3):
            name = self.random.choice(["enable_thinking", "tools_in_user_message", "bos_token", "x"])
            request["kwargs"] = {name: self.random.choice([True, False, None, "X"])}
        return request


def answer(tokenizer, request):
    try:
        text = tokenizer.apply_chat_template(
            request["messages"],
            tools=request.get("tools"),
            add_generation_prompt=request.get("add_generation_prompt", False),
            tokenize=False,
            **request.get("kwargs", {}),
        )
        return {"text": text}
    except Exception as error:
        return {"error": str(error)}


def main():
    model, seed, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    tokenizer, maker = AutoTokenizer.from_pretrained(model), Maker(seed)
    for _ in range(n):
        request = maker.request()
        print(json.dumps({**request, **answer(tokenizer, request)}, ensure_ascii=False))


main()
