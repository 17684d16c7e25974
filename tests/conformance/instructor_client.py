"""Instructor against a served model, in its modes for OpenAI; its address is the argument."""

import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field

client = OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
MODES = ("TOOLS", "TOOLS_STRICT", "JSON_SCHEMA", "JSON", "RESPONSES_TOOLS")


class City(BaseModel):
    city: str = Field(max_length=20)


for mode in MODES:
    patched = instructor.from_openai(client, mode=instructor.Mode[mode])
    tokens = {"max_output_tokens" if mode.startswith("RESPONSES") else "max_tokens": 80}
    found = patched.create(
        model="student",
        messages=[{"role": "user", "content": "In which city is the Louvre?"}],
        response_model=City,
        temperature=0,
        max_retries=3 if mode == "JSON" else 0,
        **tokens,
    )
    assert isinstance(found, City), (mode, found)
