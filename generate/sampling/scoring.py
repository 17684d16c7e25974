"""Stored conversations that the teacher scores token by token; nothing is sampled.

In: a prompt whose messages are a whole conversation. Out: one request for all its answers, and at
the end a `Conversation`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from generate.sampling.settings import ConversationSettings
from generate.teachers.protocol import Sample, ScoreRequest
from potstill.chat import render_text
from potstill.distributions import TokenDistributions
from potstill.errors import TeacherError
from potstill.schema import Conversation, FinishReason, Message, Prompt, Turn


@dataclass
class ScoredConversation:
    """A stored conversation; one request scores all its answers."""

    settings: ConversationSettings
    prompt: Prompt
    end_token_ids: Collection[int]
    request: ScoreRequest | None = field(init=False)
    user_messages: tuple[Message, ...] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.prompt = self.settings.for_teacher(self.prompt)
        answers = find_answers(self.settings, self.prompt, self.end_token_ids)
        self._token_ids, self._turns = answers.token_ids, answers.turns
        self._first = answers.first_message
        self._signal: TokenDistributions | None = None
        # vLLM scores a text as the prompt of one further token.
        self.request = None
        if self.num_tokens < self.settings.max_model_len:
            self.request = ScoreRequest(self.name, self._token_ids, self._turns[0].start)

    @property
    def name(self) -> str:
        """Unique in a run."""
        return f"{self.prompt.prompt_id}-0"

    @property
    def num_tokens(self) -> int:
        """Length of the conversation."""
        return len(self._token_ids)

    def take(self, sample: Sample) -> None:
        """Keep the rows of the answers' tokens."""
        if sample.signal is None:
            raise TeacherError("the teacher returned no log-probabilities", where=self.name)
        first = self._turns[0].start
        spans = [
            sample.signal.slice(turn.start - first, turn.start - first + turn.num_tokens)
            for turn in self._turns
        ]
        self._signal = self.settings.cut(TokenDistributions.concatenate(spans))
        self.request = None

    def take_user_text(self, text: str | None) -> None:
        """Never called: stored conversations have their user turns."""

    def conversation(self) -> Conversation:
        """Return the scored conversation."""
        if self._signal is None:
            raise TeacherError("a conversation has not been scored", where=self.name)
        messages = self.prompt.messages
        return Conversation(
            prompt=self.prompt,
            answer_index=0,
            given=messages[: self._first],
            completion=messages[self._first :],
            token_ids=np.asarray(self._token_ids, dtype=np.int32),
            turns=tuple(self._turns),
            signal=self._signal,
        )


@dataclass(frozen=True)
class Answers:
    """Positions of the answers in a conversation."""

    token_ids: list[int]
    """The whole conversation."""
    turns: list[Turn]
    first_message: int
    """Index of the message that is the first turn."""


def find_answers(
    settings: ConversationSettings, prompt: Prompt, end_token_ids: Collection[int]
) -> Answers:
    """Find the answers in a conversation that is rendered once.

    An answer begins where the generation prompt of the messages before it ends, and reaches to its
    end-of-turn token; a token that spans template and answer is left out. An answer counts only if
    the rendered text before it is what a model would have been prompted with: with a template that
    rewrites earlier turns, that is the last answer alone.

    Raises:
        TeacherError: There is no answer in it.
    """
    messages, tools = prompt.messages, prompt.tools
    text = render_text(settings.tokenizer, messages, tools=tools, add_generation_prompt=False)
    encoded = settings.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    token_ids = list(encoded["input_ids"])
    begins, ends = np.array(encoded["offset_mapping"]).T
    turns: list[Turn] = []
    first_message = 0
    for index, message in enumerate(messages):
        if message.role != "assistant" or index == 0:
            continue
        before = render_text(settings.tokenizer, messages[:index], tools=tools)
        so_far = render_text(
            settings.tokenizer, messages[: index + 1], tools=tools, add_generation_prompt=False
        )
        # Tokenizers that trim offsets give white space an empty span at its end.
        inside = np.flatnonzero((begins >= len(before)) & (ends > len(before)))
        if text.startswith(before) and text.startswith(so_far) and len(inside):
            turns.append(_turn(token_ids, int(inside[0]), end_token_ids))
            first_message = first_message or index
    if not turns or any(one.start + one.num_tokens > two.start for one, two in pairwise(turns)):
        raise TeacherError(
            "a conversation has no answer that can be scored",
            where=f"prompt {prompt.prompt_id} of {prompt.source}",
            expected="an assistant's message after a user's one",
            hint="remove it, or generate answers with generate.turns.kind = 'single'",
        )
    return Answers(token_ids, turns, first_message)


def _turn(token_ids: Sequence[int], start: int, end_token_ids: Collection[int]) -> Turn:
    end = next((at for at in range(start, len(token_ids)) if token_ids[at] in end_token_ids), None)
    num_tokens = (len(token_ids) if end is None else end + 1) - start
    reason: FinishReason = "length" if end is None else "stop"
    return Turn(start=start, num_tokens=num_tokens, finish_reason=reason, seed=0)
