"""A prompt's known answer as its conversation; the teacher is not asked.

In: a prompt with a known answer. Out: a `Conversation` whose answer is certain: each of its tokens
has probability 1, so that token-level KD learns from it what cross-entropy does.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from generate.sampling.loop import Complete
from generate.sampling.scoring import find_answers
from generate.sampling.settings import ConversationSettings
from potstill.distributions import TokenDistributions
from potstill.schema import Conversation, Prompt
from potstill.task.answers import Answer
from potstill.task.known_answers import whole_answer
from potstill.task.task import Task


@dataclass
class KnownAnswer(Complete):
    """A conversation that ends with the prompt's known answer."""

    settings: ConversationSettings
    prompt: Prompt
    end_token_ids: Collection[int]

    def __post_init__(self) -> None:
        answer = Answer.model_validate_json(self.prompt.known or "")
        message = whole_answer(self.settings.task or Task(), answer).to_message()
        self.prompt = self.settings.for_teacher(self.prompt)
        self._messages = (*self.prompt.messages, message)
        whole = self.prompt.model_copy(update={"messages": self._messages})
        answers = find_answers(self.settings, whole, self.end_token_ids)
        self._token_ids, self._turn = answers.token_ids, answers.turns[-1]

    @property
    def name(self) -> str:
        """Unique in a run."""
        return f"{self.prompt.prompt_id}-0"

    def conversation(self) -> Conversation:
        """Return the conversation."""
        start, length = self._turn.start, self._turn.num_tokens
        token_ids = np.asarray(self._token_ids, dtype=np.int32)
        return Conversation(
            prompt=self.prompt,
            answer_index=0,
            given=self._messages[:-1],
            completion=self._messages[-1:],
            token_ids=token_ids,
            turns=(self._turn,),
            signal=TokenDistributions.certain(token_ids[start : start + length]),
        )
