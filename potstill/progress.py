"""Log lines, progress bars, the current step for others to read, and a file of metrics.

In: counts and measurements. Out: stderr, and files of the run. stdout is left to data.
Prompts, completions and keys are never written.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, TextIO

from potstill.files import disk_errors, write_text_atomically
from potstill.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY_SECONDS = 60.0


def set_up_logging(*, verbose: bool = False) -> None:
    """Send log lines to stderr; called once, by the command line only."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        handlers=[_StderrHandler()],
    )
    for noisy in (
        "httpx",
        "httpx2",
        "httpcore",
        "openai",
        "urllib3",
        "asyncio",
        "filelock",
        "gguf",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for noisier in ("vllm", "transformers", "py.warnings"):
        logging.getLogger(noisier).setLevel(logging.DEBUG if verbose else logging.ERROR)
    logging.captureWarnings(True)
    os.environ.setdefault("TQDM_DISABLE", "1")  # other libraries' bars would break our own
    if not verbose:  # read by torch when it is loaded
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, which rich replaces while it shows a bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's lines; what they quote of others does not control the terminal."""
        return printable(super().format(record))

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _stream: TextIO) -> None:
        """Ignore it: the stream is always the current one."""


@dataclass(frozen=True)
class Step:
    """What a process does now, as it writes it for others to read."""

    time: float
    """When it was written, in seconds since 1970."""
    label: str
    done: int = 0
    total: int = 0
    """0 for a step without a count."""
    unit: str = ""
    timing: str = ""
    host: str = ""
    """The machine on which the process runs, and its id there."""
    pid: int = 0


class _Published:
    """The file in which this process says what it does, if there is one."""

    path: Path | None = None
    written: float = 0.0

    @property
    def is_due(self) -> bool:
        """Whether to write a step that goes on: once a second."""
        return self.path is not None and time.time() - self.written >= 1.0

    def write(
        self, label: str, done: int = 0, total: int = 0, unit: str = "", timing: str = ""
    ) -> None:
        """Write the step."""
        if self.path is None:
            return
        self.written = time.time()
        step = Step(self.written, label, done, total, unit, timing, gethostname(), os.getpid())
        with suppress(OSError):  # a full disk ends the work where it matters
            write_text_atomically(self.path, json.dumps(asdict(step)))


_published = _Published()


@contextmanager
def published(path: Path) -> Iterator[None]:
    """Keep the step that this process is at in a file for the duration of the block."""
    _published.path = path
    try:
        yield
    finally:
        _published.path = None
        path.unlink(missing_ok=True)


def read_step(path: Path) -> Step | None:
    """Return the step that a process has written; None if there is none that can be read."""
    try:
        return Step(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


class Progress:
    """A count towards a total: a bar on a terminal, a line a minute elsewhere."""

    def __init__(self, label: str, total: int, unit: str, at_once: int = 0) -> None:
        self._label, self._total, self._unit, self._at_once = label, total, unit, at_once
        self._done = 0
        self._resumed = 0
        self._note = ""
        self._started = self._last_line = time.monotonic()
        self._publish()

    def resume_from(self, done: int) -> None:
        """Count work of an earlier process, which does not affect the estimated time."""
        self._done = self._resumed = done

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more units as done; `note` is a short figure such as "310 tokens/s"."""
        self._done += amount
        self._note = note
        if _published.is_due:
            self._publish()
        self._show()

    def close(self) -> None:
        """Log the count and the elapsed time."""
        self._print_line()

    def _publish(self) -> None:
        _published.write(self._label, self._done, self._total, self._unit, self.timing())

    def _show(self) -> None:
        if time.monotonic() - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            self._print_line()

    def _print_line(self) -> None:
        _log(f"{self._label}: {self._done}/{self._total} {self._unit}, {self.timing()}")

    def timing(self) -> str:
        """Return the elapsed time, the estimated time left, and the note."""
        elapsed = time.monotonic() - self._started
        text = f"{_clock(elapsed)} elapsed"
        under_way = min(self._at_once, self._total - self._done) / 2
        fresh = self._done - self._resumed + under_way
        if fresh > 0 and self._done < self._total:
            text += f", {_clock(elapsed / fresh * (self._total - self._done - under_way))} left"
        return f"{text}, {self._note}" if self._note else text


class _BarProgress(Progress):
    def __init__(self, label: str, total: int, unit: str, at_once: int = 0) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        super().__init__(label, total, unit, at_once)
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[timing]}", markup=False),
            console=_console(),
        )
        self._task = self._bar.add_task(printable(f"{label} ({unit})"), total=total, timing="")
        self._bar.start()

    def _show(self) -> None:
        self._bar.update(self._task, completed=self._done, timing=self.timing())

    def close(self) -> None:
        self._show()
        self._bar.stop()


@contextmanager
def track(label: str, total: int, unit: str, at_once: int = 0) -> Iterator[Progress]:
    """Show progress of the block's work.

    Args:
        label: What is being done.
        total: How many units there are.
        unit: What is counted, in the plural.
        at_once: Units in progress at the same time; the estimate counts each as half done.
    """
    kind = _BarProgress if sys.stderr.isatty() else Progress
    progress = kind(label, total, unit, at_once)
    try:
        yield progress
    finally:
        progress.close()


@contextmanager
def announced(label: str, about_seconds: float | None = None) -> Iterator[None]:
    """Log the beginning and the duration of a step without a count.

    Args:
        label: What is being done.
        about_seconds: How long it usually takes, for a step that may last longer than 10 s.
    """
    usual = "" if about_seconds is None else f" (about {_clock(about_seconds)})"
    _log(f"{label}{usual} …")
    _published.write(label)
    started = time.monotonic()
    with _spinner(label) if sys.stderr.isatty() else nullcontext():
        yield
    _log(f"{label}: done in {_clock(time.monotonic() - started)}")


@contextmanager
def _spinner(label: str) -> Iterator[None]:
    from rich.progress import Progress as RichProgress
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with RichProgress(*columns, console=_console(), transient=True) as spinner:
        spinner.add_task(printable(label))
        yield


@cache
def _console() -> Console:
    """Return the one console of all bars: rich stacks bars of one console."""
    from rich.console import Console

    return Console(stderr=True)


def append_metrics(path: Path, stage: str, **values: float | int | str) -> None:
    """Append one line of measurements to `metrics.jsonl`, with the time in seconds since 1970."""
    record = {"time": round(time.time(), 3), "stage": stage, **values}
    with disk_errors("writing metrics", path), path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


def _log(text: str) -> None:
    logging.getLogger(__name__).info(text)


def _clock(seconds: float) -> str:
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"
