"""The report as one HTML page that needs nothing else: no script, no network, no second file.

In: a `Report` and the answers, which are untrusted text. Out: HTML.
Knows nothing of how anything was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from compare.report.report import ModelRow, Report
from compare.report.summary import summarise
from compare.report.table import HEADINGS, NEARNESS_HEADINGS, cells, nearness_cells
from potstill import pages
from potstill.fidelity import NUM_CONFIDENCE_BINS

CHART_WIDTH_PERCENT = 84.0
"""What the longest bar and its whisker may take, so that the figure beside them has room."""


@dataclass(frozen=True)
class Bar:
    """One step of the loss budget; lengths are in percent of the chart's width."""

    row: ModelRow
    length: float
    low: float
    high: float


def render_page(report: Report, pairs: list[dict[str, Any]]) -> str:
    """Return the whole page.

    Args:
        report: The numbers.
        pairs: Rows of PAIR_SCHEMA, prompt by prompt.
    """
    return pages.render_page(
        "compare",
        "report/report.html.j2",
        report=report,
        sentences=summarise(report),
        headings=HEADINGS,
        table=[(row, cells(row)) for row in report.rows],
        bars=loss_budget(report),
        nearness_headings=NEARNESS_HEADINGS,
        nearness_table=[(row, nearness_cells(row)) for row in report.rows],
        num_confidence_bins=NUM_CONFIDENCE_BINS,
        prompts=[list(group) for _, group in groupby(pairs, key=lambda pair: pair["prompt_id"])],
    )


def loss_budget(report: Report) -> list[Bar]:
    """Return the bars of KL at each step where it is known, but of the sampled teacher: it is 0."""
    known = [
        (row, row.kl_nats, row.kl_standard_error)
        for row in report.rows
        if row.step != "sampled" and row.kl_nats is not None and row.kl_standard_error is not None
    ]
    widest = max((kl + error for _, kl, error in known), default=0.0) or 1.0
    scale = CHART_WIDTH_PERCENT / widest
    return [
        Bar(
            row=row,
            length=max(kl, 0.0) * scale,
            low=max(kl - error, 0.0) * scale,
            high=max(kl + error, 0.0) * scale,
        )
        for row, kl, error in known
    ]
