# SPDX-License-Identifier: Apache-2.0
"""An Agent with instructions, run and streamed."""

import asyncio
import os

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

provider = OpenAIProvider(base_url=os.environ["OPENAI_BASE_URL"], api_key="none")
agent = Agent(OpenAIChatModel(os.environ["SERVER_MODEL"], provider=provider),
              instructions="Answer in one sentence.",
              model_settings={"temperature": 0, "max_tokens": 40})


async def main():
    answer = await agent.run("What is the capital of France?")
    async with agent.run_stream("What is the capital of France?") as stream:
        streamed = await stream.get_output()
    assert "Paris" in answer.output, answer
    assert streamed == answer.output, (streamed, answer.output)
    print(repr(answer.output))


asyncio.run(main())
