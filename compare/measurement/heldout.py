"""The held-out conversations: what no student was trained on.

In: the finished conversations. Out: those of the test split, always the same in the same order.
Knows nothing of models.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

from jinja2 import TemplateError

from potstill.chat import render_prompt
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
        raise ArtifactError(
            "there is no held-out conversation to compare on",
            where=conversations_dir,
            expected=f"at least one conversation of the {SPLIT} split",
            found="none",
            hint="generate more conversations",
        )
    return held_out


def plain_prompts(held_out: list[Conversation]) -> list[Conversation]:
    """Leave out prompts with tools, which `potstill serve` does not take.

    Raises:
        ArtifactError: None is left.
    """
    plain = [
        conversation
        for conversation in held_out
        if conversation.prompt.tools is None
        and not any(one.role == "tool" or one.tool_calls for one in conversation.given)
    ]
    if not plain:
        raise ArtifactError(
            "no held-out prompt can be asked: the endpoint knows no tools",
            where=f"the {SPLIT} split",
            expected="at least one prompt without tools",
            found=f"{len(held_out)} conversations with tools",
            hint="generate from prompts without tools too",
        )
    return plain


def prompt_lengths(prompts: list[Conversation], student_dir: Path | None) -> dict[str, int]:
    """Return the tokens of prompts by their id, as many as either model needs.

    Args:
        student_dir: The checkpoint of a student with other tokens than the teacher's; None when
            they have the same. Prompts that its chat template refuses are left out.

    Raises:
        ArtifactError: It refuses all.
    """
    lengths = {one.prompt.prompt_id: one.turns[0].start for one in prompts}
    if student_dir is None:
        return lengths
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(student_dir)
    taken = {}
    for one in prompts:
        with suppress(TemplateError):
            num_tokens = len(render_prompt(tokenizer, one.given))
            taken[one.prompt.prompt_id] = max(lengths[one.prompt.prompt_id], num_tokens)
    if not taken:
        raise ArtifactError(
            "the student's chat template takes no held-out prompt",
            where=student_dir,
            expected="at least one prompt that both models take",
            found=f"{len(prompts)} that it refuses",
        )
    return taken


def distinct_prompts(held_out: list[Conversation], count: int) -> list[Conversation]:
    """Return the first `count` of different prompts; fewer when there are no more."""
    first_by_prompt: dict[str, Conversation] = {}
    for conversation in held_out:
        first_by_prompt.setdefault(conversation.prompt.prompt_id, conversation)
    return list(first_by_prompt.values())[:count]


def longest_first(held_out: list[Conversation]) -> list[Conversation]:
    """Order by the teacher's first answer, longest first: long answers time decoding best."""
    return sorted(held_out, key=lambda conversation: -conversation.turns[0].num_tokens)
