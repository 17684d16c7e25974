"""The held-out conversations, which no student was trained on.

In: the finished conversations. Out: those of the test split, always the same in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

from compare.answers.questions import Question, question_from
from potstill.errors import ArtifactError
from potstill.schema import Conversation, Split
from potstill.tables import conversation_paths, read_conversations

SPLIT: Split = "test"


def read_held_out(conversations_dir: Path, max_conversations: int) -> list[Conversation]:
    """Return the first conversations of the test split, in stored order.

    Raises:
        ArtifactError: There is none, or a table is damaged.
    """
    paths = conversation_paths(conversations_dir, SPLIT)
    stored = chain.from_iterable(map(read_conversations, paths))
    held_out = list(islice(stored, max_conversations))
    if not held_out:
        raise _nothing_held_out(conversations_dir)
    return held_out


def read_questions(conversations_dir: Path, max_questions: int) -> list[Question]:
    """Return the first distinct prompts of the test split.

    Raises:
        ArtifactError: There is none, or a table is damaged.
    """
    paths = conversation_paths(conversations_dir, SPLIT)
    found: dict[str, Question] = {}
    for conversation in chain.from_iterable(map(read_conversations, paths)):
        if len(found) == max_questions:
            break
        found.setdefault(conversation.prompt.prompt_id, question_from(conversation))
    if not found:
        raise _nothing_held_out(conversations_dir)
    return list(found.values())


def longest_first(questions: Sequence[Question]) -> list[Question]:
    """Sort by the teacher's stored answer, longest first: long answers time decoding best."""
    return sorted(questions, key=lambda question: -len(question.teacher_answer or ""))


def _nothing_held_out(conversations_dir: Path) -> ArtifactError:
    return ArtifactError(
        "there is no held-out conversation to compare on",
        where=conversations_dir,
        expected=f"at least one conversation of the {SPLIT} split",
        found="none",
        hint="generate more conversations",
    )
