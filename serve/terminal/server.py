"""The models of a server with OpenAI's API, asked side by side.

In: messages and names of models. Out: answers that grow while they are read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai

from potstill.errors import BackendError, BackendUnavailableError

Messages = Sequence[Mapping[str, Any]]
MAX_ERROR_CHARACTERS = 500
MAX_ANSWER_CHARACTERS = 1 << 20
"""Of an answer, its thinking and its calls; it is in memory, and shown anew with each piece."""
MALFORMED = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What the client raises for answers of another shape."""
UNUSABLE = "the server's answer cannot be used"


@dataclass
class Answer:
    """A model's answer, so far."""

    name: str
    """What it is shown under."""
    is_hidden: bool = False
    """Whether nothing may show which model it is, such as its speed."""
    answer_id: str = ""
    message: dict[str, Any] = field(default_factory=dict)
    """As OpenAI's API has it."""
    num_tokens: int = 0
    """0 until it is complete, or where the server does not say."""
    first_seconds: float | None = None
    """From the request to the first piece."""
    seconds: float = 0.0
    error: str = ""
    is_done: bool = False


class Server:
    """A running server.

    Args:
        max_tokens: The longest answer; None leaves it to the server.
    """

    def __init__(self, base_url: str, api_key: str, max_tokens: int | None = None) -> None:
        self.base_url = base_url
        self._max_tokens = max_tokens
        self._client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)

    def models(self) -> list[str]:
        """Return the names of its models.

        Raises:
            BackendUnavailableError: It does not answer.
            BackendError: It refuses.
        """
        with self._errors():
            return [_text(model.id) for model in self._client.models.list()]

    def deal(self, models: Sequence[str]) -> list[str]:
        """Return names under which two models answer once, in random order.

        Raises:
            BackendError: The server stores no answers, or refuses.
            BackendUnavailableError: It does not answer.
        """
        with self._errors():
            try:
                body = {"models": list(models)}
                dealt: Any = self._client.post("/deals", body=body, cast_to=object)
            except openai.NotFoundError as error:
                if error.code is not None:  # The route exists: a model is missing.
                    raise
                raise BackendError(
                    "the server stores no answers, so it takes no votes",
                    where=self.base_url,
                    hint="start it with --set 'serve.storage={}'",
                ) from error
        names: list[str] = dealt["models"]
        return names

    def vote(self, answer_ids: Sequence[str], preference: str) -> tuple[list[str], list[str]]:
        """Vote on two answers of dealt names. Raises as `models`.

        Args:
            preference: "a", "b" or "tie".

        Returns:
            Who they are, and the settings because of which the vote does not count.
        """
        body = {"response_ids": list(answer_ids), "preference": preference, "blind": True}
        with self._errors():
            voted: Any = self._client.post("/votes", body=body, cast_to=object)
        return list(voted["models"]), list(voted.get("settings", []))

    def ask(self, model: str, messages: Messages, answer: Answer, stop: threading.Event) -> None:
        """Let a model answer into `answer`, errors included, until it is done or `stop` is set."""
        started = time.perf_counter()
        try:
            with self._client.chat.completions.stream(
                model=model,
                messages=list(messages),  # type: ignore[arg-type]
                max_tokens=self._max_tokens or openai.omit,
                stream_options={"include_usage": True},
            ) as stream:
                for event in stream:
                    if stop.is_set():
                        answer.error = "stopped"
                        break
                    if event.type != "chunk":
                        continue
                    answer.seconds = time.perf_counter() - started
                    if answer.first_seconds is None:
                        answer.first_seconds = answer.seconds
                    _take(event.snapshot, answer)
        except MALFORMED:
            answer.error = UNUSABLE
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            answer.error = _said(error)
        finally:
            answer.is_done = True

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except openai.APIConnectionError as error:
            raise BackendUnavailableError(
                "the server does not answer",
                where=self.base_url,
                found=error,
                hint="potstill serve RUN starts one",
            ) from error
        except MALFORMED as error:
            raise BackendError(UNUSABLE, where=self.base_url) from error
        except openai.OpenAIError as error:
            raise BackendError(
                "the server refuses", where=self.base_url, found=_said(error)
            ) from error


def _take(so_far: Any, answer: Answer) -> None:  # noqa: ANN401  (openai's generic class)
    """Take the answer so far.

    Raises:
        TypeError: It has another shape.
        ValueError: It is too long.
    """
    answer.answer_id = _text(so_far.id)
    answer.num_tokens = int(so_far.usage.completion_tokens) if so_far.usage else 0
    if so_far.choices:
        message = so_far.choices[0].message.to_dict()
        texts = [message.get(name) or "" for name in ("content", "reasoning_content", "reasoning")]
        for call in message.get("tool_calls") or ():
            texts += (call["function"].get("name") or "", call["function"].get("arguments") or "")
        if sum(len(_text(one)) for one in texts) > MAX_ANSWER_CHARACTERS:
            raise ValueError("the answer is too long")
        answer.message = message


def _text(given: object) -> str:
    if not isinstance(given, str):
        raise TypeError("not a text")
    return given


def _said(error: Exception) -> str:
    """Return the server's own words where it has any."""
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or error)[:MAX_ERROR_CHARACTERS]
