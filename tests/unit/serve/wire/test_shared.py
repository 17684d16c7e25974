"""What the wire types of all endpoints have in common."""

import pytest
from pydantic import ValidationError

from serve.wire.chat import ChatRequest
from serve.wire.completions import CompletionRequest
from serve.wire.embeddings import EmbeddingRequest
from serve.wire.llama import DetokenizeRequest, LlamaCompletionRequest, TemplateRequest
from serve.wire.responses import ResponseRequest
from serve.wire.shared import MAX_BIASES

HELLO = {"messages": [{"role": "user", "content": "Hi"}]}
MANY = 10_000


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (ChatRequest, {"messages": [{}] * MANY}),
        (ChatRequest, {"messages": [{"role": "user", "content": [{}] * MANY}]}),
        (ChatRequest, HELLO | {"logit_bias": {str(number): 1000 for number in range(MANY)}}),
        (ChatRequest, HELLO | {"logit_bias": {str(number): 1000 for number in range(MAX_BIASES)}}),
        (ChatRequest, HELLO | {"logit_bias": {str(number): "x" for number in range(MAX_BIASES)}}),
        (ChatRequest, HELLO | {"logit_bias": [[-1, 1000]] * MANY}),
        (ChatRequest, HELLO | {"modalities": [1] * MANY}),
        (ChatRequest, HELLO | {"functions": [1] * MANY}),
        (ChatRequest, HELLO | {"tools": [{}] * MANY}),
        (CompletionRequest, {"prompt": [-1] * MANY}),
        (CompletionRequest, {"prompt": [[-1] * MANY] * 3}),
        (EmbeddingRequest, {"input": [-1] * MANY}),
        (ResponseRequest, {"input": [{"content": [{}] * MANY}]}),
        (LlamaCompletionRequest, {"prompt": [-1] * MANY}),
        (LlamaCompletionRequest, {"prompt": "Hi", "response_fields": [1] * MANY}),
        (DetokenizeRequest, {"tokens": [-1] * MANY}),
        (TemplateRequest, {"messages": [{}] * MANY}),
    ],
)
def test_few_of_many_errors_are_reported_so_that_they_cost_little(model, body):
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    assert caught.value.error_count() < 10
