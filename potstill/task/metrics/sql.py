"""The answer's query returns the rows of the known query, in SQLite."""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from potstill.errors import ConfigError
from potstill.task.answers import Answer, Item, Score
from potstill.task.metrics.config import SqlConfig

FENCE = re.compile(r"```(?:sql)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
STEPS_PER_LOOK = 10_000
"""Instructions of SQLite's virtual machine between two checks of the time."""
MAX_VALUE_BYTES = 1_000_000
"""Longest text or blob that a query may build."""
MAX_RESULT_BYTES = 10_000_000
"""Most text that a result may hold."""
ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
"""Permitted actions of a query; all others, such as ATTACH, PRAGMA and every write, are refused."""
DECIMALS = 6
"""Digits after the point up to which results are compared: sums depend on the order of rows."""

Rows = list[tuple[object, ...]]


class SqlError(Exception):
    """A query that cannot be run to its end."""


class Sql:
    """Runs both queries read-only, under limits of time, rows and the size of values.

    Rows are compared as a multiset, and in order where the known query sorts.

    Raises:
        ConfigError: The database cannot be opened.
    """

    needs_known = True

    def __init__(self, config: SqlConfig) -> None:
        self.name = config.name or config.kind
        self._config = config
        try:
            with closing(open_read_only(config.database)) as connection:
                connection.execute("select count(*) from sqlite_master")
        except sqlite3.Error as error:
            raise ConfigError(
                "the database of the metric cannot be read",
                where=f"task.metrics: {config.database}",
                found=error,
            ) from error

    def score(self, answer: Answer, item: Item) -> Score:
        """Return 1 for the same rows, else 0; a query that fails or never ends scores 0."""
        known = query_in(item.known.text) if item.known else ""
        try:
            expected = self._rows(known)
        except SqlError as error:
            return Score(value=0.0, problem=f"the known query fails: {error}")
        try:
            found = self._rows(query_in(answer.text))
        except SqlError as error:
            return Score(value=0.0, problem=str(error))
        equal = Counter(found) == Counter(expected)
        if equal and re.search(r"\border\s+by\b", known, re.IGNORECASE):
            equal = found == expected
        problem = None if equal else f"{len(found)} rows, expected {len(expected)}"
        return Score(value=float(equal), problem=problem)

    def key(self, answer: Answer) -> str | None:
        """Return the rows of the query, whatever their order; None for one that fails."""
        try:
            return repr(sorted(map(repr, self._rows(query_in(answer.text)))))
        except SqlError:
            return None

    def _rows(self, query: str) -> Rows:
        config = self._config
        deadline = time.monotonic() + config.timeout_seconds
        with closing(open_read_only(config.database)) as connection:
            connection.set_progress_handler(
                lambda: int(time.monotonic() > deadline), STEPS_PER_LOOK
            )
            try:
                return self._fetched(connection.execute(query))
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                late = time.monotonic() > deadline
                limit = f"no result within {config.timeout_seconds:g} s"
                raise SqlError(limit if late else f"SQLite: {error}") from error

    def _fetched(self, cursor: sqlite3.Cursor) -> Rows:
        rows: Rows = []
        num_bytes = 0
        for row in cursor:
            num_bytes += sum(len(value) for value in row if isinstance(value, str | bytes))
            if len(rows) == self._config.max_rows or num_bytes > MAX_RESULT_BYTES:
                raise SqlError(
                    f"more than {self._config.max_rows} rows or {MAX_RESULT_BYTES} bytes"
                )
            rows.append(tuple(map(_plain, row)))
        return rows


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a database so that a query can neither change it nor reach other files.

    Raises:
        sqlite3.Error: It is missing or not a database.
    """
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    connection.set_authorizer(
        lambda action, *_: sqlite3.SQLITE_OK if action in ALLOWED else sqlite3.SQLITE_DENY
    )
    return connection


def query_in(text: str) -> str:
    """Return the query in an answer: in its first code block, or the whole text."""
    fenced = FENCE.search(text)
    return (fenced[1] if fenced else text).strip().rstrip(";")


def _plain(value: object) -> object:
    return round(float(value), DECIMALS) if isinstance(value, int | float) else value
