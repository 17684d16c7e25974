"""What is reviewed: answers to prompts, each with what speaks against it.

In: rows of a run or of a file. Out: a `Subject`, bounded, the doubtful rows first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from heapq import nsmallest
from pathlib import Path
from typing import Any

from generate.curation.clusters import cluster
from generate.curation.config import CurationConfig
from generate.curation.pii import PersonalData
from generate.curation.refusals import judge_refusal
from generate.curation.reviews import Decision, Use, row_id
from generate.curation.task_filters import read_answer
from generate.sources.raw_prompt import RawPrompt, normalize
from potstill.files import sha256_bytes
from potstill.schema import Message
from potstill.task.answers import Answer, Item, Score
from potstill.task.categories import Categories
from potstill.task.metrics.metric import Metric, safe_key, safe_score
from potstill.task.task import Task

MOST_ROWS = 2000
"""Rows on the page: more than a person reviews, few enough for a browser."""
SIMILAR = 0.5
"""Jaccard similarity of questions in one cluster."""


@dataclass(frozen=True)
class Doubt:
    """What speaks against an answer."""

    kind: str
    """A filter, a metric, `disagreement`, `truncated`, or `student` and `teacher` in a comparison.
    """
    text: str


@dataclass(frozen=True)
class Row:
    """An answer to a prompt."""

    id: str
    source: str
    messages: tuple[Message, ...]
    """The prompt, without the task's instructions."""
    answer: tuple[Message, ...]
    """The answer; of several turns, all messages from the first answer on."""
    doubts: tuple[Doubt, ...] = ()
    known: Answer | None = None
    """The known answer; None where there is none."""
    uses: tuple[Use, ...] = ("training",)
    """What may become of it; the first is the default."""
    reviewed: str | None = None
    """Who reviewed it when, as the file says; None where it does not."""

    @property
    def prompt(self) -> RawPrompt:
        """The prompt, to find similar ones."""
        return RawPrompt(self.messages, self.source)


@dataclass(frozen=True)
class Subject:
    """A run or a file that is reviewed."""

    title: str
    rows: Sequence[Row]
    log_path: Path
    """Where decisions are stored."""
    notes: tuple[str, ...] = ()
    """What a reviewer should know, such as rows that are not shown."""
    labels: tuple[str, ...] = ()
    """The task's labels."""
    by_id: dict[str, Row] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.by_id.update((row.id, row) for row in self.rows)

    @cached_property
    def clusters(self) -> dict[str, str]:
        """The cluster of similar prompts that each row is in, by the row's id."""
        prompts = {row.prompt.prompt_id: row.prompt for row in self.rows}
        clusters = cluster(list(prompts.values()), SIMILAR)
        return {row.id: clusters[row.prompt.prompt_id] for row in self.rows}

    def to_json(self) -> dict[str, Any]:
        """Return what the page shows."""
        return {
            "title": self.title,
            "notes": self.notes,
            "labels": self.labels,
            "rows": [_shown(row) | {"cluster": self.clusters[row.id]} for row in self.rows],
        }


def shown_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that are shown, with what filters of texts say of them.

    The doubtful ones come first; of more than MOST_ROWS it is a reproducible choice.
    """
    doubts = Doubts(None)
    return _bounded(
        replace(row, doubts=(*row.doubts, *doubts.by_text(row.answer[-1])))
        for row in _bounded(rows)
    )


def notes_on_shown(count: int, num_shown: int) -> tuple[str, ...]:
    """Return a note for the reviewer where not all rows are shown."""
    if count <= num_shown:
        return ()
    return (f"{num_shown:,} of {count:,} answers are shown, the doubtful ones first.",)


def _bounded(rows: Iterable[Row]) -> list[Row]:
    def order(row: Row) -> tuple[bool, str]:
        return not row.doubts, sha256_bytes(row.id.encode())

    return nsmallest(MOST_ROWS, rows, key=order)


def labels_of(task: Task | None) -> tuple[str, ...]:
    """Return the labels of a task; none without a metric of labels."""
    categories = Categories(task or Task())
    return () if categories.label is None else categories.names


class Doubts:
    """Finds what speaks against answers: the task's metrics, disagreement, what they say."""

    def __init__(self, task: Task | None) -> None:
        self._metrics = task.make_metrics() if task else []
        self._personal_data = PersonalData(CurationConfig()).judge_text

    def by_metrics(self, answer: Message, item: Item) -> Iterator[tuple[str, str]]:
        """Yield each metric that scores an answer below 1, and what it says."""
        for metric in self._metrics:
            if metric.needs_known and item.known is None:
                continue
            score = safe_score(metric, read_answer(answer), item)
            if score.value < 1.0:
                yield metric.name, _said(score)

    def by_text(self, answer: Message) -> Iterator[Doubt]:
        """Yield what filters of texts say of an answer."""
        if not (answer.content.strip() or answer.tool_calls):
            yield Doubt("empty", "an answer without text")
        for kind, judge in (("refusal", judge_refusal), ("personal_data", self._personal_data)):
            if (reason := judge(answer.content)) is not None:
                yield Doubt(kind, reason)

    def disagreeing(self, answers: Sequence[Message]) -> Iterator[Doubt | None]:
        """Yield for each of a prompt's answers whether the others say something else."""
        keys = [self._key(answer) for answer in answers]
        counts = Counter(keys)
        for key in keys:
            yield (
                None
                if len(counts) == 1
                else Doubt("disagreement", f"{counts[key]} of {len(keys)} answers say this")
            )

    def _key(self, answer: Message) -> str:
        """Return what the first metric reads in an answer; without it, its words."""
        first: Metric | None = next(iter(self._metrics), None)
        key = safe_key(first, read_answer(answer)) if first else None
        return key or normalize(f"{answer.content} {answer.tool_calls or ''}")


def merged(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield each row once, with the doubts of all that have the same id."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.id, []).append(row)
    for same in found.values():
        doubts = tuple(dict.fromkeys(doubt for row in same for doubt in row.doubts))
        yield replace(same[0], doubts=doubts)


def new_row_id(messages: Sequence[Message], completion: Sequence[Message]) -> str:
    """Return the id of a row whose prompt is not of a run's stage."""
    return row_id(RawPrompt(tuple(messages), "").prompt_id, completion)


def shown_decision(decision: Decision) -> dict[str, Any]:
    """Return a decision as the page shows it."""
    return decision.model_dump(mode="json", exclude={"messages", "answer"})


def _shown(row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "source": row.source,
        "messages": [message.model_dump() for message in row.messages],
        "answer": [message.model_dump() for message in row.answer],
        "doubts": [vars(doubt) for doubt in row.doubts],
        "known": row.known and row.known.to_message().model_dump(),
        "uses": row.uses,
        "reviewed": row.reviewed,
    }


def _said(score: Score) -> str:
    parts = [f"{score.value:.2f}"]
    if score.expected is not None or score.found is not None:
        parts.append(f"expected {score.expected or 'nothing'}, found {score.found or 'nothing'}")
    parts += [score.problem] if score.problem else []
    return ", ".join(parts)
