"""A plot of KL over size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from potstill.facts.gguf import GgufFile
from potstill.files import disk_errors, replacing

COLORS = {"student": "#0072b2", "teacher": "#d55e00"}
"""Distinguishable for color-blind readers (Okabe & Ito 2008)."""

LOWEST_KL_NATS = 1e-8
"""Lower KL is drawn here: a logarithmic axis has no zero."""


def draw_quality(files: Sequence[GgufFile], recommended: str, png_path: Path) -> None:
    """Draw each file's mean KL over its size, and the Pareto front of each model's files.

    Raises:
        ArtifactError: The picture cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), dpi=120, layout="constrained")
    panel = figure.subplots()
    for role, color in COLORS.items():
        own = [file for file in files if file.role == role]
        front = sorted((one for one in own if one.on_pareto_front), key=_megabytes)
        panel.plot(
            [_megabytes(file) for file in front],
            [_height(file) for file in front],
            color=color,
            linewidth=1.2,
            alpha=0.6,
            label=f"{role}: Pareto front" if front else None,
        )
        for file in own:
            on_front, best = file.on_pareto_front, file.name == recommended
            panel.errorbar(
                _megabytes(file),
                _height(file),
                yerr=file.kl_standard_error_nats,
                fmt="*" if best else "o",
                markersize=13 if best else 6,
                color=color,
                markerfacecolor=color if on_front else "white",
                capsize=2,
                linewidth=0.8,
            )
            # The student has most files: its labels go below the front, where no points are.
            below = on_front and role == "student"
            panel.annotate(
                file.type,
                (_megabytes(file), _height(file)),
                xytext=(-6, -6) if below else (6, 6),
                textcoords="offset points",
                horizontalalignment="right" if below else "left",
                verticalalignment="top" if below else "bottom",
                fontsize="small",
                color=color,
            )
    panel.set_yscale("log")
    panel.set_xlabel("size of the file, MB")
    panel.set_ylabel("mean KL to its checkpoint, nats per token, ± standard error")
    panel.set_title("Quality against bytes (star: recommended)", fontsize="medium")
    panel.margins(0.12)
    panel.grid(alpha=0.25, which="major")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(edgecolor="none", framealpha=0.8, fontsize="small")
    with disk_errors("drawing the files' quality", png_path), replacing(png_path) as temporary:
        figure.savefig(temporary, format="png")


def _megabytes(file: GgufFile) -> float:
    return file.bytes / 1e6


def _height(file: GgufFile) -> float:
    return max(file.kl_to_checkpoint_nats, LOWEST_KL_NATS)
