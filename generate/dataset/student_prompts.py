"""Conversations under the student's prompt instead of the teacher's.

In: conversations as the teacher saw them, and the task. Out: the same answers after the prompt that
the student will get: its own instructions, and users' messages with errors where the configuration
asks for them. Answers keep their tokens and distributions, which are the teacher's under its own
prompt: the student learns the instructions instead of reading them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from generate.config import GenerateConfig
from generate.lazy_teacher import LazyTeacher
from generate.sampling.settings import with_system_prompt
from generate.sampling.stage import asked_tokenizer
from generate.sources.task.noise import add_noise, draw_kind
from potstill.chat import render_prompt
from potstill.errors import ConfigError
from potstill.schema import CANARIES, Conversation, Message
from potstill.tables import PROMPT_SCHEMA, read_rows
from potstill.task.task import Task


def student_prompts(
    config: GenerateConfig, teacher: LazyTeacher, task: Task | None, prompts_path: Path
) -> StudentPrompts | None:
    """Return what rewrites a run's conversations; None if the student reads what the teacher did.

    Raises:
        ConfigError: There is noise for the student, and no task.
    """
    noise = config.curation.student_noise
    if task is None and noise:
        raise ConfigError(
            "noise is for the messages of a task",
            where="generate.curation.student_noise",
            found="no [task]",
            hint="describe the task, or leave the noise out",
        )
    if task is None or not (task.distills_prompt or noise):
        return None
    tokenizer = asked_tokenizer(config, teacher.checkpoint.tokenizer)
    return StudentPrompts(config, task, tokenizer, own_systems(prompts_path))


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
        self._noisy: Counter[str] = Counter()
        """Conversations with noise, by its kind."""

    def rewrite(self, conversation: Conversation) -> Conversation | None:
        """Return a conversation under the student's prompt; one that is not of the task as it is.

        None if its first answer does not begin where the teacher's prompt ends: in stored answers
        a token may span both.
        """
        prompt = conversation.prompt
        if prompt.is_general:
            return conversation
        own = self._with_noise(self._own_messages(conversation), conversation)
        given = self._task.student_messages(own)
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
        facts: dict[str, Any] = {"student_noise": dict(self._noisy)}
        lengths = self._lengths[True] or self._lengths[False]
        if not lengths or not self._task.distills_prompt:
            return facts
        before, after = np.mean(lengths, axis=0).round(1).tolist()
        return facts | {
            "prompt_distilled": True,
            "teacher_prompt_tokens": before,
            "student_prompt_tokens": after,
        }

    def _with_noise(
        self, messages: tuple[Message, ...], conversation: Conversation
    ) -> tuple[Message, ...]:
        """Return messages with errors of a drawn kind in those of the user."""
        frequencies, prompt = self._config.curation.student_noise, conversation.prompt
        if not frequencies or prompt.split != "train" or prompt.source == CANARIES:
            return messages
        draw = random.Random(conversation.conversation_id)
        kind = draw_kind(frequencies, draw)
        kept = [] if prompt.known is None else [prompt.known]
        noisy = tuple(
            one.model_copy(update={"content": add_noise(one.content, kind, kept, draw)})
            if one.role == "user"
            else one
            for one in messages
        )
        if noisy != messages:
            self._noisy[kind] += 1
        return noisy

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
