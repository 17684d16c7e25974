"""The gate in words: what was required and found.

In: a `Verdict` with a gate. Out: sentences, and cells of a table.
"""

from __future__ import annotations

from compare.report.minus import minus_signs
from compare.verdict.figures import bound
from compare.verdict.results import GateRow, Verdict

HEADINGS = ("requirement", "measured", "found [bounds]", "needed", "items", "outcome")


def sentences(verdict: Verdict) -> list[str]:
    """Return all requirements in one sentence, and what PASS claims; nothing without a gate."""
    if not verdict.gate:
        return []
    return [f"Gate, all of which PASS needs: {'; '.join(map(in_words, verdict.gate))}."]


def in_words(row: GateRow) -> str:
    """Return a requirement with its outcome, and what was found."""
    outcome = row.outcome.replace("_", " ")
    optional = "" if row.required else " (not required)"
    details = [f"{row.measured} {found(row)}"] if row.value is not None else []
    if row.value is not None and row.threshold is not None:
        details.append(f"needs {needed(row)}")
    if row.num_items:
        details.append(f"{row.num_items:,} items")
    if row.note is not None:
        details.append(row.note)
    return f"{row.name}{optional} {outcome} ({', '.join(details)})"


def cells(row: GateRow) -> tuple[str, ...]:
    """Return a requirement as text under HEADINGS, without its outcome."""
    note = "" if row.note is None else f"; {row.note}"
    return (
        f"{row.name}{'' if row.required else ', not required'}",
        f"{row.measured}{note}",
        found(row),
        needed(row),
        f"{row.num_items:,}" if row.num_items else "—",
    )


def found(row: GateRow) -> str:
    """Return the value with its bounds."""
    if row.value is None:
        return "—"
    if row.lower is None or row.upper is None:
        return f"{row.value:.3g}"
    plus = "+" if _is_change(row) else ""
    lower, upper = (bound(one, row.threshold, sign=plus) for one in (row.lower, row.upper))
    text = f"{row.value:{plus}.3f} [{lower}, {upper}]"
    return minus_signs(text)


def needed(row: GateRow) -> str:
    """Return the threshold, and on which side of it the lower bound or the value must be."""
    if row.threshold is None:
        return "—"
    relation = "at most" if row.value is not None and row.lower is None else "above"
    plus = "+" if _is_change(row) else ""
    return minus_signs(f"{relation} {row.threshold:{plus}.3g}")


def _is_change(row: GateRow) -> bool:
    return row.threshold is not None and row.threshold <= 0
