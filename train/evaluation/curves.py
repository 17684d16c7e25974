"""Curves of training: the loss, and the student's fidelity to the teacher.

In: the lines that training appended to `metrics.jsonl`. Out: one PNG.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from potstill.files import disk_errors, replacing

Line = dict[str, Any]
"""A line of metrics: its `step` and figures by name."""

DARK, BLUE, ORANGE, GREEN = "#333333", "#0072b2", "#d55e00", "#009e73"
"""Distinguishable with color blindness too (Okabe & Ito 2008)."""
ON_POLICY = "on_policy"
"""The `phase` of lines of training on the student's own answers."""
PANEL_INCHES = (4.4, 3.4)
FEW_POINTS = 40
"""Curves with at most this many points show each of them."""


@dataclass
class Curves:
    """Lines in order of steps, each step once."""

    training: list[Line] = field(default_factory=list)
    held_out: list[Line] = field(default_factory=list)


def draw_curves(metrics_path: Path, png_path: Path) -> None:
    """Draw the curves of a run's metrics; nothing if there are none.

    Raises:
        ArtifactError: The metrics cannot be read, or the picture not be written.
    """
    curves = read_curves(metrics_path)
    if not curves.training:
        return
    num_rows = 2 if curves.held_out else 1
    width, height = PANEL_INCHES
    figure = Figure(figsize=(3 * width, num_rows * height), dpi=120)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    panels = figure.subplots(num_rows, 3, sharex=True, squeeze=False)
    _draw_training(panels[0], curves.training)
    if curves.held_out:
        _draw_held_out(panels[1], curves.held_out)
    for panel in panels.flat:
        _finish(panel, curves.training)
    with disk_errors("drawing the curves of training", png_path), replacing(png_path) as temporary:
        figure.savefig(temporary, format="png")


def read_curves(metrics_path: Path) -> Curves:
    """Return the metrics of the last training.

    Resumed or restarted training writes its steps again: earlier lines for these and later steps
    are left out, as is a line that was cut off by a kill.

    Raises:
        ArtifactError: The file cannot be read.
    """
    curves = Curves()
    with disk_errors("reading metrics", metrics_path), metrics_path.open(encoding="utf-8") as lines:
        for text in lines:
            with suppress(json.JSONDecodeError):
                _add(curves, json.loads(text))
    return curves


def _add(curves: Curves, line: Line) -> None:
    if line.get("stage") != "student" or "step" not in line:
        return
    is_training = "loss" in line
    curves.held_out = [one for one in curves.held_out if one["step"] < line["step"]]
    if is_training:
        curves.training = [one for one in curves.training if one["step"] < line["step"]]
    (curves.training if is_training else curves.held_out).append(line)


def _draw_training(panels: Any, lines: list[Line]) -> None:  # noqa: ANN401  (an array of Axes)
    loss, rate, norm = panels
    loss.set(title="Training loss", ylabel="nats per token")
    offline = [one for one in lines if one.get("phase") != ON_POLICY]
    if _points(offline, "kd_nats")[0]:
        _curve(loss, offline, "ce_nats", ORANGE, "cross-entropy")
        _curve(loss, offline, "kd_nats", BLUE, "divergence from the teacher")
        _curve(loss, offline, "loss", DARK, "their mix", width=1.8)
    else:
        _curve(loss, offline, "loss", DARK, "cross-entropy", width=1.8)
    on_policy = [one for one in lines if one.get("phase") == ON_POLICY]
    _curve(loss, on_policy, "loss", GREEN, "divergence on its own answers", width=1.8)
    rate.set(title="Learning rate", ylabel="learning rate")
    _curve(rate, lines, "learning_rate", DARK)
    rate.ticklabel_format(axis="y", scilimits=(0, 0))
    norm.set(title="Gradient", ylabel="norm before clipping")
    _curve(norm, lines, "grad_norm", DARK)


def _draw_held_out(panels: Any, lines: list[Line]) -> None:  # noqa: ANN401
    nearness, agreement, calibration = panels
    nearness.set(title="Held-out loss", ylabel="nats per token, ± standard error")
    if _points(lines, "eval_kl_nats")[0]:
        _curve(nearness, lines, "eval_kl_estimate_nats", ORANGE, "KL to the teacher, estimated")
        _band(nearness, lines, "eval_kl_estimate_nats", "eval_kl_estimate_standard_error", ORANGE)
        _curve(nearness, lines, "eval_kl_nats", BLUE, "KL to the teacher, at least", width=1.8)
        _band(nearness, lines, "eval_kl_nats", "eval_kl_standard_error", BLUE)
    else:
        _curve(nearness, lines, "eval_nats_per_token", BLUE, "cross-entropy", width=1.8)
        _band(nearness, lines, "eval_nats_per_token", "eval_nats_standard_error", BLUE)
    _mark_best(nearness, lines)
    agreement.set(title="Held-out agreement with the teacher", ylabel="share of tokens")
    accepted = "eval_acceptance_estimate"
    if not _points(lines, accepted)[0]:
        accepted = "eval_acceptance_lower_bound"
    of = "" if accepted.endswith("estimate") else ", at least"
    _curve(agreement, lines, accepted, GREEN, f"drafts accepted{of}")
    _curve(agreement, lines, "eval_top1_agreement", BLUE, "same most probable token")
    calibration.set(title="Held-out calibration", ylabel="expected calibration error")
    _curve(calibration, lines, "eval_calibration_error", DARK)
    for panel in (agreement, calibration):
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))


def _curve(
    panel: Axes,
    lines: list[Line],
    name: str,
    color: str,
    label: str | None = None,
    width: float = 1.2,
) -> None:
    steps, values = _points(lines, name)
    if steps:
        marker = "o" if len(steps) <= FEW_POINTS else None
        panel.plot(
            steps, values, color=color, label=label, linewidth=width, marker=marker, markersize=3
        )


def _band(panel: Axes, lines: list[Line], name: str, error_name: str, color: str) -> None:
    both = [one for one in lines if name in one and error_name in one]
    if both:
        low, high = ([one[name] + side * one[error_name] for one in both] for side in (-1, 1))
        panel.fill_between([one["step"] for one in both], low, high, color=color, alpha=0.15, lw=0)


def _mark_best(panel: Axes, lines: list[Line]) -> None:
    steps, losses = _points(lines, "eval_loss")
    if len(steps) > 1:
        best = steps[losses.index(min(losses))]
        panel.axvline(best, color=DARK, linewidth=0.8, linestyle=":", label=f"best, step {best}")


def _finish(panel: Axes, training: list[Line]) -> None:
    """Add the parts common to all panels, and mark the borders of phases."""
    panel.title.set(fontweight="bold", fontsize="medium")
    panel.set_xlabel("optimizer step")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.tick_params(labelbottom=True)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_visible(bool(panel.lines))
    for before, after in pairwise(training):
        if before.get("phase") != after.get("phase"):
            panel.axvline(before["step"], color=DARK, linewidth=0.8, linestyle="--")
    if panel.get_legend_handles_labels()[1]:
        panel.legend(edgecolor="none", framealpha=0.8, fontsize="small")


def _points(lines: list[Line], name: str) -> tuple[list[int], list[float]]:
    """Return the steps at which a figure is known and finite, and its values."""
    known = [one for one in lines if math.isfinite(one.get(name, math.nan))]
    return [one["step"] for one in known], [one[name] for one in known]
