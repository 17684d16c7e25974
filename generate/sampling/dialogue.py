"""A conversation that is being sampled: its next request, and its turns so far.

In: a prompt, and samples as they finish. Out: requests, and at the end a `Conversation`. A request
is the tokens so far plus a separator of the chat template: no text is tokenized twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from generate.sampling.settings import ConversationSettings
from generate.sampling.tool_results import results_of
from generate.sampling.turn_separators import TurnSeparators, after
from generate.teachers.protocol import Sample, SampleRequest, derive_seed
from potstill.chat import answer_message, render_prompt, render_text
from potstill.distributions import TokenDistributions
from potstill.errors import TeacherError
from potstill.schema import Conversation, Message, Prompt, SamplingParams, Turn

MAX_TOOL_ROUNDS = 4
"""Answers with calls in a conversation that get results; a teacher may call for ever."""


class Dialogue:
    """A conversation of one prompt.

    Attributes:
        given: The messages before the teacher's first answer.
        request: The next request to the teacher; None when it is not its turn.
        user_messages: The messages that another model answers as the user; None when it is not its
            turn.
    """

    def __init__(self, settings: ConversationSettings, prompt: Prompt, answer_index: int) -> None:
        asked = settings.for_teacher(prompt)
        self.prompt = prompt.model_copy(update={"tools": asked.tools})
        self.given, self.answer_index = asked.messages, answer_index
        self.user_messages: tuple[Message, ...] | None = None
        self._settings, self._turns_config = settings, settings.config.turns
        self._replayed: list[str] = []
        self._num_left = 1
        kind = "single" if prompt.is_reference else self._turns_config.kind
        if kind == "replay":
            self.given, self._replayed = _first_question(self.given)
            self._replayed = self._replayed[: self._turns_config.max_turns - 1]
            self._num_left = 1 + len(self._replayed)
        elif kind == "simulate":
            self._num_left = settings.num_turns(prompt)
        self._token_ids = render_prompt(settings.tokenizer, self.given, self.prompt.tools)
        self._completion: list[Message] = []
        self._turns: list[Turn] = []
        self._signals: list[TokenDistributions] = []
        self._plays_user = False
        self._begun: Sample | None = None
        self._opened = False
        self._num_rounds = MAX_TOOL_ROUNDS if settings.tool_result and self.prompt.tools else 0
        if self._num_left > 1 or self._num_rounds:
            self._separators()  # Raises if the template would rewrite this conversation.
        self.request = self._ask_teacher()

    @property
    def name(self) -> str:
        """Unique in a run; the prefix of its requests' ids."""
        return f"{self.prompt.prompt_id}-{self.answer_index}"

    @property
    def num_tokens(self) -> int:
        """Number of tokens so far."""
        return len(self._token_ids)

    def take(self, sample: Sample) -> None:
        """Add a sample: the teacher's answer, or its turn as the simulated user."""
        asked, self.request = self.request, None
        if asked is None:
            raise TeacherError("a sample arrived without a request", where=self.name)
        if self._plays_user:
            self._plays_user = False
            self._take_user(asked, sample)
        else:
            self._take_answer(asked, sample)

    def take_user_text(self, text: str | None) -> None:
        """Add a user turn from another model; None ends the conversation."""
        self.user_messages = None
        if text is None or not self._settings.is_user_text(text):
            return
        separators = self._separators()
        separator = self._after(
            self._token_ids[-1], separators.before_user + text + separators.before_answer
        )
        if separator is not None:
            self._say((Message(role="user", content=text),), self._token_ids + separator)

    def conversation(self) -> Conversation:
        """Return the conversation so far."""
        return Conversation(
            prompt=self.prompt,
            answer_index=self.answer_index,
            given=self.given,
            completion=tuple(self._completion),
            token_ids=np.asarray(self._token_ids, dtype=np.int32),
            turns=tuple(self._turns),
            signal=TokenDistributions.concatenate(self._signals),
            teacher=self._settings.teacher_name,
        )

    def _take_answer(self, asked: SampleRequest, sample: Sample) -> None:
        sample = self._whole(asked, sample)
        if self._answers_on(sample):
            return
        if sample.signal is None:
            raise TeacherError("the teacher returned no log-probabilities", where=self.name)
        self._begun = None
        turn = Turn(
            start=len(self._token_ids),
            num_tokens=len(sample.token_ids),
            finish_reason=sample.finish_reason,
            seed=asked.sampling.seed,
        )
        self._turns.append(turn)
        self._signals.append(self._settings.cut(sample.signal))
        self._token_ids += sample.token_ids
        self._completion.append(self._answer(sample))
        if sample.finish_reason == "stop" and self._take_results():
            return
        self._num_left -= 1
        if self._num_left and sample.finish_reason == "stop":
            self._go_on()

    def _whole(self, asked: SampleRequest, sample: Sample) -> Sample:
        """Return a sample with what the same answer began with."""
        if self._begun is not None:
            return joined(self._begun, sample)
        thinking = self._settings.thinking
        self._opened = (
            thinking is not None and not asked.is_bound and thinking.is_opened_by(self._token_ids)
        )
        return sample

    def _answers_on(self, sample: Sample) -> bool:
        """Ask for the rest of an answer whose thinking used up its own limit of tokens."""
        thinking, sampling = self._settings.thinking, self._settings.config.sampling
        is_cut = self._settings.max_thinking_tokens and sample.finish_reason == "length"
        if thinking is None or not is_cut:
            return False
        end, left = thinking.end(sample.token_ids, opened=self._opened), sampling.max_tokens
        if end is None:
            sample = forced(sample, thinking.closing_token_ids)
        else:
            left -= len(sample.token_ids) - end
        so_far = [*self._token_ids, *sample.token_ids]
        self.request = self._ask("answer", so_far, left) if left > 0 else None
        self._begun = None if self.request is None else sample
        return self._begun is not None

    def _take_results(self) -> bool:
        """Add the results of the last answer's calls; return whether the teacher goes on."""
        result = self._settings.tool_result
        if result is None or not self._num_rounds:
            return False
        so_far, tools = (*self.given, *self._completion), self.prompt.tools
        results = results_of(self._completion[-1], result)
        if not results or any(not self._settings.is_user_text(one.content) for one in results):
            return False
        tokenizer = self._settings.tokenizer
        before = render_text(tokenizer, so_far, tools=tools, add_generation_prompt=False)
        text = render_text(tokenizer, (*so_far, *results), tools=tools)
        separator = self._after(
            self._token_ids[-1], self._separators().after_answer + text.removeprefix(before)
        )
        if separator is None or not text.startswith(before):
            return False
        self._num_rounds -= 1
        return self._say(results, self._token_ids + separator)

    def _go_on(self) -> None:
        """Continue with the user: a stored turn, another model, or the teacher as the user."""
        if self._replayed:
            self.take_user_text(self._replayed.pop(0))
        elif self._turns_config.user is not None:
            self.user_messages = (*self.given, *self._completion)
        else:
            separator = self._after(self._token_ids[-1], self._separators().before_user)
            if separator is not None:
                token_ids = self._token_ids + separator
                self.request = self._ask("user", token_ids, self._turns_config.max_user_tokens)
                self._plays_user = self.request is not None

    def _take_user(self, asked: SampleRequest, sample: Sample) -> None:
        """Add a simulated user turn if it is complete; else end the conversation before it."""
        text = str(
            self._settings.tokenizer.decode(sample.token_ids[:-1], skip_special_tokens=False)
        )
        separator = self._after(sample.token_ids[-1], self._separators().before_answer)
        if (
            sample.finish_reason == "stop"
            and separator is not None
            and self._settings.is_user_text(text)
        ):
            token_ids = [*asked.prompt_token_ids, *sample.token_ids, *separator]
            self._say((Message(role="user", content=text),), token_ids)

    def _say(self, messages: tuple[Message, ...], token_ids: list[int]) -> bool:
        """Add messages to the teacher, unless they leave no room for an answer."""
        completion, before = self._completion, self._token_ids
        self._completion, self._token_ids = [*completion, *messages], token_ids
        self.request = self._ask_teacher()
        if self.request is None:
            self._completion, self._token_ids = completion, before
        return self.request is not None

    def _ask_teacher(self) -> SampleRequest | None:
        messages = (*self.given, *self._completion)
        max_tokens = self._settings.config.sampling.max_tokens
        longest = self._settings.max_thinking_tokens
        if longest is not None:
            if len(self._token_ids) + longest + max_tokens > self._settings.max_model_len:
                return None
            max_tokens = longest
        request = self._ask("assistant", self._token_ids, max_tokens, messages)
        return request and self._settings.bound(request, self.prompt)

    def _ask(
        self,
        role: str,
        token_ids: Sequence[int],
        max_tokens: int,
        messages: tuple[Message, ...] | None = None,
    ) -> SampleRequest | None:
        """Return a request; None when prompt and completion exceed the teacher's context."""
        if len(token_ids) + max_tokens > self._settings.max_model_len:
            return None
        sampling = self._settings.config.sampling
        request_id = f"{self.name} {role} {len(self._turns)}"
        params = SamplingParams(
            temperature=self._settings.temperature(self.prompt),
            top_p=sampling.top_p,
            max_tokens=max_tokens,
            seed=derive_seed(sampling.seed, request_id),
        )
        return SampleRequest(request_id, tuple(token_ids), params, messages, self.prompt.tools)

    def _after(self, last_token_id: int, separator: str) -> list[int] | None:
        return after(self._settings.tokenizer, last_token_id, separator)

    def _separators(self) -> TurnSeparators:
        return self._settings.separators(self.given, self.prompt.tools)

    def _answer(self, sample: Sample) -> Message:
        if sample.message is not None:
            return sample.message
        so_far = (*self.given, *self._completion)
        return answer_message(
            self._settings.tokenizer,
            sample.token_ids,
            has_tools=self.prompt.tools is not None,
            opened=self._opened,
            num_calls=sum(len(one.calls) for one in so_far),
        )


def joined(begun: Sample, rest: Sample) -> Sample:
    """Return an answer that was sampled in two requests."""
    assert begun.signal is not None
    assert rest.signal is not None
    return replace(
        rest,
        token_ids=(*begun.token_ids, *rest.token_ids),
        signal=TokenDistributions.concatenate([begun.signal, rest.signal]),
    )


def forced(sample: Sample, token_ids: Sequence[int]) -> Sample:
    """Return an answer with tokens that the teacher did not choose, which count as certain."""
    assert sample.signal is not None
    added = TokenDistributions.certain(token_ids)
    return replace(
        sample,
        token_ids=(*sample.token_ids, *token_ids),
        signal=TokenDistributions.concatenate([sample.signal, added]),
    )


def _first_question(messages: Sequence[Message]) -> tuple[tuple[Message, ...], list[str]]:
    """Split a stored conversation into messages up to the first user turn, and later user turns."""
    first = next(index for index, message in enumerate(messages) if message.role == "user")
    later = [message.content for message in messages[first + 1 :] if message.role == "user"]
    return tuple(messages[: first + 1]), later
