"""The answer's label is the known one; macro-F1 and a confusion matrix of many answers."""

from __future__ import annotations

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
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

    pairs = [(score.expected, score.found) for score in scores if score.expected is not None]
    order = tuple(labels) or tuple(sorted({expected for expected, _ in pairs}))
    pairs = [pair for pair in pairs if pair[0] in order]
    if not pairs:
        empty = (0,) * (len(order) + 1)
        return LabelReport(labels=order, accuracy=0.0, macro_f1=0.0, counts=(empty,) * len(order))
    known = [expected for expected, _ in pairs]
    read = [found if found in order else NO_LABEL for _, found in pairs]
    counts = confusion_matrix(known, read, labels=[*order, NO_LABEL])[:-1]
    occurring = [label for label in order if label in known]
    return LabelReport(
        labels=order,
        accuracy=float(accuracy_score(known, read)),
        macro_f1=float(f1_score(known, read, labels=occurring, average="macro")),
        counts=tuple(tuple(row) for row in counts.tolist()),
    )
