"""Formats of tool calls by model family: detection, and grammar rules for constrained calls."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NAMED_OBJECT_FOLLOWS = re.compile(r'\A\s*(?:<\|python_tag\|>\s*)?(?=\{\s*"name"\s*:)')
"""What an answer without an opening begins with if it is a call."""


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes calls of functions."""

    opening: str = ""
    """Text before a call, or a list of calls; empty where an answer that is JSON is a call."""
    brackets: tuple[str, str] = ("", "")
    """Text around the calls after the opening."""
    separator: str = ""
    """Text between two calls; empty where there is at most one."""
    closing: str = ""
    """Text after a call that the opening started."""
    arguments_key: str = "arguments"

    @staticmethod
    def of_template(template: str) -> ToolFormat:
        """Return the format that a chat template shows; Hermes' if it shows none."""
        if "[TOOL_CALLS]" in template:
            return MISTRAL
        if "<|python_tag|>" in template or '"parameters": dictionary' in template:
            return LLAMA
        return HERMES

    def new_call_id(self) -> str:
        """Return an id for a call; Mistral's templates want nine letters and digits."""
        return secrets.token_hex(5)[:9] if self is MISTRAL else f"call_{secrets.token_hex(12)}"

    @property
    def marker(self) -> re.Pattern[str]:
        """What calls begin with in an answer, from its start or anywhere; they follow the match."""
        return re.compile(re.escape(self.opening)) if self.opening else NAMED_OBJECT_FOLLOWS

    def rules(
        self,
        names: Sequence[str],
        *,
        parallel: bool,
        is_begun: bool = False,
        or_answer: bool = False,
    ) -> str:
        """Return rules, in Lark's notation, of answers that call at least one function.

        `opening` stands for the text before calls.

        Args:
            names: The functions; the arguments of the first are called `schema0`, and so on.
            parallel: Whether several calls are allowed.
            is_begun: Whether the rules are those of what follows the opening.
            or_answer: Whether an answer under the schema after the functions' is allowed instead.
        """
        calls = [
            f"{_literal(self._head(name))} schema{number} {_literal('}')}"
            for number, name in enumerate(names)
        ]
        begin, end = self.brackets
        opening = "opening" if self.opening and not is_begun else ""
        more = f"({_literal(self.separator)} call)*" if parallel and self.separator else ""
        parts = (opening, _literal(begin), "call", more, _literal(end + self.closing))
        answer = f" | schema{len(names)}" if or_answer else ""
        return (
            f"start: calls{answer}\ncalls: {' '.join(filter(None, parts))}\n"
            f"call: {' | '.join(calls)}"
        )

    def _head(self, name: str) -> str:
        return f'{{"name": {json.dumps(name)}, "{self.arguments_key}": '


HERMES = ToolFormat(
    opening="<tool_call>",
    brackets=("\n", "\n"),
    separator="\n</tool_call>\n<tool_call>\n",
    closing="</tool_call>",
)
"""Hermes 2 and later, Qwen 2.5 and 3."""

LLAMA = ToolFormat(arguments_key="parameters")
"""Llama 3.1 and later: an answer that is one JSON object."""

MISTRAL = ToolFormat(opening="[TOOL_CALLS]", brackets=("[", "]"), separator=", ")
"""Mistral 7B v0.3 and Nemo: a list after a special token."""


def stored_call_id(number: int) -> str:
    """Return the id of a conversation's call: nine letters and digits, as Mistral's templates want.

    Args:
        number: How many calls came before it.
    """
    return f"call{number:05d}"


def stored_calls(calls: Iterable[tuple[str, str]], num_before: int) -> str:
    """Return calls as messages store them: OpenAI's, in JSON.

    Args:
        calls: Names and arguments, these as JSON.
        num_before: How many calls the conversation has before them.
    """
    listed = [
        {
            "id": stored_call_id(number),
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for number, (name, arguments) in enumerate(calls, start=num_before)
    ]
    return json.dumps(listed, ensure_ascii=False)


def _literal(text: str) -> str:
    return json.dumps(text) if text else ""
