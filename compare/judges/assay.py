"""A judge's work: first on pairs whose better side is known, then on student and teacher.

In: a judge, controls, pairs. Out: `Judged`, plain values to store. A judge that fails a control is
not asked further, if so configured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from compare.judges.controls import Control
from compare.judges.protocol import Claim, Judge, Judgment, Pair, Usage
from potstill.schema import Value


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
) -> Judged:
    """Judge the controls and then, unless the judge has failed one, the pairs.

    Args:
        cluster_of: Names the cluster of a pair.
        is_sound: Whether the judge has passed the checks that the controls so far allow.
    """
    done: list[ControlJudged] = []
    sound = True
    for control in controls:
        judgments = None
        if sound or not stop_early:
            judgments = tuple(judge.judge(control.pairs, control.name))
        done.append(
            ControlJudged(
                name=control.name,
                expected=control.expected,
                prompt_ids=tuple(pair.question.prompt_id for pair in control.pairs),
                clusters=tuple(cluster_of(pair) for pair in control.pairs),
                lengths=tuple((len(pair.student), len(pair.teacher)) for pair in control.pairs),
                judgments=judgments,
            )
        )
        sound = sound and (judgments is None or is_sound(done, measures=judge.measures))
    judged = tuple(judge.judge(pairs, "student and teacher")) if sound or not stop_early else None
    return Judged(
        name=judge.name,
        kind=judge.kind,
        claim=judge.claim,
        measures=judge.measures,
        needs_assay=judge.needs_assay,
        model=judge.model,
        controls=tuple(done),
        judgments=judged,
        usage=judge.usage(),
    )
