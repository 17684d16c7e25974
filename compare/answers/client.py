"""One model behind OpenAI's API, and what its errors mean.

In: an address, a model's name, patience. Out: clients of the `openai` package, and errors that name
the model. Knows nothing of prompts or answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import openai

from potstill.errors import BackendError, BackendUnavailableError, ConfigError
from potstill.schema import Message

LimitName = Literal["max_tokens", "max_completion_tokens"]
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers."""

    base_url: str
    model: str
    identity: str
    """What stays the same when the address does not: answers are kept under it."""
    api_key: str = "none"
    timeout_seconds: float = 600.0
    max_retries: int = 5
    limit_name: LimitName = "max_tokens"
    """What the server calls the most tokens of an answer."""

    def open(self) -> openai.AsyncOpenAI:
        """Return a client, to be closed in the event loop that uses it."""
        return openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self.api_key,
            timeout=self.timeout_seconds,
            max_retries=self.max_retries,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=not _is_local(self.base_url)),
        )


def open_client(base_url: str, timeout_seconds: float, api_key: str = "none") -> openai.OpenAI:
    """Return a client that asks once; proxies of the environment are not for loopback."""
    return openai.OpenAI(
        base_url=base_url,
        api_key=api_key,
        timeout=timeout_seconds,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=not _is_local(base_url)),
    )


def find_endpoint(
    base_url: str,
    model: str | None,
    api_key_variable: str | None,
    *,
    timeout_seconds: float,
    max_retries: int,
    limit_name: LimitName = "max_tokens",
) -> Endpoint:
    """Return an endpoint; a model without a name is the only one that the server lists.

    Raises:
        ConfigError: The key's variable is empty, or the server lists several models.
        BackendError: The server does not tell its models.
    """
    api_key = _api_key(api_key_variable)
    if model is None:
        with backend_errors(base_url), open_client(base_url, timeout_seconds, api_key) as client:
            names = [listed.id for listed in client.models.list()]
        if len(names) != 1:
            raise ConfigError(
                "it must be said which of a server's models is meant",
                where=base_url,
                expected=f"{base_url}#MODEL",
                found=", ".join(names) or "no model",
            )
        model = names[0]
    return Endpoint(
        base_url=base_url,
        model=model,
        identity=f"{base_url}#{model}",
        api_key=api_key,
        timeout_seconds=timeout_seconds,
        max_retries=max_retries,
        limit_name=limit_name,
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


def _api_key(variable: str | None) -> str:
    if variable is None:
        return "none"
    key = os.environ.get(variable, "")
    if not key:
        raise ConfigError(
            "the key of a server is not there",
            where=f"environment variable {variable}",
            expected="the key",
            found="nothing",
        )
    return key


def _is_local(base_url: str) -> bool:
    return urlsplit(base_url).hostname in LOCAL_HOSTS
