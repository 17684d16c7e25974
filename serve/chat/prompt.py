"""From chat messages to prompt token ids, through the model's own chat template.

In: messages. Out: the token ids the Hugging Face tokenizer gives for them (llama.cpp leaves out the
Unicode normalisation that some tokenizers do), except that a control token's text inside a message
stays text: nobody can write `<|im_end|>` and speak as another role.
Knows nothing of the engine or HTTP.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence

import jinja2

from potstill.errors import ArtifactError
from potstill.schema import Message
from potstill.templates import compile_template, render_template
from serve.engine.model import GgufModel
from serve.errors import InvalidRequestError


class ChatPrompt:
    """A model's chat template and its tokenizer.

    Raises:
        ArtifactError: The model has no chat template, or it cannot be compiled.
    """

    def __init__(self, model: GgufModel) -> None:
        self._model = model
        if model.chat_template is None:
            raise ArtifactError("the model has no chat template", where=model.path)
        try:
            self._template = compile_template(model.chat_template)
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
        text = self._render([message.to_chat() for message in messages])
        return self._model.tokenize(text, parse_special=True)

    def _token_ids_defused(self, messages: Sequence[Message]) -> list[int]:
        """Tokenise messages of which some contain the text of control tokens.

        Such text is replaced by unguessable placeholders while the template renders. What the
        template then wrote between two control tokens is tokenised as one text, placeholders
        undone: tokens never merge across a control token, and nothing inside is read as one.
        """
        nonce = secrets.token_hex(8)
        replaced: list[str] = []

        def replace(match: re.Match[str]) -> str:
            replaced.append(match[0])
            return f"\ufdd0{nonce}.{len(replaced) - 1}\ufdd1"

        text = self._render(
            [
                {"role": message.role, "content": self._control.sub(replace, message.content)}
                for message in messages
            ]
        )
        placeholders = re.compile(f"\ufdd0{nonce}" + r"\.(\d+)" + "\ufdd1")
        token_ids: list[int] = []
        for plain, control in _split(self._control, text):
            content = placeholders.sub(lambda match: replaced[int(match[1])], plain)
            token_ids += self._model.tokenize(content, parse_special=False)
            if control:
                token_ids.append(self._model.control_tokens[control])
        return token_ids

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            return render_template(self._template, messages, self._model.named_tokens)
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
