"""Chat templates rendered in a child process, under limits of time and memory.

A template is a program from a model file: nothing it does may stop the server.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2

from potstill.errors import PotstillError
from potstill.templates import compile_template, render_template
from potstill.workers import Handler, Worker, json_handler

RENDER_SECONDS = 10.0
"""How long one rendering may take; an ordinary one takes a millisecond."""
MAX_GROWTH_BYTES = 1 << 30
MAX_TEXT_CHARACTERS = 1 << 24


class TemplateProcess:
    """Renders one template. May be called from any thread; renderings take turns.

    Args:
        source: The template.
        seconds: How long one rendering may take.

    Raises:
        PotstillError: The template cannot be compiled.
    """

    def __init__(self, source: str, *, seconds: float = RENDER_SECONDS) -> None:
        self._seconds = seconds
        self._worker = Worker(
            f"{__name__}:service",
            source,
            growth_bytes=MAX_GROWTH_BYTES,
            # A template must not find secrets there.
            environment={"PATH": os.defpath},
        )
        self._worker.ask_json({}, seconds)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        named_tokens: Mapping[str, str],
        variables: Mapping[str, Any],
    ) -> str:
        """Return the rendered prompt.

        Raises:
            PotstillError: The template refuses the messages, takes too long or too much memory.
        """
        given = {"messages": messages, "named_tokens": named_tokens, "variables": variables}
        return str(self._worker.ask_json(given, self._seconds)["text"])

    def close(self) -> None:
        """End the process."""
        self._worker.close()


def service(source: str) -> Handler:
    """Return a handler that renders a template; an empty request compiles it only."""

    @cache
    def template() -> jinja2.Template:
        # Imported with the first message: the limits apply from then on.
        return compile_template(source)

    def render(given: dict[str, Any]) -> dict[str, str]:
        # A template may raise anything.
        try:
            compiled, text = template(), ""
            if given:
                variables = given["variables"]
                text = render_template(
                    compiled, given["messages"], given["named_tokens"], **variables
                )
        except Exception as error:
            raise PotstillError(f"{type(error).__name__}: {error}"[:1000]) from None
        if len(text) > MAX_TEXT_CHARACTERS:
            raise PotstillError(f"it wrote more than {MAX_TEXT_CHARACTERS} characters")
        return {"text": text}

    return json_handler(render)
