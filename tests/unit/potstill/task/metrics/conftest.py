"""Items and answers in one line."""

import json

import pytest

from potstill.schema import Message
from potstill.task.answers import Answer, Item, ToolCall


def answer_of(said):
    """Return an answer from a text, or from pairs of a function's name and its arguments."""
    if isinstance(said, str):
        return Answer(text=said)
    calls = [
        ToolCall(name=name, arguments=one if isinstance(one, str) else json.dumps(one))
        for name, one in said
    ]
    return Answer(tool_calls=tuple(calls))


@pytest.fixture
def scored():
    """Return a function that scores an answer against a known one."""

    def score(metric, said, known="", context="Where is my card?"):
        item = Item(messages=(Message(role="user", content=context),), known=answer_of(known))
        return metric.score(answer_of(said), item)

    return score
