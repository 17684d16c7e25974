"""Stored answers in halves: those that a student was trained on, and those that it was not.

In: the finished conversations. Out: `Passage`s, a sample that is the same each time. An answer
counts if its second half is long enough and belongs to one prompt only, of all splits: a short or
common answer, such as a label, says nothing of whoever wrote the prompt. Training answers and
held-out ones are chosen by the same rule, so that only training makes them different.
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
from potstill.distributions import SIGNAL_COLUMNS, TokenDistributions, decode
from potstill.schema import CANARIES, REFERENCES, Message, Split, prompt_id_of
from potstill.tables import conversation_paths, read_conversation_batches

TRAINED: tuple[Split, ...] = ("train",)
HELD_OUT: tuple[Split, ...] = ("validation", "test")
SHORT_COLUMNS = ["conversation_id", "source", "token_ids", "turns"]
COLUMNS = [*SHORT_COLUMNS, "cluster_id", "tools", "prompt", "completion", *SIGNAL_COLUMNS]
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
    by_teacher: bool
    """Whether the teacher writes the second half itself: each token was its most probable one. It
    does not count for given answers, whose tokens are stored as certain."""

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
    conversations_dir: Path,
    num_answers: int,
    min_tokens: int,
    seed: int,
    *,
    with_references: bool = False,
) -> StoredAnswers:
    """Return a sample of training answers, as many held-out ones, and all canaries.

    Args:
        num_answers: Most answers of each kind.
        min_tokens: Fewest tokens of a second half.
        with_references: Whether the task's references are among the held-out answers. The teacher
            answered them at temperature 0: where it answered others otherwise, they are easier to
            complete.

    Raises:
        ArtifactError: A table is damaged.
    """
    left_out = {CANARIES} if with_references else {CANARIES, REFERENCES}
    distinct, unseen = _distinct(conversations_dir, min_tokens, left_out)
    chosen = [_sample(names, num_answers, seed) for names in (distinct, unseen)]
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
    conversations_dir: Path, min_tokens: int, left_out: Collection[str]
) -> tuple[list[str], list[str]]:
    """Return the training and the held-out conversations whose long second half no other has.

    Of several answers to one prompt with the same second half, the first counts.

    Args:
        left_out: Sources.
    """
    owners: dict[bytes, tuple[str, bool] | None] = {}
    for splits in (TRAINED, HELD_OUT):
        for name, half in _second_halves(conversations_dir, splits, min_tokens, left_out):
            known = owners.setdefault(half, (name, splits == TRAINED))
            if known is not None and prompt_id_of(known[0]) != prompt_id_of(name):
                owners[half] = None
    own = [owner for owner in owners.values() if owner is not None]
    return [name for name, trained in own if trained], [
        name for name, trained in own if not trained
    ]


def _second_halves(
    conversations_dir: Path, splits: Sequence[Split], min_tokens: int, left_out: Collection[str]
) -> Iterator[tuple[str, bytes]]:
    """Yield conversations with the digest of their second half, if it is long enough."""
    for batch in _batches(conversations_dir, splits, SHORT_COLUMNS):
        columns = (batch[name] for name in SHORT_COLUMNS)
        for name, source, ids, turns in zip(*columns, strict=True):
            turn = _longest(turns.as_py())
            middle, end = turn["num_tokens"] // 2, turn["start"] + turn["num_tokens"]
            if source.as_py() in left_out or turn["num_tokens"] - middle < min_tokens:
                continue
            half = np.asarray(ids.values)[turn["start"] + middle : end].astype(np.int32)
            yield name.as_py(), blake2b(half.tobytes(), digest_size=DIGEST_BYTES).digest()


def _passages(
    conversations_dir: Path, splits: Sequence[Split], column: str, wanted: Collection[str]
) -> Iterator[Passage]:
    """Yield the passages of conversations whose column has one of the wanted values."""
    values = pa.array(sorted(wanted), pa.string())
    for batch in _batches(conversations_dir, splits, COLUMNS):
        chosen = batch.filter(pc.is_in(batch[column], values))
        for row, signal in zip(chosen.to_pylist(), decode(chosen), strict=True):
            yield _passage(row, signal)


def _batches(
    conversations_dir: Path, splits: Sequence[Split], columns: list[str]
) -> Iterator[pa.RecordBatch]:
    for split in splits:
        for path in conversation_paths(conversations_dir, split):
            yield from read_conversation_batches(path, columns)


def _passage(row: dict[str, Any], signal: TokenDistributions) -> Passage:
    turn = _longest(row["turns"])
    messages = [Message(**one) for one in row["completion"]]
    answers = [index for index, one in enumerate(messages) if one.role == "assistant"]
    number = row["turns"].index(turn)
    place = answers[number]
    start, end = turn["start"], turn["start"] + turn["num_tokens"]
    num_before = sum(one["num_tokens"] for one in row["turns"][:number])
    own = signal.slice(num_before, num_before + turn["num_tokens"])
    answer_ids = row["token_ids"][start:end]
    return Passage(
        conversation_id=row["conversation_id"],
        cluster_id=row["cluster_id"],
        messages=(*(Message(**one) for one in row["prompt"]), *messages[:place]),
        tools=row["tools"],
        answer=messages[place],
        context_ids=row["token_ids"][:start],
        answer_ids=answer_ids,
        by_teacher=_is_most_probable(own, answer_ids, len(answer_ids) // 2),
    )


def _is_most_probable(signal: TokenDistributions, ids: Sequence[int], middle: int) -> bool:
    """Return whether each token from the middle on is the teacher's most probable one.

    It is not for tokens that are all certain: those were given.
    """
    most_probable_T = signal.top_token_ids_N[signal.starts_T]
    is_sampled = (signal.sampled_logprobs_T[middle:] < 0).any()
    return bool(is_sampled and (most_probable_T[middle:] == ids[middle:]).all())


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
