"""From chat messages to prompt token ids, through the model's own chat template.

In: messages. Out: the token ids the Hugging Face tokenizer gives for them, except that a control
token's text inside a message stays text: nobody can write `<|im_end|>` and speak as another role.
Knows nothing of the engine or HTTP.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from potstill.errors import ArtifactError
from potstill.schema import Message
from serve.engine_model import GgufModel
from serve.errors import InvalidRequestError


class _GenerationTag(jinja2.ext.Extension):
    """Let `{% generation %}` pass, which marks the assistant's words for training."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatPrompt:
    """A chat template, compiled as transformers 5.19 compiles it (`utils/chat_template_utils.py`).

    Raises:
        ArtifactError: The model has no chat template, or it cannot be compiled.
    """

    def __init__(self, model: GgufModel) -> None:
        self._model = model
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationTag, jinja2.ext.loopcontrols],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        if model.chat_template is None:
            raise ArtifactError("the model has no chat template", where=model.path)
        try:
            self._template = environment.from_string(model.chat_template)
        except jinja2.TemplateError as error:
            raise ArtifactError(
                "the model's chat template cannot be compiled", where=model.path, found=error
            ) from error
        self._control = re.compile(_alternatives(model.control_tokens))

    def token_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's token ids, up to where the assistant begins to answer.

        Raises:
            InvalidRequestError: The template refuses the messages.
        """
        if any(self._control.search(message.content) for message in messages):
            return self._token_ids_defused(messages)
        text = self._render([message.model_dump() for message in messages])
        return self._model.tokenize(text, parse_special=True)

    def _token_ids_defused(self, messages: Sequence[Message]) -> list[int]:
        """Tokenise messages of which some contain the text of control tokens.

        Such text is replaced by unguessable placeholders while the template renders. What the
        template then wrote between two control tokens is tokenised as one text, placeholders
        undone: tokens never merge across a control token, and nothing inside is read as one.
        """
        nonce = secrets.token_hex(8)
        replaced: dict[str, str] = {}

        def replace(match: re.Match[str]) -> str:
            placeholder = f"\ufdd0{nonce}.{len(replaced)}\ufdd1"
            replaced[placeholder] = match[0]
            return placeholder

        text = self._render(
            [
                {"role": message.role, "content": self._control.sub(replace, message.content)}
                for message in messages
            ]
        )
        placeholders = re.compile(_alternatives(replaced))
        token_ids: list[int] = []
        for plain, control in _split(self._control, text):
            content = placeholders.sub(lambda match: replaced[match[0]], plain)
            token_ids += self._model.tokenize(content, parse_special=False)
            if control:
                token_ids.append(self._model.control_tokens[control])
        return token_ids

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            return self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._model.named_tokens,
            )
        except jinja2.TemplateError as error:
            raise InvalidRequestError(
                "the model's chat template refuses these messages", where="messages", found=error
            ) from error


def _alternatives(texts: Iterable[str]) -> str:
    """Build a pattern that matches any of the texts, the longest first; none matches nothing."""
    longest_first = sorted(texts, key=len, reverse=True)
    return "|".join(re.escape(text) for text in longest_first) or r"(?!)"


def _split(pattern: re.Pattern[str], text: str) -> list[tuple[str, str]]:
    """Cut `text` into pairs of what precedes a match and the match; the last match is empty."""
    pairs, start = [], 0
    for match in pattern.finditer(text):
        pairs.append((text[start : match.start()], match[0]))
        start = match.end()
    return [*pairs, (text[start:], "")]


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
