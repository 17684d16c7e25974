"""A learning curve as a picture: the task's metric against the amount of training data.

In: the facts of the stage `curve`. Out: a PNG.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from potstill.facts.curve import CurveFacts, CurvePoint
from potstill.files import disk_errors, replacing

WIDTH, HEIGHT = 6.4, 4.0


def draw_learning_curve(facts: CurveFacts, path: Path) -> None:
    """Draw measured points with their intervals, and what more data would reach.

    Raises:
        ArtifactError: The disk is full.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    last = facts.points[-1]
    _draw(axes, facts.points, fmt="o-", color="C0", label="measured")
    _draw(axes, (last, *facts.projections), fmt="s--", color="C1", label="power law", alpha=0.8)
    axes.set_xscale("log", base=2)
    counts = [one.num_conversations for one in (*facts.points, *facts.projections)]
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.set_xlabel("training conversations")
    axes.set_ylabel(f"{facts.metric}, {facts.num_references} references")
    low, high = facts.exponent.low, facts.exponent.high
    axes.set_title(f"error falls by the power {facts.exponent.value:.2f} ({low:.2f} to {high:.2f})")
    axes.grid(alpha=0.3)
    axes.legend()
    with disk_errors("drawing the learning curve", path), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _draw(axes: Any, points: Sequence[CurvePoint], **style: Any) -> None:  # noqa: ANN401
    values = [point.figure.value for point in points]
    below = [max(0.0, point.figure.value - point.figure.low) for point in points]
    above = [max(0.0, point.figure.high - point.figure.value) for point in points]
    counts = [point.num_conversations for point in points]
    axes.errorbar(counts, values, yerr=[below, above], capsize=3, **style)
