"""From chat messages to prompt token ids, through the model's chat template.

The ids are those of the Hugging Face tokenizer (llama.cpp leaves out the Unicode normalization of
some tokenizers), except that the text of a control token inside a message stays text: a message
that contains `<|im_end|>` cannot pose as another role.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from potstill.errors import ArtifactError, PotstillError
from potstill.thinking import ThinkFormat
from potstill.tools.formats import ToolFormat
from potstill.tools.rendering import template_input
from serve.chat.rendering import TemplateProcess
from serve.engine.model import GgufModel
from serve.errors import InvalidRequestError

RESERVED_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


@dataclass(frozen=True)
class Dialogue:
    """The input of a chat template."""

    messages: Sequence[Mapping[str, Any]]
    """In OpenAI's form: role, content, optionally tool_calls or tool_call_id."""
    tools: Sequence[Mapping[str, Any]] = ()
    """In OpenAI's form."""
    continue_final: bool = False
    """Whether the prompt ends inside the last message, which the answer continues."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Further variables of the template."""


class ChatPrompt:
    """A model's chat template and tokenizer. Rendering takes milliseconds, and blocks.

    Raises:
        ArtifactError: The model has no chat template, or it cannot be compiled.
    """

    def __init__(self, model: GgufModel) -> None:
        self._model = model
        if model.chat_template is None:
            raise ArtifactError("the model has no chat template", where=model.path)
        self.template = model.chat_template
        self.tool_format = ToolFormat.of_template(self.template)
        try:
            self._process = TemplateProcess(self.template)
        except PotstillError as error:
            raise ArtifactError(
                "the model's chat template cannot be compiled", where=model.path, found=error.what
            ) from error
        self._control = re.compile(_alternatives(model.control_tokens))
        self._opening = re.compile(_alternatives({text[0] for text in model.control_tokens}))
        self.think_format = ThinkFormat.of_template(self.template) or model.think_format
        if self.think_format is not None:
            model.show_tags(self.think_format)

    def close(self) -> None:
        """End the template's process."""
        self._process.close()

    def render(self, dialogue: Dialogue) -> str:
        """Return the prompt's text, in which control tokens and equal text of messages look alike.

        Raises:
            InvalidRequestError: The template refuses the messages.
        """
        return self._rendered(self._parsed(dialogue))

    def _parsed(self, dialogue: Dialogue) -> Dialogue:
        """Return a dialogue as the template takes it: nothing in it is parsed any more."""
        reserved = RESERVED_VARIABLES & dialogue.variables.keys()
        if reserved:
            raise InvalidRequestError(
                "chat_template_kwargs must not set variables that the server sets",
                where=min(reserved),
            )
        messages, tools = template_input(self.template, dialogue.messages, dialogue.tools)
        return replace(dialogue, messages=messages, tools=tools)

    def _rendered(self, parsed: Dialogue) -> str:
        variables = {
            **parsed.variables,
            "tools": parsed.tools or None,
            "add_generation_prompt": not parsed.continue_final,
        }
        try:
            text = self._process.render(parsed.messages, self._model.named_tokens, variables)
        except PotstillError as error:
            raise InvalidRequestError(
                "the model's chat template refuses these messages",
                where="messages",
                found=error.what,
            ) from error
        if parsed.continue_final:
            return _until_final(text, parsed.messages[-1]["content"])
        return text

    def opens_thinking(self, token_ids: Sequence[int]) -> bool:
        """Return whether a prompt ends inside the thinking."""
        if self.think_format is None:
            return False
        return self.think_format.is_opened_by_tokens(token_ids, self._model.detokenize)

    def token_ids(self, dialogue: Dialogue) -> list[int]:
        """Return the prompt's token ids, up to the start of the assistant's answer.

        Raises:
            InvalidRequestError: The template refuses the messages.
        """
        parsed = self._parsed(dialogue)
        given = (parsed.messages, parsed.tools, parsed.variables)
        if any(self._opening.search(text) for text in texts_in(given)):
            return self._token_ids_defused(parsed)
        return self._model.tokenize(self._rendered(parsed), parse_special=True)

    def _token_ids_defused(self, parsed: Dialogue) -> list[int]:
        """Tokenize a dialogue with text that may become that of a control token.

        Such text is hidden while the template renders: whole control tokens, or, where the template
        makes one out of parts, whatever one can begin with. The text between two control tokens of
        the template is then tokenized as it was: tokens never merge across a control token, and
        none is recognized inside.
        """
        hidden = self._pieces_hiding(self._control, parsed)
        strict = self._pieces_hiding(self._opening, parsed)
        if [control for _, control in hidden] != [control for _, control in strict]:
            hidden = strict
        if not any(self._control.search(text) for text, _ in hidden):
            whole = "".join(text + control for text, control in hidden)
            return self._model.tokenize(whole, parse_special=True)
        token_ids: list[int] = []
        for text, control in hidden:
            token_ids += self._model.tokenize(text, parse_special=False)
            if control:
                token_ids.append(self._model.control_tokens[control])
        return token_ids

    def _pieces_hiding(self, pattern: re.Pattern[str], parsed: Dialogue) -> list[tuple[str, str]]:
        """Render a dialogue with the matches of a pattern hidden behind unguessable placeholders.

        Returns:
            The text before each control token of the template, with what was hidden, and the token.
        """
        nonce = secrets.token_hex(8)
        replaced: list[str] = []

        def placeholder(match: re.Match[str]) -> str:
            replaced.append(match[0])
            return f"{nonce}.{len(replaced) - 1}."

        def hide(text: str) -> str:
            return pattern.sub(placeholder, text)

        text = self._rendered(
            replace(
                parsed,
                messages=_mapped(parsed.messages, hide),
                tools=_mapped(parsed.tools, hide),
                variables=_mapped(parsed.variables, hide),
            )
        )
        placeholders = re.compile(nonce + r"\.(\d+)\.")
        return [
            (placeholders.sub(lambda match: replaced[int(match[1])], plain), control)
            for plain, control in _split(self._control, text)
        ]


def _until_final(text: str, content: str) -> str:
    """Cut a rendered conversation after the content of its last message.

    Source: transformers 5.19, apply_chat_template with continue_final_message.
    """
    said = content.strip()
    # `rfind` takes quadratic time, in which nothing else runs.
    end = text[::-1].find(said[::-1])
    start = len(text) - end - len(said)
    if not said or end < 0:
        raise InvalidRequestError(
            "the template does not render the last message unchanged",
            where="continue_final_message",
        )
    whole = content.lstrip()
    end = start + len(whole)
    return text[:end] if text[start:end] == whole else text[: start + len(said)]


def texts_in(value: object) -> Iterator[str]:
    """Yield every string inside a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from texts_in(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from texts_in(inner)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401  (any JSON value)
    """Return a JSON value with every string inside it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, Sequence):
        return [_mapped(inner, change) for inner in value]
    return value


def _alternatives(texts: Iterable[str]) -> str:
    """Return a pattern that matches any of the texts, the longest first; nothing without texts."""
    longest_first = sorted(texts, key=len, reverse=True)
    return "|".join(re.escape(text) for text in longest_first) or r"(?!)"


def _split(pattern: re.Pattern[str], text: str) -> list[tuple[str, str]]:
    """Split `text` into pairs of the text before a match and the match; the last match is empty."""
    pairs, start = [], 0
    for match in pattern.finditer(text):
        pairs.append((text[start : match.start()], match[0]))
        start = match.end()
    return [*pairs, (text[start:], "")]
