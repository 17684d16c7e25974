"""Tools in a model's own words: how it is told of them, and how it writes a call.

In: a chat template, tools as OpenAI spells them. Out: which format the model writes, grammars that
make it call, messages that describe the tools. Knows nothing of engines or HTTP.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class GrammarOfSchema(Protocol):
    """What makes a grammar of a JSON schema."""

    def __call__(self, schema: Mapping[str, Any], *, exact: bool) -> str:
        """Return it; if it need not be exact, of as much of the schema as can be one."""
        ...


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
"""What a model is told whose template knows no tools; the format is that of Hermes and Qwen."""


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes calls of functions."""

    name: str
    opening: str
    """What begins a call, or a list of calls; nothing where an answer that is JSON is a call."""
    brackets: tuple[str, str]
    """What stands around the calls after the opening."""
    separator: str
    """What stands between two calls."""
    closing: str
    """What ends a call that the opening began."""
    arguments_key: str

    @staticmethod
    def of_template(template: str) -> ToolFormat:
        """Tell a model's format by its chat template; an unknown one is taken for Hermes'."""
        if "[TOOL_CALLS]" in template:
            return MISTRAL
        if "<|python_tag|>" in template or '"parameters": dictionary' in template:
            return LLAMA
        return HERMES

    def new_call_id(self) -> str:
        """Return an id for a call; Mistral's templates want nine letters and digits."""
        return secrets.token_hex(5)[:9] if self is MISTRAL else f"call_{secrets.token_hex(12)}"

    def grammar(
        self,
        tools: Sequence[Mapping[str, Any]],
        grammar_of_schema: GrammarOfSchema,
        *,
        parallel: bool,
    ) -> str:
        """Return a GBNF grammar of answers that call at least one of the tools.

        Args:
            tools: As OpenAI spells them.
            grammar_of_schema: Makes a grammar of a JSON schema; what it raises is passed on.
            parallel: Whether several calls may be made.
        """
        rules, names = [], []
        for number, tool in enumerate(tools):
            function = tool["function"]
            schema = function.get("parameters") or {"type": "object"}
            prefix = f"tool{number}-"
            grammar = grammar_of_schema(schema, exact=bool(function.get("strict")))
            rules.append(_renamed(grammar, prefix))
            head = f'{{"name": {json.dumps(function["name"])}, "{self.arguments_key}": '
            rules.append(f'{prefix}call ::= {_literal(head)} {prefix}root "}}"')
            names.append(f"{prefix}call")
        begin, end = self.brackets
        around = (self.opening + begin, end + self.closing)
        more = f"({_literal(self.separator)} call)*" if parallel and self.separator else ""
        root = f"root ::= {_literal(around[0])} call {more} {_literal(around[1])}"
        return "\n".join([root, f"call ::= {' | '.join(names)}", *rules])


HERMES = ToolFormat(
    name="hermes",
    opening="<tool_call>",
    brackets=("\n", "\n"),
    separator="\n</tool_call>\n<tool_call>\n",
    closing="</tool_call>",
    arguments_key="arguments",
)
"""Hermes 2 and later, Qwen 2.5 and 3."""

LLAMA = ToolFormat(
    name="llama",
    opening="",
    brackets=("", ""),
    separator="",
    closing="",
    arguments_key="parameters",
)
"""Llama 3.1 and later: an answer that is one JSON object."""

MISTRAL = ToolFormat(
    name="mistral",
    opening="[TOOL_CALLS]",
    brackets=("[", "]"),
    separator=", ",
    closing="",
    arguments_key="arguments",
)
"""Mistral 7B v0.3 and Nemo: a list after a token of its own."""


def told_in_system(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rewrite a conversation for a template that knows no tools.

    The tools are described in the system message; calls and what they gave become text.
    """
    signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    told = INSTRUCTIONS.format(tools=signatures)
    rewritten = [_as_text(message) for message in messages]
    if rewritten and rewritten[0]["role"] == "system":
        first = rewritten[0]
        return [{**first, "content": f"{first['content']}\n\n{told}"}, *rewritten[1:]]
    return [{"role": "system", "content": told}, *rewritten]


def _as_text(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = [
        f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.get("tool_calls") or ()
    ]
    return {"role": message["role"], "content": "\n".join(filter(None, [content, *calls]))}


_TOKENS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|(?<![\w-])[a-zA-Z][\w-]*')
"""Of a GBNF grammar: literals and sets of characters, which are left alone, and names of rules."""


def _renamed(grammar: str, prefix: str) -> str:
    """Put a prefix before every rule's name."""

    def rename(match: re.Match[str]) -> str:
        return match[0] if match[0][0] in '"[' else prefix + match[0]

    return _TOKENS.sub(rename, grammar)


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"' if text else ""
