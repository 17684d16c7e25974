"""The speed of served models for one user.

In: models at servers, prompts. Out: the medians over rounds of tokens per second and of the time to
the first token.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import openai
from openai.types.chat.chat_completion_chunk import ChoiceDelta

from compare.answers.client import Endpoint, backend_errors, wire_messages
from compare.answers.questions import Question
from compare.answers.requests import Ask, Request, as_given
from potstill.errors import BackendError
from potstill.progress import track
from potstill.schema import Message

WARM_UP = Request((Message(role="user", content="Hello!"),))


@dataclass(frozen=True)
class Speed:
    """One model's speed for a single user, through HTTP."""

    tokens_per_second: float
    """Decoding: tokens after the first per second after the first."""
    time_to_first_token_seconds: float
    """From the request to the first text: reading the prompt, and one token."""
    num_timed_answers: int = 1
    """Answers behind the medians; one of fewer than two tokens has no speed."""


@dataclass(frozen=True)
class Timed:
    """A model at a server."""

    client: openai.OpenAI
    endpoint: Endpoint
    ask: Ask = as_given
    """From a prompt to this model's request."""
    known_rate: float | None = None
    """Tokens per second by another measurement, for a model whose answers are too short to time;
    None: there is none."""


def measure_speed(
    models: Mapping[str, Timed], prompts: Sequence[Question], max_tokens: int
) -> dict[str, Speed]:
    """Time every model once per round, with one prompt per round, and take medians.

    Prompts differ from round to round, so that a server's prompt cache does not help.

    Raises:
        BackendError: An endpoint fails, or no answer of a model has two tokens.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in models}
    with track("measuring speed", len(models) * (len(prompts) + 1), "answers") as progress:
        for timed in models.values():
            time_answer(timed, WARM_UP, 4)
            progress.advance()
        for prompt in prompts:
            for name, timed in models.items():
                sample = time_answer(timed, timed.ask(prompt), max_tokens)
                samples[name] += [sample] if sample else []
                progress.advance()
    return {name: _median(name, timed, samples[name]) for name, timed in models.items()}


@dataclass(frozen=True)
class Sample:
    """One timed answer."""

    first_token_seconds: float
    rate: float | None
    """Tokens per second after the first; None with fewer than two tokens."""


def time_answer(timed: Timed, request: Request, max_tokens: int) -> Sample | None:
    """Time one streamed answer at temperature 0; None when it is empty.

    Raises:
        BackendError: The endpoint fails.
    """
    started = time.perf_counter()
    first = last = None
    num_tokens = 0
    with (
        backend_errors(timed.endpoint.model),
        timed.client.chat.completions.create(
            model=timed.endpoint.model,
            messages=wire_messages(request.messages),
            tools=request.wire_tools,
            response_format=request.wire_format,
            temperature=0.0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=request.extra_body(timed.endpoint, max_tokens),
        ) as stream,
    ):
        for chunk in stream:
            last = time.perf_counter()
            if first is None and chunk.choices and _says_something(chunk.choices[0].delta):
                first = last
            if chunk.usage is not None:
                num_tokens = chunk.usage.completion_tokens
    if first is None or last is None:
        return None
    is_timed = last > first and num_tokens >= 2
    return Sample(first - started, (num_tokens - 1) / (last - first) if is_timed else None)


def _says_something(delta: ChoiceDelta) -> bool:
    thinking = any(getattr(delta, name, None) for name in ("reasoning_content", "reasoning"))
    return bool(delta.content or delta.tool_calls or thinking)


def _median(name: str, timed: Timed, samples: Sequence[Sample]) -> Speed:
    rates = [sample.rate for sample in samples if sample.rate is not None]
    if not samples or not (rates or timed.known_rate):
        raise BackendError(
            "a model's speed cannot be measured",
            where=f"model {name}",
            expected="answers of at least two tokens, with usage",
            found="none",
            hint="raise compare.speed_rounds or compare.speed_tokens",
        )
    return Speed(
        tokens_per_second=median(rates) if rates else timed.known_rate or 0.0,
        time_to_first_token_seconds=median(sample.first_token_seconds for sample in samples),
        num_timed_answers=len(rates),
    )
