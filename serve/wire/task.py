"""The served task on the wire."""

from __future__ import annotations

from typing_extensions import TypedDict


class TaskView(TypedDict):
    """What the run's student is for."""

    metrics: list[str]
    """What makes an answer good; the first one decides."""
    label_field: str | None
    """Dotted path of the label in an answer that is JSON; None: there is none."""
    examples: list[str]
    """Messages to try."""
