"""A teacher whose answers are stored in other tokens than its own.

In: requests in the tokens of one tokenizer, with their messages. Out: answers in the same tokens,
each certain, of a teacher that reads the messages in its own chat template: sequence level.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jinja2

from generate.teachers.endpoint.text_tokens import AnswerTokens
from generate.teachers.protocol import (
    Failure,
    Requests,
    Sample,
    SampleRequest,
    SamplingTeacher,
    ScoreRequests,
)
from potstill.chat import answer_message, render_prompt
from potstill.distributions import TokenDistributions
from potstill.errors import TeacherError
from potstill.thinking import ThinkFormat
from potstill.token_scores import UnusableAnswerError


class TextTeacher:
    """A teacher that answers in text, which is then tokenized.

    Args:
        teacher: The teacher.
        max_model_len: Its longest conversation, in its own tokens.
        stored: The tokens in which its answers are stored.
    """

    def __init__(self, teacher: SamplingTeacher, max_model_len: int, stored: AnswerTokens) -> None:
        self.tokenizer: Any = stored.tokenizer
        self.end_token_ids = frozenset(stored.end_token_ids)
        self.max_num_seqs = teacher.max_num_seqs
        self._teacher, self._max_model_len, self._stored = teacher, max_model_len, stored

    def sample(
        self, next_requests: Requests, *, top_logprobs: int | None
    ) -> Iterator[Sample | Failure]:
        """Draw completions; see `SamplingTeacher.sample`.

        Args:
            next_requests: The source of requests, each with messages.
            top_logprobs: Not passed on: the answer's tokens are certain.

        Raises:
            TeacherError: The teacher fails as a whole, or a request has no messages.
        """
        del top_logprobs
        asked: dict[str, tuple[SampleRequest, SampleRequest]] = {}
        refused: deque[Failure] = deque()

        def own_requests(room: int) -> list[SampleRequest]:
            own = []
            for request in next_requests(room):
                changed = self._in_own_tokens(request)
                if isinstance(changed, Failure):
                    refused.append(changed)
                else:
                    asked[request.request_id] = request, changed
                    own.append(changed)
            return own

        # A teacher ends when it has nothing to do, also where all new requests were refused.
        is_done = False
        while not is_done:
            is_done = True
            for result in self._teacher.sample(own_requests, top_logprobs=None):
                is_done = False
                yield self._stored_sample(result, *asked.pop(result.request_id))
            while refused:
                is_done = False
                yield refused.popleft()

    def score(
        self, next_requests: ScoreRequests, *, top_logprobs: int
    ) -> Iterator[Sample | Failure]:
        """Refuse: there are no distributions in the stored tokens.

        Raises:
            TeacherError: Always.
        """
        del next_requests, top_logprobs
        raise TeacherError(
            "a teacher with another tokenizer cannot score tokens", where="generate.turns.kind"
        )

    def facts(self) -> dict[str, Any]:
        """Return the facts for the manifest."""
        return self._teacher.facts() | {"logprobs_mode": "none"}

    def close(self) -> None:
        """Free the teacher."""
        self._teacher.close()

    def _in_own_tokens(self, request: SampleRequest) -> SampleRequest | Failure:
        if request.messages is None:
            raise TeacherError(
                "a teacher with another tokenizer takes whole messages only",
                where="generate.further_teachers",
                hint="name another model as the user in generate.turns.user, and leave out "
                "generate.thinking.max_tokens",
            )
        try:
            token_ids = render_prompt(self._teacher.tokenizer, request.messages, request.tools)
        except jinja2.TemplateError as error:
            reason = f"the teacher's chat template rejects it: {error}".splitlines()[0]
            return Failure(request.request_id, reason)
        if len(token_ids) + request.sampling.max_tokens > self._max_model_len:
            return Failure(request.request_id, "it exceeds the teacher's context")
        return replace(request, prompt_token_ids=tuple(token_ids))

    def _is_opened(self, prompt_token_ids: Sequence[int]) -> bool:
        """Return whether a prompt ends inside the thinking."""
        tokenizer = self._teacher.tokenizer
        think_format = ThinkFormat.of_template(tokenizer.chat_template or "")
        if think_format is None:
            return False
        return think_format.is_opened_by_tokens(prompt_token_ids, tokenizer.decode)

    def _stored_sample(
        self, result: Sample | Failure, request: SampleRequest, own: SampleRequest
    ) -> Sample | Failure:
        if isinstance(result, Failure):
            return result
        message = result.message or answer_message(
            self._teacher.tokenizer,
            result.token_ids,
            has_tools=request.tools is not None,
            opened=self._is_opened(own.prompt_token_ids),
            num_calls=sum(len(one.calls) for one in request.messages or ()),
        )
        try:
            token_ids = self._stored.find(request, message, result.finish_reason)
        except UnusableAnswerError as error:
            return Failure(request.request_id, str(error))
        signal = TokenDistributions.certain(token_ids)
        return replace(result, token_ids=token_ids, signal=signal, message=message)
