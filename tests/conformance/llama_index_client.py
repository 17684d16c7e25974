"""LlamaIndex's client against a served model; its address is the argument."""

import sys

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

llm = OpenAILike(
    model="student",
    api_base=sys.argv[1],
    api_key="none",
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
    context_window=1024,
    temperature=0,
    max_tokens=60,
    max_retries=0,
)
question = [ChatMessage(role="user", content="What is 2+2?")]


class City(BaseModel):
    """A place."""

    city: str = Field(max_length=20)


def look_up(city: str) -> str:
    """Look a city up."""
    return city


text = llm.chat(question).message.content
assert "4" in text, text
assert "".join(part.delta or "" for part in llm.stream_chat(question)) == text
place = [ChatMessage(role="user", content="In which city is the Louvre?")]
bound = llm.as_structured_llm(City).chat(place).raw
assert isinstance(bound, City), bound
tool = FunctionTool.from_defaults(look_up)
answer = llm.chat_with_tools([tool], chat_history=place, tool_required=True)
(call, *_) = llm.get_tool_calls_from_response(answer)
assert (call.tool_name, list(call.tool_kwargs)) == ("look_up", ["city"]), call
