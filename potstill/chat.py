"""Chat messages to token ids and back, and the hashes that pin a tokenizer and its chat template.

In: messages and a Hugging Face tokenizer (by protocol). Out: token ids, answers, sha256 values.
No other module applies a chat template before training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Protocol

from potstill.errors import ArtifactError
from potstill.files import sha256_bytes
from potstill.json_text import parse_json
from potstill.schema import Message
from potstill.thinking import ThinkFormat, split_thinking, switched
from potstill.tools.formats import ToolFormat, stored_calls
from potstill.tools.parsing import split_answer
from potstill.tools.rendering import template_input


class ChatTokenizer(Protocol):
    """The part of `transformers.PreTrainedTokenizerBase` (5.19) that potstill relies on."""

    chat_template: str | None
    added_tokens_decoder: Mapping[int, Any]
    """Tokens beside the vocabulary, by id: `str(token)` is its text, `token.special` its kind."""

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        tokenize: bool,
        add_generation_prompt: bool,
    ) -> Any:  # noqa: ANN401  (a str when tokenize is False)
        """Render messages with the chat template."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:  # noqa: ANN401
        """Return a mapping with `input_ids`."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of token ids."""
        ...


def render_text(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    *,
    tools: str | None = None,
    add_generation_prompt: bool = True,
) -> str:
    """Return messages rendered by a chat template, tools and calls as the server renders them.

    Args:
        tools: JSON list of tool definitions; None names none.
        add_generation_prompt: End where the assistant begins to answer.
    """
    chat, listed = template_input(
        tokenizer.chat_template or "",
        [message.to_chat() for message in messages],
        json.loads(tools) if tools else (),
    )
    text = tokenizer.apply_chat_template(
        chat,
        tools=listed or None,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
    )
    return str(text)


def tokenize(tokenizer: ChatTokenizer, text: str) -> list[int]:
    """Return the token ids of rendered text, in which special tokens are recognized."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def render_prompt(
    tokenizer: ChatTokenizer, messages: Sequence[Message], tools: str | None = None
) -> list[int]:
    """Return the token ids of a chat prompt, up to where the assistant begins to answer."""
    return tokenize(tokenizer, render_text(tokenizer, messages, tools=tools))


def with_template(tokenizer: Any, template: str) -> Any:  # noqa: ANN401  (a transformers tokenizer)
    """Return a tokenizer with another chat template."""
    changed = copy(tokenizer)
    changed.chat_template = template
    return changed


def with_thinking(tokenizer: Any, thinks: bool | None) -> Any:  # noqa: ANN401
    """Return a tokenizer with its chat template's switch for thinking set; None leaves it.

    Raises:
        jinja2.TemplateError: Its chat template is not one.
    """
    if thinks is None:
        return tokenizer
    return with_template(tokenizer, switched(tokenizer.chat_template, on=thinks))


def answer_message(
    tokenizer: ChatTokenizer,
    token_ids: Sequence[int],
    *,
    has_tools: bool,
    num_calls: int = 0,
    opened: bool = False,
) -> Message:
    """Return a model's answer as a message; calls of tools in it are read as the server reads them.

    Thinking is apart from the content. An answer whose calls are not complete JSON objects stays
    text.

    Args:
        has_tools: Whether the answer may call tools.
        num_calls: How many calls the conversation has before it.
        opened: Whether the prompt ended inside the thinking.
    """
    template = tokenizer.chat_template or ""
    think_format, tool_format = ThinkFormat.of_template(template), ToolFormat.of_template(template)
    tags = think_format.tags if think_format else ()
    text, thinking = _text_with(tokenizer, token_ids, tags), None
    if think_format is not None:
        thinking, text = split_thinking(think_format, text, opened=opened)
    message = Message(role="assistant", content=text, reasoning_content=thinking)
    if not has_tools:
        return message
    whole = _text_with(tokenizer, token_ids, (*tags, tool_format.opening))
    if think_format is not None:
        _, whole = split_thinking(think_format, whole, opened=opened)
    plain, found = split_answer(tool_format, whole)
    if not found or not all(_is_object(arguments) for _, arguments in found):
        return message
    tool_calls = stored_calls(found, num_calls)
    return message.model_copy(update={"content": plain.strip(), "tool_calls": tool_calls})


def _text_with(tokenizer: ChatTokenizer, token_ids: Sequence[int], tags: Sequence[str]) -> str:
    """Return the text of tokens without special ones, but with those that some tags consist of."""
    shown = {
        token_id: str(token)
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special and any(str(token) in tag for tag in tags)
    }
    text, part = "", list[int]()
    for token_id in token_ids:
        if token_id in shown:
            text += tokenizer.decode(part, skip_special_tokens=True) + shown[token_id]
            part = []
        else:
            part.append(token_id)
    return text + tokenizer.decode(part, skip_special_tokens=True)


def _is_object(text: str) -> bool:
    try:
        return isinstance(parse_json(text), dict)
    except ValueError:
        return False


def control_texts(tokenizer: ChatTokenizer) -> list[str]:
    """Return the texts of the tokens that only a chat template may write, such as `<|im_end|>`.

    `render_prompt` reads them as tokens anywhere in a message, where they would end its turn.
    """
    return [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]


def user_slot_prefix(tokenizer: ChatTokenizer, system_prompt: str | None = None) -> str:
    """Return the text of the chat template up to where the user's first message begins.

    Args:
        system_prompt: Content of a system message before it; None means no system message.
    """
    marker = "\N{LEFT WHITE SQUARE BRACKET}user\N{RIGHT WHITE SQUARE BRACKET}"
    messages = [Message(role="user", content=marker)]
    if system_prompt is not None:
        messages.insert(0, Message(role="system", content=system_prompt))
    text = render_text(tokenizer, messages, add_generation_prompt=False)
    return text.partition(marker)[0]


def chat_template_sha256(template: str) -> str:
    """Hash a chat template."""
    return sha256_bytes(template.encode())


def tokenizer_sha256(checkpoint_dir: Path) -> str:
    """Hash the parts of `tokenizer.json` that decide token ids: equal hashes, equal ids.

    Padding and truncation settings are not hashed: they change on saving and affect no id.

    Raises:
        ArtifactError: The checkpoint has no readable `tokenizer.json`.
    """
    path = checkpoint_dir / "tokenizer.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for setting in ("padding", "truncation"):
            content.pop(setting, None)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(
            "the checkpoint's tokenizer cannot be read",
            where=path,
            expected="a tokenizer.json of the Hugging Face tokenizers library",
            found=error,
        ) from error
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())
