"""Formats of tool calls by model family: detection, rules, and prompts for other templates."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

INSTRUCTIONS = """\
You may call one or more functions to assist with the user query.
You are given their signatures as JSON within <tools></tools> tags:
<tools>
{tools}
</tools>
For each call, return a JSON object with the function's name and arguments within \
<tool_call></tool_call> tags:
<tool_call>
{{"name": "function-name", "arguments": {{"argument": "value"}}}}
</tool_call>"""
"""System prompt for models whose template has no tools, in the format of Hermes and Qwen."""


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

    def rules(self, names: Sequence[str], *, parallel: bool) -> str:
        """Return rules, in Lark's notation, of answers that call at least one function.

        Args:
            names: The functions; the arguments of the first are called `schema0`, and so on.
            parallel: Whether several calls are allowed.
        """
        calls = [
            f"{_literal(self._head(name))} schema{number} {_literal('}')}"
            for number, name in enumerate(names)
        ]
        begin, end = self.brackets
        more = f"({_literal(self.separator)} call)*" if parallel and self.separator else ""
        around = (_literal(self.opening + begin), _literal(end + self.closing))
        return f"start: {around[0]} call {more} {around[1]}\ncall: {' | '.join(calls)}"

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


def with_tools_as_text(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rewrite a conversation for a template without tools.

    The tools are described in the system message; calls and their results become text.
    """
    signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    instructions = INSTRUCTIONS.format(tools=signatures)
    rewritten = [_as_text(message) for message in messages]
    if rewritten and rewritten[0]["role"] == "system":
        first = rewritten[0]
        return [{**first, "content": f"{first['content']}\n\n{instructions}"}, *rewritten[1:]]
    return [{"role": "system", "content": instructions}, *rewritten]


def _as_text(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = [
        f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.get("tool_calls") or ()
    ]
    return {"role": message["role"], "content": "\n".join(filter(None, [content, *calls]))}


def _literal(text: str) -> str:
    return json.dumps(text) if text else ""
