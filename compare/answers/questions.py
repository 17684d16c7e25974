"""The prompts that both models answer, with their clusters and slices.

In: held-out conversations of a run. Out: `Question`s.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import model_validator

from potstill.schema import Conversation, Message, Value
from potstill.task.answers import Answer

LENGTH_LIMITS = ((200, "short"), (1000, "medium"))
"""Most characters of a short and of a medium prompt; others are long."""


class Check(Value):
    """How a correct answer is recognized: by its text, or by an expression that it has."""

    exact: str | None = None
    regex: str | None = None

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if (self.exact is None) == (self.regex is None):
            raise ValueError("a check is either exact or regex")
        try:
            re.compile(self.regex or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return self


class Question(Value):
    """A prompt that both models answer."""

    prompt_id: str
    conversation_id: str
    cluster_id: str
    """The same for near-duplicate prompts."""
    source: str
    """The file or template it came from."""
    messages: tuple[Message, ...]
    """Up to the last user message; earlier turns are as stored."""
    slices: dict[str, str]
    """Its source, length, turns and, if known, language, label or called tools."""
    tools: str | None = None
    """JSON list of the tools that come with it, as OpenAI spells them."""
    known: Answer | None = None
    """The task's known answer."""
    reference: str | None = None
    """A known answer."""
    check: Check | None = None
    teacher_answer: str | None = None
    """The teacher's answer in the run's conversations."""
    prompt_token_ids: tuple[int, ...] | None = None
    """The prompt as the teacher read it, with the chat template applied."""

    def cluster(self, by: Literal["cluster", "source", "conversation"]) -> str:
        """Return the name of the cluster, which is one independent observation."""
        names = {"cluster": self.cluster_id, "source": self.source}
        return names.get(by, self.prompt_id)


def question_from(conversation: Conversation) -> Question:
    """Return the prompt that a stored conversation began with."""
    prompt, turn = conversation.prompt, conversation.turns[0]
    return Question(
        prompt_id=prompt.prompt_id,
        conversation_id=conversation.conversation_id,
        cluster_id=prompt.cluster_id,
        source=prompt.source,
        messages=conversation.given,
        tools=prompt.tools,
        slices=slices_of(conversation.given, prompt.source),
        teacher_answer=conversation.completion[0].content,
        prompt_token_ids=tuple(conversation.token_ids[: turn.start].tolist()),
    )


def slices_of(
    messages: Sequence[Message], source: str, language: str | None = None
) -> dict[str, str]:
    """Return the value of each slice that a prompt belongs to."""
    num_characters = sum(len(message.content) for message in messages)
    lengths = (name for limit, name in LENGTH_LIMITS if num_characters <= limit)
    num_turns = sum(message.role == "user" for message in messages)
    found = {
        "source": source,
        "length": next(lengths, "long"),
        "turns": "one" if num_turns <= 1 else "several",
    }
    return found | ({"language": language} if language else {})


def messages_id(messages: Sequence[Message]) -> str:
    """Return 16 hex digits that are the same for the same messages on every machine."""
    content = json.dumps([message.to_chat() for message in messages], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def with_references(questions: Sequence[Question], known: Mapping[str, Question]) -> list[Question]:
    """Add known answers and checks.

    Args:
        known: Questions of a prompt file, by `messages_id`.
    """
    found = []
    for question in questions:
        match = known.get(messages_id(question.messages))
        update = {} if match is None else {"reference": match.reference, "check": match.check}
        found.append(question.model_copy(update=update))
    return found
