"""The answer's query returns the rows of the known query, in SQLite.

Queries run in a child process: nothing interrupts a function of SQLite's, such as `instr`, which
takes a minute for two texts of a megabyte.
"""

from __future__ import annotations

import re
import sqlite3
import time
import weakref
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from potstill.errors import ConfigError
from potstill.task.answers import Answer, Item, Score
from potstill.task.metrics.config import SqlConfig
from potstill.workers import (
    Handler,
    Worker,
    WorkerError,
    WorkerTimeoutError,
    environment_without_secrets,
    json_handler,
)

FENCE = re.compile(r"```(?:sql)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
STEPS_PER_LOOK = 10_000
"""Instructions of SQLite's virtual machine between two checks of the time."""
MAX_VALUE_BYTES = 1_000_000
"""Longest text or blob that a query may build."""
MAX_GROWTH_BYTES = 1 << 30
"""1 GiB: of the child, for what a query sorts and keeps."""
GRACE_SECONDS = 2.0
"""How much longer than a query the child may take, on a machine that is busy."""
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
        self._worker = Worker(
            f"{__name__}:service",
            str(config.database.resolve()),
            config.timeout_seconds,
            config.max_rows,
            growth_bytes=MAX_GROWTH_BYTES,
            environment=environment_without_secrets(),
        )
        weakref.finalize(self, self._worker.close)

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
        seconds = self._config.timeout_seconds
        try:
            answer = self._worker.ask_json({"query": query}, seconds + GRACE_SECONDS)
        except WorkerTimeoutError as error:
            raise SqlError(f"no result within {seconds:g} s") from error
        except WorkerError as error:
            raise SqlError("the query ends SQLite") from error
        if "problem" in answer:
            raise SqlError(answer["problem"])
        return [tuple(map(_from_json, row)) for row in answer["rows"]]


def service(database: str, timeout_seconds: float, max_rows: int) -> Handler:
    """Return a handler that answers a query with its rows, or with the problem that it has."""

    def answer(request: dict[str, Any]) -> dict[str, object]:
        try:
            rows = _fetched(Path(database), request["query"], timeout_seconds, max_rows)
        except SqlError as error:
            return {"problem": str(error)}
        return {"rows": [tuple(map(_to_json, row)) for row in rows]}

    return json_handler(answer)


def _fetched(database: Path, query: str, timeout_seconds: float, max_rows: int) -> Rows:
    rows: Rows = []
    num_bytes = 0
    deadline = time.monotonic() + timeout_seconds
    with closing(open_read_only(database)) as connection:
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), STEPS_PER_LOOK)
        try:
            for row in connection.execute(query):
                num_bytes += sum(len(value) for value in row if isinstance(value, str | bytes))
                if len(rows) == max_rows or num_bytes > MAX_RESULT_BYTES:
                    raise SqlError(f"more than {max_rows} rows or {MAX_RESULT_BYTES} bytes")
                rows.append(tuple(map(_plain, row)))
        except MemoryError as error:
            raise SqlError(f"more than {MAX_GROWTH_BYTES >> 20} MiB of memory") from error
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            late = time.monotonic() > deadline
            limit = f"no result within {timeout_seconds:g} s"
            raise SqlError(limit if late else f"SQLite: {error}") from error
    return rows


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a database so that a query can neither change it nor reach other files.

    Raises:
        sqlite3.Error: It is missing or not a database.
    """
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    connection.execute("pragma temp_store = memory")  # which is limited, and a disk is not
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


def _to_json(value: object) -> object:
    return [value.hex()] if isinstance(value, bytes) else value


def _from_json(value: object) -> object:
    return bytes.fromhex(value[0]) if isinstance(value, list) else value
