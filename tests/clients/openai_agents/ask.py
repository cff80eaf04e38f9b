# SPDX-License-Identifier: Apache-2.0
"""An Agent over chat completions, run and streamed."""

import asyncio
import os

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner
from openai import AsyncOpenAI

agent = Agent(
    name="Guide",
    instructions="Answer in one sentence.",
    model=OpenAIChatCompletionsModel(os.environ["SERVER_MODEL"], AsyncOpenAI(max_retries=0)),
    model_settings=ModelSettings(temperature=0, max_tokens=40),
)


async def main():
    answer = await Runner.run(agent, "What is the capital of France?")
    streamed = Runner.run_streamed(agent, "What is the capital of France?")
    async for _ in streamed.stream_events():
        pass
    assert "Paris" in answer.final_output, answer
    assert streamed.final_output == answer.final_output, streamed.final_output
    print(repr(answer.final_output))


asyncio.run(main())
