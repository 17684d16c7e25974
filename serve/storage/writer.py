"""One thread that writes to the database, several jobs in one transaction.

Jobs run in the order of arrival, so that each sees what earlier ones wrote.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from potstill.errors import BackendUnavailableError

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Further jobs are refused: a hanging database must not fill the memory."""
MAX_WAITING_BYTES = 64 << 20
"""Of the texts of jobs together."""
MAX_SHARE = 1 / 8
"""Of the bytes that are left, for one job."""
MAX_BATCH = 256
"""Jobs in one transaction; more would only delay the first of them."""

RETRY_SECONDS = 0.05
LATE_SECONDS = 1.0
"""How long jobs have waited for the database when it is late."""
WAIT_SECONDS = 60.0
"""How long jobs wait for another process's lock, or for PostgreSQL to start again, before they
fail."""
TRANSIENT_STATES = ("08", "57P")
"""How the SQLSTATEs begin of a lost connection, and of a server that stops or starts."""

Work = Callable[[Connection], Any]


@dataclass(frozen=True)
class _Job:
    work: Work
    done: Future[Any]
    is_kept: bool = False


class Writer:
    """Writes to the database in a thread of its own.

    Args:
        chore: Work to do at the start, and then every `chore_seconds`.
        after_chore: Called once it is committed, or has failed.
    """

    def __init__(
        self,
        engine: Engine,
        chore: Work,
        chore_seconds: float,
        after_chore: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._chore, self._chore_seconds = chore, chore_seconds
        self._after_chore = after_chore
        self._jobs: queue.Queue[_Job | None] = queue.Queue(MAX_WAITING)
        self._is_closed = False
        self.is_late = False
        """Whether the database keeps jobs waiting, or has done so until they failed."""
        self._kept: list[_Job] = []
        """Jobs that are repeated, in the order of arrival."""
        self._num_bytes = 0
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="storage", daemon=True)
        self._thread.start()

    def has_room(self, num_bytes: int) -> bool:
        """Return whether a job that holds so many bytes may wait beside the pending ones.

        It may take `MAX_SHARE` of the room that is left, so that large jobs leave room for small.
        """
        left = MAX_WAITING_BYTES - self._num_bytes
        return self._num_bytes == 0 or num_bytes <= MAX_SHARE * left

    def submit(self, work: Work, num_bytes: int = 0, *, is_kept: bool = False) -> Future[Any]:
        """Return a future of what `work` returns; it fails when the work cannot be committed.

        Args:
            num_bytes: What the work holds in memory; see `has_room`.
            is_kept: Whether it is repeated until it is committed, such as when a disk is full.
        """
        job = _Job(work, Future(), is_kept)
        # A running future cannot be cancelled: a caller that stops waiting does not undo the work.
        job.done.set_running_or_notify_cancel()
        self._count(num_bytes)
        job.done.add_done_callback(lambda _done: self._count(-num_bytes))
        try:
            if self._is_closed:
                raise queue.Full
            self._jobs.put_nowait(job)
        except queue.Full:
            job.done.set_exception(BackendUnavailableError("the storage is overloaded or closed"))
        return job.done

    def _count(self, num_bytes: int) -> None:
        with self._counting:
            self._num_bytes += num_bytes

    def close(self) -> None:
        """Finish pending jobs, and stop."""
        self._is_closed = True
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_last, due = False, 0.0
        while not is_last:
            batch: list[_Job] = []
            if time.monotonic() >= due:
                self._do([_Job(self._chore, Future())])
                self._after_chore()
                due = time.monotonic() + self._chore_seconds
            else:
                batch, is_last = self._next(due - time.monotonic())
            self._kept += [job for job in batch if job.is_kept]
            self._do([job for job in batch if not job.is_kept])
            self._do_kept()

    def _next(self, patience_seconds: float) -> tuple[list[_Job], bool]:
        """Wait for jobs; return them, and whether they are the last."""
        batch: list[_Job] = []
        try:
            while len(batch) < MAX_BATCH:
                wait = patience_seconds if not batch else 0
                job = self._jobs.get(block=not batch, timeout=wait or None)
                if job is None:
                    return batch, True
                batch.append(job)
        except queue.Empty:
            pass
        return batch, False

    def _do(self, batch: list[_Job]) -> None:
        """Commit all jobs together; if that fails, one by one, so that a bad job fails alone.

        While another process holds a lock, or PostgreSQL starts again, they wait together.
        """
        if not batch:
            return
        started = time.monotonic()
        error, waited = self._attempt(batch), 0.0
        while _is_transient(error) and waited < WAIT_SECONDS and not self._is_closed:
            self.is_late = self.is_late or waited > LATE_SECONDS
            time.sleep(RETRY_SECONDS)
            error, waited = self._attempt(batch), time.monotonic() - started
        self.is_late = _is_transient(error)
        if error is None:
            return
        if len(batch) > 1 and not _is_transient(error):
            for job in batch:
                self._do([job])
            return
        logger.error("the storage failed with %s", type(error).__name__)
        for job in batch:
            job.done.set_exception(error)

    def _do_kept(self) -> None:
        """Commit jobs that are repeated; those that the database cannot take now wait."""
        if not self._kept:
            return
        error = self._attempt(self._kept)
        if isinstance(error, OperationalError):
            logger.error("the storage failed with %s; it is tried again", type(error).__name__)
            return
        kept, self._kept = self._kept, []
        if error is not None:
            self._do(kept)

    def _attempt(self, batch: Sequence[_Job]) -> Exception | None:
        try:
            with self._engine.begin() as connection:
                results = [job.work(connection) for job in batch]
        except Exception as error:
            return error
        for job, result in zip(batch, results, strict=True):
            job.done.set_result(result)
        return None


def _is_transient(error: Exception | None) -> bool:
    """Return whether the same work may be committed a moment later."""
    if not isinstance(error, OperationalError):
        return False
    if "locked" in str(error.orig):
        return True
    # Errors of SQLite have no attribute `sqlstate`. Those of PostgreSQL's driver have None there if
    # the connection was lost before the server sent a code.
    sqlstate = getattr(error.orig, "sqlstate", "")
    return sqlstate is None or sqlstate.startswith(TRANSIENT_STATES)
