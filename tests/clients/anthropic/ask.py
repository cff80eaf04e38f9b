# SPDX-License-Identifier: Apache-2.0
"""messages.create, messages.stream and messages.count_tokens, a system text and history."""

import os

from anthropic import Anthropic

messages = Anthropic(max_retries=0).messages
conversation = dict(model=os.environ["SERVER_MODEL"], system="You are a helpful assistant.",
                    messages=[{"role": "user", "content": "Hello."},
                              {"role": "assistant", "content": "Hello! How can I help you?"},
                              {"role": "user", "content": [
                                  {"type": "text", "text": "What is the capital of France?"}]}])
# The client has no parameter for it any more.
options = dict(**conversation, max_tokens=40, extra_body={"temperature": 0})

answer = messages.create(**options)
(block,) = answer.content
assert block.type == "text" and "Paris" in block.text, answer
assert answer.stop_reason == "end_turn" and answer.usage.output_tokens > 0, answer

with messages.stream(**options) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert text == block.text == final.content[0].text, (text, final)
assert final.stop_reason == "end_turn", final
assert final.usage.output_tokens == answer.usage.output_tokens, (final.usage, answer.usage)

cut = messages.create(**options, stop_sequences=["Paris"])
assert cut.stop_reason == "stop_sequence" and cut.stop_sequence == "Paris", cut
assert messages.create(**{**options, "max_tokens": 2}).stop_reason == "max_tokens"

tokens = messages.count_tokens(**conversation).input_tokens
usage = answer.usage
counted = (usage.input_tokens + (usage.cache_read_input_tokens or 0)
           + (usage.cache_creation_input_tokens or 0))
assert tokens == counted, (tokens, usage)
print(f"{block.text!r}, {tokens} tokens in")
