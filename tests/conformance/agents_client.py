"""OpenAI's Agents SDK against a served model, by both APIs; its address is the argument."""

import sys

from agents import (
    Agent,
    MaxTurnsExceeded,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

set_tracing_disabled(disabled=True)
client = AsyncOpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
called: list[str] = []


class City(BaseModel):
    city: str = Field(max_length=20)


@function_tool
def look_up(city: str) -> str:
    """Look a city up."""
    called.append(city)
    return "It rains."


def answer(model, question, **options):
    limits = ModelSettings(temperature=0, max_tokens=300, **options.pop("settings", {}))
    agent = Agent(
        name="one", instructions="Be short.", model=model, model_settings=limits, **options
    )
    return Runner.run_sync(agent, question, max_turns=3).final_output


for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
    model = kind("student", client)
    assert "4" in answer(model, "What is 2+2?")
    assert isinstance(answer(model, "Where is the Louvre?", output_type=City), City)
    required = {"tools": [look_up], "settings": {"tool_choice": "required"}}
    called.clear()
    stopped = answer(model, "Paris?", tool_use_behavior="stop_on_first_tool", **required)
    assert stopped == "It rains.", stopped
    assert called, "the tool was not called"
    # A required call has its tool's schema; the answer after it has that of `output_type`.
    called.clear()
    # This model may call for ever.
    try:
        assert isinstance(answer(model, "Paris?", output_type=City, **required), City)
    except MaxTurnsExceeded:
        assert len(called) >= 2, called
    assert called, "the tool was not called"
