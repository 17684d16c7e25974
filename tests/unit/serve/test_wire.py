"""The tables of parameters in docs/reference/http-api.md: complete and true."""

import re
from pathlib import Path

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from serve.errors import UnsupportedParameterError
from serve.wire.chat import ChatRequest
from serve.wire.completions import CompletionRequest
from serve.wire.embeddings import EmbeddingRequest
from serve.wire.responses import ResponseRequest
from serve.wire.shared import MAX_BIASES, MAX_STOP_STRINGS

OFFICIAL = [
    ("chat/completions", ChatRequest, chat_create_params.CompletionCreateParamsBase, {"stream"}),
    ("completions", CompletionRequest, completion_create_params.CompletionCreateParamsBase,
     {"stream"}),
    ("embeddings", EmbeddingRequest, embedding_create_params.EmbeddingCreateParams, set()),
    ("responses", ResponseRequest, response_create_params.ResponseCreateParamsBase, {"stream"}),
]  # fmt: skip
PAGE = Path("docs/reference/http-api.md").read_text(encoding="utf-8")


def documented(path: str) -> list[tuple[str, str]]:
    """Return name and support of each row of an endpoint's table."""
    table = PAGE.split(f"\n## /v1/{path}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \| (supported|ignored|refused) \|", table, re.MULTILINE)


@pytest.mark.parametrize(("path", "model", "official", "more"), OFFICIAL)
def test_every_parameter_of_the_official_client_is_listed(path, model, official, more):
    rows = documented(path)
    assert [name for name, _ in rows] == sorted(set(official.__annotations__) | more)
    assert {name for name, support in rows if support == "supported"} <= set(model.model_fields)


def test_parameters_listed_as_refused_are_refused():
    chat = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    refused = {path: [n for n, s in documented(path) if s == "refused"] for path, *_ in OFFICIAL}
    assert refused["chat/completions"] == ["function_call", "functions"]
    for more in ({"functions": [{}]}, {"function_call": "auto"}):
        with pytest.raises(UnsupportedParameterError):
            ChatRequest.model_validate(chat | more).check()
    assert len(refused["responses"]) == 4
    for name in refused["responses"]:
        with pytest.raises(UnsupportedParameterError, match=name):
            ResponseRequest.model_validate({"input": "Hi", name: "x"}).to_chat()


def test_limits_are_those_of_the_server():
    assert PAGE.count(f"at most {MAX_BIASES} keys") == 2
    assert PAGE.count(f"up to {MAX_STOP_STRINGS} strings") == 2
