"""The held-out conversations, which no student was trained on.

In: the finished conversations. Out: those of the test split, always the same in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

from jinja2 import TemplateError

from compare.answers.questions import Question, question_from
from potstill.chat import render_prompt
from potstill.errors import ArtifactError
from potstill.schema import Conversation, Split
from potstill.tables import conversation_paths, read_conversations

SPLIT: Split = "test"
TEMPLATE_TOKENS = 16
"""Allowance for what a chat template writes around a message."""


def read_held_out(conversations_dir: Path, max_conversations: int) -> list[Conversation]:
    """Return the first conversations of the test split, in stored order.

    Raises:
        ArtifactError: There is none, or a table is damaged.
    """
    paths = conversation_paths(conversations_dir, SPLIT)
    stored = chain.from_iterable(map(read_conversations, paths))
    held_out = list(islice(stored, max_conversations))
    if not held_out:
        raise ArtifactError(
            "there is no held-out conversation to compare on",
            where=conversations_dir,
            expected=f"at least one conversation of the {SPLIT} split",
            found="none",
            hint="generate more conversations",
        )
    return held_out


def read_questions(conversations_dir: Path, max_questions: int) -> list[Question]:
    """Return the first distinct prompts of the test split, without those with tools.

    `potstill serve` does not support tools.

    Raises:
        ArtifactError: There is none, or a table is damaged.
    """
    paths = conversation_paths(conversations_dir, SPLIT)
    found: dict[str, Question] = {}
    num_read = 0
    for conversation in chain.from_iterable(map(read_conversations, paths)):
        if len(found) == max_questions:
            break
        num_read += 1
        if is_plain(conversation) and conversation.prompt.prompt_id not in found:
            found[conversation.prompt.prompt_id] = question_from(conversation)
    if not found:
        raise ArtifactError(
            "all held-out prompts have tools, which the endpoint does not support",
            where=conversations_dir,
            expected=f"at least one prompt of the {SPLIT} split without tools",
            found=f"{num_read} conversations with tools",
            hint="generate from prompts without tools too",
        )
    return list(found.values())


def is_plain(conversation: Conversation) -> bool:
    """Return whether a prompt involves no tools."""
    return conversation.prompt.tools is None and not any(
        one.role == "tool" or one.tool_calls for one in conversation.given
    )


def prompt_lengths(questions: Sequence[Question], student_dir: Path | None) -> dict[str, int]:
    """Return the number of tokens of prompts by their id, the larger of both models.

    Args:
        student_dir: The checkpoint of a student with other tokens than the teacher's; None when
            they have the same. Prompts that its chat template rejects are left out.

    Raises:
        ArtifactError: It rejects all.
    """
    lengths = {one.prompt_id: _teachers_length(one) for one in questions}
    if student_dir is None:
        return lengths
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(student_dir)
    taken = {}
    for one in questions:
        with suppress(TemplateError):
            num_tokens = len(render_prompt(tokenizer, one.messages))
            taken[one.prompt_id] = max(lengths[one.prompt_id], num_tokens)
    if not taken:
        raise ArtifactError(
            "the student's chat template rejects every held-out prompt",
            where=student_dir,
            expected="at least one prompt that both chat templates render",
            found=f"{len(questions)} rejected",
        )
    return taken


def longest_first(questions: Sequence[Question]) -> list[Question]:
    """Sort by the teacher's stored answer, longest first: long answers time decoding best."""
    return sorted(questions, key=lambda question: -len(question.teacher_answer or ""))


def _teachers_length(question: Question) -> int:
    if question.prompt_token_ids is not None:
        return len(question.prompt_token_ids)
    # A prompt has at most as many tokens as bytes, except for the template's between messages.
    num_bytes = sum(len(message.content.encode()) for message in question.messages)
    return num_bytes + TEMPLATE_TOKENS * (len(question.messages) + 1)
