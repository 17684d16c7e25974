"""What a server can do, found out by asking it for single tokens.

In: a server and the teacher's tokenizer. Out: how to ask it, how many log-probabilities it gives,
and of which kind they are. Knows nothing of the requests that follow.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import openai

from generate.teachers.endpoint_api import EndpointApi
from generate.teachers.endpoint_dialects import (
    NEUTRAL,
    ChatDialect,
    Dialect,
    PromptMismatchError,
    TokenIdDialect,
    UnusableAnswerError,
)
from generate.teachers.protocol import Sample, SampleRequest
from potstill.chat import render_prompt
from potstill.errors import TeacherError
from potstill.schema import Message, SamplingParams

logger = logging.getLogger(__name__)

LogprobsMode = Literal["raw_logprobs", "processed_logprobs", "unknown"]

GREETING = (Message(role="user", content="Hi"),)
LOWER_LIMITS = (20, 8, 5, 1)
"""Numbers of log-probabilities to try when a server refuses more: limits that are in use."""
REFUSALS = (
    openai.BadRequestError,
    openai.NotFoundError,
    openai.UnprocessableEntityError,
    openai.ConflictError,
)
SHARP = {"temperature": 0.5, "top_p": 0.5}
SAME_NATS = 0.2
"""Raw log-probabilities asked for twice differ by rounding, in nats; after SHARP, whole tokens are
missing and the others have moved by the logarithm of 2 and more."""


@dataclass(frozen=True)
class Server:
    """What was found out."""

    dialect: Dialect
    max_top_logprobs: int
    logprobs_mode: LogprobsMode
    """`raw_logprobs`: before temperature and top-p; `processed_logprobs`: after. The names are
    vLLM's."""


async def probe(
    api: EndpointApi, tokenizer: Any, end_token_ids: frozenset[int]  # noqa: ANN401
) -> Server:
    """Find out how the server is to be asked.

    Raises:
        TeacherError: It cannot be reached, or gives no log-probabilities with exact tokens.
    """
    request = SampleRequest(
        "probe",
        render_prompt(tokenizer, GREETING),
        SamplingParams(temperature=1.0, top_p=1.0, max_tokens=1, seed=0),
        GREETING,
    )
    reasons: dict[str, str] = {}
    for dialect in _dialects(api.config.model, tokenizer, end_token_ids):
        for top_logprobs in _limits(api.config.max_top_logprobs):
            try:
                sample = await _ask(api, dialect, request, top_logprobs)
            except PromptMismatchError as error:
                raise _mismatch(api, error) from error
            except UnusableAnswerError as error:
                reasons[dialect.path] = str(error)
                break
            except REFUSALS as error:
                refusal = error
                reasons.setdefault(dialect.path, api.why(error))
                continue
            except openai.OpenAIError as error:
                raise await api.explain(error) from error
            mode = await _logprobs_mode(api, dialect, request, sample, top_logprobs)
            return Server(dialect, top_logprobs, mode)
    if all(reason.startswith("HTTP") for reason in reasons.values()):
        raise await api.explain(refusal) from refusal
    raise TeacherError(
        "the teacher's server does not tell which tokens it sampled, and how probable they were",
        where=api.config.base_url,
        expected="token ids from /completions, or logprobs from /chat/completions",
        found="; ".join(f"{path}: {reason}" for path, reason in reasons.items()),
        hint="serve the teacher with vLLM or with `potstill serve`",
    )


def _dialects(
    model: str, tokenizer: Any, end_token_ids: frozenset[int]  # noqa: ANN401
) -> Iterator[Dialect]:
    yield TokenIdDialect(model, end_token_ids)
    yield ChatDialect(model, end_token_ids, tokenizer, NEUTRAL)
    yield ChatDialect(model, end_token_ids, tokenizer, {})


def _limits(wanted: int) -> list[int]:
    return [wanted, *(limit for limit in LOWER_LIMITS if limit < wanted)]


async def _ask(
    api: EndpointApi, dialect: Dialect, request: SampleRequest, top_logprobs: int
) -> Sample:
    worst = api.budget.cost(len(request.prompt_token_ids), request.sampling.max_tokens)
    if not api.budget.hold(worst):
        raise TeacherError("max_cost does not even pay for a greeting", found=api.budget.cap)
    answer = await api.post(
        dialect.path, lambda: dialect.body(request, top_logprobs), worst=worst
    )
    try:
        return dialect.read(answer, request, top_logprobs)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UnusableAnswerError("the answer is not in OpenAI's format") from error


async def _logprobs_mode(
    api: EndpointApi, dialect: Dialect, request: SampleRequest, sample: Sample, top_logprobs: int
) -> LogprobsMode:
    """Compare the first token's log-probabilities with those under sharp sampling."""
    sharp = replace(request, sampling=request.sampling.model_copy(update=SHARP))
    try:
        other = await _ask(api, dialect, sharp, top_logprobs)
    except (openai.OpenAIError, UnusableAnswerError) as error:
        logger.debug("the kind of the log-probabilities is unknown: %s", error)
        return "unknown"
    assert sample.signal is not None
    assert other.signal is not None
    plain_K, sharp_K = sample.signal.top_logprobs_N, other.signal.top_logprobs_N
    if len(plain_K) != len(sharp_K) or np.abs(plain_K - sharp_K).max() > SAME_NATS:
        return "processed_logprobs"
    return "raw_logprobs"


def _mismatch(api: EndpointApi, error: PromptMismatchError) -> TeacherError:
    return TeacherError(
        "the tokenizer or its chat template is not the one that the teacher's server uses",
        where=api.config.base_url,
        found=str(error),
        hint="name the checkpoint that the server runs as the teacher's tokenizer",
    )
