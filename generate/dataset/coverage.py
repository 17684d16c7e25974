"""How well the conversations cover a task: balance of its labels or tools, variety of its inputs.

In: the task, the sources' tables, the kept conversations. Out: figures beside the real prompts'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest

from generate.curation.clusters import user_turns
from generate.curation.variety import (
    LEAST_SHARE,
    LEAST_VARIETY,
    MOST_SHARE,
    CategoryShare,
    Variety,
    category_shares,
    compare_variety,
)
from generate.sources.config import SourceConfig
from generate.sources.raw_prompt import normalize
from generate.sources.task.drawing import Drawing
from potstill.schema import Conversation, Message, is_general
from potstill.task.answers import Answer
from potstill.task.categories import Categories
from potstill.task.task import Task

MOST_TEXTS = 10_000
"""Inputs that are kept to be compared, chosen by their ids."""


@dataclass(frozen=True)
class Coverage:
    """What the summary page says of a task's data."""

    what: str
    """"label" or "tool"."""
    shares: tuple[CategoryShare, ...]
    variety: Variety | None
    real: str
    """Which prompts are the real ones: "references" or "examples"."""

    @property
    def has_targets(self) -> bool:
        """Whether shares were wanted."""
        return any(one.target is not None for one in self.shares)

    def sentences(self) -> list[str]:
        """Return what lies outside the goals, and the figures of variety."""
        outside = [one.name for one in self.shares if not one.is_balanced]
        said = []
        if self.has_targets:
            said.append(
                f"Outside {LEAST_SHARE:g} to {MOST_SHARE:g} times its target: {', '.join(outside)}."
                if outside
                else f"Each {self.what} has {LEAST_SHARE:g} to {MOST_SHARE:g} times its target."
            )
        if self.variety is not None:
            one = self.variety
            said.append(
                f"Of {one.num_texts} inputs, {one.distinct_3:.0%} of the word triples are "
                f"distinct and {one.num_clusters:.0f} are dissimilar; of as many {self.real} "
                f"{one.real_distinct_3:.0%} and {one.real_num_clusters:.0f}"
                f"{'' if one.is_varied else f': less than {LEAST_VARIETY:g} times as varied'}."
            )
        return said


class CoverageCounts:
    """Counts a task's conversations; memory does not grow with their number."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._categories = Categories(task)
        self._counts: Counter[str] = Counter()
        self._texts: list[tuple[str, str]] = []

    def add(self, conversations: Iterable[Conversation]) -> None:
        """Count conversations of the task that are not its references."""
        for one in conversations:
            asked = one.prompt
            if asked.is_reference or asked.is_given or is_general(asked.source):
                continue
            category = self._category(one)
            self._counts.update([] if category is None else [category])
            self._texts.append((one.conversation_id, _text(one.prompt.messages)))
        if len(self._texts) > 2 * MOST_TEXTS:
            self._texts = nsmallest(MOST_TEXTS, self._texts)

    def coverage(self, sources: Sequence[SourceConfig], threshold: float) -> Coverage:
        """Return the figures.

        Args:
            sources: The first of kind `task` has the wanted shares; without one none are wanted.
            threshold: Similarity from which two inputs are in one cluster.
        """
        real = self._task.references or self._task.examples
        texts = [text for _, text in nsmallest(MOST_TEXTS, self._texts)]
        return Coverage(
            what="tool" if self._task.tools else "label",
            shares=category_shares(self._counts, self._targets(sources)),
            variety=compare_variety(texts, [_text(item.messages) for item in real], threshold),
            real="references" if self._task.references else "examples",
        )

    def _category(self, conversation: Conversation) -> str | None:
        """Return the category of the known answer, else of the teacher's."""
        if conversation.prompt.known is not None:
            known = Answer.model_validate_json(conversation.prompt.known)
            return self._categories.of(known)
        try:
            return self._categories.of(Answer.from_message(conversation.completion[-1]))
        except (IndexError, ValueError):
            return None

    def _targets(self, sources: Sequence[SourceConfig]) -> Mapping[str, float]:
        source = next((one for one in sources if one.kind == "task"), None)
        if source is None or source.parts:  # An input has a passage of each part.
            return {}
        weights = Drawing(self._task, source).weights
        return {name: weight for name, weight in weights.items() if name}


def _text(messages: Sequence[Message]) -> str:
    return normalize("\n".join(user_turns(messages)))
