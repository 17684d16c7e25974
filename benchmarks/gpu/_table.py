"""Rows of a check: what was measured, what it should be, and whether it is.

A check is a function that yields rows; `run` turns what it lacks or fails with into rows too.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

FORMAT = "{:46} {:>22} {:>16}  {}"


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    value: str
    target: str = ""
    good: bool | None = None
    """Whether the target is met; None: there is none, or the check did not run."""

    def __str__(self) -> str:
        """Return the line as it is printed."""
        verdict = {True: "ok", False: "MISSED", None: ""}[self.good]
        return FORMAT.format(self.name, self.value, self.target, verdict).rstrip()


@dataclass(frozen=True)
class Check:
    """Rows to measure, and the packages without which they cannot be."""

    name: str
    rows: Callable[[], Iterator[Row]]
    packages: tuple[str, ...] = ()
    seconds: float = 60.0
    """About how long it takes on an H100."""


def missing_packages(names: tuple[str, ...]) -> list[str]:
    """Return the modules that cannot be imported here."""
    return [name for name in names if find_spec(name) is None]


class OutOfTimeError(Exception):
    """The time for all checks is over."""


def run(checks: list[Check], limit_seconds: float) -> Iterator[Row]:
    """Yield the rows of checks in turn, while there is time: one that takes longer is stopped."""
    end = time.monotonic() + limit_seconds
    for check in checks:
        if absent := missing_packages(check.packages):
            yield Row(check.name, f"not run: no {', '.join(absent)}")
        elif time.monotonic() + check.seconds > end:
            yield Row(check.name, "not run: no time left")
        else:
            try:
                yield from _until(end, check.rows())
            except OutOfTimeError:
                yield Row(check.name, "stopped: no time left")
            except Exception as error:  # a check that fails must not stop the others
                yield Row(check.name, f"{type(error).__name__}: {error}"[:300], good=False)


def _until(end: float, rows: Iterator[Row]) -> Iterator[Row]:
    while True:
        with _at_most(end - time.monotonic()):
            row = next(rows, None)
        if row is None:
            return
        yield row


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
