"""Prompts and conversations made of texts alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from generate.sources.raw_prompt import RawPrompt
from potstill.distributions import TokenDistributions
from potstill.schema import Conversation, Message, Prompt, Turn


@pytest.fixture
def asked() -> Callable[..., RawPrompt]:
    """Make a prompt of the user's turns."""

    def make(*turns: str, system: str | None = None, tools: str | None = None) -> RawPrompt:
        messages = [Message(role="system", content=system)] if system else []
        for turn in turns:
            messages += [Message(role="user", content=turn), Message(role="assistant", content="")]
        return RawPrompt(tuple(messages[:-1]), "test", tools=tools)

    return make


@pytest.fixture
def answered() -> Callable[..., Conversation]:
    """Make a conversation of answers; a token a word, or those that are given."""

    def make(
        *answers: str,
        ids: list[list[int]] | None = None,
        finish_reason: str = "stop",
        prompt_id: str = "a-prompt",
        tool_calls: str | None = None,
        known: str | None = None,
    ) -> Conversation:
        question = Message(role="user", content="Why?")
        token_ids, turns, completion = [1, 2], [], []
        for index, answer in enumerate(answers):
            said = ids[index] if ids else [*range(10, 10 + len(answer.split())), 0]
            turns.append(
                Turn(
                    start=len(token_ids),
                    num_tokens=len(said),
                    finish_reason=finish_reason,
                    seed=0,
                )
            )
            token_ids += [*said, 3]
            completion += [
                Message(role="assistant", content=answer, tool_calls=tool_calls),
                question,
            ]
        num_tokens = sum(turn.num_tokens for turn in turns)
        return Conversation(
            prompt=Prompt(
                prompt_id=prompt_id,
                cluster_id=prompt_id,
                split="train",
                messages=(question,),
                source="test",
                known=known,
            ),
            answer_index=0,
            given=(question,),
            completion=tuple(completion[:-1]),
            token_ids=np.array(token_ids, dtype=np.int32),
            turns=tuple(turns),
            signal=TokenDistributions(
                np.full(num_tokens, -1.0, dtype=np.float32),
                np.ones(num_tokens, dtype=np.int64),
                np.zeros(num_tokens, dtype=np.int32),
                np.full(num_tokens, -1.0, dtype=np.float32),
            ),
        )

    return make
