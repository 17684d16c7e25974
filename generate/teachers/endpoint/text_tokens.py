"""The tokens of an answer that came as text, as a student would generate it.

In: a request, and its answer as a message. Out: token ids after the prompt's, up to and including
the one that ends the turn.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jinja2

from generate.teachers.protocol import SampleRequest
from potstill.chat import control_texts, render_text, tokenize
from potstill.errors import TeacherError
from potstill.schema import FinishReason, Message
from potstill.token_scores import UnusableAnswerError


@dataclass(frozen=True)
class AnswerTokens:
    """Puts answers into the tokens of a tokenizer with a chat template."""

    tokenizer: Any
    end_token_ids: Collection[int]

    @cached_property
    def _controls(self) -> list[str]:
        return control_texts(self.tokenizer)

    def find(
        self, request: SampleRequest, answer: Message, finish_reason: FinishReason
    ) -> tuple[int, ...]:
        """Return the answer's token ids.

        Raises:
            UnusableAnswerError: It is empty or holds the text of a control token, or the chat
                template does not take it.
            TeacherError: The chat template does not end answers with a token that ends sampling.
        """
        messages, tools = request.messages or (), request.tools
        if not (answer.content.strip() or answer.tool_calls):
            raise UnusableAnswerError("the answer is empty")
        if any(control in answer.content for control in self._controls):
            raise UnusableAnswerError("the answer holds the text of a control token")
        try:
            before = render_text(self.tokenizer, messages, tools=tools)
            whole = render_text(
                self.tokenizer, (*messages, answer), tools=tools, add_generation_prompt=False
            )
        except jinja2.TemplateError as error:
            raise UnusableAnswerError(f"the chat template rejects the answer: {error}") from error
        if not whole.startswith(before):
            raise UnusableAnswerError("the chat template does not put an answer after its prompt")
        token_ids = self._after(request, whole, before)
        end = next((at for at, one in enumerate(token_ids) if one in self.end_token_ids), None)
        if end is None:
            raise TeacherError(
                "the chat template does not end answers with a token that ends sampling",
                where="the tokenizer's chat template",
                expected=f"one of the token ids {sorted(self.end_token_ids)} after an answer",
                hint="name another checkpoint as generate.teacher.model",
            )
        found = tuple(token_ids[: end + 1 if finish_reason == "stop" else end])
        if not found:
            raise UnusableAnswerError("the answer is empty")
        return found

    def _after(self, request: SampleRequest, whole: str, before: str) -> list[int]:
        """Return the ids after the prompt's, also where a token would span the border of both."""
        token_ids, num_prompt = tokenize(self.tokenizer, whole), len(request.prompt_token_ids)
        if token_ids[:num_prompt] == list(request.prompt_token_ids):
            return token_ids[num_prompt:]
        return tokenize(self.tokenizer, whole.removeprefix(before))
