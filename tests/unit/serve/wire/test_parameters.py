"""The table of parameters: complete, true, and what the documentation shows."""

from pathlib import Path

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from serve.errors import UnsupportedParameterError
from serve.wire.chat import ChatRequest
from serve.wire.completions import CompletionRequest
from serve.wire.embeddings import EmbeddingRequest
from serve.wire.parameters import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Support, as_markdown
from serve.wire.responses import ResponseRequest

OFFICIAL = [
    (CHAT, ChatRequest, chat_create_params.CompletionCreateParamsBase, {"stream"}),
    (COMPLETIONS, CompletionRequest, completion_create_params.CompletionCreateParamsBase,
     {"stream"}),
    (EMBEDDINGS, EmbeddingRequest, embedding_create_params.EmbeddingCreateParams, set()),
    (RESPONSES, ResponseRequest, response_create_params.ResponseCreateParamsBase, {"stream"}),
]  # fmt: skip


@pytest.mark.parametrize(("table", "model", "official", "more"), OFFICIAL)
def test_every_parameter_of_the_official_client_is_listed(table, model, official, more):
    assert sorted(one.name for one in table) == sorted(set(official.__annotations__) | more)
    supported = {one.name for one in table if one.support == Support.SUPPORTED}
    assert supported <= set(model.model_fields)


def test_parameters_listed_as_refused_are_refused():
    chat = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    for more in ({"functions": [{}]}, {"function_call": "auto"}):
        with pytest.raises(UnsupportedParameterError):
            ChatRequest.model_validate(chat | more).check()
    refused = [one.name for one in RESPONSES if one.support == Support.REFUSED]
    for name in refused:
        with pytest.raises(UnsupportedParameterError, match=name):
            ResponseRequest.model_validate({"input": "Hi", name: "x"}).to_chat()


def test_the_documentation_shows_the_table():
    documentation = Path(__file__).parents[4] / "docs" / "serving.md"
    assert as_markdown() in documentation.read_text()
