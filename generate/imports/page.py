"""The page about traces: what an inspection counted, with the largest clusters of questions.

In: an inspection, whose texts are untrusted. Out: HTML.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from generate.imports.inspection import Inspection
from potstill import pages
from potstill.charts import Chart, bar_chart, histogram

Rows = list[tuple[str, int]]

MOST_ROWS = 12
"""Of a table; the rest is one row."""


def render_inspection(inspection: Inspection, title: str) -> str:
    """Return the whole page.

    Args:
        title: Where the traces came from.
    """
    return pages.render_page(
        "generate.imports",
        "traces.html.j2",
        title=title,
        inspection=inspection,
        sentences=sentences(inspection),
        charts=_charts(inspection),
        tables=list(_tables(inspection)),
        clusters=inspection.clusters(),
    )


def sentences(inspection: Inspection) -> list[str]:
    """Return the most important figures as sentences."""
    failed = sum(inspection.errors.values())
    answers = sum(inspection.answer_lengths.values())

    def share(count: int) -> str:
        return f"{count:,} ({count / max(inspection.num_requests, 1):.1%})"

    said = [
        f"{inspection.num_requests:,} requests with {answers:,} answers; {share(failed)} ended in "
        f"an error, {share(inspection.choices[0])} have no answer.",
        f"{share(inspection.num_duplicates)} repeat an earlier request.",
        f"{share(inspection.num_personal)} contain personal data.",
    ]
    if inspection.num_known:
        said.append(f"{share(inspection.num_known)} have a known answer.")
    if inspection.num_unreadable:
        said.append(f"{inspection.num_unreadable:,} could not be read.")
    for name, scored in inspection.scored.items():
        wrong = inspection.failed[name]
        said.append(f"{wrong:,} of {scored:,} answers ({wrong / scored:.1%}) fail {name}.")
    if inspection.task and not inspection.scored:
        said.append("No metric of the task can judge answers without known ones.")
    return said


def _charts(inspection: Inspection) -> list[Chart]:
    languages = inspection.languages.most_common(8)
    return [
        histogram(
            "Requests by length",
            "characters of all messages before the answer",
            inspection.question_lengths,
        ),
        histogram("Answers by length", "characters", inspection.answer_lengths),
        histogram("Requests by turns", "messages of the user", inspection.turns),
        bar_chart(
            "Requests by language",
            "of the user's messages; unknown for numbers and code",
            [name for name, _ in languages],
            [count for _, count in languages],
        ),
    ]


def _tables(inspection: Inspection) -> Iterator[tuple[str, tuple[str, str], Rows]]:
    """Yield each table's title, the names of its columns, and its rows."""
    for title, columns, counts in (
        ("Sources", ("file", "requests"), inspection.sources),
        ("Models", ("model", "requests"), inspection.models),
        ("Calls of tools", ("tool", "calls"), inspection.tools),
        ("Errors", ("error", "requests"), inspection.errors),
        ("Personal data", ("kind", "requests"), inspection.personal),
    ):
        if counts:
            yield title, columns, _rows(counts)


def _rows(counts: Counter[str]) -> Rows:
    rows = counts.most_common(MOST_ROWS)
    rest = sum(counts.values()) - sum(count for _, count in rows)
    return [*rows, ("others", rest)] if rest else rows
