"""Stored answers in halves: those that a student was trained on, and those that it was not.

In: the finished conversations. Out: `Passage`s, a sample that is the same each time. An answer
counts if its second half is long enough and belongs to one prompt only: a short or common answer,
such as a label, says nothing of whoever wrote the prompt.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import TemplateError

from potstill.canaries import SECRET
from potstill.chat import render_prompt, tokenize
from potstill.schema import CANARIES, REFERENCES, Message, Split, prompt_id_of
from potstill.tables import conversation_paths, read_conversation_batches

TRAINED: tuple[Split, ...] = ("train",)
HELD_OUT: tuple[Split, ...] = ("validation", "test")
SHORT_COLUMNS = ["conversation_id", "source", "token_ids", "turns"]
COLUMNS = [*SHORT_COLUMNS, "cluster_id", "tools", "prompt", "completion"]
DIGEST_BYTES = 8


@dataclass(frozen=True)
class Passage:
    """An answer, the longest of its conversation, with what stands before it."""

    conversation_id: str
    cluster_id: str
    messages: tuple[Message, ...]
    tools: str | None
    answer: Message
    context_ids: list[int]
    """Tokens before the answer."""
    answer_ids: list[int]

    @property
    def first_ids(self) -> list[int]:
        """Tokens up to the middle of the answer."""
        return [*self.context_ids, *self.answer_ids[: len(self.answer_ids) // 2]]

    @property
    def second_ids(self) -> list[int]:
        """Tokens from the middle of the answer on; one more of an odd number."""
        return self.answer_ids[len(self.answer_ids) // 2 :]


@dataclass(frozen=True)
class StoredAnswers:
    """What is to be completed."""

    num_distinct: int
    """Training answers that count, of which `trained` is a sample."""
    trained: list[Passage]
    held_out: list[Passage]
    canaries: list[Passage]

    @property
    def longest_tokens(self) -> int:
        """Tokens of the longest passage; 0 without any."""
        passages = (*self.trained, *self.held_out, *self.canaries)
        return max((len(one.context_ids) + len(one.answer_ids) for one in passages), default=0)

    def in_tokens_of(self, checkpoint_dir: Path) -> StoredAnswers:
        """Return the passages in the tokens of a student that has a tokenizer of its own.

        Answers with thinking or calls, and prompts that its chat template rejects, are left out.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
        trained, held_out, canaries = (
            list(_retokenized(tokenizer, passages))
            for passages in (self.trained, self.held_out, self.canaries)
        )
        return StoredAnswers(self.num_distinct, trained, held_out, canaries)


def read_answers(
    conversations_dir: Path, num_answers: int, min_tokens: int, seed: int
) -> StoredAnswers:
    """Return a sample of training answers, as many held-out ones, and all canaries.

    The task's references are not among the held-out answers: the teacher answered them at
    temperature 0, and such answers are easier to complete.

    Args:
        num_answers: Most answers of each kind.
        min_tokens: Fewest tokens of a second half.

    Raises:
        ArtifactError: A table is damaged.
    """
    trained = _distinct(conversations_dir, TRAINED, min_tokens)
    held_out = _distinct(conversations_dir, HELD_OUT, min_tokens)
    unseen = {name for digest, name in held_out.items() if digest not in trained}
    distinct = {name for name in trained.values() if name}
    chosen = [_sample(names, num_answers, seed) for names in (distinct, unseen - {""})]
    return StoredAnswers(
        num_distinct=len(distinct),
        trained=list(_passages(conversations_dir, TRAINED, "conversation_id", chosen[0])),
        held_out=list(_passages(conversations_dir, HELD_OUT, "conversation_id", chosen[1])),
        canaries=[
            one
            for one in _passages(conversations_dir, TRAINED, "source", [CANARIES])
            if SECRET.search(one.answer.content)
        ],
    )


def _distinct(
    conversations_dir: Path, splits: Sequence[Split], min_tokens: int
) -> dict[bytes, str]:
    """Return conversations by the digest of a long second half; "" where several prompts have it.

    Of several answers to one prompt with the same second half, the first counts.
    """
    found: dict[bytes, str] = {}
    for batch in _batches(conversations_dir, splits, SHORT_COLUMNS):
        columns = (batch[name] for name in SHORT_COLUMNS)
        for name, source, ids, turns in zip(*columns, strict=True):
            if source.as_py() in (CANARIES, REFERENCES):
                continue
            turn = _longest(turns.as_py())
            middle, end = turn["num_tokens"] // 2, turn["start"] + turn["num_tokens"]
            if turn["num_tokens"] - middle < min_tokens:
                continue
            half = np.asarray(ids.values)[turn["start"] + middle : end].astype(np.int32)
            digest = blake2b(half.tobytes(), digest_size=DIGEST_BYTES).digest()
            known = found.setdefault(digest, name.as_py())
            if prompt_id_of(known) != prompt_id_of(name.as_py()):
                found[digest] = ""
    return found


def _passages(
    conversations_dir: Path, splits: Sequence[Split], column: str, wanted: Collection[str]
) -> Iterator[Passage]:
    """Yield the passages of conversations whose column has one of the wanted values."""
    values = pa.array(sorted(wanted), pa.string())
    for batch in _batches(conversations_dir, splits, COLUMNS):
        for row in batch.filter(pc.is_in(batch[column], values)).to_pylist():
            yield _passage(row)


def _batches(
    conversations_dir: Path, splits: Sequence[Split], columns: list[str]
) -> Iterator[pa.RecordBatch]:
    for split in splits:
        for path in conversation_paths(conversations_dir, split):
            yield from read_conversation_batches(path, columns)


def _passage(row: dict[str, Any]) -> Passage:
    turn = _longest(row["turns"])
    messages = [Message(**one) for one in row["completion"]]
    answers = [index for index, one in enumerate(messages) if one.role == "assistant"]
    place = answers[row["turns"].index(turn)]
    start, end = turn["start"], turn["start"] + turn["num_tokens"]
    return Passage(
        conversation_id=row["conversation_id"],
        cluster_id=row["cluster_id"],
        messages=(*(Message(**one) for one in row["prompt"]), *messages[:place]),
        tools=row["tools"],
        answer=messages[place],
        context_ids=row["token_ids"][:start],
        answer_ids=row["token_ids"][start:end],
    )


def _longest(turns: Sequence[dict[str, int]]) -> dict[str, int]:
    return max(turns, key=lambda turn: turn["num_tokens"])


def _sample(names: Collection[str], number: int, seed: int) -> list[str]:
    ordered = sorted(names)
    return random.Random(seed).sample(ordered, min(number, len(ordered)))


def _retokenized(tokenizer: Any, passages: Iterable[Passage]) -> Iterator[Passage]:  # noqa: ANN401
    for one in passages:
        if one.answer.tool_calls or one.answer.reasoning_content:
            continue
        with suppress(TemplateError):
            yield replace(
                one,
                context_ids=render_prompt(tokenizer, one.messages, one.tools),
                answer_ids=tokenize(tokenizer, one.answer.content),
            )
