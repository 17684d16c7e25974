"""Tables in CSV as spreadsheets export them: prompts and answers in named columns.

In: lines of text, separated by commas, semicolons or tabs. Out: a dictionary by column for each
row, with the number of its line.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator

logger = logging.getLogger(__name__)

CSV_SUFFIXES = {".csv", ".tsv"}
PROMPT, ANSWER = "prompt", "answer"
READ = {PROMPT, ANSWER, "source", "license"}
"""Columns that are read; others are left alone."""
DELIMITERS = ",;\t"
EXPECTED_CSV = (
    'a first line that names the columns, "prompt" and "answer" among them, and a row for each '
    "prompt"
)


class CsvError(ValueError):
    """A table that cannot be read; the message is what was found."""

    def __init__(self, line: int, found: str) -> None:
        super().__init__(found)
        self.line = line
        """Number of the line at fault, from 1."""


def read_csv(lines: Iterable[str], *, by_place: int) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each row's first line, and its cells without white space around them.

    Empty rows and cells are left out.

    Args:
        lines: The first one names the columns.
        by_place: A table of at most so many columns needs no names: the first column is the prompt
            and the second the answer.

    Raises:
        CsvError: There is no column of prompts, or a row has no prompt, more or fewer cells than
            there are columns, or a quotation mark without its end.
    """
    remaining = iter(lines)
    first = next(remaining, "").removeprefix("\ufeff")
    given, delimiter = max(((_heading(first, one), one) for one in DELIMITERS), key=_num_columns)
    columns = _columns(given, by_place)
    number = 2
    reader = csv.reader(remaining, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if row := _row(cells, columns, number):
                if columns != given and row.get(ANSWER) in given[1:]:
                    raise CsvError(
                        1, f"{first.strip()}, which is a row: it has the answer of another"
                    )
                yield number, row
            number = reader.line_num + 2
    except csv.Error as error:
        raise CsvError(number, f"not CSV: {error}") from error


def _heading(line: str, delimiter: str) -> list[str]:
    """Return the cells of the first line, without empty ones at its end."""
    try:
        cells = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error as error:
        raise CsvError(1, f"not CSV: {error}") from error
    return _without_empty_end([one.strip() for one in cells], 0)


def _num_columns(heading: tuple[list[str], str]) -> int:
    return len(heading[0])


def _columns(given: list[str], by_place: int) -> list[str]:
    """Return the names of columns, those that are read in lower case."""
    names = [one.lower() if one.lower() in READ else one for one in given]
    missing = [one for one in (PROMPT, ANSWER) if one not in names]
    if missing and 0 < len(names) <= by_place:
        named = [one if one in READ else missing.pop(0) for one in names]
        logger.info("columns of the table: %s", dict(zip(given, named, strict=True)))
        names = named
    if names.count(PROMPT) != 1 or names.count(ANSWER) > 1:
        raise CsvError(1, f"columns {', '.join(map(repr, given)) or 'none'}")
    return names


def _row(cells: list[str], columns: list[str], number: int) -> dict[str, str]:
    """Return the cells that are read, by column; empty for an empty row."""
    cells = _without_empty_end([one.strip() for one in cells], len(columns))
    if not any(cells):
        return {}
    if len(cells) != len(columns):
        raise CsvError(number, f"cells in the row: {len(cells)}, columns: {len(columns)}")
    row = {name: cell for name, cell in zip(columns, cells, strict=True) if cell and name in READ}
    if PROMPT not in row:
        raise CsvError(number, "a row without a prompt")
    return row


def _without_empty_end(cells: list[str], fewest: int) -> list[str]:
    while len(cells) > fewest and not cells[-1]:
        cells.pop()
    return cells
