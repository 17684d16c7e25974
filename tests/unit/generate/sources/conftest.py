"""A toy tokenizer with one id per character, and a teacher whose texts a test sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import jinja2
import pytest

from generate.sources.raw_prompt import RawPrompt
from generate.teachers.protocol import Failure, Sample, SampleRequest
from potstill.schema import Message
from tests.unit.generate.conftest import END
from tests.unit.generate.conftest import ToyTokenizer as OneOfTurnsAndTools


class ToyTokenizer(OneOfTurnsAndTools):
    """How it treats system messages is a test's choice: it takes, leaves out or refuses them."""

    def __init__(self, system: str = "takes") -> None:
        self._system = system

    def apply_chat_template(self, conversation, **options):
        assert options.get("tools") is None
        if self._system == "refuses" and conversation[0]["role"] == "system":
            raise jinja2.TemplateError("system role not supported")
        if self._system == "leaves out":
            conversation = [turn for turn in conversation if turn["role"] != "system"]
        return super().apply_chat_template(conversation, **options)


class WritingTeacher:
    """A teacher whose attempt number n writes `texts[n]`; None is one that does not end.

    It finishes a batch of requests in the order that `order` gives them, and is killed before it
    would finish one more than `lives`. A Failure among the texts is given as it is.
    """

    end_token_ids = frozenset({END})

    def __init__(
        self,
        texts: Sequence[str | Failure | None],
        *,
        order: Callable[[list[SampleRequest]], Sequence[SampleRequest]] = list,
        lives: int | None = None,
        tokenizer: ToyTokenizer | None = None,
    ) -> None:
        self.tokenizer = tokenizer or ToyTokenizer()
        self.max_num_seqs = 100
        self.asked: list[SampleRequest] = []
        self.calls: list[list[int]] = []
        self.top_logprobs: set[int | None] = set()
        self._texts, self._order, self._lives = texts, order, lives

    def sample(self, next_requests, *, top_logprobs) -> Iterator[Sample | Failure]:
        self.calls.append([])
        self.top_logprobs.add(top_logprobs)
        while batch := list(next_requests(self.max_num_seqs)):
            self.asked += batch
            self.calls[-1] += [int(request.request_id) for request in batch]
            for request in self._order(batch):
                if self._lives == 0:
                    raise KeyboardInterrupt
                if self._lives is not None:
                    self._lives -= 1
                yield self._write(request)

    def _write(self, request: SampleRequest) -> Sample | Failure:
        text = self._texts[int(request.request_id)]
        if isinstance(text, Failure):
            return text
        if text is None:
            return Sample(request.request_id, tuple(map(ord, "on and on")), None, "length")
        return Sample(request.request_id, (*map(ord, text), END), None, "stop")

    def asked_texts(self) -> list[str]:
        """The text that each request continues."""
        return [self.tokenizer.decode(request.prompt_token_ids) for request in self.asked]


@pytest.fixture
def writing() -> type[WritingTeacher]:
    return WritingTeacher


@pytest.fixture
def toy_tokenizer() -> type[ToyTokenizer]:
    return ToyTokenizer


@pytest.fixture
def asking() -> Callable[..., RawPrompt]:
    """Return a function that makes a prompt of one question."""

    def make(text: str, *, system: str | None = None, source: str = "made in a test", **fields):
        messages = [] if system is None else [Message(role="system", content=system)]
        return RawPrompt((*messages, Message(role="user", content=text)), source, **fields)

    return make
