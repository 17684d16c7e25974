"""Requests of other APIs as chats: what their parts become, and where an error in them is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from potstill.errors import PotstillError
from serve.errors import InvalidRequestError
from serve.wire.chat import ChatRequest
from serve.wire.shared import JsonObject


@dataclass
class Translation:
    """A chat being made of another request."""

    body: JsonObject = field(default_factory=dict)
    """The chat's body, without its messages."""
    messages: list[JsonObject] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    """Where parts of the chat came from, by their place in it."""

    def add(self, place: str, **message: Any) -> None:  # noqa: ANN401  (fields of a message)
        """Add a message that came from a place."""
        self.places[f"messages[{len(self.messages)}]"] = place
        self.messages.append(message)

    @property
    def chat(self) -> ChatRequest:
        """The chat.

        Raises:
            InvalidRequestError: It is none.
        """
        try:
            return ChatRequest.model_validate({**self.body, "messages": self.messages})
        except ValidationError as error:
            first = error.errors()[0]
            names = (f"[{one}]" if isinstance(one, int) else f".{one}" for one in first["loc"])
            place = self.place("".join(names).removeprefix("."))
            raise InvalidRequestError(first["msg"], where=place) from error

    def place(self, where: str) -> str:
        """Return where a part of the chat came from."""
        for known in sorted(self.places, key=len, reverse=True):
            if where == known or where.startswith((f"{known}.", f"{known}[")):
                return self.places[known] + where.removeprefix(known)
        return where

    @contextmanager
    def errors_in_place(self) -> Iterator[None]:
        """Let errors in the chat name the place that it came from."""
        try:
            yield
        except PotstillError as error:
            # Errors in grammars are kept and raised again.
            moved = copy(error)
            moved.where = None if error.where is None else self.place(str(error.where))
            raise moved from error
