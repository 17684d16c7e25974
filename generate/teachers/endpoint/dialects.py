"""The two kinds of requests: token ids in and out, or messages in and tokens' text out.

In: requests. Out: JSON bodies of OpenAI's API; from JSON answers, samples with exact token ids.
Shape legend: T token, K top-k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from generate.teachers.endpoint.token_ids import TokenIds
from generate.teachers.protocol import Sample, SampleRequest, ScoreRequest
from potstill.chat import render_prompt
from potstill.errors import TeacherError
from potstill.schema import FinishReason, SamplingParams
from potstill.token_scores import (
    PATH,
    UnusableAnswerError,
    only_choice,
    read_distributions,
    score_body,
    sorted_distributions,
    token_ids_body,
)

FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0}
"""Servers take missing parameters from the model's generation_config.json or from their own
defaults: these values, of vLLM and llama.cpp, disable everything but temperature and top_p."""


class PromptMismatchError(UnusableAnswerError):
    """The server tokenizes the prompt differently."""


class Dialect(Protocol):
    """The requests of one kind of server."""

    @property
    def path(self) -> str:
        """The route it uses, below the base URL."""

    def body(self, request: SampleRequest, top_logprobs: int | None) -> dict[str, Any]:
        """Return the request's JSON.

        Raises:
            UnusableAnswerError: This kind of server cannot take the request.
        """
        ...

    def worst_prompt_tokens(self, request: SampleRequest) -> int:
        """Return a bound of the tokens that the server counts as prompt."""
        ...

    def read(
        self, answer: Mapping[str, Any], request: SampleRequest, top_logprobs: int | None
    ) -> Sample:
        """Return the sample in an answer.

        Raises:
            UnusableAnswerError: It contains none.
            TeacherError: No answer of this server can be used.
            LookupError, TypeError, ValueError, AttributeError: The JSON has another shape.
        """
        ...


class _ExactTokens:
    """Servers that tokenize prompts as the teacher does."""

    def worst_prompt_tokens(self, request: SampleRequest) -> int:
        """Return the number of the prompt's tokens."""
        return len(request.prompt_token_ids)


@dataclass(frozen=True)
class TokenIdDialect(_ExactTokens):
    """`/completions` with token ids as prompt, answered with token ids: vLLM (0.32).

    The end-of-turn token is among the ids that come back, with
    its row, though not in the text.
    """

    model: str
    end_token_ids: frozenset[int]
    path: str = PATH

    def body(self, request: SampleRequest, top_logprobs: int | None) -> dict[str, Any]:
        """Return the JSON of a request for a completion."""
        return (
            token_ids_body(self.model, request.prompt_token_ids)
            | sampling_body(request.sampling)
            | NEUTRAL
            | {"stop_token_ids": sorted(self.end_token_ids)}
            | ({} if top_logprobs is None else {"logprobs": top_logprobs})
        )

    def read(
        self, answer: Mapping[str, Any], request: SampleRequest, top_logprobs: int | None
    ) -> Sample:
        """Return the sample in a completion."""
        choice = only_choice(answer)
        if choice.get("token_ids") is None or choice.get("prompt_token_ids") is None:
            raise UnusableAnswerError("the server returns no token ids")
        if list(choice["prompt_token_ids"]) != list(request.prompt_token_ids):
            raise PromptMismatchError("the server has changed the prompt's token ids")
        token_ids = tuple(choice["token_ids"])
        signal = None
        if top_logprobs is not None:
            signal = read_distributions(choice, token_ids, 0, top_logprobs)
        return Sample(request.request_id, token_ids, signal, _finish_reason(choice))

    def score_body(self, request: ScoreRequest, top_logprobs: int) -> dict[str, Any]:
        """Return the JSON of a request for the log-probabilities of the prompt itself."""
        return score_body(self.model, request.token_ids, top_logprobs)

    def read_score(
        self, answer: Mapping[str, Any], request: ScoreRequest, top_logprobs: int
    ) -> Sample:
        """Return the text from `start` on with the distributions that predict it."""
        choice = only_choice(answer)
        token_ids = tuple(request.token_ids)
        signal = read_distributions(choice, token_ids, request.start, top_logprobs)
        ended = token_ids[-1] in self.end_token_ids
        return Sample(
            request.request_id, token_ids[request.start :], signal, "stop" if ended else "length"
        )


@dataclass(frozen=True)
class ChatDialect(_ExactTokens):
    """`/chat/completions`: messages in, tokens out as text or bytes, at best with their ids.

    Log-probabilities are always requested, because only they identify the tokens.
    """

    model: str
    end_token_ids: frozenset[int]
    tokenizer: Any
    neutral: Mapping[str, Any]
    """Parameters in addition to OpenAI's."""
    path: str = "/chat/completions"

    def body(self, request: SampleRequest, top_logprobs: int | None) -> dict[str, Any]:
        """Return the JSON of a request for an answer."""
        if request.messages is None:
            raise UnusableAnswerError(
                "the server does not accept token ids, and there are no messages"
            )
        if request.tools is not None:
            raise UnusableAnswerError("a prompt with tools needs a server that accepts token ids")
        if render_prompt(self.tokenizer, request.messages) != list(request.prompt_token_ids):
            raise UnusableAnswerError("the messages do not give the prompt's token ids")
        return {
            "model": self.model,
            "messages": [message.to_chat() for message in request.messages],
            **sampling_body(request.sampling),
            "logprobs": True,
            "top_logprobs": top_logprobs or 0,
            **self.neutral,
        }

    def read(
        self, answer: Mapping[str, Any], request: SampleRequest, top_logprobs: int | None
    ) -> Sample:
        """Return the sample in an answer."""
        choice = only_choice(answer)
        self._check_prompt(answer["usage"]["prompt_tokens"], len(request.prompt_token_ids))
        finish_reason = _finish_reason(choice)
        entries = (choice.get("logprobs") or {}).get("content")
        if entries is None:
            raise UnusableAnswerError("the server returns no log-probabilities")
        token_ids = tuple(map(self._token_id, entries))
        self._check_text(choice["message"]["content"], token_ids, entries)
        if finish_reason == "stop" and (not token_ids or token_ids[-1] not in self.end_token_ids):
            token_ids += (self._end_token_id(wants_signal=top_logprobs is not None),)
        signal = None
        if top_logprobs is not None:
            rows = [
                {self._token_id(rival): float(rival["logprob"]) for rival in entry["top_logprobs"]}
                for entry in entries
            ]
            signal = sorted_distributions(
                [entry["logprob"] for entry in entries], rows, top_logprobs
            )
        return Sample(request.request_id, token_ids, signal, finish_reason)

    @cached_property
    def _known(self) -> TokenIds:
        return TokenIds(self.tokenizer.backend_tokenizer)

    def _token_id(self, entry: Mapping[str, Any]) -> int:
        """Return an entry's id: the server's (llama.cpp returns it), or the one of its bytes."""
        if entry.get("id") is not None:
            return int(entry["id"])
        piece = entry.get("bytes")
        token_id = self._known.find(entry["token"].encode() if piece is None else bytes(piece))
        if token_id is None:
            raise UnusableAnswerError(
                "a token's text belongs to no token of the tokenizer, or many"
            )
        return token_id

    def _check_prompt(self, found: int, expected: int) -> None:
        if found != expected:
            raise PromptMismatchError(
                f"the server's prompt has {found} tokens, by our chat template it has {expected}"
            )

    def _check_text(
        self, text: str | None, token_ids: Sequence[int], entries: Sequence[Mapping[str, Any]]
    ) -> None:
        """Check that ids that were found by bytes decode to the answer's text."""
        if all(entry.get("id") is not None for entry in entries):
            return
        if self.tokenizer.decode(token_ids, skip_special_tokens=True) != (text or ""):
            raise UnusableAnswerError("the tokens' ids do not decode to the answer's text")

    def _end_token_id(self, *, wants_signal: bool) -> int:
        if wants_signal or len(self.end_token_ids) != 1:
            raise TeacherError(
                "the server leaves out the end-of-turn token, so that a student cannot learn "
                "to stop",
                expected="its id and log-probabilities after the answer's last token",
                hint="use a server that returns token ids, such as vLLM or potstill serve"
                + (", or sample without log-probabilities" if wants_signal else ""),
            )
        return next(iter(self.end_token_ids))


def sampling_body(sampling: SamplingParams) -> dict[str, Any]:
    """Return sampling parameters under OpenAI's names."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }


def _finish_reason(choice: Mapping[str, Any]) -> FinishReason:
    found = choice["finish_reason"]
    if found not in FINISH_REASONS:
        raise UnusableAnswerError(f"finish reason {str(found)[:40]!r}")
    return FINISH_REASONS[found]
