"""Detect a server's capabilities by requests for single tokens.

In: a server and the teacher's tokenizer. Out: the kind of requests it accepts, the kind of
log-probabilities it returns, and whether it returns as many as needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import openai

from generate.teachers.endpoint.api import EndpointApi, WebPageError
from generate.teachers.endpoint.config import EndpointConfig
from generate.teachers.endpoint.dialects import (
    NEUTRAL,
    ChatDialect,
    Dialect,
    PromptMismatchError,
    TokenIdDialect,
)
from generate.teachers.endpoint.text_dialects import text_dialects
from generate.teachers.endpoint.text_tokens import AnswerTokens
from generate.teachers.protocol import Sample, SampleRequest
from potstill.chat import render_prompt
from potstill.distributions import Floats
from potstill.errors import TeacherError
from potstill.schema import Message, SamplingParams
from potstill.token_scores import UnusableAnswerError

LogprobsMode = Literal["raw_logprobs", "processed_logprobs", "unknown", "none"]

GREETING = (Message(role="user", content="Hi"),)
FEW_LOGPROBS = 2
"""As many as every server with log-probabilities returns, and enough to detect their kind."""
REFUSALS = (
    openai.BadRequestError,
    openai.NotFoundError,
    openai.UnprocessableEntityError,
    openai.ConflictError,
)
GREETING_TOKENS = 16
"""Most tokens of an answer that is read as text: some models refuse a request for one."""
WRONG_SHAPE = (LookupError, TypeError, ValueError, AttributeError)
"""Errors of reading JSON of another shape."""
SHARP = {"temperature": 0.5, "top_p": 0.5}
SAME_NATS = 0.2
"""Raw log-probabilities of two requests differ by rounding, in nats; with SHARP sampling, processed
ones lack whole tokens and differ by at least log 2 elsewhere."""


@dataclass(frozen=True)
class Server:
    """The detected capabilities."""

    dialect: Dialect
    logprobs_mode: LogprobsMode
    """`raw_logprobs`: before temperature and top-p; `processed_logprobs`: after. The names are
    vLLM's. `none`: the server gives text alone."""
    greeting: SampleRequest
    """A request for one token that the server answers."""


async def probe(
    api: EndpointApi,
    tokenizer: Any,  # noqa: ANN401
    end_token_ids: frozenset[int],
    more: Mapping[str, Any],
) -> Server:
    """Detect which requests the server accepts, and what it returns.

    Args:
        more: Parameters of requests that the server renders itself.

    Raises:
        TeacherError: It cannot be reached, or gives no log-probabilities with exact tokens.
    """
    if api.config.gives_text:
        return await _probe_text(api, AnswerTokens(tokenizer, end_token_ids), more)
    greeting = _greeting(tokenizer, temperature=1.0, top_p=1.0, max_tokens=1)
    reasons: dict[str, str] = {}
    for dialect in _dialects(api.config, tokenizer, end_token_ids, more):
        try:
            sample = await _ask(api, dialect, greeting, FEW_LOGPROBS)
        except PromptMismatchError as error:
            raise TeacherError(
                "the tokenizer or its chat template is not the one that the teacher's server uses",
                where=api.config.base_url,
                found=str(error),
                hint="name the checkpoint that the server runs as the teacher's tokenizer",
            ) from error
        except UnusableAnswerError as error:
            reasons[dialect.path] = str(error)
        except REFUSALS as error:
            refusal = error
            reasons.setdefault(dialect.path, api.why(error))
        except WebPageError as error:
            raise api.no_api() from error
        except openai.OpenAIError as error:
            raise await api.explain(error) from error
        else:
            return Server(dialect, await _logprobs_mode(api, dialect, greeting, sample), greeting)
    if all(reason.startswith("HTTP") for reason in reasons.values()):
        raise await api.explain(refusal) from refusal
    raise TeacherError(
        "the teacher's server does not return sampled token ids with log-probabilities",
        where=api.config.base_url,
        expected="token ids from /completions, or logprobs from /chat/completions",
        found="; ".join(f"{path}: {reason}" for path, reason in reasons.items()),
        hint="serve the teacher with vLLM or with `potstill serve`, or learn from its text alone "
        "with generate.teacher.endpoint.text_only = true",
    )


async def _probe_text(api: EndpointApi, tokens: AnswerTokens, more: Mapping[str, Any]) -> Server:
    """Find the parameters that a server of text takes.

    Raises:
        TeacherError: It cannot be reached, or does not answer in the API's format.
    """
    greeting = _greeting(tokens.tokenizer, **SHARP, max_tokens=GREETING_TOKENS)
    refusal: openai.APIStatusError | None = None
    config, neutral = api.config, {**NEUTRAL, **more}
    for dialect in text_dialects(config.api, config.model, tokens, neutral, config.parameters):
        try:
            answer = await _post(api, dialect, greeting, None)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            refusal = error
            continue
        except WebPageError as error:
            raise api.no_api() from error
        except openai.OpenAIError as error:
            raise await api.explain(error) from error
        try:
            dialect.read(answer, greeting, None)
        except UnusableAnswerError:
            pass  # Of a greeting that is cut off anything may be left.
        except WRONG_SHAPE as error:
            raise TeacherError(
                "the teacher's server does not answer in the format of its API",
                where=api.config.base_url,
                expected=f"an answer of {dialect.path} as {api.config.api_name} writes it",
                found=f"{type(error).__name__}: {error}",
                hint="check generate.teacher.endpoint.api",
            ) from error
        return Server(dialect, "none", greeting)
    assert refusal is not None
    raise await api.explain(refusal) from refusal


def _greeting(tokenizer: Any, **sampling: Any) -> SampleRequest:  # noqa: ANN401
    params = SamplingParams(seed=0, **sampling)
    return SampleRequest("probe", render_prompt(tokenizer, GREETING), params, GREETING)


async def check_top_logprobs(api: EndpointApi, server: Server, top_logprobs: int) -> None:
    """Check that the server returns `top_logprobs` log-probabilities per position.

    Raises:
        TeacherError: It refuses, gives fewer, or does not answer.
    """
    try:
        sample = await _ask(api, server.dialect, server.greeting, top_logprobs)
        num_given = _first_row(sample).size
        if num_given >= top_logprobs:
            return
        found = f"{num_given} of them"
    except UnusableAnswerError as error:
        found = str(error)
    except REFUSALS as error:
        found = api.why(error)
    except openai.OpenAIError as error:
        raise await api.explain(error) from error
    raise TeacherError(
        "the teacher's server does not give as many log-probabilities a position",
        where=api.config.base_url,
        expected=f"{top_logprobs} of them",
        found=found,
        hint=f"start vLLM with --max-logprobs {top_logprobs} or more, or ask for fewer: other "
        "servers give 20 at most",
    )


def _dialects(
    config: EndpointConfig,
    tokenizer: Any,  # noqa: ANN401
    end_token_ids: frozenset[int],
    more: Mapping[str, Any],
) -> Iterator[Dialect]:
    wanted = {**more, **config.parameters}
    yield TokenIdDialect(config.model, end_token_ids)
    yield ChatDialect(config.model, end_token_ids, tokenizer, {**NEUTRAL, **wanted})
    yield ChatDialect(config.model, end_token_ids, tokenizer, wanted)


async def _post(
    api: EndpointApi, dialect: Dialect, request: SampleRequest, top_logprobs: int | None
) -> Any:  # noqa: ANN401  (JSON of somebody else's)
    worst = api.budget.cost(dialect.worst_prompt_tokens(request), request.sampling.max_tokens)
    if not api.budget.hold(worst):
        raise TeacherError("max_cost does not even pay for a greeting", found=api.budget.cap)
    return await api.post(dialect.path, lambda: dialect.body(request, top_logprobs), worst=worst)


async def _ask(
    api: EndpointApi, dialect: Dialect, request: SampleRequest, top_logprobs: int
) -> Sample:
    answer = await _post(api, dialect, request, top_logprobs)
    try:
        return dialect.read(answer, request, top_logprobs)
    except WRONG_SHAPE as error:
        raise UnusableAnswerError("the answer is not in OpenAI's format") from error


async def _logprobs_mode(
    api: EndpointApi, dialect: Dialect, greeting: SampleRequest, sample: Sample
) -> LogprobsMode:
    """Compare the first token's log-probabilities with those under sharp sampling.

    Raises:
        TeacherError: The server does not answer any more.
    """
    sharp = replace(greeting, sampling=greeting.sampling.model_copy(update=SHARP))
    try:
        other = await _ask(api, dialect, sharp, FEW_LOGPROBS)
    except (*REFUSALS, UnusableAnswerError):
        return "unknown"
    except openai.OpenAIError as error:
        raise await api.explain(error) from error
    plain_K, sharp_K = _first_row(sample), _first_row(other)
    if len(plain_K) != len(sharp_K) or np.abs(plain_K - sharp_K).max() > SAME_NATS:
        return "processed_logprobs"
    return "raw_logprobs" if len(plain_K) == FEW_LOGPROBS else "unknown"


def _first_row(sample: Sample) -> Floats:
    """Return the log-probabilities [K] given at the first position."""
    assert sample.signal is not None
    return sample.signal.top_logprobs_N[: int(sample.signal.counts_T[0])]
