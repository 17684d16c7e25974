"""Checks of engine requests: values that would abort llama.cpp raise an error first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from potstill.errors import BackendError, ContextLengthError
from serve.engine.grammar import check_size
from serve.engine.model import GgufModel
from serve.engine.request import EngineLimits, Request
from serve.errors import InvalidRequestError


def check_request(request: Request, model: GgufModel, limits: EngineLimits) -> None:
    """Check that the engine can work on a request; `SamplingFields` checks sampling parameters.

    Raises:
        ContextLengthError: Prompt and completion do not fit.
        InvalidRequestError: A parameter is out of the model's range.
    """
    num_new = 1 if request.max_new_tokens is None else request.max_new_tokens
    _check_tokens(request.prompt_token_ids, "prompt", model, limits, num_new)
    if num_new < 0:
        raise InvalidRequestError(
            "the completion has a negative length", where="max_tokens", found=num_new
        )
    for name in ("num_top_logprobs", "num_prompt_logprobs"):
        count = getattr(request, name)
        if count is not None and not 0 <= count < model.vocab_size:
            raise InvalidRequestError(
                "too many alternatives per token",
                where="logprobs",
                expected=f"0 to {model.vocab_size - 1}",
                found=count,
            )
    source = request.trigger.source if request.trigger else request.grammar
    if source is not None:
        check_size(source)
    _check_biases(request.sampler.logit_bias, model)


def check_texts(texts: Sequence[Sequence[int]], model: GgufModel, limits: EngineLimits) -> None:
    """Check that embeddings of texts can be computed.

    Raises:
        BackendError: The model computes none.
        ContextLengthError: A text is longer than the context.
        InvalidRequestError: A text is empty, or has a token that the model does not have.
    """
    if not model.can_embed:
        raise BackendError("the model cannot make embeddings", where=model.path.name)
    for text in texts:
        _check_tokens(text, "input", model, limits, num_new=0)


def _check_tokens(
    token_ids: Sequence[int], name: str, model: GgufModel, limits: EngineLimits, num_new: int
) -> None:
    if not token_ids:
        raise InvalidRequestError(f"the {name} is empty", where=name)
    limit = limits.context_tokens
    if len(token_ids) + num_new > limit:
        completion = f" and {num_new} of completion" if num_new else ""
        raise ContextLengthError(
            f"the model's context is {limit} tokens",
            found=f"{len(token_ids)} tokens of {name}{completion}",
            hint=f"shorten the {name} or ask for fewer tokens",
        )
    if not 0 <= min(token_ids) <= max(token_ids) < model.vocab_size:
        raise InvalidRequestError(
            f"the {name} has a token that the model does not have",
            where=name,
            expected=f"0 to {model.vocab_size - 1}",
            found=f"{min(token_ids)} to {max(token_ids)}",
        )


def _check_biases(biases: Mapping[int, float], model: GgufModel) -> None:
    for token_id, bias in biases.items():
        if not 0 <= token_id < model.vocab_size:
            raise InvalidRequestError(
                "logit_bias names a token that the model does not have",
                where="logit_bias",
                expected=f"0 to {model.vocab_size - 1}",
                found=token_id,
            )
        if math.isnan(bias) or bias == math.inf:
            raise InvalidRequestError("a bias must be a number", where="logit_bias", found=bias)
