"""Another model that plays the user, in a thread beside the teacher.

In: conversations that wait for the user. Out: the user's next turns. The model sees the messages
with the roles of user and assistant exchanged.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from queue import Empty, Queue
from typing import Any

import jinja2

from generate.config import GenerateConfig
from generate.teachers.protocol import Failure, Sample, SampleRequest, SamplingTeacher, derive_seed
from potstill.chat import render_prompt
from potstill.errors import TeacherError
from potstill.schema import Message, Role, SamplingParams

INSTRUCTION = (
    "Play the user in a conversation with an assistant. You will see the assistant's messages as "
    "the other side's. Reply with the user's next message and nothing else: a follow-up question, "
    "a request for more, a correction or a change of topic, short and natural."
)
OTHER_ROLE: dict[Role, Role] = {"user": "assistant", "assistant": "user"}


class SimulatedUser:
    """A thread that samples user turns; `close` ends it.

    Raises:
        TeacherError: The model's chat template does not accept a system prompt.
    """

    def __init__(self, teacher: SamplingTeacher, config: GenerateConfig) -> None:
        self._teacher, self._config = teacher, config
        self._questions: Queue[SampleRequest | None] = Queue()
        self._answers: Queue[tuple[str, str | None] | BaseException] = Queue()
        self._thread = threading.Thread(target=self._work, name="user-turns", daemon=True)
        self._in_flight = 0
        self._closing = False
        self._require_instruction()
        self._thread.start()

    def ask(self, name: str, messages: Sequence[Message]) -> None:
        """Request the next user turn of the named conversation."""
        turned = exchange_roles(messages)
        try:
            token_ids = render_prompt(self._teacher.tokenizer, turned)
        except jinja2.TemplateError:
            self._answers.put((name, None))
            return
        sampling = SamplingParams(
            temperature=self._config.sampling.temperature,
            top_p=self._config.sampling.top_p,
            max_tokens=self._config.turns.max_user_tokens,
            seed=derive_seed(self._config.sampling.seed, f"{name} user {len(messages)}"),
        )
        self._questions.put(SampleRequest(name, token_ids, sampling, tuple(turned)))

    def answers(self, *, wait: bool) -> Iterator[tuple[str, str | None]]:
        """Yield the names of conversations with their user turns; None where the model failed.

        A conversation that the chat template rejects counts as a failure.

        Args:
            wait: Block until there is at least one.

        Raises:
            TeacherError: The user's model fails as a whole.
        """
        try:
            while True:
                answer = self._answers.get(block=wait)
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
                wait = False
        except Empty:
            return

    def close(self) -> None:
        """End the thread and the user's model; drop requests without an answer."""
        self._closing = True
        self._questions.put(None)
        self._thread.join()
        self._teacher.close()

    def _work(self) -> None:
        try:
            for result in self._teacher.sample(self._next_requests, top_logprobs=None):
                self._in_flight -= 1
                self._answers.put((result.request_id, self._text(result)))
                if self._closing:
                    return
        except BaseException as error:  # Raised again by `answers`.
            self._answers.put(error)

    def _next_requests(self, room: int) -> list[SampleRequest]:
        """Return waiting requests; block for one when none is in flight, to keep sampling."""
        requests: list[SampleRequest] = []
        while len(requests) < room:
            try:
                question = self._questions.get(block=not (requests or self._in_flight))
            except Empty:
                break
            if question is None:
                self._questions.put(None)
                break
            requests.append(question)
        self._in_flight += len(requests)
        return requests

    def _require_instruction(self) -> None:
        question = exchange_roles([Message(role="user", content="Why?")])
        try:
            render_prompt(self._teacher.tokenizer, question)
        except jinja2.TemplateError as error:
            raise TeacherError(
                "the user's model cannot be instructed to play the user",
                where="its chat template",
                expected="a template that accepts a system prompt",
                found=error,
                hint="name another model in [generate.turns.user]",
            ) from error

    def _text(self, result: Sample | Failure) -> str | None:
        if isinstance(result, Failure) or result.finish_reason != "stop":
            return None
        text: Any = self._teacher.tokenizer.decode(result.token_ids, skip_special_tokens=True)
        return str(text).strip() or None


def exchange_roles(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation as the user's model sees it, which is the assistant there."""
    turned = [
        Message(role=OTHER_ROLE[message.role], content=message.content)
        for message in messages
        if message.role in OTHER_ROLE and message.content
    ]
    # Chat templates require a user message first.
    opening = Message(role="user", content="Begin.")
    return [Message(role="system", content=INSTRUCTION), opening, *turned]
