"""The held-out conversations, which no student was trained on.

In: the finished conversations. Out: those of the test split, always the same in the same order, as
conversations, questions, or the teacher's answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from compare.answers.questions import Question, question_from
from potstill.errors import ArtifactError
from potstill.facts.conversations import ConversationsFacts
from potstill.schema import Conversation, Split
from potstill.tables import conversation_paths, read_conversation_batches, read_conversations

SPLIT: Split = "test"


def read_held_out(conversations_dir: Path, max_conversations: int) -> list[Conversation]:
    """Return the first conversations of the test split, in stored order.

    Raises:
        ArtifactError: There is none, or a table is damaged.
    """
    held_out = list(islice(_stored(conversations_dir), max_conversations))
    if not held_out:
        raise _nothing_held_out(conversations_dir)
    return held_out


def read_questions(conversations_dir: Path, max_questions: int) -> list[Question]:
    """Return the first distinct prompts of the test split.

    Raises:
        ArtifactError: There is none, or a table is damaged.
    """
    found: dict[str, Question] = {}
    for conversation in _stored(conversations_dir):
        if len(found) == max_questions:
            break
        found.setdefault(conversation.prompt.prompt_id, question_from(conversation))
    if not found:
        raise _nothing_held_out(conversations_dir)
    return list(found.values())


def similar_prompts(conversations_dir: Path) -> dict[str, str]:
    """Return the cluster of similar prompts by prompt id, of the test split.

    Raises:
        ArtifactError: A table is damaged.
    """
    return {
        row["prompt_id"]: row["cluster_id"]
        for path in conversation_paths(conversations_dir, SPLIT)
        for batch in read_conversation_batches(path, ["prompt_id", "cluster_id"])
        for row in batch.to_pylist()
    }


def stored_answers(
    conversations_dir: Path, facts: ConversationsFacts, questions: Sequence[Question]
) -> dict[str, dict[str, Any]]:
    """Return the teacher's answers to a task's references, as an endpoint would return them.

    By prompt id; of questions that it did not answer, none. The generate stage asked for them at
    temperature 0, with the task's instructions and examples.

    Raises:
        ArtifactError: A table is damaged.
    """
    asked = {question.prompt_id for question in questions}
    return {
        one.prompt.prompt_id: _answer(one, facts)
        for one in _stored(conversations_dir)
        if one.prompt.is_reference and one.prompt.prompt_id in asked
    }


def longest_first(questions: Sequence[Question]) -> list[Question]:
    """Sort by the teacher's stored answer, longest first: long answers time decoding best."""
    return sorted(questions, key=lambda question: -len(question.teacher_answer or ""))


def _stored(conversations_dir: Path) -> Iterator[Conversation]:
    paths = conversation_paths(conversations_dir, SPLIT)
    return chain.from_iterable(map(read_conversations, paths))


def _answer(conversation: Conversation, facts: ConversationsFacts) -> dict[str, Any]:
    turn, message = conversation.turns[0], conversation.completion[0]
    prompt_tokens = facts.teacher_prompt_tokens if facts.prompt_distilled else None
    return {
        "answer": message.content,
        "tool_calls": message.tool_calls,
        "finish_reason": turn.finish_reason,
        "prompt_tokens": round(prompt_tokens or turn.start),
        "completion_tokens": turn.num_tokens,
        "seconds": None,
    }


def _nothing_held_out(conversations_dir: Path) -> ArtifactError:
    return ArtifactError(
        "there is no held-out conversation to compare on",
        where=conversations_dir,
        expected=f"at least one conversation of the {SPLIT} split",
        found="none",
        hint="generate more conversations",
    )
