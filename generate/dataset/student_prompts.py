"""Prompt distillation: conversations under the student's prompt instead of the teacher's.

In: conversations as the teacher saw them, and the task. Out: the same answers after the prompt that
the student will get. Answers keep their tokens and distributions, which are the teacher's under its
own prompt: the student learns the instructions instead of reading them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from generate.config import GenerateConfig
from generate.sampling.settings import with_system_prompt
from potstill.chat import render_prompt
from potstill.schema import Conversation, Message
from potstill.tables import PROMPT_SCHEMA, read_rows
from potstill.task.task import Task


class StudentPrompts:
    """Rewrites conversations, and counts the tokens of both prompts.

    Args:
        own_systems: System prompts that prompts of the run came with, by prompt id.

    """

    def __init__(
        self,
        config: GenerateConfig,
        task: Task,
        tokenizer: Any,  # noqa: ANN401  (a transformers tokenizer)
        own_systems: Mapping[str, str],
    ) -> None:
        self._config, self._task, self._tokenizer = config, task, tokenizer
        self._own_systems = own_systems
        self._lengths: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        """Tokens of both prompts, by whether the teacher answered without being given a part of its
        answer: where it was, its prompt has no examples."""

    def rewrite(self, conversation: Conversation) -> Conversation | None:
        """Return a conversation under the student's prompt; one that is not of the task as it is.

        None if its first answer does not begin where the teacher's prompt ends: in stored answers
        a token may span both.
        """
        prompt = conversation.prompt
        if prompt.is_general:
            return conversation
        given = self._task.student_messages(self._own_messages(conversation))
        tools = self._task.student_tools if prompt.tools == self._task.tools else prompt.tools
        before = render_prompt(self._tokenizer, conversation.given, prompt.tools)
        start = conversation.turns[0].start
        if before != conversation.token_ids[:start].tolist():
            return None
        after = render_prompt(self._tokenizer, given, tools)
        is_free = prompt.known is None or prompt.is_reference
        self._lengths[is_free].append((len(before), len(after)))
        shift = len(after) - start
        return replace(
            conversation,
            prompt=prompt.model_copy(update={"messages": given, "tools": tools}),
            given=given,
            token_ids=np.concatenate([np.array(after, np.int32), conversation.token_ids[start:]]),
            turns=tuple(
                turn.model_copy(update={"start": turn.start + shift}) for turn in conversation.turns
            ),
        )

    def facts(self) -> dict[str, Any]:
        """Return what `ConversationsFacts` says of prompts."""
        lengths = self._lengths[True] or self._lengths[False]
        if not lengths:
            return {}
        before, after = np.mean(lengths, axis=0).round(1).tolist()
        return {
            "prompt_distilled": True,
            "teacher_prompt_tokens": before,
            "student_prompt_tokens": after,
        }

    def _own_messages(self, conversation: Conversation) -> tuple[Message, ...]:
        """Return the messages before the first answer without those of the task."""
        given, prompt = conversation.given, conversation.prompt
        rest = given[1:] if given[0].role == "system" else given
        if prompt.prompt_id in self._own_systems:
            return (Message(role="system", content=self._own_systems[prompt.prompt_id]), *rest)
        return with_system_prompt(self._config, prompt.model_copy(update={"messages": rest}))


def own_systems(prompts_path: Path) -> dict[str, str]:
    """Return the system prompts that prompts came with, by prompt id.

    Raises:
        ArtifactError: The table is damaged.
    """
    return {
        row["prompt_id"]: row["messages"][0]["content"]
        for row in read_rows(prompts_path, PROMPT_SCHEMA, ["prompt_id", "messages"])
        if row["messages"][0]["role"] == "system"
    }


def with_prompts(rows: pa.Table, conversations: Sequence[Conversation]) -> pa.Table:
    """Return the rows of conversations with the columns of their prompts replaced."""
    replaced = {
        "prompt": [[message.model_dump() for message in one.given] for one in conversations],
        "tools": [one.prompt.tools for one in conversations],
        "token_ids": [one.token_ids.tolist() for one in conversations],
        "turns": [[turn.model_dump() for turn in one.turns] for one in conversations],
    }
    for name, values in replaced.items():
        field = rows.field(name)
        column = pa.array(values, field.type)
        rows = rows.set_column(rows.schema.get_field_index(name), field, column)
    return rows
