"""Two small tasks: labels of a bank's messages, and calls of a voice assistant's tools."""

from __future__ import annotations

import json

import pytest

from potstill.schema import Message
from potstill.task.answers import Answer, Item, ToolCall
from potstill.task.metrics.config import LabelConfig, ToolCallsConfig
from potstill.task.task import Task

INSTRUCTIONS = """Answer with {"team": ...}. The teams:
- cards: ordering a card, delivery, or a card that is broken
- cash: whatever has to do with cash
"""
ACCOUNTS = {"enum": ["checking", "savings"]}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "transfer",
            "description": "Move money between accounts",
            "parameters": {
                "type": "object",
                "properties": {"amount": {"type": "number"}, "to": ACCOUNTS, "from": ACCOUNTS},
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "cancel_card",
            "description": "Cancel a card",
            "parameters": {
                "type": "object",
                "properties": {
                    "last_four": {"type": "string"},
                    "kind": {"enum": ["debit", "other"]},
                },
            },
        },
    },
    {"type": "function", "function": {"name": "goodbye", "description": "The user leaves"}},
]


def user(text: str) -> Message:
    return Message(role="user", content=text)


def calling(name: str, **arguments) -> Message:
    return answer(name, **arguments).to_message()


def answer(name: str, **arguments) -> Answer:
    return Answer(tool_calls=(ToolCall(name=name, arguments=json.dumps(arguments)),))


@pytest.fixture
def labels() -> Task:
    texts = [("Where is my card?", "cards"), ("My card came late", "cards"),
             ("The machine gave no money", "cash"), ("How do I get cash?", "cash")]  # fmt: skip
    items = tuple(
        Item(messages=(user(text),), known=Answer(text=json.dumps({"team": team})))
        for text, team in texts
    )
    return Task(
        instructions=INSTRUCTIONS,
        examples=items,
        metrics=(LabelConfig(field="team", labels=("cards", "cash")),),
    )


@pytest.fixture
def calls() -> Task:
    items = (
        Item(
            messages=(user("Move 500 from savings to checking"),),
            known=answer("transfer", amount=500, to="checking", **{"from": "savings"}),
        ),
        Item(
            messages=(
                user("I want to move 40 dollars"),
                calling("transfer", amount=40),
                user("To savings"),
            ),
            known=answer("transfer", amount=40, to="savings"),
        ),
        Item(
            messages=(user("Cancel my card 4532"),), known=answer("cancel_card", last_four="4532")
        ),
        Item(messages=(user("Bye"),), known=answer("goodbye")),
    )
    return Task(
        instructions="Call a tool.",
        tools=json.dumps(TOOLS),
        examples=items,
        metrics=(ToolCallsConfig(),),
    )
