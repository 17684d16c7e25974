"""The answer's label is the known one; macro-F1 and a confusion matrix of many answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from potstill.json_text import parse_json
from potstill.schema import Value
from potstill.task.answers import Answer, Item, Score, value_at
from potstill.task.metrics.config import LabelConfig

NO_LABEL = "(none)"
"""Column of the confusion matrix for answers without a known label."""


class Label:
    """Compares labels; an answer without a readable label is wrong."""

    needs_known = True

    def __init__(self, config: LabelConfig) -> None:
        self.name = config.name or config.kind
        self.labels = config.labels
        self._field = config.field

    def score(self, answer: Answer, item: Item) -> Score:
        """Return 1 for the known label, else 0."""
        expected = self.read_known(item.known.text) if item.known else None
        if expected is None:
            return Score(value=0.0, problem="no label in the known answer")
        found = self.read(answer.text)
        problem = None if found is not None else "no label in the answer"
        return Score(
            value=float(found == expected), found=found, expected=expected, problem=problem
        )

    def read_known(self, text: str) -> str | None:
        """Return the label of a known answer, which may be the label alone."""
        is_alone = self._field is not None and not text.lstrip().startswith("{")
        return self._allowed(text.strip()) if is_alone else self.read(text)

    def key(self, answer: Answer) -> str | None:
        """Return the label."""
        return self.read(answer.text)

    def read(self, text: str) -> str | None:
        """Return the label of an answer; None when there is none, or one that is not allowed."""
        if self._field is None:
            return self._allowed(text.strip())
        try:
            return self._allowed(value_at(parse_json(text), self._field))
        except ValueError:
            return None

    def _allowed(self, label: object) -> str | None:
        if not isinstance(label, str) or not label:
            return None
        return label if not self.labels or label in self.labels else None


class LabelReport(Value):
    """How the labels of many answers agree."""

    labels: tuple[str, ...]
    accuracy: float
    macro_f1: float
    """Mean over the labels that occur among the known ones. Source: scikit-learn 1.7, f1_score with
    average="macro", labels without known answers left out."""
    counts: tuple[tuple[int, ...], ...]
    """[known label, found label], a last column for answers without a label."""


def label_report(scores: Iterable[Score], labels: Sequence[str] = ()) -> LabelReport:
    """Summarize scores of `Label`.

    Args:
        labels: The order of rows and columns; empty: the known labels in alphabetical order.
    """
    pairs = Counter(
        (score.expected, score.found or NO_LABEL) for score in scores if score.expected is not None
    )
    order = tuple(labels) or tuple(sorted({expected for expected, _ in pairs}))
    columns = (*order, NO_LABEL)
    counts = tuple(
        tuple(
            sum(
                number
                for (expected, found), number in pairs.items()
                if expected == row and (found if found in order else NO_LABEL) == column
            )
            for column in columns
        )
        for row in order
    )
    total = sum(map(sum, counts))
    right = sum(counts[index][index] for index in range(len(order)))
    f1 = [_f1(counts, index) for index in range(len(order)) if sum(counts[index])]
    return LabelReport(
        labels=order,
        accuracy=right / total if total else 0.0,
        macro_f1=sum(f1) / len(f1) if f1 else 0.0,
        counts=counts,
    )


def _f1(counts: Sequence[Sequence[int]], index: int) -> float:
    right = counts[index][index]
    return 2 * right / (sum(counts[index]) + sum(row[index] for row in counts))
