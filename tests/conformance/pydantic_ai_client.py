"""Pydantic AI against a served model, by both of OpenAI's APIs; its address is the argument."""

import sys

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

QUESTION = "What is 2+2?"
provider = OpenAIProvider(base_url=sys.argv[1], api_key="none")
once = {"usage_limits": UsageLimits(request_limit=1)}


class City(BaseModel):
    """A place."""

    city: str = Field(max_length=20)


asked: list[str] = []


def look_up(city: str) -> str:
    """Look a city up."""
    asked.append(city)
    return "It rains."


for kind in (OpenAIChatModel, OpenAIResponsesModel):
    model = kind("student", provider=provider, settings={"temperature": 0, "max_tokens": 60})
    text = Agent(model).run_sync(QUESTION, **once)
    assert "4" in text.output, text
    assert text.usage.output_tokens > 0, text
    streamed = Agent(model).run_stream_sync(QUESTION, **once)
    assert "".join(streamed.stream_text(delta=True)) == text.output
    for form in (ToolOutput(City), NativeOutput(City, strict=True)):
        bound = Agent(model, output_type=form).run_sync("Where is the Louvre?", **once)
        assert isinstance(bound.output, City), bound

    asked.clear()
    agent = Agent(model, output_type=NativeOutput(City), tools=[look_up])
    # Tools may be called before the answer, which has the schema. This model may call for ever.
    try:
        few = UsageLimits(request_limit=3)
        assert isinstance(agent.run_sync("Where is the Louvre?", usage_limits=few).output, City)
    except UsageLimitExceeded:
        assert len(asked) >= 2, asked
