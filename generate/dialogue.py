"""One conversation in the making: what to ask next, and what was said.

In: a prompt and samples as they finish. Out: requests, and in the end a `Conversation`. Every
request is the tokens so far and a joint of the chat template: nothing is tokenised twice.
Knows nothing of engines, parts or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from generate.chat_joints import Joints, after, find_joints
from generate.config import GenerateConfig
from generate.teachers.protocol import Sample, SampleRequest, derive_seed
from potstill.chat import render_prompt
from potstill.distributions import TokenDistributions
from potstill.schema import Conversation, Message, Prompt, SamplingParams, Turn


@dataclass(frozen=True)
class Chat:
    """What all conversations of a run have in common."""

    config: GenerateConfig
    tokenizer: Any

    @cached_property
    def joints(self) -> Joints:
        """The chat template's text between turns."""
        return find_joints(self.tokenizer)

    def system_prompt(self, prompt: Prompt) -> str | None:
        """Return the system prompt drawn for a prompt that has none."""
        texts = self.config.turns.system_prompts
        if not texts or prompt.messages[0].role == "system":
            return None
        return texts[self._draw(f"system {prompt.prompt_id}", len(texts))]

    def num_turns(self, prompt: Prompt) -> int:
        """Return the number of answers drawn for a simulated conversation."""
        turns = self.config.turns
        spread = turns.max_turns - turns.min_turns + 1
        return turns.min_turns + self._draw(f"turns {prompt.prompt_id}", spread)

    def _draw(self, name: str, count: int) -> int:
        return derive_seed(self.config.sampling.seed, name) % count


@dataclass
class Dialogue:
    """A conversation of one prompt; `request` is what to ask next, None when it is finished."""

    chat: Chat
    prompt: Prompt
    answer_index: int
    given: tuple[Message, ...] = field(init=False)
    request: SampleRequest | None = field(init=False)

    def __post_init__(self) -> None:
        kind, messages = self.chat.config.turns.kind, self.prompt.messages
        system_prompt = self.chat.system_prompt(self.prompt)
        if system_prompt is not None:
            messages = (Message(role="system", content=system_prompt), *messages)
        self._left = 1
        self._replayed: list[str] = []
        if kind == "replay":
            messages, self._replayed = _first_question(messages)
            self._replayed = self._replayed[: self.chat.config.turns.max_turns - 1]
            self._left = 1 + len(self._replayed)
        elif kind == "simulate":
            self._left = self.chat.num_turns(self.prompt)
        self.given = messages
        self._token_ids = render_prompt(self.chat.tokenizer, messages, self.prompt.tools)
        self._completion: list[Message] = []
        self._turns: list[Turn] = []
        self._signals: list[TokenDistributions] = []
        self.request = self._ask_teacher()

    @property
    def name(self) -> str:
        """Unique in a run; what requests' names begin with."""
        return f"{self.prompt.prompt_id}-{self.answer_index}"

    def take(self, sample: Sample) -> None:
        """Add a sample, an answer of the teacher's or a simulated user's turn."""
        if sample.signal is None:
            self._take_user(sample)
        else:
            self._take_answer(sample, sample.signal)

    def conversation(self) -> Conversation:
        """Return what was said."""
        return Conversation(
            prompt=self.prompt,
            answer_index=self.answer_index,
            given=self.given,
            completion=tuple(self._completion),
            token_ids=np.asarray(self._token_ids, dtype=np.int32),
            turns=tuple(self._turns),
            signal=TokenDistributions.concatenate(self._signals),
        )

    def _take_answer(self, sample: Sample, signal: TokenDistributions) -> None:
        seed = self.request.sampling.seed if self.request else 0
        turn = Turn(
            start=len(self._token_ids),
            num_tokens=len(sample.token_ids),
            finish_reason=sample.finish_reason,
            seed=seed,
        )
        self._turns.append(turn)
        sampling = self.chat.config.sampling
        self._signals.append(
            signal.cut(top_mass=sampling.top_mass, min_probability=sampling.min_probability)
        )
        self._say("assistant", sample)
        self._left -= 1
        self.request = self._go_on(sample)

    def _go_on(self, sample: Sample) -> SampleRequest | None:
        """Return what comes after an answer: a user's turn to sample, the next answer, or nothing."""
        if not self._left or sample.finish_reason != "stop":
            return None
        joints, last = self.chat.joints, sample.token_ids[-1]
        if self._replayed:
            text = self._replayed.pop(0)
            joint = after(
                self.chat.tokenizer, last, joints.before_user + text + joints.before_answer
            )
            if joint is None:
                return None
            self._token_ids += joint
            self._completion.append(Message(role="user", content=text))
            return self._ask_teacher()
        joint = after(self.chat.tokenizer, last, joints.before_user)
        if joint is None:
            return None
        max_tokens = self.chat.config.turns.max_user_tokens
        return self._ask("user", self._token_ids + joint, max_tokens, None)

    def _take_user(self, sample: Sample) -> None:
        """Add a simulated user's turn, if it is whole; else the conversation ends before it."""
        asked, self.request = self.request, None
        if asked is None or sample.finish_reason != "stop":
            return
        joint = after(self.chat.tokenizer, sample.token_ids[-1], self.chat.joints.before_answer)
        text = self.chat.tokenizer.decode(sample.token_ids, skip_special_tokens=True)
        if joint is None or not text.strip():
            return
        self._token_ids = list(asked.prompt_token_ids)
        self._say("user", sample)
        self._token_ids += joint
        self.request = self._ask_teacher()

    def _say(self, role: Any, sample: Sample) -> None:  # noqa: ANN401  (a Role)
        text = self.chat.tokenizer.decode(sample.token_ids, skip_special_tokens=True)
        self._completion.append(Message(role=role, content=text))
        self._token_ids += sample.token_ids

    def _ask_teacher(self) -> SampleRequest:
        messages = (*self.given, *self._completion)
        max_tokens = self.chat.config.sampling.max_tokens
        return self._ask("assistant", self._token_ids, max_tokens, messages)

    def _ask(
        self,
        role: str,
        token_ids: Sequence[int],
        max_tokens: int,
        messages: tuple[Message, ...] | None,
    ) -> SampleRequest:
        sampling = self.chat.config.sampling
        request_id = f"{self.name} {role} {len(self._turns)}"
        return SampleRequest(
            request_id,
            tuple(token_ids),
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=max_tokens,
                seed=derive_seed(sampling.seed, request_id),
            ),
            messages,
            self.prompt.tools,
        )


def _first_question(messages: Sequence[Message]) -> tuple[tuple[Message, ...], list[str]]:
    """Split a stored conversation: up to the first user's turn, and the later ones' texts."""
    first = next(index for index, message in enumerate(messages) if message.role == "user")
    later = [message.content for message in messages[first + 1 :] if message.role == "user"]
    return tuple(messages[: first + 1]), later

