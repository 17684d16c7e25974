"""The words that ask the teacher for an input, and the input in its answer.

In: what is wanted, and examples. Out: messages for the teacher; the texts of the user's turns.
The examples are turns of the chat, so that the teacher goes on in their form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from generate.sources.rewriting import unwrapped
from generate.sources.task.wanted import Turn, Wanted
from potstill.schema import Message
from potstill.task.answers import Item

SYSTEM = (
    "You write realistic messages of users, which test an assistant. {context} Each reply of "
    "yours is one new message, word for word as a user would type or say it: no quotation marks, "
    "no comment, no answer to it. Never repeat an earlier message."
)
LISTED = (
    "{context} These messages of users are about {category}:\n{lines}\n\nContinue the list: write "
    "message {number}, by another user{persona} who asks something else about {wants}, in "
    "{length}. One line.{style}"
)
"""Where nothing but a label is wanted. A small teacher that sees the examples as turns of a chat
often writes the assistant's answer instead of a user's message."""
DIALOGUE = "Write the user's {count} messages of one conversation, one on each numbered line."
NUMBERED = re.compile(r"^\s*(?:turn\s*)?(\d+)\s*[.):]\s*(.+?)\s*$", re.IGNORECASE)
ROLE = re.compile(
    r"^\s*(?:the\s+)?(?:user|customer|client|caller|patient|message|input|question|note)"
    r"(?:['\u2019]s message)?\s*:\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Manner:
    """How an input is written; empty texts say nothing."""

    persona: str = ""
    length: str = ""
    style: str = ""


def request_messages(
    context: str, shots: Sequence[tuple[Wanted, Item]], wanted: Wanted, manner: Manner
) -> tuple[Message, ...]:
    """Return the messages that ask the teacher for one input.

    Args:
        context: Who writes and what, or the assistant's instructions.
        shots: Examples, each with what it would have been asked for by.
    """
    messages = [Message(role="system", content=SYSTEM.format(context=context))]
    for asked, item in shots:
        length = f"about {len(' '.join(user_texts(item)).split())} words"
        messages += [
            Message(role="user", content=_asked(asked, Manner(length=length))),
            Message(role="assistant", content=_written(user_texts(item))),
        ]
    return (*messages, Message(role="user", content=_asked(wanted, manner)))


def list_message(
    context: str, examples: Sequence[Item], wanted: Wanted, manner: Manner
) -> tuple[Message, ...]:
    """Return the message that asks the teacher for one more message of a category.

    Args:
        context: Who writes and what, or the assistant's instructions.
        examples: Some of this category, each of one turn.
    """
    text = LISTED.format(
        context=context,
        category=wanted.category,
        lines=_numbered(map(_one_line, examples)),
        number=len(examples) + 1,
        wants=wanted.turns[0].wants,
        persona=f", {manner.persona}," * bool(manner.persona),
        length=manner.length or "a few words",
        style=f" Style: {manner.style}." * bool(manner.style),
    )
    return (Message(role="user", content=text),)


def listed_text(text: str) -> str:
    """Return the first message in a teacher's continuation of a list."""
    numbered = (match[2] for line in text.splitlines() if (match := NUMBERED.match(line)))
    return _line(unwrapped(next(numbered, text)))


def user_texts(item: Item) -> list[str]:
    """Return the texts of an item's user turns."""
    return [message.content for message in item.messages if message.role == "user"]


def written_turns(text: str, wanted: Wanted) -> list[str] | None:
    """Return the user's turns in a teacher's answer; None when their number is another."""
    if len(wanted.turns) == 1:
        return [_line(unwrapped(text))]
    lines = [match for line in text.splitlines() if (match := NUMBERED.match(line))]
    if [int(line[1]) for line in lines] != list(range(1, len(wanted.turns) + 1)):
        return None
    return [_line(unwrapped(line[2])) for line in lines]


def _one_line(item: Item) -> str:
    return " ".join(" ".join(user_texts(item)).split())


def _line(text: str) -> str:
    return unwrapped(ROLE.sub("", text, count=1))


def _written(texts: Sequence[str]) -> str:
    if len(texts) == 1:
        return texts[0]
    return _numbered(texts)


def _numbered(texts: Iterable[str]) -> str:
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, start=1))


def _asked(wanted: Wanted, manner: Manner) -> str:
    if len(wanted.turns) == 1:
        lines = _lines(wanted.turns[0], is_exact=wanted.is_exact) or ["Write one message."]
    else:
        lines = [DIALOGUE.format(count=len(wanted.turns))]
        for number, turn in enumerate(wanted.turns, start=1):
            lines.append(
                f"{number}. "
                + " ".join(_lines(turn, is_exact=wanted.is_exact) or ["The user goes on."])
            )
            lines += [
                f"   (The assistant: {_said(message)})"
                for message in turn.after
                if message.role == "assistant" and message.content.strip()
            ]
    if manner.length:
        lines.append(f"Length: {manner.length}.")
    if manner.persona:
        lines.append(f"Writer, not to be named: {manner.persona}.")
    if manner.style:
        lines.append(f"Style: {manner.style}.")
    return "\n".join(lines)


def _lines(turn: Turn, *, is_exact: bool) -> list[str]:
    if turn.answer:
        answered = [f"The message is answered by: {turn.answer}"]
        return [*answered, f"In words, it asks for {turn.wants}."] if turn.wants else answered
    lines = [f"Purpose: {turn.wants.rstrip('.')}."] if turn.wants else []
    if turn.says:
        pairs = [f"{_words(name)}: {_value(value)}" for name, value in turn.says.items()]
        lines.append(f"Say: {'; '.join(turn.facts or pairs)}.")
    elif is_exact:
        lines.append("Say: no details.")
    return lines


def _said(message: Message) -> str:
    return " ".join(message.content.split())


def _words(name: str) -> str:
    return name.replace("_", " ").replace(".", " ")


def _value(value: object) -> str:
    return value.replace("_", " ") if isinstance(value, str) else json.dumps(value)
