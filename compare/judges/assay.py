"""A judge at work: first on pairs whose better side is known, then on student and teacher.

In: a judge, controls, pairs. Out: `Judged`, plain values to be kept. Knows nothing of margins or of
what the judgments amount to. A judge that fails a control is asked no more, if so configured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from compare.judges.controls import Control
from compare.judges.protocol import Claim, Judge, Judgment, Pair, Usage
from potstill.schema import Value


class IsSound(Protocol):
    """Whether what was said of the controls so far is what a sound judge says."""

    def __call__(self, controls: Sequence[ControlJudged], *, measures: bool) -> bool:
        """Tell it of a judge that prefers, or of one that measures."""


class ControlJudged(Value):
    """What a judge said of one control."""

    name: str
    expected: str
    prompt_ids: tuple[str, ...]
    clusters: tuple[str, ...]
    """The independent observation that each pair is part of."""
    lengths: tuple[tuple[int, int], ...]
    """Characters of the changed answer and of the teacher's own."""
    judgments: tuple[Judgment, ...] | None
    """None when it was left out because an earlier control had failed."""

    @property
    def said(self) -> tuple[Judgment, ...]:
        """The judgments; none when it was left out."""
        return self.judgments or ()

    @property
    def decided_clusters(self) -> list[str]:
        """The clusters of the pairs that were decided."""
        judged = zip(self.said, self.clusters, strict=bool(self.said))
        return [cluster for one, cluster in judged if one.score is not None]


class Judged(Value):
    """All that a judge has said."""

    name: str
    kind: str
    claim: Claim
    measures: bool
    model: str | None
    controls: tuple[ControlJudged, ...] = ()
    judgments: tuple[Judgment, ...] | None = None
    """Of student and teacher; None when a control had failed before."""
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
        cluster_of: Names the independent observation that a pair is part of.
        is_sound: Whether what was said of the controls so far is what a sound judge says.
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
        model=judge.model,
        controls=tuple(done),
        judgments=judged,
        usage=judge.usage(),
    )
