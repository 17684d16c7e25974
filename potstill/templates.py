"""Chat templates, compiled and rendered as transformers does it.

In: a template's source, messages, the texts of named tokens. Out: text. All readers of GGUF files
use this module, so that the verified prompts are the served ones.

Source: transformers 5.19, utils/chat_template_utils.py, _compile_jinja_template and
render_jinja_template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _GenerationTag(jinja2.ext.Extension):
    """Accept `{% generation %}`, which marks the assistant's words for training."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compile_template(source: str) -> jinja2.Template:
    """Compile a chat template in a sandbox.

    Raises:
        jinja2.TemplateError: It is not a template.
    """
    environment = _environment()
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


@cache
def undeclared_variables(source: str) -> frozenset[str]:
    """Return the names that a chat template takes from its caller.

    Raises:
        jinja2.TemplateError: It is not a template.
    """
    return frozenset(jinja2.meta.find_undeclared_variables(_environment().parse(source)))


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )


def render_template(
    template: jinja2.Template,
    messages: Sequence[Mapping[str, Any]],
    named_tokens: Mapping[str, str],
    **variables: Any,  # noqa: ANN401  (any JSON value)
) -> str:
    """Render a prompt, up to where the assistant begins to answer.

    Args:
        template: A result of `compile_template`.
        messages: Role and content of each turn.
        named_tokens: Texts of the tokens a template refers to by name, such as `bos_token`.
        variables: Further variables of the template, such as `tools`.

    Raises:
        jinja2.TemplateError: The template refuses the messages.
    """
    usual = {"tools": None, "documents": None, "add_generation_prompt": True, **named_tokens}
    return template.render({**usual, **variables, "messages": list(messages)})


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,  # noqa: ANN401  (any JSON value)
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as transformers does: jinja2's own filter escapes HTML characters."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
