"""The report as one HTML page that needs no network and no second file.

In: a `Report`, whose texts are untrusted. Out: HTML.
"""

from __future__ import annotations

from collections import Counter

from compare.comparison import Report
from compare.report import gate, task, versions
from compare.report.charts import Axis, loss_budget, quality_chart
from compare.report.minus import minus_signs
from compare.report.summary import answer, size, summarize
from compare.report.table import (
    FIDELITY_HEADINGS,
    HEADINGS,
    QUANTIZED_HEADINGS,
    cells,
    fidelity_cells,
    quantized_cells,
)
from compare.verdict.examples import Example
from compare.verdict.figures import bounds_in_words
from compare.verdict.results import JudgeReport
from potstill import pages
from potstill.fidelity import NUM_CONFIDENCE_BINS
from potstill.verdict.outcome import Outcome

SYMBOLS = {
    Outcome.PASS: "✓",
    Outcome.FAIL: "✗",
    Outcome.INCONCLUSIVE: "?",
    Outcome.INVALID_JUDGE: "!",
}
"""For readers who do not see the color."""
RESULTS = {
    "student": "student better",
    "tie": "tie",
    "teacher": "teacher better",
    "none": "not judged",
}


def render_page(report: Report) -> str:
    """Return the whole page."""
    decider = report.verdict.decider
    shown = [(example, result(example, decider)) for example in report.examples]
    return pages.render_page(
        "compare",
        "report/report.html.j2",
        script="report/report.js",
        report=report,
        verdict=report.verdict,
        decider=decider,
        answer=answer(report.verdict),
        task=task,
        gate=gate,
        versions=versions,
        bounds_in_words=bounds_in_words,
        minus_signs=minus_signs,
        axis_of=Axis.of,
        symbols=SYMBOLS,
        sentences=summarize(report)[1:],
        headings=HEADINGS,
        table=[(row, cells(row)) for row in report.rows],
        bars=loss_budget(report),
        fidelity_headings=FIDELITY_HEADINGS,
        fidelity_table=[(row, fidelity_cells(row)) for row in report.rows],
        chart=quality_chart(report.quantized),
        quantized_headings=QUANTIZED_HEADINGS,
        quantized_table=[(file, quantized_cells(file)) for file in report.quantized],
        num_confidence_bins=NUM_CONFIDENCE_BINS,
        size=size,
        examples=shown,
        results=RESULTS,
        filters=filters(shown),
    )


def result(example: Example, decider: JudgeReport | None) -> str:
    """Return which answer is better by the judge that decides: a key of RESULTS."""
    said = example.judgments.get(decider.name) if decider else None
    if said is None or said.score is None:
        return "none"
    return "tie" if said.score == 0.5 else "student" if said.score > 0.5 else "teacher"


def filters(shown: list[tuple[Example, str]]) -> dict[str, dict[str, int]]:
    """Return the properties to filter examples by: their values, if several, with counts."""
    found: dict[str, Counter[str]] = {"result": Counter(one for _, one in shown)}
    for example, _ in shown:
        for key, value in example.slices.items():
            found.setdefault(key, Counter())[value] += 1
    return {key: dict(counts.most_common()) for key, counts in found.items() if len(counts) > 1}
