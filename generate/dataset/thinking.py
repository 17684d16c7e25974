"""Conversations of a teacher that thinks, as a student learns from them.

In: conversations as sampled. Out: the same, without the thinking, or both ways. An answer without
its thinking stands after a prompt that leaves no room for any; its tokens and distributions stay
the teacher's own, which it had after thinking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from generate.config import GenerateConfig
from generate.curation.conversation_filters import Drop
from generate.sampling.thinking import Thinking
from potstill.chat import render_prompt, with_template
from potstill.errors import TeacherError
from potstill.schema import Conversation
from potstill.tables import conversations_to_table
from potstill.thinking import without_thinking

UNFINISHED = Drop("thinking", "no answer of its own follows the thinking")

Row = tuple[Conversation, Drop | None]


class ThinkingRows:
    """Makes the student's rows of conversations.

    Args:
        tokenizer: The teacher's, with its own chat template, whose switch `both` needs.
    """

    def __init__(self, config: GenerateConfig, tokenizer: Any, vocab_size: int) -> None:  # noqa: ANN401
        template, self._student = tokenizer.chat_template, config.thinking.student
        # Under a schema nothing is thought.
        self._is_bound, self._vocab_size = config.sampling.structured, vocab_size
        self._thinking = Thinking.of(tokenizer)
        self._tokenizer = with_template(tokenizer, without_thinking(template))

    def rewrite(
        self, conversations: Sequence[Conversation], drops: Sequence[Drop | None]
    ) -> tuple[pa.Table, list[Conversation], list[Drop | None]]:
        """Return the rows, their conversations and why each is dropped.

        Args:
            drops: Why a conversation is dropped already; None for those that are not.
        """
        rows = [
            row
            for one, drop in zip(conversations, drops, strict=True)
            for row in ([(one, drop)] if drop else self._rows(one))
        ]
        made = [one for one, _ in rows]
        return conversations_to_table(made, self._vocab_size), made, [drop for _, drop in rows]

    def _rows(self, conversation: Conversation) -> Iterator[Row]:
        bare = self._bare(conversation)
        if self._student == "both":
            yield replace(conversation, answer_index=2 * conversation.answer_index), None
            number = 2 * conversation.answer_index + 1
            if bare is not None and not conversation.prompt.is_reference:
                yield replace(bare, answer_index=number), None
        elif bare is None:
            yield conversation, None if conversation.prompt.is_reference else UNFINISHED
        else:
            yield bare, None

    def _bare(self, conversation: Conversation) -> Conversation | None:
        """Return a conversation without its thinking; None if nothing else is left."""
        if len(conversation.turns) != 1:
            raise TeacherError(
                "thinking can be left out of conversations of one answer only",
                where=f"conversation {conversation.conversation_id}",
                found=f"{len(conversation.turns)} answers",
                hint="use generate.turns.kind = 'single' without tool_results, or let the student "
                "think too",
            )
        (turn,) = conversation.turns
        start, token_ids = turn.start, conversation.token_ids
        begin: int | None = 0
        if self._thinking is not None:
            opened = self._thinking.is_opened_by(token_ids[:start].tolist()) and not self._is_bound
            answer = token_ids[start : start + turn.num_tokens].tolist()
            begin = self._thinking.answer_start(answer, opened=opened)
        if begin is None:
            return None
        prompt = render_prompt(self._tokenizer, conversation.given, conversation.prompt.tools)
        (message,) = conversation.completion
        return replace(
            conversation,
            completion=(message.model_copy(update={"reasoning_content": None}),),
            token_ids=np.concatenate([np.array(prompt, np.int32), token_ids[start + begin :]]),
            turns=(
                turn.model_copy(
                    update={"start": len(prompt), "num_tokens": turn.num_tokens - begin}
                ),
            ),
            signal=conversation.signal.slice(begin, turn.num_tokens),
        )
