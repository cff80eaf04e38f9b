# SPDX-License-Identifier: Apache-2.0
"""Request bodies that cost more than they look: JSON of many small things, texts that are slow to
tokenize or to render, and values that a careless server copies for every choice."""

import json

MIB = 1 << 20


def repeated(item, size, opening="[", closing="]"):
    """An array of the item, of about so many bytes."""
    n = max(1, (size - 2) // (len(item) + 1))
    return opening + (item + ",") * (n - 1) + item + closing


def nested(opening, closing, inner, size):
    n = max(1, size // (len(opening) + len(closing)))
    return opening * n + inner + closing * n


def distinct_keys(size):
    n = size // 10
    return "{" + ",".join(f'"{i:06x}":0' for i in range(n)) + "}"


# JSON texts of about so many bytes.
SHAPES = {
    "empty objects": lambda size: repeated("{}", size),
    "empty arrays": lambda size: repeated("[]", size),
    "ones": lambda size: repeated("1", size),
    "fractions": lambda size: repeated("1e5", size),
    "nulls": lambda size: repeated("null", size),
    "empty strings": lambda size: repeated('""', size),
    "letters": lambda size: repeated('"a"', size),
    "objects of one": lambda size: repeated('{"a":[]}', size),
    "messages": lambda size: repeated('{"role":"user","content":"a"}', size),
    "deep arrays": lambda size: nested("[", "]", "", size),
    "deep objects": lambda size: nested('{"a":', "}", "1", size),
    "open arrays": lambda size: "[" * size,
    "distinct keys": distinct_keys,
    "one key": lambda size: repeated('"a":0', size, "{", "}"),
    "long key": lambda size: '{"' + "k" * size + '":0}',
    "long string": lambda size: '"' + "s" * size + '"',
    "escapes": lambda size: '"' + "\\u0001" * (size // 6) + '"',
    "emoji escapes": lambda size: '"' + "\\ud83d\\ude00" * (size // 12) + '"',
    "long number": lambda size: "1" * size,
    "cut short": lambda size: repeated("{}", size)[:-1],
}

HELLO = '{"role":"user","content":"Hello"}'


def in_arguments(shape):
    """JSON as a text in JSON, as tool calls carry it."""
    call = '{"id":"c","type":"function","function":{"name":"f","arguments":%s}}'
    return (
        '{"messages":[' + HELLO + ',{"role":"assistant","content":"","tool_calls":['
        + call % json.dumps(shape) + '],"x":0},{"role":"tool","tool_call_id":"c","content":"1"}],'
        '"max_tokens":1}'
    )


# Where a JSON text may stand: path, and the body around it.
PLACES = {
    "unknown member": ("/v1/completions", '{"prompt":"a","max_tokens":1,"zzz":%s}'),
    "prompt": ("/v1/completions", '{"prompt":%s,"max_tokens":1}'),
    "stop": ("/v1/completions", '{"prompt":"a","max_tokens":1,"stop":%s}'),
    "logit_bias": ("/v1/completions", '{"prompt":"a","max_tokens":1,"logit_bias":%s}'),
    "stream_options": ("/v1/completions",
                       '{"prompt":"a","max_tokens":1,"stream":true,"stream_options":%s}'),
    "model": ("/v1/completions", '{"prompt":"a","max_tokens":1,"model":%s}'),
    "user": ("/v1/completions", '{"prompt":"a","max_tokens":1,"user":%s}'),
    "messages": ("/v1/chat/completions", '{"messages":%s,"max_tokens":1}'),
    "content": ("/v1/chat/completions",
                '{"messages":[{"role":"user","content":%s}],"max_tokens":1}'),
    "message member": ("/v1/chat/completions",
                       '{"messages":[{"role":"user","content":"a","zzz":%s}],"max_tokens":1}'),
    "tools": ("/v1/chat/completions",
              '{"messages":[' + HELLO + '],"tool_choice":"none","tools":%s,"max_tokens":1}'),
    "metadata": ("/v1/chat/completions",
                 '{"messages":[' + HELLO + '],"metadata":%s,"max_tokens":1}'),
    "template arguments": (
        "/v1/chat/completions",
        '{"messages":[' + HELLO + '],"chat_template_kwargs":{"x":%s},"max_tokens":1}'),
    "tool arguments": ("/v1/chat/completions", in_arguments),
    "tokenize prompt": ("/tokenize", '{"prompt":%s}'),
    "detokenize tokens": ("/detokenize", '{"tokens":%s}'),
    "whole body": ("/v1/completions", "%s"),
}


def placed(place, shape, size):
    """(path, body): a JSON text of about that size in that place."""
    path, around = PLACES[place]
    text = SHAPES[shape](size)
    body = around(text) if callable(around) else around % text
    return path, body.encode()


# Texts that are slow to tokenize, or large when they are tokens.
TEXTS = {
    "spaces": lambda size: " " * size,
    "one letter": lambda size: "a" * size,
    "emoji": lambda size: "\U0001f600" * (size // 4),
    "line ends": lambda size: "\n" * size,
    "digits": lambda size: "7" * size,
    "letters and accents": lambda size: "e\u0301" * (size // 3),
    "words": lambda size: "the cat sat on the mat and " * (size // 27),
    "special tokens": lambda size: "<|im_start|>" * (size // 12),
}


def chat(text):
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 1}


def chat_of_many(n):
    """A template runs its loop n times."""
    return {"messages": [{"role": "user", "content": "a"}] * n, "max_tokens": 1}
