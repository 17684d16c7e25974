"""Answers of an OpenAI-compatible endpoint to held-out prompts.

In: a client, model names, prompts. Out: rows of PAIR_SCHEMA; each is stored when it arrives, and a
stored one is not asked for again. Knows nothing of what runs behind the endpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import openai

from compare.answers.cache import JsonCache
from potstill.errors import BackendError, BackendUnavailableError
from potstill.progress import track
from potstill.schema import Conversation, Message


def open_client(base_url: str, timeout_seconds: float) -> openai.OpenAI:
    """Return a client of a local endpoint; proxies of the environment are not for loopback."""
    return openai.OpenAI(
        base_url=base_url,
        api_key="none",
        timeout=timeout_seconds,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )


@contextmanager
def backend_errors(model: str) -> Iterator[None]:
    """Turn an error of the `openai` client into one that names the model.

    Raises:
        BackendUnavailableError: The endpoint cannot be reached or takes too long.
        BackendError: It refuses the request, or its answer is not OpenAI's.
    """
    try:
        yield
    except openai.APIConnectionError as error:
        raise BackendUnavailableError(
            "the endpoint does not answer",
            where=f"model {model}",
            found=error,
            hint="raise compare.request_timeout_seconds, or run the same command again; "
            "finished answers are kept",
        ) from error
    except openai.OpenAIError as error:
        raise BackendError(
            "the endpoint refuses a request", where=f"model {model}", found=error
        ) from error


def wire_messages(messages: Sequence[Message]) -> list[Any]:
    """Return messages as the `openai` client takes them."""
    return [message.to_chat() for message in messages]


class AnswerBook:
    """The answers of several models to the same prompts.

    Args:
        cache: Where answers are kept.
        models: Names as the endpoint knows them.
        prompts: Conversations whose first question is asked.
    """

    def __init__(
        self, cache: JsonCache, models: Sequence[str], prompts: Sequence[Conversation]
    ) -> None:
        self._cache = cache
        self._keys = [(prompt, model) for prompt in prompts for model in models]

    def missing(self) -> list[tuple[Conversation, str]]:
        """List the prompts and models that have no answer yet."""
        return [
            (prompt, model)
            for prompt, model in self._keys
            if self._cache.get(_name(prompt, model)) is None
        ]

    def fill(self, client: openai.OpenAI, *, temperature: float, max_tokens: int) -> None:
        """Ask for what is missing, one answer at a time.

        Raises:
            BackendError: The endpoint fails.
        """
        missing = self.missing()
        with track("answering held-out prompts", len(self._keys), "answers") as progress:
            progress.resume_from(len(self._keys) - len(missing))
            for prompt, model in missing:
                answer = ask(client, model, prompt, temperature=temperature, max_tokens=max_tokens)
                self._cache.put(_name(prompt, model), answer)
                progress.advance()

    def pairs(self) -> list[dict[str, Any]]:
        """Return all answers as rows of PAIR_SCHEMA, prompt by prompt."""
        answers = [self._cache.get(_name(prompt, model)) for prompt, model in self._keys]
        return [answer for answer in answers if answer is not None]


def ask(
    client: openai.OpenAI,
    model: str,
    prompt: Conversation,
    *,
    temperature: float,
    max_tokens: int,
) -> dict[str, Any]:
    """Return one answer as a row of PAIR_SCHEMA.

    Raises:
        BackendError: The endpoint fails.
    """
    started = time.perf_counter()
    with backend_errors(model):
        completion = client.chat.completions.create(
            model=model,
            messages=wire_messages(prompt.given),
            temperature=temperature,
            max_tokens=max_tokens,
        )
    if not completion.choices or completion.usage is None:
        raise BackendError("an answer has no choices or no usage", where=f"model {model}")
    choice = completion.choices[0]
    return {
        "prompt_id": prompt.prompt.prompt_id,
        "messages": [message.model_dump() for message in prompt.given],
        "model": model,
        "answer": choice.message.content or "",
        "finish_reason": choice.finish_reason,
        "prompt_tokens": completion.usage.prompt_tokens,
        "completion_tokens": completion.usage.completion_tokens,
        "seconds": time.perf_counter() - started,
    }


def _name(prompt: Conversation, model: str) -> str:
    return f"answer-{prompt.prompt.prompt_id}-{model}"
