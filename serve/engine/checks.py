"""What an engine refuses before it begins: values that would abort llama.cpp, or mean nothing.

In: requests and texts. Out: nothing, or a typed error. Knows nothing of scheduling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

from potstill.errors import BackendError, ContextLengthError
from serve.engine.grammar import MAX_GRAMMAR_BYTES
from serve.engine.model import GgufModel
from serve.engine.request import EngineLimits, Request
from serve.engine.sampler import SamplerParams
from serve.errors import InvalidRequestError

MAX_SEQUENCE_BREAKERS = 32
"""llama.cpp looks through the whole vocabulary for each."""

RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 1e6),
    "top_p": (0.0, 1.0),
    "top_k": (0, 2**31 - 1),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "top_n_sigma": (-1e6, 1e6),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "mirostat": (0, 2),
    "mirostat_tau": (0.0, 1e3),
    "mirostat_eta": (0.0, 1e3),
    "repeat_penalty": (1e-6, 1e6),
    "repeat_last_n": (-1, 2**31 - 1),
    "presence_penalty": (-1e6, 1e6),
    "frequency_penalty": (-1e6, 1e6),
    "dry_multiplier": (0.0, 1e6),
    "dry_base": (1.0, 1e6),
    "dry_allowed_length": (0, 2**31 - 1),
    "dry_penalty_last_n": (-1, 2**31 - 1),
}
"""Least and greatest value of each numeric parameter that samplers can compute with."""


def check_request(request: Request, model: GgufModel, limits: EngineLimits) -> None:
    """Make sure that a request can be worked on.

    Raises:
        ContextLengthError: Prompt and completion do not fit.
        InvalidRequestError: A parameter is out of the model's range.
    """
    num_new = 1 if request.max_new_tokens is None else request.max_new_tokens
    _check_tokens(request.prompt_token_ids, "prompt", model, limits, num_new)
    if num_new < 0:
        raise InvalidRequestError("the completion has no length", where="max_tokens", found=num_new)
    for name in ("num_top_logprobs", "num_prompt_logprobs"):
        count = getattr(request, name)
        if count is not None and not 0 <= count < model.vocab_size:
            raise InvalidRequestError(
                "too many alternatives per token",
                where="logprobs",
                expected=f"0 to {model.vocab_size - 1}",
                found=count,
            )
    if request.grammar is not None and len(request.grammar.encode()) > MAX_GRAMMAR_BYTES:
        raise InvalidRequestError(
            "the grammar is too large", where="grammar", expected=f"{MAX_GRAMMAR_BYTES} bytes"
        )
    _check_sampler(request.sampler, model)


def check_texts(texts: Sequence[Sequence[int]], model: GgufModel, limits: EngineLimits) -> None:
    """Make sure that vectors of texts can be made.

    Raises:
        BackendError: The model has none to give.
        ContextLengthError: A text is longer than the context.
        InvalidRequestError: A text is empty, or has a token the model does not have.
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
            f"the {name} has a token the model does not have",
            where=name,
            expected=f"0 to {model.vocab_size - 1}",
            found=f"{min(token_ids)} to {max(token_ids)}",
        )


def _check_sampler(params: SamplerParams, model: GgufModel) -> None:
    for field in fields(params):
        if field.name in RANGES:
            least, greatest = RANGES[field.name]
            value = getattr(params, field.name)
            if not least <= value <= greatest:
                raise InvalidRequestError(
                    f"{field.name} is out of range",
                    where=field.name,
                    expected=f"{least} to {greatest}",
                    found=value,
                )
    for token_id, bias in params.logit_bias.items():
        if not 0 <= token_id < model.vocab_size:
            raise InvalidRequestError(
                "logit_bias names a token the model does not have",
                where="logit_bias",
                expected=f"0 to {model.vocab_size - 1}",
                found=token_id,
            )
        if math.isnan(bias) or bias == math.inf:
            raise InvalidRequestError("a bias must be a number", where="logit_bias", found=bias)
    if len(params.dry_sequence_breakers) > MAX_SEQUENCE_BREAKERS:
        raise InvalidRequestError(
            "too many sequence breakers",
            where="dry_sequence_breakers",
            expected=f"at most {MAX_SEQUENCE_BREAKERS}",
        )
