"""A toy tokenizer of one id a character, and a teacher that says what a test decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from tokenizers import AddedToken

from generate.engine import Sample, SampleRequest
from generate.prompts import RawPrompt
from potstill.schema import Message, Prompt, TokenLogprobs

END = 0
"""Id of the end of a turn."""


class ToyTokenizer:
    """Characters are ids; turns look like `<user>hello|`."""

    chat_template = "toy"
    added_tokens_decoder = {END: AddedToken("|", special=True)}  # noqa: RUF012

    def apply_chat_template(self, conversation, *, tokenize, add_generation_prompt):
        assert not tokenize
        turns = [f"<{turn['role']}>{turn['content']}|" for turn in conversation]
        return "".join(turns) + "<assistant>" * add_generation_prompt

    def __call__(self, text, *, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, token_ids, *, skip_special_tokens=False):
        kept = [one for one in token_ids if one != END or not skip_special_tokens]
        return "".join("|" if one == END else chr(one) for one in kept)


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(ord(letter) for letter in text)


class FakeEngine:
    """A teacher whose every completion is `answer(request, top_logprobs)`.

    It finishes requests in the order that `order` gives them, and is killed before it would finish
    one more than `lives`.
    """

    def __init__(
        self,
        answer: Callable[[SampleRequest, int | None], Sample],
        *,
        order: Callable[[Iterable[SampleRequest]], Iterable[SampleRequest]] = list,
        lives: int | None = None,
        tokenizer: object = None,
    ) -> None:
        self.tokenizer = tokenizer or ToyTokenizer()
        self.max_num_seqs = 2
        self.asked: list[SampleRequest] = []
        self.calls: list[list[str]] = []
        self.top_logprobs: set[int | None] = set()
        self._answer, self._order, self._lives = answer, order, lives

    def sample(
        self, requests: Iterable[SampleRequest], *, top_logprobs: int | None
    ) -> Iterator[Sample]:
        asked = list(requests)
        self.asked += asked
        self.calls.append([request.request_id for request in asked])
        self.top_logprobs.add(top_logprobs)
        for request in self._order(asked):
            if self._lives == 0:
                raise KeyboardInterrupt
            if self._lives is not None:
                self._lives -= 1
            yield self._answer(request, top_logprobs)


def logprobs_of(num_tokens: int, k: int) -> TokenLogprobs:
    """Rows whose k entries share a mass of 0.75."""
    from math import log

    return TokenLogprobs(
        sampled_logprobs=(log(0.75 / k),) * num_tokens,
        top_token_ids=(tuple(range(k)),) * num_tokens,
        top_logprobs=((log(0.75 / k),) * k,) * num_tokens,
    )


def answer_in_kind(request: SampleRequest, top_logprobs: int | None) -> Sample:
    """Answer with as many letters as the prompt's id has, or cut off when it holds an x."""
    token_ids = ids_of(f"re {request.request_id}")
    finish_reason = "length" if "x" in request.request_id else "stop"
    if finish_reason == "stop":
        token_ids = (*token_ids, END)
    logprobs = logprobs_of(len(token_ids), top_logprobs) if top_logprobs else None
    return Sample(request.request_id, token_ids, logprobs, finish_reason)


@pytest.fixture
def fake_engine() -> type[FakeEngine]:
    return FakeEngine


@pytest.fixture
def answering() -> Callable[..., FakeEngine]:
    """Return a function that makes a teacher which answers everything."""

    def make(**options) -> FakeEngine:
        return FakeEngine(answer_in_kind, **options)

    return make


@pytest.fixture
def writing() -> Callable[..., FakeEngine]:
    """Return a function that makes a teacher which writes prompts.

    Attempt number n is `texts[n]`; None is one that does not end.
    """

    def make(texts, **options) -> FakeEngine:
        def write(request: SampleRequest, _top_logprobs: int | None) -> Sample:
            text = texts[int(request.request_id)]
            if text is None:
                return Sample(request.request_id, ids_of("on and on"), None, "length")
            return Sample(request.request_id, (*ids_of(text), END), None, "stop")

        return FakeEngine(write, **options)

    return make


@pytest.fixture
def raw_prompt() -> Callable[..., RawPrompt]:
    """Return a function that makes a prompt of one turn, or of several."""

    def make(*contents: str, source: str = "made in a test", **fields) -> RawPrompt:
        roles = ["user", "assistant"] * len(contents)
        turns = zip(roles, contents, strict=False)
        messages = tuple(Message(role=role, content=content) for role, content in turns)
        return RawPrompt(messages, source, **fields)

    return make


@pytest.fixture
def prompts() -> list[Prompt]:
    """Five prompts; the answer to the third is cut off."""
    splits = ["train", "test", "train", "validation", "train"]
    return [
        Prompt(
            prompt_id="pqxst"[number],
            split=split,
            messages=(Message(role="user", content=f"question {'?' * number}"),),
            source="made in a test",
        )
        for number, split in enumerate(splits)
    ]
