"""Rows with `prompt` or `messages`: plain prompts, stored chats and files of OpenAI's.

Source: OpenAI's API reference: chat completions (stored ones too), fine-tuning (chats, preferences)
and batches.
"""

from __future__ import annotations

from collections.abc import Iterable

from generate.sources.formats.reader import Reader, Row, Trace, listed, mapping, model_name
from generate.sources.messages import parsed, to_message, to_messages
from generate.sources.rows import RowError
from potstill.schema import Message

READER_COLUMNS = {"prompt", "messages", "choices", "tools", "functions", "model"}


def chat_request(body: Row) -> Trace:
    """Return the request of a body with `messages`."""
    return Trace(
        to_messages(body["messages"]),
        tools=body.get("tools") or body.get("functions"),
        model=model_name(body.get("model")),
    )


def chat_answers(completion: Row) -> tuple[Message, ...]:
    """Return the messages of a chat completion's choices; none without choices."""
    choices = completion.get("choices")
    if not choices:
        return ()
    return tuple(to_message(mapping(one).get("message")) for one in listed(choices, "choices"))


def _messages(row: Row) -> Iterable[Trace]:
    found = chat_request(row)
    if "prompt" in row and row["prompt"] not in [
        message.content for message in found.messages if message.role == "user"
    ]:  # UltraChat's `prompt` repeats the first question.
        raise RowError(f"keys {', '.join(row)}, which disagree")
    yield Trace(found.messages, chat_answers(row), found.tools, found.model)


def _prompt(row: Row) -> Iterable[Trace]:
    prompt = row["prompt"]
    if not isinstance(prompt, list):
        prompt = [{"role": "user", "content": prompt}]
    yield Trace(to_messages(prompt), tools=row.get("tools"))


def _preference(row: Row) -> Iterable[Trace]:
    request = mapping(parsed(row["input"]))
    if "messages" not in request:
        raise RowError("input without messages")
    found = chat_request(request)
    yield Trace(found.messages, to_messages(row["preferred_output"]), found.tools)


MESSAGES = Reader("messages", lambda row: "messages" in row, _messages, frozenset(READER_COLUMNS))
PROMPT = Reader("prompt", lambda row: "prompt" in row, _prompt, frozenset({"prompt", "tools"}))
PREFERENCE = Reader(
    "OpenAI's preferences",
    lambda row: "preferred_output" in row and "input" in row,
    _preference,
    frozenset({"input", "preferred_output"}),
)
