"""The versions of the student as a table.

In: a report's `VersionRow`s. Out: texts.
"""

from __future__ import annotations

from potstill.versions import VersionRow, counts_in_words

HEADINGS = ("version", "run", "made", "trained from", "learned from", "file", "verdict")


def cells(row: VersionRow) -> tuple[str, ...]:
    """Return a version as text under HEADINGS, without its verdict."""
    return (
        str(row.number),
        row.run,
        row.made_at[:16].replace("T", " "),
        "—" if row.parent is None else f"version {row.parent}",
        counts_in_words(row.num_prompts) or "—",
        row.file,
    )
