"""The task's part of the report: what decides, who else could do it, what goes wrong.

In: a `Report` of a task with known answers. Out: sentences, and cells of tables.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table

from compare.candidates.chosen import BASELINE
from compare.candidates.rows import Bounded, CandidateRow
from compare.comparison import Report
from compare.report.minus import minus_signs
from compare.report.summary import size
from compare.verdict.examples import Example
from compare.verdict.figures import Estimate, bound
from compare.verdict.results import JudgeReport, Verdict

HEADINGS = (
    "candidate",
    "metric",
    "student ahead",
    "known\nanswers",
    "prompt\ntokens",
    "answer\ntokens",
    "seconds an\nanswer",
    "Wh a\nthousand",
    "size",
)
SHOWN_IN_TERMINAL = (0, 1, 2, 6, 8)
"""Columns that fit into 80 characters."""
UNKNOWN = "—"
MOST_DISAGREEMENTS = 20
MOST_LABELS_SHOWN = 40
"""More labels than this make no readable matrix."""


def headline(report: Report) -> str | None:
    """Return the verdict on the task in one sentence; None without a valid metric."""
    decider = report.verdict.decider
    if not report.candidates or decider is None or decider.estimate is None:
        return None
    estimate = decider.estimate
    parts = [
        f"{report.verdict.outcome.replace('_', ' ')}: {_mean(estimate.student_mean)} "
        f"{_unit(decider)}, the teacher {_mean(estimate.teacher_mean)} "
        f"(difference {_difference(estimate, report.verdict)}, "
        f"margin {report.verdict.margin:g})",
        *_ratios(report),
        *_price(report),
    ]
    return ", ".join(parts) + "."


def sentences(report: Report) -> list[str]:
    """Return what the teacher brought, the tokens saved, and the agreement of both models."""
    if not report.candidates:
        return []
    return [*_teachers_part(report), *_tokens_saved(report), *_agreement(report), *_energy(report)]


def cells(row: CandidateRow) -> tuple[str, ...]:
    """Return a candidate as text under HEADINGS."""
    return (
        f"{row.name} ({row.model})" if row.model and row.model not in row.name else row.name,
        _bounded(row.metric, sign=False),
        UNKNOWN if row.student_ahead is None else _bounded(row.student_ahead, sign=True),
        UNKNOWN if row.num_examples is None else f"{row.num_examples:,}",
        _number(row.prompt_tokens, ",.0f"),
        _number(row.completion_tokens, ",.1f"),
        _number(row.seconds, ".3g"),
        _number(row.watt_hours, ".3g"),
        UNKNOWN if row.bytes is None else size(row.bytes),
    )


def render(report: Report) -> Table:
    """Return the candidates as a rich table for the terminal, without tokens and energy."""
    table = Table(title="who can do the task", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index in SHOWN_IN_TERMINAL:
        table.add_column(HEADINGS[index], justify="right" if index else "left")
    for row in report.candidates:
        texts = cells(row)
        style = "bold" if row.is_compared else None
        table.add_row(*(texts[index] for index in SHOWN_IN_TERMINAL), style=style)
    return table


def disagreements(report: Report) -> list[Example]:
    """Return examples that the metric that decides scores differently for both sides."""
    decider = report.verdict.decider
    if not report.candidates or decider is None:
        return []
    found = []
    for example in report.examples:
        said = example.judgments.get(decider.name)
        if said is not None and said.student_value != said.teacher_value:
            found.append(example)
    return found[:MOST_DISAGREEMENTS]


def matrices(report: Report) -> list[JudgeReport]:
    """Return the metrics with a confusion matrix that can be read."""
    return [
        judge
        for judge in report.verdict.judges
        if judge.labels and len(judge.labels["student"].labels) <= MOST_LABELS_SHOWN
    ]


def _unit(decider: JudgeReport) -> str:
    return "right" if decider.discordance is not None else f"by {decider.name}"


def _difference(estimate: Estimate, verdict: Verdict) -> str:
    lower, upper = (
        bound(one, estimate.threshold, digits=2, sign="+")
        for one in (estimate.lower, estimate.upper)
    )
    bounds = minus_signs(f"{lower} to {upper}")
    if verdict.basis == "followed":
        return f"{_signed(estimate.value)}, {bounds} at all comparisons together"
    return f"{_signed(estimate.value)}, {100 * (1 - 2 * verdict.level):g}% interval {bounds}"


def _ratios(report: Report) -> Iterator[str]:
    student, teacher = _row(report, "student"), _row(report, "teacher")
    if student.bytes and teacher.bytes:
        yield _times(teacher.bytes / student.bytes, "smaller", "larger")
    if student.seconds and teacher.seconds:
        yield _times(teacher.seconds / student.seconds, "as fast", "as slow")


def _price(report: Report) -> Iterator[str]:
    student = _row(report, "student")
    costs = []
    if student.dollars is not None:
        costs.append(f"${student.dollars:.2g}")
    if student.watt_hours is not None:
        about = "" if student.is_energy_measured else "an estimated "
        costs.append(f"{about}{student.watt_hours:.2g} Wh")
    if costs:
        yield f"{' and '.join(costs)} a thousand answers"


def _teachers_part(report: Report) -> Iterator[str]:
    for row in report.candidates:
        if row.key == BASELINE and row.student_ahead is not None:
            ahead = row.student_ahead
            low, high = 100 * ahead.lower, 100 * ahead.upper
            yield (
                f"Training on the teacher's answers: {_points(100 * ahead.value)} points over the "
                f"same student trained on the {row.num_examples:,} known answers alone "
                f"({100 * (1 - 2 * report.verdict.alpha):g}% interval {_points(low)} to "
                f"{_points(high)}, {row.num_prompts:,} prompts)."
            )


def _tokens_saved(report: Report) -> Iterator[str]:
    student, teacher = _row(report, "student"), _row(report, "teacher")
    if student.prompt_tokens and teacher.prompt_tokens:
        share = student.prompt_tokens / teacher.prompt_tokens
        if share < 1:
            yield (
                f"The student's prompts have {student.prompt_tokens:,.0f} tokens on average, the "
                f"teacher's {teacher.prompt_tokens:,.0f}: {1 - share:.0%} fewer."
            )


def _agreement(report: Report) -> Iterator[str]:
    for judge in report.verdict.judges:
        if judge.kind == "metric" and judge.claim == "similarity" and judge.estimate:
            metric = judge.name.partition(":")[0]
            share = judge.estimate.student_mean
            yield (
                f"The student's answers agree with the teacher's on {share:.0%} of the prompts "
                f"({metric})."
            )


def _energy(report: Report) -> Iterator[str]:
    rows = [row for row in report.candidates if row.watt_hours is not None]
    if rows and not any(row.is_energy_measured for row in rows):
        yield (
            "Energy is an estimate: processor time times compare.cost.watts_per_cpu; this "
            "machine's energy counters cannot be read."
        )


def _row(report: Report, key: str) -> CandidateRow:
    return next(row for row in report.candidates if row.key == key)


def _times(ratio: float, more: str, less: str) -> str:
    word = more if ratio >= 1 else less
    ratio = max(ratio, 1 / ratio)
    return f"{ratio:.0f} times {word}" if ratio >= 10 else f"{ratio:.1f} times {word}"


def _mean(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


def _signed(value: float) -> str:
    return minus_signs(f"{value:+.2f}")


def _points(value: float) -> str:
    return minus_signs(f"{value:+.1f}")


def _number(value: float | None, pattern: str) -> str:
    return UNKNOWN if value is None else format(value, pattern)


def _bounded(found: Bounded, *, sign: bool) -> str:
    plus = "+" if sign else ""
    text = f"{found.value:{plus}.3f} [{found.lower:{plus}.3f}, {found.upper:{plus}.3f}]"
    return minus_signs(text)
