"""Conversations that somebody else wrote, to be predicted by the teacher token by token.

In: a prompt whose messages are a whole conversation. Out: one request for all its answers, and in
the end a `Conversation`. Nothing is sampled. Knows nothing of engines, parts or files.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from generate.dialogue import Chat
from generate.teachers.protocol import Sample, ScoreRequest
from potstill.chat import render_text
from potstill.distributions import TokenDistributions
from potstill.errors import TeacherError
from potstill.schema import Conversation, FinishReason, Message, Prompt, Turn


@dataclass
class ScoredConversation:
    """A conversation under way; it asks once, for all its answers."""

    chat: Chat
    prompt: Prompt
    end_token_ids: Collection[int]
    request: ScoreRequest | None = field(init=False)
    user_messages: tuple[Message, ...] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._token_ids, self._turns = find_answers(self.chat, self.prompt, self.end_token_ids)
        self._signal: TokenDistributions | None = None
        # vLLM scores a text as the prompt of one more token.
        self.request = None
        if self.num_tokens < self.chat.max_model_len:
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
            raise TeacherError("the teacher gave no log-probabilities", where=self.name)
        first = self._turns[0].start
        spans = [
            sample.signal.slice(turn.start - first, turn.start - first + turn.num_tokens)
            for turn in self._turns
        ]
        self._signal = self.chat.cut(TokenDistributions.concatenate(spans))
        self.request = None

    def take_user_text(self, text: str | None) -> None:
        """Nobody is asked to play the user here."""

    def conversation(self) -> Conversation:
        """Return the scored conversation."""
        if self._signal is None:
            raise TeacherError("a conversation has not been scored", where=self.name)
        messages = self.prompt.messages
        first = next(index for index, one in enumerate(messages) if one.role == "assistant")
        return Conversation(
            prompt=self.prompt,
            answer_index=0,
            given=messages[:first],
            completion=messages[first:],
            token_ids=np.asarray(self._token_ids, dtype=np.int32),
            turns=tuple(self._turns),
            signal=self._signal,
        )


def find_answers(
    chat: Chat, prompt: Prompt, end_token_ids: Collection[int]
) -> tuple[list[int], list[Turn]]:
    """Return a conversation's token ids and where its answers lie in them.

    The whole conversation is rendered once. An answer begins where the generation prompt of the
    messages before it ends, and reaches up to its end-of-turn token. Of a template that rewrites
    earlier turns only the last answer stands as a model would be asked for it, so only that counts.

    Raises:
        TeacherError: There is no answer in it.
    """
    messages = prompt.messages
    text = render_text(chat.tokenizer, messages, tools=prompt.tools, add_generation_prompt=False)
    encoded = chat.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    token_ids = list(encoded["input_ids"])
    begins = np.array([begin for begin, _ in encoded["offset_mapping"]])
    turns = []
    for index, message in enumerate(messages):
        before = render_text(chat.tokenizer, messages[:index], tools=prompt.tools) if index else ""
        if message.role != "assistant" or not before or not text.startswith(before):
            continue
        start = int(np.searchsorted(begins, len(before)))
        end = next(
            (at for at in range(start, len(token_ids)) if token_ids[at] in end_token_ids), None
        )
        num_tokens = (len(token_ids) if end is None else end + 1) - start
        if num_tokens > 0:
            reason: FinishReason = "length" if end is None else "stop"
            turns.append(Turn(start=start, num_tokens=num_tokens, finish_reason=reason, seed=0))
    if not turns or any(one.start + one.num_tokens > two.start for one, two in pairwise(turns)):
        raise TeacherError(
            "a conversation has no answer that can be scored",
            where=f"prompt {prompt.prompt_id} of {prompt.source}",
            expected="an assistant's message after a user's one",
            hint="remove it, or generate answers with generate.turns.kind = 'single'",
        )
    return token_ids, turns
