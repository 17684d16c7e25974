"""A judge's work: first on answers that are plainly worse, then on student and teacher.

In: a judge, controls, pairs. Out: `Judged`, plain values to store. A judge that fails a control is
not asked further, if so configured. Graded controls, which differ by as little as a student's
answers may, are shuffled among the pairs, and nothing that the judge is given marks them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import Protocol

from compare.judges.controls import Control
from compare.judges.protocol import Claim, Judge, Judgment, Pair, Usage
from potstill.schema import Value

LABEL = "pairs"
"""What a judge's progress bar calls all pairs, controls or not."""


class IsSound(Protocol):
    """Whether a judge has passed the checks that the controls so far allow."""

    def __call__(self, controls: Sequence[ControlJudged], *, measures: bool) -> bool:
        """Return whether it has; `measures` as in `Judge`."""


class ControlJudged(Value):
    """A judge's judgments of one control."""

    name: str
    expected: str
    prompt_ids: tuple[str, ...]
    clusters: tuple[str, ...]
    """The cluster of each pair."""
    lengths: tuple[tuple[int, int], ...]
    """Characters of the changed answer and of the teacher's own."""
    judgments: tuple[Judgment, ...] | None
    """None when it was skipped because an earlier control had failed."""
    graded: bool = False
    """As in `Control`."""

    @property
    def said(self) -> tuple[Judgment, ...]:
        """The judgments; none when it was skipped."""
        return self.judgments or ()

    @property
    def decided_clusters(self) -> list[str]:
        """The clusters of the pairs that were decided."""
        judged = zip(self.said, self.clusters, strict=bool(self.said))
        return [cluster for one, cluster in judged if one.score is not None]


class Judged(Value):
    """All judgments of a judge."""

    name: str
    kind: str
    claim: Claim
    measures: bool
    needs_assay: bool = True
    model: str | None
    controls: tuple[ControlJudged, ...] = ()
    judgments: tuple[Judgment, ...] | None = None
    """Of student and teacher; None when a control had failed."""
    usage: Usage = Usage()


def work(
    judge: Judge,
    pairs: Sequence[Pair],
    controls: Sequence[Control],
    *,
    cluster_of: Callable[[Pair], str],
    is_sound: IsSound,
    stop_early: bool,
    seed: int,
) -> Judged:
    """Judge the controls and then, unless the judge has failed one, the pairs and graded controls.

    Args:
        cluster_of: Names the cluster of a pair.
        is_sound: Whether the judge has passed the checks that the controls so far allow.
        seed: Of the order of pairs and graded controls.
    """
    done: list[ControlJudged] = []
    sound = True
    for control in controls:
        if control.graded:
            continue
        judgments = None
        if sound or not stop_early:
            judgments = tuple(judge.judge(control.pairs, LABEL))
        done.append(_judged(control, judgments, cluster_of))
        sound = sound and (judgments is None or is_sound(done, measures=judge.measures))
    graded = [control for control in controls if control.graded]
    judged: list[tuple[Judgment, ...] | None] = [None] * (1 + len(graded))
    if sound or not stop_early:
        judged = [*_shuffled(judge, [pairs, *(control.pairs for control in graded)], seed)]
    done += [
        _judged(control, judgments, cluster_of)
        for control, judgments in zip(graded, judged[1:], strict=True)
    ]
    return Judged(
        name=judge.name,
        kind=judge.kind,
        claim=judge.claim,
        measures=judge.measures,
        needs_assay=judge.needs_assay,
        model=judge.model,
        controls=tuple(done),
        judgments=judged[0],
        usage=judge.usage(),
    )


def _shuffled(
    judge: Judge, groups: Sequence[Sequence[Pair]], seed: int
) -> Iterator[tuple[Judgment, ...]]:
    """Let the pairs of all groups be judged as one, in random order; yield each group's."""
    pairs = [pair for group in groups for pair in group]
    order = random.Random(seed).sample(range(len(pairs)), len(pairs))
    said = judge.judge([pairs[index] for index in order], LABEL)
    of_pair = iter([one for _, one in sorted(zip(order, said, strict=True), key=itemgetter(0))])
    for group in groups:
        yield tuple(islice(of_pair, len(group)))


def _judged(
    control: Control, judgments: tuple[Judgment, ...] | None, cluster_of: Callable[[Pair], str]
) -> ControlJudged:
    return ControlJudged(
        name=control.name,
        expected=control.expected,
        prompt_ids=tuple(pair.question.prompt_id for pair in control.pairs),
        clusters=tuple(cluster_of(pair) for pair in control.pairs),
        lengths=tuple((len(pair.student), len(pair.teacher)) for pair in control.pairs),
        judgments=judgments,
        graded=control.graded,
    )
