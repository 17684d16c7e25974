"""One model behind OpenAI's API, and its errors.

In: an address, a model's name, a timeout. Out: clients of the `openai` package, and errors that
name the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import openai

from compare.config import CompareConfig, SideConfig
from compare.judge_config import ModelJudgeConfig
from potstill.api_keys import NO_KEY, read_api_key
from potstill.errors import BackendError, BackendUnavailableError, ConfigError
from potstill.schema import Message

LimitName = Literal["max_tokens", "max_completion_tokens"]
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Endpoint:
    """A served model."""

    base_url: str
    model: str
    identity: str
    """Part of the cache key of its answers."""
    fingerprint: str | None = None
    """What the server states of the model behind the name, as `potstill serve` does: it changes
    when an equal request may get another answer."""
    api_key: str = NO_KEY
    timeout_seconds: float = 600.0
    max_retries: int = 5
    limit_name: LimitName = "max_tokens"
    """The server's name of the limit on an answer's tokens."""
    reads_grammars: bool = False
    """Whether the server takes GBNF, as `potstill serve` does."""

    def open(self) -> openai.AsyncOpenAI:
        """Return a client, to be closed in the event loop that uses it."""
        return openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self.api_key,
            timeout=self.timeout_seconds,
            max_retries=self.max_retries,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=not _is_local(self.base_url)),
        )


def open_client(base_url: str, timeout_seconds: float, api_key: str = NO_KEY) -> openai.OpenAI:
    """Return a client without retries; it ignores proxies of the environment for loopback."""
    return openai.OpenAI(
        base_url=base_url,
        api_key=api_key,
        timeout=timeout_seconds,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=not _is_local(base_url)),
    )


def find_endpoint(
    base_url: str, model: SideConfig | ModelJudgeConfig, config: CompareConfig
) -> Endpoint:
    """Return an endpoint; a model without a name is the only one that the server lists.

    Args:
        base_url: Address including the version.
        model: Its name, and the settings of its server.
        config: Timeout and retries.

    Raises:
        ConfigError: The key's variable is not set, or the server lists several models.
        BackendError: The server cannot be reached, or does not list its models and none is named.
    """
    api_key, name = read_api_key(model.api_key_variable), model.model
    timeout_seconds = config.request_timeout_seconds
    with backend_errors(base_url), open_client(base_url, timeout_seconds, api_key) as client:
        try:
            listed = _listed(client)
        except openai.APIStatusError:
            if name is None:
                raise
            listed = {}
    if name is None:
        if len(listed) != 1:
            raise ConfigError(
                "a server without exactly one model needs a model's name",
                where=base_url,
                expected=f"{base_url}#MODEL",
                found=", ".join(listed) or "no model",
            )
        (name,) = listed
    stated = listed.get(name, {}).get("system_fingerprint")
    fingerprint = stated if isinstance(stated, str) else None
    return Endpoint(
        base_url=base_url,
        model=name,
        identity="#".join(filter(None, [base_url, name, fingerprint])),
        fingerprint=fingerprint,
        api_key=api_key,
        timeout_seconds=timeout_seconds,
        max_retries=config.max_retries,
        limit_name=model.limit_name,
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
        is_late = isinstance(error, openai.APITimeoutError)
        advice = "raise compare.request_timeout_seconds" if is_late else "start the server"
        raise BackendUnavailableError(
            "the endpoint does not answer",
            where=f"model {model}",
            found=error,
            hint=f"{advice}, or run the same command again; finished answers are kept",
        ) from error
    except openai.OpenAIError as error:
        raise BackendError(
            "the endpoint refuses a request", where=f"model {model}", found=error
        ) from error


def _listed(client: openai.OpenAI) -> dict[str, dict[str, Any]]:
    """Return a server's models by name; none where what it sends is no list of models."""
    try:
        found: Any = client.get("/models", cast_to=object)
    except ValueError:
        return {}
    rows = found.get("data") if isinstance(found, dict) else None
    models = (one for one in (rows if isinstance(rows, list) else ()) if isinstance(one, dict))
    return {one["id"]: one for one in models if isinstance(one.get("id"), str)}


def wire_messages(messages: Sequence[Message]) -> list[Any]:
    """Return messages as the `openai` client takes them."""
    return [message.to_chat() for message in messages]


def _is_local(base_url: str) -> bool:
    return urlsplit(base_url).hostname in LOCAL_HOSTS
